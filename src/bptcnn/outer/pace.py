"""How fast a worker is, and when its silence is too long: judged by its own history, never by a guessed constant."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Mapping
from statistics import median
from typing import Any

from pydantic import Field

from bptcnn.section import Section

WINDOW = 16
"""Leases remembered. Enough for a steady median, few enough to follow a machine that changes within seconds."""

RECENT = 4
"""Leases that the speed estimate averages over."""


class FaultConfig(Section):
    """When a silent worker is given up."""

    mads: float = Field(default=8.0, gt=0)
    """A push is late this many median absolute deviations past the median interval."""

    slack: float = Field(default=2.0, ge=1)
    """... times this factor."""

    patience_s: float = Field(default=10.0, gt=0)
    """... plus this many seconds; alone it covers pauses that have nothing to do with training."""

    first_s: float = Field(default=60.0, gt=0)
    """Seconds granted on top for a worker's first lease, which warms caches."""

    restarts: int = Field(default=3, ge=0)
    """How often one worker is replaced before its data is dealt to the others."""

    join_s: float = Field(default=120.0, gt=0)
    """Seconds to wait for missing workers before the run starts without them."""


class Pace:
    """The training speed of one worker and the rhythm of its pushes.

    Args:
        samples_per_s: speed measured when it joined.

    Example:
        >>> pace = Pace(100.0)
        >>> pace.observe(size=50, busy_s=1.0, interval_s=1.1)
        >>> pace.samples_per_s
        50.0
    """

    def __init__(self, samples_per_s: float) -> None:
        self._calibrated = samples_per_s
        self._busy: deque[tuple[int, float]] = deque(maxlen=RECENT)
        self._intervals: deque[float] = deque(maxlen=WINDOW)
        self._rhythm: tuple[float, float] | None = None

    def observe(self, *, size: int, busy_s: float, interval_s: float) -> None:
        """Note a finished lease.

        Args:
            size: its samples.
            busy_s: seconds of training.
            interval_s: seconds since the worker was last heard of.
        """
        self._busy.append((size, max(busy_s, 1e-9)))
        self._intervals.append(interval_s / size)
        self._rhythm = rhythm(self._intervals)

    @property
    def samples_per_s(self) -> float:
        """Measured speed over the last leases; the calibrated one before the first."""
        if not self._busy:
            return self._calibrated
        return sum(size for size, _ in self._busy) / sum(busy for _, busy in self._busy)

    def patience_s(self, size: int, config: FaultConfig) -> float:
        """How long silence may last while the worker trains on ``size`` samples.

        Maths: ``slack * size * (median + mads * MAD) + patience_s`` with median and MAD of seconds per sample between
        pushes; before the first push the calibrated speed stands in and ``first_s`` is added.

        Args:
            size: samples of the lease it works on.
            config: the factors.

        Returns:
            Seconds.
        """
        if self._rhythm is None:
            return config.slack * size / self._calibrated + config.patience_s + config.first_s
        centre, spread = self._rhythm
        return config.slack * size * (centre + config.mads * spread) + config.patience_s

    def snapshot(self) -> dict[str, Any]:
        """The state as a tree for a checkpoint."""
        return {
            "calibrated": self._calibrated,
            "busy": [list(pair) for pair in self._busy],
            "intervals": list(self._intervals),
        }

    @classmethod
    def restore(cls, tree: dict[str, Any]) -> Pace:
        """Build the pace that ``snapshot`` described."""
        pace = cls(tree["calibrated"])
        pace._busy.extend((size, busy) for size, busy in tree["busy"])
        pace._intervals.extend(tree["intervals"])
        pace._rhythm = rhythm(pace._intervals) if pace._intervals else None
        return pace


def rhythm(values: Collection[float]) -> tuple[float, float]:
    """Median and median absolute deviation.

    Args:
        values: at least one.
    """
    centre = median(values)
    return centre, median(abs(value - centre) for value in values)


def shares(speeds: Mapping[int, float]) -> dict[int, float]:
    """Each worker's part of the sum of the speeds.

    Args:
        speeds: samples/s of each worker, > 0.

    Returns:
        Fractions that sum to 1.

    Example:
        >>> shares({0: 3.0, 1: 1.0})
        {0: 0.75, 1: 0.25}
    """
    total = sum(speeds.values())
    return {worker: speed / total for worker, speed in speeds.items()}
