"""SGWU, the synchronous global weight update of BPT-CNN (Chen et al., TPDS 2019; formula reconstructed)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

from bptcnn.outer.rules.base import Contribution, Peer, UpdateRule


class Sgwu(UpdateRule):
    """When all have pushed, average the local weights by accuracy.

    Maths: ``W(i) = sum_j W_j Q_j / sum_j Q_j``; since the factors sum to 1 this equals
    ``W(i-1) + sum_j (Q_j / sum Q) (W_j - W(i-1))``.

    Example:
        >>> rule = Sgwu()
        >>> rule.scales([Contribution(0, None, 0, 64, 0.9), Contribution(1, None, 0, 64, 0.3)], {}, 0)
        [0.75, 0.25]
    """

    synchronous: ClassVar[bool] = True

    name: Literal["sgwu"] = "sgwu"
    """Selects this rule."""

    accuracy_weight: Literal["raw", "none"] = "raw"
    """``raw``: weights Q_j / sum Q as in the paper; ``none``: plain mean."""

    def scales(self, contributions: Sequence[Contribution], peers: Mapping[int, Peer], version: int) -> list[float]:
        """``Q_j / sum Q``, or ``1 / m`` if no accuracy is above 0 (see ``UpdateRule.scales``)."""
        qualities = [push.accuracy if self.accuracy_weight == "raw" else 1.0 for push in contributions]
        total = sum(qualities)
        if total <= 0:
            return [1 / len(qualities)] * len(qualities)
        return [quality / total for quality in qualities]
