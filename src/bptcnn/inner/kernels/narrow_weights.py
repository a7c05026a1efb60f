"""The gradient of weights by products of matrices where a block has few samples.

What a product sums up are neighbouring places of a map, with all samples of each. Rows of the data become lines of
entries, one for each column that the filter may see, with zeros for the padding; of the outputs' gradient, too, zeros
fill up what lacks to the last product of a row.
"""

from __future__ import annotations

from llvmlite import ir

from bptcnn.inner.kernels.bf16 import FLOATS, I16, Bf16Kernel
from bptcnn.inner.kernels.emit import I64, Value
from bptcnn.inner.kernels.matrix import room
from bptcnn.inner.kernels.matrix_lines import runs, span_of
from bptcnn.inner.kernels.matrix_tiling import WeightTile, reaches, seen_rows
from bptcnn.inner.kernels.matrix_weights import MANY_AREAS, PAIRS, MatrixGradient, Meeting
from bptcnn.inner.kernels.shape import ROW_BYTES, SIDE, Plane, Vectors, Window, forward_taps, tiles
from bptcnn.inner.kernels.shuffles import square


class NarrowGradient(MatrixGradient):
    """See :class:`~bptcnn.inner.kernels.matrix_weights.MatrixGradient`: a step is as many columns as a product sums up.

    Args:
        kernel: on narrow blocks.
        vectors: what they look like.
        window: of the convolution.
        data: what it saw.
        gradient: of what it made.
        shape: of the matrices.
    """

    def __init__(
        self, kernel: Bf16Kernel, vectors: Vectors, window: Window, data: Plane, gradient: Plane, shape: WeightTile
    ) -> None:
        self._width, self._reach = vectors.width, 2 * span_of(vectors)
        split = gradient.area * vectors.width >= MANY_AREAS * 2 * PAIRS
        super().__init__(kernel, window, data, gradient, shape, split=split)
        self._lines, self._count = reaches(vectors, window, gradient)
        (self._down,) = forward_taps(window.rows, window.stride, window.padding)
        rows = seen_rows(shape.rows, self._down, data)
        self._turned = room(kernel, shape.rows * self._count * shape.outs * PAIRS, FLOATS)
        self._seen = room(kernel, tiles(rows * self._row_places * 2 * self._width, ROW_BYTES))
        self._first: Value = None  # row of the data that was brought together

    @property
    def _row_places(self) -> int:
        """Entries of a row of the data, of all channels."""
        return self._lines.size * self._data.channels

    def _bring(self, tile: Value, block: Value, first: Value, last: Value) -> None:
        self._turn(tile, block, first, last)
        kernel, builder, down, data = self._kernel, self._kernel.builder, self._down, self._data
        low = builder.add(builder.mul(first, I64(down.step)), I64(down.offsets[0]))
        high = builder.add(builder.mul(builder.sub(last, I64(1)), I64(down.step)), I64(down.offsets[-1] + 1))
        self._first, end = kernel.clamp(low, 0, data.rows), kernel.clamp(high, 0, data.rows)
        source = kernel.place(kernel.argument(0), (block, data.size))
        with kernel.loop_if_any(end, self._first) as row, kernel.loop(data.channels) as channel:
            for number in range(len(self._lines.phases)):
                place = kernel.place(source, (channel, data.area), (row, data.columns))
                self._copy(number, place, self._line(row, number, channel))

    def _copy(self, number: int, source: Value, target: Value) -> None:
        """A row of one channel, one phase of its columns: whole runs where they lie side by side."""
        kernel, builder, lines = self._kernel, self._kernel.builder, self._lines
        phase, step = lines.phases[number], lines.step
        low, high = lines.inside(phase, self._data.columns)
        nothing = ir.Constant(ir.VectorType(I16, self._width), [0] * self._width)
        for entry in (*range(low), *range(high, lines.count)):
            kernel.write(nothing, kernel.place(target, entry))
        for start, repeats, size in runs(low, high, self._reach if step == 1 else 1):
            with kernel.loop(repeats) as repeat:
                entry = builder.add(I64(start), builder.mul(repeat, I64(size)))
                place = kernel.place(source, phase + step * lines.first, (entry, step))
                kernel.write(kernel.words(place, size * self._width), kernel.place(target, entry))

    def _turn(self, tile: Value, block: Value, first: Value, last: Value) -> None:
        """Some rows of the outputs' gradient: [rows, reaches, outs, pairs] lines of 16 channels."""
        kernel, gradient, outs = self._kernel, self._gradient, self._shape.outs
        source = kernel.place(kernel.argument(1), (block, gradient.size), (tile, SIDE * outs * gradient.area))
        whole, rest = divmod(gradient.columns, self._reach)
        with kernel.loop(last, first) as row, kernel.loop(outs) as out:
            corner = kernel.place(source, (out, SIDE * gradient.area), (row, gradient.columns))
            within = kernel.builder.sub(row, first)
            if whole:
                with kernel.loop(whole) as step:
                    self._square(corner, self._turned_at(within, step, out), step, self._reach)
            if rest:
                self._square(corner, self._turned_at(within, I64(whole), out), I64(whole), rest)

    def _square(self, row: Value, target: Value, step: Value, columns: int) -> None:
        kernel, numbers = self._kernel, self._width // 2
        corner = kernel.place(row, (step, self._reach))
        channels = square(kernel, corner, self._gradient.area * numbers, SIDE, columns * numbers)
        for pair, line in enumerate(channels):
            kernel.builder.store(line, kernel.at(target, pair, kind=FLOATS), align=ROW_BYTES)

    def _turned_at(self, row: Value, step: Value, out: Value) -> Value:
        outs = self._shape.outs
        near = (row, self._count * outs * PAIRS), (step, outs * PAIRS), (out, PAIRS)
        return self._kernel.at(self._turned, *near, kind=FLOATS)

    def _line(self, row: Value, number: int, channel: Value) -> Value:
        """Where the entries of a row of one channel begin."""
        kernel, lines, channels = self._kernel, self._lines, self._data.channels
        within = kernel.builder.sub(row, self._first)
        return kernel.place(
            self._seen, (within, self._row_places), number * channels * lines.count, (channel, lines.count)
        )

    def _steps(self, column: int) -> tuple[int, int]:
        return 0, self._count

    def _take_data(self, i: int, meeting: Meeting) -> None:
        number, shift = self._lines.places[meeting.column]
        builder, ins = self._kernel.builder, self._shape.ins
        channel = builder.add(builder.mul(meeting.into, I64(SIDE * ins)), I64(SIDE * i))
        line = self._kernel.place(self._line(meeting.seen, number, channel), shift, (meeting.step, self._reach))
        self._matrices.take_first(i, line, 2 * self._width * self._lines.count)

    def _take_gradient(self, o: int, meeting: Meeting) -> None:
        self._matrices.take_second(o, self._turned_at(meeting.row, meeting.step, I64(o)), ROW_BYTES)
