"""Panels of tiles at some points of a product: factors of the gradients of weights."""

from __future__ import annotations

from collections.abc import Iterator

from bptcnn.inner.kernels.emit import I64, Value
from bptcnn.inner.kernels.shape import Plane
from bptcnn.inner.kernels.shuffles import transposed
from bptcnn.inner.kernels.winograd.combine import combined
from bptcnn.inner.kernels.winograd.forms import Matrix
from bptcnn.inner.kernels.winograd.kernel import TileKernel
from bptcnn.inner.kernels.winograd.strip import Strip
from bptcnn.inner.kernels.winograd.weight_tiling import WeightShape


class Points:
    """Brings panels of tiles to the points of a part, which all lie in one row.

    Args:
        kernel: in which that happens.
        shape: of the panels.
        plane: where they come from.
        matrix: of the transformation, ``[n, k]``: tiles have k rows and columns.
        padding: zeros around the maps.
        together: channels that change places with samples, as many as a register has lanes; 1 if none does.

    Attributes:
        memory: for each point, [groups of channels, registers of tiles, channels of a group] places.
    """

    def __init__(
        self, kernel: TileKernel, shape: WeightShape, plane: Plane, matrix: Matrix, padding: int, together: int
    ) -> None:
        self._kernel, self._shape, self._plane, self._matrix = kernel, shape, plane, matrix
        self._together = together
        self.memory = kernel.room(shape.along * self.apart, kernel.vector)
        self._strip = Strip(kernel, plane, shape.across, len(matrix[0]), padding, together)

    @property
    def apart(self) -> int:
        """Places from one point to the next."""
        return self._plane.channels // self._together * self._shape.apart(self._together)

    def emit(self, source: Value, start: Value, count: Value, part: Value) -> None:
        """Transform a panel.

        Args:
            source: data of all blocks.
            start: first row of tiles, counted over all blocks.
            count: rows of tiles.
            part: which points.
        """
        kernel, builder, shape, plane = self._kernel, self._kernel.builder, self._shape, self._plane
        chunks = len(self._matrix) // shape.along
        point, chunk = builder.udiv(part, I64(chunks)), builder.urem(part, I64(chunks))
        with kernel.loop(count) as row, kernel.loop(plane.channels // self._together) as group:
            index = builder.add(start, row)
            block, tile = builder.udiv(index, I64(shape.down)), builder.urem(index, I64(shape.down))
            with kernel.on_maps(1):
                maps = kernel.place(source, (block, plane.size), (group, self._together * plane.area))
            for a in _chosen(kernel, point, len(self._matrix)):
                with kernel.loop(self._together) as near:
                    with kernel.on_maps(1):
                        of_channel = kernel.place(maps, (near, plane.area))
                    self._strip.fill(of_channel, tile, self._matrix[a : a + 1], near)
            target = kernel.place(
                self.memory, (group, shape.apart(self._together)), (row, shape.across * self._together)
            )
            for first in _chosen(kernel, chunk, chunks):
                along = self._matrix[first * shape.along : (first + 1) * shape.along]
                with kernel.loop(shape.across) as x:
                    self._along_rows(x, along, kernel.place(target, (x, self._together)))

    def _along_rows(self, x: Value, along: Matrix, target: Value) -> None:
        """Of a register of tiles of each channel of a group."""
        kernel = self._kernel
        for b, factors in enumerate(along):
            # Loaded again for each point: there are not registers enough to keep them.
            again, values = kernel.anew(x), []
            for near in range(self._together):
                seen = [self._strip.seen(near, again, k) for k in range(len(factors))]
                values += combined(kernel, (factors,), seen)
            for place, value in enumerate(transposed(kernel, values)):
                kernel.store(value, kernel.place(target, b * self.apart + place))


def _chosen(kernel: TileKernel, index: Value, count: int) -> Iterator[int]:
    """Emit what follows for each number, to be done if an index is that."""
    for number in range(count):
        with kernel.builder.if_then(kernel.builder.icmp_signed("==", index, I64(number))):
            yield number
