"""Where minimal filtering is worth it, and how much of it is done at a time. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product

from bptcnn.inner.kernels.shape import Plane, Vectors, Window, forward_taps, tiles
from bptcnn.inner.kernels.tiling import LATENCY
from bptcnn.inner.kernels.winograd.forms import OUTPUTS, POINTS, form_of

BAND_BYTES = 600_000
"""Of transformed data that is multiplied at a time, at most: what a core's second cache holds."""

ROW_BYTES = 1_200_000
"""Of a single row of tiles, at most: it lies on the stack, and beyond the second cache nothing is gained."""

SUMS_BYTES = 100_000
"""Of products, at most, that wait to be transformed back."""

SHARES = 4
"""Into so many parts the channels fall at least, where there are enough: a block may be all that a step has."""

PARTS = 24
"""Into so many a block's work falls, about: enough for a few lanes to share it out."""

MOST_CHANNELS = 8
"""Of outputs whose sums are in registers at a time."""

WORTH = 1.15
"""So many times the work must the plain way take."""

SPREAD = 2
"""Places by which streams of memory that are written side by side are shifted: a line of a cache, or two."""

TABLE_BYTES = 1 << 23
"""Of a layer's transformed filters, at most: every block reads them all."""


@dataclass(frozen=True, slots=True)
class Shape:
    """What is transformed, multiplied and transformed back at a time.

    Attributes:
        size: rows and columns of the filter.
        down: rows of tiles.
        across: registers of a row: a tile of all samples each, or several tiles of few.
        band: rows of tiles that are multiplied at a time; they divide all.
        channels: that are made, whose sums are in registers; they divide all.
        wide: registers of tiles whose sums are made at a time.
        groups: of channels for which a band's data is multiplied at a time; they divide all groups.
    """

    size: int
    down: int
    across: int
    band: int
    channels: int
    wide: int
    groups: int

    @property
    def points(self) -> int:
        """Products of a tile, in both dimensions."""
        return form_of(self.size).points ** 2

    @property
    def tiles(self) -> int:
        """Registers of a band."""
        return self.band * self.across

    @property
    def several(self) -> int:
        """Channels for which a band's data is multiplied at a time."""
        return self.groups * self.channels

    @property
    def sums(self) -> int:
        """Places that their products take."""
        return self.several * self.points * self.tiles

    def shares(self, channels: int) -> int:
        """Into how many parts the channels fall: one, if there are bands enough, for each begins with its data.

        Args:
            channels: that are made.
        """
        every, wanted = channels // self.several, tiles(PARTS, self.down // self.band)
        return min((count for count in range(wanted, every) if every % count == 0), default=every)

    def apart(self, channels: int) -> int:
        """Places from one point of transformed data to the next: a little more than it takes, for the caches' sake.

        Args:
            channels: of the data.
        """
        return tiles(self.tiles, self.wide) * channels * self.wide + SPREAD


def shape_of(vectors: Vectors, window: Window, data: Plane, out: Plane, *, overlapping: bool = False) -> Shape | None:
    """How a convolution is made, or its gradient with regard to the data, by tiles of the outputs.

    Args:
        vectors: the registers and what they hold.
        window: of the convolution.
        data: what it sees.
        out: what it makes.
        overlapping: whether it is the gradient, which sums over the outputs; what they saw overlaps.

    Returns:
        Shape; None if the plain way is as good.

    Example:
        >>> shape_of(Vectors(16, 32), Window(3, 3, padding=1), Plane(64, 32, 32), Plane(64, 32, 32))
        Shape(size=3, down=16, across=16, band=1, channels=4, wide=6, groups=1)
        >>> shape_of(Vectors(16, 32), Window(3, 3, padding=1), Plane(3, 32, 32), Plane(8, 32, 32))
    """
    if not fits(vectors, window):
        return None
    summed, made = (out.channels, data.channels) if overlapping else (data.channels, out.channels)
    points, num_bytes = form_of(window.rows).points ** 2, vectors.lanes * vectors.num_bytes
    down, across = tiles(out.rows, OUTPUTS), tiles(out.columns, OUTPUTS * vectors.channels)
    if 4 * points * summed * made > TABLE_BYTES:
        return None
    if plain_work(window, data, out) < WORTH * _work(
        window.rows, data.channels, out.channels, down * across * vectors.channels
    ):
        return None
    row = points * summed * across * num_bytes
    if row > ROW_BYTES:
        return None
    band = max((rows for rows in range(1, down + 1) if down % rows == 0 and rows * row <= BAND_BYTES), default=1)
    channels, wide = _registers(vectors, made, band * across)
    one, every = channels * points * band * across * num_bytes, made // channels
    most = min(SUMS_BYTES // one, every // SHARES)
    groups = max((count for count in range(1, most + 1) if every % count == 0), default=1)
    return Shape(window.rows, down, across, band, channels, wide, groups)


def gradient_shape_of(vectors: Vectors, window: Window, data: Plane, out: Plane) -> Shape | None:
    """How the gradient of a convolution with regard to its data is made.

    Args:
        vectors: the registers and what they hold.
        window: of the convolution.
        data: what it sees.
        out: what it makes.

    Returns:
        Shape; None if the plain way is as good.
    """
    if around := turned(window, data, out):
        return shape_of(vectors, around, out, data)
    return shape_of(vectors, window, data, out, overlapping=True)


def turned(window: Window, data: Plane, out: Plane) -> Window | None:
    """What the filters, turned by half a circle, see of the outputs' gradient when they make that of the data.

    Args:
        window: of the convolution, with stride one.
        data: what it sees.
        out: what it makes.

    Returns:
        Window; None if the outputs have fewer tiles than the data: then each of these gives the data its part.

    Example:
        >>> turned(Window(3, 3, padding=1), Plane(64, 32, 32), Plane(64, 32, 32))
        Window(rows=3, columns=3, stride=1, padding=1)
        >>> turned(Window(5, 5), Plane(64, 14, 14), Plane(64, 10, 10))
    """

    def count(plane: Plane) -> int:
        return tiles(plane.rows, OUTPUTS) * tiles(plane.columns, OUTPUTS)

    return replace(window, padding=window.rows - 1 - window.padding) if count(data) <= count(out) else None


def fits(vectors: Vectors, window: Window) -> bool:
    """Whether minimal filtering can make a convolution and its gradients.

    Args:
        vectors: the registers and what they hold.
        window: of the convolution.
    """
    if vectors.bf16 or window.stride > 1:
        return False
    return window.rows == window.columns and window.rows in POINTS and 0 <= window.padding < window.rows


def plain_work(window: Window, data: Plane, out: Plane) -> int:
    """Multiply-adds for one sample the plain way, what meets the padding left out.

    Args:
        window: of the convolution.
        data: what it sees.
        out: what it makes.
    """

    def seen(size: int, inputs: int, outputs: int) -> int:
        (taps,) = forward_taps(size, 1, window.padding)
        return sum(len(taps.seen(place, inputs)) for place in range(outputs))

    places = seen(window.rows, data.rows, out.rows) * seen(window.columns, data.columns, out.columns)
    return data.channels * out.channels * places


def _work(size: int, ins: int, outs: int, count: int) -> int:
    """Multiply-adds for one sample, and what the transformations take, in the time of as many."""
    form = form_of(size)
    points = form.points**2

    def passes(rows: int, columns: int, entries: int) -> int:
        # Once along columns, once along rows; and a load and a store for each point.
        return (rows + columns) * entries + 4 * points

    nonzero = sum(1 for row in form.data for entry in row if entry)
    into = passes(OUTPUTS, form.points, nonzero)
    back = passes(form.points, OUTPUTS, sum(1 for row in form.outputs for entry in row if entry))
    return count * (points * ins * outs + ins * into + outs * back)


def _registers(vectors: Vectors, made: int, count: int) -> tuple[int, int]:
    """Channels and tiles whose sums are in registers: they cost least for each product, rests included."""

    def cost(choice: tuple[int, int]) -> float:
        channels, wide = choice
        return made // channels * (count // wide * of_product(channels, wide) + of_product(channels, count % wide))

    choices = [
        (channels, wide)
        for channels, wide in product(range(1, MOST_CHANNELS + 1), range(1, count + 1))
        if made % channels == 0 and channels * wide + wide + 1 <= vectors.registers
    ]
    return min(choices, key=cost)


def of_product(one: int, other: int) -> float:
    """Cost of one product of each sum in registers: a quarter of the loads is not hidden behind the multiply-adds.

    Args:
        one: factors on one side.
        other: on the other side; none on either costs nothing.
    """
    loads = one + other
    return max(one * other, loads, LATENCY) + loads / 4 if one and other else 0.0
