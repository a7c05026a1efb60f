"""What the forward and the backward pass are written with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from bptcnn.inner.graph.layers import Conv, Layer
from bptcnn.inner.kernels.library import Library
from bptcnn.inner.kernels.shape import Plane
from bptcnn.inner.lowering.buffers import Buffers
from bptcnn.inner.lowering.program import Call, Chains, ranges
from bptcnn.inner.tasks.dag import Kind

TASKS = 2
"""Tasks of a heavy layer for each lane, at least: with hardly more tasks than lanes, one that the system holds up would
hold up all others."""

HEAVY_FLOPS = 5e8
"""A few milliseconds of a lane: about as long as the system lets it run where others want its core."""

LIGHT_FLOPS = 5e7
"""Of a part of a layer that is divided anyway, so that its parts may as well be smaller."""


MOST_PARTS = 4
"""Of a block's share of a layer where blocks and lanes do not come out even."""


class Writer:
    """Appends calls to the chains of all blocks.

    Args:
        buffers: where numbers lie.
        library: gets the kernels.
        num_lanes: for how many lanes the work is divided.
        kind: of tasks.

    Attributes:
        chains: the program in the making.
        layer: name of the layer that is being written.
    """

    def __init__(self, buffers: Buffers, library: Library, num_lanes: int, kind: Kind) -> None:
        self.buffers, self.library, self.num_lanes = buffers, library, num_lanes
        self.chains = Chains(buffers.num_blocks, kind)
        self.layer = ""
        self._sample_bytes = buffers.vectors.num_bytes * buffers.width

    def part_of(self, plane: Plane) -> tuple[int, Plane, int]:
        """How a map-wise kernel is divided into equal parts, where there are fewer blocks than lanes.

        Args:
            plane: what it works on.

        Returns:
            Parts, what each works on, and numbers of a row from one to the next.
        """
        wanted = -(-self.num_lanes // self.buffers.num_blocks)
        parts = max(parts for parts in range(1, min(wanted, plane.channels) + 1) if plane.channels % parts == 0)
        small = replace(plane, channels=plane.channels // parts)
        return parts, small, small.size * self.buffers.width

    def each(self, kernel: str, arguments: Callable[[int], tuple[int, ...]], numbers: int) -> None:
        """Call a kernel for each block.

        Args:
            kernel: its name.
            arguments: of a block.
            numbers: that it reads and writes for one sample.
        """
        self.each_part(kernel, lambda block, _: arguments(block), numbers, 1)

    def each_part(
        self, kernel: str, arguments: Callable[[int, int], tuple[int, ...]], numbers: int, parts: int
    ) -> None:
        """Call a kernel for parts of each block.

        Args:
            kernel: its name.
            arguments: of a block and a part of it.
            numbers: that are read and written for one sample, of all parts.
            parts: how many.
        """
        num_bytes = float(self._sample_bytes * numbers)
        for block in range(self.buffers.num_blocks):
            calls = [Call(kernel, arguments(block, part)) for part in range(parts)]
            if parts == 1:
                self.chains.call(block, self.layer, calls[0], 0.0, num_bytes)
            else:
                self.chains.split(block, self.layer, calls, 0.0, num_bytes)

    def divided(self, kernel: str, arguments: Callable[[int], tuple[int, ...]], tiles: int, layer: Conv) -> None:
        """Call a convolution for each block, in parts where there are fewer blocks than lanes.

        Args:
            kernel: its name.
            arguments: of a block, but for the tiles.
            tiles: what it can be divided by.
            layer: for its cost.
        """
        num_blocks = self.buffers.num_blocks
        cost = flops(layer) * self.buffers.width, float(self._sample_bytes * (layer.data.size + layer.shape.size))
        parts = list(ranges(tiles, self._num_parts(cost[0])))
        for block in range(num_blocks):
            calls = [Call(kernel, (*arguments(block), *part)) for part in parts]
            if len(calls) == 1:
                self.chains.call(block, self.layer, calls[0], *cost)
            else:
                self.chains.split(block, self.layer, calls, *cost)

    def _num_parts(self, work: float) -> int:
        """Into how many parts a block's share of a layer falls: one where there are enough blocks."""
        num_blocks, num_lanes = self.buffers.num_blocks, self.num_lanes
        parts = -(-num_lanes // num_blocks)
        few = num_lanes > 1 and parts * num_blocks < TASKS * num_lanes
        if few and parts == 1 and num_blocks % num_lanes and work > LIGHT_FLOPS:
            most = min(MOST_PARTS, int(work / LIGHT_FLOPS))
            parts = min(range(1, most + 1), key=lambda count: -(-count * num_blocks // num_lanes) / count)
        elif few and work > parts * (HEAVY_FLOPS if parts == 1 else LIGHT_FLOPS):
            parts *= TASKS
        return parts


def label(place: int, layer: Layer) -> str:
    """What a layer is called in reports.

    Args:
        place: counted from 0.
        layer: for its kind.
    """
    return f"{type(layer).__name__.lower()} {place + 1}"


def flops(layer: Conv) -> float:
    """Operations on one sample in one direction; padding counts, as is the custom."""
    return 2.0 * layer.shape.size * layer.data.channels * layer.window.rows * layer.window.columns
