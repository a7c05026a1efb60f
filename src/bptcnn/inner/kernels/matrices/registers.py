"""Writing machine code: registers that hold whole matrices (Intel's AMX), and products of them.

One instruction multiplies a matrix [16, depth] of bfloat16 numbers by one [depth, 16] and adds the product to one of
[16, 16] float32 numbers: 16 times as many products as one that multiplies vectors. Neighbours in a column of the second
factor lie side by side, as pairs: [depth / 2, 16, 2].

Source: Intel, "Architecture instruction set extensions programming reference", chapter on AMX.
"""

from __future__ import annotations

from llvmlite import ir

from bptcnn.inner.kernels.emit import I64, Function, Value
from bptcnn.inner.kernels.shape import FACTORS, ROW_BYTES, SIDE, SUMS

I8 = ir.IntType(8)

LINE = ir.VectorType(I8, ROW_BYTES)
"""Memory in units of a row."""

_PALETTE = 1


class Matrices:
    """The matrix registers of a kernel: sums, first factors [16, depth], and second factors [depth / 2, 16, 2].

    Args:
        kernel: that computes with them; it must :meth:`release` them in the end.
        depth: products of a sum, even, 32 at most.
    """

    def __init__(self, kernel: Function, depth: int) -> None:
        self._kernel = kernel
        columns = [ROW_BYTES] * SUMS + [2 * depth] * FACTORS + [ROW_BYTES] * FACTORS
        rows = [SIDE] * (SUMS + FACTORS) + [depth // 2] * FACTORS
        shapes = [_PALETTE, *[0] * 15, *(byte for count in columns for byte in (count, 0)), *[0] * 16, *rows, *[0] * 8]
        memory = kernel.room(1, LINE)
        kernel.builder.store(ir.Constant(LINE, [I8(byte) for byte in shapes]), memory, align=1)
        self._call("ldtilecfg", memory)

    def release(self) -> None:
        """Give them back: what the core keeps of them costs whoever is on it next."""
        self._call("tilerelease")

    def clear(self, total: int) -> None:
        """Make a sum zero."""
        self._call("tilezero", I8(total))

    def load(self, total: int, pointer: Value, apart: int) -> None:
        """Read a sum.

        Args:
            total: which sum.
            pointer: of its first row.
            apart: bytes from one row to the next.
        """
        self._call("tileloadd64", I8(total), pointer, I64(apart))

    def store(self, total: int, pointer: Value, apart: int) -> None:
        """Write a sum.

        Args:
            total: which sum.
            pointer: of its first row.
            apart: bytes from one row to the next.
        """
        self._call("tilestored64", I8(total), pointer, I64(apart))

    def take_first(self, one: int, pointer: Value, apart: int) -> None:
        """Read a first factor.

        Args:
            one: which first factor.
            pointer: of its first row.
            apart: bytes from one row to the next.
        """
        self._call("tileloadd64", I8(SUMS + one), pointer, I64(apart))

    def take_second(self, other: int, pointer: Value, apart: int) -> None:
        """Read a second factor.

        Args:
            other: which second factor.
            pointer: of its first row.
            apart: bytes from one row to the next.
        """
        self._call("tileloadd64", I8(SUMS + FACTORS + other), pointer, I64(apart))

    def multiply(self, total: int, one: int, other: int) -> None:
        """Add a product to a sum.

        Args:
            total: which sum.
            one: which first factor.
            other: which second factor.
        """
        self._call("tdpbf16ps", I8(total), I8(SUMS + one), I8(SUMS + FACTORS + other))

    def _call(self, name: str, *operands: Value) -> None:
        self._kernel.instruction(f"llvm.x86.{name}", ir.VoidType(), *operands)
