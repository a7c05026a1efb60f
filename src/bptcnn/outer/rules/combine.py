"""The one piece of arithmetic that every linear rule needs, at memory bandwidth."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch

from bptcnn.outer.messages import Vector
from bptcnn.outer.rules.room import room


def combine(weights: Vector, scales: Sequence[float], deltas: Sequence[Vector]) -> Vector:
    """Compute ``weights + sum_j scales[j] * deltas[j]`` into a new vector, one fused pass per difference.

    Args:
        weights: float32 [n]; may be read-only.
        scales: one factor a difference, at least one.
        deltas: float32 [n] each; may be read-only (shared memory).

    Returns:
        float32 [n], in memory that nobody else holds.

    Example:
        >>> import numpy as np
        >>> combine(np.zeros(2, np.float32), [0.5, 1.0], [np.ones(2, np.float32), np.ones(2, np.float32)])
        array([1.5, 1.5], dtype=float32)
    """
    merged = room(len(weights))
    total = torch.from_numpy(merged)
    torch.add(_view(weights), _view(deltas[0]), alpha=scales[0], out=total)
    for scale, delta in zip(scales[1:], deltas[1:], strict=True):
        total.add_(_view(delta), alpha=scale)
    return merged


def total(scales: Sequence[float], vectors: Sequence[Vector]) -> Vector:
    """Compute ``sum_j scales[j] * vectors[j]`` into a new vector.

    Args:
        scales: one factor a vector, at least one.
        vectors: float32 [n] each; may be read-only.

    Returns:
        float32 [n], in memory that nobody else holds.

    Example:
        >>> import numpy as np
        >>> total([2.0, 1.0], [np.ones(2, np.float32), np.ones(2, np.float32)])
        array([3., 3.], dtype=float32)
    """
    result = torch.mul(_view(vectors[0]), scales[0])
    for scale, vector in zip(scales[1:], vectors[1:], strict=True):
        result.add_(_view(vector), alpha=scale)
    summed: Vector = result.numpy()
    return summed


def _view(vector: Vector) -> torch.Tensor:
    """A tensor over the same memory; torch's warning on read-only memory does not apply, as nothing is written."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return torch.from_numpy(vector)
