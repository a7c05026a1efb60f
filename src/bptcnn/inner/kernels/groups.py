"""Writing machine code: vectors that hold several channels of few samples.

Where a batch has fewer samples than a register lanes, most lanes of a convolution would be idle. So a register holds
the sums of ``channels`` output channels, each for all samples of the block:

- a place of the data, the same for all these channels, is repeated as it is loaded;
- weights are read from tables in which those of neighbouring output channels lie side by side;
- sums are taken apart as they are stored.

Data lies as in any block. So all that is no convolution runs as ever, over several places at a time.
"""

from __future__ import annotations

from llvmlite import ir

from bptcnn.inner.kernels.emit import F32, Value
from bptcnn.inner.kernels.shape import Vectors
from bptcnn.inner.kernels.shuffles import filled, part, shuffled
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
        order = [channel for channel in range(self.channels) for _ in range(self._width)]
        return shuffled(self.builder, numbers, numbers, order)

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
        parts = [self.load(self.place(pointer, channel * apart)) for channel in range(self.channels)]
        while len(parts) > 1:
            count = 2 * parts[0].type.count
            parts = [
                shuffled(self.builder, one, other, range(count))
                for one, other in zip(parts[::2], parts[1::2], strict=True)
            ]
        return parts[0]

    def store_sums(self, value: Value, pointer: Value, apart: int) -> None:
        """Write a place of each channel."""
        for channel in range(self.channels):
            self.store(part(self.builder, value, channel, self._width), self.place(pointer, channel * apart))

    def totals(self, vector: Value) -> list[Value]:
        """The sum of each channel, over the samples."""
        return [self.total(part(self.builder, vector, channel, self._width)) for channel in range(self.channels)]
