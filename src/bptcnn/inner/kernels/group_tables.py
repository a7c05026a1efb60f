"""Tables of weights for groups of channels: those of channels that are *not* summed up lie side by side."""

from __future__ import annotations

from dataclasses import dataclass

from llvmlite import ir

from bptcnn.inner.kernels.bf16 import BF16, I16
from bptcnn.inner.kernels.emit import F32, I32, I64, Function, Value
from bptcnn.inner.kernels.shape import Vectors, tiles
from bptcnn.inner.kernels.shuffles import interleaved, loaded, part
from bptcnn.inner.kernels.tables import paired
from bptcnn.inner.kernels.tiling import side_by_side


def forward(module: ir.Module, name: str, vectors: Vectors, outs: int, ins: int, size: int) -> None:
    """Emit ``table[g, i, t, o] = w[s g + o, i, t]``; with bfloat16 pairs, of channels 2p and 2p + 1.

    Arguments of the kernel: weights [outs, ins, size], table [outs / s, ins or pairs, size, s], first part, one past
    the last; s is :func:`~bptcnn.inner.kernels.tiling.side_by_side`, parts are :func:`num_parts`.

    Args:
        module: gets the kernel.
        name: of the kernel.
        vectors: the registers and what they hold.
        outs: output channels.
        ins: input channels.
        size: of the filter.
    """
    _fill(_Source(Function(module, name), vectors, rows=(outs, ins * size), channels=(ins, size), size=size))


def backward(module: ir.Module, name: str, vectors: Vectors, outs: int, ins: int, size: int) -> None:
    """Emit ``table[g, o, t, i] = w[o, s g + i, t]``; with bfloat16 pairs, of channels 2p and 2p + 1.

    Arguments of the kernel: weights [outs, ins, size], table [ins / s, outs or pairs, size, s], first part, one past
    the last; s is :func:`~bptcnn.inner.kernels.tiling.side_by_side`, parts are :func:`num_parts`.

    Args:
        module: gets the kernel.
        name: of the kernel.
        vectors: the registers and what they hold.
        outs: output channels.
        ins: input channels.
        size: of the filter.
    """
    _fill(_Source(Function(module, name), vectors, rows=(ins, size), channels=(outs, ins * size), size=size))


def num_parts(vectors: Vectors, rows: int, channels: int) -> int:
    """What the work on a table can be divided by.

    Args:
        vectors: the registers and what they hold.
        rows: channels that are made.
        channels: that are summed up.
    """
    side = side_by_side(vectors, rows)
    return rows // side if side == vectors.channels else tiles(channels, vectors.parts)


@dataclass(frozen=True, slots=True)
class _Source:
    """Weights as rows that are to lie side by side, and channels that are summed up: how many, and how far apart."""

    function: Function
    vectors: Vectors
    rows: tuple[int, int]
    channels: tuple[int, int]
    size: int

    @property
    def depth(self) -> int:
        """Channels of an entry of the table: one, or a pair."""
        return self.vectors.parts

    @property
    def side(self) -> int:
        """Rows that lie side by side."""
        return side_by_side(self.vectors, self.rows[0])


def _fill(source: _Source) -> None:
    """The part of the table that the arguments name: of groups of rows, or of channels where groups do not come out."""
    function = source.function
    if source.side == source.vectors.channels:
        with function.loop(function.number(3), function.number(2)) as side:
            _in_streams(source, side)
        function.finish()
        return
    with function.loop(function.number(3), function.number(2)) as group:
        _one_by_one(source, group)
    function.finish()


def _in_streams(source: _Source, side: Value) -> None:
    """Of some rows side by side: read and write memory as it lies."""
    function, lanes, (count, span), size = source.function, source.vectors.lanes, source.channels, source.size
    if source.depth == 1 and span == size:  # channels follow each other without a gap
        count, size = 1, count * size
    whole, rest = divmod(count, source.depth)
    weights = function.at(function.argument(0), (side, source.side * source.rows[1]))
    table = function.at(function.argument(1), (side, tiles(count, source.depth) * size * source.side))

    def run(group: Value, start: Value, there: int, missing: int) -> None:
        corner = function.at(weights, (group, source.depth * span), start)
        rows = [function.at(corner, row * source.rows[1]) for row in range(source.side)]
        numbers = [loaded(function, row, lanes, there) for row in rows]
        if source.depth == 2:
            others = [loaded(function, function.at(row, span), lanes, 0 if missing else there) for row in rows]
            kind = ir.VectorType(I32, lanes)
            numbers = [
                function.builder.bitcast(paired(function, *pair), kind) for pair in zip(numbers, others, strict=True)
            ]
        entries = part(function.builder, interleaved(function.builder, numbers), 0, there * source.side)
        target = function.at(table, (group, size * source.side), (start, source.side))
        function.builder.store(entries, target, align=4)

    for first, last, missing in ((0, whole, 0), (whole, whole + rest, 1)):
        if first == last:
            continue
        with function.loop(last, first) as group:
            if size >= lanes:
                with function.loop(size // lanes) as chunk:
                    run(group, function.builder.mul(chunk, I64(lanes)), lanes, missing)
            if size % lanes:
                run(group, I64(size // lanes * lanes), size % lanes, missing)


def _one_by_one(source: _Source, group: Value) -> None:
    """Of some channels that are summed up, all rows side by side."""
    function, builder, (count, row_span), (total, span) = (
        source.function,
        source.function.builder,
        source.rows,
        source.channels,
    )
    weights, table = function.argument(0), function.argument(1)
    first = builder.mul(group, I64(source.depth))
    following = builder.add(first, I64(1))
    there = builder.icmp_signed("<", following, I64(total))
    second = builder.select(there, following, first)
    with function.loop(source.size) as place, function.loop(count) as row:
        near = (row, row_span), place
        entry = function.scalar(function.at(weights, (first, span), *near))
        if source.depth == 2:
            other = function.scalar(function.at(weights, (second, span), *near))
            numbers = entry, builder.select(there, other, F32(0.0))
            low, high = (builder.zext(builder.bitcast(builder.fptrunc(one, BF16), I16), I32) for one in numbers)
            entry = builder.or_(low, builder.shl(high, I32(16)))
        builder.store(entry, function.at(table, (group, source.size * count), (place, count), row))
