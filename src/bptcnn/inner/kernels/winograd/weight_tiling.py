"""Where gradients of weights are worth minimal filtering, and how much of them is made at a time. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

from bptcnn.inner.kernels.shape import Plane, Vectors, Window, tiles
from bptcnn.inner.kernels.winograd.forms import OUTPUTS, form_of
from bptcnn.inner.kernels.winograd.tiling import SPREAD, fits, of_product, plain_work

PANEL_BYTES = 200_000
"""Of transformed data and errors that are multiplied at a time: they stay in a core's second cache."""

LEAST_TILES = 24
"""Registers of a panel, even if they take more: sums are fetched and written for each panel."""

MOST_BYTES = 1_200_000
"""Of a panel in any case, for it lies on the stack."""

FEW_BYTES = 3_000_000
"""Of sums, at most, where a part makes all points of a row: if there are more, blocks can't have sums of their own."""

FEW_POINTS = 3
"""Of a part otherwise, at most. Points of a part share the first half of their transformation."""

MOST_CHANNELS = 12
"""Of data whose sums are in registers at a time."""

WORTH = 1.3
"""So many times the work must the plain way take."""


@dataclass(frozen=True, slots=True)
class WeightShape:
    """What is transformed and multiplied at a time.

    Sums go over samples, which are neighbours in memory: errors are turned, so that neighbours are channels. A register
    then holds the sums of as many output channels as it has lanes, and nothing is left to be summed up over lanes.

    Attributes:
        size: rows and columns of the filter.
        down: rows of tiles.
        across: registers of a row: a tile of all samples each, or several tiles of few.
        rows: of tiles, of whichever block, that are multiplied at a time: a panel.
        along: points of a part; they divide those of a row.
        groups: of output channels, a register each, whose sums are made at a time.
        channels: of data whose sums are made at a time.
    """

    size: int
    down: int
    across: int
    rows: int
    along: int
    groups: int
    channels: int

    @property
    def points(self) -> int:
        """Products of a tile, in both dimensions."""
        return form_of(self.size).points ** 2

    @property
    def parts(self) -> int:
        """What the work can be divided by."""
        return self.points // self.along

    @property
    def tiles(self) -> int:
        """Registers of a panel."""
        return self.rows * self.across

    def apart(self, together: int) -> int:
        """Places from one group of channels to the next: a little more than it takes, for the caches' sake.

        Args:
            together: channels of a group.
        """
        return self.tiles * together + SPREAD


def weight_shape_of(vectors: Vectors, window: Window, data: Plane, gradient: Plane) -> WeightShape | None:
    """How the gradient of a convolution's weights is made.

    Args:
        vectors: the registers and what they hold.
        window: of the convolution.
        data: what it saw.
        gradient: of what it made.

    Returns:
        Shape; None if the plain way is as good.

    Example:
        >>> weight_shape_of(Vectors(16, 32), Window(3, 3, padding=1), Plane(64, 32, 32), Plane(64, 32, 32))
        WeightShape(size=3, down=16, across=16, rows=2, along=4, groups=4, channels=6)
        >>> weight_shape_of(Vectors(16, 32), Window(3, 3, padding=1), Plane(3, 32, 32), Plane(16, 32, 32))
    """
    if not fits(vectors, window) or gradient.channels % vectors.lanes:
        return None
    points = form_of(window.rows).points
    down, across = tiles(gradient.rows, OUTPUTS), tiles(gradient.columns, OUTPUTS * vectors.channels)
    few = 4 * points**2 * data.channels * gradient.channels <= FEW_BYTES
    along = points if few else max(count for count in range(1, FEW_POINTS + 1) if points % count == 0)
    work = down * across * vectors.channels * _work(window.rows, along, data.channels, gradient.channels)
    if plain_work(window, data, gradient) < WORTH * work:
        return None
    row = along * (data.channels + gradient.channels) * across * vectors.lanes * vectors.num_bytes
    if row > MOST_BYTES:
        return None
    rows = max(1, min(max(PANEL_BYTES // row, tiles(LEAST_TILES, across)), MOST_BYTES // row))
    groups, channels = _registers(vectors, gradient.channels // vectors.lanes, data.channels)
    return WeightShape(window.rows, down, across, rows, along, groups, channels)


def _work(size: int, along: int, ins: int, outs: int) -> int:
    """Multiply-adds for a tile of one sample, and what the transformations take, in the time of as many."""
    form = form_of(size)

    def passes(rows: int) -> int:
        # Two columns for a tile, once for all points of a part; a row for each point; loads and stores.
        return form.points**2 * (2 * OUTPUTS * (rows + 1) // along + 2 * (rows + 1)) // 2

    return form.points**2 * ins * outs + ins * passes(form.points) + outs * (passes(OUTPUTS) + 3 * form.points**2)


def _registers(vectors: Vectors, groups: int, channels: int) -> tuple[int, int]:
    """Groups of output channels, and channels of data, whose sums are in registers: they cost least, rests included."""

    def cost(choice: tuple[int, int]) -> float:
        (g, of_g), (c, of_c) = zip(choice, (groups, channels), strict=True)
        sides = [(g, of_g // g), (of_g % g, 1)], [(c, of_c // c), (of_c % c, 1)]
        return sum(a * b * of_product(one, other) for (one, a), (other, b) in product(*sides))

    choices = [
        (g, c)
        for g, c in product(range(1, groups + 1), range(1, min(channels, MOST_CHANNELS) + 1))
        if g * c + g + 1 <= vectors.registers
    ]
    return min(choices, key=cost)
