"""DiLoCo: rounds of local steps under an outer optimizer with momentum (Douillard et al., arXiv 2311.08105)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from bptcnn.outer.messages import Vector
from bptcnn.outer.rules.base import Memory
from bptcnn.outer.rules.combine import combine, total
from bptcnn.outer.rules.local_sgd import Averaging


class Diloco(Averaging):
    """When all have pushed, take their mean difference as a gradient and make a step of SGD with Nesterov's momentum.

    Maths, with ``D`` the mean of the differences::

        v    = b v + D
        W(i) = W(i-1) + eta (D + b v)

    ``momentum = 0`` and ``lr = 1`` is local SGD.

    Example:
        >>> Diloco().lr, Diloco().momentum
        (0.7, 0.9)
    """

    name: Literal["diloco"] = "diloco"
    """Selects this rule."""

    lr: float = Field(default=0.7, gt=0)
    """eta, the outer learning rate."""

    momentum: float = Field(default=0.9, ge=0, lt=1)
    """b, the outer momentum."""

    def move(
        self, weights: Vector, scales: Sequence[float], deltas: Sequence[Vector], version: int, memory: Memory
    ) -> tuple[Vector, Memory]:
        """``W + eta (D + b v)`` (see ``UpdateRule.move``)."""
        mean = total(scales, deltas)
        before = memory.get("velocity")
        velocity = total([self.momentum, 1.0], [before, mean]) if before is not None else mean
        moved = combine(weights, [self.lr, self.lr * self.momentum], [mean, velocity])
        return moved, {"velocity": velocity}
