"""Products of the small matrices of minimal filtering and columns of vectors."""

from __future__ import annotations

from collections.abc import Sequence

from bptcnn.inner.kernels.emit import Function, Value
from bptcnn.inner.kernels.shuffles import filled
from bptcnn.inner.kernels.winograd.forms import Matrix


def combined(function: Function, matrix: Matrix, values: Sequence[Value]) -> list[Value]:
    """The products of a matrix and a column of vectors.

    Args:
        function: in which they are made.
        matrix: by rows, none of them all zeros.
        values: one for each of the matrix's columns.
    """
    return [_row(function, row, values) for row in matrix]


def _row(function: Function, row: Sequence[float], values: Sequence[Value]) -> Value:
    builder = function.builder
    # What is added or taken away as it is comes last: the first term then needs no multiplication of its own.
    terms = sorted(
        ((factor, value) for factor, value in zip(row, values, strict=True) if factor), key=lambda t: t[0] != 1
    )
    factor, total = terms[0]
    if factor != 1:
        total = builder.fmul(filled(total.type, factor), total)
    for factor, value in terms[1:]:
        if factor in (1, -1):
            total = (builder.fadd if factor == 1 else builder.fsub)(total, value)
        else:
            total = function.intrinsic("llvm.fma", filled(value.type, factor), value, total)
    return total
