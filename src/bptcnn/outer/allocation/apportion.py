"""Splitting whole samples by fractional shares, with nothing lost to rounding."""

from __future__ import annotations

from collections.abc import Mapping
from math import floor


def apportion(total: int, weights: Mapping[int, float]) -> dict[int, int]:
    """Split ``total`` in proportion to weights by the largest-remainder method.

    Args:
        total: whole number to split, >= 0.
        weights: weight of each worker, >= 0; if all are 0 the split is equal.

    Returns:
        Whole numbers that sum to exactly ``total``, each within 1 of its exact share; ties go to the lower worker.

    Example:
        >>> apportion(10, {0: 1, 1: 1, 2: 2})
        {0: 3, 1: 2, 2: 5}
    """
    whole = sum(weights.values())
    exact = {w: total * (weights[w] / whole if whole > 0 else 1 / len(weights)) for w in weights}
    parts = {worker: floor(value) for worker, value in exact.items()}
    left = total - sum(parts.values())
    for worker in sorted(exact, key=lambda w: (parts[w] - exact[w], w))[:left]:
        parts[worker] += 1
    return parts


def water_fill(total: int, rates: Mapping[int, float], given: Mapping[int, int]) -> dict[int, int]:
    """Split ``total`` so that everything given so far finishes as evenly as possible, taking nothing back.

    Maths: find T with ``sum_j max(0, T v_j - given_j) = total``; worker j gets ``T v_j - given_j`` or nothing. Where no
    share is clamped at 0 this is IDPA's ``T = (given + total) / sum v``.

    Args:
        total: samples to split, >= 0.
        rates: v_j, samples/s of each worker, > 0.
        given: samples each worker holds already.

    Returns:
        Whole numbers that sum to exactly ``total``.

    Example:
        >>> water_fill(6, {0: 1.0, 1: 1.0}, {0: 10, 1: 2})
        {0: 0, 1: 6}
    """
    by_level = sorted(rates, key=lambda worker: (given[worker] / rates[worker], worker))
    held, speed, level = 0.0, 0.0, 0.0
    open_: list[int] = []
    for worker in by_level:
        if open_ and level <= given[worker] / rates[worker]:
            break
        open_.append(worker)
        held, speed = held + given[worker], speed + rates[worker]
        level = (held + total) / speed
    want = {worker: max(0.0, level * rates[worker] - given[worker]) for worker in open_}
    return dict.fromkeys(rates, 0) | apportion(total, want)
