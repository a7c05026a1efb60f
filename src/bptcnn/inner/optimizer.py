"""The local optimizer and the learning-rate schedule that all workers share."""

from __future__ import annotations

from math import cos, pi
from typing import Literal

from pydantic import Field

from bptcnn.section import Section


class OptimizerConfig(Section):
    """Local SGD: ``v = momentum v + g + weight_decay w;  w -= lr (g + weight_decay w + momentum v)`` with Nesterov."""

    lr: float = Field(default=0.05, gt=0)
    """Peak learning rate of a local step."""

    momentum: float = Field(default=0.9, ge=0, lt=1)
    """Momentum; it stays on the worker."""

    nesterov: bool = True
    """Look-ahead form of momentum."""

    weight_decay: float = Field(default=1e-4, ge=0)
    """L2 penalty per step."""


class ScheduleConfig(Section):
    """The learning rate as a function of committed samples / all samples of the run.

    Example:
        >>> schedule = ScheduleConfig(kind="linear", warmup=0.5)
        >>> [schedule.factor(progress) for progress in (0.0, 0.25, 0.5, 0.75, 1.0)]
        [0.0, 0.5, 1.0, 0.5, 0.0]
    """

    kind: Literal["constant", "cosine", "linear", "step"] = "cosine"
    """How the rate falls after the warm-up."""

    warmup: float = Field(default=0.05, ge=0, lt=1)
    """Fraction of the run over which the rate rises linearly from 0."""

    milestones: tuple[float, ...] = (0.5, 0.75)
    """``step``: fractions of the run after which the rate is multiplied by ``gamma``."""

    gamma: float = Field(default=0.1, gt=0, le=1)
    """``step``: the factor of each drop."""

    def factor(self, progress: float) -> float:
        """The learning rate as a part of its peak.

        Args:
            progress: committed samples / all samples of the run, 0 to 1.

        Returns:
            A factor from 0 to 1.
        """
        if progress < self.warmup:
            return progress / self.warmup
        after = (progress - self.warmup) / (1 - self.warmup)
        if self.kind == "cosine":
            return (1 + cos(pi * after)) / 2
        if self.kind == "linear":
            return 1 - after
        if self.kind == "step":
            return float(self.gamma ** sum(progress >= milestone for milestone in self.milestones))
        return 1.0
