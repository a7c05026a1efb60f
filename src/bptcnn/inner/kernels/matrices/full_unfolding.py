"""Data unfolded: all that a filter sees at one place, as channels.

Where a layer has few input channels, the areas of the filter fill matrices in their place: a convolution of 3 channels
by 5 x 5 becomes one of 75 channels by 1 x 1.
"""

from __future__ import annotations

from itertools import product

from llvmlite import ir

from bptcnn.inner.kernels.bf16 import WORDS, FullBf16Kernel
from bptcnn.inner.kernels.emit import I64, Value
from bptcnn.inner.kernels.shape import Plane, Window

ZEROS = ir.Constant(WORDS, [0] * WORDS.count)


class FullUnfolding:
    """What the filter sees of one block at some places.

    Args:
        kernel: that reads it.
        window: of the convolution.
        data: what it sees.

    Attributes:
        count: channels of the unfolded data.
    """

    def __init__(self, kernel: FullBf16Kernel, window: Window, data: Plane) -> None:
        self._kernel, self._window, self._data = kernel, window, data
        self.count = data.channels * window.rows * window.columns

    def lines(self, pointer: Value, row: Value, column: Value) -> list[Value]:
        """The samples of each channel at one place of the outputs; zeros where the filter sees the padding.

        Args:
            pointer: of the block's data.
            row: of the outputs.
            column: of the outputs.
        """
        window, data, builder = self._window, self._data, self._kernel.builder
        rows, columns = (
            [builder.add(builder.mul(index, I64(window.stride)), I64(tap - window.padding)) for tap in range(taps)]
            for index, taps in ((row, window.rows), (column, window.columns))
        )
        return [self._line(pointer, i * data.area, y, x) for i, y, x in product(range(data.channels), rows, columns)]

    def _line(self, pointer: Value, channel: int, row: Value, column: Value) -> Value:
        kernel, builder = self._kernel, self._kernel.builder
        place = kernel.place(pointer, channel, (row, self._data.columns), column)
        if not self._window.padding:
            return kernel.factor(place)
        within = ((row, self._data.rows), (column, self._data.columns))
        there = builder.and_(*(builder.icmp_unsigned("<", index, I64(total)) for index, total in within))
        # Of the padding, the first place is read in its stead, and thrown away.
        return builder.select(there, kernel.factor(builder.select(there, place, pointer)), ZEROS)
