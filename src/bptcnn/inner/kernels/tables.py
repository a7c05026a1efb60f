"""Tables of weights in the order in which kernels want them, where that is not PyTorch's.

They are made anew from the float32 weights in every step, which costs a pass over the weights and spares the kernels a
conversion in their innermost loops, or way through memory.

- Products of bfloat16 take *pairs*: the weights of two channels that are summed up, side by side.
- Gradients of data take the weights of each channel that is made behind each other, if they are many.
- Groups of channels, products of matrices and minimal filtering: see the modules of these names.
"""

from __future__ import annotations

from llvmlite import ir

from bptcnn.inner.kernels.bf16 import BF16, I16
from bptcnn.inner.kernels.emit import F32, I32, I64, Function, Value
from bptcnn.inner.kernels.shape import Vectors, tiles
from bptcnn.inner.kernels.shuffles import filled, shuffled

CHUNK = 16
"""Pairs made at once."""

STREAMS = 16
"""Of memory, written side by side."""


def by_inputs(module: ir.Module, name: str, _: Vectors, outs: int, ins: int, size: int) -> None:
    """Emit ``table[o, p, t] = (w[o, 2p, t], w[o, 2p + 1, t])``, with zero where there is no such channel: forward.

    Arguments of the kernel: weights [outs, ins, size], table [outs, pairs, size] of pairs, first output channel, one
    past the last.

    Args:
        module: gets the kernel.
        name: of the kernel.
        outs: output channels.
        ins: input channels.
        size: of the filter.
    """
    function = Function(module, name)
    weights, table = function.argument(0), function.argument(1)
    with function.loop(function.number(3), function.number(2)) as out:
        source = function.at(weights, (out, ins * size))
        target = function.at(table, (out, tiles(ins, 2) * size))
        if ins > 1:
            with function.loop(ins // 2) as pair:
                one = function.at(source, (pair, 2 * size))
                _pairs(function, one, function.at(one, size), function.at(target, (pair, size)), size)
        if ins % 2:
            _pairs(function, function.at(source, (ins - 1) * size), None, function.at(target, ins // 2 * size), size)
    function.finish()


def by_outputs(module: ir.Module, name: str, _: Vectors, outs: int, ins: int, size: int) -> None:
    """Emit ``table[p, i, t] = (w[2p, i, t], w[2p + 1, i, t])``, with zero where there is no such channel: backward.

    Arguments of the kernel: weights [outs, ins, size], table [pairs, ins, size] of pairs, first pair, one past the
    last.

    Args:
        module: gets the kernel.
        name: of the kernel.
        outs: output channels.
        ins: input channels.
        size: of the filter.
    """
    function = Function(module, name)
    weights, table = function.argument(0), function.argument(1)
    count = ins * size
    with function.loop(function.number(3), function.number(2)) as pair:
        one, target = function.at(weights, (pair, 2 * count)), function.at(table, (pair, count))
        if outs % 2 == 0:
            _pairs(function, one, function.at(one, count), target, count)
        else:
            is_last = function.builder.icmp_signed("==", pair, I64(outs // 2))
            with function.builder.if_else(is_last) as (then, otherwise):
                with then:
                    _pairs(function, one, None, target, count)
                with otherwise:
                    _pairs(function, one, function.at(one, count), target, count)
    function.finish()


def _pairs(function: Function, one: Value, other: Value | None, target: Value, count: int) -> None:
    """Write so many pairs of numbers that lie behind each other."""
    if count >= CHUNK:
        with function.loop(count // CHUNK) as chunk:
            _chunk(function, one, other, target, function.builder.mul(chunk, I64(CHUNK)), CHUNK)
    done, size = count // CHUNK * CHUNK, CHUNK
    while done < count:
        size //= 2
        if count - done >= size:
            _chunk(function, one, other, target, I64(done), size)
            done += size


def _chunk(function: Function, one: Value, other: Value | None, target: Value, start: Value, size: int) -> None:
    numbers = ir.VectorType(F32, size)

    def those(pointer: Value | None) -> Value:
        if pointer is None:
            return filled(numbers, 0.0)
        return function.builder.load(function.at(pointer, start), typ=numbers, align=4)

    pairs = paired(function, those(one), those(other))
    function.builder.store(pairs, function.at(target, start, kind=I32), align=4)


def turned(module: ir.Module, name: str, _: Vectors, outs: int, ins: int, size: int) -> None:
    """Emit ``table[i, o, t] = w[o, i, t]``: of each channel that is made, one stream of memory.

    Arguments of the kernel: weights [outs, ins, size], table [ins, outs, size], first :data:`STREAMS` of input
    channels, one past the last.

    Args:
        module: gets the kernel.
        name: of the kernel.
        outs: output channels.
        ins: input channels.
        size: of the filter.
    """
    function = Function(module, name)
    weights, table, count = function.argument(0), function.argument(1), min(STREAMS, ins)
    filters = ir.VectorType(F32, size)
    with function.loop(function.number(3), function.number(2)) as tile, function.loop(outs) as out:
        first = function.tile(tile, count, ins)
        for near in range(count):
            source = function.at(weights, (out, ins * size), (first, size), near * size)
            target = function.at(table, (first, outs * size), (out, size), near * outs * size)
            function.builder.store(function.builder.load(source, typ=filters, align=4), target, align=4)
    function.finish()


def paired(function: Function, one: Value, other: Value) -> Value:
    """Float32 numbers of two vectors as pairs of bfloat16 numbers.

    Args:
        function: in which they are made.
        one: the first of each pair.
        other: the second.
    """
    count = one.type.count
    low, high = (
        function.builder.bitcast(function.builder.fptrunc(each, ir.VectorType(BF16, count)), ir.VectorType(I16, count))
        for each in (one, other)
    )
    order = [index for number in range(count) for index in (number, count + number)]
    return shuffled(function.builder, low, high, order)
