"""A vector in the form in which it travels, and its size."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple, TypeAlias

from bptcnn.wire.codes import Bf16, Code, Means, Multiples, Values, Vector

Dtype = Literal["fp32", "bf16", "int8", "int4", "2bit"]
"""How a vector is written on the way, from most bytes to fewest."""

CODES: Mapping[Dtype, Code] = {
    "bf16": Bf16(),
    "int8": Multiples(127),
    "int4": Multiples(7),
    "2bit": Means(),
}


class Packed(NamedTuple):
    """A vector in fewer bytes.

    Attributes:
        dtype: how it is written.
        num_weights: its length.
        values: as its code writes them.
        scales: float32, of its blocks; empty for bf16.
    """

    dtype: Dtype
    num_weights: int
    values: Values
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
        >>> [num_bytes(1024, dtype) for dtype in ("fp32", "bf16", "int8", "int4", "2bit")]
        [4096, 2048, 1040, 528, 288]
    """
    return 4 * num_weights if dtype == "fp32" else sum(CODES[dtype].sizes(num_weights))


def encode(vector: Vector, dtype: Dtype) -> Wire:
    """Write a vector in fewer bytes; ``wire.codes`` says what is lost.

    Args:
        vector: float32 [n]; not written to.
        dtype: how to write it.

    Returns:
        The vector itself for fp32, else new memory.
    """
    return vector if dtype == "fp32" else Packed(dtype, len(vector), *CODES[dtype].write(vector))


def decode(wire: Wire) -> Vector:
    """Read a vector that ``encode`` wrote.

    Args:
        wire: as it came; may be read-only.

    Returns:
        float32 [n]: new memory for what was packed, else the vector itself.

    Example:
        >>> import numpy as np
        >>> decode(encode(np.array([127.0, -2.0, 0.4], np.float32), "int8"))
        array([127.,  -2.,   0.], dtype=float32)
    """
    return CODES[wire.dtype].read(wire.values, wire.scales, wire.num_weights) if isinstance(wire, Packed) else wire
