"""Writing machine code: vectors of samples.

Data is *blocked*: [channels, rows, columns, width], with the samples of a block innermost, one for each lane of a
vector. So whatever the shape of a layer, each instruction works on ``width`` samples at once and no lane is ever idle.
A *place* is one vector of it: a channel, a row and a column.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager

from llvmlite import ir

from bptcnn.inner.kernels.emit import F32, I32, Function, Term, Value
from bptcnn.inner.kernels.shape import Vectors
from bptcnn.inner.kernels.shuffles import filled, part, shuffled, splat


class Kernel(Function):
    """A function that works on blocks of float32 numbers.

    Args:
        module: where it belongs.
        name: of the function.
        vectors: the registers and what they hold.

    Attributes:
        vector: type of the numbers of one place, as they are computed with: float32.
        depth: channels that a multiply-add sums up at once.
        channels: whose sums it makes at once.
        columns: of outputs whose sums it makes at once.
    """

    depth = 1
    channels = 1
    columns = 1

    def __init__(self, module: ir.Module, name: str, vectors: Vectors) -> None:
        super().__init__(module, name)
        self.vector = ir.VectorType(F32, vectors.width)
        self._vectors = vectors
        self._stored = self.vector
        self._bundle = vectors.channels

    # -------------------------------------------------------------------------------------------- places

    def place(self, pointer: Value, *terms: Term | Value) -> Value:
        """The address of a place.

        Args:
            pointer: of the first.
            terms: (index, places that one step of it spans), or an index whose steps span one.
        """
        return self.at(pointer, *terms, kind=self._stored)

    def load(self, pointer: Value) -> Value:
        """The numbers of a place."""
        return self.builder.load(pointer, typ=self.vector, align=self.place_bytes)

    def store(self, value: Value, pointer: Value) -> None:
        """Write the numbers of a place.

        Args:
            value: the vector.
            pointer: where to.
        """
        self.builder.store(value, pointer, align=self.place_bytes)

    @property
    def place_bytes(self) -> int:
        """What a place takes."""
        return self._vectors.width * self._vectors.num_bytes

    def sweeps(self, count: int) -> Iterator[AbstractContextManager[Value]]:
        """Loops that pass once over places that lie behind each other, as many at a time as a register holds.

        Within one, vectors are of all places that are passed at a time: what they are computed with is to be made
        anew for each.

        Args:
            count: places.

        Yields:
            Loops that give the first place of each time.
        """
        bundle = self._bundle
        whole = count // bundle * bundle if bundle > 1 else 0
        if whole:
            with self.together(bundle):
                yield self.loop(whole, step=bundle)
        if whole < count:
            yield self.loop(count, whole)

    @contextmanager
    def together(self, count: int) -> Iterator[None]:
        """Let vectors be of several places that lie behind each other, within.

        Args:
            count: places.
        """
        alone = self.vector
        self.vector = ir.VectorType(F32, count * alone.count)
        yield
        self.vector = alone

    def each_sample(self, pointer: Value, kind: Value = F32) -> Value:
        """A number for each sample, in the order in which registers hold them.

        Args:
            pointer: where they are, in the order of the samples.
            kind: of numbers.
        """
        width = self._vectors.width
        numbers = self.arranged(self.builder.load(pointer, typ=ir.VectorType(kind, width), align=4))
        times = self.vector.count // width
        return shuffled(self.builder, numbers, numbers, [*range(width)] * times) if times > 1 else numbers

    def arranged(self, vector: Value) -> Value:
        """Numbers in the order of the samples, brought into the order in which registers hold them."""
        return vector

    # -------------------------------------------------------------------------------------------- products

    def operand(self, pointer: Value, apart: int | None) -> Value:
        """What :meth:`multiply` takes of a place.

        Args:
            pointer: the place in the first of ``depth`` channels.
            apart: places from one of the channels to the next; None where the next is no channel any more.
        """
        return self.factor(pointer)

    def seen(self, pointer: Value, apart: int | None, sees: Sequence[bool]) -> Value:
        """What :meth:`multiply` takes of the places that neighbouring outputs see.

        Args:
            pointer: the place that the first of them sees.
            apart: as in :meth:`operand`.
            sees: which of them see one, and not the padding; at least one does.
        """
        return self.operand(pointer, apart)

    def weight(self, pointer: Value) -> Value:
        """The weights of ``depth`` channels, for :meth:`multiply`."""
        return self.by_channel(pointer)

    def multiply(self, weight: Value, operand: Value, total: Value) -> Value:
        """``total`` plus, for each sample, the products of ``depth`` channels.

        Args:
            weight: from :meth:`weight`.
            operand: from :meth:`operand`.
            total: a vector.
        """
        return self.fma(weight, operand, total)

    def zeros(self) -> Value:
        """The total of nothing, for :meth:`multiply`."""
        return self.constant(0.0)

    def by_channel(self, pointer: Value) -> Value:
        """A float32 number of the channels whose sums are made at once, for each sample."""
        return self.spread(self.scalar(pointer))

    def load_sums(self, pointer: Value, apart: int) -> Value:
        """Numbers where sums of :meth:`multiply` belong.

        Args:
            pointer: the place in the first channel.
            apart: places from one channel to the next.
        """
        return self.load(pointer)

    def store_sums(self, value: Value, pointer: Value, apart: int) -> None:
        """Write sums of :meth:`multiply`.

        Args:
            value: the sums.
            pointer: the place in the first channel.
            apart: places from one channel to the next.
        """
        self.store(value, pointer)

    def errors(self, pointer: Value, apart: int) -> Value:
        """What :meth:`dot` takes of the gradient of the channels whose sums are made at once.

        Args:
            pointer: the place in the first channel.
            apart: places from one channel to the next.
        """
        return self.factor(pointer)

    def by_outputs(self, total: Value) -> list[Value]:
        """What :meth:`dot` has summed up, in a vector for each channel whose sums it makes at once."""
        return [total]

    def factor(self, pointer: Value) -> Value:
        """What :meth:`dot` takes of a place."""
        return self.load(pointer)

    def dot(self, one: Value, other: Value, total: Value) -> Value:
        """``total`` plus the products of all samples, spread over the lanes of a register.

        Args:
            one: from :meth:`factor`.
            other: likewise.
            total: one register.
        """
        return self.fma(one, other, total)

    def nothing(self) -> Value:
        """The total of nothing, for :meth:`dot`."""
        return self.constant(0.0)

    # -------------------------------------------------------------------------------------------- arithmetic

    def constant(self, number: float) -> Value:
        """A vector of equal numbers."""
        return filled(self.vector, number)

    def spread(self, number: Value) -> Value:
        """A vector whose lanes all hold one number."""
        return splat(self.builder, number, self.vector.count)

    def fma(self, a: Value, b: Value, c: Value) -> Value:
        """``a b + c``, rounded once.

        Args:
            a: a factor.
            b: the other.
            c: what is added.
        """
        return self.intrinsic("llvm.fma", a, b, c)

    def maximum(self, a: Value, b: Value) -> Value:
        """The larger in each lane, or what is no number.

        Args:
            a: a vector.
            b: another; taken where they are equal.
        """
        taken = self.builder.or_(self.builder.fcmp_ordered(">", a, b), self.builder.fcmp_unordered("uno", a, a))
        return self.builder.select(taken, a, b)

    def rectified(self, value: Value) -> Value:
        """ReLU; what is no number stays so, for it must not be hidden from the loss."""
        zero = filled(value.type, 0.0)
        return self.builder.select(self.builder.fcmp_ordered(">", zero, value), zero, value)

    def masked(self, value: Value, by: Value) -> Value:
        """Numbers, but zero where others are not positive; where those are no numbers, nothing is hidden.

        Args:
            value: the numbers.
            by: the others.
        """
        zero = filled(value.type, 0.0)
        return self.builder.select(self.builder.fcmp_ordered("<=", by, zero), zero, value)

    def total(self, vector: Value) -> Value:
        """The sum over the lanes, always in the same order."""
        while (count := vector.type.count) > 1:
            vector = self.builder.fadd(*(part(self.builder, vector, half, count // 2) for half in (0, 1)))
        return self.builder.extract_element(vector, I32(0))
