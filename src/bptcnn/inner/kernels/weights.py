"""The gradient of a convolution with regard to its weights and bias: sums over areas and samples held in registers.

A task makes the gradient of some output channels over *all* blocks of samples. So nothing is left to be reduced between
tasks, and the order of every sum is fixed whichever lane works on it.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

from llvmlite import ir

from bptcnn.inner.kernels.emit import F32, I64, Value
from bptcnn.inner.kernels.kinds import kernel_for
from bptcnn.inner.kernels.shape import Plane, Vectors, Window, alike, forward_taps
from bptcnn.inner.kernels.tiling import weight_group, weight_tile
from bptcnn.inner.kernels.vectors import Kernel


@dataclass(frozen=True, slots=True)
class _Problem:
    """Gradient [out, in, rows, columns] of a window from data and the outputs' gradient."""

    window: Window
    data: Plane
    gradient: Plane
    group: Value  # blocks whose sums stay in registers together
    split: bool  # whether there are several groups

    def place(self, out: int, into: int, column: int) -> int:
        """Where the gradient of one weight of the filter's first row lies."""
        size = self.window.rows * self.window.columns
        return out * self.data.channels * size + into * size + column


def backward_weight(
    module: ir.Module,
    name: str,
    vectors: Vectors,
    window: Window,
    data: Plane,
    gradient: Plane,
    *,
    bias: bool,
) -> int:
    """Emit the gradient of a convolution's weights: ``dW[o,i,r,c] = sum gradient[o,y,x] data[i, s y + r, s x + c]``.

    Arguments of the kernel: data of all blocks, the outputs' gradient of all blocks, the weights' gradient
    [out, in, rows, columns], first tile of output channels, one past the last, number of blocks int64 [1], the
    bias's gradient or null.

    Args:
        module: gets the kernel.
        name: of the kernel.
        vectors: the registers and what they hold.
        window: of the convolution.
        data: what the convolution saw.
        gradient: of what it made.
        bias: whether there is one; its gradient is the sum of the outputs'.

    Returns:
        Tiles of output channels: what the work can be divided by.
    """
    kernel = kernel_for(module, name, vectors, grouped=weight_group(vectors, gradient) > 1)
    outs, ins = weight_tile(window, data, gradient, vectors)
    # Sums over few areas go on over all blocks, for the final sum over a vector's lanes costs as much as some areas do;
    # over many areas they end with a block, whose data then stays in the cache for all channels.
    blocks, split = kernel.scalar(kernel.argument(5), I64), gradient.area >= MANY_AREAS
    problem = _Problem(window, data, gradient, I64(1) if split else blocks, split)
    data_pointer, gradient_pointer, result = (kernel.argument(place) for place in range(3))
    full = data.channels // ins
    with (
        kernel.loop(blocks if split else 1) as group_index,
        kernel.loop(kernel.number(4), kernel.number(3)) as tile,
    ):
        out = kernel.builder.mul(tile, I64(outs * kernel.channels))
        with kernel.loop(full) as input_tile, kernel.loop(window.rows) as row:
            into = kernel.builder.mul(input_tile, I64(ins))
            _tile(kernel, problem, (data_pointer, gradient_pointer, result), (group_index, out, into, row), (outs, ins))
        if data.channels % ins:
            with kernel.loop(window.rows) as row:
                rest = (outs, data.channels % ins)
                place = (group_index, out, I64(full * ins), row)
                _tile(kernel, problem, (data_pointer, gradient_pointer, result), place, rest)
        if bias:
            _bias(kernel, problem, gradient_pointer, kernel.argument(6), (group_index, out), outs * kernel.channels)
    kernel.finish()
    return gradient.channels // (outs * kernel.channels)


MANY_AREAS = 128
"""Areas of a map from which on each block's sums are added to the gradient on their own."""


def _tile(
    kernel: Kernel,
    problem: _Problem,
    pointers: tuple[Value, Value, Value],
    place: tuple[Value, Value, Value, Value],
    size: tuple[int, int],
) -> None:
    """Some output by some input channels, one row of the filter."""
    builder, window, data = kernel.builder, problem.window, problem.data
    (data_pointer, gradient_pointer, result), (group_index, out, into, row) = pointers, place
    gradient, (outs, ins) = problem.gradient, size
    sums = {key: kernel.variable(kernel.nothing()) for key in product(range(outs), range(ins), range(window.columns))}
    data_start = kernel.place(data_pointer, (group_index, data.size), (into, data.area))
    gradient_start = kernel.place(gradient_pointer, (group_index, gradient.size), (out, gradient.area))
    # The filter's row meets the padding, not the data, outside these outputs.
    offset = builder.sub(row, I64(window.padding))
    begin = _rounded_up(kernel, builder.sub(I64(0), offset), window.stride, gradient.rows)
    end = _rounded_up(kernel, builder.sub(I64(data.rows), offset), window.stride, gradient.rows)
    (across,) = forward_taps(window.columns, window.stride, window.padding)
    with kernel.loop(problem.group) as block, kernel.loop_if_any(end, begin) as y:
        seen_row = builder.add(builder.mul(y, I64(window.stride)), offset)
        inputs = kernel.place(data_start, (block, data.size), (seen_row, data.columns))
        outputs = kernel.place(gradient_start, (block, gradient.size), (y, gradient.columns))
        for first, step, repeats, (taps,) in alike(across, gradient.columns, data.columns, 1):
            with kernel.loop(repeats) as repeat:
                x = builder.add(I64(first), builder.mul(repeat, I64(step)))
                at_inputs = kernel.place(inputs, (x, window.stride))
                at_outputs = kernel.place(outputs, x)
                seen = {
                    (i, c): kernel.factor(kernel.place(at_inputs, i * data.area + across.offsets[c]))
                    for i, c in product(range(ins), taps)
                }
                for o in range(outs):
                    error = kernel.errors(kernel.place(at_outputs, o * kernel.channels * gradient.area), gradient.area)
                    for (i, c), vector in seen.items():
                        sums[o, i, c].set(kernel.dot(error, vector, sums[o, i, c].get()))
    size_of_filter = window.rows * window.columns
    corner = kernel.at(result, (out, data.channels * size_of_filter), (into, size_of_filter), (row, window.columns))
    for (o, i, c), total in sums.items():
        for channel, value in enumerate(kernel.totals(total.get()), o * kernel.channels):
            _add(kernel, kernel.at(corner, problem.place(channel, i, c)), value, problem, group_index)


def _rounded_up(kernel: Kernel, value: Value, divisor: int, high: int) -> Value:
    """``value / divisor``, rounded up, between 0 and ``high``."""
    value = kernel.clamp(value, 0, high * divisor)
    return kernel.builder.udiv(kernel.builder.add(value, I64(divisor - 1)), I64(divisor))


def _add(kernel: Kernel, slot: Value, value: Value, problem: _Problem, group_index: Value) -> None:
    """Write the first group's part, add the others'."""
    if problem.split:
        is_first = kernel.builder.icmp_signed("==", group_index, I64(0))
        before = kernel.builder.select(is_first, F32(0.0), kernel.scalar(slot))
        value = kernel.builder.fadd(before, value)
    kernel.builder.store(value, slot)


def _bias(
    kernel: Kernel, problem: _Problem, source: Value, result: Value, where: tuple[Value, Value], channels: int
) -> None:
    """Sum a tile's gradient right after its weights', while it is in the cache."""
    gradient, (group_index, out) = problem.gradient, where
    start = kernel.place(source, (group_index, gradient.size))
    with kernel.loop(channels) as o:
        channel = kernel.builder.add(out, o)
        total = kernel.variable(kernel.constant(0.0))
        corner = kernel.place(start, (channel, gradient.area))
        with kernel.loop(problem.group) as block, kernel.loop(gradient.area) as place:
            near = kernel.place(corner, (block, gradient.size), place)
            total.set(kernel.builder.fadd(total.get(), kernel.load(near)))
        _add(kernel, kernel.at(result, (channel, 1)), kernel.total(total.get()), problem, group_index)
