"""The gradient of weights by products of matrices where the samples of a block fill them."""

from __future__ import annotations

from bptcnn.inner.kernels.bf16 import FLOATS, FullBf16Kernel
from bptcnn.inner.kernels.emit import I64, Value
from bptcnn.inner.kernels.matrices.full_unfolding import ZEROS, FullUnfolding
from bptcnn.inner.kernels.matrices.gradient import MANY_AREAS, PAIRS, MatrixGradient, Meeting
from bptcnn.inner.kernels.matrices.tiling import WeightTile
from bptcnn.inner.kernels.shape import ROW_BYTES, SIDE, Plane, Window
from bptcnn.inner.kernels.shuffles import square


class FullGradient(MatrixGradient):
    """See :class:`~bptcnn.inner.kernels.matrices.gradient.MatrixGradient`: a step along a row is a column.

    Args:
        kernel: on places that fill registers of bfloat16 numbers.
        window: of the convolution.
        data: what it saw.
        gradient: of what it made.
        shape: of the matrices.
        unfolded: whence the data comes, if it does not lie anywhere as it is multiplied.
    """

    def __init__(
        self,
        kernel: FullBf16Kernel,
        window: Window,
        data: Plane,
        gradient: Plane,
        shape: WeightTile,
        unfolded: tuple[FullUnfolding, Plane] | None = None,
    ) -> None:
        super().__init__(kernel, window, data, gradient, shape, split=gradient.area >= MANY_AREAS)
        self._turned = kernel.room(shape.rows * gradient.columns * shape.outs * PAIRS, FLOATS)
        self._unfolded = unfolded[0] if unfolded else None
        self._folded = unfolded[1] if unfolded else data
        self._seen = kernel.room(shape.rows * data.columns * data.channels, FLOATS) if unfolded else None

    @property
    def _inputs(self) -> int:
        return self._unfolded.count if self._unfolded else self._data.channels

    def _bring(self, tile: Value, block: Value, first: Value, last: Value) -> None:
        self._turn(tile, block, first, last)
        if self._unfolded:
            self._unfold(self._unfolded, block, first, last)

    def _turn(self, tile: Value, block: Value, first: Value, last: Value) -> None:
        """Some rows of the outputs' gradient: [rows, columns, outs, pairs] lines of 16 channels."""
        kernel, gradient, builder, outs = self._kernel, self._gradient, self._kernel.builder, self._shape.outs
        source = kernel.place(kernel.argument(1), (block, gradient.size), (tile, SIDE * outs * gradient.area))
        with kernel.loop(last, first) as row, kernel.loop(gradient.columns) as column, kernel.loop(outs) as out:
            corner = kernel.place(source, (out, SIDE * gradient.area), (row, gradient.columns), column)
            near = (builder.sub(row, first), gradient.columns * outs * PAIRS), (column, outs * PAIRS), (out, PAIRS)
            target = kernel.at(self._turned, *near, kind=FLOATS)
            for pair, channels in enumerate(square(kernel, corner, gradient.area * PAIRS, SIDE)):
                builder.store(channels, kernel.at(target, pair, kind=FLOATS), align=ROW_BYTES)

    def _unfold(self, unfolded: FullUnfolding, block: Value, first: Value, last: Value) -> None:
        """Some rows of the data: [rows, columns, channels] lines."""
        kernel, data, builder = self._kernel, self._data, self._kernel.builder
        source = kernel.place(kernel.argument(0), (block, self._folded.size))
        with kernel.loop(last, first) as row, kernel.loop(data.columns) as column:
            near = (builder.sub(row, first), data.columns * data.channels), (column, data.channels)
            target = kernel.at(self._seen, *near, kind=FLOATS)
            lines = unfolded.lines(source, row, column)
            for channel, words in enumerate(lines + [ZEROS] * (data.channels - len(lines))):
                builder.store(builder.bitcast(words, FLOATS), kernel.at(target, channel, kind=FLOATS), align=ROW_BYTES)

    def _steps(self, column: int) -> tuple[int, int]:
        window, shift = self._window, column - self._window.padding
        seen = [x for x in range(self._gradient.columns) if 0 <= window.stride * x + shift < self._data.columns]
        return (seen[0], seen[-1] + 1) if seen else (0, 0)

    def _take_data(self, i: int, meeting: Meeting) -> None:
        kernel, window, data, ins = self._kernel, self._window, self._data, SIDE * self._shape.ins
        if self._unfolded:
            lines = (meeting.row, data.columns * data.channels), (meeting.step, data.channels), (meeting.into, ins)
            self._matrices.take_first(i, kernel.at(self._seen, *lines, i * SIDE, kind=FLOATS), ROW_BYTES)
            return
        column = kernel.builder.add(
            kernel.builder.mul(meeting.step, I64(window.stride)), I64(meeting.column - window.padding)
        )
        near = (meeting.block, data.size), (meeting.into, ins * data.area), (meeting.seen, data.columns), column
        first = kernel.place(kernel.argument(0), *near, i * SIDE * data.area)
        self._matrices.take_first(i, first, data.area * ROW_BYTES)

    def _take_gradient(self, o: int, meeting: Meeting) -> None:
        outs = self._shape.outs
        lines = (meeting.row, self._gradient.columns * outs * PAIRS), (meeting.step, outs * PAIRS), I64(o * PAIRS)
        self._matrices.take_second(o, self._kernel.at(self._turned, *lines, kind=FLOATS), ROW_BYTES)
