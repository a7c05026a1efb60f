"""Which convolutions are made by minimal filtering."""

from __future__ import annotations

from llvmlite import ir

from bptcnn.inner.kernels.shape import Vectors, Window
from bptcnn.inner.kernels.sums import Sum
from bptcnn.inner.kernels.winograd.conv import Convolution
from bptcnn.inner.kernels.winograd.data_gradient import DataGradient
from bptcnn.inner.kernels.winograd.kernel import TileKernel
from bptcnn.inner.kernels.winograd.tiling import gradient_shape_of, shape_of, turned


def convolution(module: ir.Module, name: str, vectors: Vectors, spec: Sum, window: Window) -> int | None:
    """Emit a convolution.

    Args:
        module: gets the kernel.
        name: of the kernel.
        vectors: the registers and what they hold.
        spec: the sums.
        window: of the convolution.

    Returns:
        Parts: what the work can be divided by; None if nothing was emitted.
    """
    shape = shape_of(vectors, window, spec.data, spec.out)
    return Convolution(TileKernel(module, name, vectors), window, spec, shape).emit() if shape else None


def data_gradient(module: ir.Module, name: str, vectors: Vectors, spec: Sum, window: Window) -> int | None:
    """Emit the gradient of a convolution with regard to its data.

    Args:
        module: gets the kernel.
        name: of the kernel.
        vectors: the registers and what they hold.
        spec: the sums: its data is the outputs' gradient, its outputs are the data's.
        window: of the convolution.

    Returns:
        Parts: what the work can be divided by; None if nothing was emitted.
    """
    shape = gradient_shape_of(vectors, window, spec.out, spec.data)
    if shape is None:
        return None
    kernel = TileKernel(module, name, vectors)
    if around := turned(window, spec.out, spec.data):
        return Convolution(kernel, around, spec, shape).emit()
    return DataGradient(kernel, window, spec, shape).emit()
