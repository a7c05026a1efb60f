"""Weight vectors as they travel: float32 as it is, bf16 in half of the bytes, int8 in a quarter of them.

Arithmetic in blocks that fit into a core's cache, on the calling thread: the other cores are busy training.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

Vector: TypeAlias = npt.NDArray[np.float32]

Dtype = Literal["fp32", "bf16", "int8"]
"""How a vector is written on the way."""

BLOCK = 256
"""Values that share a scale."""

LEVELS = 127
"""The largest value of int8 that is used, either way."""

CHUNK = 64 * BLOCK
"""Values that are worked on at a time; so few that PyTorch does not spread them over its own threads."""

_FINEST = np.finfo(np.float32).tiny
"""The least scale: a smaller one would have too few digits of its own, and 0 can't be divided by."""


class Packed(NamedTuple):
    """A vector in fewer bytes.

    Attributes:
        values: int16 [n], the bits of bf16; or int8 [n], multiples of their block's scale.
        scales: float32 [ceil(n / 256)]; empty for bf16.
    """

    values: npt.NDArray[np.signedinteger[Any]]
    scales: Vector

    @property
    def num_bytes(self) -> int:
        """Its size."""
        return self.values.nbytes + self.scales.nbytes


Wire: TypeAlias = Vector | Packed
"""A vector as it travels."""


class Sizes(NamedTuple):
    """Bytes of a weight vector on its ways.

    Attributes:
        full: as float32: to who has no weights yet, and for the mean of workers that keep their own.
        push: from a worker, to the server or to another worker.
        pull: from the server to a worker that has weights.
    """

    full: int
    push: int
    pull: int


def num_bytes(num_weights: int, dtype: Dtype) -> int:
    """The size of a vector on its way.

    Args:
        num_weights: its length.
        dtype: how it is written.

    Returns:
        Bytes.

    Example:
        >>> [num_bytes(1024, dtype) for dtype in ("fp32", "bf16", "int8")]
        [4096, 2048, 1040]
    """
    if dtype == "int8":
        return num_weights + 4 * _num_blocks(num_weights)
    return num_weights * (4 if dtype == "fp32" else 2)


def encode(vector: Vector, dtype: Dtype) -> Wire:
    """Write a vector in fewer bytes.

    Maths: bf16 is the nearest number of 8 significant bits, ties to even: off by 2^-8 of the value at most. int8 is the
    nearest multiple of ``scale = max |block| / 127``: off by half of that at most. Values that are not finite stay so;
    with int8, so does all of their block.

    Args:
        vector: float32 [n]; not written to.
        dtype: how to write it.

    Returns:
        The vector itself for fp32, else new memory.

    Example:
        >>> encode(np.array([127.0, -2.0, 0.4], np.float32), "int8").values
        array([127,  -2,   0], dtype=int8)
    """
    if dtype == "fp32":
        return vector
    return _to_bf16(vector) if dtype == "bf16" else _to_int8(vector)


def decode(wire: Wire) -> Vector:
    """Read a vector that ``encode`` wrote.

    Args:
        wire: as it came; may be read-only.

    Returns:
        float32 [n]: new memory for what was packed, else the vector itself.

    Example:
        >>> decode(encode(np.array([127.0, -2.0, 0.4], np.float32), "int8"))
        array([127.,  -2.,   0.], dtype=float32)
    """
    if not isinstance(wire, Packed):
        return wire
    if wire.values.dtype == np.int16:
        bits = wire.values.view(np.uint16).astype(np.uint32)
        bits <<= 16
        return bits.view(np.float32)
    return _from_int8(*wire)


def _num_blocks(num_weights: int) -> int:
    return -(-num_weights // BLOCK)


def _to_bf16(vector: Vector) -> Packed:
    source = torch.from_numpy(vector if vector.flags.writeable else vector.copy())  # PyTorch warns of read-only memory
    target = torch.empty(len(vector), dtype=torch.bfloat16)
    for start in range(0, len(vector), CHUNK):
        target[start : start + CHUNK].copy_(source[start : start + CHUNK])
    return Packed(target.view(torch.int16).numpy(), np.empty(0, np.float32))


def _to_int8(vector: Vector) -> Packed:
    values = np.empty(len(vector), np.int8)
    scales = np.empty((_num_blocks(len(vector)), 1), np.float32)
    room = np.empty((CHUNK // BLOCK, BLOCK), np.float32)
    with np.errstate(invalid="ignore", over="ignore"):  # the scale of a block that is not finite says it all
        for start in range(0, len(vector), CHUNK):
            part = vector[start : start + CHUNK]
            blocks = room[: _num_blocks(len(part))]
            flat = blocks.reshape(-1)
            flat[len(part) :] = 0  # the last block may be a short one
            np.abs(part, out=flat[: len(part)])
            scale = scales[start // BLOCK :][: len(blocks)]
            np.maximum(blocks.max(axis=1, keepdims=True) / np.float32(LEVELS), _FINEST, out=scale)
            np.copyto(flat[: len(part)], part)
            np.divide(blocks, scale, out=blocks)
            np.rint(blocks, out=blocks)
            np.copyto(values[start : start + CHUNK], flat[: len(part)], casting="unsafe")
    return Packed(values, scales.reshape(-1))


def _from_int8(values: npt.NDArray[np.signedinteger[Any]], scales: Vector) -> Vector:
    blocks = np.empty((len(scales), BLOCK), np.float32)
    flat, step = blocks.reshape(-1), CHUNK // BLOCK
    flat[len(values) :] = 0
    with np.errstate(invalid="ignore", over="ignore"):
        for first in range(0, len(scales), step):
            part = values[first * BLOCK :][:CHUNK]
            np.copyto(flat[first * BLOCK :][: len(part)], part)
            blocks[first : first + step] *= scales[first : first + step, None]
    return flat[: len(values)]
