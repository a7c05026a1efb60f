"""What the forward and the backward pass are written with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from bptcnn.inner.graph.layers import Conv, Layer
from bptcnn.inner.kernels.library import Library
from bptcnn.inner.kernels.shape import Plane
from bptcnn.inner.lowering.buffers import Buffers
from bptcnn.inner.lowering.division import Division
from bptcnn.inner.lowering.program import Call, Chains
from bptcnn.inner.tasks.dag import Kind


class Writer:
    """Appends calls to the chains of all blocks.

    Args:
        buffers: where numbers lie.
        library: gets the kernels.
        division: of the work among lanes.
        kind: of tasks.

    Attributes:
        chains: the program in the making.
        layer: name of the layer that is being written.
    """

    def __init__(self, buffers: Buffers, library: Library, division: Division, kind: Kind) -> None:
        self.buffers, self.library, self.num_lanes = buffers, library, division.num_lanes
        self._division = division
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
        wanted = min(self._division.least, plane.channels)
        parts = max(parts for parts in range(1, wanted + 1) if plane.channels % parts == 0)
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
        """Call a convolution for each block, in parts where lanes would have nothing to do.

        Args:
            kernel: its name.
            arguments: of a block, but for the tiles.
            tiles: what it can be divided by.
            layer: for its cost.
        """
        cost = flops(layer) * self.buffers.width, float(self._sample_bytes * (layer.data.size + layer.shape.size))
        for block in range(self.buffers.num_blocks):
            parts = self._division.ranges(block, tiles, cost[0])
            calls = [Call(kernel, (*arguments(block), *part)) for part in parts]
            if len(calls) == 1:
                self.chains.call(block, self.layer, calls[0], *cost)
            else:
                self.chains.split(block, self.layer, calls, *cost)


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
