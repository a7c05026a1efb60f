"""The global weights and their versions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bptcnn.outer.messages import Vector
from bptcnn.outer.rules import Contribution, Memory, Peer, Strategy


class GlobalModel:
    """Weights that change only by merges, each of which makes a new vector and a new version.

    Args:
        strategy: the update rule.
        weights: W(0), float32 [num_weights]; None to simulate timing only.

    Attributes:
        version: merges done.
        weights: W(version); never written to.
        waiting: pushes received but not merged yet.
        scales: the factors of the last merge.
        memory: what the rule remembers.
    """

    def __init__(self, strategy: Strategy, weights: Vector | None) -> None:
        self._strategy = strategy
        self.weights = weights
        self.version = 0
        self.waiting: list[Contribution] = []
        self.scales: list[float] = []
        self.memory: Memory = {}

    @property
    def synchronous(self) -> bool:
        """Whether a merge waits for all workers."""
        return self._strategy.synchronous

    def add(self, push: Contribution) -> None:
        """Take a push in; it counts with the next merge."""
        self.waiting.append(push)

    def merge(self, peers: Mapping[int, Peer]) -> None:
        """Make the next version from the waiting pushes, in the order of the workers' numbers.

        Args:
            peers: every worker that takes part.
        """
        ordered = sorted(self.waiting, key=lambda push: push.worker)
        merged = self._strategy.merge(self.weights, ordered, peers, self.version, self.memory)
        self.weights, self.scales, self.memory = merged
        self.version += 1
        self.waiting = []

    def snapshot(self) -> dict[str, Any]:
        """The state as a tree for a checkpoint; taken only when nothing waits."""
        assert not self.waiting
        return {"version": self.version, "weights": self.weights, "memory": dict(self.memory)}

    def resume(self, tree: dict[str, Any]) -> None:
        """Take over the state that ``snapshot`` described."""
        self.version, self.weights, self.memory = tree["version"], tree["weights"], tree["memory"]
