"""``auto``: no update rule, but the wish that one be chosen before the run starts."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from bptcnn.outer.rules.base import AccuracySource
from bptcnn.section import Section

LAG_PRICE = 0.26
"""Measured with rounds (``benchmarks/lag.py``): the median of 28 cadences, 0.27 for those that wait and 0.25 for those
that overlap; at a lag of one step it is 0.14 to 0.33."""


class Auto(Section):
    """Measures workers and links at the start, then chooses rule, allocation and exchange by simulation.

    An engine puts what it chose in this section's place, so that nothing below ever merges by it.

    Example:
        >>> Auto().lag_price
        0.26
    """

    accuracy_from: ClassVar[AccuracySource] = "training"
    local_momentum: ClassVar[float | None] = None
    # Whatever is chosen asks neither for a held-out subset nor for momentum of its own.

    name: Literal["auto"] = "auto"
    """Selects this choice."""

    lag_price: float = Field(default=LAG_PRICE, ge=0)
    """What is learned from weights that are `lag` local steps old counts for (1 + lag)^-lag_price of what would be
    learned from new ones: with 0, only throughput counts."""
