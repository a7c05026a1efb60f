"""Local SGD: a round of local steps, then the mean (Stich, ICLR 2019; Lin et al., ICLR 2020)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

from bptcnn.outer.rules.base import Contribution, Peer, UpdateRule

Weighting = Literal["samples", "equal"]


class Averaging(UpdateRule):
    """What rules have in common that average a round: ``W(i) = W(i-1) + sum_j part_j (W_j - W(i-1))``."""

    synchronous: ClassVar[bool] = True

    weighting: Weighting = "samples"
    """``samples``: n_j / sum n; ``equal``: 1/m, which favours the data of slow workers."""

    def scales(self, contributions: Sequence[Contribution], peers: Mapping[int, Peer], version: int) -> list[float]:
        """``n_j / sum n``, or ``1 / m`` (see ``UpdateRule.scales``)."""
        return parts(contributions, self.weighting)


class LocalSgd(Averaging):
    """When all have pushed, average what they learned, by default in proportion to the samples they learned it from.

    Maths: ``W(i) = W(i-1) + sum_j (n_j / sum n) (W_j - W(i-1))``. With one local step a round, no overlap, shares by
    speed and momentum on the workers, this is synchronous SGD on batches in proportion to speed, step by step.

    Example:
        >>> rule = LocalSgd()
        >>> rule.scales([Contribution(0, None, 0, 96, 0.9), Contribution(1, None, 0, 32, 0.9)], {}, 0)
        [0.75, 0.25]
    """

    name: Literal["local-sgd"] = "local-sgd"
    """Selects this rule."""


def parts(contributions: Sequence[Contribution], weighting: Weighting) -> list[float]:
    """Each contribution's part of a round.

    Args:
        contributions: of the round.
        weighting: by what.

    Returns:
        Fractions that sum to 1.
    """
    counts = [push.num_samples if weighting == "samples" else 1 for push in contributions]
    return [count / sum(counts) for count in counts]
