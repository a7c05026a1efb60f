"""Which convolutions products of matrices make, and how much of one at a time. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from bptcnn.inner.kernels.shape import SIDE, Plane, Taps, Vectors, Window

PLACE_BYTES = 64
"""Of one channel, one area, and the samples of a block."""

SCRATCH_BYTES = 1 << 18
"""What is brought together before it is multiplied: it stays in the core's own cache."""

MOST_BYTES = 1 << 20
"""Of that where it can't be less, and of sums that wait: it fits on any stack."""

LEAST_UNFOLDED, MOST_UNFOLDED = 16, 160
"""Channels of unfolded data: fewer fill no matrix; more make long code."""

FEW_AREAS = 4
"""Of a map, below which a gradient of weights is no sum to speak of: vectors are as fast."""


@dataclass(frozen=True, slots=True)
class Tile:
    """What of a convolution is made at once.

    Attributes:
        depth: input channels of a product: 16 or 32.
        tall: matrices of 16 output channels.
        wide: columns of the outputs.
    """

    depth: int
    tall: int
    wide: int

    @property
    def lines(self) -> int:
        """Lines of 64 bytes of a matrix of weights, and of the data that it is multiplied by: pairs of channels."""
        return self.depth // 2


def tile_of(vectors: Vectors, down: tuple[Taps, ...], data: Plane, out: Plane) -> Tile | None:
    """How a convolution is made; None where cores have no matrices, or channels do not fill them.

    Args:
        vectors: the registers and what they hold.
        down: the filter's rows.
        data: what it sees.
        out: what it makes.

    Example:
        >>> from bptcnn.inner.kernels.shape import forward_taps
        >>> vectors = Vectors(16, 32, bf16=True, matrices=True)
        >>> tile_of(vectors, forward_taps(3, 1, 1), Plane(16, 8, 8), Plane(64, 8, 8))
        Tile(depth=16, tall=2, wide=1)
        >>> tile_of(vectors, forward_taps(5, 1, 0), Plane(3, 28, 28), Plane(64, 24, 24)) is None
        True
    """
    if not _filled(vectors, data, out) or any(_seen_bytes(1, taps, data) > MOST_BYTES for taps in down):
        return None
    tall = 1 if out.channels % (2 * SIDE) else 2
    return Tile(SIDE if data.channels % (2 * SIDE) else 2 * SIDE, tall, wide=3 - tall)


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
    return plane if plane.channels * plane.columns * PLACE_BYTES <= MOST_BYTES else None


def band_rows(down: Taps, data: Plane, out: Plane) -> int:
    """Rows of the outputs for which data is brought together at once.

    Args:
        down: the filter's rows, of one phase.
        data: what the convolution sees.
        out: what it makes.

    Example:
        >>> from bptcnn.inner.kernels.shape import forward_taps
        >>> band_rows(*forward_taps(3, 1, 1), Plane(16, 32, 32), Plane(16, 32, 32))
        4
    """
    rows = down.count(out.rows)
    while rows > 1 and _seen_bytes(rows, down, data) > SCRATCH_BYTES:
        rows = -(-rows // 2)
    return rows


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
    sum_bytes = data.channels * window.rows * window.columns * SIDE * 4
    outs = 1 if gradient.channels % (2 * SIDE) or 2 * sum_bytes > MOST_BYTES else 2
    row_bytes = gradient.columns * (outs * SIDE + (data.channels if copied else 0)) * PLACE_BYTES
    if max(row_bytes, sum_bytes) > MOST_BYTES:
        return None
    rows = max(1, min(gradient.rows, SCRATCH_BYTES // row_bytes))
    return WeightTile(1 if data.channels % (2 * SIDE) else 2, outs, rows)


def _filled(vectors: Vectors, data: Plane, out: Plane) -> bool:
    """Whether samples and channels fill matrices."""
    return vectors.matrices and data.channels % SIDE == 0 and out.channels % SIDE == 0
