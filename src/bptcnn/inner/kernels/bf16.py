"""Writing machine code: vectors of samples kept as bfloat16, computed with as float32.

A register holds a place of 32 samples in 512 bits. One instruction (AVX512-BF16's ``vdpbf16ps``) multiplies two
registers and adds the products of neighbours to 16 float32 sums, at twice the rate of float32:

- *forward, and backward to the data*: neighbours are the same sample in two channels. Places of two channels are woven
  into each other, in two registers of 16 samples each; weights are read from tables of pairs.
- *backward to the weights*: neighbours are two samples, as they lie.

Source: Intel, "Bfloat16 hardware numerics definition", 2018.
"""

from __future__ import annotations

from llvmlite import ir

from bptcnn.inner.kernels.emit import F32, I32, Value
from bptcnn.inner.kernels.groups import GroupKernel
from bptcnn.inner.kernels.shape import Vectors
from bptcnn.inner.kernels.shuffles import part, shuffled, splat
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
    """A function that works on blocks of bfloat16 numbers; see :class:`Kernel`.

    Args:
        module: where it belongs.
        name: of the function.
        vectors: the registers and what they hold.
    """

    depth = 2

    def __init__(self, module: ir.Module, name: str, vectors: Vectors) -> None:
        super().__init__(module, name, vectors)
        self._stored = WORDS

    def load(self, pointer: Value) -> Value:
        """The numbers of a place, as float32."""
        zeros = ir.Constant(WORDS, [0] * WORDS.count)
        # A float32 number is a bfloat16 number with 16 zeros behind it, in memory in front of it.
        return self.builder.bitcast(self._woven(zeros, super().load(pointer)), self.vector)

    def store(self, value: Value, pointer: Value) -> None:
        """Round the numbers of a place, and write them."""
        rounded = self.builder.fptrunc(value, ir.VectorType(BF16, WORDS.count))
        words = self.builder.bitcast(rounded, WORDS)
        order = [place for _, place in sorted((sample, place) for place, sample in enumerate(LOW + HIGH))]
        super().store(shuffled(self.builder, words, words, order), pointer)

    def arranged(self, vector: Value) -> Value:
        """Numbers in the order of the samples, in that of the two registers that hold them as float32."""
        return shuffled(self.builder, vector, vector, LOW + HIGH)

    def operand(self, pointer: Value, apart: int | None) -> Value:
        """Two registers of pairs: a place in two channels."""
        one = super().load(pointer)
        following = ir.Constant(WORDS, [0] * WORDS.count) if apart is None else super().load(self.place(pointer, apart))
        return self._woven(one, following)

    def weight(self, pointer: Value) -> Value:
        """A pair from a table, spread over a register."""
        return self.builder.bitcast(splat(self.builder, self.scalar(pointer, I32), 16), WORDS)

    def multiply(self, weight: Value, operand: Value, total: Value) -> Value:
        """``total`` plus, for each sample, the products of two channels."""
        halves = [
            self._products(part(self.builder, operand, half, 32), weight, part(self.builder, total, half, 16))
            for half in (0, 1)
        ]
        return shuffled(self.builder, halves[0], halves[1], range(32))

    def factor(self, pointer: Value) -> Value:
        """The numbers of a place as they lie."""
        return super().load(pointer)

    def dot(self, one: Value, other: Value, total: Value) -> Value:
        """``total`` plus the products of all samples, two by two."""
        return self._products(one, other, total)

    def _woven(self, one: Value, other: Value) -> Value:
        """Two registers of words as two registers of pairs: ``one`` below, ``other`` above."""
        pairs = [index for sample in LOW + HIGH for index in (sample, WORDS.count + sample)]
        return shuffled(self.builder, one, other, pairs)

    def _products(self, one: Value, other: Value, total: Value) -> Value:
        """``total`` plus the products of two registers, summed up by pairs."""
        numbers = ir.VectorType(BF16, WORDS.count)
        name = "llvm.x86.avx512bf16.dpbf16ps.512"
        function = self._module.globals.get(name)
        if function is None:
            function = ir.Function(self._module, ir.FunctionType(FLOATS, [FLOATS, numbers, numbers]), name)
        return self.builder.call(function, [total, *(self.builder.bitcast(each, numbers) for each in (one, other))])


def kernel_for(module: ir.Module, name: str, vectors: Vectors, *, grouped: bool = False) -> Kernel:
    """A function that works on blocks of the kind that some vectors hold.

    Args:
        module: where it belongs.
        name: of the function.
        vectors: the registers and what they hold.
        grouped: whether it is to make the sums of several channels at once.
    """
    kind = Bf16Kernel if vectors.bf16 else GroupKernel if grouped else Kernel
    return kind(module, name, vectors)
