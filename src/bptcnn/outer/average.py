"""The average of the latest global weights: what a run measures and leaves behind.

At any rate above 0 weights wander about the place that they are drawn to; their mean lies nearer to it than they do.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from bptcnn.outer.messages import Vector
from bptcnn.outer.rules import combine

GRAIN = 1 / 512
"""Versions are passed over until the samples have grown by this part: in long runs few are taken in, and cost time."""


@dataclass(slots=True)
class Average:
    """Polynomial-decay average of vectors, by the samples that they were learned from.

    Maths: ``M(s) = M(r) + (1 - (r / s)^(1/a - 1)) (W(s) - M(r))``, with r samples in the version before. Weights that
    knew of u samples count like ``u^(1/a - 2)``, so that their mean age is ``a s``: the average reaches back as far as
    the run has come, forgets its beginning, and need not know its length.

    Args:
        age: a, above 0; 1/2 is the plain mean of all.
        weights: M, float32 [num_weights]; never written to. None to simulate timing only.
        num_samples: r.

    Example:
        >>> import numpy as np
        >>> average = Average(1 / 2, np.zeros(1, np.float32))
        >>> for number, value in enumerate([3, 6, 9], start=1):
        ...     average.follow(np.full(1, value, np.float32), num_samples=100 * number)
        >>> average.weights
        array([6.], dtype=float32)

    Source: Shamir and Zhang, ICML 2013 (polynomial-decay averaging), there by steps; Zhang, Choromanska and LeCun,
    NeurIPS 2015, compare with an average of fixed age (MVASGD).
    """

    age: float
    weights: Vector | None
    num_samples: int = 0

    def follow(self, weights: Vector | None, num_samples: int) -> None:
        """Take in the next version, unless it is hardly any further than the last.

        Args:
            weights: W(s), float32 [num_weights]; not to be written to from now on.
            num_samples: s.
        """
        if self.weights is None or weights is None or num_samples <= (1 + GRAIN) * self.num_samples:
            return
        if self.num_samples:
            part = 1 - (self.num_samples / num_samples) ** (1 / self.age - 1)
            weights = combine(self.weights, [part, -part], [weights, self.weights])
        self.weights, self.num_samples = weights, num_samples

    def snapshot(self) -> dict[str, Any]:
        """The state as a tree for a checkpoint."""
        return {"weights": self.weights, "num_samples": self.num_samples}

    def resume(self, tree: dict[str, Any]) -> None:
        """Take over the state that ``snapshot`` described."""
        self.weights, self.num_samples = tree["weights"], tree["num_samples"]
