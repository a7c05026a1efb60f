"""What convolutions by products of matrices have in common, however their data is brought together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from bptcnn.inner.kernels.bf16 import Bf16Kernel
from bptcnn.inner.kernels.emit import I64, Value
from bptcnn.inner.kernels.matrices.registers import LINE, Matrices
from bptcnn.inner.kernels.matrices.tiling import Tile
from bptcnn.inner.kernels.shape import SIDE, Taps
from bptcnn.inner.kernels.sums import Pointers, Sum, rows_seen


@dataclass(frozen=True, slots=True)
class FilterRow:
    """What one row of the filter meets.

    Attributes:
        group: of input channels.
        place: in the filter.
        seen: row of the data.
    """

    group: Value
    place: Value
    seen: Value


class MatrixSums:
    """A convolution in the making.

    Args:
        kernel: in which it is made.
        spec: the sums.
        shape: of the matrices.

    Attributes:
        matrices: the registers.
        pointers: of the kernel.
        groups: of input channels, whose products are summed up at once.
    """

    def __init__(self, kernel: Bf16Kernel, spec: Sum, shape: Tile) -> None:
        self._kernel, self._spec, self._shape = kernel, spec, shape
        self.pointers = Pointers(*(kernel.argument(place) for place in range(6)))
        self.matrices = Matrices(kernel, shape.depth)
        self.groups = spec.data.channels // shape.depth

    def seen(self, down: Taps, begin: Value, end: Value) -> tuple[Value, Value]:
        """Rows of the data that some rows of the outputs see.

        Args:
            down: the filter's rows, of one phase.
            begin: the first row of the phase.
            end: one past the last.

        Returns:
            The first, and one past the last.
        """
        kernel, builder, rows = self._kernel, self._kernel.builder, self._spec.data.rows
        low = builder.add(builder.mul(begin, I64(down.step)), I64(min(down.offsets)))
        high = builder.add(builder.mul(builder.sub(end, I64(1)), I64(down.step)), I64(max(down.offsets) + 1))
        return kernel.clamp(low, 0, rows), kernel.clamp(high, 0, rows)

    def each_row(self, down: Taps, row: Value, emit: Callable[[FilterRow], None]) -> None:
        """Emit something for each group of input channels and each row of the filter that meets the data.

        Args:
            down: the filter's rows, of one phase.
            row: of the phase.
            emit: what is emitted.
        """
        kernel, builder = self._kernel, self._kernel.builder
        direction = down.offsets[1] - down.offsets[0] if len(down.offsets) > 1 else 1
        apart = down.places[1] - down.places[0] if len(down.places) > 1 else 1
        first = builder.mul(row, I64(down.step))
        begin, end = rows_seen(kernel, down, direction, first, self._spec.data.rows)
        with kernel.loop(self.groups) as group, kernel.loop_if_any(end, begin) as tap:
            place = builder.add(I64(down.places[0]), builder.mul(tap, I64(apart)))
            offset = builder.add(I64(down.offsets[0]), builder.mul(tap, I64(direction)))
            emit(FilterRow(group, place, builder.add(first, offset)))

    def take_weights(self, tile: Value, tall: int, row: FilterRow, column: int) -> None:
        """Read a matrix of weights.

        Args:
            tile: of output channels.
            tall: which of its matrices.
            row: of the filter.
            column: of the filter.
        """
        spec, shape, of_tap = self._spec, self._shape, self.groups * self._shape.lines
        of_filter = spec.filter_rows * spec.filter_columns * of_tap
        near = (tile, shape.tall * of_filter), (row.place, spec.filter_columns * of_tap), (row.group, shape.lines)
        pointer = self._kernel.at(self.pointers.weights, *near, tall * of_filter + column * of_tap, kind=LINE)
        self.matrices.take_first(tall, pointer, 2 * shape.depth)

    def channel(self, tile: Value, tall: int, row: Value) -> Value:
        """An output channel.

        Args:
            tile: of channels.
            tall: which of its matrices.
            row: of the matrix.
        """
        builder = self._kernel.builder
        return builder.add(builder.add(builder.mul(tile, I64(SIDE * self._shape.tall)), I64(SIDE * tall)), row)
