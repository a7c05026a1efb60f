"""When an accuracy was reached, and medians over runs of which some never reach it. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import inf
from statistics import median


def crossing_s(history: Sequence[Sequence[float]], target: float) -> float | None:
    """When the accuracy first reaches the target, on straight lines from evaluation to evaluation.

    Args:
        history: seconds, samples committed and test accuracy of each evaluation, in order of time.
        target: the accuracy to reach.

    Returns:
        Seconds; None if no evaluation reaches it. Before the first evaluation nothing is known: if that one is above
        the target, the time is its own.

    Example:
        >>> crossing_s([(1.0, 100, 0.6), (3.0, 300, 0.8), (5.0, 500, 0.7)], 0.75)
        2.5
    """
    before: tuple[float, float] | None = None
    for at_s, _, accuracy in history:
        if accuracy >= target:
            if before is None:
                return at_s
            earlier_s, lower = before
            return earlier_s + (at_s - earlier_s) * (target - lower) / (accuracy - lower)
        before = at_s, accuracy
    return None


def median_s(times: Iterable[float | None]) -> float | None:
    """The median of times to target, where never counts as later than any time.

    Args:
        times: seconds; None for never. At least one.

    Returns:
        Seconds; None if half of them or more are never.

    Example:
        >>> median_s([3.0, None, 1.0]), median_s([None, 1.0])
        (3.0, None)
    """
    middle = median(inf if time is None else time for time in times)
    return None if middle == inf else middle


def in_order(times: Sequence[float | None]) -> list[int]:
    """Which is the earliest, which comes next, and so on; never comes last.

    Args:
        times: seconds; None for never.

    Returns:
        Indices into ``times``.

    Example:
        >>> in_order([None, 2.0, 1.0])
        [2, 1, 0]
    """
    return sorted(range(len(times)), key=lambda index: inf if (time := times[index]) is None else time)
