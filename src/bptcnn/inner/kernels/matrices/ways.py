"""Which of them makes a convolution, or a gradient of weights; none where cores or channels are not for it."""

from __future__ import annotations

from typing import NamedTuple

from llvmlite import ir

from bptcnn.inner.kernels.bf16 import Bf16Kernel, FullBf16Kernel
from bptcnn.inner.kernels.matrices.full_conv import FullConv
from bptcnn.inner.kernels.matrices.full_gradient import FullGradient
from bptcnn.inner.kernels.matrices.full_unfolding import FullUnfolding
from bptcnn.inner.kernels.matrices.gradient import MatrixGradient
from bptcnn.inner.kernels.matrices.lines import narrow
from bptcnn.inner.kernels.matrices.narrow_conv import NarrowConv
from bptcnn.inner.kernels.matrices.narrow_gradient import NarrowGradient
from bptcnn.inner.kernels.matrices.tiling import tile_of, unfolded, weight_tile_of
from bptcnn.inner.kernels.shape import SIDE, Plane, Vectors, Window, forward_taps
from bptcnn.inner.kernels.sums import Sum


def convolution(module: ir.Module, name: str, vectors: Vectors, spec: Sum, window: Window | None = None) -> int | None:
    """Emit a convolution, or a gradient of data.

    Args:
        module: gets the kernel.
        name: of the kernel.
        vectors: the registers and what they hold.
        spec: the sums.
        window: of a convolution whose data may be unfolded.

    Returns:
        Tiles: what the work can be divided by; None if nothing was emitted.
    """
    folded: tuple[Window, Plane] | None = None
    if window and (plane := unfolded(vectors, window, spec.data, spec.out)):
        folded, taps = (window, spec.data), forward_taps(1, 1, 0)
        spec = Sum(plane, spec.out, 1, 1, taps, taps, spec.bias, spec.then)
    shape = tile_of(vectors, spec.down, spec.across, spec.data, spec.out)
    if shape is None:
        return None
    if narrow(vectors):
        return NarrowConv(Bf16Kernel(module, name, vectors), vectors, spec, shape, folded).emit()
    kernel = FullBf16Kernel(module, name, vectors)
    return FullConv(kernel, spec, shape, FullUnfolding(kernel, *folded) if folded else None).emit()


class Gradient(NamedTuple):
    """A gradient of weights in the making: in which kernel, and how many output channels it makes at a time."""

    kernel: Bf16Kernel
    products: MatrixGradient
    channels: int


def gradient(
    module: ir.Module, name: str, vectors: Vectors, window: Window, data: Plane, out: Plane
) -> Gradient | None:
    """Begin a gradient of weights.

    Args:
        module: gets the kernel.
        name: of the kernel.
        vectors: the registers and what they hold.
        window: of the convolution.
        data: what it saw.
        out: what it made.

    Returns:
        The gradient; None if nothing was begun.
    """
    plane = unfolded(vectors, window, data, out)
    seen, folded = (Window(1, 1), (window, data)) if plane else (window, None)
    shape = weight_tile_of(vectors, seen, plane or data, out, copied=plane is not None)
    if shape is None:
        return None
    if narrow(vectors):
        kernel = Bf16Kernel(module, name, vectors)
        products: MatrixGradient = NarrowGradient(kernel, vectors, seen, plane or data, out, shape, folded)
    else:
        kernel = FullBf16Kernel(module, name, vectors)
        source = (FullUnfolding(kernel, *folded), data) if folded else None
        products = FullGradient(kernel, seen, plane or data, out, shape, source)
    return Gradient(kernel, products, SIDE * shape.outs)
