"""The gradient of weights by products of matrices where a block has few samples.

What a product sums up are neighbouring places of a map, with all samples of each. Rows of the data become lines of
entries, one for each column that the filter may see, with zeros for the padding; of the outputs' gradient, too, zeros
fill up what lacks to the last product of a row.
"""

from __future__ import annotations

from bptcnn.inner.kernels.bf16 import FLOATS, Bf16Kernel
from bptcnn.inner.kernels.emit import I64, Value
from bptcnn.inner.kernels.matrices.gradient import MANY_AREAS, PAIRS, MatrixGradient, Meeting
from bptcnn.inner.kernels.matrices.lines import span_of
from bptcnn.inner.kernels.matrices.narrow_rows import Copy, NarrowUnfolding
from bptcnn.inner.kernels.matrices.tiling import WeightTile, reaches, seen_rows
from bptcnn.inner.kernels.shape import ROW_BYTES, SIDE, Plane, Vectors, Window, forward_taps
from bptcnn.inner.kernels.shuffles import square


class NarrowGradient(MatrixGradient):
    """See :class:`~bptcnn.inner.kernels.matrices.gradient.MatrixGradient`: a step is what one product sums up.

    Args:
        kernel: on narrow blocks.
        vectors: what they look like.
        window: of the convolution.
        data: what it saw.
        gradient: of what it made.
        shape: of the matrices.
        unfolded: what the data is before it is unfolded, and the window that sees it so; None where it lies as it is.
    """

    def __init__(
        self,
        kernel: Bf16Kernel,
        vectors: Vectors,
        window: Window,
        data: Plane,
        gradient: Plane,
        shape: WeightTile,
        unfolded: tuple[Window, Plane] | None = None,
    ) -> None:
        self._width, self._reach = vectors.width, 2 * span_of(vectors)
        split = gradient.area * vectors.width >= MANY_AREAS * 2 * PAIRS
        super().__init__(kernel, window, data, gradient, shape, split=split)
        self._lines, self._count = reaches(vectors, window, gradient)
        (self._down,) = forward_taps(window.rows, window.stride, window.padding)
        self._turned = kernel.room(shape.rows * self._count * shape.outs * PAIRS, FLOATS)
        self._seen = Copy(kernel, vectors, data, self._lines, seen_rows(shape.rows, self._down, data))
        self._folded = unfolded[1] if unfolded else data
        self._unfolded = (
            NarrowUnfolding(kernel, vectors, *unfolded, self._count * self._reach, shape.rows) if unfolded else None
        )

    @property
    def _inputs(self) -> int:
        return self._unfolded.count if self._unfolded else self._data.channels

    def _bring(self, tile: Value, block: Value, first: Value, last: Value) -> None:
        self._turn(tile, block, first, last)
        kernel, builder, down, rows = self._kernel, self._kernel.builder, self._down, self._data.rows
        source = kernel.place(kernel.argument(0), (block, self._folded.size))
        if self._unfolded:
            self._unfold(self._unfolded, source, first, last)
            return
        low = builder.add(builder.mul(first, I64(down.step)), I64(down.offsets[0]))
        high = builder.add(builder.mul(builder.sub(last, I64(1)), I64(down.step)), I64(down.offsets[-1] + 1))
        self._seen.bring(source, kernel.clamp(low, 0, rows), kernel.clamp(high, 0, rows))

    def _unfold(self, unfolded: NarrowUnfolding, source: Value, first: Value, last: Value) -> None:
        """Lines of each channel that a row of the outputs sees."""
        kernel, seen, size = self._kernel, self._seen, self._reach * self._width
        unfolded.bring(source, first, last)
        seen.begin(first)
        with kernel.loop(last, first) as row:
            sources = unfolded.lines(row)
            with kernel.loop(self._count) as step:
                for channel, line in enumerate(sources):
                    words = kernel.words(kernel.place(line, (step, self._reach)), size)
                    kernel.write(words, kernel.place(seen.line(row, 0, I64(channel)), (step, self._reach)))

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

    def _steps(self, column: int) -> tuple[int, int]:
        return 0, self._count

    def _take_data(self, i: int, meeting: Meeting) -> None:
        number, shift = self._lines.places[meeting.column]
        builder, ins = self._kernel.builder, self._shape.ins
        channel = builder.add(builder.mul(meeting.into, I64(SIDE * ins)), I64(SIDE * i))
        line = self._kernel.place(self._seen.line(meeting.seen, number, channel), shift, (meeting.step, self._reach))
        self._matrices.take_first(i, line, 2 * self._width * self._lines.count)

    def _take_gradient(self, o: int, meeting: Meeting) -> None:
        self._matrices.take_second(o, self._turned_at(meeting.row, meeting.step, I64(o)), ROW_BYTES)
