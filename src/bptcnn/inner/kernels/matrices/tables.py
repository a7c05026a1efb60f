"""Tables of weights for products of matrices: first factors, one behind the other, made anew in every step.

Rows and columns change places in registers, 32 by 16 numbers at a time, so that memory is read and written as it lies.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager

from llvmlite import ir

from bptcnn.inner.kernels.bf16 import BF16, FLOATS
from bptcnn.inner.kernels.emit import I32, I64, Function, Value
from bptcnn.inner.kernels.shape import SIDE, Vectors, tiles
from bptcnn.inner.kernels.shuffles import joined, loaded, part, transposed
from bptcnn.inner.kernels.tables import paired

DWORDS = ir.VectorType(I32, SIDE)


def forward(module: ir.Module, name: str, _: Vectors, outs: int, ins: int, size: int, depth: int) -> None:
    """Emit ``table[m, t, g, o, i] = w[16 m + o, g depth + i, t]`` as bfloat16: matrices [16, depth].

    Arguments of the kernel: weights [outs, ins, size], table, first sixteen of output channels, one past the last.

    Args:
        module: gets the kernel.
        name: of the kernel.
        outs: output channels.
        ins: input channels.
        size: of the filter.
        depth: columns of a matrix.
    """
    function = Function(module, name)
    table, weights = _Table(function, ins, size, depth), function.argument(0)
    with function.loop(function.number(3), function.number(2)) as tile:
        for loop, there in table.groups():
            with loop as group, function.loop(SIDE) as row:
                source = function.at(weights, (tile, SIDE * ins * size), (row, ins * size), (group, depth * size))
                if size == 1:  # what is summed up lies side by side
                    table.write(tile, I64(0), group, row, _in_order(function, source, there))
                    continue
                for first in range(0, size, SIDE):
                    taps = min(SIDE, size - first)
                    for tap, entry in enumerate(_pairs(function, function.at(source, first), size, there, taps)[:taps]):
                        table.write(tile, I64(first + tap), group, row, entry)
    function.finish()


def backward(module: ir.Module, name: str, _: Vectors, outs: int, ins: int, size: int, depth: int) -> None:
    """Emit ``table[m, t, g, i, o] = w[g depth + o, 16 m + i, t]`` as bfloat16: matrices [16, depth].

    Arguments of the kernel: weights [outs, ins, size], table, first sixteen of input channels, one past the last.

    Args:
        module: gets the kernel.
        name: of the kernel.
        outs: output channels.
        ins: input channels.
        size: of the filter.
        depth: columns of a matrix.
    """
    function = Function(module, name)
    table, weights, builder = _Table(function, outs, size, depth), function.argument(0), function.builder
    with function.loop(function.number(3), function.number(2)) as tile:
        for loop, there in table.groups():
            # Sixteen input channels by all taps lie side by side: so many of them at a time as a register holds.
            with loop as group, function.loop(SIDE * size, step=SIDE) as first:
                source = function.at(weights, (group, depth * ins * size), (tile, SIDE * size), first)
                for place, entry in enumerate(_pairs(function, source, ins * size, there, SIDE)):
                    near = builder.add(first, I64(place))
                    row, tap = builder.udiv(near, I64(size)), builder.urem(near, I64(size))
                    table.write(tile, tap, group, row, entry)
    function.finish()


class _Table:
    """Where matrices go.

    Args:
        function: that writes them.
        count: channels that are summed up.
        size: of the filter.
        depth: columns of a matrix.
    """

    def __init__(self, function: Function, count: int, size: int, depth: int) -> None:
        self._function, self._count, self._size, self._depth = function, count, size, depth
        self._table = function.argument(1)

    def groups(self) -> Iterator[tuple[AbstractContextManager[Value], int]]:
        """Loops over groups of channels, and how many there are in each: zeros fill the last."""
        whole, rest = divmod(self._count, self._depth)
        if whole:
            yield self._function.loop(whole), self._depth
        if rest:
            yield self._function.loop(whole + 1, whole), rest

    def write(self, tile: Value, tap: Value, group: Value, row: Value, entry: Value) -> None:
        """Write a row of a matrix.

        Args:
            tile: of 16 rows.
            tap: of the filter.
            group: of channels.
            row: of the matrix.
            entry: pairs, int32.
        """
        function, pairs = self._function, self._depth // 2
        groups = tiles(self._count, self._depth)
        near = (
            (tile, self._size * groups * SIDE * pairs),
            (tap, groups * SIDE * pairs),
            (group, SIDE * pairs),
            (row, pairs),
        )
        entry = part(function.builder, entry, 0, pairs)
        function.builder.store(entry, function.at(self._table, *near, kind=I32), align=4)


def _in_order(function: Function, pointer: Value, there: int) -> Value:
    """Pairs of neighbours, zeros for those that are not there."""
    halves = [
        loaded(function, function.at(pointer, half * SIDE), SIDE, min(there - half * SIDE, SIDE)) for half in (0, 1)
    ]
    numbers = function.builder.fptrunc(joined(function.builder, halves), ir.VectorType(BF16, 2 * SIDE))
    return function.builder.bitcast(numbers, DWORDS)


def _pairs(function: Function, pointer: Value, apart: int, there: int, columns: int) -> list[Value]:
    """Pairs of neighbouring channels: of each column, one vector.

    Args:
        function: in which they are made.
        pointer: of the first channel.
        apart: numbers from one channel to the next.
        there: channels; zeros stand for others.
        columns: that are there, 16 at most.
    """

    def channel(index: int) -> Value:
        pointed = function.at(pointer, index * apart)
        return loaded(function, pointed, FLOATS.count, columns if index < there else 0)

    rows = [paired(function, channel(2 * pair), channel(2 * pair + 1)) for pair in range(SIDE)]
    return transposed(function, [function.builder.bitcast(row, DWORDS) for row in rows])
