"""Gossip: workers send their weights to one another (Blot et al., arXiv 1611.09726 and 1804.01852)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

from pydantic import Field

from bptcnn.outer.messages import Vector
from bptcnn.outer.rules.base import Contribution, Memory, Peer, UpdateRule
from bptcnn.outer.rules.combine import total


class Peers(UpdateRule):
    """What rules share whose workers keep weights of their own: the global weights are a mean, taken now and then."""

    meets = "peers"

    answered: ClassVar[bool] = False
    """Whether who is sent weights sends its own back."""

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


class ByChance(Peers):
    """What rules share whose workers send now and then, to somebody."""

    p: float = Field(default=0.25, gt=0, le=1)
    """The chance that a local step is followed by a message; it takes the place of ``exchange.every``."""

    def message_rate(self, part: float) -> float:
        """``p``, however fast the worker is (see ``Peers.message_rate``)."""
        return self.p

    def cadence(self, every: int | Literal["epoch"]) -> int | Literal["epoch"]:
        """As long as chance has it (see ``UpdateRule.cadence``)."""
        return "epoch"


class Gosgd(ByChance):
    """GoSGD: after each local step, with probability p, half of a worker's mass goes to another one, with its weights.

    Maths: all workers begin at the same weights with alpha = 1 / m. Who sends halves its alpha and sends it along with
    its weights; who receives (x_s, a_s) mixes them in::

        x = (a_s x_s + alpha x) / (a_s + alpha),    alpha = alpha + a_s

    so the sum of alpha over workers and messages under way stays 1, and no message changes the sum of alpha x. The
    global weights are the mean of the workers' by alpha.

    Where workers differ in speed the published form gives those least weight that learn most: who makes r steps a
    second halves its alpha p r times, so alpha settles at c / r, and the mean moves as fast as m workers of the
    *harmonic* mean of the speeds would move it. Sending equally often, all keep 1 / m. Where steps are in proportion to
    speed, so is alpha: of steps of b_s samples, who sends gives ``b_r / (b_s + b_r)`` instead of half, so that

        b_s (b_r / (b_s + b_r)) = b_r (b_s / (b_r + b_s))

    goes each way, and a sample counts as much as any other.

    Example:
        >>> reports = [Contribution(worker, None, 0, 0, 0.5, mass) for worker, mass in enumerate((0.75, 0.25))]
        >>> Gosgd().scales(reports, {}, 0)
        [0.75, 0.25]
    """

    name: Literal["gosgd"] = "gosgd"
    """Selects this rule."""

    balanced: bool = True
    """Let all workers send equally often: p is the chance of a worker of mean speed, faster ones have less. ``false``:
    p for every step of every worker, as published."""

    def message_rate(self, part: float) -> float:
        """``p``, or p over the worker's part (see ``Peers.message_rate``)."""
        return min(1.0, self.p / part) if self.balanced else self.p


class AdPsgd(ByChance):
    """AD-PSGD: after each local step, with probability p, a worker and another one average their weights.

    Maths: as ``Gosgd``, and whoever is sent (x_s, a_s) sends half of its own mass back with its weights before it mixes
    that in. Without steps in between, both then have::

        x = (alpha_i x_i + alpha_j x_j) / (alpha_i + alpha_j),    alpha = (alpha_i + alpha_j) / 2

    so masses that differ draw level, and those that are equal stay so, 1 / m each, however fast who is. (Where steps
    differ in size, ``alpha_i = (alpha_i + alpha_j) b_i / (b_i + b_j)``.) Nobody waits: what a worker learns until the
    answer comes counts with what it kept. The answer leaves between two steps, so it may hold steps of a lease that is
    not committed; should its sender die before it is, they are trained again.

    Lian, Zhang, Zhang, Liu, "Asynchronous decentralized parallel stochastic gradient descent", ICML 2018 (arXiv
    1710.06952), which averages both at one moment.

    Example:
        >>> AdPsgd(p=0.125).message_rate(2.0)  # a worker with twice the mean speed begins twice as many exchanges
        0.125
    """

    answered = True

    name: Literal["ad-psgd"] = "ad-psgd"
    """Selects this rule."""


class Alone(Peers):
    """No exchange at all: each worker trains on its own, and the global weights are the mean of all.

    The naive baseline of the GoSGD paper.

    Example:
        >>> Alone().message_rate(1.0)
        0.0
    """

    name: Literal["none"] = "none"
    """Selects this rule."""
