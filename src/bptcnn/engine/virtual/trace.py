"""Speeds that change: a worker's samples/s over virtual time, constant from one change to the next."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from math import inf
from typing import TypeAlias

import numpy as np

HOLD_S = (1.0, 5.0)
"""A drawn speed holds between so many virtual seconds, uniformly."""

SWING = 2.0
"""A drawn speed is the nominal one times or divided by so much at most, log-uniformly: fourfold between extremes."""


class SpeedTrace:
    """The speed of a worker at each moment.

    Args:
        pieces: (end, speed) in order of time: samples/s up to that moment, virtual seconds; the last ends at infinity.
            They may go on for ever: no more are taken than are asked for.

    Example:
        >>> halved = SpeedTrace([(2.0, 100.0), (float("inf"), 50.0)])
        >>> halved.duration_s(1.0, 150)
        2.0
        >>> halved.samples_per_s(2.0)
        50.0
    """

    def __init__(self, pieces: Iterable[tuple[float, float]]) -> None:
        self._rest = iter(pieces)
        self._ends: list[float] = []
        self._speeds: list[float] = []

    @classmethod
    def steady(cls, samples_per_s: float) -> SpeedTrace:
        """One speed for ever."""
        return cls([(inf, samples_per_s)])

    @classmethod
    def drawn(cls, samples_per_s: float, seed: int, worker: int) -> SpeedTrace:
        """A speed that changes every few seconds; the same seed and worker give the same trace.

        Args:
            samples_per_s: the nominal speed.
            seed: of all workers' traces.
            worker: whose trace it is.
        """
        return cls(_drawn(samples_per_s, seed, worker))

    @classmethod
    def total(cls, traces: Sequence[SpeedTrace]) -> SpeedTrace:
        """The sum of the speeds at each moment.

        Args:
            traces: one or more.
        """
        return cls(_total(traces))

    def samples_per_s(self, at_s: float) -> float:
        """The speed at this moment; where it changes, the new one."""
        return self._speeds[self._piece(at_s)]

    def holds_until_s(self, at_s: float) -> float:
        """When the speed of this moment ends; infinite if never."""
        return self._ends[self._piece(at_s)]

    def duration_s(self, start_s: float, samples: float) -> float:
        """How long it takes to train so many samples from a moment on.

        Maths: the ``d`` with ``integral of the speed from start to start + d = samples``.

        Args:
            start_s: when it begins, virtual seconds.
            samples: how many, > 0.

        Returns:
            Virtual seconds.
        """
        piece, at_s, left = self._piece(start_s), start_s, float(samples)
        while left > (within := (self._ends[piece] - at_s) * self._speeds[piece]):
            left -= within
            at_s = self._ends[piece]
            piece = self._piece(at_s)
        return at_s - start_s + left / self._speeds[piece]

    def _piece(self, at_s: float) -> int:
        """The piece that holds at this moment, after taking as many as that needs."""
        while not self._ends or self._ends[-1] <= at_s:
            end_s, speed = next(self._rest)
            self._ends.append(end_s)
            self._speeds.append(speed)
        return bisect_right(self._ends, at_s)


Speeds: TypeAlias = Callable[[int, float], SpeedTrace]
"""The trace of a worker, by its number and its nominal speed, samples/s."""


def steady(worker: int, samples_per_s: float) -> SpeedTrace:
    """Every worker at its nominal speed.

    Args:
        worker: whose.
        samples_per_s: the nominal speed.
    """
    return SpeedTrace.steady(samples_per_s)


def changing(seed: int) -> Speeds:
    """Every worker at a speed of its own that changes every few seconds; the same seed gives the same speeds."""
    return lambda worker, samples_per_s: SpeedTrace.drawn(samples_per_s, seed, worker)


def _drawn(samples_per_s: float, seed: int, worker: int) -> Iterator[tuple[float, float]]:
    rng = np.random.default_rng((seed, worker, 0x7ACE))
    end_s = 0.0
    while True:
        end_s += float(rng.uniform(*HOLD_S))
        yield end_s, samples_per_s * SWING ** float(rng.uniform(-1.0, 1.0))


def _total(traces: Sequence[SpeedTrace]) -> Iterator[tuple[float, float]]:
    at_s = 0.0
    while at_s < inf:
        end_s = min(trace.holds_until_s(at_s) for trace in traces)
        yield end_s, sum(trace.samples_per_s(at_s) for trace in traces)
        at_s = end_s
