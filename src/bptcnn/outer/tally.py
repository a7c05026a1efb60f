"""What a run adds up to: time, bytes, balance and the history of accuracy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from bptcnn.outer.messages import Lease


@dataclass(slots=True)
class Tally:
    """Sums over a run; times on the run's own clock, which starts with the first lease.

    Attributes:
        started_s: engine time of the first lease of this session; None before it.
        ended_s: engine time of the end; None while running.
        before_s: seconds trained in earlier sessions.
        bytes_pushed: weight bytes from workers to server.
        bytes_pulled: weight bytes from server to workers.
        busy: seconds of training by epoch and worker.
        history: (seconds, committed samples, test accuracy) of each evaluation.
    """

    started_s: float | None = None
    ended_s: float | None = None
    before_s: float = 0.0
    bytes_pushed: int = 0
    bytes_pulled: int = 0
    busy: dict[int, dict[int, float]] = field(default_factory=dict)
    history: list[tuple[float, int, float]] = field(default_factory=list)

    def elapsed_s(self, now: float) -> float:
        """Seconds of training so far, all sessions together."""
        end = now if self.ended_s is None else self.ended_s
        return self.before_s + (0.0 if self.started_s is None else end - self.started_s)

    def note(self, lease: Lease, busy_s: float, vector_bytes: int) -> None:
        """Add a push.

        Args:
            lease: what it was trained on.
            busy_s: seconds of training.
            vector_bytes: its size on the wire.
        """
        self.bytes_pushed += vector_bytes
        epoch = self.busy.setdefault(lease.epoch, {})
        epoch[lease.worker] = epoch.get(lease.worker, 0.0) + busy_s

    def snapshot(self, now: float) -> dict[str, Any]:
        """The state as a tree for a checkpoint.

        Args:
            now: the engine's clock, seconds.
        """
        return {
            "before_s": self.elapsed_s(now),
            "saved_s": now,
            "bytes": [self.bytes_pushed, self.bytes_pulled],
            "busy": [[e, w, busy] for e, workers in self.busy.items() for w, busy in workers.items()],
            "history": [list(point) for point in self.history],
        }

    @classmethod
    def restore(cls, tree: dict[str, Any], now: float) -> Tally:
        """Build the tally that ``snapshot`` described; its clock starts again with the next lease.

        Args:
            tree: the snapshot.
            now: the engine's clock, seconds; what was trained since the snapshot is lost, the time it took is not.
        """
        lost_s = max(0.0, now - tree["saved_s"])
        history = [(seconds, committed, accuracy) for seconds, committed, accuracy in tree["history"]]
        tally = cls(before_s=tree["before_s"] + lost_s, history=history)
        tally.bytes_pushed, tally.bytes_pulled = tree["bytes"]
        for epoch, worker, busy in tree["busy"]:
            tally.busy.setdefault(epoch, {})[worker] = busy
        return tally


def balance(busy: Mapping[int, float], num_workers: int) -> float:
    """How unevenly an iteration's work fell: max / mean of the workers' busy time; 1 is perfect.

    Args:
        busy: seconds of training by worker; absent means 0.
        num_workers: all that took part.

    Returns:
        At least 1; 1 for an empty iteration.

    Example:
        >>> balance({0: 3.0, 1: 1.0}, num_workers=2)
        1.5
    """
    total = sum(busy.values())
    return max(busy.values()) * num_workers / total if total > 0 else 1.0
