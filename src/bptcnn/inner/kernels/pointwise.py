"""What touches each number once: packing samples, sums, dropout, sub-sampling."""

from __future__ import annotations

from llvmlite import ir

from bptcnn.inner.kernels.emit import I32, PTR, Value
from bptcnn.inner.kernels.kinds import kernel_for
from bptcnn.inner.kernels.shape import Plane, Vectors, tiles
from bptcnn.inner.kernels.shuffles import shuffled, square


def pack(module: ir.Module, name: str, vectors: Vectors, data: Plane) -> None:
    """Emit the way from samples [width, channels, rows, columns] to a block.

    Arguments of the kernel: where the address of all samples is, numbers in front of this block's, out.

    Args:
        module: gets the kernel.
        name: of the kernel.
        vectors: the registers and what they hold.
        data: of one sample.
    """
    kernel = kernel_for(module, name, vectors)
    source = kernel.at(kernel.scalar(kernel.argument(0), PTR), (kernel.number(1), 1))
    target, lanes = kernel.argument(2), vectors.width // vectors.parts
    if data.size >= lanes:
        with kernel.loop(tiles(data.size, lanes)) as index:
            start = kernel.tile(index, lanes, data.size)
            squares = [
                square(kernel, kernel.at(source, start, first * data.size), data.size, lanes)
                for first in range(0, vectors.width, lanes)
            ]
            for place, columns in enumerate(zip(*squares, strict=True)):
                numbers = shuffled(kernel.builder, columns[0], columns[-1], range(vectors.width))
                kernel.store(kernel.arranged(numbers), kernel.place(target, start, place))
    else:
        with kernel.loop(data.size) as place:
            numbers, start = ir.Constant(kernel.vector, ir.Undefined), kernel.at(source, place)
            for sample in range(vectors.width):
                number = kernel.scalar(kernel.at(start, sample * data.size))
                numbers = kernel.builder.insert_element(numbers, number, I32(sample))
            kernel.store(kernel.arranged(numbers), kernel.place(target, place))
    kernel.finish()


def add(module: ir.Module, name: str, vectors: Vectors, size: int, *, relu: bool, mask: bool) -> None:
    """Emit a sum of two blocks. Arguments of the kernel: one, the other, out, what masks.

    Args:
        module: gets the kernel.
        name: of the kernel.
        vectors: the registers and what they hold.
        size: vectors of each.
        relu: negative sums become zero.
        mask: the sum becomes zero where what masks is not positive.
    """
    kernel = kernel_for(module, name, vectors)
    pointers = [kernel.argument(place) for place in range(4)]
    for sweep in kernel.sweeps(size):
        with sweep as place:
            one, other, target, masking = (kernel.place(pointer, place) for pointer in pointers)
            value = kernel.builder.fadd(kernel.load(one), kernel.load(other))
            if relu:
                value = kernel.rectified(value)
            kernel.store(kernel.masked(value, kernel.load(masking)) if mask else value, target)
    kernel.finish()


def rectify(module: ir.Module, name: str, vectors: Vectors, size: int) -> None:
    """Emit the passage of a block where another is positive. Arguments of the kernel: data, out, what masks.

    With the data itself as the mask it is ReLU, with ReLU's result it is ReLU's gradient.

    Args:
        module: gets the kernel.
        name: of the kernel.
        vectors: the registers and what they hold.
        size: vectors.
    """
    kernel = kernel_for(module, name, vectors)
    pointers = [kernel.argument(place) for place in range(3)]
    for sweep in kernel.sweeps(size):
        with sweep as place:
            source, target, masking = (kernel.place(pointer, place) for pointer in pointers)
            kernel.store(kernel.masked(kernel.load(source), kernel.load(masking)), target)
    kernel.finish()


def subsample(module: ir.Module, name: str, vectors: Vectors, data: Plane, out: Plane, stride: int) -> None:
    """Emit every ``stride``-th place of each map, and zeros for new channels. Arguments of the kernel: data, out.

    Args:
        module: gets the kernel.
        name: of the kernel.
        vectors: the registers and what they hold.
        data: the maps.
        out: the result, with the new channels last.
        stride: between places.
    """
    kernel = kernel_for(module, name, vectors)
    source, target = kernel.argument(0), kernel.argument(1)
    with kernel.loop(data.channels) as channel, kernel.loop(out.rows) as row, kernel.loop(out.columns) as column:
        near = ((channel, data.area), (row, stride * data.columns), (column, stride))
        far = ((channel, out.area), (row, out.columns), column)
        kernel.store(kernel.load(kernel.place(source, *near)), kernel.place(target, *far))
    if out.channels > data.channels:
        with kernel.loop(out.size, data.channels * out.area) as place:
            kernel.store(kernel.constant(0.0), kernel.place(target, place))
    kernel.finish()


def subsample_backward(module: ir.Module, name: str, vectors: Vectors, data: Plane, out: Plane, stride: int) -> None:
    """Emit the gradient of :func:`subsample`. Arguments of the kernel: gradient of the result, gradient of the data.

    Args:
        module: gets the kernel.
        name: of the kernel.
        vectors: the registers and what they hold.
        data: the maps.
        out: the result.
        stride: between places.
    """
    kernel = kernel_for(module, name, vectors)
    gradient, target = kernel.argument(0), kernel.argument(1)
    with kernel.loop(data.size) as place:
        kernel.store(kernel.constant(0.0), kernel.place(target, place))
    with kernel.loop(data.channels) as channel, kernel.loop(out.rows) as row, kernel.loop(out.columns) as column:
        near = ((channel, out.area), (row, out.columns), column)
        far = ((channel, data.area), (row, stride * data.columns), (column, stride))
        kernel.store(kernel.load(kernel.place(gradient, *near)), kernel.place(target, *far))
    kernel.finish()


def dropout(module: ir.Module, name: str, vectors: Vectors, size: int, p: float, *, mask: bool) -> None:
    """Emit dropout: each number survives with probability 1 - p, and is then divided by it.

    Whether number i of a sample survives is decided by a hash of i and the sample's key: no state, the same in forward
    and backward, on any lane, in any order. Arguments of the kernel: data, out, keys int32 [width], what masks.

    Source: the mixing function of C. Wellons, "Prospecting for hash functions", 2018 (lowbias32).

    Args:
        module: gets the kernel.
        name: of the kernel.
        vectors: the registers and what they hold.
        size: vectors.
        p: probability to be dropped.
        mask: the result becomes zero where what masks is not positive.
    """
    kernel = kernel_for(module, name, vectors)
    builder = kernel.builder
    integers = ir.VectorType(I32, vectors.width)
    pointers = [kernel.argument(place) for place in (0, 1, 3)]
    keys = kernel.each_sample(kernel.argument(2), I32)

    def numbers(value: int) -> Value:
        return ir.Constant(integers, [value] * vectors.width)

    with kernel.loop(size) as place:
        source, target, masking = (kernel.place(pointer, place) for pointer in pointers)
        step = kernel.spread(builder.mul(builder.trunc(place, I32), I32(0x9E3779B9)))
        mixed = builder.xor(keys, step)
        for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
            mixed = builder.mul(builder.xor(mixed, builder.lshr(mixed, numbers(shift))), numbers(factor))
        mixed = builder.xor(mixed, builder.lshr(mixed, numbers(16)))
        survives = builder.icmp_unsigned(">=", mixed, numbers(min(int(p * 2**32), 2**32 - 1)))
        scaled = builder.fmul(kernel.load(source), kernel.constant(1 / (1 - p)))
        value = builder.select(survives, scaled, kernel.constant(0.0))
        kernel.store(kernel.masked(value, kernel.load(masking)) if mask else value, target)
    kernel.finish()
