"""Compiled batch normalisation beside that of PyTorch in double precision."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import pytest
import torch
from blocks import (
    GROUPS,
    HERE,
    IF_BF16,
    IF_BF16_GROUPS,
    KINDS,
    Bench,
    Memory,
    drawn,
    error,
    held,
    number,
    samples,
    tolerance,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from bptcnn.inner.kernels import frozen, norm
from bptcnn.inner.kernels.shape import Plane, Vectors

SPARE = 1
"""Blocks for which there is memory but no samples."""


@dataclass(frozen=True)
class Results:
    """What a layer makes of samples, by PyTorch or by kernels; those that only fill a block are left out."""

    out: torch.Tensor
    running_mean: torch.Tensor
    running_var: torch.Tensor
    of_data: torch.Tensor
    of_scale: torch.Tensor
    of_shift: torch.Tensor


class Layer:
    """Batch normalisation of some samples.

    Args:
        vectors: the vectors.
        data: a sample.
        num_samples: not only whole blocks.
        mean: around which the numbers lie.
        add: whether there is a shortcut.
        relu: whether ReLU follows.
        eps: of the layer.
        momentum: of the layer.
    """

    def __init__(
        self,
        vectors: Vectors,
        data: Plane,
        num_samples: int,
        *,
        mean: float = 0.5,
        add: bool = False,
        relu: bool = False,
        eps: float = 1e-5,
        momentum: float = 0.1,
    ) -> None:
        shape = num_samples, data.channels, data.rows, data.columns
        self.vectors, self.plane, self.add, self.relu, self.eps, self.momentum = vectors, data, add, relu, eps, momentum
        numbers = mean + drawn(1, *shape) * (1 + torch.arange(data.channels)[:, None, None])
        self.data, self.gradient, self.added = (
            held(vectors, each) for each in (numbers, drawn(2, *shape), drawn(3, *shape))
        )
        self.scale, self.shift, self.mean = (drawn(seed, data.channels) for seed in (4, 5, 6))
        self.var = drawn(7, data.channels).square()

    def by_pytorch(self) -> Results:
        inputs = [each.double().requires_grad_() for each in (self.data, self.scale, self.shift)]
        mean, var = self.mean.double(), self.var.double()
        out = functional.batch_norm(
            inputs[0], mean, var, inputs[1], inputs[2], training=True, momentum=self.momentum, eps=self.eps
        )
        gradients = torch.autograd.grad(out, inputs, self.gradient.double(), retain_graph=True)
        result = out.detach() + self.added.double() if self.add else out.detach()
        return Results(result.relu() if self.relu else result, mean, var, *gradients)

    def terms(self) -> dict[str, torch.Tensor]:
        """What the gradients of scale and shift are the sums of."""
        data, gradient = self.data.double(), self.gradient.double()
        normal = functional.batch_norm(data, None, None, training=True, eps=self.eps)
        return {"of_scale": gradient * normal, "of_shift": gradient}

    def by_kernels(self, *, in_place: bool = False) -> Results:
        bench, plane, count = Bench(self.vectors), self.plane, len(self.data)
        width, channels = self.vectors.width, plane.channels
        statistics, _ = bench.emit(norm.statistics, plane)
        combine, _ = bench.emit(norm.combine, channels, eps=self.eps, momentum=self.momentum)
        normalize, _ = bench.emit(norm.normalize, plane, add=self.add, relu=self.relu)
        backward_sums, _ = bench.emit(norm.backward_sums, plane)
        backward_combine, _ = bench.emit(norm.backward_combine, channels)
        backward_data, _ = bench.emit(norm.backward_data, plane)

        def filled(values: torch.Tensor, filling: float) -> Memory:
            rest = torch.full((-len(values) % width, *values.shape[1:]), filling)
            return bench.blocked(torch.cat([values, rest]))

        # What only fills a block may be any number; its gradient is zero.
        data, added, gradient = filled(self.data, 1e3), filled(self.added, 1e3), filled(self.gradient, 0.0)
        blocks = len(data)
        present = bench.copied((torch.arange(blocks * width) < count).float()).reshape(blocks, width)
        counts, sums = bench.memory(blocks + SPARE), bench.memory(blocks + SPARE, channels, 2)
        counts[:blocks] = present.sum(axis=1) * plane.area
        scale, shift, mean, var = (bench.copied(each) for each in (self.scale, self.shift, self.mean, self.var))
        table, out = bench.memory(channels, norm.TABLE), bench.block(*data.shape)
        for b in range(blocks):
            bench.call(statistics, data[b], present[b], sums[b], counts[b:])
        bench.call(combine, sums, counts, scale, shift, mean, var, table, number(blocks))
        for b in range(blocks):
            bench.call(normalize, data[b], table, out[b], added[b] if self.add else 0)

        of_scale, of_shift, coefficients = bench.memory(channels), bench.memory(channels), bench.memory(channels, 3)
        for b in range(blocks):
            bench.call(backward_sums, gradient[b], data[b], table, sums[b])
        bench.call(backward_combine, sums, counts, table, of_scale, of_shift, coefficients, number(blocks))
        of_data = data if in_place else bench.block(*data.shape)
        for b in range(blocks):
            bench.call(backward_data, gradient[b], data[b], coefficients, present[b], of_data[b])
        assert not samples(of_data)[count:].any()
        mean_, var_, of_scale_, of_shift_ = (torch.from_numpy(each) for each in (mean, var, of_scale, of_shift))
        return Results(samples(out)[:count], mean_, var_, samples(of_data)[:count], of_scale_, of_shift_)


def check(layer: Layer, *, sums: float = 1e-6, in_place: bool = False) -> None:
    found, expected = layer.by_kernels(in_place=in_place), layer.by_pytorch()
    terms = layer.terms()
    errors = {n: error(getattr(found, n), getattr(expected, n), terms.get(n)) for n in Results.__annotations__}
    limits = dict.fromkeys(errors, sums) | dict.fromkeys(("out", "of_data"), tolerance(layer.vectors, sums))
    assert {name: off for name, off in errors.items() if not off <= limits[name]} == {}


def test_a_norm_worked_out_by_hand() -> None:
    layer = Layer(KINDS[3], Plane(1), 4, eps=0.0)
    layer.data = torch.tensor([0.0, 0.0, 4.0, 4.0]).reshape(4, 1, 1, 1)
    layer.scale, layer.shift, layer.mean, layer.var = (torch.tensor([value]) for value in (3.0, 1.0, 0.0, 0.0))
    found = layer.by_kernels()
    assert found.out.flatten().tolist() == [-2, -2, 4, 4]
    assert found.running_mean.tolist() == pytest.approx([0.2])
    assert found.running_var.tolist() == pytest.approx([0.1 * 16 / 3])  # one less than four


def test_a_norm_that_keeps_its_statistics_worked_out_by_hand() -> None:
    bench = Bench(KINDS[3])
    tables, _ = bench.emit(frozen.tables, 2, eps=1.0)
    gamma, beta, mean, variance = ((3.0, 0.5), (1.0, 0.0), (2.0, -4.0), (8.0, 0.0))
    given = [bench.copied(torch.tensor(each)) for each in (gamma, beta, mean, variance)]
    forward, backward = bench.memory(2, norm.TABLE), bench.memory(2, norm.TABLE)
    bench.call(tables, *given, forward, backward)
    # Deviations sqrt(8 + 1) = 3 and 1: scales 3 / 3 and 0.5 / 1, shifts 1 - 2 * 1 and 0 + 4 * 0.5.
    assert forward.tolist() == [[2.0, pytest.approx(1 / 3), 1.0, -1.0], [-4.0, 1.0, 0.5, 2.0]]
    assert backward.tolist() == [[0.0, 0.0, 1.0, 0.0], [0.0, 0.0, 0.5, 0.0]]


@pytest.mark.parametrize("vectors", [*KINDS[:3], GROUPS[0], IF_BF16, IF_BF16_GROUPS], ids=str)
@pytest.mark.parametrize(("blocks", "more"), [(1, 0), (2, 3), (0, 2), (3, 0)])
def test_a_norm_and_its_gradient_are_those_of_pytorch(blocks: int, more: int, vectors: Vectors) -> None:
    check(Layer(vectors, Plane(5, 4, 3), blocks * vectors.width + more))


each_width = pytest.mark.parametrize("vectors", [KINDS[0], GROUPS[0], IF_BF16, IF_BF16_GROUPS], ids=str)


@each_width
@pytest.mark.parametrize(("add", "relu"), list(product((False, True), repeat=2)))
def test_a_shortcut_is_added_before_relu(add: bool, relu: bool, vectors: Vectors) -> None:
    check(Layer(vectors, Plane(3, 5, 5), 20, add=add, relu=relu))


@each_width
def test_the_gradient_may_lie_where_the_data_did(vectors: Vectors) -> None:
    check(Layer(vectors, Plane(3, 5, 5), 20), in_place=True)


@pytest.mark.parametrize(("eps", "momentum"), [(1e-3, 0.3), (0.5, 1.0), (1e-5, 0.0)])
def test_a_norms_settings_are_kept(eps: float, momentum: float) -> None:
    check(Layer(KINDS[1], Plane(2, 3, 3), 11, eps=eps, momentum=momentum))


def test_a_mean_far_from_zero_does_not_swallow_the_variance() -> None:
    layer = Layer(KINDS[0], Plane(4, 8, 8), 40, mean=1e3)
    found, expected = layer.by_kernels(), layer.by_pytorch()
    assert error(found.running_var, expected.running_var) <= 1e-6
    assert error(found.running_mean, expected.running_mean) <= 1e-6
    # The shift is as large as the mean: an output is as exact as the numbers it is made of.
    assert error(found.out, expected.out) <= 1e-3


def test_channels_that_do_not_vary_are_normalised_to_the_shift() -> None:
    layer = Layer(KINDS[1], Plane(2, 3, 3), 8)
    layer.data = torch.full_like(layer.data, 3.0)
    # Data times scale and the shift that undoes it are some hundred times as large as the result.
    assert error(layer.by_kernels().out, layer.by_pytorch().out) <= 1e-4


@settings(max_examples=10)
@given(
    st.builds(Plane, st.integers(1, 9), st.integers(1, 5), st.integers(1, 5)),
    st.integers(4, 40),
    st.sampled_from(HERE),
    st.booleans(),
)
def test_a_norm_of_any_shape_is_that_of_pytorch(data: Plane, num_samples: int, vectors: Vectors, relu: bool) -> None:
    check(Layer(vectors, data, num_samples, relu=relu), sums=1e-5)
