"""The coordinator: hears events, keeps samples, weights and workers in step, and orders what happens next.

Pure: ``handle(event, now)`` is all there is. Engines carry the messages and the clock; nothing here waits, draws a
random number or touches a file, so one sequence of events always gives the same commands.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any

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
    Refuse,
    Replace,
    SaveCheckpoint,
    Send,
    StopRequested,
    TimePassed,
    Vector,
    WorkerJoined,
    WorkerLost,
)
from bptcnn.outer.milestones import CheckpointConfig, EvaluationConfig, Milestones
from bptcnn.outer.pace import FaultConfig
from bptcnn.outer.rules import Contribution, Peer, Strategy
from bptcnn.outer.supply import Supply, by_worker
from bptcnn.outer.tally import Tally


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
        vector_bytes: size of one weight vector on the wire.
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
    vector_bytes: int
    session: int = 0

    @property
    def leases_ahead(self) -> int:
        """Leases a worker holds beyond the one it trains, so that it need not wait for an answer."""
        return int(self.exchange.overlap)


class Coordinator:
    """The state of the outer layer.

    Args:
        setup: what is fixed.
        weights: W(0), float32 [num_weights]; None to simulate timing only.
    """

    def __init__(self, setup: Setup, weights: Vector | None) -> None:
        self.setup = setup
        self.model = GlobalModel(setup.strategy, weights)
        self.supply = Supply(setup.plan, setup.allocation, timed=setup.strategy.timed)
        self.members = {worker: Member(worker) for worker in range(setup.num_workers)}
        self.tally = Tally()
        self.outcome: Outcome | None = None
        self.reason = ""
        self._rounds: deque[set[int]] = deque()  # leases of the round under way, and of the one drawn ahead
        self._milestones = Milestones(setup.evaluation, setup.checkpoint, setup.plan.num_samples)
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
            case WorkerLost():
                member = self.members.get(event.worker)
                current = member is not None and member.incarnation == event.incarnation
                return self._lost(member, event.reason, now) if member and current else []
            case TimePassed():
                return self._check_deadlines(now)
        assert isinstance(event, StopRequested)
        return self._finish(event.outcome, event.reason, now)

    def _joined(self, event: WorkerJoined, now: float) -> list[Command]:
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
        self.tally.note(lease, push.busy_s, self.setup.vector_bytes)
        self.model.add(Contribution(push.worker, push.delta, push.base_version, lease.size, push.accuracy))
        if not self.model.synchronous:
            self._merge()
        return []

    def _lost(self, member: Member, reason: str, now: float) -> list[Command]:
        """Return the worker's leases; start it anew, or give it up when that has been tried often enough."""
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
            due = self._deadline_s(member)
            if due is not None and now >= due:
                commands += self._lost(member, f"it was silent for {now - member.heard_s:.1f} s", now)
        return commands

    def _deadline_s(self, member: Member) -> float | None:
        return member.deadline_s(self.supply.held(member.worker), self.tally.started_s, self.setup.faults)

    # -------------------------------------------------------------------------------------- serving

    def _serve(self, now: float) -> list[Command]:
        """Complete the round, grant leases to whoever waits, and end when every sample is committed."""
        if not self._started(now):
            return []
        if self.model.synchronous and not self._round_over():
            return []
        if self.model.waiting:
            self._merge()
        if self.supply.exhausted:
            return self._finish("finished", "every sample is committed", now)
        waiting = [member for member in self.members.values() if member.awaiting]
        leases = by_worker(self._draw(waiting))
        answered = [member for member in waiting if self.supply.held(member.worker)]
        return [self._send(member, leases.get(member.worker, []), now) for member in answered]

    def _round_over(self) -> bool:
        """Whether nobody is awaited any more in the round under way; the next one begins then."""
        open_ = {lease.id for lease in self.supply.ledger.outstanding()}
        if self._rounds and self._rounds[0] & open_:
            return False
        while self._rounds and not self._rounds[0] & open_:
            self._rounds.popleft()
        return True

    def _started(self, now: float) -> bool:
        """Whether training has begun: once all workers have joined, or have been waited for long enough."""
        if self.tally.started_s is None and self._first_join_s is not None:
            missing = any(not m.present and not m.record.dismissed for m in self.members.values())
            if not missing or now >= self._first_join_s + self.setup.faults.join_s:
                self.tally.started_s = now
        return self.tally.started_s is not None

    def _draw(self, members: list[Member]) -> list[Lease]:
        """Fill up these workers' leases: a round draws together, asynchronous workers one by one."""
        leases: list[Lease] = []
        for depth in range(1 + self.setup.leases_ahead):
            short = {m.worker: m.incarnation for m in members if len(self.supply.held(m.worker)) <= depth}
            turns = [short] if self.model.synchronous else [{worker: life} for worker, life in short.items()]
            drawn = [lease for turn in turns for lease in self.supply.draw(turn, self.speeds())]
            if self.model.synchronous and drawn:
                self._join_round(depth, drawn)
            leases += drawn
        return leases

    def _join_round(self, depth: int, leases: list[Lease]) -> None:
        """Await these leases in the round under way, or in one after it."""
        while len(self._rounds) <= depth:
            self._rounds.append(set())
        self._rounds[depth].update(lease.id for lease in leases)

    def _send(self, member: Member, leases: list[Lease], now: float) -> Send:
        member.heard_s = now
        member.awaiting, member.base_version = False, self.model.version
        self.tally.bytes_pulled += self.setup.vector_bytes
        return Send(member.worker, member.incarnation, self.model.version, self.model.weights, tuple(leases))

    def _merge(self) -> None:
        present = [member for member in self.members.values() if member.present]
        self.model.merge({m.worker: Peer(m.base_version, m.record.accuracy) for m in present})

    # ------------------------------------------------------------------------------------ milestones

    def _mark(self, now: float) -> list[Command]:
        """Order an evaluation or a checkpoint if one is due; a round under way waits until it is merged."""
        if self.model.waiting or self.tally.started_s is None:
            return []
        passed = self._milestones.evaluate(self.supply.ledger.committed)
        commands: list[Command] = [self._evaluate(now)] if passed else []
        return [*commands, SaveCheckpoint(self.model.version)] if self._milestones.save(now) else commands

    def _evaluate(self, now: float) -> Evaluate:
        model, committed = self.model, self.supply.ledger.committed
        self._evaluated_version = model.version
        return Evaluate(model.version, committed, self.tally.elapsed_s(now), model.weights)

    def _finish(self, outcome: Outcome, reason: str, now: float) -> list[Command]:
        if self.model.waiting:
            self._merge()
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
            "supply": self.supply.snapshot(),
            "members": [member.snapshot() for member in self.members.values()],
            "milestones": self._milestones.snapshot(),
            "tally": self.tally.snapshot(now),
            "measured_version": self._measured_version,
        }

    @classmethod
    def restore(cls, setup: Setup, tree: dict[str, Any], now: float) -> Coordinator:
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
        coordinator._milestones.resume(tree["milestones"])
        coordinator.tally = Tally.restore(tree["tally"], now)
        coordinator._evaluated_version = coordinator._measured_version = tree["measured_version"]
        return coordinator
