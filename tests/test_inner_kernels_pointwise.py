"""Compiled pooling, packing, sums, sub-sampling and dropout beside those of PyTorch."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
from blocks import (
    BF16,
    GROUPS,
    IF_BF16,
    IF_BF16_GROUPS,
    KINDS,
    Bench,
    drawn,
    error,
    held,
    needs_bf16,
    number,
    samples,
    tolerance,
    values,
)
from torch.nn import functional

from bptcnn.inner.kernels import pointwise, pool
from bptcnn.inner.kernels.shape import Plane, Vectors, Window
from bptcnn.models.resnet import PadShortcut

each_kind = pytest.mark.parametrize("vectors", [*KINDS[:3], GROUPS[0], IF_BF16, IF_BF16_GROUPS], ids=str)


def few(seed: int, *shape: int) -> torch.Tensor:
    """Small whole numbers, many of them equal."""
    return torch.randint(-3, 3, shape, generator=torch.Generator().manual_seed(seed)).float()


def of(seed: int, vectors: Vectors, plane: Plane) -> torch.Tensor:
    """A block of such samples."""
    return few(seed, vectors.width, plane.channels, plane.rows, plane.columns)


# ------------------------------------------------------------------------------------------------ pooling

POOLINGS = [
    (Plane(3, 4, 6), Window(2, 2, 2)),
    (Plane(2, 5, 7), Window(2, 2, 2)),  # a row and a column that no window covers
    (Plane(1, 8, 7), Window(3, 3, 3)),  # two rows, and one column
    (Plane(2, 6, 5), Window(3, 3, 3)),
    (Plane(2, 5, 6), Window(5, 5, 5)),
    (Plane(5, 3, 2), Window(1, 1, 1)),
    (Plane(2, 8, 8), Window(3, 3, 2, 1)),  # windows overlap, those at two sides see the padding
    (Plane(2, 7, 6), Window(3, 3, 2, 1)),
    (Plane(1, 5, 6), Window(3, 2, 1)),
    (Plane(2, 6, 7), Window(2, 2, 3)),  # windows leave something between them
    (Plane(1, 1, 2), Window(3, 3, 1, 1)),
    (Plane(1, 4, 5), Window(2, 2, 2, 1)),
]


def test_of_equal_numbers_the_first_gets_the_gradient() -> None:
    bench, data = Bench(KINDS[3]), Plane(1, 3, 4)
    name, _ = bench.emit(pool.max_pool_backward, data, Window(2, 2, 2), relu=False)
    images = torch.tensor([[1.0, 5.0, 7.0, 7.0], [5.0, 5.0, 7.0, 7.0], [9.0, 9.0, 9.0, 9.0]])
    source, gradient = (
        bench.blocked(images.expand(4, 1, 3, 4)),
        bench.blocked(torch.tensor([2.0, 3.0]).expand(4, 1, 1, 2)),
    )
    target = bench.block(*source.shape)
    bench.call(name, source, gradient, target)
    assert samples(target)[:, 0].tolist() == [[[0, 2, 3, 0], [0, 0, 0, 0], [0, 0, 0, 0]]] * 4


@each_kind
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize(("data", "window"), POOLINGS, ids=str)
def test_pooling_and_its_gradient_are_those_of_pytorch(
    data: Plane, window: Window, relu: bool, vectors: Vectors
) -> None:
    bench, out = Bench(vectors), window.outputs(data, data.channels)
    forward, _ = bench.emit(pool.max_pool, data, window, relu=relu)
    backward, _ = bench.emit(pool.max_pool_backward, data, window, relu=relu)
    images = of(1, vectors, data).requires_grad_()
    sides = (window.rows, window.columns)
    expected = functional.max_pool2d(images, sides, window.stride, window.padding)
    expected = expected.relu() if relu else expected
    # Whole numbers, so that it does not matter where windows overlap in which order they are added.
    gradient = 10 * few(2, *expected.shape)
    (wanted,) = torch.autograd.grad(expected, images, gradient)
    source, result, made = bench.blocked(images), bench.block(1, out.size, vectors.width), bench.blocked(gradient)
    bench.call(forward, source, result)
    assert torch.equal(samples(result).reshape(expected.shape), expected.detach().double())
    target = bench.block(*source.shape)
    bench.call(backward, source, made, target)
    assert torch.equal(samples(target), wanted.double())
    if pool.side_by_side(window):
        bench.call(backward, source, made, source)  # in place
        assert np.array_equal(source, target)


@each_kind
@pytest.mark.parametrize("data", [Plane(3, 8, 8), Plane(5, 1, 1), Plane(1, 7, 3)], ids=str)
def test_the_mean_of_maps_and_its_gradient_are_those_of_pytorch(data: Plane, vectors: Vectors) -> None:
    bench = Bench(vectors)
    forward, _ = bench.emit(pool.global_mean, data)
    plain, _ = bench.emit(pool.global_mean_backward, data, mask=False)
    masked, _ = bench.emit(pool.global_mean_backward, data, mask=True)
    images, masking = drawn(1, vectors.width, data.channels, data.rows, data.columns), of(3, vectors, data)
    exact = held(vectors, images).double().requires_grad_()
    expected = functional.adaptive_avg_pool2d(exact, 1)
    gradient = held(vectors, drawn(2, *expected.shape))
    (wanted,) = torch.autograd.grad(expected, exact, gradient.double())
    out, back, made, mask = (
        bench.block(1, data.channels, 1, 1, vectors.width),
        bench.block(1, *data_shape(data, vectors)),
        bench.blocked(gradient),
        bench.blocked(masking),
    )
    bench.call(forward, bench.blocked(images), out)
    assert error(samples(out), expected.detach()) <= tolerance(vectors)
    bench.call(plain, made, back, 0)
    assert error(samples(back), wanted) <= tolerance(vectors)
    bench.call(masked, made, back, mask)
    assert error(samples(back), wanted.where(masking > 0, 0.0)) <= tolerance(vectors)


def data_shape(data: Plane, vectors: Vectors) -> tuple[int, ...]:
    """Of one block."""
    return data.channels, data.rows, data.columns, vectors.width


# ------------------------------------------------------------------------------------------------ one number at a time


@each_kind
@pytest.mark.parametrize("data", [Plane(3, 5, 4), Plane(1, 4, 4), Plane(5, 3, 1), Plane(1)], ids=str)
def test_packing_puts_samples_side_by_side(data: Plane, vectors: Vectors) -> None:
    bench, shape = Bench(vectors), (data.channels, data.rows, data.columns)
    name, _ = bench.emit(pointwise.pack, data)
    images, out = drawn(1, 2 * vectors.width, *shape), bench.block(2, *shape, vectors.width)
    source = bench.copied(images)
    for block in range(2):
        bench.call(name, number(source.ctypes.data), block * vectors.width * data.size, out[block])
    assert np.array_equal(out, bench.blocked(images))


@each_kind
@pytest.mark.parametrize(("relu", "mask"), list(product((False, True), repeat=2)))
def test_a_sum_is_rectified_then_masked(relu: bool, mask: bool, vectors: Vectors) -> None:
    bench = Bench(vectors)
    name, _ = bench.emit(pointwise.add, 21, relu=relu, mask=mask)
    one, other, masking = (few(seed, 21, vectors.width) for seed in range(3))
    out = bench.block(21, vectors.width)
    bench.call(name, bench.packed(one), bench.packed(other), out, bench.packed(masking) if mask else 0)
    expected = (one + other).relu() if relu else one + other
    assert torch.equal(values(out), (expected.where(masking > 0, 0.0) if mask else expected).double())


@each_kind
def test_rectifying_is_relu_and_its_gradient(vectors: Vectors) -> None:
    bench = Bench(vectors)
    name, _ = bench.emit(pointwise.rectify, 21)
    data, gradient = few(1, 21, vectors.width).requires_grad_(), few(2, 21, vectors.width)
    source, out, back = bench.packed(data), bench.block(21, vectors.width), bench.block(21, vectors.width)
    bench.call(name, source, out, source)
    bench.call(name, bench.packed(gradient), back, out)
    (wanted,) = torch.autograd.grad(data.relu(), data, gradient)
    assert torch.equal(values(out), data.detach().relu().double())
    assert torch.equal(values(back), wanted.double())


@each_kind
@pytest.mark.parametrize(
    ("data", "new", "stride"),
    [(Plane(3, 6, 8), 3, 2), (Plane(2, 5, 7), 0, 2), (Plane(1, 7, 4), 4, 3), (Plane(2, 3, 3), 1, 1), (Plane(2), 2, 2)],
    ids=str,
)
def test_subsampling_and_its_gradient_are_those_of_the_module(
    data: Plane, new: int, stride: int, vectors: Vectors
) -> None:
    images = of(1, vectors, data).requires_grad_()
    expected = PadShortcut(data.channels, data.channels + new, stride)(images)
    out, bench = Plane(*expected.shape[1:]), Bench(vectors)
    forward, _ = bench.emit(pointwise.subsample, data, out, stride)
    backward, _ = bench.emit(pointwise.subsample_backward, data, out, stride)
    gradient = of(2, vectors, out)
    (wanted,) = torch.autograd.grad(expected, images, gradient)
    source, result = bench.blocked(images), bench.block(1, *data_shape(out, vectors))
    bench.call(forward, source, result)
    assert torch.equal(samples(result), expected.detach().double())
    bench.call(backward, bench.blocked(gradient), source)
    assert torch.equal(samples(source), wanted.double())


# ------------------------------------------------------------------------------------------------ dropout

SIZE = 2000


def dropped(
    vectors: Vectors, p: float, keys: list[int], numbers: torch.Tensor, masking: torch.Tensor | None = None
) -> torch.Tensor:
    """What dropout makes of [numbers, width], each sample with a key."""
    bench = Bench(vectors)
    name, _ = bench.emit(pointwise.dropout, len(numbers), p, mask=masking is not None)
    of_samples, out = bench.memory(vectors.width), bench.block(*numbers.shape)
    of_samples[:] = np.array(keys, np.int32).view(np.float32)
    bench.call(name, bench.packed(numbers), out, of_samples, 0 if masking is None else bench.packed(masking))
    return values(out)


def kept(vectors: Vectors, p: float, keys: list[int]) -> torch.Tensor:
    """Which numbers survive, bool [numbers, width]."""
    return dropped(vectors, p, keys, torch.ones(SIZE, vectors.width)) != 0


@each_kind
@pytest.mark.parametrize("p", [0.0, 0.1, 0.5, 0.9])
def test_dropout_keeps_its_share_of_numbers_and_scales_them(p: float, vectors: Vectors) -> None:
    numbers = held(vectors, drawn(1, SIZE, vectors.width))
    out = dropped(vectors, p, list(range(vectors.width)), numbers)
    survives = out != 0
    five_deviations = 5 * (p * (1 - p) / survives.numel()) ** 0.5
    assert abs(survives.double().mean() - (1 - p)) <= five_deviations
    scaled = survives * numbers.double() / (1 - p)
    assert error(out, scaled) <= tolerance(vectors)


@each_kind
def test_dropout_drops_the_same_numbers_backward_where_nothing_masks(vectors: Vectors) -> None:
    keys, masking = list(range(100, 100 + vectors.width)), few(3, SIZE, vectors.width)
    forward = dropped(vectors, 0.3, keys, drawn(1, SIZE, vectors.width)) != 0
    backward = dropped(vectors, 0.3, keys, drawn(2, SIZE, vectors.width), masking) != 0
    assert torch.equal(backward, forward & (masking > 0))


KEYS = [7, -1, 2**31 - 1, -(2**31), *range(12)]


def test_what_dropout_drops_depends_on_the_key_alone() -> None:
    wide, narrow = kept(KINDS[0], 0.5, KEYS), kept(KINDS[2], 0.5, KEYS[3::-1])
    assert torch.equal(narrow, wide[:, :4].flip(1))


@needs_bf16
def test_dropout_of_bfloat16_drops_the_same_numbers_of_the_same_samples() -> None:
    both = kept(BF16, 0.5, [*KEYS, *range(100, 116)])
    assert torch.equal(both, torch.cat([kept(KINDS[0], 0.5, KEYS), kept(KINDS[0], 0.5, list(range(100, 116)))], 1))


def test_neither_neighbouring_keys_nor_neighbouring_numbers_agree_more_than_by_chance() -> None:
    survives = kept(KINDS[0], 0.5, list(range(16)))
    for one, other in ((survives[:, 1:], survives[:, :-1]), (survives[1:], survives[:-1])):
        assert abs((one == other).double().mean() - 0.5) <= 5 * 0.5 / one.numel() ** 0.5
