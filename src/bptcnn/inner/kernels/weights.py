"""The gradient of a convolution with regard to its weights and bias: sums over areas and samples held in registers.

A task makes the gradient of some output channels over *all* blocks of samples. So nothing is left to be reduced between
tasks, and the order of every sum is fixed whichever lane works on it. Of few weights it makes what one block gives.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

from llvmlite import ir

from bptcnn.inner.kernels.bias import accumulate, backward_bias
from bptcnn.inner.kernels.emit import I64, Value
from bptcnn.inner.kernels.errors import Gathered, InPlace
from bptcnn.inner.kernels.kinds import kernel_for
from bptcnn.inner.kernels.matrices import ways as matrices
from bptcnn.inner.kernels.shape import Plane, Vectors, Window, alike, forward_taps
from bptcnn.inner.kernels.shuffles import lane_sums, shuffled
from bptcnn.inner.kernels.tiling import weight_group, weight_rows, weight_tile
from bptcnn.inner.kernels.vectors import Kernel

MORE_AREAS = 16
"""Areas of a map from which on sums end with a block."""


@dataclass(frozen=True, slots=True)
class _Problem:
    """Gradient [out, in, rows, columns] of a window from data and the outputs' gradient."""

    window: Window
    data: Plane
    gradient: Plane
    split: bool  # whether sums end with a block, or with a band of its rows

    def place(self, out: int, into: int, column: int) -> int:
        """Where the gradient of one weight of the filter's first row lies."""
        size = self.window.rows * self.window.columns
        return out * self.data.channels * size + into * size + column


@dataclass(frozen=True, slots=True)
class _Part:
    """What sums stay in registers for: some blocks, or a band of the rows of one."""

    first: Value  # block
    blocks: Value
    is_new: Value | None  # whether nothing was summed up before; None if nothing ever was
    errors: InPlace


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
    if by_matrices := matrices.gradient(module, name, vectors, window, data, gradient):
        return _by_matrices(by_matrices, gradient, bias=bias)
    kernel = kernel_for(module, name, vectors, grouped=weight_group(vectors, gradient) > 1)
    outs, ins = weight_tile(window, data, gradient, vectors)
    # Sums over few areas go on over all blocks, for the final sum over a vector's lanes costs as much as some areas do;
    # over more they end with a block, whose data then stays in the core's cache for all channels, or with a band of its
    # rows, which the first cache holds for all places of the filter.
    problem = _Problem(window, data, gradient, split=kernel.channels > 1 or gradient.area >= MORE_AREAS)
    pointers = kernel.argument(0), kernel.argument(1), kernel.argument(2)
    if kernel.channels > 1:
        errors: InPlace = Gathered(kernel, gradient, outs)
    else:
        most = weight_rows(window, data, gradient, vectors) if problem.split else gradient.rows
        errors = InPlace(kernel, gradient, most)
    full, blocks, builder = data.channels // ins, kernel.scalar(kernel.argument(5), I64), kernel.builder
    with (
        kernel.loop(blocks if problem.split else 1) as first,
        kernel.loop(errors.bands) as band,
        kernel.loop(kernel.number(4), kernel.number(3)) as tile,
    ):
        out = builder.mul(tile, I64(outs * kernel.channels))
        errors.turn(kernel.place(pointers[1], (first, gradient.size), (out, gradient.area)), band)
        is_new = builder.icmp_signed("==", builder.or_(first, band), I64(0)) if problem.split else None
        part = _Part(first, I64(1) if problem.split else blocks, is_new, errors)
        with kernel.loop(full) as input_tile, kernel.loop(window.rows) as row:
            into = builder.mul(input_tile, I64(ins))
            _tile(kernel, problem, part, pointers, (out, into, row), (outs, ins))
        if data.channels % ins:
            with kernel.loop(window.rows) as row:
                _tile(kernel, problem, part, pointers, (out, I64(full * ins), row), (outs, data.channels % ins))
        if bias:
            with builder.if_then(builder.icmp_signed("==", band, I64(0))):
                start = kernel.place(pointers[1], (first, gradient.size))
                of_tile = out, outs * kernel.channels
                backward_bias(kernel, gradient, (start, part.blocks), kernel.argument(6), of_tile, is_new)
    kernel.finish()
    return gradient.channels // (outs * kernel.channels)


def _by_matrices(made: matrices.Gradient, gradient: Plane, *, bias: bool) -> int:
    """The same by products of matrices."""
    kernel, products, channels = made
    blocks = kernel.scalar(kernel.argument(5), I64)
    with kernel.loop(kernel.number(4), kernel.number(3)) as tile:
        products.emit(tile, blocks)
        if bias:
            out = kernel.builder.mul(tile, I64(channels))
            backward_bias(kernel, gradient, (kernel.argument(1), blocks), kernel.argument(6), (out, channels))
    products.release()
    kernel.finish()
    return gradient.channels // channels


def _tile(
    kernel: Kernel,
    problem: _Problem,
    part: _Part,
    pointers: tuple[Value, Value, Value],
    place: tuple[Value, Value, Value],
    size: tuple[int, int],
) -> None:
    """Some output by some input channels, one row of the filter."""
    builder, window, data, gradient = kernel.builder, problem.window, problem.data, problem.gradient
    (out, into, row), (outs, ins) = place, size
    sums = {key: kernel.variable(kernel.nothing()) for key in product(range(outs), range(ins), range(window.columns))}
    data_start = kernel.place(pointers[0], (part.first, data.size), (into, data.area))
    # The filter's row meets the padding, not the data, outside these outputs.
    offset = builder.sub(row, I64(window.padding))
    begin = kernel.rounded_up(builder.sub(I64(0), offset), window.stride, gradient.rows)
    end = kernel.rounded_up(builder.sub(I64(data.rows), offset), window.stride, gradient.rows)
    begin, end = part.errors.rows(begin, end)
    (across,) = forward_taps(window.columns, window.stride, window.padding)
    with kernel.loop(part.blocks) as block, kernel.loop_if_any(end, begin) as y:
        seen_row = builder.add(builder.mul(y, I64(window.stride)), offset)
        inputs = kernel.place(data_start, (block, data.size), (seen_row, data.columns))
        for first, step, repeats, (taps,) in alike(across, gradient.columns, data.columns, 1):
            with kernel.loop(repeats) as repeat:
                x = builder.add(I64(first), builder.mul(repeat, I64(step)))
                at_inputs = kernel.place(inputs, (x, window.stride))
                seen = {
                    (i, c): kernel.factor(kernel.place(at_inputs, i * data.area + across.offsets[c]))
                    for i, c in product(range(ins), taps)
                }
                for o in range(outs):
                    error = part.errors.at(o, block, y, x)
                    for (i, c), vector in seen.items():
                        sums[o, i, c].set(kernel.dot(error, vector, sums[o, i, c].get()))
    size_of_filter = window.rows * window.columns
    corner = kernel.at(
        pointers[2], (out, data.channels * size_of_filter), (into, size_of_filter), (row, window.columns)
    )
    _write(kernel, problem, part.is_new, corner, {key: total.get() for key, total in sums.items()})


def _write(
    kernel: Kernel,
    problem: _Problem,
    is_new: Value | None,
    corner: Value,
    sums: Mapping[tuple[int, int, int], Value],
) -> None:
    """Sum over the lanes, and write what lies side by side together."""
    by_place: dict[int, Value] = {}
    for (o, i, c), total in sums.items():
        for channel, vector in enumerate(kernel.by_outputs(total), o * kernel.channels):
            by_place[problem.place(channel, i, c)] = vector
    places = sorted(by_place)
    for numbers in lane_sums(kernel.builder, [by_place[place] for place in places]):
        for run in consecutive(places[: numbers.type.count]):
            value = shuffled(kernel.builder, numbers, numbers, [places.index(place) for place in run])
            accumulate(kernel, kernel.at(corner, run[0]), value, is_new)
        places = places[numbers.type.count :]


def consecutive(numbers: Sequence[int]) -> list[list[int]]:
    """Runs of numbers that follow each other.

    Args:
        numbers: in order.

    Example:
        >>> consecutive([4, 5, 6, 9, 10])
        [[4, 5, 6], [9, 10]]
    """
    runs = [[numbers[0]]]
    for number in numbers[1:]:
        if number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return runs
