"""The outputs' gradient, as sums for the gradient of weights take it: where it lies, or gathered on the stack.

A register of a group of channels takes as many loads as the group has channels. So groups are brought together once for
all input channels and all places of the filter, some rows of a map at a time.
"""

from __future__ import annotations

from bptcnn.inner.kernels.emit import I64, Value
from bptcnn.inner.kernels.shape import Plane, tiles
from bptcnn.inner.kernels.vectors import Kernel

SCRATCH_BYTES, REGISTER_BYTES = 1 << 17, 64
"""Room for what is gathered: it stays in the cache, and on any stack."""


class InPlace:
    """The gradient of some channels where it lies.

    Args:
        kernel: that sums up.
        gradient: shape of the outputs.
        most: rows of a band at most.

    Attributes:
        bands: parts that the rows of a map fall into.
    """

    def __init__(self, kernel: Kernel, gradient: Plane, most: int) -> None:
        self._kernel, self._gradient = kernel, gradient
        self.bands = tiles(gradient.rows, max(1, most))
        self._most = tiles(gradient.rows, self.bands)  # all about equally high
        self._start: Value = None
        self._first, self._end = I64(0), I64(gradient.rows)

    def turn(self, start: Value, band: Value) -> None:
        """Turn to some channels.

        Args:
            start: of the first of them, in the first block.
            band: of the rows.
        """
        self._start = start
        if self.bands > 1:
            builder = self._kernel.builder
            self._first = builder.mul(band, I64(self._most))
            self._end = self._kernel.least(builder.add(self._first, I64(self._most)), I64(self._gradient.rows))

    def rows(self, begin: Value, end: Value) -> tuple[Value, Value]:
        """Those of some rows that belong to the band.

        Args:
            begin: the first.
            end: one past the last.

        Returns:
            The first of those, and one past the last.
        """
        if self.bands == 1:
            return begin, end
        builder = self._kernel.builder
        later = builder.select(builder.icmp_signed("<", begin, self._first), self._first, begin)
        return later, self._kernel.least(end, self._end)

    def at(self, out: int, block: Value, row: Value, column: Value) -> Value:
        """A place, as :meth:`Kernel.dot` takes it.

        Args:
            out: which of the channels, or of the groups.
            block: counted from the first.
            row: of the map.
            column: of the map.
        """
        gradient, kernel = self._gradient, self._kernel
        near = out * kernel.channels * gradient.area, (block, gradient.size), (row, gradient.columns), column
        return kernel.errors(kernel.place(self._start, *near), gradient.area)


class Gathered(InPlace):
    """The gradient of some groups of channels, gathered for one block.

    Args:
        kernel: that sums up.
        gradient: shape of the outputs.
        outs: groups.
    """

    def __init__(self, kernel: Kernel, gradient: Plane, outs: int) -> None:
        super().__init__(kernel, gradient, SCRATCH_BYTES // (REGISTER_BYTES * outs * gradient.columns))
        self._outs = outs
        self._memory: Value = None

    def turn(self, start: Value, band: Value) -> None:
        """Gather some groups."""
        super().turn(start, band)
        kernel, gradient, builder = self._kernel, self._gradient, self._kernel.builder
        with kernel.loop(self._end, self._first) as row, kernel.loop(gradient.columns) as column:
            for out in range(self._outs):
                together = super().at(out, I64(0), row, column)
                if self._memory is None:
                    with builder.goto_block(kernel.entry):
                        self._memory = builder.alloca(together.type, self._most * gradient.columns * self._outs)
                builder.store(together, self._slot(together.type, out, row, column))
        self._kind = together.type

    def at(self, out: int, block: Value, row: Value, column: Value) -> Value:
        """A place of a group."""
        return self._kernel.builder.load(self._slot(self._kind, out, row, column), typ=self._kind)

    def _slot(self, kind: Value, out: int, row: Value, column: Value) -> Value:
        builder, outs = self._kernel.builder, self._outs
        near = (builder.sub(row, self._first), self._gradient.columns * outs), (column, outs), I64(out)
        return self._kernel.at(self._memory, *near, kind=kind)
