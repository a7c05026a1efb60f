"""Which kind of function works on which kind of blocks."""

from __future__ import annotations

from llvmlite import ir

from bptcnn.inner.kernels.bf16 import Bf16Kernel, FullBf16Kernel
from bptcnn.inner.kernels.columns import ColumnKernel
from bptcnn.inner.kernels.groups import Bf16GroupKernel, GroupKernel
from bptcnn.inner.kernels.shape import Plane, Taps, Vectors
from bptcnn.inner.kernels.tiling import grouped as is_grouped
from bptcnn.inner.kernels.tiling import shared_by
from bptcnn.inner.kernels.vectors import Kernel


def kernel_for(module: ir.Module, name: str, vectors: Vectors, *, grouped: bool = False) -> Kernel:
    """A function that works on blocks of the kind that some vectors hold.

    Args:
        module: where it belongs.
        name: of the function.
        vectors: the registers and what they hold.
        grouped: whether it is to make the sums of several channels at once.
    """
    if grouped:
        return (Bf16GroupKernel if vectors.bf16 else GroupKernel)(module, name, vectors)
    if vectors.bf16:
        return (FullBf16Kernel if vectors.channels == 1 else Bf16Kernel)(module, name, vectors)
    return Kernel(module, name, vectors)


def kernel_of_outputs(module: ir.Module, name: str, vectors: Vectors, across: tuple[Taps, ...], out: Plane) -> Kernel:
    """A function that makes the outputs of a convolution, or its gradient with regard to the data.

    Args:
        module: where it belongs.
        name: of the function.
        vectors: the registers and what they hold.
        across: the filter's columns.
        out: what it makes.
    """
    if shared_by(vectors, across, out) > 1:
        return ColumnKernel(module, name, vectors, across[0])
    return kernel_for(module, name, vectors, grouped=is_grouped(vectors, across, out))
