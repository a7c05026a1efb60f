"""What a running job looks like from outside: the numbers that the live view and the summary show."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

State = Literal["joining", "training", "waiting", "lost", "done"]


@dataclass(frozen=True, slots=True)
class WorkerStatus:
    """One worker's row.

    Attributes:
        worker: its number, from 0.
        state: what it does now.
        samples_per_s: measured training speed, waiting excluded.
        share: its part of the data committed so far, 0 to 1.
        steps: local steps done.
        pushes: exchanges done.
        staleness: mean number of merges between its pull and its push.
        waiting: fraction of the time since training began in which it did not train, 0 to 1.
        loss: training loss of its last lease; None before the first.
        accuracy: training accuracy of its last lease, 0 to 1; None before the first.
    """

    worker: int
    state: State
    samples_per_s: float
    share: float
    steps: int
    pushes: int
    staleness: float
    waiting: float
    loss: float | None
    accuracy: float | None


@dataclass(frozen=True, slots=True)
class Status:
    """The whole job at one moment.

    Attributes:
        elapsed_s: seconds since the first lease was granted (virtual seconds in the virtual engine).
        committed: samples committed.
        total: samples to commit in all.
        version: merges done.
        samples_per_s: committed / elapsed.
        eta_s: seconds left at that speed; None before the first commit.
        test_accuracy: latest test accuracy, 0 to 1; None before the first evaluation.
        workers: one row a worker.
    """

    elapsed_s: float
    committed: int
    total: int
    version: int
    samples_per_s: float
    eta_s: float | None
    test_accuracy: float | None
    workers: tuple[WorkerStatus, ...]
