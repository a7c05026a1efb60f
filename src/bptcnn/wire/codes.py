"""Vectors in fewer bits: bf16, multiples of a block's scale in 8 or 4 bits, and 2 bits a weight.

Arithmetic in blocks that fit into a core's cache, on the calling thread: other cores are busy training, or packing.
What is not finite stays so: with it, all of its block, but for bf16, where it stays alone.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

Vector: TypeAlias = npt.NDArray[np.float32]
Values: TypeAlias = npt.NDArray[Any]

BLOCK = 256
"""Values that share a scale."""

CHUNK = 64 * BLOCK
"""Values that are worked on at a time; so few that PyTorch does not spread them over its own threads."""

_FINEST = np.finfo(np.float32).tiny
"""The least scale: a smaller one would have too few digits of its own, and 0 can't be divided by."""

_APART = np.float32(1.25)
"""Magnitudes are parted at so many times their mean. The best place for normal values; 1.6 for Laplace's."""


class Code(ABC):
    """A way to write vectors; ``write`` says what it loses."""

    @abstractmethod
    def sizes(self, num_weights: int) -> tuple[int, int]:
        """Bytes of the values and of the scales of a vector.

        Args:
            num_weights: its length.
        """

    @abstractmethod
    def write(self, vector: Vector) -> tuple[Values, Vector]:
        """Values and scales of a vector, in new memory.

        Args:
            vector: float32 [n]; not written to.
        """

    @abstractmethod
    def read(self, values: Values, scales: Vector, num_weights: int) -> Vector:
        """The vector, in new memory.

        Args:
            values: as ``write`` made them; may be read-only.
            scales: likewise.
            num_weights: n.
        """


class Bf16(Code):
    """The nearest number of 8 significant bits, ties to even: off by 2^-8 of the value at most.

    Example:
        >>> values, scales = Bf16().write(np.array([1.0, 257.0], np.float32))
        >>> Bf16().read(values, scales, 2)
        array([  1., 256.], dtype=float32)
    """

    def sizes(self, num_weights: int) -> tuple[int, int]:
        """Two bytes a weight (see ``Code.sizes``)."""
        return 2 * num_weights, 0

    def write(self, vector: Vector) -> tuple[Values, Vector]:
        """The upper half of the bits, rounded, as int16 (see ``Code.write``)."""
        source = torch.from_numpy(vector if vector.flags.writeable else vector.copy())  # read-only memory makes it warn
        target = torch.empty(len(vector), dtype=torch.bfloat16)
        for start in range(0, len(vector), CHUNK):
            target[start : start + CHUNK].copy_(source[start : start + CHUNK])
        return target.view(torch.int16).numpy(), np.empty(0, np.float32)

    def read(self, values: Values, scales: Vector, num_weights: int) -> Vector:
        """The bits with zeros below (see ``Code.read``)."""
        bits = values.view(np.uint16).astype(np.uint32)
        bits <<= 16
        return bits.view(np.float32)


@dataclass(frozen=True)
class Multiples(Code):
    """The nearest multiple of ``scale = max |block| / levels``: off by half of that at most.

    Attributes:
        levels: the largest multiple, either way: 127 takes a byte; 7 half of one, and two share it.

    Example:
        >>> code = Multiples(127)
        >>> code.write(np.array([127.0, -2.0, 0.4], np.float32))[0]
        array([127,  -2,   0], dtype=int8)
    """

    levels: int

    @property
    def _halves(self) -> bool:
        return self.levels < 8

    def sizes(self, num_weights: int) -> tuple[int, int]:
        """A byte a weight or half of one, and a scale a block (see ``Code.sizes``)."""
        return -(-num_weights // 2) if self._halves else num_weights, 4 * _num_blocks(num_weights)

    def write(self, vector: Vector) -> tuple[Values, Vector]:
        """Multiples as int8, or two in a uint8, the first in its upper half (see ``Code.write``)."""
        values, scales = np.empty(len(vector), np.int8), np.empty((_num_blocks(len(vector)), 1), np.float32)
        for first, part, blocks in _chunks(vector):
            flat, scale = blocks.reshape(-1), scales[first:][: len(blocks)]
            np.maximum(blocks.max(axis=1, keepdims=True) / np.float32(self.levels), _FINEST, out=scale)
            np.copyto(flat[: len(part)], part)
            np.divide(blocks, scale, out=blocks)
            np.rint(blocks, out=blocks)
            np.copyto(values[first * BLOCK :][: len(part)], flat[: len(part)], casting="unsafe")
        return _paired(values) if self._halves else values, scales.reshape(-1)

    def read(self, values: Values, scales: Vector, num_weights: int) -> Vector:
        """Multiples times scales (see ``Code.read``)."""
        multiples = _unpaired(values, num_weights) if self._halves else values
        flat, blocks = _room(num_weights)
        for first in range(0, len(scales), CHUNK // BLOCK):
            part = multiples[first * BLOCK :][:CHUNK]
            np.copyto(flat[first * BLOCK :][: len(part)], part)
            with np.errstate(invalid="ignore", over="ignore"):
                blocks[first : first + CHUNK // BLOCK] *= scales[first : first + CHUNK // BLOCK, None]
        return flat[:num_weights]


class Means(Code):
    """Two bits a weight: its sign, and whether it is large; each becomes the mean magnitude of its class in its block.

    Maths: the magnitudes of a block are parted at 1.25 of their mean, and those below and above are each replaced by
    their own mean. For given signs and classes no other numbers leave less: what is left is always shorter than the
    block, in squares by ``sum over classes of n mean^2``, which is what error feedback needs to converge. Of normal
    values 12 % of the squares is left.

    Example:
        >>> Means().read(*Means().write(np.array([6.0, -1.0, 1.0, 3.0, 7.0, 0.0], np.float32)), 6)
        array([ 6.5 , -1.25,  1.25,  1.25,  6.5 ,  1.25], dtype=float32)

    Source: signs and means with error feedback are Seide et al., Interspeech 2014 (with one bit); why that converges,
    Karimireddy et al., ICML 2019.
    """

    def sizes(self, num_weights: int) -> tuple[int, int]:
        """Two bits a weight, blocks filled up, and two scales a block (see ``Code.sizes``)."""
        return 2 * _num_blocks(num_weights) * (BLOCK // 8), 2 * _num_blocks(num_weights) * 4

    def write(self, vector: Vector) -> tuple[Values, Vector]:
        """uint8 [2, blocks, 32]: signs, then classes; scales of small ones, then of large (see ``Code.write``)."""
        planes = np.empty((2, _num_blocks(len(vector)), BLOCK // 8), np.uint8)
        scales = np.empty((2, _num_blocks(len(vector))), np.float32)
        for first, part, blocks in _chunks(vector):
            rows, sizes = slice(first, first + len(blocks)), _num_values(len(part))
            negative = np.zeros(blocks.shape, np.bool_)
            np.signbit(part, out=negative.reshape(-1)[: len(part)])
            planes[0, rows] = np.packbits(negative, axis=1)
            total = blocks.sum(axis=1)
            large = blocks > (_APART * total / sizes)[:, None]
            planes[1, rows] = np.packbits(large, axis=1)
            blocks *= large
            above, counts = blocks.sum(axis=1), np.count_nonzero(large, axis=1)
            scales[0, rows] = (total - above) / np.maximum(sizes - counts, 1)
            scales[1, rows] = above / np.maximum(counts, 1)
        return planes, scales.reshape(-1)

    def read(self, values: Values, scales: Vector, num_weights: int) -> Vector:
        """Means with their signs (see ``Code.read``)."""
        flat, blocks = _room(num_weights)
        small, large = scales.reshape(2, -1, 1)
        for first in range(0, len(blocks), CHUNK // BLOCK):
            rows = slice(first, first + CHUNK // BLOCK)
            means = np.where(np.unpackbits(values[1, rows], axis=1), large[rows], small[rows])
            np.multiply(np.unpackbits(values[0, rows], axis=1), np.float32(-2), out=blocks[rows])
            blocks[rows] += 1
            with np.errstate(invalid="ignore"):
                blocks[rows] *= means
        return flat[:num_weights]


def _num_blocks(num_weights: int) -> int:
    return -(-num_weights // BLOCK)


def _num_values(count: int) -> npt.NDArray[np.float32]:
    """How many values each block has: the last may be a short one."""
    sizes = np.full(_num_blocks(count), BLOCK, np.float32)
    sizes[-1] = count - BLOCK * (len(sizes) - 1)
    return sizes


def _room(num_weights: int) -> tuple[Vector, Vector]:
    """New memory for a vector, flat and by blocks; where the last is a short one, whatever was there comes after it."""
    blocks = np.empty((_num_blocks(num_weights), BLOCK), np.float32)
    return blocks.reshape(-1), blocks


def _chunks(vector: Vector) -> Iterator[tuple[int, Vector, Vector]]:
    """The vector in parts: the number of its first block, the part, and its magnitudes by blocks, to be written to."""
    room = np.empty((CHUNK // BLOCK, BLOCK), np.float32)
    with np.errstate(invalid="ignore", over="ignore"):  # the scale of a block that is not finite says it all
        for start in range(0, len(vector), CHUNK):
            part = vector[start : start + CHUNK]
            blocks = room[: _num_blocks(len(part))]
            flat = blocks.reshape(-1)
            flat[len(part) :] = 0
            np.abs(part, out=flat[: len(part)])
            yield start // BLOCK, part, blocks


def _paired(values: npt.NDArray[np.int8]) -> npt.NDArray[np.uint8]:
    """Two values of -8 to 7 in each byte."""
    even = np.zeros(len(values) + len(values) % 2, np.uint8)
    even[: len(values)] = values.view(np.uint8) & 15
    pairs: npt.NDArray[np.uint8] = np.bitwise_or(even[0::2] << np.uint8(4), even[1::2])
    return pairs


def _unpaired(pairs: Values, count: int) -> npt.NDArray[np.int8]:
    values = np.empty((len(pairs), 2), np.int8)
    signed = pairs.view(np.int8)
    np.right_shift(signed, 4, out=values[:, 0])
    np.right_shift(np.left_shift(signed, 4), 4, out=values[:, 1])
    return values.reshape(-1)[:count]
