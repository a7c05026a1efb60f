"""Kernels of batch normalisation that keeps its statistics: one factor and one summand for each channel.

Forward, of data y: ``out = scale y + shift`` with ``scale = gamma / sqrt(running variance + eps)`` and
``shift = beta - running mean scale``. Backward: ``dy = scale g``. Both are what ``norm.normalize`` does with a table.
"""

from __future__ import annotations

from llvmlite import ir

from bptcnn.inner.kernels.emit import F32, F64, Value
from bptcnn.inner.kernels.kinds import kernel_for
from bptcnn.inner.kernels.norm import TABLE
from bptcnn.inner.kernels.shape import Vectors


def tables(module: ir.Module, name: str, vectors: Vectors, channels: int, *, eps: float) -> None:
    """Emit the tables of both directions.

    Arguments of the kernel: gamma, beta, running mean, running variance, table of the forward pass [channels, 4], table
    of the backward pass likewise.

    Args:
        module: gets the kernel.
        name: of the kernel.
        vectors: the registers and what they hold.
        channels: of the layer.
        eps: added to the variance.
    """
    kernel = kernel_for(module, name, vectors)
    gamma, beta, mean, variance, forward, backward = (kernel.argument(place) for place in range(6))
    builder = kernel.builder
    with kernel.loop(channels) as channel:
        factor, summand, center, square = (
            builder.fpext(kernel.scalar(kernel.at(pointer, (channel, 1))), F64)
            for pointer in (gamma, beta, mean, variance)
        )
        inverse = builder.fdiv(F64(1.0), kernel.intrinsic("llvm.sqrt", builder.fadd(square, F64(eps))))
        scale = builder.fmul(factor, inverse)
        shift = builder.fsub(summand, builder.fmul(center, scale))

        def write(table: Value, values: tuple[Value, ...], row: Value = channel) -> None:
            for place, value in enumerate(values):
                builder.store(builder.fptrunc(value, F32), kernel.at(table, (row, TABLE), place))

        write(forward, (center, inverse, scale, shift))
        write(backward, (F64(0.0), F64(0.0), scale, F64(0.0)))
    kernel.finish()
