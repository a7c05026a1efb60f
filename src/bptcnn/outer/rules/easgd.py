"""Elastic averaging: workers keep weights of their own, tied to a centre (Zhang, Choromanska, LeCun, NIPS 2015)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field
from typing_extensions import Self

from bptcnn.outer.messages import Vector
from bptcnn.outer.rules.base import Contribution, Memory, Peer, UpdateRule
from bptcnn.outer.rules.combine import total

BETA = 0.9
"""m times the moving rate, in the paper's experiments."""


class Elastic(UpdateRule):
    """What EASGD and EAMSGD share.

    Maths, when worker j exchanges its weights x with the centre c, which are the global weights::

        x = x - a (x - c),    c = c + a (x - c)        both with x and c as they were

    The worker pushes x and hears of the new centre c' only, from which its own move follows: ``a (x - c)`` is
    ``a / (1 - a) (x - c')``. Where the answer comes later, the move is added to what was learned meanwhile.
    """

    pushes_differences: ClassVar[bool] = False

    moving_rate: float = Field(default=0.0, ge=0, lt=1)
    """a, the part of the way that worker and centre move towards each other; 0: 0.9 / number of workers."""

    def scales(self, contributions: Sequence[Contribution], peers: Mapping[int, Peer], version: int) -> list[float]:
        """``a``, the centre's part of the way to each (see ``UpdateRule.scales``)."""
        return [self.settled(max(1, len(peers))).moving_rate] * len(contributions)

    def move(
        self, weights: Vector, scales: Sequence[float], deltas: Sequence[Vector], version: int, memory: Memory
    ) -> tuple[Vector, Memory]:
        """``c + a (x - c)`` (see ``UpdateRule.move``)."""
        return total([1 - sum(scales), *scales], [weights, *deltas]), memory

    def settled(self, num_workers: int) -> Self:
        """A moving rate of 0 becomes 0.9 / m (see ``UpdateRule.settled``)."""
        return self if self.moving_rate else self.model_copy(update={"moving_rate": BETA / num_workers})

    @property
    def keeps_local(self) -> bool:
        """Workers explore on their own: yes."""
        return True

    def outgoing(self, local: Vector, base: Vector) -> Vector:
        """X itself (see ``UpdateRule.outgoing``)."""
        return local.copy()

    def correction(self, base: Vector, pushed: Vector, weights: Vector) -> Vector:
        """``a / (1 - a) (c' - x)`` (see ``UpdateRule.correction``)."""
        assert self.moving_rate, "the rule is settled before it is used"
        added: Vector = weights - pushed
        added *= np.float32(self.moving_rate / (1 - self.moving_rate))
        return added


class Easgd(Elastic):
    """Elastic averaging SGD, asynchronous: each worker meets the centre after so many of its own steps.

    Example:
        >>> rule = Easgd().settled(num_workers=4)
        >>> rule.moving_rate
        0.225
    """

    name: Literal["easgd"] = "easgd"
    """Selects this rule."""


class Eamsgd(Elastic):
    """Elastic averaging SGD with Nesterov's momentum on the workers, ``v = delta v - eta g(x + delta v)``.

    Example:
        >>> Eamsgd().local_momentum
        0.99
    """

    name: Literal["eamsgd"] = "eamsgd"
    """Selects this rule."""

    momentum: float = Field(default=0.99, gt=0, lt=1)
    """delta, the workers' momentum; it takes the place of ``optimizer.momentum``, and is Nesterov's."""

    @property
    def local_momentum(self) -> float | None:
        """Delta (see ``UpdateRule.local_momentum``)."""
        return self.momentum
