"""Compiled convolutions and their gradients beside those of PyTorch in double precision."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise, product

import numpy as np
import pytest
import torch
from blocks import (
    BF16,
    BF16_GROUPS,
    GROUPS,
    HERE,
    IF_BF16,
    IF_BF16_GROUPS,
    IF_MATRICES,
    IF_NARROW,
    KINDS,
    MATRICES,
    NARROW,
    Bench,
    Memory,
    at_points,
    drawn,
    error,
    held,
    matrices,
    needs_bf16,
    needs_matrices,
    number,
    samples,
    tolerance,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from bptcnn.inner.kernels import conv, weights
from bptcnn.inner.kernels.matrices.tiling import tile_of, unfolded
from bptcnn.inner.kernels.shape import Plane, Vectors, Window, backward_taps, forward_taps
from bptcnn.inner.kernels.sums import Epilogue
from bptcnn.inner.kernels.tiling import grouped, is_turned
from bptcnn.inner.kernels.winograd.tiling import gradient_shape_of, shape_of, turned
from bptcnn.inner.lowering.buffers import Array

WIDE = KINDS[0]
PLAIN = Epilogue()
TOLERANCE = 1e-6

each_width = pytest.mark.parametrize(
    "vectors", [WIDE, GROUPS[0], IF_BF16, IF_BF16_GROUPS, IF_MATRICES, IF_NARROW], ids=str
)


@dataclass(frozen=True)
class Case:
    """A convolution.

    Attributes:
        window: what it sees.
        data: of what.
        filters: how many.
    """

    window: Window
    data: Plane
    filters: int

    @property
    def out(self) -> Plane:
        return self.window.outputs(self.data, self.filters)

    def __str__(self) -> str:
        window, data = self.window, self.data
        form = f"{window.rows}x{window.columns}s{window.stride}p{window.padding}"
        return f"{form}-{data.channels}x{data.rows}x{data.columns}-{self.filters}"


CASES = [
    Case(Window(5, 5, padding=2), Plane(3, 9, 8), 6),
    Case(Window(5, 5), Plane(6, 8, 9), 7),
    Case(Window(3, 3, padding=1), Plane(5, 7, 6), 8),
    Case(Window(3, 3, padding=1), Plane(1, 12, 13), 1),  # areas enough for a sum of each block on its own
    Case(Window(3, 3, padding=1), Plane(2, 4, 4), 3),  # just enough
    Case(Window(3, 3, padding=1), Plane(13, 1, 15), 2),  # just not
    Case(Window(3, 3, stride=2, padding=1), Plane(4, 9, 8), 6),
    Case(Window(3, 3, stride=3), Plane(2, 11, 10), 5),  # leaves a rest
    Case(Window(1, 1, stride=2), Plane(3, 7, 6), 5),
    Case(Window(7, 7, stride=2, padding=3), Plane(3, 11, 12), 4),
    Case(Window(1, 1), Plane(37), 11),  # a dense layer
    Case(Window(1, 1), Plane(6, 3, 5), 12),
    Case(Window(3, 3, padding=1), Plane(3, 1, 1), 5),
    Case(Window(3, 3, padding=2), Plane(2, 1, 2), 3),
    Case(Window(5, 5, padding=4), Plane(2, 2, 3), 3),
    Case(Window(4, 3, padding=1), Plane(7, 5, 6), 3),
    Case(Window(1, 5), Plane(2, 6, 7), 3),
    Case(Window(2, 2, stride=3), Plane(2, 3, 6), 5),  # steps over some
    Case(Window(3, 3, padding=1), Plane(2, 41, 24), 5),  # bands of rows
    Case(Window(5, 5, stride=2, padding=2), Plane(1, 61, 30), 4),  # bands that a stride leaves
]

FULL_CASES = [  # channels that fill matrices
    Case(Window(3, 3, padding=1), Plane(16, 5, 6), 16),
    Case(Window(3, 3, padding=1), Plane(48, 4, 3), 32),
    Case(Window(3, 3, stride=2, padding=1), Plane(32, 9, 8), 48),
    Case(Window(5, 5), Plane(64, 7, 6), 16),
    Case(Window(1, 1, stride=2), Plane(16, 5, 6), 64),  # phases without taps
    Case(Window(1, 1), Plane(64), 32),  # a dense layer
    Case(Window(3, 3, stride=3), Plane(16, 11, 10), 32),
    Case(Window(3, 3, padding=1), Plane(32, 70, 3), 32),  # more rows than are brought together at once
    Case(Window(4, 3, padding=2), Plane(16, 3, 2), 16),
    Case(Window(3, 3, padding=1), Plane(256, 8, 9), 16),
]

UNFOLDED_CASES = [  # few input channels
    Case(Window(5, 5), Plane(3, 9, 8), 64),
    Case(Window(3, 3, padding=1), Plane(3, 7, 6), 16),
    Case(Window(7, 7, stride=2, padding=3), Plane(3, 12, 11), 32),
    Case(Window(5, 5, padding=2), Plane(1, 40, 70), 16),  # more rows than are brought together at once
    Case(Window(2, 2, stride=2), Plane(5, 6, 6), 48),
]


FILTERED_CASES = [  # by minimal filtering
    Case(Window(3, 3, padding=1), Plane(32, 12, 12), 32),
    Case(Window(3, 3), Plane(24, 11, 10), 40),  # what is left of tiles, in rows
    Case(Window(3, 3, padding=2), Plane(40, 12, 13), 48),  # and in columns
    Case(Window(3, 3, padding=1), Plane(96, 20, 21), 32),  # more tiles than are multiplied at once
    Case(Window(5, 5), Plane(16, 12, 13), 34),
    Case(Window(5, 5, padding=2), Plane(34, 13, 13), 32),
    Case(Window(5, 5, padding=4), Plane(32, 16, 14), 32),
]

SEVERAL_CASES = [  # of neighbouring tiles in a register
    Case(Window(3, 3, padding=1), Plane(48, 12, 16), 64),
    Case(Window(3, 3), Plane(48, 11, 18), 64),
    Case(Window(3, 3, padding=2), Plane(64, 12, 29), 48),
    Case(Window(3, 3, padding=1), Plane(96, 20, 31), 32),
    Case(Window(5, 5), Plane(32, 12, 20), 34),
    Case(Window(5, 5, padding=2), Plane(34, 13, 15), 32),
    Case(Window(5, 5, padding=3), Plane(34, 12, 14), 32),
]

NARROW_CASES = [  # columns that fill matrices, and that do not
    Case(Window(3, 3, padding=1), Plane(32, 6, 14), 64),
    Case(Window(3, 3, padding=1), Plane(16, 5, 7), 48),
    Case(Window(3, 3, stride=2, padding=1), Plane(64, 13, 28), 32),
    Case(Window(1, 1, stride=2), Plane(32, 10, 18), 160),
    Case(Window(3, 5, stride=3, padding=2), Plane(16, 8, 23), 16),
    Case(Window(3, 3, padding=1), Plane(64, 56, 56), 16),  # more rows than are brought together at once
]


class Convolution:
    """A convolution of two blocks, its kernels still to be emitted, and what PyTorch says of it.

    Args:
        case: the convolution.
        vectors: the vectors.
    """

    blocks = 2

    def __init__(self, case: Case, vectors: Vectors = WIDE) -> None:
        self.case, self.vectors, self.bench = case, vectors, Bench(vectors)
        total, data, out = self.blocks * vectors.width, case.data, case.out
        seen, made = (total, data.channels, data.rows, data.columns), (total, out.channels, out.rows, out.columns)
        filters = case.filters, data.channels, case.window.rows, case.window.columns
        self.data, self.weight, self.gradient, *others = (
            held(vectors, drawn(seed, *shape))
            for seed, shape in ((1, seen), (2, filters), (4, made), (5, made), (6, made), (7, seen), (8, seen))
        )
        self.bias = drawn(3, case.filters)
        # What is added and what masks: for the outputs, and for the gradient of the data.
        self.added, self.masking, self.more, self.passing = others
        self.inputs = [tensor.double().requires_grad_() for tensor in (self.data, self.weight, self.bias)]
        self.made = functional.conv2d(
            self.inputs[0], self.inputs[1], self.inputs[2], case.window.stride, case.window.padding
        )
        self.expected = self.made.detach()
        self.gradients = torch.autograd.grad(self.made, self.inputs, self.gradient.double(), retain_graph=True)

    def terms(self) -> list[torch.Tensor]:
        """What the outputs and the gradients of data, weights and bias would be if nothing cancelled out."""
        inputs = [tensor.detach().abs().requires_grad_() for tensor in self.inputs]
        made = functional.conv2d(*inputs, self.case.window.stride, self.case.window.padding)
        return [made.detach(), *torch.autograd.grad(made, inputs, self.gradient.double().abs())]

    def forward(self, *, bias: bool, then: Epilogue, ranges: Sequence[tuple[int, int]] = ()) -> torch.Tensor:
        """Samples that the kernel makes of all blocks, in calls for some ranges of tiles or in one."""
        case, bench = self.case, self.bench
        name, tiles = bench.emit(conv.forward, case.window, case.data, case.out, bias=bias, then=then)
        sources = self.data, self.added, self.masking
        filters = self._filters(1, case.data, case.out)
        return self._sum(name, ranges or [(0, tiles)], *sources, filters, self.bias if bias else None, then)

    def _filters(self, channels: int, data: Plane, out: Plane) -> Memory:
        window, vectors, weight = self.case.window, self.vectors, self.weight
        of = forward_taps if channels else backward_taps
        down, across = (of(size, window.stride, window.padding) for size in (window.rows, window.columns))
        if channels and unfolded(vectors, window, data, out):
            return self.bench.packed(matrices(weight.flatten(1)[..., None], 1, 32))
        if channels and (shape := shape_of(vectors, window, data, out)):
            return self.bench.copied(at_points(weight, shape))
        if not channels and (shape := gradient_shape_of(vectors, window, out, data)):
            filters = weight.flip(2, 3) if turned(window, out, data) else weight
            return self.bench.copied(at_points(filters.transpose(0, 1), shape))
        if tile := tile_of(vectors, down, across, data, out):
            return self.bench.packed(matrices(weight.flatten(2), channels, tile.depth))
        if vectors.bf16 or grouped(vectors, across, out):
            return self.bench.filters(weight, channels)
        if not channels and is_turned(vectors, *weight.shape[:2], window.rows * window.columns):
            return self.bench.copied(weight.transpose(0, 1).contiguous())
        return self.bench.copied(weight)

    def backward_data(self, then: Epilogue, ranges: Sequence[tuple[int, int]] = ()) -> torch.Tensor:
        """As :meth:`forward`; the gradient of the data."""
        case, bench = self.case, self.bench
        name, tiles = bench.emit(conv.backward_data, case.window, case.out, case.data, then)
        sources = self.gradient, self.more, self.passing
        return self._sum(name, ranges or [(0, tiles)], *sources, self._filters(0, case.out, case.data), None, then)

    def _sum(
        self,
        name: str,
        ranges: Sequence[tuple[int, int]],
        source: torch.Tensor,
        added: torch.Tensor,
        masking: torch.Tensor,
        weight: Memory,
        bias: torch.Tensor | None,
        then: Epilogue,
    ) -> torch.Tensor:
        bench = self.bench
        data, more, mask = (bench.blocked(each) for each in (source, added, masking))
        out, shift = bench.block(*more.shape), 0 if bias is None else bench.copied(bias)
        for block, (first, last) in product(range(self.blocks), ranges):
            used = more[block] if then.add else 0, mask[block] if then.mask else 0
            bench.call(name, data[block], weight, out[block], shift, *used, first, last)
        return samples(out)

    def backward_weight(self, *, bias: bool, ranges: Sequence[tuple[int, int]] = ()) -> tuple[Array, Array]:
        """Gradients of weights and bias; memory for one block more lies behind the data."""
        case, bench = self.case, self.bench
        name, tiles = bench.emit(weights.backward_weight, case.window, case.data, case.out, bias=bias)
        data, gradient = (self._with_spare_block(each) for each in (self.data, self.gradient))
        result, shift = bench.memory(*self.weight.shape), bench.memory(case.filters)
        for first, last in ranges or [(0, tiles)]:
            used = shift if bias else 0
            bench.call(name, data, gradient, result, first, last, number(self.blocks), used)
        return result, shift

    def _with_spare_block(self, tensor: torch.Tensor) -> Memory:
        blocks = self.bench.blocked(tensor)
        whole = self.bench.block(len(blocks) + 1, *blocks.shape[1:])
        whole[:-1] = blocks
        return whole


def tiles_of(convolution: Convolution) -> tuple[int, int, int]:
    """Into how many tiles forward, backward-data and backward-weight fall."""
    case, bench = convolution.case, convolution.bench
    shapes = case.window, case.data, case.out
    _, forward = bench.emit(conv.forward, *shapes, bias=True, then=PLAIN)
    _, backward = bench.emit(conv.backward_data, case.window, case.out, case.data, PLAIN)
    _, weight = bench.emit(weights.backward_weight, *shapes, bias=True)
    return forward, backward, weight


# ------------------------------------------------------------------------------------------------ values


def test_a_convolution_worked_out_by_hand() -> None:
    window, data = Window(2, 2, padding=1), Plane(1, 2, 2)
    bench = Bench(KINDS[3])
    name, tiles = bench.emit(conv.forward, window, data, window.outputs(data, 1), bias=True, then=PLAIN)
    image = bench.blocked(torch.tensor([[1.0, 2.0], [3.0, 4.0]]).expand(4, 1, 2, 2))
    filters, bias = bench.copied(torch.tensor([[[[1.0, 10.0], [100.0, 1000.0]]]])), bench.copied(torch.tensor([0.5]))
    out = bench.memory(1, 1, 3, 3, 4)
    bench.call(name, image[0], filters, out[0], bias, 0, 0, 0, tiles)
    by_hand = [[1000.5, 2100.5, 200.5], [3010.5, 4321.5, 402.5], [30.5, 43.5, 4.5]]
    assert samples(out)[:, 0].tolist() == [by_hand] * 4


@pytest.mark.parametrize(
    ("vectors", "case"),
    [
        *product(KINDS[:1], CASES),
        *product(KINDS[:1], FILTERED_CASES),
        *product(KINDS[1:], FILTERED_CASES[3:5]),
        *product(GROUPS, SEVERAL_CASES),
        *product(KINDS[1:3], [CASES[place] for place in (0, 3, 6, 8, 9, 10, 12)]),
        *product(GROUPS[:1], [*CASES[:3], *CASES[6:13]]),
        *product(GROUPS[1:], [CASES[place] for place in (1, 2, 6, 11)]),
        *(pytest.param(BF16, CASES[place], marks=needs_bf16) for place in (0, 3, 6, 8, 10, 11, 12, 15)),
        *(pytest.param(BF16_GROUPS[0], CASES[place], marks=needs_bf16) for place in (2, 4, 6, 10)),
        *(pytest.param(kind, CASES[place], marks=needs_bf16) for kind in BF16_GROUPS[1:] for place in (6, 11)),
        *(pytest.param(MATRICES, case, marks=needs_matrices) for case in (*FULL_CASES, *UNFOLDED_CASES, CASES[6])),
        *(pytest.param(NARROW[0], case, marks=needs_matrices) for case in (*FULL_CASES, *NARROW_CASES)),
        *(pytest.param(NARROW[0], case, marks=needs_matrices) for case in (*UNFOLDED_CASES, CASES[6])),
        *(pytest.param(kind, FULL_CASES[place], marks=needs_matrices) for kind in NARROW[1:] for place in (0, 2, 8)),
    ],
    ids=str,
)
def test_a_convolution_and_its_gradients_are_those_of_pytorch(vectors: Vectors, case: Case) -> None:
    convolution = Convolution(case, vectors)
    tiles_of(convolution)  # all are compiled together
    of_data, of_weight, of_bias = convolution.gradients
    assert error(convolution.forward(bias=True, then=PLAIN), convolution.expected) <= tolerance(vectors)
    assert error(convolution.backward_data(PLAIN), of_data) <= tolerance(vectors)
    weight, bias = convolution.backward_weight(bias=True)
    assert error(weight, of_weight) <= TOLERANCE
    assert error(bias, of_bias) <= TOLERANCE


@pytest.mark.parametrize(
    ("vectors", "case"), [*product([WIDE], FILTERED_CASES), *product(GROUPS, SEVERAL_CASES)], ids=str
)
def test_the_cases_for_minimal_filtering_are_made_by_it(vectors: Vectors, case: Case) -> None:
    assert all(of(vectors, case.window, case.data, case.out) for of in (shape_of, gradient_shape_of))


def test_the_cases_for_minimal_filtering_make_gradients_both_ways() -> None:
    assert {turned(case.window, case.data, case.out) is None for case in FILTERED_CASES} == {True, False}


@each_width
@pytest.mark.parametrize("columns", [6, 7])  # of few samples: channels share a register, or columns
def test_a_convolution_of_many_channels_keeps_its_precision(columns: int, vectors: Vectors) -> None:
    ins, outs = (128, 16) if vectors.matrices else (131, 17)
    convolution = Convolution(Case(Window(3, 3, padding=1), Plane(ins, 6, columns), outs), vectors)
    tiles_of(convolution)
    assert error(convolution.forward(bias=True, then=PLAIN), convolution.expected) <= tolerance(vectors, 1e-5)
    assert error(convolution.backward_data(PLAIN), convolution.gradients[0]) <= tolerance(vectors, 1e-5)
    assert error(convolution.backward_weight(bias=True)[0], convolution.gradients[1]) <= 1e-5


@each_width
@pytest.mark.parametrize("case", [CASES[3], CASES[10], FULL_CASES[0]], ids=str)
def test_without_a_bias_none_is_read_or_written(case: Case, vectors: Vectors) -> None:
    convolution = Convolution(case, vectors)
    shift = convolution.bias.double()[:, None, None]
    assert error(convolution.forward(bias=False, then=PLAIN), convolution.expected - shift) <= tolerance(vectors)
    weight, bias = convolution.backward_weight(bias=False)
    assert error(weight, convolution.gradients[1]) <= TOLERANCE
    assert np.isnan(bias).all()


def finished(total: torch.Tensor, then: Epilogue, added: torch.Tensor, masking: torch.Tensor) -> torch.Tensor:
    """What an epilogue makes of sums."""
    total = total + added.double() if then.add else total
    total = total.relu() if then.relu else total
    return total.where(masking > 0, 0.0) if then.mask else total


EPILOGUES = [Epilogue(add=add, relu=relu, mask=mask) for add, relu, mask in product((False, True), repeat=3)]


@pytest.mark.parametrize(
    ("vectors", "case"),
    [
        (KINDS[0], CASES[2]),
        (KINDS[3], CASES[2]),
        (GROUPS[0], CASES[2]),  # channels share a register
        (GROUPS[1], CASES[6]),  # columns do, every other one
        pytest.param(BF16, CASES[8], marks=needs_bf16),
        pytest.param(BF16_GROUPS[0], CASES[2], marks=needs_bf16),
        *(pytest.param(MATRICES, case, marks=needs_matrices) for case in (FULL_CASES[0], UNFOLDED_CASES[1])),
        *(pytest.param(NARROW[0], case, marks=needs_matrices) for case in (NARROW_CASES[1], UNFOLDED_CASES[1])),
    ],
    ids=str,
)
@pytest.mark.parametrize("then", EPILOGUES, ids=str)
def test_sums_are_finished_before_they_are_stored(then: Epilogue, vectors: Vectors, case: Case) -> None:
    convolution = Convolution(case, vectors)
    expected = finished(convolution.expected, then, convolution.added, convolution.masking)
    assert error(convolution.forward(bias=True, then=then), expected) <= tolerance(vectors)


@pytest.mark.parametrize(
    ("vectors", "case"),
    [
        *product([WIDE], [CASES[2], CASES[6], CASES[7], CASES[8]]),  # the last two see not all data
        *product(GROUPS[:2], [CASES[2], CASES[6]]),
        *(pytest.param(BF16, case, marks=needs_bf16) for case in (CASES[8], CASES[12])),
        *(pytest.param(MATRICES, case, marks=needs_matrices) for case in (FULL_CASES[2], FULL_CASES[4])),
        *(pytest.param(NARROW[0], case, marks=needs_matrices) for case in (NARROW_CASES[1], FULL_CASES[2])),
    ],
    ids=str,
)
@pytest.mark.parametrize("then", [Epilogue(add=True), Epilogue(mask=True), Epilogue(add=True, mask=True)], ids=str)
def test_gradients_of_data_are_finished_before_they_are_stored(then: Epilogue, vectors: Vectors, case: Case) -> None:
    convolution = Convolution(case, vectors)
    expected = finished(convolution.gradients[0], then, convolution.more, convolution.passing)
    assert error(convolution.backward_data(then), expected) <= tolerance(vectors)


def test_what_masks_lets_pass_only_what_is_positive() -> None:
    convolution = Convolution(CASES[2])
    convolution.masking.fill_(0.0)
    assert not convolution.forward(bias=True, then=Epilogue(mask=True)).any()


# ------------------------------------------------------------------------------------------------ division of work


@st.composite
def divisions(draw: st.DrawFn) -> tuple[Convolution, list[list[tuple[int, int]]]]:
    """A convolution of many parts, and for each kernel ranges that cover them, in any order."""
    cases = [
        Case(Window(3, 3, padding=1), Plane(19, 5, 6), 23),
        Case(Window(3, 3), Plane(23, 14, 14), 38),
        Case(Window(3, 3), Plane(96, 6, 5), 96),
        Case(Window(3, 3, stride=2, padding=1), Plane(5, 34, 9), 19),  # rows
    ]
    convolution = Convolution(draw(st.sampled_from(cases)), draw(st.sampled_from(HERE)))
    ranges = []
    for tiles in tiles_of(convolution):
        assert tiles > 1
        cuts = draw(st.sets(st.integers(1, tiles - 1)))
        ranges.append(draw(st.permutations(list(pairwise([0, *sorted(cuts), tiles])))))
    return convolution, ranges


@settings(max_examples=8)
@given(divisions())
def test_however_work_is_divided_the_bits_are_the_same(
    division: tuple[Convolution, list[list[tuple[int, int]]]],
) -> None:
    convolution, (forward, backward, weight) = division
    whole = convolution.forward(bias=True, then=PLAIN)
    assert torch.equal(convolution.forward(bias=True, then=PLAIN, ranges=forward), whole)
    whole = convolution.backward_data(PLAIN)
    assert torch.equal(convolution.backward_data(PLAIN, backward), whole)
    for one, other in zip(
        convolution.backward_weight(bias=True), convolution.backward_weight(bias=True, ranges=weight), strict=True
    ):
        assert np.array_equal(one, other)


def test_outputs_made_twice_are_finished_from_the_same_numbers() -> None:
    convolution = Convolution(Case(Window(3, 3, padding=1), Plane(3, 5, 7), 23))
    then = Epilogue(add=True, relu=True)
    once = convolution.forward(bias=True, then=then)
    tiles = tiles_of(convolution)[0]
    assert torch.equal(convolution.forward(bias=True, then=then, ranges=[(0, tiles)] * 2), once)


@each_width
@pytest.mark.parametrize("case", [CASES[2], CASES[3], FULL_CASES[0], UNFOLDED_CASES[1]], ids=str)  # few areas and many
def test_only_the_blocks_that_are_there_count(case: Case, vectors: Vectors) -> None:
    convolution = Convolution(case, vectors)
    one = slice(0, vectors.width)
    of_one = torch.autograd.grad(convolution.made[one], convolution.inputs, convolution.gradient[one].double())
    convolution.blocks = 1
    weight, bias = convolution.backward_weight(bias=True)
    assert error(weight, of_one[1]) <= TOLERANCE
    assert error(bias, of_one[2]) <= TOLERANCE


# ------------------------------------------------------------------------------------------------ any shape


@st.composite
def convolutions(draw: st.DrawFn) -> Case:
    rows, columns = draw(st.integers(1, 5)), draw(st.integers(1, 5))
    padding, stride = draw(st.integers(0, min(rows, columns) - 1)), draw(st.integers(1, 4))
    sides = [draw(st.integers(max(1, side - 2 * padding), 11)) for side in (rows, columns)]
    window = Window(rows, columns, stride, padding)
    channels = st.one_of(st.integers(1, 9), st.sampled_from([16, 32, 48]))
    return Case(window, Plane(draw(channels), *sides), draw(channels))


@settings(max_examples=15)
@given(convolutions(), st.sampled_from(HERE))
def test_a_convolution_of_any_shape_is_that_of_pytorch(case: Case, vectors: Vectors) -> None:
    convolution = Convolution(case, vectors)
    tiles_of(convolution)
    of_data, of_weight, of_bias = convolution.gradients
    made, to_data, to_weight, to_bias = convolution.terms()
    assert error(convolution.forward(bias=True, then=PLAIN), convolution.expected, made) <= tolerance(vectors)
    assert error(convolution.backward_data(PLAIN), of_data, to_data) <= tolerance(vectors)
    weight, bias = convolution.backward_weight(bias=True)
    assert error(weight, of_weight, to_weight) <= TOLERANCE
    assert error(bias, of_bias, to_bias) <= TOLERANCE
