"""The gradient of the weights by minimal filtering: ``G^T ((A dy) * (B^T d)) G``, summed up over tiles and samples.

Products come first, in tasks of some points each: so none transforms what another does. When they are done, their sums
are brought back, in tasks of some output channels.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

from llvmlite import ir

from bptcnn.inner.kernels.bias import accumulate, backward_bias
from bptcnn.inner.kernels.emit import I64, Value
from bptcnn.inner.kernels.shape import Plane, Vectors
from bptcnn.inner.kernels.shuffles import shuffled, transposed
from bptcnn.inner.kernels.winograd import forms
from bptcnn.inner.kernels.winograd.combine import combined
from bptcnn.inner.kernels.winograd.forms import form_of
from bptcnn.inner.kernels.winograd.kernel import TileKernel
from bptcnn.inner.kernels.winograd.points import Points
from bptcnn.inner.kernels.winograd.weight_tiling import WeightShape

LINE = 16
"""Numbers of a line of the cache."""


def weight_products(
    module: ir.Module, name: str, vectors: Vectors, shape: WeightShape, padding: int, data: Plane, gradient: Plane
) -> int:
    """Emit ``sums[point, i, o] = sum (A dy A^T)[point, o] (B^T d B)[point, i]``, over a chunk of all tiles.

    Arguments of the kernel: data of all blocks, the outputs' gradient of all blocks, sums, first part of the points,
    one past the last, number of blocks int64 [1], first row of tiles, counted over all blocks, one past the last that
    there may be.

    Args:
        module: gets the kernel.
        name: of the kernel.
        vectors: the registers and what they hold.
        shape: of the panels.
        padding: of the convolution.
        data: what the convolution saw.
        gradient: of what it made.

    Returns:
        Parts: what the work can be divided by.
    """
    kernel, form = TileKernel(module, name, vectors), form_of(shape.size)
    inputs = Points(kernel, shape, data, forms.transposed(form.data), padding, 1)
    errors = Points(kernel, shape, gradient, form.outputs, 0, vectors.lanes)
    builder, size = kernel.builder, data.channels * gradient.channels
    total = builder.mul(kernel.scalar(kernel.argument(5), I64), I64(shape.down))
    begin, end = kernel.number(6), kernel.least(kernel.number(7), total)
    # What a panel is made of stays in the core's cache for all parts.
    with (
        builder.if_then(builder.icmp_signed("<", begin, end)),
        kernel.loop(end, begin, step=shape.rows) as start,
        kernel.loop(kernel.number(4), kernel.number(3)) as part,
    ):
        count = kernel.least(builder.sub(end, start), I64(shape.rows))
        inputs.emit(kernel.argument(0), start, count, part)
        errors.emit(kernel.argument(1), start, count, part)
        is_new = builder.icmp_signed("==", start, begin)
        with kernel.loop(shape.along) as near:
            point = builder.add(builder.mul(part, I64(shape.along)), near)
            factors = tuple(kernel.place(each.memory, (near, each.apart)) for each in (inputs, errors))
            sums = kernel.at(kernel.argument(2), (point, size))
            _products(kernel, shape, (data.channels, gradient.channels), factors, sums, count, is_new)
    kernel.finish()
    return shape.parts


def _products(
    kernel: TileKernel,
    shape: WeightShape,
    channels: tuple[int, int],
    factors: tuple[Value, Value],
    sums: Value,
    rows: Value,
    is_new: Value,
) -> None:
    """Of a panel at one point."""
    (ins, outs), (inputs, errors), lanes = channels, factors, kernel.vector.count
    count = kernel.builder.mul(rows, I64(shape.across))

    def of_tile(group: Value, channel: Value, several: tuple[int, int]) -> None:
        corner = kernel.at(sums, (channel, outs), (group, lanes))
        of_group = kernel.place(errors, (group, shape.apart(lanes)))
        of_channel = kernel.place(inputs, (channel, shape.apart(1)))
        # Sums of earlier panels come from afar: they are on their way meanwhile.
        for c, g in product(range(several[1]), range(0, several[0], max(1, LINE // lanes))):
            kernel.fetch(kernel.at(corner, c * outs + g * lanes))
        totals = {place: kernel.variable(kernel.constant(0.0)) for place in product(*map(range, several))}
        with kernel.loop(count) as tile:
            for sample in range(lanes):
                seen = [
                    kernel.load(kernel.place(of_group, (tile, lanes), g * shape.apart(lanes) + sample))
                    for g in range(several[0])
                ]
                for c in range(several[1]):
                    number = kernel.place(of_channel, c * shape.apart(1), tile)
                    value = kernel.by_channel(kernel.at(number, sample))
                    for g, error in enumerate(seen):
                        totals[g, c].set(kernel.fma(value, error, totals[g, c].get()))
        for (g, c), value in totals.items():
            accumulate(kernel, kernel.at(corner, c * outs + g * lanes), value.get(), is_new)

    for group, g in _tiles(kernel, outs // lanes, shape.groups):
        for channel, c in _tiles(kernel, ins, shape.channels):
            of_tile(group, channel, (g, c))


def _tiles(kernel: TileKernel, total: int, size: int) -> Iterator[tuple[Value, int]]:
    """Emit what follows for each tile, given where it begins and its size, then for what is left."""
    if total >= size:
        with kernel.loop(total // size * size, step=size) as first:
            yield first, size
    if rest := total % size:
        yield I64(total - rest), rest


def weight_sums(
    module: ir.Module,
    name: str,
    vectors: Vectors,
    shape: WeightShape,
    rows: int,
    data: Plane,
    gradient: Plane,
    *,
    bias: bool,
) -> int:
    """Emit ``dW[o, i] = G^T sums[., i, o] G``, and the gradient of the bias.

    Arguments of the kernel: sums [chunks, points, in, out], the outputs' gradient of all blocks, the weights' gradient
    [out, in, rows, columns], first group of output channels, one past the last, number of blocks int64 [1], the bias's
    gradient or null.

    Args:
        module: gets the kernel.
        name: of the kernel.
        vectors: the registers and what they hold.
        shape: of the panels.
        rows: of tiles of a chunk.
        data: what the convolution saw.
        gradient: of what it made.
        bias: whether there is one.

    Returns:
        Groups of output channels: what the work can be divided by.
    """
    kernel, form = TileKernel(module, name, vectors), form_of(shape.size)
    ins, outs, lanes, taps = data.channels, gradient.channels, vectors.lanes, shape.size**2
    back, points = forms.transposed(form.filters), form.points
    blocks = kernel.scalar(kernel.argument(5), I64)
    chunks = kernel.builder.mul(blocks, I64(shape.down))
    chunks = kernel.builder.udiv(kernel.builder.add(chunks, I64(rows - 1)), I64(rows))
    with kernel.loop(kernel.number(4), kernel.number(3)) as group:
        first = kernel.builder.mul(group, I64(lanes))
        with kernel.loop(ins) as channel:
            corner, columns = kernel.at(kernel.argument(0), (channel, outs), first), []
            for b in range(points):
                totals = [kernel.variable(kernel.constant(0.0)) for _ in range(points)]
                with kernel.loop(chunks) as chunk:
                    of_chunk = kernel.at(corner, (chunk, points**2 * ins * outs))
                    for a, total in enumerate(totals):
                        place = kernel.at(of_chunk, (a * points + b) * ins * outs)
                        value = kernel.builder.load(place, typ=kernel.vector, align=4)
                        total.set(kernel.builder.fadd(total.get(), value))
                columns.append(combined(kernel, back, [total.get() for total in totals]))
            weights = [value for along in zip(*columns, strict=True) for value in combined(kernel, back, along)]
            _write(kernel, weights, kernel.at(kernel.argument(2), (first, ins * taps), (channel, taps)), ins * taps)
        if bias:
            source = kernel.argument(1), blocks
            with kernel.on_maps(1):
                backward_bias(kernel, gradient, source, kernel.argument(6), (first, lanes))
    kernel.finish()
    return outs // lanes


def _write(kernel: TileKernel, weights: list[Value], corner: Value, apart: int) -> None:
    """Write one filter for each lane.

    Args:
        kernel: in which that happens.
        weights: of all filters, tap by tap.
        corner: of the first filter.
        apart: numbers from one filter to the next.
    """
    lanes = kernel.vector.count
    for first in range(0, len(weights), lanes):
        some = weights[first : first + lanes]
        filled = [*some, *[some[-1]] * (lanes - len(some))]
        for lane, row in enumerate(transposed(kernel, filled)):
            values = row if len(some) == lanes else shuffled(kernel.builder, row, row, range(len(some)))
            kernel.builder.store(values, kernel.at(corner, lane * apart + first), align=4)
