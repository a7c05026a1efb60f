"""Pooling: the largest of each window, or the mean of a whole map."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import reduce
from itertools import product

from llvmlite import ir

from bptcnn.inner.kernels.emit import I64, Value
from bptcnn.inner.kernels.kinds import kernel_for
from bptcnn.inner.kernels.shape import Plane, Vectors, Window, alike, forward_taps
from bptcnn.inner.kernels.vectors import Kernel


def side_by_side(window: Window) -> bool:
    """Whether windows neither overlap nor leave anything between them."""
    return window.rows == window.columns == window.stride and not window.padding


def max_pool(module: ir.Module, name: str, vectors: Vectors, data: Plane, window: Window, *, relu: bool) -> None:
    """Emit max-pooling of one block. Arguments of the kernel: data, out.

    Args:
        module: gets the kernel.
        name: of the kernel.
        vectors: the registers and what they hold.
        data: what is pooled.
        window: what is seen of it; padding never is the largest.
        relu: negative results become zero: pooling first spares three of four comparisons with zero.
    """
    kernel, out = kernel_for(module, name, vectors), window.outputs(data, data.channels)
    source, target = kernel.argument(0), kernel.argument(1)
    with kernel.loop(out.channels) as channel:
        for view in _views(kernel, window, data, out):
            with view as (corner, result, places):
                largest = _largest(kernel, kernel.place(source, (channel, data.area), corner), places)[0]
                if relu:
                    largest = kernel.rectified(largest)
                kernel.store(largest, kernel.place(target, (channel, out.area), result))
    kernel.finish()


def max_pool_backward(
    module: ir.Module, name: str, vectors: Vectors, data: Plane, window: Window, *, relu: bool
) -> None:
    """Emit the gradient of :func:`max_pool`: each window's goes to its first largest number, unless ReLU cut it off.

    Arguments of the kernel: data, gradient of the result, gradient of the data (may lie where the data does if windows
    lie side by side).

    Args:
        module: gets the kernel.
        name: of the kernel.
        vectors: the registers and what they hold.
        data: what was pooled.
        window: what was seen of it.
        relu: what is not positive gets nothing.
    """
    kernel, out = kernel_for(module, name, vectors), window.outputs(data, data.channels)
    source, gradient, target = (kernel.argument(place) for place in range(3))
    zero, builder, apart = kernel.constant(0.0), kernel.builder, side_by_side(window)
    with kernel.loop(out.channels) as channel:
        if not apart:
            for sweep in kernel.sweeps(data.area):
                with sweep as place:
                    kernel.store(kernel.constant(0.0), kernel.place(target, (channel, data.area), place))
        for view in _views(kernel, window, data, out):
            with view as (corner, result, places):
                seen, made = (kernel.place(pointer, (channel, data.area), corner) for pointer in (source, target))
                largest, values = _largest(kernel, seen, places)
                left = kernel.load(kernel.place(gradient, (channel, out.area), result))
                if relu:
                    left = kernel.masked(left, largest)
                for value, place in zip(values, places, strict=True):
                    found, slot = builder.fcmp_ordered("==", value, largest), kernel.place(made, place)
                    part = builder.select(found, left, zero)
                    kernel.store(part if apart else builder.fadd(kernel.load(slot), part), slot)
                    left = builder.select(found, zero, left)
        if apart:
            _clear_rest(kernel, target, data, out, window.stride, channel)
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
    with kernel.loop(data.channels) as channel:
        part = kernel.builder.fmul(kernel.load(kernel.place(gradient, channel)), kernel.constant(1 / data.area))
        with kernel.loop(data.area) as place:
            value, near = part, ((channel, data.area), place)
            if mask:
                value = kernel.masked(part, kernel.load(kernel.place(masking, *near)))
            kernel.store(value, kernel.place(target, *near))
    kernel.finish()


def _views(
    kernel: Kernel, window: Window, data: Plane, out: Plane
) -> Iterator[AbstractContextManager[tuple[Value, Value, list[int]]]]:
    """Loops over the windows of a map; those that meet the same part of the padding in one.

    Yields:
        Loops, each of which gives the place of a window, the place of its result, and the places that the window sees,
        counted from its own.
    """
    (down,) = forward_taps(window.rows, window.stride, window.padding)
    (across,) = forward_taps(window.columns, window.stride, window.padding)
    rows, columns = alike(down, out.rows, data.rows, 1), list(alike(across, out.columns, data.columns, 1))
    for (top, _, num_rows, (seen_down,)), (left, _, num_columns, (seen_across,)) in product(rows, columns):
        offsets = product((down.offsets[t] for t in seen_down), (across.offsets[t] for t in seen_across))
        places = [row * data.columns + column for row, column in offsets]

        @contextmanager
        def view(
            top: int = top,
            left: int = left,
            num_rows: int = num_rows,
            num_columns: int = num_columns,
            places: list[int] = places,
        ) -> Iterator[tuple[Value, Value, list[int]]]:
            with kernel.loop(top + num_rows, top) as row, kernel.loop(left + num_columns, left) as column:
                corner, result = (
                    kernel.builder.add(
                        kernel.builder.mul(row, I64(step * plane.columns)), kernel.builder.mul(column, I64(step))
                    )
                    for step, plane in ((window.stride, data), (1, out))
                )
                yield corner, result, places

        yield view()


def _largest(kernel: Kernel, corner: Value, places: Sequence[int]) -> tuple[Value, list[Value]]:
    """The largest number of a window, and all of them."""
    values = [kernel.load(kernel.place(corner, place)) for place in places]
    return reduce(lambda largest, value: kernel.maximum(value, largest), values), values


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
