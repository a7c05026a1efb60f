"""Tables of weights for products of matrices: first factors, one behind the other, made anew in every step."""

from __future__ import annotations

from llvmlite import ir

from bptcnn.inner.kernels.emit import F32, I32, I64, Function, Value
from bptcnn.inner.kernels.shape import SIDE, Vectors, tiles
from bptcnn.inner.kernels.shuffles import filled, part
from bptcnn.inner.kernels.tables import paired


def forward(module: ir.Module, name: str, _: Vectors, outs: int, ins: int, size: int, depth: int) -> None:
    """Emit ``table[m, t, g, o, i] = w[16 m + o, g depth + i, t]`` as bfloat16: matrices [16, depth].

    Arguments of the kernel: weights [outs, ins, size], table, first sixteen of output channels, one past the last.

    Args:
        module: gets the kernel.
        name: of the kernel.
        outs: output channels.
        ins: input channels.
        size: of the filter.
        depth: columns of a matrix.
    """
    _matrices(Function(module, name), ins * size, (ins, size), size, depth)


def backward(module: ir.Module, name: str, _: Vectors, outs: int, ins: int, size: int, depth: int) -> None:
    """Emit ``table[m, t, g, i, o] = w[g depth + o, 16 m + i, t]`` as bfloat16: matrices [16, depth].

    Arguments of the kernel: weights [outs, ins, size], table, first sixteen of input channels, one past the last.

    Args:
        module: gets the kernel.
        name: of the kernel.
        outs: output channels.
        ins: input channels.
        size: of the filter.
        depth: columns of a matrix.
    """
    _matrices(Function(module, name), size, (outs, ins * size), size, depth)


def _matrices(function: Function, row_span: int, channels: tuple[int, int], size: int, depth: int) -> None:
    """Matrices of 16 rows, so far apart, by so many of the channels that are summed up; zeros fill the last."""
    (count, span), builder, pairs = channels, function.builder, depth // 2
    weights, table, groups = function.argument(0), function.argument(1), tiles(count, depth)

    def fill(tile: Value, tap: Value, group: Value, there: int) -> None:
        with function.loop(SIDE) as row:
            source = function.at(weights, (tile, SIDE * row_span), (row, row_span), (group, depth * span), tap)
            one, other = (
                _each(function, function.at(source, which * span), 2 * span, (there + 1 - which) // 2)
                for which in (0, 1)
            )
            entry = part(builder, paired(function, one, other), 0, depth)
            near = (
                (tile, size * groups * SIDE * pairs),
                (tap, groups * SIDE * pairs),
                (group, SIDE * pairs),
                (row, pairs),
            )
            builder.store(entry, function.at(table, *near, kind=I32), align=4)

    with function.loop(function.number(3), function.number(2)) as tile, function.loop(size) as tap:
        if count >= depth:
            with function.loop(count // depth) as group:
                fill(tile, tap, group, depth)
        if count % depth:
            fill(tile, tap, I64(count // depth), count % depth)
    function.finish()


def _each(function: Function, first: Value, span: int, count: int) -> Value:
    """So many numbers that lie so far apart, and zeros up to 16."""
    numbers, places, lanes = ir.VectorType(F32, 16), ir.VectorType(I32, 16), ir.VectorType(ir.IntType(1), 16)
    return function.instruction(
        "llvm.x86.avx512.mask.gather.dps.512",
        numbers,
        filled(numbers, 0.0),
        first,
        ir.Constant(places, [span * place for place in range(16)]),
        ir.Constant(lanes, [int(place < count) for place in range(16)]),
        I32(4),
    )
