"""The gradient of a convolution with regard to its weights by products of matrices.

For each tap of the filter, area and block, ``sums [inputs, outputs]`` grow by
``data [inputs, samples] gradient [samples, outputs]``. Data of full blocks is multiplied as it lies; of the outputs'
gradient, rows and columns change places, pair of samples by pair of samples, once for all inputs and taps.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from itertools import product

from bptcnn.inner.kernels.bf16 import FLOATS, Bf16Kernel
from bptcnn.inner.kernels.emit import I64, Value
from bptcnn.inner.kernels.matrices.registers import Matrices
from bptcnn.inner.kernels.matrices.tiling import WeightTile
from bptcnn.inner.kernels.shape import ROW_BYTES, SIDE, Plane, Window, tiles
from bptcnn.inner.kernels.shuffles import filled, transposed
from bptcnn.inner.kernels.vectors import Kernel

MANY_AREAS = 128
"""Areas of a map from which on sums end with a block, or with some of its rows, and are added up."""

PAIRS = 16
"""Of numbers that are summed up by a product: rows of a second factor."""


@dataclass(frozen=True, slots=True)
class Meeting:
    """Data and the outputs' gradient, as one column of the filter brings them together.

    Attributes:
        block: of samples.
        into: tile of input channels.
        seen: row of the data.
        row: of the outputs, counted from the first that was brought together.
        step: along the row.
        column: of the filter.
    """

    block: Value
    into: Value
    seen: Value
    row: Value
    step: Value
    column: int


class MatrixGradient(ABC):
    """Emits the gradient of the weights of some output channels, of all blocks.

    Args:
        kernel: its arguments are those of :func:`~bptcnn.inner.kernels.weights.backward_weight`.
        window: of the convolution.
        data: what it saw.
        gradient: of what it made.
        shape: of the matrices.
        split: whether sums end with some rows, and are added up: one of very many numbers would lose digits.
    """

    def __init__(
        self, kernel: Bf16Kernel, window: Window, data: Plane, gradient: Plane, shape: WeightTile, *, split: bool
    ) -> None:
        self._kernel, self._window, self._data, self._gradient, self._shape = kernel, window, data, gradient, shape
        self._taps, self._split = window.rows * window.columns, split
        self._matrices = Matrices(kernel, 2 * PAIRS)
        self._sums = kernel.room(data.channels * self._taps * shape.outs, FLOATS)
        self._part = kernel.room(SIDE, FLOATS)

    @abstractmethod
    def _bring(self, tile: Value, block: Value, first: Value, last: Value) -> None:
        """Bring together what is needed for some rows of the outputs."""

    @abstractmethod
    def _steps(self, column: int) -> tuple[int, int]:
        """Along a row, where a column of the filter meets data: the first step, and one past the last."""

    @abstractmethod
    def _take_data(self, i: int, meeting: Meeting) -> None:
        """Read the numbers of 16 input channels."""

    @abstractmethod
    def _take_gradient(self, o: int, meeting: Meeting) -> None:
        """Read those of 16 output channels."""

    @property
    def _inputs(self) -> int:
        """Input channels that there are."""
        return self._data.channels

    def emit(self, tile: Value, blocks: Value) -> None:
        """Emit the sums of one tile.

        Args:
            tile: of output channels.
            blocks: how many there are.
        """
        kernel, gradient, builder = self._kernel, self._gradient, self._kernel.builder
        with kernel.loop(self._data.channels * self._taps * self._shape.outs) as line:
            builder.store(filled(FLOATS, 0.0), kernel.at(self._sums, line, kind=FLOATS), align=ROW_BYTES)
        with kernel.loop(blocks) as block, kernel.loop(tiles(gradient.rows, self._shape.rows)) as number:
            first = builder.mul(number, I64(self._shape.rows))
            last = kernel.clamp(builder.add(first, I64(self._shape.rows)), 0, gradient.rows)
            self._bring(tile, block, first, last)
            inputs = self._data.channels // (SIDE * self._shape.ins)
            with kernel.loop(inputs) as into, kernel.loop(self._window.rows) as filter_row:
                self._products(block, into, filter_row, first, last)
        self._write(tile)

    def release(self) -> None:
        """Emit the end."""
        self._matrices.release()

    def _products(self, block: Value, into: Value, filter_row: Value, first: Value, last: Value) -> None:
        """Of some input channels and one row of the filter."""
        kernel, window, data, gradient = self._kernel, self._window, self._data, self._gradient
        builder, shape, matrices = kernel.builder, self._shape, self._matrices
        offset = builder.sub(filter_row, I64(window.padding))
        begin = kernel.rounded_up(builder.sub(I64(0), offset), window.stride, gradient.rows)
        end = kernel.rounded_up(builder.sub(I64(data.rows), offset), window.stride, gradient.rows)
        begin = builder.select(builder.icmp_signed("<", begin, first), first, begin)
        end = kernel.least(end, last)
        for column in range(window.columns):
            low, high = self._steps(column)
            if low >= high:
                continue
            held = [self._sum(into, filter_row, column, i, o) for i, o in self._each()]
            for number, slot in enumerate(held):
                if self._split:
                    matrices.clear(number)
                else:
                    matrices.load(number, slot, shape.outs * ROW_BYTES)
            with kernel.loop_if_any(end, begin) as y, kernel.loop(high, low) as step:
                seen = builder.add(builder.mul(y, I64(window.stride)), offset)
                meeting = Meeting(block, into, seen, builder.sub(y, first), step, column)
                for i in range(shape.ins):
                    self._take_data(i, meeting)
                for o in range(shape.outs):
                    self._take_gradient(o, meeting)
                for number, (i, o) in enumerate(self._each()):
                    matrices.multiply(number, i, o)
            for number, slot in enumerate(held):
                self._keep(number, slot)

    def _keep(self, number: int, slot: Value) -> None:
        """Write a sum, or add it to those of other areas."""
        kernel, builder, outs = self._kernel, self._kernel.builder, self._shape.outs
        if not self._split:
            self._matrices.store(number, slot, outs * ROW_BYTES)
            return
        self._matrices.store(number, self._part, ROW_BYTES)
        with kernel.loop(SIDE) as row:
            target = kernel.at(slot, (row, outs), kind=FLOATS)
            new = builder.load(kernel.at(self._part, row, kind=FLOATS), typ=FLOATS, align=ROW_BYTES)
            before = builder.load(target, typ=FLOATS, align=ROW_BYTES)
            builder.store(builder.fadd(before, new), target, align=ROW_BYTES)

    def _each(self) -> list[tuple[int, int]]:
        return list(product(range(self._shape.ins), range(self._shape.outs)))

    def _sum(self, into: Value, filter_row: Value, filter_column: int, i: int, o: int) -> Value:
        """Where a sum begins: [inputs / (16 ins), taps, ins, 16 inputs, outs] lines of 16 output channels."""
        shape, kernel = self._shape, self._kernel
        lines = SIDE * shape.ins * shape.outs
        near = (into, self._taps * lines), (filter_row, self._window.columns * lines), I64(filter_column * lines)
        return kernel.at(self._sums, *near, I64(i * SIDE * shape.outs + o), kind=FLOATS)

    def _write(self, tile: Value) -> None:
        """Bring the sums to where PyTorch wants them: 16 weights of 16 output channels at a time."""
        kernel, outs, size = self._kernel, self._shape.outs, self._inputs * self._taps
        start = kernel.at(kernel.argument(2), (tile, SIDE * outs * size))
        for first, last, count in ((0, size // SIDE, SIDE), (size // SIDE * SIDE, size, 1)):
            if first == last:
                continue
            with kernel.loop(last, first) as chunk, kernel.loop(outs) as out:
                place = kernel.builder.mul(chunk, I64(count))
                lines = [self._line(kernel.builder.add(place, I64(near)), out) for near in range(count)]
                rows = transposed(kernel, lines) if count == SIDE else _numbers(kernel, lines[0])
                for channel, numbers in enumerate(rows):
                    target = kernel.at(start, (out, SIDE * size), place, channel * size)
                    kernel.builder.store(numbers, target, align=4)

    def _line(self, weight: Value, out: Value) -> Value:
        """The sums of one weight of 16 output channels."""
        kernel, builder, shape = self._kernel, self._kernel.builder, self._shape
        i, tap = builder.udiv(weight, I64(self._taps)), builder.urem(weight, I64(self._taps))
        into, within = builder.udiv(i, I64(SIDE * shape.ins)), builder.urem(i, I64(SIDE * shape.ins))
        lines = SIDE * shape.ins * shape.outs
        near = (into, self._taps * lines), (tap, lines), (within, shape.outs), out
        return builder.load(kernel.at(self._sums, *near, kind=FLOATS), typ=FLOATS, align=ROW_BYTES)


def _numbers(kernel: Kernel, vector: Value) -> list[Value]:
    """The numbers of a vector, one by one."""
    return [kernel.builder.extract_element(vector, I64(place)) for place in range(SIDE)]
