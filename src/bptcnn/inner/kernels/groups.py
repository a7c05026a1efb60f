"""Writing machine code: vectors that hold several channels of few samples.

Where a batch has fewer samples than a register lanes, most lanes of a convolution would be idle. So a register holds
the sums of ``channels`` output channels, each for all samples of the block, if maps have too few columns to share it:

- a place of the data, the same for all these channels, is repeated as it is loaded;
- weights are read from tables in which those of neighbouring output channels lie side by side;
- sums are taken apart as they are stored.

Data lies as in any block. So all that is no convolution runs as ever, over several places at a time.

Of bfloat16 numbers, whose products are summed up in pairs, a register of sums holds half as many channels: forward and
backward to the data, the sums fill two.
"""

from __future__ import annotations

from llvmlite import ir

from bptcnn.inner.kernels.bf16 import FLOATS, WORDS, PairKernel
from bptcnn.inner.kernels.emit import F32, I32, Value
from bptcnn.inner.kernels.shape import Vectors
from bptcnn.inner.kernels.shuffles import filled, joined, part, shuffled
from bptcnn.inner.kernels.vectors import Kernel


class GroupKernel(Kernel):
    """A function that makes sums of several channels at once; see :class:`Kernel`.

    Args:
        module: where it belongs.
        name: of the function.
        vectors: the registers and what they hold.
    """

    def __init__(self, module: ir.Module, name: str, vectors: Vectors) -> None:
        super().__init__(module, name, vectors)
        self.channels = vectors.channels
        self._width = vectors.width
        self._register = ir.VectorType(F32, vectors.lanes)

    def by_channel(self, pointer: Value) -> Value:
        """The numbers of neighbouring channels, each for all samples."""
        numbers = self.builder.load(pointer, typ=ir.VectorType(F32, self.channels), align=4)
        return _for_samples(self, numbers, self._width)

    def zeros(self) -> Value:
        """The total of nothing."""
        return filled(self._register, 0.0)

    def nothing(self) -> Value:
        """The total of nothing."""
        return self.zeros()

    def factor(self, pointer: Value) -> Value:
        """A place, once for each channel."""
        numbers = self.load(pointer)
        return shuffled(self.builder, numbers, numbers, [*range(self._width)] * self.channels)

    def errors(self, pointer: Value, apart: int) -> Value:
        """A place of each channel."""
        return self.load_sums(pointer, apart)

    def load_sums(self, pointer: Value, apart: int) -> Value:
        """A place of each channel."""
        return joined(self.builder, [self.load(place) for place in _each_channel(self, pointer, apart)])

    def store_sums(self, value: Value, pointer: Value, apart: int) -> None:
        """Write a place of each channel."""
        for channel, place in enumerate(_each_channel(self, pointer, apart)):
            self.store(part(self.builder, value, channel, self._width), place)

    def by_outputs(self, total: Value) -> list[Value]:
        """The sums of each channel, for all samples."""
        return [part(self.builder, total, channel, self._width) for channel in range(self.channels)]


class Bf16GroupKernel(PairKernel):
    """The same with bfloat16 numbers; see :class:`GroupKernel`.

    Args:
        module: where it belongs.
        name: of the function.
        vectors: the registers and what they hold.
    """

    def __init__(self, module: ir.Module, name: str, vectors: Vectors) -> None:
        super().__init__(module, name, vectors)
        self.channels = vectors.channels
        self._width = vectors.width

    def zeros(self) -> Value:
        """The total of nothing, in two registers."""
        return filled(ir.VectorType(F32, WORDS.count), 0.0)

    def by_channel(self, pointer: Value) -> Value:
        """The numbers of neighbouring channels, each for all samples."""
        numbers = self.builder.load(pointer, typ=ir.VectorType(F32, self.channels), align=4)
        return _for_samples(self, numbers, self._width)

    def operand(self, pointer: Value, apart: int | None) -> Value:
        """A register of pairs: a place in two channels, once for each output channel of a register of sums."""
        one = self.words(pointer, self._width)
        other = (
            ir.Constant(one.type, [0] * self._width)
            if apart is None
            else self.words(self.place(pointer, apart), self._width)
        )
        pairs = [index for sample in range(self._width) for index in (sample, self._width + sample)]
        return shuffled(self.builder, one, other, pairs * (self.channels // 2))

    def weight(self, pointer: Value) -> Value:
        """The pairs of neighbouring channels from a table, each for all samples: two registers."""
        pairs = self.builder.load(pointer, typ=ir.VectorType(I32, self.channels), align=4)
        return _for_samples(self, pairs, self._width)

    def multiply(self, weight: Value, operand: Value, total: Value) -> Value:
        """``total`` plus, for each channel and sample, the products of two input channels."""
        halves = [
            self.products(
                operand,
                self.builder.bitcast(part(self.builder, weight, half, FLOATS.count), WORDS),
                part(self.builder, total, half, FLOATS.count),
            )
            for half in (0, 1)
        ]
        return shuffled(self.builder, halves[0], halves[1], range(WORDS.count))

    def load_sums(self, pointer: Value, apart: int) -> Value:
        """A place of each channel."""
        return self.widened(self.errors(pointer, apart))

    def store_sums(self, value: Value, pointer: Value, apart: int) -> None:
        """Write a place of each channel."""
        words = self.rounded(value)
        for channel, place in enumerate(_each_channel(self, pointer, apart)):
            self.write(part(self.builder, words, channel, self._width), place)

    def errors(self, pointer: Value, apart: int) -> Value:
        """A place of each channel."""
        return joined(self.builder, [self.words(place, self._width) for place in _each_channel(self, pointer, apart)])

    def factor(self, pointer: Value) -> Value:
        """A place, once for each channel."""
        numbers = self.words(pointer, self._width)
        return shuffled(self.builder, numbers, numbers, [*range(self._width)] * self.channels)

    def by_outputs(self, total: Value) -> list[Value]:
        """The sums of each channel, for pairs of samples."""
        return [part(self.builder, total, channel, self._width // 2) for channel in range(self.channels)]


def _for_samples(kernel: Kernel, numbers: Value, width: int) -> Value:
    """A number of each channel, for all samples."""
    order = [channel for channel in range(kernel.channels) for _ in range(width)]
    return shuffled(kernel.builder, numbers, numbers, order)


def _each_channel(kernel: Kernel, pointer: Value, apart: int) -> list[Value]:
    """Places that lie ``apart``, one for each of a group's channels."""
    return [kernel.place(pointer, channel * apart) for channel in range(kernel.channels)]
