"""The gradient of a convolution with regard to its weights by products of matrices.

For each tap of the filter, area and block, ``sums [inputs, outputs]`` grow by
``data [inputs, samples] gradient [samples, outputs]``. Data is multiplied as it lies; of the outputs' gradient, rows
and columns change places, pair of samples by pair of samples, once for all inputs and taps.
"""

from __future__ import annotations

from itertools import product

from llvmlite import ir

from bptcnn.inner.kernels.bf16 import FLOATS
from bptcnn.inner.kernels.emit import I32, I64, Value
from bptcnn.inner.kernels.matrix import ROW_BYTES, Matrices, room
from bptcnn.inner.kernels.matrix_tiling import WeightTile
from bptcnn.inner.kernels.matrix_unfold import ZEROS, Unfolded
from bptcnn.inner.kernels.shape import SIDE, Plane, Window, tiles
from bptcnn.inner.kernels.shuffles import filled, square
from bptcnn.inner.kernels.vectors import Kernel

MANY_AREAS = 128
"""Areas of a map from which on sums end with a block, or with some of its rows, and are added up."""

PAIRS = 16
"""Of samples in a block: rows of a second factor."""


class MatrixGradient:
    """Emits the gradient of the weights of some output channels, of all blocks.

    Args:
        kernel: on places that fill registers of bfloat16 numbers; its arguments are those of
            :func:`~bptcnn.inner.kernels.weights.backward_weight`.
        window: of the convolution.
        data: what it saw.
        gradient: of what it made.
        shape: of the matrices.
        unfolded: whence the data comes, if it does not lie anywhere as it is multiplied.
    """

    def __init__(
        self,
        kernel: Kernel,
        window: Window,
        data: Plane,
        gradient: Plane,
        shape: WeightTile,
        unfolded: tuple[Unfolded, Plane] | None = None,
    ) -> None:
        self._kernel, self._window, self._data, self._gradient, self._shape = kernel, window, data, gradient, shape
        self._taps = window.rows * window.columns
        self._matrices = Matrices(kernel, 2 * PAIRS)
        self._turned = room(kernel, shape.rows * gradient.columns * shape.outs * PAIRS, FLOATS)
        self._sums = room(kernel, data.channels * self._taps * shape.outs, FLOATS)
        # A sum of very many numbers, one after the other, would lose digits.
        self._split, self._part = gradient.area >= MANY_AREAS, room(kernel, SIDE, FLOATS)
        self._unfolded = unfolded[0] if unfolded else None
        self._folded = unfolded[1] if unfolded else data
        self._seen = room(kernel, shape.rows * data.columns * data.channels, FLOATS) if unfolded else None

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
            self._turn(tile, block, first, last)
            if self._unfolded:
                self._unfold(self._unfolded, block, first, last)
            inputs = self._data.channels // (SIDE * self._shape.ins)
            with kernel.loop(inputs) as into, kernel.loop(self._window.rows) as filter_row:
                self._products(block, into, filter_row, first, last)
        self._write(tile)

    def release(self) -> None:
        """Emit the end."""
        self._matrices.release()

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

    def _unfold(self, unfolded: Unfolded, block: Value, first: Value, last: Value) -> None:
        """Some rows of the data: [rows, columns, channels] lines."""
        kernel, data, builder = self._kernel, self._data, self._kernel.builder
        source = kernel.place(kernel.argument(0), (block, self._folded.size))
        with kernel.loop(last, first) as row, kernel.loop(data.columns) as column:
            near = (builder.sub(row, first), data.columns * data.channels), (column, data.channels)
            target = kernel.at(self._seen, *near, kind=FLOATS)
            lines = unfolded.lines(source, row, column)
            for channel, words in enumerate(lines + [ZEROS] * (data.channels - len(lines))):
                builder.store(builder.bitcast(words, FLOATS), kernel.at(target, channel, kind=FLOATS), align=ROW_BYTES)

    def _take_data(self, block: Value, into: Value, i: int, place: tuple[Value, Value, Value]) -> None:
        """Read the samples of 16 input channels."""
        kernel, data, (row, column, within) = self._kernel, self._data, place
        if self._unfolded:
            lines = (within, data.columns * data.channels), (column, data.channels), (into, SIDE * self._shape.ins)
            self._matrices.take_first(i, kernel.at(self._seen, *lines, i * SIDE, kind=FLOATS), ROW_BYTES)
        else:
            near = (block, data.size), (into, SIDE * self._shape.ins * data.area), (row, data.columns), column
            first = kernel.place(kernel.argument(0), *near, i * SIDE * data.area)
            self._matrices.take_first(i, first, data.area * ROW_BYTES)

    def _products(self, block: Value, into: Value, filter_row: Value, first: Value, last: Value) -> None:
        """Of some input channels and one row of the filter."""
        kernel, window, data, gradient = self._kernel, self._window, self._data, self._gradient
        builder, shape, matrices = kernel.builder, self._shape, self._matrices
        offset = builder.sub(filter_row, I64(window.padding))
        begin = kernel.rounded_up(builder.sub(I64(0), offset), window.stride, gradient.rows)
        end = kernel.rounded_up(builder.sub(I64(data.rows), offset), window.stride, gradient.rows)
        begin = builder.select(builder.icmp_signed("<", begin, first), first, begin)
        end = kernel.least(end, last)
        for filter_column in range(window.columns):
            shift = filter_column - window.padding
            seen = [x for x in range(gradient.columns) if 0 <= window.stride * x + shift < data.columns]
            if not seen:
                continue
            held = [self._sum(into, filter_row, filter_column, i, o) for i, o in self._each()]
            for number, slot in enumerate(held):
                if self._split:
                    matrices.clear(number)
                else:
                    matrices.load(number, slot, shape.outs * ROW_BYTES)
            with kernel.loop_if_any(end, begin) as y, kernel.loop(seen[-1] + 1, seen[0]) as x:
                seen_row = builder.add(builder.mul(y, I64(window.stride)), offset)
                seen_column = builder.add(builder.mul(x, I64(window.stride)), I64(shift))
                row = builder.sub(y, first)
                for i in range(shape.ins):
                    self._take_data(block, into, i, (seen_row, seen_column, row))
                for o in range(shape.outs):
                    lines = (row, gradient.columns * shape.outs * PAIRS), (x, shape.outs * PAIRS), I64(o * PAIRS)
                    matrices.take_second(o, kernel.at(self._turned, *lines, kind=FLOATS), ROW_BYTES)
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
        """Bring the sums to where PyTorch wants them."""
        kernel, builder, shape = self._kernel, self._kernel.builder, self._shape
        inputs = self._unfolded.count if self._unfolded else self._data.channels
        size, lines = inputs * self._taps, SIDE * shape.ins * shape.outs
        start = kernel.at(kernel.argument(2), (tile, SIDE * shape.outs * size))
        with kernel.loop(inputs) as i, kernel.loop(self._taps) as tap, kernel.loop(shape.outs) as o:
            into, within = builder.udiv(i, I64(SIDE * shape.ins)), builder.urem(i, I64(SIDE * shape.ins))
            near = (into, self._taps * lines), (tap, lines), (within, shape.outs), o
            total = builder.load(kernel.at(self._sums, *near, kind=FLOATS), typ=FLOATS, align=ROW_BYTES)
            _scatter(kernel, total, kernel.at(start, (o, SIDE * size), (i, self._taps), tap), size)


def _scatter(kernel: Kernel, numbers: Value, first: Value, span: int) -> None:
    """Write 16 numbers so far apart."""
    lanes = ir.Constant(ir.VectorType(ir.IntType(1), SIDE), [1] * SIDE)
    places = ir.Constant(ir.VectorType(I32, SIDE), [span * place for place in range(SIDE)])
    kernel.instruction("llvm.x86.avx512.mask.scatter.dps.512", ir.VoidType(), first, lanes, places, numbers, I32(4))
