"""Asynchronous local SGD with delayed Nesterov momentum (Liu et al., arXiv 2401.09135)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from pydantic import Field
from typing_extensions import Self

from bptcnn.outer.messages import Vector
from bptcnn.outer.rules.base import Contribution, Memory, Peer, UpdateRule
from bptcnn.outer.rules.combine import combine, total
from bptcnn.outer.rules.local_sgd import Weighting


class AsyncLocalSgd(UpdateRule):
    """Merge each push as it comes, and let momentum act only once for every n of them.

    Maths, for the push ``d`` of worker j that makes version i, ``s`` its part of a step::

        acc  = acc + s d
        i a multiple of n:  v = b v + acc,  W(i) = W(i-1) + eta (s d + b v),  acc = 0
        otherwise:          W(i) = W(i-1) + eta s d

    n is ``delay``, or the number of workers m; s is 1/n, or m/n times the worker's part of the sum of the speeds. With
    leases in proportion to speed (``dynamic`` allocation) all push equally often: the paper's dynamic local updates.

    Example:
        >>> peers = {worker: Peer(0, None, share) for worker, share in enumerate((0.5, 0.3, 0.2))}
        >>> AsyncLocalSgd().scales([Contribution(1, None, 0, 64, 0.5)], peers, 0)
        [0.3]
    """

    name: Literal["async-local-sgd"] = "async-local-sgd"
    """Selects this rule."""

    lr: float = Field(default=1.0, gt=0)
    """eta, the outer learning rate."""

    momentum: float = Field(default=0.5, ge=0, lt=1)
    """b, the outer momentum; 0 leaves plain asynchronous local SGD."""

    delay: int = Field(default=0, ge=0)
    """n; 0: as many as there are workers."""

    weighting: Weighting = "samples"
    """``samples``: pushes count by their worker's speed, so that each sample counts alike; ``equal``: all the same."""

    def settled(self, num_workers: int) -> Self:
        """A delay of 0 becomes m (see ``UpdateRule.settled``)."""
        return self if self.delay else self.model_copy(update={"delay": num_workers})

    def scales(self, contributions: Sequence[Contribution], peers: Mapping[int, Peer], version: int) -> list[float]:
        """``eta s`` (see ``UpdateRule.scales``)."""
        m = max(1, len(peers))
        known = {worker: peer.share for worker, peer in peers.items() if self.weighting == "samples"}
        parts = [known.get(push.worker) or 1 / m for push in contributions]
        return [self.lr * part * m / (self.delay or m) for part in parts]

    def move(
        self, weights: Vector, scales: Sequence[float], deltas: Sequence[Vector], version: int, memory: Memory
    ) -> tuple[Vector, Memory]:
        """A step with momentum or without (see ``UpdateRule.move``)."""
        if self.momentum == 0:
            return combine(weights, scales, deltas), memory
        assert self.delay, "the rule is settled before it is used"
        waiting = [memory["waiting"]] if "waiting" in memory else []
        mean = total([1.0] * len(waiting) + [scale / self.lr for scale in scales], [*waiting, *deltas])
        before = memory.get("velocity")
        if (version + 1) % self.delay:
            kept = {} if before is None else {"velocity": before}
            return combine(weights, scales, deltas), {**kept, "waiting": mean}
        velocity = mean if before is None else total([self.momentum, 1.0], [before, mean])
        moved = combine(weights, [*scales, self.lr * self.momentum], [*deltas, velocity])
        return moved, {"velocity": velocity}
