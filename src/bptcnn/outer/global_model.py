"""The global weights and their versions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bptcnn.outer.average import Average
from bptcnn.outer.messages import Vector
from bptcnn.outer.rules import Contribution, Memory, Peer, Strategy


class GlobalModel:
    """Weights that change only by merges, each of which makes a new vector and a new version.

    Args:
        strategy: the update rule.
        weights: W(0), float32 [num_weights]; None to simulate timing only.
        age: mean age of what the average is made of, as a part of all samples so far, up to 1/2; 0 for no average.

    Attributes:
        version: merges done.
        weights: W(version); never written to.
        waiting: pushes received but not merged yet.
        scales: the factors of the last merge.
        memory: what the rule remembers.
    """

    def __init__(self, strategy: Strategy, weights: Vector | None, age: float = 0.0) -> None:
        self._strategy = strategy
        self.weights = weights
        self.version = 0
        self.waiting: list[Contribution] = []
        self.scales: list[float] = []
        self.memory: Memory = {}
        self._average = Average(age, weights) if age else None

    @property
    def synchronous(self) -> bool:
        """Whether a merge waits for all workers."""
        return self._strategy.synchronous

    @property
    def average(self) -> Vector | None:
        """Of the latest versions, for tests and as the outcome; W(version) if age is 0. Never written to."""
        return self._average.weights if self._average else self.weights

    def add(self, push: Contribution) -> None:
        """Take a push in; it counts with the next merge."""
        self.waiting.append(push)

    def merge(self, peers: Mapping[int, Peer], num_samples: int | None) -> None:
        """Make the next version from the waiting pushes, in the order of the workers' numbers.

        Args:
            peers: every worker that takes part.
            num_samples: what it will have been learned from, since the beginning of the run; None where a better
                version of the same samples is about to follow, so that this one is left out of the average.
        """
        ordered = sorted(self.waiting, key=lambda push: push.worker)
        merged = self._strategy.merge(self.weights, ordered, peers, self.version, self.memory)
        self.weights, self.scales, self.memory = merged
        self.version += 1
        self.waiting = []
        if self._average and num_samples is not None:
            self._average.follow(self.weights, num_samples)

    def snapshot(self) -> dict[str, Any]:
        """The state as a tree for a checkpoint; taken only when nothing waits."""
        assert not self.waiting
        average = self._average.snapshot() if self._average else None
        return {"version": self.version, "weights": self.weights, "memory": dict(self.memory), "average": average}

    def resume(self, tree: dict[str, Any]) -> None:
        """Take over the state that ``snapshot`` described."""
        self.version, self.weights, self.memory = tree["version"], tree["weights"], tree["memory"]
        if self._average:
            self._average.resume(tree["average"])
