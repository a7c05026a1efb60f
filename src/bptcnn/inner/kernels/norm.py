"""Batch normalisation over the whole batch: sums of each block, one combination, and what follows from it.

Forward, with y the data of channel c and n the numbers of a channel over all samples:
``mean = sum y / n``, ``var = sum (y - mean)^2 / n``, ``out = gamma (y - mean) / sqrt(var + eps) + beta``.
Backward, with g the gradient of ``out`` and ``x = (y - mean) / sqrt(var + eps)``:
``dbeta = sum g``, ``dgamma = sum g x``, ``dy = gamma / sqrt(var + eps) (g - dbeta / n - x dgamma / n)``.

Blocks are combined in double precision and in their order, so that it does not matter who worked on which.

Source: Ioffe, Szegedy, "Batch normalization", ICML 2015; for the combination of blocks: Chan, Golub, LeVeque,
"Updating formulae and a pairwise algorithm for computing sample variances", 1979.
"""

from __future__ import annotations

from functools import reduce

from llvmlite import ir

from bptcnn.inner.kernels.emit import F32, F64, I64, Value
from bptcnn.inner.kernels.kinds import kernel_for
from bptcnn.inner.kernels.shape import Plane, Vectors
from bptcnn.inner.kernels.vectors import Kernel

SUMS = 2
"""Numbers that a block has for each channel."""

COEFFICIENTS = 3
"""Numbers of each channel that its gradient is made with."""

TABLE = 4
"""Numbers that a channel has in the table of a layer: mean, 1 / deviation, scale, shift."""


def statistics(module: ir.Module, name: str, vectors: Vectors, data: Plane) -> None:
    """Emit a block's sums: ``s = sum y`` and ``m = sum (y - s / n)^2`` of each channel.

    Arguments of the kernel: data, weights of the samples [width] (1, or 0 for one that only fills the block), sums
    [channels, 2], numbers of a channel in this block [1].

    Args:
        module: gets the kernel.
        name: of the kernel.
        vectors: the registers and what they hold.
        data: what is normalised.
    """
    kernel = kernel_for(module, name, vectors)
    source, samples, sums, count = (kernel.argument(place) for place in range(4))
    builder, number = kernel.builder, kernel.scalar(count)
    with kernel.loop(data.channels) as channel:
        corner = kernel.place(source, (channel, data.area))
        parts = []
        for sweep in kernel.sweeps(data.area):
            total, present = kernel.variable(kernel.constant(0.0)), kernel.each_sample(samples)
            with sweep as place:
                total.set(kernel.fma(kernel.load(kernel.place(corner, place)), present, total.get()))
            parts.append(kernel.total(total.get()))
        sum_ = reduce(builder.fadd, parts)
        mean, parts = builder.fdiv(sum_, number), []
        for sweep in kernel.sweeps(data.area):
            squares, present = kernel.variable(kernel.constant(0.0)), kernel.each_sample(samples)
            means = kernel.spread(mean)
            with sweep as place:
                deviation = builder.fsub(kernel.load(kernel.place(corner, place)), means)
                squares.set(kernel.fma(builder.fmul(deviation, deviation), present, squares.get()))
            parts.append(kernel.total(squares.get()))
        builder.store(sum_, kernel.at(sums, (channel, 2)))
        builder.store(reduce(builder.fadd, parts), kernel.at(sums, (channel, 2), 1))
    kernel.finish()


def combine(module: ir.Module, name: str, vectors: Vectors, channels: int, *, eps: float, momentum: float) -> None:
    """Emit a layer's table from all blocks' sums, and the running statistics.

    Arguments of the kernel: sums [blocks, channels, 2], numbers of a channel in each block [blocks], gamma, beta,
    running mean, running variance, table [channels, 4], number of blocks int64 [1].

    Args:
        module: gets the kernel.
        name: of the kernel.
        vectors: the registers and what they hold.
        channels: of the layer.
        eps: added to the variance.
        momentum: part of the new in the running statistics.
    """
    kernel = kernel_for(module, name, vectors)
    sums, counts, gamma, beta, running_mean, running_var, table = (kernel.argument(place) for place in range(7))
    num_blocks = kernel.scalar(kernel.argument(7), I64)
    builder, zero = kernel.builder, F64(0.0)

    def wide(pointer: Value) -> Value:
        return builder.fpext(kernel.scalar(pointer), F64)

    def narrow(value: Value, pointer: Value) -> None:
        builder.store(builder.fptrunc(value, F32), pointer)

    number = kernel.variable(zero)
    with kernel.loop(num_blocks) as block:
        number.set(builder.fadd(number.get(), wide(kernel.at(counts, (block, 1)))))
    n = number.get()
    with kernel.loop(channels) as channel:
        total, squares = kernel.variable(zero), kernel.variable(zero)
        start = kernel.at(sums, (channel, 2))
        with kernel.loop(num_blocks) as block:
            total.set(builder.fadd(total.get(), wide(kernel.at(start, (block, 2 * channels)))))
        mean = builder.fdiv(total.get(), n)
        with kernel.loop(num_blocks) as block:
            near, count = kernel.at(start, (block, 2 * channels)), wide(kernel.at(counts, (block, 1)))
            apart = builder.fsub(builder.fdiv(wide(near), count), mean)
            between = builder.fmul(count, builder.fmul(apart, apart))
            squares.set(builder.fadd(squares.get(), builder.fadd(wide(kernel.at(near, 1)), between)))
        variance = builder.fdiv(squares.get(), n)
        inverse = builder.fdiv(F64(1.0), kernel.intrinsic("llvm.sqrt", builder.fadd(variance, F64(eps))))
        scale = builder.fmul(wide(kernel.at(gamma, (channel, 1))), inverse)
        shift = builder.fsub(wide(kernel.at(beta, (channel, 1))), builder.fmul(mean, scale))
        for place, value in enumerate((mean, inverse, scale, shift)):
            narrow(value, kernel.at(table, (channel, TABLE), place))
        others = builder.fsub(n, F64(1.0))
        unbiased = builder.fdiv(
            squares.get(), builder.select(builder.fcmp_ordered("<", others, F64(1.0)), F64(1.0), others)
        )
        for running, new in ((running_mean, mean), (running_var, unbiased)):
            slot = kernel.at(running, (channel, 1))
            kept = builder.fmul(F64(1 - momentum), wide(slot))
            narrow(builder.fadd(kept, builder.fmul(F64(momentum), new)), slot)
    kernel.finish()


def normalize(module: ir.Module, name: str, vectors: Vectors, data: Plane, *, add: bool, relu: bool) -> None:
    """Emit ``out = scale y + shift``. Arguments of the kernel: data, table, out, what is added.

    Args:
        module: gets the kernel.
        name: of the kernel.
        vectors: the registers and what they hold.
        data: what is normalised.
        add: a number is added to each: a shortcut.
        relu: negative results become zero.
    """
    kernel = kernel_for(module, name, vectors)
    source, table, target, shortcut = (kernel.argument(place) for place in range(4))
    with kernel.loop(data.channels) as channel:
        for sweep in kernel.sweeps(data.area):
            scale, shift = (_entry(kernel, table, channel, place) for place in (2, 3))
            with sweep as place:
                near = ((channel, data.area), place)
                value = kernel.fma(kernel.load(kernel.place(source, *near)), scale, shift)
                if add:
                    value = kernel.builder.fadd(value, kernel.load(kernel.place(shortcut, *near)))
                if relu:
                    value = kernel.rectified(value)
                kernel.store(value, kernel.place(target, *near))
    kernel.finish()


def backward_sums(module: ir.Module, name: str, vectors: Vectors, data: Plane) -> None:
    """Emit a block's ``sum g`` and ``sum g x``. Arguments of the kernel: gradient, data, table, sums [channels, 2].

    Args:
        module: gets the kernel.
        name: of the kernel.
        vectors: the registers and what they hold.
        data: what was normalised.
    """
    kernel = kernel_for(module, name, vectors)
    gradient, source, table, sums = (kernel.argument(place) for place in range(4))
    builder = kernel.builder
    with kernel.loop(data.channels) as channel:
        parts = []
        for sweep in kernel.sweeps(data.area):
            mean, inverse = (_entry(kernel, table, channel, place) for place in (0, 1))
            total, product = (kernel.variable(kernel.constant(0.0)) for _ in range(2))
            with sweep as place:
                near = ((channel, data.area), place)
                g = kernel.load(kernel.place(gradient, *near))
                apart = builder.fsub(kernel.load(kernel.place(source, *near)), mean)
                total.set(builder.fadd(total.get(), g))
                product.set(kernel.fma(g, builder.fmul(apart, inverse), product.get()))
            parts.append([kernel.total(value.get()) for value in (total, product)])
        for place, values in enumerate(zip(*parts, strict=True)):
            builder.store(reduce(builder.fadd, values), kernel.at(sums, (channel, 2), place))
    kernel.finish()


def backward_combine(module: ir.Module, name: str, vectors: Vectors, channels: int) -> None:
    """Emit dgamma, dbeta, and what ``dy = a g + b y + c`` needs.

    Arguments of the kernel: sums [blocks, channels, 2], numbers of a channel in each block [blocks], table, dgamma,
    dbeta, coefficients [channels, 3], number of blocks int64 [1].

    Args:
        module: gets the kernel.
        name: of the kernel.
        vectors: the registers and what they hold.
        channels: of the layer.
    """
    kernel = kernel_for(module, name, vectors)
    sums, counts, table, dgamma, dbeta, coefficients = (kernel.argument(place) for place in range(6))
    num_blocks = kernel.scalar(kernel.argument(6), I64)
    builder, zero = kernel.builder, F64(0.0)

    def wide(pointer: Value) -> Value:
        return builder.fpext(kernel.scalar(pointer), F64)

    number = kernel.variable(zero)
    with kernel.loop(num_blocks) as block:
        number.set(builder.fadd(number.get(), wide(kernel.at(counts, (block, 1)))))
    n = number.get()
    with kernel.loop(channels) as channel:
        total, product = kernel.variable(zero), kernel.variable(zero)
        with kernel.loop(num_blocks) as block:
            near = kernel.at(sums, (channel, 2), (block, 2 * channels))
            total.set(builder.fadd(total.get(), wide(near)))
            product.set(builder.fadd(product.get(), wide(kernel.at(near, 1))))
        mean, inverse, scale = (wide(kernel.at(table, (channel, TABLE), place)) for place in range(3))
        of_x = builder.fmul(builder.fdiv(product.get(), n), inverse)
        b = builder.fneg(builder.fmul(scale, of_x))
        c = builder.fmul(scale, builder.fsub(builder.fmul(of_x, mean), builder.fdiv(total.get(), n)))
        for place, value in enumerate((scale, b, c)):
            builder.store(builder.fptrunc(value, F32), kernel.at(coefficients, (channel, 3), place))
        builder.store(builder.fptrunc(product.get(), F32), kernel.at(dgamma, (channel, 1)))
        builder.store(builder.fptrunc(total.get(), F32), kernel.at(dbeta, (channel, 1)))
    kernel.finish()


def backward_data(module: ir.Module, name: str, vectors: Vectors, data: Plane) -> None:
    """Emit ``dy = a g + b y + c``, zero for samples that only fill the block.

    Arguments of the kernel: gradient, data, coefficients [channels, 3], weights of the samples [width], out (may lie
    where the data does).

    Args:
        module: gets the kernel.
        name: of the kernel.
        vectors: the registers and what they hold.
        data: what was normalised.
    """
    kernel = kernel_for(module, name, vectors)
    gradient, source, coefficients, samples, target = (kernel.argument(place) for place in range(5))
    with kernel.loop(data.channels) as channel:
        for sweep in kernel.sweeps(data.area):
            present = kernel.each_sample(samples)
            a, b, c = (
                kernel.builder.fmul(present, kernel.spread(kernel.scalar(kernel.at(coefficients, (channel, 3), place))))
                for place in range(3)
            )
            with sweep as place:
                near = ((channel, data.area), place)
                of_data = kernel.fma(kernel.load(kernel.place(source, *near)), b, c)
                value = kernel.fma(kernel.load(kernel.place(gradient, *near)), a, of_data)
                kernel.store(value, kernel.place(target, *near))
    kernel.finish()


def _entry(kernel: Kernel, table: Value, channel: Value, place: int) -> Value:
    return kernel.spread(kernel.scalar(kernel.at(table, (channel, TABLE), place)))
