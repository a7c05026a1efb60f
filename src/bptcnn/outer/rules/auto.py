"""``auto``: no update rule, but the wish that one be chosen before the run starts."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from bptcnn.outer.rules.base import AccuracySource
from bptcnn.section import Section


class Auto(Section):
    """Measures workers and links at the start, then chooses rule, allocation and exchange by simulation.

    An engine puts what it chose in this section's place, so that nothing below ever merges by it.

    Example:
        >>> Auto().keep
        0.97
    """

    accuracy_from: ClassVar[AccuracySource] = "training"
    local_momentum: ClassVar[float | None] = None
    # Whatever is chosen asks neither for a held-out subset nor for momentum of its own.

    name: Literal["auto"] = "auto"
    """Selects this choice."""

    keep: float = Field(default=0.97, gt=0, lt=1)
    """Part of the best attainable throughput that the exchange has to leave: the smaller, the more often it may be."""
