"""Data on its way to the points of a product."""

from __future__ import annotations

from bptcnn.inner.kernels.emit import I64, Value
from bptcnn.inner.kernels.shape import Plane
from bptcnn.inner.kernels.winograd.combine import combined
from bptcnn.inner.kernels.winograd.forms import Matrix
from bptcnn.inner.kernels.winograd.kernel import TileKernel
from bptcnn.inner.kernels.winograd.strip import Strip
from bptcnn.inner.kernels.winograd.tiling import Shape


class Transform:
    """Brings bands of tiles to the points of a product.

    Args:
        kernel: in which that happens.
        shape: of the tiles.
        plane: where they come from.
        matrix: of the transformation, ``[n, k]``: tiles have k rows and columns.
        padding: zeros around the maps.

    Attributes:
        memory: for each point, [groups of registers, channels, registers of a group], each of a tile or several.
    """

    def __init__(self, kernel: TileKernel, shape: Shape, plane: Plane, matrix: Matrix, padding: int) -> None:
        self._kernel, self._shape, self._plane, self._matrix = kernel, shape, plane, matrix
        self.memory = kernel.room(shape.points * shape.apart(plane.channels), kernel.vector)
        self._strip = Strip(kernel, plane, shape.across, len(matrix[0]), padding, len(matrix))

    def emit(self, source: Value, band: Value) -> None:
        """Transform a band.

        Args:
            source: all data of a block.
            band: which one.
        """
        kernel, shape, plane = self._kernel, self._shape, self._plane
        with kernel.loop(plane.channels) as channel, kernel.loop(shape.band) as near:
            with kernel.on_maps(1):
                maps = kernel.place(source, (channel, plane.area))
            tile = kernel.builder.add(kernel.builder.mul(band, I64(shape.band)), near)
            self._strip.fill(maps, tile, self._matrix)
            before = kernel.builder.mul(near, I64(shape.across))
            target = kernel.place(self.memory, (channel, shape.wide))
            with kernel.loop(shape.across) as x:
                index = kernel.builder.add(before, x)
                group, rest = (each(index, I64(shape.wide)) for each in (kernel.builder.udiv, kernel.builder.urem))
                self._along_rows(x, kernel.place(target, (group, plane.channels * shape.wide), rest))

    def _along_rows(self, x: Value, target: Value) -> None:
        kernel, points, distance = self._kernel, len(self._matrix), self._shape.apart(self._plane.channels)
        for a in range(points):
            seen = [self._strip.seen(a, x, b) for b in range(len(self._matrix[0]))]
            for b, value in enumerate(combined(kernel, self._matrix, seen)):
                kernel.store(value, kernel.place(target, (a * points + b) * distance))
