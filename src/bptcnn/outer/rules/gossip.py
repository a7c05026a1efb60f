"""Gossip: workers send their weights to one another (Blot et al., arXiv 1611.09726 and 1804.01852)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from pydantic import Field

from bptcnn.outer.messages import Vector
from bptcnn.outer.rules.base import Contribution, Memory, Peer, UpdateRule
from bptcnn.outer.rules.combine import total


class Peers(UpdateRule):
    """What rules share whose workers keep weights of their own: the global weights are a mean, taken now and then."""

    meets = "peers"

    mean: Literal["weighted", "plain"] = "weighted"
    """How the workers' weights make the global ones: by their mass, or each as much as any other."""

    def scales(self, contributions: Sequence[Contribution], peers: Mapping[int, Peer], version: int) -> list[float]:
        """``alpha_j / sum alpha``, or ``1 / m`` (see ``UpdateRule.scales``)."""
        masses = [push.mass if self.mean == "weighted" else 1.0 for push in contributions]
        whole = sum(masses)
        return [mass / whole if whole > 0 else 1 / len(masses) for mass in masses]

    def move(
        self, weights: Vector, scales: Sequence[float], deltas: Sequence[Vector], version: int, memory: Memory
    ) -> tuple[Vector, Memory]:
        """``sum_j scale_j x_j``: the global weights before do not count (see ``UpdateRule.move``)."""
        return total(scales, deltas), memory

    def message_rate(self, part: float) -> float:
        """The chance that a local step is followed by a message to another worker.

        Args:
            part: the worker's speed over the mean of all.
        """
        return 0.0


class Gosgd(Peers):
    """GoSGD: after each local step, with probability p, half of a worker's mass goes to another one, with its weights.

    Maths: all workers begin at the same weights with alpha = 1 / m. Who sends halves its alpha and sends it along with
    its weights; who receives (x_s, a_s) mixes them in::

        x = (a_s x_s + alpha x) / (a_s + alpha),    alpha = alpha + a_s

    so the sum of alpha over workers and messages under way stays 1, and no message changes the sum of alpha x. The
    global weights are the mean of the workers' by alpha.

    Where workers differ in speed the published form gives those least weight that learn most: who makes r steps a
    second halves its alpha p r times, so alpha settles at c / r, and the mean moves as fast as m workers of the
    *harmonic* mean of the speeds would move it. Sending equally often, all keep 1 / m.

    Example:
        >>> reports = [Contribution(worker, None, 0, 0, 0.5, mass) for worker, mass in enumerate((0.75, 0.25))]
        >>> Gosgd().scales(reports, {}, 0)
        [0.75, 0.25]
    """

    name: Literal["gosgd"] = "gosgd"
    """Selects this rule."""

    p: float = Field(default=0.25, gt=0, le=1)
    """The chance that a local step is followed by a message; it takes the place of ``exchange.every``."""

    balanced: bool = True
    """Let all workers send equally often: p is the chance of a worker of mean speed, faster ones have less. ``false``:
    p for every step of every worker, as published."""

    def message_rate(self, part: float) -> float:
        """``p``, or p over the worker's part (see ``Peers.message_rate``)."""
        return min(1.0, self.p / part) if self.balanced else self.p

    def cadence(self, every: int | Literal["epoch"]) -> int | Literal["epoch"]:
        """As long as chance has it (see ``UpdateRule.cadence``)."""
        return "epoch"


class Alone(Peers):
    """No exchange at all: each worker trains on its own, and the global weights are the mean of all.

    The naive baseline of the GoSGD paper.

    Example:
        >>> Alone().message_rate(1.0)
        0.0
    """

    name: Literal["none"] = "none"
    """Selects this rule."""
