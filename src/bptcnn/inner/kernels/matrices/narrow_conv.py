"""Convolution, and its gradient with regard to the data, by products of matrices where a block has few samples.

As in :mod:`~bptcnn.inner.kernels.matrices.full_conv`, but the columns of a matrix are neighbouring places of a map,
with all samples of each. Rows of the data are woven, pair of channels by pair of channels, into lines of entries: one
for each column that the filter may see, padding included, so that each tap reads its matrices at a shift of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

from llvmlite import ir

from bptcnn.inner.kernels.bf16 import FLOATS, I16, Bf16Kernel
from bptcnn.inner.kernels.emit import I64, Value
from bptcnn.inner.kernels.matrices.lines import Lines, lines_of, runs, side_by_side, span_of
from bptcnn.inner.kernels.matrices.narrow_rows import NarrowUnfolding, Reader, each_run
from bptcnn.inner.kernels.matrices.registers import LINE
from bptcnn.inner.kernels.matrices.sums import FilterRow, MatrixSums
from bptcnn.inner.kernels.matrices.tiling import Tile, narrow_bytes, narrow_rows, seen_rows
from bptcnn.inner.kernels.shape import FACTORS, ROW_BYTES, SIDE, Plane, Taps, Vectors, Window, tiles
from bptcnn.inner.kernels.shuffles import part, shuffled
from bptcnn.inner.kernels.sums import Sum, finish

Range = tuple[Value, Value]
"""The first, and one past the last."""


@dataclass(frozen=True, slots=True)
class _Band:
    """Rows of the data, woven: [groups, rows, phases, pairs, entries], each of a pair of channels for all samples."""

    lines: Lines
    first: Value  # row of the data
    rows: int  # that there is room for


@dataclass(frozen=True, slots=True)
class _Place:
    """Outputs of one phase: channels of a tile, one row, and where matrices of columns begin."""

    down: Taps
    across: Taps
    tile: Value
    row: Value
    column: Value
    offsets: tuple[int, ...]


class NarrowConv:
    """Emits one convolution of a narrow block.

    Args:
        kernel: on such blocks.
        vectors: what they look like.
        spec: the sums.
        shape: of the matrices.
        unfolded: what the data is before it is unfolded, and the window that sees it so; None where it lies as it is.
    """

    def __init__(
        self,
        kernel: Bf16Kernel,
        vectors: Vectors,
        spec: Sum,
        shape: Tile,
        unfolded: tuple[Window, Plane] | None = None,
    ) -> None:
        self._kernel, self._vectors, self._spec, self._shape = kernel, vectors, spec, shape
        self._width, self._span = vectors.width, span_of(vectors)
        self._nothing = ir.Constant(ir.VectorType(I16, self._width), [0] * self._width)
        self._whole = MatrixSums(kernel, spec, shape)
        problem = vectors, spec.down, spec.across, spec.data, spec.out
        self._rows = narrow_rows(*problem)
        self._memory = kernel.room(max(1, tiles(narrow_bytes(self._rows, *problem), ROW_BYTES)), LINE)
        self._sum = kernel.room(SIDE, LINE)
        self._unfolded = (
            NarrowUnfolding(kernel, vectors, *unfolded, spec.data.columns, self._rows) if unfolded else None
        )

    def emit(self) -> int:
        """Emit it; returns the tiles: channels of each band of rows."""
        kernel, spec, builder, size = self._kernel, self._spec, self._kernel.builder, self._rows
        first, last = kernel.number(6), kernel.number(7)
        count = spec.out.channels // (SIDE * self._shape.tall)
        begin, end = builder.udiv(first, I64(count)), builder.udiv(builder.add(last, I64(count - 1)), I64(count))
        with kernel.loop(end, begin) as band:
            before = builder.mul(band, I64(count))
            low, high = (kernel.clamp(builder.sub(edge, before), 0, count) for edge in (first, last))
            top = builder.mul(band, I64(size))
            for down, across in product(spec.down, spec.across):
                num_rows, num_columns = down.count(spec.out.rows), across.count(spec.out.columns)
                if num_rows and num_columns:
                    bottom = kernel.least(builder.add(top, I64(size)), I64(num_rows))
                    with builder.if_then(builder.icmp_signed("<", top, bottom)):
                        self._phase(down, across, (low, high), (top, bottom))
        self._whole.matrices.release()
        kernel.finish()
        return count * tiles(max(down.count(spec.out.rows) for down in spec.down), size)

    def _phase(self, down: Taps, across: Taps, channels: Range, rows: Range) -> None:
        """Some rows of one phase of the outputs."""
        kernel, span, builder = self._kernel, self._span, self._kernel.builder
        num_columns = across.count(self._spec.out.columns)
        band = None
        if down.places and across.places:
            low, high = self._whole.seen(down, *rows)
            lines = lines_of(across, max(num_columns, span))
            band = _Band(lines, low, seen_rows(self._rows, down, self._spec.data))
            if self._unfolded:
                self._weave_unfolded(self._unfolded, band, high)
            else:
                self._weave(band, high)
        with kernel.loop(channels[1], channels[0]) as tile, kernel.loop(rows[1], rows[0]) as row:
            for start, repeats, offsets in side_by_side(num_columns, span, self._shape.wide):
                with kernel.loop(repeats) as repeat:
                    column = builder.add(I64(start), builder.mul(repeat, I64(span * self._shape.wide)))
                    self._place(band, _Place(down, across, tile, row, column, offsets))

    def _weave(self, band: _Band, last: Value) -> None:
        """Bring pairs of channels together: whole runs of columns where they lie side by side."""
        kernel, lines, data = self._kernel, band.lines, self._spec.data
        reader = Reader(kernel, self._vectors, lines, data.columns)
        with (
            kernel.loop(self._whole.groups) as group,
            kernel.loop_if_any(last, band.first) as row,
            kernel.loop(self._shape.lines) as pair,
        ):
            near = (group, self._shape.depth * data.area), (pair, 2 * data.area), (row, data.columns)
            source = kernel.place(self._whole.pointers.data, *near)
            for number in range(len(lines.phases)):
                target = self._line(band, group, row, number, pair)
                for entry in reader.outside(number):
                    self._put(self._nothing, self._nothing, kernel.place(target, 2 * entry))
                for entry, size in each_run(kernel, reader.runs(number, self._span)):
                    one, other = (
                        reader.words(kernel.place(source, apart), number, entry, size) for apart in (0, data.area)
                    )
                    self._put(one, other, kernel.place(target, (entry, 2)))

    def _weave_unfolded(self, unfolded: NarrowUnfolding, band: _Band, last: Value) -> None:
        """The same of data that is unfolded on the way."""
        kernel = self._kernel
        unfolded.bring(self._whole.pointers.data, band.first, last)
        with kernel.loop(last, band.first) as row:
            sources = unfolded.lines(row)
            for entry, size in each_run(kernel, runs(0, self._spec.data.columns, self._span)):
                words = [kernel.words(kernel.place(line, entry), size * self._width) for line in sources]
                nothing = ir.Constant(words[0].type, [0] * words[0].type.count)
                words += [nothing] * (self._spec.data.channels - len(words))
                for number, pair in enumerate(zip(words[::2], words[1::2], strict=True)):
                    group, place = divmod(number, self._shape.lines)
                    self._put(*pair, kernel.place(self._line(band, I64(group), row, 0, I64(place)), (entry, 2)))

    def _put(self, one: Value, other: Value, target: Value) -> None:
        """Weave words of two channels."""
        count = one.type.count
        words = shuffled(
            self._kernel.builder, one, other, [place for each in range(count) for place in (each, count + each)]
        )
        self._kernel.builder.store(words, target, align=4 * self._width)

    def _line(self, band: _Band, group: Value, row: Value, number: int, pair: Value) -> Value:
        """Where the entries of a pair of channels begin."""
        kernel, lines, size = self._kernel, band.lines, self._shape.lines
        of_row = 2 * size * lines.size
        near = (group, band.rows * of_row), (kernel.builder.sub(row, band.first), of_row), (pair, 2 * lines.count)
        return kernel.place(self._memory, *near, number * size * 2 * lines.count)

    def _place(self, band: _Band | None, place: _Place) -> None:
        count = len(place.offsets)
        for number in range(self._shape.tall * count):
            self._whole.matrices.clear(number)
        if band is not None:
            self._whole.each_row(place.down, place.row, lambda row: self._products(band, place, row))
        for tall, x in product(range(self._shape.tall), range(count)):
            self._whole.matrices.store(tall * count + x, self._sum, ROW_BYTES)
            with self._kernel.loop(SIDE) as row:
                self._finish(place, self._whole.channel(place.tile, tall, row), row, place.offsets[x])

    def _products(self, band: _Band, place: _Place, row: FilterRow) -> None:
        """Of one row of the filter and one group of input channels."""
        kernel, lines, matrices, count = self._kernel, band.lines, self._whole.matrices, len(place.offsets)
        for t, (number, shift) in enumerate(lines.places):
            for tall in range(self._shape.tall):
                self._whole.take_weights(place.tile, tall, row, place.across.places[t])
            line = self._line(band, row.group, row.seen, number, I64(0))
            for x, offset in enumerate(place.offsets):
                other = x % FACTORS
                pointer = kernel.place(line, (place.column, 2), 2 * (shift + offset))
                matrices.take_second(other, pointer, 4 * self._width * lines.count)
                for tall in range(self._shape.tall):
                    matrices.multiply(tall * count + x, tall, other)

    def _finish(self, place: _Place, channel: Value, row: Value, offset: int) -> None:
        """Store the sums of one channel: all columns at once where they lie side by side."""
        kernel, spec, out, span = self._kernel, self._spec, self._spec.out, self._span
        value = kernel.builder.load(kernel.at(self._sum, row, kind=LINE), typ=FLOATS, align=ROW_BYTES)
        near = (
            I64(place.down.phase * out.columns + place.across.phase + offset * place.across.every),
            (channel, out.area),
            (place.row, place.down.every * out.columns),
            (place.column, place.across.every),
        )
        count = min(span, place.across.count(out.columns))
        size = span if count == span and place.across.every == 1 else 1
        for column in range(0, count, size):
            with kernel.together(size):
                sums = part(kernel.builder, value, column // size, size * self._width)
                if spec.bias:
                    shift = kernel.by_channel(kernel.at(self._whole.pointers.bias, channel))
                    sums = kernel.builder.fadd(sums, shift)
                finish(kernel, spec, self._whole.pointers, sums, *near, I64(column * place.across.every))
