"""Gradients of weights by minimal filtering, beside PyTorch's."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from blocks import GROUPS, KINDS, Bench, Memory, drawn, error, number
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from bptcnn.inner.kernels.shape import Plane, Vectors, Window
from bptcnn.inner.kernels.winograd.weight_gradient import weight_products, weight_sums
from bptcnn.inner.kernels.winograd.weight_tiling import (
    LEAST_TILES,
    MOST_BYTES,
    PANEL_BYTES,
    WeightShape,
    weight_shape_of,
)
from bptcnn.inner.lowering.buffers import Array

AVX512, AVX, NEON, SSE = KINDS
SAME = Window(3, 3, padding=1)
BLOCKS = 3

TOLERANCE = 4e-6
"""Long sums of float32 numbers are off by as much, whichever way they are made."""


class Gradient:
    """Kernels that make the gradient of a convolution's weights and bias, and what PyTorch says of them.

    Args:
        vectors: the registers.
        window: of the convolution.
        data: what it sees.
        channels: of what it makes.
    """

    def __init__(self, vectors: Vectors, window: Window, data: Plane, channels: int) -> None:
        out = window.outputs(data, channels)
        shape = weight_shape_of(vectors, window, data, out)
        assert shape is not None
        self.shape: WeightShape = shape
        self._bench, self._vectors, self._window, self._data, self._out = Bench(vectors), vectors, window, data, out
        total = BLOCKS * vectors.width
        self._seen = drawn(1, total, data.channels, data.rows, data.columns)
        self._errors = drawn(2, total, channels, out.rows, out.columns)

    def expected(self, blocks: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Gradients of weights and bias over the first blocks."""
        count = blocks * self._vectors.width
        seen, errors = self._seen[:count].double(), self._errors[:count].double()
        weight = torch.zeros(self._out.channels, self._data.channels, self._window.rows, self._window.columns).double()
        weight.requires_grad_()
        made = functional.conv2d(seen, weight, padding=self._window.padding)
        return torch.autograd.grad(made, weight, errors)[0], errors.sum((0, 2, 3))

    def made(
        self, rows: int, *, blocks: int = BLOCKS, bias: bool = True, ranges: Sequence[tuple[int, int]] = ()
    ) -> tuple[Array, Array]:
        """Gradients as the kernels make them.

        Args:
            rows: of tiles of a chunk.
            blocks: that are there.
            bias: whether there is one.
            ranges: of the parts, each made by a call of its own.
        """
        bench, data, out = self._bench, self._data, self._out
        products, parts = bench.emit(weight_products, self.shape, self._window.padding, data, out)
        last, groups = bench.emit(weight_sums, self.shape, rows, data, out, bias=bias)
        assert parts == self.shape.parts
        total = BLOCKS * self.shape.down
        sums = bench.memory(-(-total // rows), self.shape.points, data.channels, out.channels)
        weight = bench.memory(out.channels, data.channels, self.shape.size, self.shape.size)
        shift, count = bench.memory(out.channels), number(blocks)
        seen, errors = self._there(self._seen, blocks), self._there(self._errors, blocks)
        for chunk, start in enumerate(range(0, total, rows)):
            for part in ranges or [(0, parts)]:
                bench.call(products, seen, errors, sums[chunk], *part, count, start, min(total, start + rows))
        for group in reversed(range(groups)):
            bench.call(last, sums, errors, weight, group, group + 1, count, shift if bias else 0)
        return weight, shift

    def _there(self, tensor: torch.Tensor, blocks: int) -> Memory:
        """Blocks; those that are not there hold NaN."""
        whole = self._bench.blocked(tensor)
        whole[blocks:] = np.nan
        return whole


CASES = [
    (AVX512, SAME, Plane(32, 12, 12), 32),
    (AVX512, SAME, Plane(70, 8, 8), 80),  # fewer tiles than a panel takes; channels that fill no tile of registers
    (AVX512, Window(5, 5, padding=2), Plane(33, 13, 15), 32),
    (AVX, SAME, Plane(32, 12, 12), 32),
    (AVX, Window(3, 3), Plane(24, 11, 10), 40),  # what is left of tiles, in rows
    (AVX, Window(3, 3, padding=2), Plane(73, 14, 15), 64),  # and in columns
    (AVX, SAME, Plane(128, 6, 6), 512),  # sums so large that points of a row are divided
    (AVX, SAME, Plane(64, 30, 30), 64),  # panels of a few rows of a block
    (AVX, SAME, Plane(160, 4, 4), 160),  # panels of several blocks
    (AVX, Window(5, 5), Plane(16, 12, 13), 32),
    (AVX, Window(5, 5, padding=4), Plane(64, 18, 20), 64),
    (NEON, Window(3, 3), Plane(24, 11, 10), 40),
    (GROUPS[0], SAME, Plane(64, 14, 15), 64),  # several tiles in a register
    (GROUPS[1], Window(5, 5, padding=2), Plane(48, 15, 16), 48),
    (GROUPS[2], Window(3, 3), Plane(40, 12, 27), 48),
    (GROUPS[2], Window(5, 5, padding=4), Plane(40, 16, 20), 48),
    (SSE, Window(5, 5, padding=2), Plane(49, 13, 13), 52),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_gradients_are_those_of_pytorch(case: tuple[Vectors, Window, Plane, int]) -> None:
    gradient = Gradient(*case)
    of_weight, of_bias = gradient.expected(BLOCKS)
    for rows in (2, BLOCKS * gradient.shape.down):
        weight, bias = gradient.made(rows)
        assert error(weight, of_weight) <= TOLERANCE
        assert error(bias, of_bias) <= TOLERANCE


@pytest.mark.parametrize("rows", [1, 3, 4, 7, 12])
@pytest.mark.parametrize("blocks", [1, 2])
def test_only_the_blocks_that_are_there_count(blocks: int, rows: int) -> None:
    gradient = Gradient(AVX, SAME, Plane(64, 8, 8), 64)
    for made, expected in zip(gradient.made(rows, blocks=blocks), gradient.expected(blocks), strict=True):
        assert error(made, expected) <= TOLERANCE


def test_without_a_bias_none_is_written() -> None:
    gradient = Gradient(AVX, SAME, Plane(64, 8, 8), 64)
    weight, bias = gradient.made(1, bias=False)
    assert error(weight, gradient.expected(BLOCKS)[0]) <= TOLERANCE
    assert np.isnan(bias).all()


@pytest.mark.parametrize("case", [CASES[3], CASES[9]], ids=str)
def test_however_points_are_divided_the_bits_are_the_same(case: tuple[Vectors, Window, Plane, int]) -> None:
    gradient = Gradient(*case)
    each = [(part, part + 1) for part in reversed(range(gradient.shape.parts))]
    for one, other in zip(gradient.made(2), gradient.made(2, ranges=each), strict=True):
        assert np.array_equal(one, other)


@pytest.mark.parametrize(
    ("vectors", "window", "data", "channels"),
    [
        (AVX, Window(3, 3, stride=2, padding=1), Plane(64, 32, 32), 64),
        (AVX, Window(1, 1), Plane(64, 32, 32), 64),
        (AVX, SAME, Plane(3, 32, 32), 64),  # few channels: to transform the others costs more than it spares
        (AVX, SAME, Plane(64, 32, 32), 12),  # that do not fill registers
        (AVX, SAME, Plane(64, 1, 1), 64),  # most of a tile would be thrown away
        (AVX512, SAME, Plane(512, 224, 224), 512),  # neither cache nor stack would hold a row
        (GROUPS[0], SAME, Plane(64, 2, 2), 64),  # of a register with four tiles one would be needed
        (Vectors(16, 32, bf16=True), SAME, Plane(64, 32, 32), 64),
    ],
)
def test_other_gradients_are_made_the_plain_way(vectors: Vectors, window: Window, data: Plane, channels: int) -> None:
    assert weight_shape_of(vectors, window, data, window.outputs(data, channels)) is None


@settings(max_examples=200)
@given(
    st.sampled_from((*KINDS, *GROUPS)),
    st.sampled_from([(size, padding) for size in (3, 5) for padding in range(size)]),
    st.integers(16, 520),
    st.integers(1, 32),
    st.integers(6, 60),
    st.integers(6, 60),
)
def test_shapes_fit_what_they_are_made_for(
    vectors: Vectors, filters: tuple[int, int], ins: int, groups: int, rows: int, columns: int
) -> None:
    window, data = Window(filters[0], filters[0], padding=filters[1]), Plane(ins, rows, columns)
    out = window.outputs(data, groups * vectors.lanes)
    shape = weight_shape_of(vectors, window, data, out)
    if shape is None:
        return
    assert 2 * (shape.down - 1) < out.rows <= 2 * shape.down
    assert 2 * (shape.across - 1) < out.columns / vectors.channels <= 2 * shape.across
    assert (shape.size + 1) % shape.along == 0
    assert shape.groups * shape.channels + shape.groups < vectors.registers
    of_tile = shape.along * (ins + out.channels) * vectors.lanes * 4
    assert shape.tiles * of_tile <= MOST_BYTES
    assert shape.rows == 1 or shape.tiles * of_tile <= PANEL_BYTES or (shape.rows - 1) * shape.across < LEAST_TILES
