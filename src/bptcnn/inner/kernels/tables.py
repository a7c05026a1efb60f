"""Tables of weights in the order in which kernels want them, where that is not PyTorch's.

They are made anew from the float32 weights in every step, which costs a pass over the weights and spares the kernels a
conversion in their innermost loops.

- Products of bfloat16 take *pairs*: the weights of two channels that are summed up, side by side.
- Groups of channels take the weights of channels that are *not* summed up side by side.
"""

from __future__ import annotations

from llvmlite import ir

from bptcnn.inner.kernels.bf16 import BF16, I16
from bptcnn.inner.kernels.emit import F32, I32, I64, Function, Term, Value
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


def for_groups_forward(module: ir.Module, name: str, vectors: Vectors, outs: int, ins: int, size: int) -> None:
    """Emit ``table[i, t, o] = w[o, i, t]``; with bfloat16 ``table[p, t, o] = (w[o, 2p, t], w[o, 2p + 1, t])``.

    Arguments of the kernel: weights [outs, ins, size], table [ins or pairs, size, outs], first input channel or pair,
    one past the last.

    Args:
        module: gets the kernel.
        name: of the kernel.
        vectors: the registers and what they hold.
        outs: output channels.
        ins: input channels.
        size: of the filter.
    """
    function = Function(module, name)
    weights, table = function.argument(0), function.argument(1)
    with function.loop(function.number(3), function.number(2)) as group, function.loop(size) as place:
        # Line by line of the cache: the next places find there what this one left.
        numbers = _Numbers(function, function.at(weights, place), group, (ins, size), pairs=vectors.bf16)
        with function.loop(outs) as out:
            value = numbers.at((out, ins * size))
            function.builder.store(value, function.at(table, (group, size * outs), (place, outs), out))
    function.finish()


def for_groups_backward(module: ir.Module, name: str, vectors: Vectors, outs: int, ins: int, size: int) -> None:
    """Emit ``table[o, t, i] = w[o, i, t]``; with bfloat16 ``table[p, t, i] = (w[2p, i, t], w[2p + 1, i, t])``.

    Arguments of the kernel: weights [outs, ins, size], table [outs or pairs, size, ins], first output channel or pair,
    one past the last.

    Args:
        module: gets the kernel.
        name: of the kernel.
        vectors: the registers and what they hold.
        outs: output channels.
        ins: input channels.
        size: of the filter.
    """
    function = Function(module, name)
    weights, table = function.argument(0), function.argument(1)
    with function.loop(function.number(3), function.number(2)) as group, function.loop(size) as place:
        numbers = _Numbers(function, function.at(weights, place), group, (outs, ins * size), pairs=vectors.bf16)
        with function.loop(ins) as into:
            value = numbers.at((into, size))
            function.builder.store(value, function.at(table, (group, size * ins), (place, ins), into))
    function.finish()


class _Numbers:
    """Weights of one channel of those that are summed up, or pairs of those of two."""

    def __init__(
        self, function: Function, weights: Value, group: Value, channels: tuple[int, int], *, pairs: bool
    ) -> None:
        self._function, builder = function, function.builder
        total, span = channels
        first = builder.mul(group, I64(2)) if pairs else group
        self._one, self._other = function.at(weights, (first, span)), None
        if pairs:
            following = builder.add(first, I64(1))
            self._there = builder.icmp_signed("<", following, I64(total))
            self._other = function.at(weights, (builder.select(self._there, following, first), span))

    def at(self, term: Term) -> Value:
        """Those at a place.

        Args:
            term: index and span of the channels that are not summed up.
        """
        function, builder = self._function, self._function.builder
        number = function.scalar(function.at(self._one, term))
        if self._other is None:
            return number
        other = builder.select(self._there, function.scalar(function.at(self._other, term)), F32(0.0))
        low, high = (builder.zext(builder.bitcast(builder.fptrunc(each, BF16), I16), I32) for each in (number, other))
        return builder.or_(low, builder.shl(high, I32(16)))
