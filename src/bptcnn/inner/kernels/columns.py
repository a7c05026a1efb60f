"""Writing machine code: vectors that hold several columns of few samples.

Where a batch has fewer samples than a register lanes, a register holds the sums of neighbouring outputs of a row, each
for all samples of the block. What they see lies side by side, too: it is loaded as it is, and weights are read as ever,
where PyTorch keeps them. Only where outputs see the padding, or columns are skipped, registers are put together.
"""

from __future__ import annotations

from collections.abc import Sequence

from llvmlite import ir

from bptcnn.inner.kernels.emit import F32, Value
from bptcnn.inner.kernels.shape import Taps, Vectors
from bptcnn.inner.kernels.shuffles import filled, joined, part
from bptcnn.inner.kernels.vectors import Kernel


class ColumnKernel(Kernel):
    """A function that makes sums of several columns at once; see :class:`Kernel`.

    Args:
        module: where it belongs.
        name: of the function.
        vectors: the registers and what they hold.
        across: the filter's columns, of any phase.
    """

    def __init__(self, module: ir.Module, name: str, vectors: Vectors, across: Taps) -> None:
        super().__init__(module, name, vectors)
        self.columns = vectors.channels
        self._one, self.vector = self.vector, ir.VectorType(F32, vectors.lanes)
        self._step, self._every = across.step, across.every

    def seen(self, pointer: Value, apart: int | None, sees: Sequence[bool]) -> Value:
        """What neighbouring outputs see; zeros of the padding."""
        return self._gathered(pointer, self._step, sees)

    def load_sums(self, pointer: Value, apart: int) -> Value:
        """A place of each column."""
        return self._gathered(pointer, self._every, [True] * self.columns)

    def store_sums(self, value: Value, pointer: Value, apart: int) -> None:
        """Write a place of each column."""
        if self._every == 1:
            self.store(value, pointer)
            return
        for column in range(self.columns):
            self.store(part(self.builder, value, column, self._one.count), self.place(pointer, column * self._every))

    def _gathered(self, pointer: Value, apart: int, there: Sequence[bool]) -> Value:
        """Places that lie ``apart``, one for each column; zeros where none is."""
        if apart == 1 and all(there):
            return self.load(pointer)
        parts = [filled(self._one, 0.0)] * self.columns
        for column in (column for column, is_there in enumerate(there) if is_there):
            place = self.place(pointer, column * apart)
            parts[column] = self.builder.load(place, typ=self._one, align=self.place_bytes)
        return joined(self.builder, parts)
