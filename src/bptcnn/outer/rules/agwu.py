"""AGWU, the asynchronous global weight update of BPT-CNN (Chen et al., TPDS 2019; formula reconstructed)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import exp
from typing import Literal

from bptcnn.outer.rules.base import AccuracyWeight, Contribution, Peer, UpdateRule


class Agwu(UpdateRule):
    """Merge each push as it comes, damped by staleness and by accuracy; only the pushing worker gets the result.

    Maths, for the push of worker j (base version k, accuracy Q_j) that makes version i::

        W(i)    = W(i-1) + gamma_j Q_j (W_j - W(k))
        gamma_j = exp(k / (i-1)) / sum_j' exp(k_j' / (i-1)),    1/m for i = 1

    with k_j' the version that worker j' trains from now.

    Known weakness: at low accuracy raw Q shrinks every step, and as i grows ``exp(k / (i-1))`` stops telling stale from
    fresh (lag/i -> 0), so that gamma tends to 1/m whatever the lag.

    Example:
        >>> peers = {worker: Peer(base_version=10, accuracy=0.5) for worker in range(4)}
        >>> Agwu().scales([Contribution(0, None, 10, 64, 0.5)], peers, 10)
        [0.125]
    """

    name: Literal["agwu"] = "agwu"
    """Selects this rule."""

    accuracy_weight: AccuracyWeight = "raw"
    """``raw``: Q_j as in the paper; ``relative``: Q_j / mean Q of all workers that have pushed; ``none``: 1."""

    staleness: Literal["paper", "polynomial", "none"] = "paper"
    """``paper``: gamma as above; ``polynomial``: (1 + s)^-1/2 / m with s = i-1-k; ``none``: 1/m."""

    gamma_over: Literal["workers", "versions"] = "workers"
    """What gamma's sum runs over: the workers' base versions, or all versions 0..i-1 (the other reading of the paper,
    under which updates die out as 1/i)."""

    def scales(self, contributions: Sequence[Contribution], peers: Mapping[int, Peer], version: int) -> list[float]:
        """``gamma_j Q_j`` (see ``UpdateRule.scales``)."""
        return [self._gamma(push, peers, version) * self._quality(push, peers) for push in contributions]

    def _gamma(self, push: Contribution, peers: Mapping[int, Peer], version: int) -> float:
        num_workers = max(1, len(peers))
        if self.staleness == "polynomial":
            return float((1 + version - push.base_version) ** -0.5 / num_workers)
        if self.staleness == "none" or version == 0:
            return 1 / num_workers
        bases = [peer.base_version for peer in peers.values()] if self.gamma_over == "workers" else range(version + 1)
        return exp(push.base_version / version) / sum(exp(base / version) for base in bases)

    def _quality(self, push: Contribution, peers: Mapping[int, Peer]) -> float:
        if self.accuracy_weight == "none":
            return 1.0
        if self.accuracy_weight == "raw":
            return push.accuracy
        known = [peer.accuracy for peer in peers.values() if peer.accuracy is not None]
        return push.accuracy * len(known) / sum(known) if sum(known) > 0 else 1.0
