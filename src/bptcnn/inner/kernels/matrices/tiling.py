"""Which convolutions products of matrices make, and how much of one at a time. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product

from bptcnn.inner.kernels.matrices.lines import Lines, line_bytes, lines_of, narrow, span_of
from bptcnn.inner.kernels.shape import ROW_BYTES, SIDE, SUMS, Plane, Taps, Vectors, Window, forward_taps, tiles

PLACE_BYTES = 64
"""Of one channel, one area, and the samples of a block."""

SCRATCH_BYTES = 1 << 18
"""What is brought together before it is multiplied: it stays in the core's own cache."""

MOST_BYTES = 1 << 20
"""Of that where it can't be less, and of sums that wait: it fits on any stack."""

LEAST_UNFOLDED, MOST_UNFOLDED = 16, 160
"""Channels of unfolded data: fewer fill no matrix; more make long code."""

LEAST_TILES = 4
"""Of a gradient of weights: with fewer, two matrices of output channels at once would leave lanes without work."""

FEW_AREAS = 4
"""Of a map, below which a gradient of weights is no sum to speak of: vectors are as fast."""


@dataclass(frozen=True, slots=True)
class Tile:
    """What of a convolution is made at once.

    Attributes:
        depth: input channels of a product: 16 or 32.
        tall: matrices of 16 output channels.
        wide: columns of the outputs, or, where a block is narrow, matrices of them.
    """

    depth: int
    tall: int
    wide: int

    @property
    def lines(self) -> int:
        """Lines of 64 bytes of a matrix of weights, and of the data that it is multiplied by: pairs of channels."""
        return self.depth // 2


def tile_of(vectors: Vectors, down: tuple[Taps, ...], across: tuple[Taps, ...], data: Plane, out: Plane) -> Tile | None:
    """How a convolution is made; None where cores have no matrices, or channels do not fill them.

    Args:
        vectors: the registers and what they hold.
        down: the filter's rows.
        across: the filter's columns.
        data: what it sees.
        out: what it makes.

    Example:
        >>> vectors, taps = Vectors(16, 32, bf16=True, matrices=True), forward_taps(3, 1, 1)
        >>> tile_of(vectors, taps, taps, Plane(16, 8, 8), Plane(64, 8, 8))
        Tile(depth=16, tall=2, wide=1)
        >>> tile_of(vectors, taps, taps, Plane(3, 8, 8), Plane(64, 8, 8)) is None
        True
    """
    if not _filled(vectors, data, out):
        return None
    if narrow(vectors):
        least = narrow_bytes(1, vectors, down, across, data, out)
    else:
        least = max(_seen_bytes(1, taps, data) for taps in down)
    if least > MOST_BYTES:
        return None
    tall = 1 if out.channels % (2 * SIDE) else 2
    # The samples of a block fill two matrices, unless it is narrow.
    wide = SUMS // tall // (1 if narrow(vectors) else 2)
    return Tile(SIDE if data.channels % (2 * SIDE) else 2 * SIDE, tall, wide)


def unfolded(vectors: Vectors, window: Window, data: Plane, out: Plane) -> Plane | None:
    """The data of a convolution of few channels as one of 1 x 1 sees it, with channels of zeros to fill matrices.

    Args:
        vectors: the registers and what they hold.
        window: of the convolution.
        data: what it sees.
        out: what it makes.

    Example:
        >>> vectors = Vectors(16, 32, bf16=True, matrices=True)
        >>> unfolded(vectors, Window(5, 5), Plane(3, 28, 28), Plane(64, 24, 24))
        Plane(channels=96, rows=24, columns=24)
    """
    count = data.channels * window.rows * window.columns
    if not vectors.matrices or data.channels % SIDE == 0 or out.channels % SIDE or out.area < FEW_AREAS:
        return None
    if not LEAST_UNFOLDED <= count <= MOST_UNFOLDED:
        return None
    plane = Plane(-(-count // (2 * SIDE)) * 2 * SIDE, out.rows, out.columns)
    place_bytes = vectors.width * vectors.num_bytes
    return plane if plane.channels * plane.columns * place_bytes <= MOST_BYTES else None


def band_rows(down: Taps, data: Plane, out: Plane) -> int:
    """Rows of the outputs for which data is brought together at once.

    Args:
        down: the filter's rows, of one phase.
        data: what the convolution sees.
        out: what it makes.

    Example:
        >>> band_rows(*forward_taps(3, 1, 1), Plane(16, 32, 32), Plane(16, 32, 32))
        4
    """
    return _fitting(down.count(out.rows), lambda rows: _seen_bytes(rows, down, data))


def narrow_rows(vectors: Vectors, down: tuple[Taps, ...], across: tuple[Taps, ...], data: Plane, out: Plane) -> int:
    """As :func:`band_rows`, of each phase, where a block is narrow.

    Args:
        vectors: what it looks like.
        down: the filter's rows.
        across: the filter's columns.
        data: what the convolution sees.
        out: what it makes.

    Example:
        >>> vectors = Vectors(16, 32, bf16=True, channels=8, matrices=True)
        >>> narrow_rows(vectors, *[forward_taps(3, 1, 1)] * 2, Plane(64, 56, 56), Plane(64, 56, 56))
        4
    """
    most = max(taps.count(out.rows) for taps in down)
    return _fitting(most, lambda rows: narrow_bytes(rows, vectors, down, across, data, out))


def narrow_bytes(
    rows: int, vectors: Vectors, down: tuple[Taps, ...], across: tuple[Taps, ...], data: Plane, out: Plane
) -> int:
    """Of the data that so many rows of the outputs see, of whichever phase.

    Args:
        rows: of a phase.
        vectors: what a narrow block looks like.
        down: the filter's rows.
        across: the filter's columns.
        data: what the convolution sees.
        out: what it makes.
    """
    return max(
        seen_rows(rows, of_rows, data) * line_bytes(vectors, of_columns, data, out)
        for of_rows, of_columns in product(down, across)
    )


def seen_rows(rows: int, down: Taps, data: Plane) -> int:
    """Rows of the data that so many rows of the outputs see at most.

    Args:
        rows: of one phase of the outputs.
        down: the filter's rows.
        data: what it sees.
    """
    if not down.places:
        return 0
    return min(data.rows, down.step * (rows - 1) + max(down.offsets) - min(down.offsets) + 1)


def _fitting(rows: int, num_bytes: Callable[[int], int]) -> int:
    """So many rows, or halves of them, that what is brought together for them fits."""
    while rows > 1 and num_bytes(rows) > SCRATCH_BYTES:
        rows = tiles(rows, 2)
    return rows


def _seen_bytes(rows: int, down: Taps, data: Plane) -> int:
    return seen_rows(rows, down, data) * data.columns * data.channels * PLACE_BYTES


@dataclass(frozen=True, slots=True)
class WeightTile:
    """What of a gradient of weights is made at once.

    Attributes:
        ins: matrices of 16 input channels.
        outs: matrices of 16 output channels.
        rows: of the outputs, whose gradient is turned at once.
    """

    ins: int
    outs: int
    rows: int


def weight_tile_of(
    vectors: Vectors, window: Window, data: Plane, gradient: Plane, *, copied: bool = False
) -> WeightTile | None:
    """How a gradient of weights is made; None where cores have no matrices, or it does not fill them.

    Args:
        vectors: the registers and what they hold.
        window: of the convolution.
        data: what it saw.
        gradient: of what it made.
        copied: whether data is brought together, too, as what was unfolded is.

    Example:
        >>> vectors = Vectors(16, 32, bf16=True, matrices=True)
        >>> weight_tile_of(vectors, Window(3, 3, padding=1), Plane(16, 8, 8), Plane(64, 8, 8))
        WeightTile(ins=1, outs=2, rows=8)
        >>> weight_tile_of(vectors, Window(1, 1), Plane(96, 24, 24), Plane(64, 24, 24), copied=True)
        WeightTile(ins=2, outs=2, rows=1)
    """
    if not _filled(vectors, data, gradient) or gradient.area < FEW_AREAS:
        return None
    if narrow(vectors):
        return _narrow_weight_tile(vectors, window, data, gradient)
    sum_bytes = data.channels * window.rows * window.columns * SIDE * 4
    outs = 1 if gradient.channels % (2 * SIDE) or 2 * sum_bytes > MOST_BYTES else 2
    row_bytes = gradient.columns * (outs * SIDE + (data.channels if copied else 0)) * PLACE_BYTES
    if max(row_bytes, sum_bytes) > MOST_BYTES:
        return None
    rows = max(1, min(gradient.rows, SCRATCH_BYTES // row_bytes))
    return WeightTile(1 if data.channels % (2 * SIDE) else 2, outs, rows)


def _narrow_weight_tile(vectors: Vectors, window: Window, data: Plane, gradient: Plane) -> WeightTile | None:
    sum_bytes = data.channels * window.rows * window.columns * SIDE * 4
    divisible = gradient.channels % (2 * SIDE) == 0 and gradient.channels >= 2 * SIDE * LEAST_TILES
    outs = 2 if divisible and 2 * sum_bytes <= MOST_BYTES else 1
    (down,) = forward_taps(window.rows, window.stride, window.padding)
    lines, num_reaches = reaches(vectors, window, gradient)
    line = lines.size * data.channels * vectors.width * vectors.num_bytes

    def num_bytes(rows: int) -> int:
        return rows * num_reaches * outs * SIDE * ROW_BYTES + seen_rows(rows, down, data) * line

    if max(num_bytes(1), outs * sum_bytes) > MOST_BYTES:
        return None
    return WeightTile(1 if data.channels % (2 * SIDE) else 2, outs, _fitting(gradient.rows, num_bytes))


def reaches(vectors: Vectors, window: Window, gradient: Plane) -> tuple[Lines, int]:
    """What a gradient of weights sees of a row of the data where a block is narrow.

    Args:
        vectors: what it looks like.
        window: of the convolution.
        gradient: of what it made.

    Returns:
        The row, and how often as many columns of the outputs as a product sums up fit into theirs.
    """
    (across,) = forward_taps(window.columns, window.stride, window.padding)
    reach = 2 * span_of(vectors)
    count = tiles(gradient.columns, reach)
    return lines_of(across, count * reach), count


def _filled(vectors: Vectors, data: Plane, out: Plane) -> bool:
    """Whether samples and channels fill matrices."""
    return vectors.matrices and data.channels % SIDE == 0 and out.channels % SIDE == 0
