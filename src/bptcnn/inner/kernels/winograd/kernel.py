"""Writing machine code: tiles of neighbouring columns that share a register where samples are few."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from llvmlite import ir

from bptcnn.inner.kernels.emit import F32
from bptcnn.inner.kernels.shape import Vectors
from bptcnn.inner.kernels.vectors import Kernel


class TileKernel(Kernel):
    """A function that works on tiles: one in a register, or several that lie side by side where samples are few.

    Places and vectors are whole registers, but within :meth:`on_maps`.

    Args:
        module: where it belongs.
        name: of the function.
        vectors: the registers and what they hold.

    Attributes:
        several: tiles of a register.
        width: samples of a tile.
    """

    def __init__(self, module: ir.Module, name: str, vectors: Vectors) -> None:
        super().__init__(module, name, vectors)
        self.several, self.width = vectors.channels, vectors.width
        self._stored = self.vector = ir.VectorType(F32, vectors.lanes)

    @contextmanager
    def on_maps(self, count: int) -> Iterator[None]:
        """Within, places are those of maps, one for each column, and vectors are of some that lie side by side.

        Args:
            count: columns of a vector.
        """
        before = self._stored, self.vector
        self._stored, self.vector = ir.VectorType(F32, self.width), ir.VectorType(F32, count * self.width)
        yield
        self._stored, self.vector = before
