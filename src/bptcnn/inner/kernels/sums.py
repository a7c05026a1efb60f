"""What convolutions have in common, forward and backward to the data, whichever way their sums are made."""

from __future__ import annotations

from dataclasses import dataclass

from bptcnn.inner.kernels.emit import I64, Value
from bptcnn.inner.kernels.shape import Plane, Taps
from bptcnn.inner.kernels.vectors import Kernel


@dataclass(frozen=True, slots=True)
class Epilogue:
    """What happens to a sum before it is stored, in this order.

    Attributes:
        add: a number is added to each; not from where the result goes, for some outputs may be made twice.
        relu: negative sums become zero.
        mask: the sum becomes zero where a number is not positive.
    """

    add: bool = False
    relu: bool = False
    mask: bool = False


@dataclass(frozen=True, slots=True)
class Sum:
    """``out[o] = sum over i and t of weights[o, i, t] data[i]``, finished before it is stored.

    Attributes:
        data: what is seen.
        out: what is made.
        filter_rows: of the weights.
        filter_columns: of the weights.
        down: the filter's rows.
        across: the filter's columns.
        bias: whether there is one.
        then: the epilogue.
    """

    data: Plane
    out: Plane
    filter_rows: int
    filter_columns: int
    down: tuple[Taps, ...]
    across: tuple[Taps, ...]
    bias: bool
    then: Epilogue


@dataclass(frozen=True, slots=True)
class Pointers:
    """Arguments of a kernel."""

    data: Value
    weights: Value
    out: Value
    bias: Value
    add: Value
    mask: Value


def rows_seen(kernel: Kernel, down: Taps, direction: int, row: Value, rows: int) -> tuple[Value, Value]:
    """The taps that meet rows of the data.

    Args:
        kernel: in which they are counted.
        down: the filter's rows, of one phase.
        direction: 1 if offsets grow from tap to tap, else -1.
        row: of the data, where an output's offsets begin.
        rows: of the data.

    Returns:
        The first, and one past the last.
    """
    from_top = kernel.builder.add(row, I64(down.offsets[0]))
    count = len(down.places)
    if direction > 0:  # row + offset + t in [0, rows)
        begin = kernel.builder.sub(I64(0), from_top)
        end = kernel.builder.sub(I64(rows), from_top)
    else:  # row + offset - t in [0, rows)
        begin = kernel.builder.sub(from_top, I64(rows - 1))
        end = kernel.builder.add(from_top, I64(1))
    return kernel.clamp(begin, 0, count), kernel.clamp(end, 0, count)


def finish(kernel: Kernel, spec: Sum, pointers: Pointers, value: Value, *near: Value) -> None:
    """Apply the epilogue to the sums of one place, and store them.

    Args:
        kernel: that made them.
        spec: what they are.
        pointers: of the kernel.
        value: the sums.
        near: terms that lead from the first place of the outputs to theirs.
    """
    area = spec.out.area
    if spec.then.add:
        value = kernel.builder.fadd(value, kernel.load_sums(kernel.place(pointers.add, *near), area))
    if spec.then.relu:
        value = kernel.rectified(value)
    if spec.then.mask:
        value = kernel.masked(value, kernel.load_sums(kernel.place(pointers.mask, *near), area))
    kernel.store_sums(value, kernel.place(pointers.out, *near), area)
