"""Writing machine code: vectors of samples kept as bfloat16, computed with as float32.

One instruction (AVX512-BF16's ``vdpbf16ps``) multiplies two registers of 32 bfloat16 numbers and adds the products of
neighbours to 16 float32 sums, at twice the rate of float32. Where a place of 32 samples fills a register:

- *forward, and backward to the data*: neighbours are the same sample in two channels. Places of two channels are woven
  into each other, in two registers of 16 samples each; weights are read from tables of pairs.
- *backward to the weights*: neighbours are two samples, as they lie.

Source: Intel, "Bfloat16 hardware numerics definition", 2018.
"""

from __future__ import annotations

from llvmlite import ir

from bptcnn.inner.kernels.emit import F32, I32, Value
from bptcnn.inner.kernels.shape import Vectors
from bptcnn.inner.kernels.shuffles import filled, part, shuffled, splat
from bptcnn.inner.kernels.vectors import Kernel

I16 = ir.IntType(16)


class _BFloat(ir.Type):  # type: ignore[misc]
    """LLVM's type of bfloat16 numbers, which the instruction builder does not know."""

    def _to_string(self) -> str:
        return "bfloat"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _BFloat)

    def __hash__(self) -> int:
        return hash(_BFloat)


BF16 = _BFloat()

WORDS, FLOATS = ir.VectorType(I16, 32), ir.VectorType(F32, 16)
"""A register, by what is seen in it."""

GROUP = 4
"""Words that the instructions which weave two registers take of each in turns."""

LOW = [8 * quarter + word for quarter in range(4) for word in range(GROUP)]
HIGH = [GROUP + word for word in LOW]
"""Samples of the first and of the second register of float32 numbers: what is woven from the lower and the upper words
of each 128 bits."""


class Bf16Kernel(Kernel):
    """A function that works on blocks of bfloat16 numbers, whatever their width; see :class:`Kernel`.

    Args:
        module: where it belongs.
        name: of the function.
        vectors: the registers and what they hold.
    """

    def __init__(self, module: ir.Module, name: str, vectors: Vectors) -> None:
        super().__init__(module, name, vectors)
        self._stored = ir.VectorType(I16, vectors.width)

    def load(self, pointer: Value) -> Value:
        """The numbers of a place, as float32."""
        return self.widened(self.words(pointer, self.vector.count))

    def store(self, value: Value, pointer: Value) -> None:
        """Round the numbers of a place, and write them."""
        self.write(self.rounded(value), pointer)

    def words(self, pointer: Value, count: int) -> Value:
        """Numbers as they lie.

        Args:
            pointer: of a place.
            count: how many.
        """
        return self.builder.load(pointer, typ=ir.VectorType(I16, count), align=self.place_bytes)

    def write(self, words: Value, pointer: Value) -> None:
        """Write numbers as they are to lie.

        Args:
            words: the numbers.
            pointer: of a place.
        """
        self.builder.store(words, pointer, align=self.place_bytes)

    def widened(self, words: Value) -> Value:
        """Numbers as they lie, as float32: each with 16 zeros behind it."""
        count = words.type.count
        integers = ir.VectorType(I32, count)
        wide = self.builder.shl(self.builder.zext(words, integers), ir.Constant(integers, [16] * count))
        return self.builder.bitcast(wide, ir.VectorType(F32, count))

    def rounded(self, value: Value) -> Value:
        """Float32 numbers as bfloat16, as they lie."""
        count = value.type.count
        return self.builder.bitcast(self.builder.fptrunc(value, ir.VectorType(BF16, count)), ir.VectorType(I16, count))

    def products(self, one: Value, other: Value, total: Value) -> Value:
        """Sums plus the products of neighbours.

        Args:
            one: a register of bfloat16 numbers.
            other: likewise.
            total: a register of float32 numbers.
        """
        numbers = ir.VectorType(BF16, WORDS.count)
        factors = (self.builder.bitcast(each, numbers) for each in (one, other))
        return self.instruction("llvm.x86.avx512bf16.dpbf16ps.512", FLOATS, total, *factors)


class PairKernel(Bf16Kernel):
    """A function whose sums are of products of neighbours; see :class:`Kernel`.

    Args:
        module: where it belongs.
        name: of the function.
        vectors: the registers and what they hold.
    """

    depth = 2

    def dot(self, one: Value, other: Value, total: Value) -> Value:
        """``total`` plus the products of all samples, two by two."""
        return self.products(one, other, total)

    def nothing(self) -> Value:
        """The total of nothing, for :meth:`dot`."""
        return filled(FLOATS, 0.0)


class FullBf16Kernel(PairKernel):
    """A function that works on places which fill registers of bfloat16 numbers; see :class:`Kernel`.

    Args:
        module: where it belongs.
        name: of the function.
        vectors: the registers and what they hold.
    """

    def load(self, pointer: Value) -> Value:
        """The numbers of a place, as float32, in two registers."""
        zeros = ir.Constant(WORDS, [0] * WORDS.count)
        # A float32 number is a bfloat16 number with 16 zeros behind it, in memory in front of it.
        return self.builder.bitcast(self.woven(zeros, self.factor(pointer)), self.vector)

    def rounded(self, value: Value) -> Value:
        """The float32 numbers of a place as bfloat16, as they lie."""
        words = super().rounded(value)
        order = [place for _, place in sorted((sample, place) for place, sample in enumerate(LOW + HIGH))]
        return shuffled(self.builder, words, words, order)

    def arranged(self, vector: Value) -> Value:
        """Numbers in the order of the samples, in that of the two registers that hold them as float32."""
        return shuffled(self.builder, vector, vector, LOW + HIGH)

    def operand(self, pointer: Value, apart: int | None) -> Value:
        """Two registers of pairs: a place in two channels."""
        zeros = ir.Constant(WORDS, [0] * WORDS.count)
        return self.woven(self.factor(pointer), zeros if apart is None else self.factor(self.place(pointer, apart)))

    def weight(self, pointer: Value) -> Value:
        """A pair from a table, spread over a register."""
        return self.builder.bitcast(splat(self.builder, self.scalar(pointer, I32), 16), WORDS)

    def multiply(self, weight: Value, operand: Value, total: Value) -> Value:
        """``total`` plus, for each sample, the products of two channels."""
        halves = [
            self.products(part(self.builder, operand, half, 32), weight, part(self.builder, total, half, 16))
            for half in (0, 1)
        ]
        return shuffled(self.builder, halves[0], halves[1], range(32))

    def factor(self, pointer: Value) -> Value:
        """The numbers of a place as they lie."""
        return self.words(pointer, WORDS.count)

    def woven(self, one: Value, other: Value) -> Value:
        """Two registers of words as two registers of pairs.

        Args:
            one: the lower halves of the pairs.
            other: the upper ones.
        """
        pairs = [index for sample in LOW + HIGH for index in (sample, WORDS.count + sample)]
        return shuffled(self.builder, one, other, pairs)
