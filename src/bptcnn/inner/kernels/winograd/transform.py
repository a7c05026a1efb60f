"""Data on its way to the points of a product."""

from __future__ import annotations

from collections.abc import Sequence

from bptcnn.inner.kernels.emit import I64, Function, Value
from bptcnn.inner.kernels.shape import Plane
from bptcnn.inner.kernels.shuffles import filled
from bptcnn.inner.kernels.vectors import Kernel
from bptcnn.inner.kernels.winograd.forms import OUTPUTS, Matrix
from bptcnn.inner.kernels.winograd.tiling import Shape


def combined(function: Function, matrix: Matrix, values: Sequence[Value]) -> list[Value]:
    """The products of a matrix and a column of vectors.

    Args:
        function: in which they are made.
        matrix: by rows, none of them all zeros.
        values: one for each of the matrix's columns.
    """
    return [_row(function, row, values) for row in matrix]


def _row(function: Function, row: Sequence[float], values: Sequence[Value]) -> Value:
    builder = function.builder
    # What is added or taken away as it is comes last: the first term then needs no multiplication of its own.
    terms = sorted(
        ((factor, value) for factor, value in zip(row, values, strict=True) if factor), key=lambda t: t[0] != 1
    )
    factor, total = terms[0]
    if factor != 1:
        total = builder.fmul(filled(total.type, factor), total)
    for factor, value in terms[1:]:
        if factor in (1, -1):
            total = (builder.fadd if factor == 1 else builder.fsub)(total, value)
        else:
            total = function.intrinsic("llvm.fma", filled(value.type, factor), value, total)
    return total


class Transform:
    """Brings bands of tiles to the points of a product.

    Args:
        kernel: in which that happens.
        shape: of the tiles.
        plane: where they come from.
        matrix: of the transformation, ``[n, k]``: tiles have k rows and columns.
        padding: zeros around the maps.

    Attributes:
        memory: for each point, [groups of tiles, channels, tiles of a group] places.
    """

    def __init__(self, kernel: Kernel, shape: Shape, plane: Plane, matrix: Matrix, padding: int) -> None:
        self._kernel, self._shape, self._plane, self._matrix, self._padding = kernel, shape, plane, matrix, padding
        self._points, self._reach = len(matrix), len(matrix[0])
        self._width = OUTPUTS * (shape.across - 1) + self._reach
        self.memory = kernel.room(shape.points * shape.apart(plane.channels), kernel.vector)
        self._columns = kernel.room(self._width * self._points, kernel.vector)
        self._nothing = kernel.room(plane.columns, kernel.vector)
        with kernel.loop(plane.columns) as column:
            kernel.store(kernel.constant(0.0), kernel.place(self._nothing, column))
        with kernel.loop(self._width * self._points) as place:
            kernel.store(kernel.constant(0.0), kernel.place(self._columns, place))

    def emit(self, source: Value, band: Value) -> None:
        """Transform a band.

        Args:
            source: all data of a block.
            band: which one.
        """
        kernel, shape, plane = self._kernel, self._shape, self._plane
        with kernel.loop(plane.channels) as channel, kernel.loop(shape.band) as near:
            maps = kernel.place(source, (channel, plane.area))
            tile = kernel.builder.add(kernel.builder.mul(band, I64(shape.band)), near)
            self._along_columns([self._row(maps, tile, a) for a in range(self._reach)])
            before = kernel.builder.mul(near, I64(shape.across))
            target = kernel.place(self.memory, (channel, shape.wide))
            with kernel.loop(shape.across) as x:
                index = kernel.builder.add(before, x)
                group, rest = (each(index, I64(shape.wide)) for each in (kernel.builder.udiv, kernel.builder.urem))
                self._along_rows(x, kernel.place(target, (group, plane.channels * shape.wide), rest))

    def _row(self, maps: Value, tile: Value, a: int) -> Value:
        """Where the a-th row of a row of tiles begins: outside of a map are zeros."""
        kernel, builder, plane = self._kernel, self._kernel.builder, self._plane
        row = builder.add(builder.mul(tile, I64(OUTPUTS)), I64(a - self._padding))
        inside = builder.icmp_unsigned("<", row, I64(plane.rows))
        return builder.select(inside, kernel.place(maps, (row, plane.columns)), self._nothing)

    def _along_columns(self, rows: Sequence[Value]) -> None:
        kernel = self._kernel
        with kernel.loop(min(self._plane.columns, self._width - self._padding)) as x:
            values = combined(kernel, self._matrix, [kernel.load(kernel.place(row, x)) for row in rows])
            for point, value in enumerate(values):
                kernel.store(
                    value, kernel.place(self._columns, (x, self._points), self._padding * self._points + point)
                )

    def _along_rows(self, x: Value, target: Value) -> None:
        kernel, points = self._kernel, self._points
        distance = self._shape.apart(self._plane.channels)
        corner = kernel.place(self._columns, (x, OUTPUTS * points))
        for a in range(points):
            seen = [kernel.load(kernel.place(corner, b * points + a)) for b in range(self._reach)]
            for b, value in enumerate(combined(kernel, self._matrix, seen)):
                kernel.store(value, kernel.place(target, (a * points + b) * distance))
