"""Which kind of function works on which kind of blocks."""

from __future__ import annotations

from llvmlite import ir

from bptcnn.inner.kernels.bf16 import Bf16Kernel, FullBf16Kernel
from bptcnn.inner.kernels.groups import Bf16GroupKernel, GroupKernel
from bptcnn.inner.kernels.shape import Vectors
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
