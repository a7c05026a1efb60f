"""Sums over the blocks of samples, each of which has made a part."""

from __future__ import annotations

from llvmlite import ir

from bptcnn.inner.kernels.emit import F32, I64, Function, Value
from bptcnn.inner.kernels.shape import Vectors


def added(module: ir.Module, name: str, vectors: Vectors, size: int) -> None:
    """Emit ``out[j] = parts[0, j] + parts[1, j] + ...``, in the order of the blocks.

    Arguments of the kernel: parts [blocks, size], out [size], number of blocks int64 [1].

    Args:
        module: gets the kernel.
        name: of the kernel.
        vectors: the registers.
        size: numbers of a part.
    """
    function = Function(module, name)
    parts, out, blocks = function.argument(0), function.argument(1), function.scalar(function.argument(2), I64)
    whole = size // vectors.lanes * vectors.lanes

    def add(place: Value, lanes: int) -> None:
        kind = ir.VectorType(F32, lanes) if lanes > 1 else F32
        total = function.variable(function.builder.load(function.at(parts, place), typ=kind, align=4))
        with function.loop_if_any(blocks, I64(1)) as block:
            part = function.builder.load(function.at(parts, (block, size), place), typ=kind, align=4)
            total.set(function.builder.fadd(total.get(), part))
        function.builder.store(total.get(), function.at(out, place), align=4)

    if whole:
        with function.loop(whole, step=vectors.lanes) as place:
            add(place, vectors.lanes)
    if whole < size:
        with function.loop(size, whole) as place:
            add(place, 1)
    function.finish()
