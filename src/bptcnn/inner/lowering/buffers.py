"""Where a step's numbers lie: aligned arrays that are made once and used in every step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from bptcnn.inner.graph.layers import IMAGES, Layer, Norm
from bptcnn.inner.kernels.norm import COEFFICIENTS, SUMS, TABLE
from bptcnn.inner.kernels.shape import Plane, Vectors

Array = npt.NDArray[np.float32]

ALIGNMENT = 64
"""Bytes: a line of the cache, the widest vector."""


def aligned(size: int) -> Array:
    """Zeros whose memory is touched only when it is used.

    Args:
        size: how many, float32.

    Returns:
        float32 [size].

    Example:
        >>> aligned(100).ctypes.data % ALIGNMENT
        0
    """
    raw = np.zeros(size * 4 + ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % ALIGNMENT
    return raw[start : start + size * 4].view(np.float32)


class Rows:
    """Numbers in equal rows, one for each block or for each of something else.

    Args:
        count: rows.
        size: numbers of each.
        bf16: whether they are bfloat16, not float32.

    Attributes:
        array: float32 [count, size], or the bits of bfloat16 as uint16.
        address: of the first number.
    """

    def __init__(self, count: int, size: int, *, bf16: bool = False) -> None:
        whole = aligned(-(-count * size // 2)).view(np.uint16) if bf16 else aligned(count * size)
        self.array: npt.NDArray[Any] = whole[: count * size].reshape(count, size)
        self.address = self.array.ctypes.data
        self._stride = size * self.array.itemsize

    def row(self, index: int, number: int = 0) -> int:
        """The address of a row, or of a number in it.

        Args:
            index: of the row.
            number: its place in the row.
        """
        return int(self.address + index * self._stride + number * self.array.itemsize)


class NormRows:
    """What batch normalisation keeps from forward to backward.

    Args:
        num_blocks: blocks of samples.
        channels: of the layer.
    """

    def __init__(self, num_blocks: int, channels: int) -> None:
        self.sums = Rows(num_blocks, channels * SUMS)
        self.table = Rows(channels, TABLE)
        self.coefficients = Rows(channels, COEFFICIENTS)
        self.backward_table = Rows(channels, TABLE)


class LossRows:
    """What is known of the loss of a batch.

    Args:
        num_blocks: blocks of samples.
        width: samples of a block.

    Attributes:
        labels: int64 [blocks width], where the caller's do not fill the blocks.
        labels_address: int64 [1], where the labels are to be read.
        part: float32 [1], 1 / samples of the batch.
        parts: a row for each block: the sum over its samples.
        mean_address: int64 [1], where the loss of the batch is to be written, float32.
        guard: int32 [1], whether weights stay as they are if it is no finite number.
        stay: int32 [1], whether they do.
    """

    def __init__(self, num_blocks: int, width: int) -> None:
        self.labels = np.zeros(num_blocks * width, np.int64)
        self.labels_address = np.full(1, self.labels.ctypes.data, np.int64)
        self.part, self.mean_address = np.zeros(1, np.float32), np.zeros(1, np.int64)
        self.parts = Rows(num_blocks, 1)
        self.guard, self.stay = np.zeros(1, np.int32), np.zeros(1, np.int32)


class Buffers:
    """Everything that lies in memory between and during steps, but for the weights.

    Args:
        layers: the network.
        images: shape of an image.
        num_blocks: blocks of samples at most.
        vectors: what a block looks like.

    Attributes:
        num_blocks: blocks of samples at most.
        vectors: what a block looks like.
        width: samples of a block.
        num_samples: of this step.
        blocks: int64 [1], blocks of samples in this step.
        one: int64 [1], for what works on one block.
        images: a row for each block: [width, numbers of an image], where the caller's do not fill the blocks.
        images_address: int64 [1], where the images are to be read.
        values: of each value a row for each block, blocked; the gradient of some lies where they lay.
        scores_gradient: a row for each block, blocked.
        present: a row for each block: 1 for a sample, 0 for what only fills the block.
        keys: a row for each block: dropout's key of each sample, int32 in float32's place.
        loss: of the batch.
        counts: by area of the maps that are normalised: numbers of a channel in each block.
        norms: by value.
    """

    def __init__(self, layers: Sequence[Layer], images: Plane, num_blocks: int, vectors: Vectors) -> None:
        self.num_blocks, self.vectors, self.width = num_blocks, vectors, vectors.width
        width = self.width
        self.num_samples = 0
        self.blocks = np.full(1, num_blocks, np.int64)
        self.images = Rows(num_blocks, width * images.size)
        self.images_address = np.full(1, self.images.address, np.int64)
        self.values = {layer.out: self.blocked(layer.shape) for layer in layers}
        self.values[IMAGES] = self.blocked(images)
        self.scores_gradient = self.blocked(layers[-1].shape)
        self.present = Rows(num_blocks, width)
        self.keys = Rows(num_blocks, width)
        self.loss = LossRows(num_blocks, width)
        self.one = np.ones(1, np.int64)
        self._rooms: list[Rows] = []
        self._parts: dict[tuple[int, int], Rows] = {}
        self._scratch: list[Rows] = []
        norms = [layer for layer in layers if isinstance(layer, Norm)]
        self.counts = {area: Rows(num_blocks, 1) for area in {layer.data.area for layer in norms}}
        self.norms = {layer.out: NormRows(num_blocks, layer.data.channels) for layer in norms}

    def blocked(self, plane: Plane) -> Rows:
        """Room for data of all blocks."""
        return Rows(self.num_blocks, plane.size * self.width, bf16=self.vectors.bf16)

    def rooms(self) -> Callable[[Plane], Rows]:
        """Room for what a pass needs while it runs; that of another pass is used again.

        Returns:
            A function that gives room for data of all blocks, each time another.
        """
        left = list(self._rooms)

        def room(plane: Plane) -> Rows:
            size = plane.size * self.width
            for rows in left:
                if rows.array.shape[1] == size:
                    left.remove(rows)
                    return rows
            self._rooms.append(self.blocked(plane))
            return self._rooms[-1]

        return room

    def parts(self, value: int, place: int, size: int) -> Rows:
        """Room for each block's part of the gradient of a layer's weights, the same each time.

        Args:
            value: that the layer makes.
            place: of the parameter in the layer.
            size: numbers of a part.
        """
        if (value, place) not in self._parts:
            self._parts[value, place] = Rows(self.num_blocks, size)
        return self._parts[value, place]

    def scratch(self, size: int) -> Rows:
        """Room for what is read soon after it was written; who asks next gets the same, if it is large enough.

        Args:
            size: numbers.
        """
        for rows in self._scratch:
            if rows.array.size >= size:
                return rows
        self._scratch.append(Rows(1, size))
        return self._scratch[-1]

    def announce(self, samples: int) -> None:
        """Say how many samples the next step has.

        Args:
            samples: the first of ``images`` are these.
        """
        if samples == self.num_samples:
            return
        self.num_samples = samples
        self.blocks[0] = -(-samples // self.width)
        present = self.present.array.reshape(-1)
        present[:samples], present[samples:] = 1, 0
        self.loss.part[0] = 1 / samples
        for area, counts in self.counts.items():
            counts.array[:, 0] = area * self.present.array.sum(axis=1)
