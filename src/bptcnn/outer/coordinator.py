"""The coordinator: hears events, keeps samples, weights and workers in step, and orders what happens next.

Pure: ``handle(event, now)`` is all there is. Engines carry the messages and the clock; nothing here waits, looks at a
clock or touches a file, so one sequence of events always gives the same commands. Here is what all have in common:
who takes part, who is late, when to measure and to save. What becomes of a push is the business of ``central``, where
weights are merged by a server, of ``collective``, where workers sum a round for it, and of ``gossip``, where they
exchange weights among themselves.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

from typing_extensions import Self

from bptcnn.outer.allocation import Allocation, ExchangeConfig, Plan
from bptcnn.outer.global_model import GlobalModel
from bptcnn.outer.members import Member
from bptcnn.outer.messages import (
    Command,
    Dismiss,
    Evaluate,
    Evaluated,
    Event,
    Finish,
    Lease,
    Outcome,
    Pushed,
    Reduced,
    Refuse,
    Replace,
    Reported,
    SaveCheckpoint,
    StopRequested,
    TimePassed,
    Vector,
    WorkerJoined,
    WorkerLost,
)
from bptcnn.outer.milestones import CheckpointConfig, EvaluationConfig, Milestones
from bptcnn.outer.pace import FaultConfig
from bptcnn.outer.rules import Strategy
from bptcnn.outer.supply import Supply
from bptcnn.outer.tally import Tally
from bptcnn.wire import Sizes


@dataclass(frozen=True, slots=True)
class Setup:
    """Everything that is fixed for a run.

    Attributes:
        plan: sizes, cadence and seed of the data.
        allocation: how data is dealt.
        strategy: how weights are merged.
        exchange: cadence and overlap.
        faults: when a silent worker is given up.
        evaluation: when accuracy is measured.
        checkpoint: when state is saved.
        num_workers: workers to wait for at the start.
        sizes: of a weight vector on its ways.
        session: how often the coordinator was restarted from a checkpoint.
    """

    plan: Plan
    allocation: Allocation
    strategy: Strategy
    exchange: ExchangeConfig
    faults: FaultConfig
    evaluation: EvaluationConfig
    checkpoint: CheckpointConfig
    num_workers: int
    sizes: Sizes
    session: int = 0

    @property
    def leases_ahead(self) -> int:
        """Leases a worker holds beyond the one it trains, so that it need not wait for an answer."""
        return int(self.exchange.overlap and self.strategy.meets != "team")


class Coordinator(ABC):
    """The state of the outer layer.

    Args:
        setup: what is fixed.
        weights: W(0), float32 [num_weights]; None to simulate timing only.
    """

    def __init__(self, setup: Setup, weights: Vector | None) -> None:
        self.setup = setup
        self.model = GlobalModel(setup.strategy, weights, setup.evaluation.average)
        self.supply = Supply(setup.plan, setup.allocation, timed=setup.strategy.timed)
        self.members = {worker: Member(worker) for worker in range(setup.num_workers)}
        self.tally = Tally()
        self.outcome: Outcome | None = None
        self.reason = ""
        self.milestones = Milestones(setup.evaluation, setup.checkpoint, setup.plan.num_samples)
        self._first_join_s: float | None = None
        self._evaluated_version = self._measured_version = 0  # evaluation ordered, and its result received

    def handle(self, event: Event, now: float) -> list[Command]:
        """Take one event in; everything that follows from it comes out.

        Args:
            event: what happened.
            now: the engine's clock, seconds; never runs backwards.

        Returns:
            Commands, in the order to carry them out.
        """
        if isinstance(event, Evaluated):
            self.tally.history.append((event.at_s, event.committed, event.accuracy))
            self._measured_version = max(self._measured_version, event.version)
        if self.outcome is not None or isinstance(event, Evaluated):
            return []
        commands = self._react(event, now)
        for follow_up in (self._serve, self._mark):
            if self.outcome is None:
                commands += follow_up(now)
        return commands

    def speeds(self) -> dict[int, float]:
        """Measured samples/s of every worker that takes part."""
        return {m.worker: m.pace.samples_per_s for m in self.members.values() if m.pace and not m.record.dismissed}

    def next_deadline_s(self) -> float | None:
        """When ``TimePassed`` should come at the latest; None if nobody is awaited."""
        due = [when for member in self.members.values() if (when := self._deadline_s(member)) is not None]
        if self.tally.started_s is None and self._first_join_s is not None:
            due.append(self._first_join_s + self.setup.faults.join_s)
        return min(due, default=None)

    # --------------------------------------------------------------------------------------- events

    def _react(self, event: Event, now: float) -> list[Command]:
        match event:
            case WorkerJoined():
                return self._joined(event, now)
            case Pushed():
                return self._pushed(event, now)
            case Reported():
                return self._reported(event, now)
            case Reduced():
                return self._reduced(event, now)
            case WorkerLost():
                member = self.members.get(event.worker)
                current = member is not None and member.incarnation == event.incarnation
                return self._lost(member, event.reason, now) if member and current else []
            case TimePassed():
                return self._check_deadlines(now)
        assert isinstance(event, StopRequested)
        return self._finish(event.outcome, event.reason, now)

    def _forget(self, worker: int) -> None:
        """A life of the worker is over: what it alone had is gone."""
        return

    def _joined(self, event: WorkerJoined, now: float) -> list[Command]:
        self._forget(event.worker)
        member = self.members.setdefault(event.worker, Member(event.worker))
        if member.record.dismissed:
            return [Refuse(event.worker, member.incarnation, "its data has been dealt to the others")]
        if member.pace is None:
            self.supply.join(event.worker)
        self.supply.take_back(event.worker)
        member.join(event.samples_per_s, self.setup.session, self.model.version, now)
        self._first_join_s = now if self._first_join_s is None else self._first_join_s
        return []

    def _pushed(self, push: Pushed, now: float) -> list[Command]:
        member = self.members.get(push.worker)
        if member is None or push.incarnation != member.incarnation or not member.present:
            return [Refuse(push.worker, push.incarnation, "its leases went to others while it was silent")]
        if push.sequence <= member.sequence:
            return []
        lease = self.supply.commit(push.lease, push.samples)
        member.note(push, lease, self.model.version, now)
        self.tally.note(lease, push.busy_s, self._bytes_for(lease))
        self._take_in(push, lease)
        return []

    def _bytes_for(self, lease: Lease) -> int:
        """What the weights that a lease leads to weigh on their way."""
        return self.setup.sizes.push

    @abstractmethod
    def _take_in(self, push: Pushed, lease: Lease) -> None:
        """Account for what a push brought beyond the samples, which are committed."""

    def _reported(self, report: Reported, now: float) -> list[Command]:
        """Take in weights that were asked for; where a server has them all, nobody is asked."""
        return []

    def _reduced(self, event: Reduced, now: float) -> list[Command]:
        """Take in what a team has summed; only one that was told to does."""
        return []

    def _lost(self, member: Member, reason: str, now: float) -> list[Command]:
        """Return the worker's leases; start it anew, or give it up when that has been tried often enough."""
        self._forget(member.worker)
        if member.record.dismissed:
            return []
        self.supply.take_back(member.worker)
        member.leave(now)
        if member.record.replaced < self.setup.faults.restarts:
            member.record.replaced += 1
            return [Replace(member.worker, member.incarnation, reason)]
        member.record.dismissed = True
        if member.pace is not None:
            self.supply.leave(member.worker, self.speeds())
        if not any(other.expected(self.tally.started_s) for other in self.members.values()):
            return self._finish("failed", f"no worker is left, the last one because {reason}", now)
        return [Dismiss(member.worker, reason)]

    def _check_deadlines(self, now: float) -> list[Command]:
        commands: list[Command] = []
        for member in list(self.members.values()):
            if (due := self._deadline_s(member)) is not None and now >= due:
                commands += self._lost(member, f"it was silent for {now - member.heard_s:.1f} s", now)
        return commands

    def _deadline_s(self, member: Member) -> float | None:
        return member.deadline_s(self.supply.held(member.worker), self.tally.started_s, self.setup.faults)

    # -------------------------------------------------------------------------------------- serving

    @abstractmethod
    def _serve(self, now: float) -> list[Command]:
        """Grant leases to whoever waits, and end when every sample is committed."""

    def _started(self, now: float) -> bool:
        """Whether training has begun: once all workers have joined, or have been waited for long enough."""
        if self.tally.started_s is None and self._first_join_s is not None:
            missing = any(not m.present and not m.record.dismissed for m in self.members.values())
            if not missing or now >= self._first_join_s + self.setup.faults.join_s:
                self.tally.started_s = now
        return self.tally.started_s is not None

    # ------------------------------------------------------------------------------------ milestones

    @abstractmethod
    def _mark(self, now: float) -> list[Command]:
        """Order an evaluation or a checkpoint if one is due and the global weights are what the ledger says."""

    def _evaluate(self, now: float) -> Evaluate:
        self._evaluated_version = version = self.model.version
        return Evaluate(version, self._learned_from(), self.tally.elapsed_s(now), self.model.average)

    def _learned_from(self) -> int:
        """The samples that the global weights know of."""
        return self.supply.ledger.committed - sum(lease.size for lease in self._undone())

    def _undone(self) -> list[Lease]:
        """Commits that the global weights know nothing of, oldest first; where a server merges, there are none."""
        return []

    def _finish(self, outcome: Outcome, reason: str, now: float) -> list[Command]:
        for worker in self.members:
            self.supply.take_back(worker)
        self.outcome, self.reason, self.tally.ended_s = outcome, reason, now
        last = [self._evaluate(now)] if self.model.version > self._evaluated_version else []
        return [*last, SaveCheckpoint(self.model.version), Finish(outcome, reason)]

    # ----------------------------------------------------------------------------------- checkpoints

    def snapshot(self, now: float) -> dict[str, Any]:
        """Everything that a new coordinator needs to go on, as a tree of arrays and scalars.

        Args:
            now: the engine's clock, seconds.
        """
        return {
            "model": self.model.snapshot(),
            "supply": self.supply.snapshot(self._undone()),
            "members": [member.snapshot() for member in self.members.values()],
            "milestones": self.milestones.snapshot(),
            "tally": self.tally.snapshot(now),
            "measured_version": self._measured_version,
        }

    @classmethod
    def restore(cls, setup: Setup, tree: dict[str, Any], now: float) -> Self:
        """Build the coordinator that ``snapshot`` described; all workers have yet to join again.

        Args:
            setup: what is fixed, with a new session number.
            tree: the snapshot.
            now: the engine's clock, seconds.
        """
        coordinator = cls(setup, None)
        coordinator.model.resume(tree["model"])
        coordinator.supply.resume(tree["supply"])
        coordinator.members = {member["worker"]: Member.restore(member) for member in tree["members"]}
        coordinator.milestones.resume(tree["milestones"])
        coordinator.tally = Tally.restore(tree["tally"], now)
        coordinator._evaluated_version = coordinator._measured_version = tree["measured_version"]
        return coordinator
