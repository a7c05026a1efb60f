"""Tables of weights in the order in which kernels want them, where that is not PyTorch's.

They are made anew from the float32 weights in every step, which costs a pass over the weights and spares the kernels a
conversion in their innermost loops.

- Products of bfloat16 take *pairs*: the weights of two channels that are summed up, side by side.
- Groups of channels take the weights of channels that are *not* summed up side by side.
"""

from __future__ import annotations

from llvmlite import ir

from bptcnn.inner.kernels.bf16 import BF16, I16
from bptcnn.inner.kernels.emit import F32, I32, I64, Function, Value
from bptcnn.inner.kernels.shape import Vectors, tiles
from bptcnn.inner.kernels.shuffles import shuffled

CHUNK = 16
"""Pairs made at once."""


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
    words = ir.VectorType(I16, size)

    def rounded(pointer: Value | None) -> Value:
        if pointer is None:
            return ir.Constant(words, [0] * size)
        numbers = function.builder.load(function.at(pointer, start), typ=ir.VectorType(F32, size), align=4)
        return function.builder.bitcast(function.builder.fptrunc(numbers, ir.VectorType(BF16, size)), words)

    order = [index for number in range(size) for index in (number, size + number)]
    pairs = shuffled(function.builder, rounded(one), rounded(other), order)
    function.builder.store(pairs, function.at(target, start, kind=I32), align=4)


def for_groups_forward(module: ir.Module, name: str, _: Vectors, outs: int, ins: int, size: int) -> None:
    """Emit ``table[i, t, o] = w[o, i, t]``.

    Arguments of the kernel: weights [outs, ins, size], table [ins, size, outs], first input channel, one past the last.

    Args:
        module: gets the kernel.
        name: of the kernel.
        outs: output channels.
        ins: input channels.
        size: of the filter.
    """
    function, span = Function(module, name), ins * size
    weights, table = function.argument(0), function.argument(1)
    first, last = (function.builder.mul(function.number(place), I64(size)) for place in (2, 3))
    with function.loop(last, first) as place:
        # Line by line of the cache: the next places find there what this one left.
        _spread(function, function.at(weights, place), span, function.at(table, (place, outs)), outs)
    function.finish()


def for_groups_backward(module: ir.Module, name: str, _: Vectors, outs: int, ins: int, size: int) -> None:
    """Emit ``table[o, t, i] = w[o, i, t]``.

    Arguments of the kernel: weights [outs, ins, size], table [outs, size, ins], first output channel, one past the
    last.

    Args:
        module: gets the kernel.
        name: of the kernel.
        outs: output channels.
        ins: input channels.
        size: of the filter.
    """
    del outs
    function = Function(module, name)
    weights, table = function.argument(0), function.argument(1)
    with function.loop(function.number(3), function.number(2)) as out, function.loop(size) as place:
        source = function.at(weights, (out, ins * size), place)
        _spread(function, source, size, function.at(table, (out, ins * size), (place, ins)), ins)
    function.finish()


def _spread(function: Function, source: Value, span: int, target: Value, count: int) -> None:
    """Copy numbers that lie ``span`` apart to where they lie side by side."""
    with function.loop(count) as index:
        function.builder.store(function.scalar(function.at(source, (index, span))), function.at(target, index))
