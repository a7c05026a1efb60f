"""Convolution, and its gradient with regard to the data, by products of matrices.

For each place of the outputs and each tap of the filter, ``sums [outputs, samples]`` grow by
``weights [outputs, inputs] data [inputs, samples]``. Samples lie innermost, so only pairs of input channels have to be
brought together: a band of the data's rows is woven once for all outputs. Weights come from tables in the order of the
registers.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

from llvmlite import ir

from bptcnn.inner.kernels.bf16 import WORDS, FullBf16Kernel
from bptcnn.inner.kernels.emit import F32, I64, Value
from bptcnn.inner.kernels.matrices.full_unfolding import ZEROS, FullUnfolding
from bptcnn.inner.kernels.matrices.registers import LINE
from bptcnn.inner.kernels.matrices.sums import FilterRow, MatrixSums
from bptcnn.inner.kernels.matrices.tiling import Tile, band_rows, seen_rows
from bptcnn.inner.kernels.shape import ROW_BYTES, SIDE, Taps, alike, tiles
from bptcnn.inner.kernels.shuffles import part
from bptcnn.inner.kernels.sums import Sum, finish

HALVES = 2
"""Registers that the samples of a block fill."""


@dataclass(frozen=True, slots=True)
class _Band:
    """Rows of the data, woven: [groups, rows, columns, halves, pairs] lines."""

    memory: Value
    first: Value  # row of the data
    rows: int  # that there is room for


@dataclass(frozen=True, slots=True)
class _Place:
    """Outputs of one phase: channels of a tile, one row, some columns."""

    down: Taps
    across: Taps
    tile: Value
    row: Value
    column: Value
    seen: tuple[tuple[int, ...], ...]  # the taps that each column sees


class FullConv:
    """Emits one convolution.

    Args:
        kernel: on places that fill registers of bfloat16 numbers.
        spec: the sums.
        shape: of the matrices.
        unfolded: whence the data comes, if it does not lie anywhere as it is multiplied.
    """

    def __init__(self, kernel: FullBf16Kernel, spec: Sum, shape: Tile, unfolded: FullUnfolding | None = None) -> None:
        self._kernel, self._spec, self._shape, self._unfolded = kernel, spec, shape, unfolded
        self._whole = MatrixSums(kernel, spec, shape)
        self._pointers, self._matrices = self._whole.pointers, self._whole.matrices
        self._sums = kernel.room(SIDE * HALVES, LINE)

    def emit(self) -> int:
        """Emit it; returns the tiles of channels."""
        kernel, spec, builder = self._kernel, self._spec, self._kernel.builder
        first, last = kernel.number(6), kernel.number(7)
        most = max(self._rows_of(down) for down in spec.down)
        memory = kernel.room(max(1, most * spec.data.columns * spec.data.channels), WORDS)
        for down, across in product(spec.down, spec.across):
            num_rows, num_columns = down.count(spec.out.rows), across.count(spec.out.columns)
            if not num_rows or not num_columns:
                continue
            size = band_rows(down, spec.data, spec.out)
            with kernel.loop(tiles(num_rows, size)) as number:
                begin = builder.mul(number, I64(size))
                end = kernel.least(builder.add(begin, I64(size)), I64(num_rows))
                band = self._woven(memory, down, begin, end)
                with kernel.loop(last, first) as tile, kernel.loop(end, begin) as row:
                    for start, step, repeats, seen in alike(across, num_columns, spec.data.columns, self._shape.wide):
                        with kernel.loop(repeats) as repeat:
                            column = builder.add(I64(start), builder.mul(repeat, I64(step)))
                            self._place(band, _Place(down, across, tile, row, column, seen))
        self._matrices.release()
        kernel.finish()
        return spec.out.channels // (SIDE * self._shape.tall)

    def _rows_of(self, down: Taps) -> int:
        """Rows of the data that a band of outputs sees."""
        return seen_rows(band_rows(down, self._spec.data, self._spec.out), down, self._spec.data)

    def _woven(self, memory: Value, down: Taps, begin: Value, end: Value) -> _Band | None:
        """Bring pairs of channels together, of all rows that a band of outputs sees."""
        if not down.places:
            return None
        kernel, data = self._kernel, self._spec.data
        low, high = self._whole.seen(down, begin, end)
        band = _Band(memory, low, self._rows_of(down))
        if self._unfolded:
            self._weave_unfolded(self._unfolded, band, low, high)
            return band
        with (
            kernel.loop(self._whole.groups) as group,
            kernel.loop_if_any(high, low) as row,
            kernel.loop(data.columns) as column,
            kernel.loop(self._shape.lines) as pair,
        ):
            near = (group, self._shape.depth * data.area), (pair, 2 * data.area), (row, data.columns), column
            woven = kernel.operand(kernel.place(self._pointers.data, *near), data.area)
            self._put(band, woven, (group, row, column), pair)
        return band

    def _weave_unfolded(self, unfolded: FullUnfolding, band: _Band, first: Value, last: Value) -> None:
        """The same of data that is unfolded on the way."""
        kernel, shape = self._kernel, self._shape
        with kernel.loop(last, first) as row, kernel.loop(self._spec.data.columns) as column:
            lines = unfolded.lines(self._pointers.data, row, column)
            lines += [ZEROS] * (self._spec.data.channels - len(lines))
            for number, woven in enumerate(kernel.woven(*pair) for pair in zip(lines[::2], lines[1::2], strict=True)):
                group, pair = divmod(number, shape.lines)
                self._put(band, woven, (I64(group), row, column), I64(pair))

    def _put(self, band: _Band, woven: Value, place: tuple[Value, Value, Value], pair: Value) -> None:
        for half in range(HALVES):
            line = self._kernel.at(self._slot(band, *place, half), pair, kind=WORDS)
            words = part(self._kernel.builder, woven, half, WORDS.count)
            self._kernel.builder.store(words, line, align=ROW_BYTES)

    def _slot(self, band: _Band, group: Value, row: Value, column: Value, half: int) -> Value:
        """Where a matrix of the data begins."""
        kernel, columns, lines = self._kernel, self._spec.data.columns, HALVES * self._shape.lines
        within = kernel.builder.sub(row, band.first)
        near = (group, band.rows * columns * lines), (within, columns * lines), (column, lines)
        return kernel.at(band.memory, *near, half * self._shape.lines, kind=WORDS)

    def _place(self, band: _Band | None, place: _Place) -> None:
        for number in range(self._shape.tall * len(place.seen) * HALVES):
            self._matrices.clear(number)
        if band is not None and any(place.seen):
            self._whole.each_row(place.down, place.row, lambda row: self._products(band, place, row))
        for tall, x in product(range(self._shape.tall), range(len(place.seen))):
            self._finish(place, tall, x)

    def _products(self, band: _Band, place: _Place, row: FilterRow) -> None:
        """Of one row of the filter and one group of input channels."""
        kernel, shape, across = self._kernel, self._shape, place.across
        first = kernel.builder.mul(place.column, I64(across.step))
        for t, offset in enumerate(across.offsets):
            meeting = [x for x, seen in enumerate(place.seen) if t in seen]
            for tall in range(shape.tall if meeting else 0):
                self._whole.take_weights(place.tile, tall, row, across.places[t])
            for x in meeting:
                column = kernel.builder.add(first, I64(offset + x * across.step))
                for half in range(HALVES):
                    slot = self._slot(band, row.group, row.seen, column, half)
                    self._matrices.take_second(half, slot, ROW_BYTES)
                    for tall in range(shape.tall):
                        self._matrices.multiply(_sum(tall, x, half), tall, half)

    def _finish(self, place: _Place, tall: int, x: int) -> None:
        """Bring the samples of both halves together again, channel by channel, and store them."""
        kernel, spec, out = self._kernel, self._spec, self._spec.out
        for half in range(HALVES):
            slot = kernel.at(self._sums, half, kind=LINE)
            self._matrices.store(_sum(tall, x, half), slot, HALVES * ROW_BYTES)
        with kernel.loop(SIDE) as row:
            slot = kernel.at(self._sums, (row, HALVES), kind=LINE)
            value = kernel.builder.load(slot, typ=ir.VectorType(F32, 32), align=ROW_BYTES)
            channel = self._whole.channel(place.tile, tall, row)
            if spec.bias:
                value = kernel.builder.fadd(value, kernel.by_channel(kernel.at(self._pointers.bias, channel)))
            near = (
                I64(place.down.phase * out.columns + place.across.phase + x * place.across.every),
                (channel, out.area),
                (place.row, place.down.every * out.columns),
                (place.column, place.across.every),
            )
            finish(kernel, spec, self._pointers, value, *near)


def _sum(tall: int, x: int, half: int) -> int:
    """The register of a sum: there are two tiles of channels, or two columns."""
    return (tall + x) * HALVES + half
