"""Into how many parts a block's share of a layer falls. Pure.

A block is one task for as long as there are others to do meanwhile. In the last round, in front of a place where all
blocks wait for each other, every lane waits for the slowest: parts let those that are done sooner take some of its
work.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import gcd
from typing import NamedTuple

from bptcnn.inner.graph.layers import Layer, Norm
from bptcnn.inner.kernels.shape import Vectors
from bptcnn.inner.lowering.program import ranges


class _Grain(NamedTuple):
    """Into how many parts blocks may fall, and how small.

    Attributes:
        parts: at most, of a block, or of a lane's share of one; more only where blocks and lanes do not come out even.
        flops: of a part at least.
    """

    parts: int
    flops: float


BY_VECTORS = _Grain(8, 1e7)
"""A tenth of a millisecond of a lane, hundreds of times what it costs to hand it out."""

BY_MATRICES = _Grain(2, 5e7)
"""Where each part brings all of its data anew into the order in which it is multiplied."""

HEAVY_FLOPS = 5e8
"""A few milliseconds of a lane: about as long as the system lets it run where others want its core."""

TAPER = 3
"""Of what is left of a stretch, a part takes a third."""


def meet(layers: Sequence[Layer]) -> bool:
    """Whether blocks wait for each other on their way: for the statistics of a norm.

    Args:
        layers: the network.
    """
    return any(isinstance(layer, Norm) and not layer.fixed for layer in layers)


@dataclass(frozen=True, slots=True)
class Division:
    """How layers are divided among lanes.

    Attributes:
        num_blocks: blocks of samples.
        num_lanes: that there is work for.
        vectors: what multiplies.
        meet: whether blocks wait for each other on their way; if not, they do at the step's end only.

    Example:
        >>> division = Division(num_blocks=6, num_lanes=4, vectors=Vectors(8, 16), meet=True)
        >>> [division.parts(block, work=3.5e7) for block in range(6)]
        [1, 1, 3, 3, 3, 3]
    """

    num_blocks: int
    num_lanes: int
    vectors: Vectors
    meet: bool

    @property
    def least(self) -> int:
        """Parts of a block that give each lane something to do."""
        return -(-self.num_lanes // self.num_blocks)

    def parts(self, block: int, work: float) -> int:
        """Into how many parts a block's share of a layer falls.

        Args:
            block: which one.
            work: floating-point operations of all parts.

        Returns:
            Parts, 1 or more.
        """
        earlier = block < self.num_blocks - self.num_lanes
        gaps_are_few = not self.meet and self.num_blocks >= 2 * self.num_lanes
        if self.num_lanes == 1 or earlier or gaps_are_few:
            return self.least
        fills_the_round = self.num_lanes // gcd(self.num_blocks, self.num_lanes)
        if fills_the_round == 1 and work <= HEAVY_FLOPS and (self.vectors.matrices or not self.meet):
            return 1
        grain = BY_MATRICES if self.vectors.matrices else BY_VECTORS
        most = max(grain.parts * self.least, fills_the_round)
        return max(self.least, min(most, int(work / grain.flops)))

    def ranges(self, block: int, tiles: int, work: float) -> list[tuple[int, int]]:
        """The parts of a block's share of a layer.

        A single block falls into a stretch for each lane, and this into parts that become smaller: whoever is done
        sooner takes the smallest. If each part brings its data anew into the order in which it is multiplied, as all do
        that multiply matrices, few are better.

        Args:
            block: which one.
            tiles: what its work can be divided by.
            work: floating-point operations of all of them.

        Returns:
            First tile of each part, and one past its last.

        Example:
            >>> Division(num_blocks=1, num_lanes=2, vectors=Vectors(8, 16), meet=True).ranges(0, tiles=14, work=1e9)
            [(0, 3), (3, 5), (5, 6), (6, 7), (7, 10), (10, 12), (12, 13), (13, 14)]
        """
        parts = self.parts(block, work)
        if self.num_blocks > 1 or parts <= self.num_lanes or self.vectors.matrices:
            return list(ranges(tiles, parts))
        least = max(1, tiles // (2 * parts))
        return [part for stretch in ranges(tiles, self.num_lanes) for part in tapered(*stretch, least)]


def tapered(first: int, last: int, least: int) -> Iterator[tuple[int, int]]:
    """Parts of a stretch of tiles, smaller and smaller.

    Args:
        first: tile.
        last: one past the last.
        least: tiles of a part, but for the last one.

    Yields:
        First tile of each part, and one past its last.

    Example:
        >>> list(tapered(0, 14, least=2))
        [(0, 5), (5, 8), (8, 10), (10, 12), (12, 14)]
    """
    while first < last:
        end = min(last, first + max(least, -(-(last - first) // TAPER)))
        yield first, end
        first = end


SUMS_BYTES = 8e6
"""Of sums of chunks, about: less than twice as much, unless those over all data take more."""


def chunks_of_sums(parts: int, panels: int, wanted: int, data_bytes: float, sums_bytes: float) -> tuple[int, int]:
    """How sums that fall into parts, each of which reads all data, and over chunks of the data, are divided.

    Args:
        parts: into which they may fall.
        panels: of data: no chunk is smaller.
        wanted: tasks, at least, if there can be so many.
        data_bytes: of all panels.
        sums_bytes: of all parts; each chunk has its own, which are written, read and summed up.

    Returns:
        Parts, and panels of a chunk: the way that moves least.

    Example:
        >>> chunks_of_sums(parts=4, panels=16, wanted=12, data_bytes=6e7, sums_bytes=2.6e5)
        (1, 1)
        >>> chunks_of_sums(parts=8, panels=16, wanted=12, data_bytes=8e6, sums_bytes=1.7e7)
        (8, 16)
    """

    def chunks(of_parts: int) -> int:
        most = max(1, min(panels, int(SUMS_BYTES / sums_bytes)))
        return min(most, -(-wanted // of_parts))

    def several(of_parts: int) -> int:
        return panels // chunks(of_parts)

    def cost(of_parts: int) -> tuple[float, float]:
        count = -(-panels // several(of_parts))
        return -min(wanted, of_parts * count), of_parts * data_bytes + 3 * count * sums_bytes

    best = min((count for count in range(1, parts + 1) if parts % count == 0), key=cost)
    return best, several(best)
