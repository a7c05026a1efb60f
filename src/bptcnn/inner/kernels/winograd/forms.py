"""Minimal filtering: the matrices that bring data, filters and outputs to the points of a product. Pure.

Two outputs of a filter of ``r`` weights are ``y = A^T ((G g) * (B^T d))``, with ``n = r + 1`` products in place of
``2 r``. In two dimensions each matrix is applied to rows and to columns: four outputs of a 3x3 filter take 16 products
in place of 36, of a 5x5 filter 36 in place of 100. The gradients are the same products with other parts exchanged:

- of the data, ``B ((G g) * (A dy))``, summed up where tiles overlap;
- of the weights, ``G^T ((A dy) * (B^T d))``, summed up over all tiles and samples.

Sources: Winograd, "Arithmetic Complexity of Computations", SIAM 1980; Lavin, Gray, "Fast algorithms for convolutional
neural networks", CVPR 2016 (arXiv 1509.09308), sections 4 and 5.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from math import lcm

OUTPUTS = 2
"""Of a tile, in each dimension. More would save more products and lose digits."""

POINTS = {3: (0, 1, -1), 5: (0, 1, -1, Fraction(1, 2), -2)}
"""Where polynomials are evaluated, besides infinity, for filters of so many rows. Pairs like 1/2 and -2 keep the
matrices' entries close to one, and rounding errors small."""

Matrix = tuple[tuple[float, ...], ...]


@dataclass(frozen=True, slots=True)
class Form:
    """The transformations of a size of filters.

    Attributes:
        outputs: matrix A, ``[n, 2]``.
        filters: matrix G, ``[n, r]``.
        data: matrix B, ``[n, n]``.
    """

    outputs: Matrix
    filters: Matrix
    data: Matrix

    @property
    def points(self) -> int:
        """Products of a tile, in each dimension: ``n``."""
        return len(self.data)


@cache
def form_of(size: int) -> Form:
    """The transformations for filters of ``size`` rows and columns.

    A product of polynomials of ``2`` and ``r`` coefficients is known from its values at ``n`` points: that is
    ``s = E^-1 ((A h) * (G g))``. A convolution is the transpose of it: ``y = A^T ((G g) * (E^-T d))``.

    Args:
        size: 3 or 5.

    Example:
        >>> form = form_of(3)
        >>> form.points, transposed(form.outputs)
        (4, ((1.0, 1.0, 1.0, 0.0), (0.0, 1.0, -1.0, 1.0)))
    """
    finite = [Fraction(point) for point in POINTS[size]]
    count = len(finite) + 1
    inverse = _inverse(_values(finite, count))
    data, filters = [list(row) for row in zip(*inverse, strict=True)], _values(finite, size)
    # Whole numbers in the data's matrix: what divides them goes to the filters', whose products are made once a step.
    for point in range(count):
        whole = lcm(*(entry.denominator for entry in data[point]))
        data[point] = [entry * whole for entry in data[point]]
        filters[point] = [entry / whole for entry in filters[point]]
    return Form(_floats(_values(finite, OUTPUTS)), _floats(filters), transposed(_floats(data)))


def transposed(matrix: Matrix) -> Matrix:
    """Rows become columns.

    Args:
        matrix: by rows.
    """
    return tuple(zip(*matrix, strict=True))


def _values(points: Sequence[Fraction], count: int) -> list[list[Fraction]]:
    """What turns a polynomial's ``count`` coefficients into its values at the points and at infinity."""
    at_infinity = [Fraction(int(power == count - 1)) for power in range(count)]
    return [*([point**power for power in range(count)] for point in points), at_infinity]


def _inverse(matrix: Sequence[Sequence[Fraction]]) -> list[list[Fraction]]:
    """By elimination, exact."""
    size = len(matrix)
    rows = [[*row, *(Fraction(int(i == j)) for j in range(size))] for i, row in enumerate(matrix)]
    for column in range(size):
        pivot = next(row for row in range(column, size) if rows[row][column])
        rows[column], rows[pivot] = rows[pivot], rows[column]
        rows[column] = [entry / rows[column][column] for entry in rows[column]]
        for row in range(size):
            if row != column and (factor := rows[row][column]):
                rows[row] = [a - factor * b for a, b in zip(rows[row], rows[column], strict=True)]
    return [row[size:] for row in rows]


def _floats(matrix: Sequence[Sequence[Fraction]]) -> Matrix:
    return tuple(tuple(float(entry) for entry in row) for row in matrix)
