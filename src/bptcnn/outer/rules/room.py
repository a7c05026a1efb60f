"""Room for merged vectors: memory that nobody holds any more is used again.

A fresh vector of tens of megabytes comes from the kernel, which clears every page before it is written: with 11 million
weights that takes several times as long as the merge itself.
"""

from __future__ import annotations

import sys
from collections import deque

import numpy as np

from bptcnn.outer.messages import Vector

KEPT = 8
"""Vectors remembered: the current weights and their average, those that a reply, an evaluation and a checkpoint may
still hold, and room for the next two."""

_made: deque[Vector] = deque(maxlen=KEPT)

_probe = [object()]
_ALONE = sys.getrefcount(_probe[0])
"""References to something that only one list holds, counted as below."""


def room(num_weights: int) -> Vector:
    """A vector to write into that nobody else holds, neither itself nor a view of it.

    Args:
        num_weights: its length; vectors of another length are forgotten.

    Returns:
        float32 [num_weights], with arbitrary values.

    Example:
        >>> first = room(3)
        >>> room(3) is first
        False
    """
    for _ in range(KEPT):
        try:
            taken = [_made.popleft()]  # out of reach of other threads while its references are counted
        except IndexError:
            break
        if taken[0].size == num_weights:
            free = sys.getrefcount(taken[0]) == _ALONE
            _made.append(taken[0])
            if free:
                return taken[0]
    vector = np.empty(num_weights, np.float32)
    _made.append(vector)
    return vector
