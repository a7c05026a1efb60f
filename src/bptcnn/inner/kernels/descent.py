"""The update of weights by SGD, as a part of the task that made their gradient."""

from __future__ import annotations

from llvmlite import ir

from bptcnn.inner.kernels.emit import F32, I32, I64, Function, Value
from bptcnn.inner.kernels.shape import Vectors
from bptcnn.inner.kernels.shuffles import splat


def sgd(module: ir.Module, name: str, vectors: Vectors, *, momentum: bool, nesterov: bool) -> None:
    """Emit ``d = g + decay w; v = momentum v + d; w -= lr v``; Nesterov's form: ``w -= lr (d + momentum v)``.

    Arguments of the kernel: weights, gradient, v (may be null without momentum), learning rate, momentum and weight
    decay [3], stay int32 [1] (nothing happens unless it is 0), first number, one past the last.

    Args:
        module: gets the kernel.
        name: of the kernel.
        vectors: the registers.
        momentum: whether there is any.
        nesterov: in which form.
    """
    function = Function(module, name)
    weights, gradient, velocity, hyper, stay = (function.argument(place) for place in range(5))
    first, last = function.number(5), function.number(6)
    builder = function.builder
    numbers = [function.scalar(function.at(hyper, place)) for place in range(3)]

    def update(start: Value, lanes: int) -> None:
        kind = ir.VectorType(F32, lanes) if lanes > 1 else F32
        rate, keep, decay = (splat(builder, number, lanes) if lanes > 1 else number for number in numbers)
        w, g, v = (function.at(pointer, start) for pointer in (weights, gradient, velocity))
        weight = builder.load(w, typ=kind, align=4)
        step = function.intrinsic("llvm.fma", decay, weight, builder.load(g, typ=kind, align=4))
        if momentum:
            moved = function.intrinsic("llvm.fma", keep, builder.load(v, typ=kind, align=4), step)
            builder.store(moved, v, align=4)
            step = function.intrinsic("llvm.fma", keep, moved, step) if nesterov else moved
        builder.store(builder.fsub(weight, builder.fmul(rate, step)), w, align=4)

    goes = builder.icmp_signed("==", function.scalar(stay, I32), I32(0))
    with builder.if_then(goes):
        rest = builder.srem(builder.sub(last, first), I64(vectors.lanes))
        whole = builder.sub(last, rest)
        some = builder.icmp_signed("<", first, whole)
        with builder.if_then(some), function.loop(whole, first, vectors.lanes) as start:
            update(start, vectors.lanes)
        with function.loop_if_any(last, whole) as start:
            update(start, 1)
    function.finish()
