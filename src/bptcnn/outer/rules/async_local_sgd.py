"""Asynchronous local SGD with delayed Nesterov momentum (Liu et al., arXiv 2401.09135)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from pydantic import Field

from bptcnn.outer.messages import Vector
from bptcnn.outer.rules.base import Contribution, Memory, Peer, UpdateRule
from bptcnn.outer.rules.combine import combine, total


class AsyncLocalSgd(UpdateRule):
    """Merge each push as it comes, and let momentum act only once for every n of them.

    Maths, for the push ``d`` that makes version i::

        acc  = acc + d
        i a multiple of n:  v = b v + acc / n,  W(i) = W(i-1) + eta (d / n + b v),  acc = 0
        otherwise:          W(i) = W(i-1) + eta d / n

    n is ``delay``, or the number of workers. With leases in proportion to speed (``dynamic`` allocation) all push
    equally often: the paper's dynamic local updates.

    Example:
        >>> peers = {worker: Peer(base_version=0, accuracy=None) for worker in range(4)}
        >>> AsyncLocalSgd(lr=1.0).scales([Contribution(0, None, 0, 64, 0.5)], peers, 0)
        [0.25]
    """

    name: Literal["async-local-sgd"] = "async-local-sgd"
    """Selects this rule."""

    lr: float = Field(default=1.0, gt=0)
    """eta, the outer learning rate."""

    momentum: float = Field(default=0.5, ge=0, lt=1)
    """b, the outer momentum; 0 leaves plain asynchronous local SGD."""

    delay: int = Field(default=0, ge=0)
    """n; 0: as many as there are workers."""

    def scales(self, contributions: Sequence[Contribution], peers: Mapping[int, Peer], version: int) -> list[float]:
        """``eta / n`` (see ``UpdateRule.scales``)."""
        return [self.lr / (self.delay or max(1, len(peers)))] * len(contributions)

    def move(
        self, weights: Vector, scales: Sequence[float], deltas: Sequence[Vector], version: int, memory: Memory
    ) -> tuple[Vector, Memory]:
        """A step with momentum or without (see ``UpdateRule.move``)."""
        if self.momentum == 0:
            return combine(weights, scales, deltas), memory
        part = scales[0] / self.lr  # 1/n
        waiting = [memory["waiting"]] if "waiting" in memory else []
        mean = total([1.0] * len(waiting) + [part] * len(deltas), [*waiting, *deltas])
        before = memory.get("velocity")
        if (version + 1) % round(1 / part):
            kept = {} if before is None else {"velocity": before}
            return combine(weights, scales, deltas), {**kept, "waiting": mean}
        velocity = mean if before is None else total([self.momentum, 1.0], [before, mean])
        moved = combine(weights, [*scales, self.lr * self.momentum], [*deltas, velocity])
        return moved, {"velocity": velocity}
