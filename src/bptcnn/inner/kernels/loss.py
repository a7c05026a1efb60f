"""Cross-entropy of a block's scores, and its gradient."""

from __future__ import annotations

from llvmlite import ir

from bptcnn.inner.kernels.emit import F32, F64, I32, I64, PTR, Function
from bptcnn.inner.kernels.kinds import kernel_for
from bptcnn.inner.kernels.shape import Vectors


def cross_entropy(module: ir.Module, name: str, vectors: Vectors, classes: int) -> None:
    """Emit ``loss = log(sum exp s) - s[label]`` and ``g = softmax(s) - [label]``, the latter divided by the batch.

    Arguments of the kernel: scores [classes, width], where the address of all labels, int64, is, labels in front of
    this block's, weights of the samples [width] (1, or 0 for one that only fills the block), 1 / samples of the batch
    [1], gradient [classes, width], loss of the block [1].

    Args:
        module: gets the kernel.
        name: of the kernel.
        vectors: the registers and what they hold.
        classes: of the task.
    """
    kernel = kernel_for(module, name, vectors)
    scores, samples, part, gradient, result = (kernel.argument(place) for place in (0, 3, 4, 5, 6))
    labels = kernel.at(kernel.scalar(kernel.argument(1), PTR), kernel.number(2), kind=I64)
    builder, zero = kernel.builder, kernel.constant(0.0)
    present = kernel.each_sample(samples)
    label = builder.trunc(kernel.each_sample(labels, I64), ir.VectorType(I32, vectors.width))
    largest = kernel.variable(kernel.load(scores))
    with kernel.loop(classes) as place:
        largest.set(kernel.maximum(kernel.load(kernel.place(scores, place)), largest.get()))
    total, own = kernel.variable(zero), kernel.variable(zero)
    with kernel.loop(classes) as place:
        score = builder.fsub(kernel.load(kernel.place(scores, place)), largest.get())
        is_own = builder.icmp_signed("==", label, kernel.spread(builder.trunc(place, I32)))
        total.set(builder.fadd(total.get(), kernel.intrinsic("llvm.exp", score)))
        own.set(builder.select(is_own, score, own.get()))
    losses = builder.fsub(kernel.intrinsic("llvm.log", total.get()), own.get())
    # What only fills the block may hold anything, also what is no number.
    is_present = builder.fcmp_ordered(">", present, zero)
    builder.store(kernel.total(builder.select(is_present, losses, zero)), result)
    share = builder.fmul(present, kernel.spread(kernel.scalar(part)))
    scale = builder.fdiv(share, total.get())
    with kernel.loop(classes) as place:
        score = builder.fsub(kernel.load(kernel.place(scores, place)), largest.get())
        is_own = builder.icmp_signed("==", label, kernel.spread(builder.trunc(place, I32)))
        value = builder.fmul(kernel.intrinsic("llvm.exp", score), scale)
        value = builder.fsub(value, builder.select(is_own, share, zero))
        kernel.store(builder.select(is_present, value, zero), kernel.place(gradient, place))
    kernel.finish()


def mean_loss(module: ir.Module, name: str, _: Vectors) -> None:
    """Emit the mean over a batch, in the order of the blocks, and whether the weights are to stay as they are.

    Arguments of the kernel: losses of the blocks, number of blocks int64 [1], 1 / samples of the batch [1], where the
    address of the mean is, guard int32 [1], stay int32 [1]: 1 if there is a guard and the mean is no finite number.

    Args:
        module: gets the kernel.
        name: of the kernel.
    """
    function = Function(module, name)
    losses, blocks, part, result, guard, stay = (function.argument(place) for place in range(6))
    builder, total = function.builder, function.variable(F64(0.0))
    with function.loop(function.scalar(blocks, I64)) as block:
        total.set(builder.fadd(total.get(), builder.fpext(function.scalar(function.at(losses, block)), F64)))
    mean = builder.fptrunc(builder.fmul(total.get(), builder.fpext(function.scalar(part), F64)), F32)
    builder.store(mean, function.scalar(result, PTR))
    # Only of a finite number the difference to itself is 0.
    is_finite = builder.fcmp_ordered("==", builder.fsub(mean, mean), F32(0.0))
    builder.store(builder.select(is_finite, I32(0), function.scalar(guard, I32)), stay)
    function.finish()


def are_classes(module: ir.Module, name: str, _: Vectors) -> None:
    """Emit the question whether all labels are classes.

    Arguments: labels int64 [count]; how many, 1 at least; classes; the answer int64 [1]: 1 or 0.

    Args:
        module: gets the function.
        name: of the function.
    """
    function = Function(module, name)
    builder, largest = function.builder, function.variable(I64(0))
    with function.loop(function.number(1)) as place:
        label = function.scalar(function.at(function.argument(0), place, kind=I64), I64)
        # Without signs, what is below zero is above all classes.
        is_larger = builder.icmp_unsigned(">", label, largest.get())
        largest.set(builder.select(is_larger, label, largest.get()))
    known = builder.icmp_unsigned("<", largest.get(), function.number(2))
    builder.store(builder.zext(known, I64), function.argument(3))
    function.finish()
