"""Downpour SGD: gradients of several steps, applied as they come (Dean et al., NIPS 2012)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from pydantic import Field

from bptcnn.outer.messages import Vector
from bptcnn.outer.rules.base import Contribution, Memory, Peer, UpdateRule
from bptcnn.outer.rules.combine import combine, total

TINY = 1e-10
"""Added to a sum of squares, where nothing was pushed so far."""


class Downpour(UpdateRule):
    """Apply what each worker accrued since its last push, whatever the others did meanwhile.

    Maths, for the push d, the sum of local steps -lr g::

        fixed:    W(i) = W(i-1) + rate d
        adagrad:  h = h + d^2,  W(i) = W(i-1) + rate d / sqrt(h)        for each weight on its own

    Known weakness: with m workers and ``rate`` 1, m times as much is applied as one worker learns in that time; large
    learning rates and many workers diverge. ``rate`` 1/m is asynchronous local SGD without momentum, all workers
    weighted equally.

    Example:
        >>> Downpour(rate=0.5).scales([Contribution(0, None, 0, 64, 0.5)], {}, 0)
        [0.5]
    """

    name: Literal["downpour"] = "downpour"
    """Selects this rule."""

    rate: float = Field(default=1.0, gt=0)
    """The server's own rate, on top of the workers' learning rate."""

    adapt: Literal["fixed", "adagrad"] = "fixed"
    """``fixed``: one rate for all weights; ``adagrad``: less for weights that were pushed far already. A rate is then
    the size of a weight's first step: 0.01 or so."""

    warm_start: float = Field(default=0.0, ge=0, lt=1)
    """So great a part of the run is trained by one worker, the fastest, before the others begin."""

    @property
    def alone_until(self) -> float:
        """The warm start (see ``UpdateRule.alone_until``)."""
        return self.warm_start

    def scales(self, contributions: Sequence[Contribution], peers: Mapping[int, Peer], version: int) -> list[float]:
        """``rate`` (see ``UpdateRule.scales``)."""
        return [self.rate] * len(contributions)

    def move(
        self, weights: Vector, scales: Sequence[float], deltas: Sequence[Vector], version: int, memory: Memory
    ) -> tuple[Vector, Memory]:
        """A step of fixed rate, or of Adagrad (see ``UpdateRule.move``)."""
        if self.adapt == "fixed":
            return combine(weights, scales, deltas), memory
        squares = total([1.0] * len(deltas), [delta * delta for delta in deltas])
        before = memory.get("squares")
        if before is not None:
            squares = total([1.0, 1.0], [before, squares])
        root = np.sqrt(squares + np.float32(TINY))
        return combine(weights, scales, [delta / root for delta in deltas]), {"squares": squares}
