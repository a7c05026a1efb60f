"""When to evaluate and when to save: by committed samples and by the clock that is passed in."""

from __future__ import annotations

from typing import Any

from pydantic import Field, field_validator

from bptcnn.errors import ConfigError
from bptcnn.section import Section

YOUNGEST = 0.01
"""An average of a smaller mean age would be of hardly any versions."""


class EvaluationConfig(Section):
    """When accuracy is measured."""

    every: float = Field(default=0.5, gt=0)
    """Epochs of committed samples between two test evaluations."""

    target: float | None = Field(default=None, gt=0, le=1)
    """Test accuracy at which the run ends; none: it goes on to its last epoch."""

    average: float = Field(default=0.05, ge=0, le=0.5)
    """What is measured, and saved as the model, is an average of the latest global weights: their mean age as a part of
    the samples so far, 0.01 or more; 0: the last weights as they are."""

    validation: int = Field(default=512, ge=1)
    """Training samples held out where a rule's ``accuracy_from`` is ``validation``."""

    @field_validator("average")
    @classmethod
    def _spans_versions(cls, age: float) -> float:
        if 0 < age < YOUNGEST:
            raise ConfigError(f"evaluation.average = {age:g} is next to nothing: give 0, or {YOUNGEST:g} or more")
        return age


class CheckpointConfig(Section):
    """When the run's state is saved."""

    every_s: float = Field(default=30.0, gt=0)
    """Seconds between two checkpoints: what a crash can cost at most."""

    keep: int = Field(default=3, ge=1)
    """Newest checkpoints kept on disk."""


class Milestones:
    """Remembers what is due next.

    Args:
        evaluation: its cadence.
        checkpoint: its cadence.
        num_samples: samples of one epoch.

    Example:
        >>> due = Milestones(EvaluationConfig(every=0.5), CheckpointConfig(every_s=10), num_samples=100)
        >>> due.evaluate(committed=40), due.evaluate(committed=60), due.evaluate(committed=90)
        (False, True, False)
    """

    def __init__(self, evaluation: EvaluationConfig, checkpoint: CheckpointConfig, num_samples: int) -> None:
        self._stride = evaluation.every * num_samples
        self._every_s = checkpoint.every_s
        self._evaluations = 0
        self._saved_at_s: float | None = None

    def evaluate(self, committed: int) -> bool:
        """Tell once for each stride of samples that it has been passed."""
        passed = int(committed / self._stride)
        due, self._evaluations = passed > self._evaluations, max(passed, self._evaluations)
        return due

    def save(self, now: float) -> bool:
        """Tell whether a checkpoint is due; the first is at once, so that there is always one to go on from."""
        due = self._saved_at_s is None or now - self._saved_at_s >= self._every_s
        if due:
            self._saved_at_s = now
        return due

    def snapshot(self) -> dict[str, Any]:
        """The state as a tree for a checkpoint; the clock starts anew with the next session."""
        return {"evaluations": self._evaluations}

    def resume(self, tree: dict[str, Any]) -> None:
        """Take over the state that ``snapshot`` described."""
        self._evaluations = tree["evaluations"]
