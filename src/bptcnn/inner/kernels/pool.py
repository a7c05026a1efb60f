"""Pooling: the largest of each window, or the mean of a whole map."""

from __future__ import annotations

from itertools import product

from llvmlite import ir

from bptcnn.inner.kernels.bf16 import kernel_for
from bptcnn.inner.kernels.emit import Value
from bptcnn.inner.kernels.shape import Plane, Vectors
from bptcnn.inner.kernels.vectors import Kernel


def pooled(data: Plane, side: int) -> Plane:
    """The maps that pooling over windows side by side makes; what does not fill a window is left out.

    Args:
        data: what is pooled.
        side: of a window.

    Example:
        >>> pooled(Plane(6, 5, 4), 2)
        Plane(channels=6, rows=2, columns=2)
    """
    return Plane(data.channels, data.rows // side, data.columns // side)


def max_pool(module: ir.Module, name: str, vectors: Vectors, data: Plane, side: int, *, relu: bool) -> None:
    """Emit max-pooling of one block. Arguments of the kernel: data, out.

    Args:
        module: gets the kernel.
        name: of the kernel.
        vectors: the registers and what they hold.
        data: what is pooled.
        side: of the windows, which lie side by side.
        relu: negative results become zero: pooling first spares three of four comparisons with zero.
    """
    kernel, out = kernel_for(module, name, vectors), pooled(data, side)
    source, target = kernel.argument(0), kernel.argument(1)
    with kernel.loop(out.channels) as channel, kernel.loop(out.rows) as row, kernel.loop(out.columns) as column:
        window = _window(kernel, source, data, side, (channel, row, column))
        largest = kernel.load(kernel.place(window, 0))
        for place in _places(data, side)[1:]:
            largest = kernel.maximum(kernel.load(kernel.place(window, place)), largest)
        if relu:
            largest = kernel.rectified(largest)
        kernel.store(largest, _pixel(kernel, target, out, (channel, row, column)))
    kernel.finish()


def max_pool_backward(module: ir.Module, name: str, vectors: Vectors, data: Plane, side: int, *, relu: bool) -> None:
    """Emit the gradient of :func:`max_pool`: each window's goes to its first largest number, unless ReLU cut it off.

    Arguments of the kernel: data, gradient of the result, gradient of the data (may lie where the data does).

    Args:
        module: gets the kernel.
        name: of the kernel.
        vectors: the registers and what they hold.
        data: what was pooled.
        side: of the windows.
        relu: as in the forward kernel.
    """
    kernel, out = kernel_for(module, name, vectors), pooled(data, side)
    source, gradient, target = (kernel.argument(place) for place in range(3))
    zero, builder = kernel.constant(0.0), kernel.builder
    with kernel.loop(out.channels) as channel:
        with kernel.loop(out.rows) as row, kernel.loop(out.columns) as column:
            where = (channel, row, column)
            window, places = _window(kernel, source, data, side, where), _places(data, side)
            values = [kernel.load(kernel.place(window, place)) for place in places]
            largest = values[0]
            for value in values[1:]:
                largest = kernel.maximum(value, largest)
            left = kernel.load(_pixel(kernel, gradient, out, where))
            if relu:
                left = builder.select(builder.fcmp_ordered(">", largest, zero), left, zero)
            target_window = _window(kernel, target, data, side, where)
            for value, place in zip(values, places, strict=True):
                found = builder.fcmp_ordered("==", value, largest)
                kernel.store(builder.select(found, left, zero), kernel.place(target_window, place))
                left = builder.select(found, zero, left)
        _clear_rest(kernel, target, data, out, side, channel)
    kernel.finish()


def global_mean(module: ir.Module, name: str, vectors: Vectors, data: Plane) -> None:
    """Emit the mean of each map. Arguments of the kernel: data, out [channels].

    Args:
        module: gets the kernel.
        name: of the kernel.
        vectors: the registers and what they hold.
        data: the maps.
    """
    kernel = kernel_for(module, name, vectors)
    source, target = kernel.argument(0), kernel.argument(1)
    with kernel.loop(data.channels) as channel:
        total = kernel.variable(kernel.constant(0.0))
        with kernel.loop(data.area) as place:
            near = kernel.place(source, (channel, data.area), place)
            total.set(kernel.builder.fadd(total.get(), kernel.load(near)))
        mean = kernel.builder.fmul(total.get(), kernel.constant(1 / data.area))
        kernel.store(mean, kernel.place(target, channel))
    kernel.finish()


def global_mean_backward(module: ir.Module, name: str, vectors: Vectors, data: Plane, *, mask: bool) -> None:
    """Emit the gradient of :func:`global_mean`: every place of a map gets an equal part.

    Arguments of the kernel: gradient of the means, gradient of the data, what masks it where it is not positive.

    Args:
        module: gets the kernel.
        name: of the kernel.
        vectors: the registers and what they hold.
        data: the maps.
        mask: whether something masks.
    """
    kernel = kernel_for(module, name, vectors)
    gradient, target, masking = (kernel.argument(place) for place in range(3))
    zero = kernel.constant(0.0)
    with kernel.loop(data.channels) as channel:
        part = kernel.builder.fmul(kernel.load(kernel.place(gradient, channel)), kernel.constant(1 / data.area))
        with kernel.loop(data.area) as place:
            value, near = part, ((channel, data.area), place)
            if mask:
                positive = kernel.builder.fcmp_ordered(">", kernel.load(kernel.place(masking, *near)), zero)
                value = kernel.builder.select(positive, part, zero)
            kernel.store(value, kernel.place(target, *near))
    kernel.finish()


def _places(data: Plane, side: int) -> list[int]:
    """The numbers of a window, counted from its first."""
    return [row * data.columns + column for row, column in product(range(side), repeat=2)]


def _window(kernel: Kernel, pointer: Value, data: Plane, side: int, where: tuple[Value, Value, Value]) -> Value:
    channel, row, column = where
    spans = data.area, side * data.columns, side
    return kernel.place(pointer, *zip((channel, row, column), spans, strict=True))


def _pixel(kernel: Kernel, pointer: Value, out: Plane, where: tuple[Value, Value, Value]) -> Value:
    return _window(kernel, pointer, out, 1, where)


def _clear_rest(kernel: Kernel, target: Value, data: Plane, out: Plane, side: int, channel: Value) -> None:
    """Zero what no window covers."""
    zero = kernel.constant(0.0)
    start = kernel.place(target, (channel, data.area))
    if out.columns * side < data.columns:
        with kernel.loop(data.rows) as row, kernel.loop(data.columns, out.columns * side) as column:
            kernel.store(zero, kernel.place(start, (row, data.columns), column))
    if out.rows * side < data.rows:
        with kernel.loop(data.area, out.rows * side * data.columns) as place:
            kernel.store(zero, kernel.place(start, place))
