"""Rows of tiles half on their way: what a transformation makes of their columns, and what each tile sees of that."""

from __future__ import annotations

from collections.abc import Sequence

from llvmlite import ir

from bptcnn.inner.kernels.emit import F32, I64, Value
from bptcnn.inner.kernels.shape import Plane
from bptcnn.inner.kernels.shuffles import shuffled
from bptcnn.inner.kernels.winograd.combine import combined
from bptcnn.inner.kernels.winograd.forms import OUTPUTS, Matrix
from bptcnn.inner.kernels.winograd.kernel import TileKernel


class Strip:
    """Room for one row of tiles of some channels, transformed along columns.

    Tiles begin every second column. Even columns are kept apart from odd ones, so that what neighbouring tiles see in
    one column of theirs lies side by side, as they do in a register.

    Args:
        kernel: in which they are transformed.
        plane: where they come from.
        across: registers of tiles of a row.
        reach: columns of a tile.
        padding: zeros around the maps.
        count: rows of numbers there is room for.
    """

    def __init__(self, kernel: TileKernel, plane: Plane, across: int, reach: int, padding: int, count: int) -> None:
        self._kernel, self._plane, self._padding = kernel, plane, padding
        columns = OUTPUTS * (across * kernel.several - 1) + reach
        self._used = min(plane.columns, columns - padding)
        self._half = across * kernel.several + reach // 2
        self._apart = OUTPUTS * self._half
        place = ir.VectorType(F32, kernel.width)
        self._memory, self._nothing = kernel.room(count * self._apart, place), kernel.room(plane.columns, place)
        with kernel.on_maps(1):
            for zeros, places in ((self._memory, count * self._apart), (self._nothing, plane.columns)):
                with kernel.loop(places) as each:
                    kernel.store(kernel.constant(0.0), kernel.place(zeros, each))

    def fill(self, maps: Value, tile: Value, matrix: Matrix, first: Value | int = 0) -> None:
        """Transform a row of tiles along columns.

        Args:
            maps: of the channel.
            tile: row of tiles.
            matrix: of the transformation; each of its rows makes a row of numbers.
            first: where these begin.
        """
        kernel, several = self._kernel, self._kernel.several
        with kernel.on_maps(1):
            rows = [self._row(maps, tile, a) for a in range(len(matrix[0]))]
        whole = self._used // several * several if several > 1 else 0
        if whole:
            with kernel.on_maps(several), kernel.loop(whole, step=several) as x:
                values = combined(kernel, matrix, [kernel.load(kernel.place(row, x)) for row in rows])
                for index, value in enumerate(values):
                    self._spread(value, x, self._at(first, index))
        if whole < self._used:
            with kernel.on_maps(1), kernel.loop(self._used, whole) as x:
                column = kernel.builder.add(x, I64(self._padding))
                half, place = kernel.builder.and_(column, I64(1)), kernel.builder.lshr(column, I64(1))
                values = combined(kernel, matrix, [kernel.load(kernel.place(row, x)) for row in rows])
                for index, value in enumerate(values):
                    kernel.store(value, kernel.place(self._at(first, index), (half, self._half), place))

    def seen(self, row: Value | int, x: Value, column: int) -> Value:
        """What the tiles of a register see.

        Args:
            row: of numbers.
            x: register of tiles.
            column: of each tile.
        """
        kernel = self._kernel
        with kernel.on_maps(kernel.several):
            near = column % OUTPUTS * self._half + column // OUTPUTS
            return kernel.load(kernel.place(self._at(row, 0), (x, kernel.several), near))

    def _at(self, first: Value | int, index: int) -> Value:
        """Where a row of numbers begins."""
        first = I64(first) if isinstance(first, int) else first
        return self._kernel.place(self._memory, (first, self._apart), index * self._apart)

    def _row(self, maps: Value, tile: Value, a: int) -> Value:
        """Where the a-th row of a row of tiles begins: outside of a map are zeros."""
        kernel, builder, plane = self._kernel, self._kernel.builder, self._plane
        row = builder.add(builder.mul(tile, I64(OUTPUTS)), I64(a - self._padding))
        inside = builder.icmp_unsigned("<", row, I64(plane.rows))
        return builder.select(inside, kernel.place(maps, (row, plane.columns)), self._nothing)

    def _spread(self, value: Value, x: Value, target: Value) -> None:
        """Store several columns, even ones apart from odd ones."""
        kernel, width = self._kernel, self._kernel.width
        for parity in range(OUTPUTS):
            columns = [near for near in range(kernel.several) if (near + self._padding) % OUTPUTS == parity]
            lanes = [near * width + lane for near in columns for lane in range(width)]
            place = kernel.builder.lshr(x, I64(1))
            near = parity * self._half + (columns[0] + self._padding) // OUTPUTS
            kernel.store(shuffled(kernel.builder, value, value, lanes), kernel.place(target, place, near))


def alternating(kernel: TileKernel, halves: Sequence[Value]) -> Value:
    """Columns side by side, of even ones and odd ones of neighbouring tiles.

    Args:
        kernel: in which they are put together.
        halves: the even columns of a register of tiles, and the odd ones.
    """
    even, odd = halves
    width, count = kernel.width, even.type.count
    lanes = [
        half * count + tile * width + lane
        for tile in range(kernel.several)
        for half in range(OUTPUTS)
        for lane in range(width)
    ]
    return shuffled(kernel.builder, even, odd, lanes)
