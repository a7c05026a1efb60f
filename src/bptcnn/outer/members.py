"""The workers as the coordinator knows them: who is present, what each has done."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from bptcnn.outer.messages import Lease, Pushed
from bptcnn.outer.pace import FaultConfig, Pace
from bptcnn.outer.status import State, WorkerStatus


@dataclass(slots=True)
class Record:
    """What a worker has done over all its incarnations; survives checkpoints.

    Attributes:
        samples: committed.
        steps: local steps.
        pushes: exchanges.
        busy_s: seconds of training.
        staleness: sum over pushes of the merges between pull and push.
        loss: of the last lease.
        accuracy: of the last lease.
        replaced: how often it was started anew.
        dismissed: given up for good.
    """

    samples: int = 0
    steps: int = 0
    pushes: int = 0
    busy_s: float = 0.0
    staleness: int = 0
    loss: float | None = None
    accuracy: float | None = None
    replaced: int = 0
    dismissed: bool = False


@dataclass(slots=True)
class Member:
    """One worker.

    Attributes:
        worker: its number.
        incarnation: the life that may push; higher than all before.
        present: whether that life is running.
        awaiting: whether it waits for an answer.
        base_version: the version sent last.
        sequence: the last push seen of this incarnation.
        heard_s: when it was last heard of or given work, on the engine's clock.
        pace: its speed; None before it first joined.
        record: what it has done.
    """

    worker: int
    incarnation: int = 0
    present: bool = False
    awaiting: bool = False
    base_version: int = 0
    sequence: int = 0
    heard_s: float = 0.0
    pace: Pace | None = None
    record: Record = field(default_factory=Record)

    def join(self, samples_per_s: float, session: int, version: int, now: float) -> None:
        """Begin a new incarnation, numbered above all of this and of earlier sessions.

        Args:
            samples_per_s: its calibrated speed.
            session: restarts of the coordinator so far.
            version: the version it will train from.
            now: the engine's clock, seconds.
        """
        self.incarnation = max(self.incarnation, session * SESSION) + 1
        self.present = self.awaiting = True
        self.base_version, self.sequence, self.heard_s = version, 0, now
        self.pace = Pace(samples_per_s)

    def leave(self, now: float) -> None:
        """End the incarnation: whatever it still sends will be refused.

        Args:
            now: the engine's clock, seconds; a replacement is awaited from here on.
        """
        self.present = self.awaiting = False
        self.heard_s = now

    def note(self, push: Pushed, lease: Lease, version: int, now: float) -> None:
        """Record a push.

        Args:
            push: what came.
            lease: what it was trained on.
            version: merges done before this one.
            now: the engine's clock, seconds.
        """
        assert self.pace is not None
        # A lease drawn ahead is trained, in part or whole, before the answer that the interval counts from.
        interval_s = max(push.busy_s, now - self.heard_s)
        self.pace.observe(size=lease.size, busy_s=push.busy_s, interval_s=interval_s)
        self.sequence, self.heard_s, self.awaiting = push.sequence, now, True
        record = self.record
        record.samples += lease.size
        record.steps += push.steps
        record.pushes += 1
        record.busy_s += push.busy_s
        record.staleness += version - push.base_version
        record.loss, record.accuracy = push.loss, push.accuracy

    def expected(self, started_s: float | None) -> bool:
        """Whether work may still come from it; once training has begun, only from those that have joined before.

        Args:
            started_s: when training began; None before.
        """
        return not self.record.dismissed and (self.pace is not None or started_s is None)

    def deadline_s(self, held: Sequence[Lease], started_s: float | None, faults: FaultConfig) -> float | None:
        """When silence becomes too long: of a process that holds work, or of a replacement that has yet to join.

        Args:
            held: its open leases, oldest first.
            started_s: when training began; None before.
            faults: how long is too long.

        Returns:
            A moment on the engine's clock, seconds; None while nothing depends on this worker.
        """
        if started_s is None or self.pace is None or not self.expected(started_s):
            return None
        if self.present:
            owes = bool(held) and not self.awaiting  # who has pushed waits for us
            return self.heard_s + self.pace.patience_s(held[0].size, faults) if owes else None
        return max(self.heard_s, started_s) + faults.join_s

    def state(self, *, holds: bool, started: bool, over: bool) -> State:
        """What it does now.

        Args:
            holds: whether it has a lease.
            started: whether training has begun in this session.
            over: whether the run has ended.
        """
        if over:
            return "done"
        if not self.present:
            return "lost" if started and self.incarnation else "joining"
        return "training" if holds else "waiting"

    def status(self, state: State, *, elapsed_s: float, committed: int) -> WorkerStatus:
        """This worker's row of the status.

        Args:
            state: what it does now.
            elapsed_s: seconds since training began.
            committed: samples committed by all.
        """
        record = self.record
        return WorkerStatus(
            worker=self.worker,
            state=state,
            samples_per_s=self.pace.samples_per_s if self.pace else 0.0,
            share=record.samples / committed if committed else 0.0,
            steps=record.steps,
            pushes=record.pushes,
            staleness=record.staleness / record.pushes if record.pushes else 0.0,
            waiting=max(0.0, 1 - record.busy_s / elapsed_s) if elapsed_s > 0 else 0.0,
            loss=record.loss,
            accuracy=record.accuracy,
        )

    def snapshot(self) -> dict[str, Any]:
        """The state as a tree for a checkpoint: the incarnation is over, the record and the pace stay."""
        return {
            "worker": self.worker,
            "incarnation": self.incarnation,
            "pace": self.pace.snapshot() if self.pace else None,
            "record": asdict(self.record),
        }

    @classmethod
    def restore(cls, tree: dict[str, Any]) -> Member:
        """Build the absent member that ``snapshot`` described; who was given up may come back as a newcomer."""
        record = Record(**tree["record"])
        pace = Pace.restore(tree["pace"]) if tree["pace"] and not record.dismissed else None
        record.replaced, record.dismissed = 0, False
        return cls(tree["worker"], tree["incarnation"], pace=pace, record=record)


SESSION = 1_000_000
"""Incarnations of session s are numbered from s times this, so that no two sessions share a number."""
