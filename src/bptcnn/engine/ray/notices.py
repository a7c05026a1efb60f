"""What a user should read while a run goes on, each as one sentence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bptcnn.engine.observer import Observer
from bptcnn.outer.status import Status

SLOW = 0.95
"""A worker below this part of its emulated speed is too slow ..."""

SLOW_LOOKS = 10
"""... if so many looks in a row find it so, or the run as a whole."""


class Notices:
    """Passes sentences on, and finds workers that cannot keep their emulated speed.

    Args:
        observer: is told.
        speeds: emulated speeds, samples/s, one a worker; empty for none.

    Attributes:
        texts: everything said so far.
    """

    def __init__(self, observer: Observer, speeds: tuple[float, ...]) -> None:
        self.texts: list[str] = []
        self._observer, self._speeds = observer, speeds
        self._slow_looks = [0] * len(speeds)
        self._said_slow: set[int] = set()

    def say(self, text: str) -> None:
        """Tell the user."""
        self.texts.append(text)
        self._observer.notice(text)

    def say_once(self, text: str) -> None:
        """Tell the user what stays true, such as that the disk is full."""
        if text not in self.texts:
            self.say(text)

    def look(self, status: Status) -> None:
        """Find workers that have just stayed below their speed for long enough."""
        for row, asked in zip(status.workers, self._speeds, strict=False):
            slow = row.pushes > 0 and row.samples_per_s < SLOW * asked
            self._slow_looks[row.worker] = self._slow_looks[row.worker] + 1 if slow else 0
            if self._slow_looks[row.worker] == SLOW_LOOKS:
                self._say_slow(row.worker, row.samples_per_s)

    def conclude(self, summary: Mapping[str, Any]) -> None:
        """Find workers that were too slow over the whole of a run that was short."""
        for row in summary["workers"]:
            if row["pushes"] and row["asked_speed"] and row["speed"] < SLOW * row["asked_speed"]:
                self._say_slow(row["worker"], row["speed"])

    def _say_slow(self, worker: int, reached: float) -> None:
        if worker not in self._said_slow:
            self._said_slow.add(worker)
            self.say(
                f"worker {worker} reaches {reached:,.0f} of the {self._speeds[worker]:,.0f} samples/s asked for: "
                "this machine is too slow for these --speeds"
            )
