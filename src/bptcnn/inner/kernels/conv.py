"""Convolution and its gradient with regard to the data: areas of outputs held in registers while channels pass by.

A tile of outputs, some channels by some columns, stays in registers; each input vector is used for all channels of the
tile and each weight for all columns. Weights are read where PyTorch keeps them. Padding costs nothing: what a filter
would see of it is left out, at the borders of a map by code of their own. So is done what neither products of matrices
nor minimal filtering do better.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from itertools import product

from llvmlite import ir

from bptcnn.inner.kernels.emit import I64, Value, Variable
from bptcnn.inner.kernels.kinds import kernel_of_outputs
from bptcnn.inner.kernels.matrices import ways as matrices
from bptcnn.inner.kernels.shape import Plane, Taps, Vectors, Window, alike, backward_taps, forward_taps, tiles
from bptcnn.inner.kernels.sums import Epilogue, Pointers, Sum, finish, rows_seen
from bptcnn.inner.kernels.tiling import is_turned, output_tile, side_by_side
from bptcnn.inner.kernels.vectors import Kernel
from bptcnn.inner.kernels.winograd import ways as winograd

AHEAD = 4
"""Input channels, or groups of them, that lie between what is multiplied and what is fetched for later. Channels of a
tile lie so far apart that caches do not foresee which comes next."""

LINE = 64
"""Bytes of a cache that are fetched at once."""

MANY_ROWS = 16
"""Of a map that may be divided by rows: fewer cannot be shared out evenly."""


def forward(
    module: ir.Module,
    name: str,
    vectors: Vectors,
    window: Window,
    data: Plane,
    out: Plane,
    *,
    bias: bool,
    then: Epilogue,
) -> int:
    """Emit a convolution of one block.

    Arguments of the kernel: data, weights [out, in, rows, columns], out, bias, what is added, what masks, first part
    of the outputs, one past the last. What is not used may be null; all but weights and bias is blocked.

    Args:
        module: gets the kernel.
        name: of the kernel.
        vectors: the registers and what they hold.
        window: of the convolution.
        data: what it sees.
        out: what it makes.
        bias: whether there is one.
        then: the epilogue.

    Returns:
        Parts that the work can be divided by: tiles of channels, or rows.
    """
    down = forward_taps(window.rows, window.stride, window.padding)
    across = forward_taps(window.columns, window.stride, window.padding)
    spec = Sum(data, out, window.rows, window.columns, down, across, bias, then)
    if (made := matrices.convolution(module, name, vectors, spec, window)) is not None:
        return made
    if (made := winograd.convolution(module, name, vectors, spec, window)) is not None:
        return made
    size, pairs = window.rows * window.columns, vectors.bf16 and vectors.channels == 1
    return _emit(module, name, vectors, spec, _Spans(tiles(data.channels, 2 if pairs else 1) * size, size, 1))


def backward_data(
    module: ir.Module, name: str, vectors: Vectors, window: Window, gradient: Plane, out: Plane, then: Epilogue
) -> int:
    """Emit the gradient with regard to the data of one block; the kernel's arguments are those of :func:`forward`.

    Args:
        module: gets the kernel.
        name: of the kernel.
        vectors: the registers and what they hold.
        window: of the convolution.
        gradient: of the convolution's outputs.
        out: gradient of the convolution's data.
        then: the epilogue.

    Returns:
        Parts that the work can be divided by.
    """
    down = backward_taps(window.rows, window.stride, window.padding)
    across = backward_taps(window.columns, window.stride, window.padding)
    size = window.rows * window.columns
    spec = Sum(gradient, out, window.rows, window.columns, down, across, bias=False, then=then)
    if (made := matrices.convolution(module, name, vectors, spec)) is not None:
        return made
    if (made := winograd.data_gradient(module, name, vectors, spec, window)) is not None:
        return made
    spec = replace(spec, down=_ascending(down), across=_ascending(across))
    spans = _Spans(size, out.channels * size, 1)
    if is_turned(vectors, gradient.channels, out.channels, size):
        spans = _Spans(gradient.channels * size, size, 1)
    return _emit(module, name, vectors, spec, spans)


def _ascending(phases: tuple[Taps, ...]) -> tuple[Taps, ...]:
    """Taps in the order in which the data lies in memory: caches fetch ahead what follows."""
    return tuple(replace(taps, places=taps.places[::-1], offsets=taps.offsets[::-1]) for taps in phases)


@dataclass(frozen=True, slots=True)
class _Spans:
    """Where vectors find ``weights[o out + i into + t tap]``, i one or two channels."""

    out: int
    into: int
    tap: int


@dataclass(frozen=True, slots=True)
class _Tile:
    """Outputs of one phase: channels from ``channel`` on, columns from ``column`` on, in one row."""

    down: Taps
    across: Taps
    channel: Value
    row: Value
    column: Value
    channels: int
    seen: tuple[tuple[int, ...], ...]  # the taps that each column sees
    again: bool  # whether what one tap sees is loaded again for the next, not kept


def _emit(module: ir.Module, name: str, vectors: Vectors, spec: Sum, spans: _Spans) -> int:
    kernel = kernel_of_outputs(module, name, vectors, spec.across, spec.out)
    if kernel.channels > 1:  # a table, in which weights of channels that are made lie side by side
        side, size = side_by_side(vectors, spec.out.channels), spec.filter_rows * spec.filter_columns
        all_groups = side == spec.out.channels
        spans = _Spans(1 if all_groups else tiles(spec.data.channels, kernel.depth) * size, size * side, side)
    most = output_tile(spec.across, spec.data.columns, spec.out, vectors)
    pointers = Pointers(*(kernel.argument(place) for place in range(6)))
    first, last = kernel.number(6), kernel.number(7)
    by_rows, num_tiles = _by_rows(vectors, spec), tiles(spec.out.channels, most.channels * kernel.channels)
    for down, across in product(spec.down, spec.across):
        num_rows, num_columns = down.count(spec.out.rows), across.count(spec.out.columns)
        if not num_rows or not num_columns:
            continue
        if by_rows:
            rows, channels = kernel.loop_if_any(kernel.least(last, I64(num_rows)), first), kernel.loop(num_tiles)
        else:
            rows, channels = kernel.loop(num_rows), kernel.loop(last, first)
        with rows as row, channels as index:
            channel = kernel.tile(index, most.channels * kernel.channels, spec.out.channels)
            for start, step, repeats, seen in alike(across, num_columns, spec.data.columns, most.columns):
                with kernel.loop(repeats) as repeat:
                    column = kernel.builder.add(I64(start), kernel.builder.mul(repeat, I64(step)))
                    tile = _Tile(down, across, channel, row, column, most.channels, seen, most.again)
                    _tile(kernel, spec, spans, pointers, tile)
    kernel.finish()
    return tiles(spec.out.rows, spec.down[0].every) if by_rows else num_tiles


def _by_rows(vectors: Vectors, spec: Sum) -> bool:
    """Whether parts are rows: each reads all weights then, and not all data, where that is more."""
    weights = spec.out.channels * spec.data.channels * spec.filter_rows * spec.filter_columns
    return spec.out.rows >= MANY_ROWS and spec.data.size * vectors.width > weights


def _tile(kernel: Kernel, spec: Sum, spans: _Spans, pointers: Pointers, tile: _Tile) -> None:
    data, down, across = spec.data, tile.down, tile.across
    sums = [
        [kernel.variable(_first(kernel, spec, pointers, tile, c)) for _ in range(0, len(tile.seen), kernel.columns)]
        for c in range(tile.channels)
    ]
    if down.places and any(tile.seen):
        corner = kernel.place(pointers.data, (tile.column, across.step))
        filters = kernel.at(pointers.weights, (tile.channel, spans.out))
        # The filter's rows in a loop, its columns one after the other: short code, and registers keep what a row sees.
        direction = down.offsets[1] - down.offsets[0] if len(down.offsets) > 1 else 1
        apart = down.places[1] - down.places[0] if len(down.places) > 1 else 1
        row = kernel.builder.mul(tile.row, I64(down.step))
        begin, end = rows_seen(kernel, down, direction, row, data.rows)
        for group, complete in _groups(kernel, data.channels):
            with group as i, kernel.loop_if_any(end, begin) as tap:
                place = kernel.builder.add(I64(down.places[0]), kernel.builder.mul(tap, I64(apart)))
                offset = kernel.builder.add(I64(down.offsets[0]), kernel.builder.mul(tap, I64(direction)))
                seen_row = kernel.builder.add(row, offset)
                inputs = kernel.place(corner, (i, kernel.depth * data.area), (seen_row, data.columns))
                weights = kernel.at(filters, (i, spans.into), (place, spec.filter_columns * spans.tap))
                if data.channels > AHEAD * kernel.depth:
                    _fetch(kernel, tile, kernel.place(inputs, AHEAD * kernel.depth * data.area), data)
                _row(kernel, spans, tile, inputs, weights, data.area if complete else None, sums)
    _finish(kernel, spec, pointers, tile, sums)


def _groups(kernel: Kernel, channels: int) -> Iterator[tuple[AbstractContextManager[Value], bool]]:
    """Loops over groups of ``depth`` channels, and whether the groups are complete."""
    complete = channels // kernel.depth
    if complete:
        yield kernel.loop(complete), True
    if channels % kernel.depth:
        yield kernel.loop(complete + 1, complete), False


def _fetch(kernel: Kernel, tile: _Tile, inputs: Value, data: Plane) -> None:
    """Have the caches fetch what a tile sees of one row and one group of input channels."""
    across = tile.across
    first, last = min(across.offsets), max(across.offsets) + across.step * (len(tile.seen) - 1)
    apart = max(1, LINE // kernel.place_bytes)
    for channel in range(kernel.depth):
        for place in sorted({*range(first, last + 1, apart), last}):
            kernel.fetch(kernel.place(inputs, channel * data.area + place))


def _row(
    kernel: Kernel,
    spans: _Spans,
    tile: _Tile,
    inputs: Value,
    weights: Value,
    apart: int | None,
    sums: list[list[Variable]],
) -> None:
    """Multiply-adds of one row of the filter and one group of input channels."""
    across, count = tile.across, kernel.columns
    for t, (place, offset) in enumerate(zip(across.places, across.offsets, strict=True)):
        sees = [[t in taps for taps in tile.seen[x : x + count]] for x in range(0, len(tile.seen), count)]
        from_here = kernel.anew(inputs) if tile.again else inputs
        operands = {
            x: kernel.seen(kernel.place(from_here, offset + x * count * across.step), apart, each)
            for x, each in enumerate(sees)
            if any(each)
        }
        for c, of_channel in enumerate(sums if operands else ()):
            weight = kernel.weight(kernel.at(weights, c * kernel.channels * spans.out + place * spans.tap))
            for x, seen in operands.items():
                of_channel[x].set(kernel.multiply(weight, seen, of_channel[x].get()))


def _first(kernel: Kernel, spec: Sum, pointers: Pointers, tile: _Tile, c: int) -> Value:
    if not spec.bias:
        return kernel.zeros()
    return kernel.by_channel(kernel.at(pointers.bias, tile.channel, c * kernel.channels))


def _finish(kernel: Kernel, spec: Sum, pointers: Pointers, tile: _Tile, sums: list[list[Variable]]) -> None:
    """Apply the epilogue and store."""
    out, down, across = spec.out, tile.down, tile.across
    corner = (
        I64(down.phase * out.columns + across.phase),
        (tile.channel, out.area),
        (tile.row, down.every * out.columns),
        (tile.column, across.every),
    )
    for c, of_channel in enumerate(sums):
        for x, total in enumerate(of_channel):
            near = I64(c * kernel.channels * out.area + x * kernel.columns * across.every)
            finish(kernel, spec, pointers, total.get(), *corner, near)
