"""The gradient of a bias: the sum of the outputs' over all places and samples."""

from __future__ import annotations

from functools import reduce

from bptcnn.inner.kernels.emit import I64, Value
from bptcnn.inner.kernels.shape import Plane
from bptcnn.inner.kernels.shuffles import filled, lane_sums
from bptcnn.inner.kernels.tiling import LATENCY
from bptcnn.inner.kernels.vectors import Kernel


def backward_bias(
    kernel: Kernel,
    gradient: Plane,
    source: tuple[Value, Value],
    result: Value,
    channels: tuple[Value, int],
    is_new: Value | None = None,
) -> None:
    """Emit it within a kernel that makes the weights' gradient, whose errors are in the cache.

    Args:
        kernel: of the weights.
        gradient: of the outputs.
        source: the first block of it, and how many there are.
        result: of all channels.
        channels: the first, and how many.
        is_new: whether nothing was summed up before; None if nothing ever was.
    """
    (first, blocks), (out, count) = source, channels
    with kernel.loop(count) as o:
        channel = kernel.builder.add(out, o)
        corner = kernel.place(first, (channel, gradient.area))
        totals = [kernel.variable(kernel.constant(0.0)) for _ in range(min(LATENCY, gradient.area))]
        whole = gradient.area // len(totals) * len(totals)
        with kernel.loop(blocks) as block:
            begin = kernel.place(corner, (block, gradient.size))
            with kernel.loop(whole, step=len(totals)) as place:
                for near, total in enumerate(totals):
                    total.set(kernel.builder.fadd(total.get(), kernel.load(kernel.place(begin, place, I64(near)))))
            for near, total in enumerate(totals[: gradient.area - whole], whole):
                total.set(kernel.builder.fadd(total.get(), kernel.load(kernel.place(begin, I64(near)))))
        total = reduce(kernel.builder.fadd, [total.get() for total in totals])
        (sums,) = lane_sums(kernel.builder, [total])
        accumulate(kernel, kernel.at(result, channel), sums, is_new)


def accumulate(kernel: Kernel, slot: Value, value: Value, is_new: Value | None) -> None:
    """Write the first part's sums, add those of later ones.

    Args:
        kernel: that made them.
        slot: where they belong.
        value: the sums.
        is_new: whether nothing was summed up before; None if nothing ever was.
    """
    if is_new is not None:
        there = kernel.builder.load(slot, typ=value.type, align=4)
        value = kernel.builder.fadd(kernel.builder.select(is_new, filled(value.type, 0.0), there), value)
    kernel.builder.store(value, slot, align=4)
