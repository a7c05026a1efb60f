"""A stage for the pure coordinator: it plays engine, clock and workers, with faults, and keeps books of its own.

Time is virtual and nothing is random, so a story always plays the same. Workers follow the protocol of
``bptcnn.outer.messages``; after every event the stage re-checks what must hold at any moment.
"""

from __future__ import annotations

import heapq
import itertools
import json
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from math import ceil, inf
from typing import Any

import numpy as np

from bptcnn.outer.allocation import Allocation, Dynamic, ExchangeConfig, Idpa, Plan, Uniform
from bptcnn.outer.coordination import begin, restore
from bptcnn.outer.coordinator import Coordinator, Setup
from bptcnn.outer.ledger import SHARED
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
    Reduce,
    Reduced,
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
from bptcnn.outer.milestones import CheckpointConfig, EvaluationConfig
from bptcnn.outer.pace import FaultConfig
from bptcnn.outer.rules import Agwu, Sgwu, Strategy
from bptcnn.wire import Sizes

ALLOCATIONS: list[Allocation] = [Uniform(), Idpa(), Dynamic()]
RULES: list[Strategy] = [Agwu(), Sgwu()]
PAIRS = [(allocation, rule) for allocation in ALLOCATIONS for rule in RULES]
PAIR_NAMES = [f"{allocation.name}-{rule.name}" for allocation, rule in PAIRS]

FAULTS = FaultConfig(patience_s=2.0, first_s=4.0, restarts=2, join_s=30.0)


def a_setup(
    allocation: Allocation,
    rule: Strategy,
    *,
    num_samples: int = 480,
    epochs: int = 3,
    batch_size: int = 8,
    exchange: ExchangeConfig | None = None,
    num_workers: int = 4,
    faults: FaultConfig = FAULTS,
    checkpoint_s: float = 5.0,
    evaluate_every: float = 0.5,
    seed: int = 0,
) -> Setup:
    """Everything fixed for a small run."""
    exchange = exchange or ExchangeConfig(every=2)
    return Setup(
        plan=Plan(num_samples, epochs, batch_size, exchange.every, seed),
        allocation=allocation,
        strategy=rule.settled(num_workers),
        exchange=exchange,
        faults=faults,
        evaluation=EvaluationConfig(every=evaluate_every),
        checkpoint=CheckpointConfig(every_s=checkpoint_s),
        num_workers=num_workers,
        sizes=Sizes(full=32, push=32, pull=32),
    )


def saved_and_loaded(tree: Any) -> Any:
    """A snapshot as it comes back from disk: scalars through JSON, arrays as fresh copies."""
    arrays: list[np.ndarray] = []

    def keep(node: object) -> dict[str, int]:
        assert isinstance(node, np.ndarray), f"{node!r} is neither JSON nor an array"
        arrays.append(node.copy())
        return {"array": len(arrays) - 1}

    text = json.dumps(tree, default=keep)
    return json.loads(text, object_hook=lambda node: arrays[node["array"]] if node.keys() == {"array"} else node)


class Quadratic:
    """A model that fits in the head: ``mean_i |w - target_i|^2 / 2``, least at the mean of the targets."""

    def __init__(self, num_samples: int, *, lr: float = 0.05, batch_size: int = 8, spread: float = 0.1) -> None:
        rng = np.random.default_rng(7)
        self.start = np.zeros(4, np.float32)
        self._targets = (np.arange(1, 5) + spread * rng.standard_normal((num_samples, 4))).astype(np.float32)
        self._lr, self._batch_size = np.float32(lr), batch_size
        self.optimum = self._targets.mean(axis=0)

    def train(self, weights: Vector, indices: np.ndarray) -> Vector:
        """Plain SGD over the samples in order."""
        for first in range(0, len(indices), self._batch_size):
            batch = self._targets[indices[first : first + self._batch_size]]
            weights = weights - self._lr * (weights - batch.mean(axis=0))
        return weights

    def distance(self, weights: Vector) -> float:
        """How far from the optimum."""
        return float(np.linalg.norm(weights - self.optimum))


def _fitting(lease: Lease, speed: float) -> int:
    """Samples of a lease that there is time for."""
    return lease.size if lease.span_s == inf else max(1, min(lease.size, round(lease.span_s * speed)))


@dataclass(eq=False)
class Life:
    """One process of one worker, from its start to its end."""

    worker: int
    speed: float
    incarnation: int
    over: bool = False
    frozen_until: float = 0.0
    leases: deque[Lease] = field(default_factory=deque)
    training: bool = False
    done: bool = False
    samples: int = 0
    busy_s: float = 0.0
    in_flight: bool = True
    sequence: int = 0
    base_version: int = 0
    base: Vector | None = None
    local: Vector | None = None
    pushed: Vector | None = None
    ahead: bool = False
    total: Vector | None = None


class Stage:
    """Plays a run.

    Args:
        setup: what is fixed.
        speeds: samples/s of each worker.
        calibrated: what each says when it joins; its speed if not given.
        delay_s: how long any message travels.
        detect_s: how long a death goes unnoticed.
        respawn_s: how long a replacement takes to join.
        problem: what is trained; None plays timing only.
        accuracy: Q of every push.
        twice: whether every push arrives twice.
        reachable: whether workers can sum.
        coordinator: a restored one, instead of a new one.
    """

    def __init__(
        self,
        setup: Setup,
        speeds: Sequence[float],
        *,
        calibrated: Sequence[float] | None = None,
        delay_s: float = 0.0,
        detect_s: float = 1.0,
        respawn_s: float = 2.0,
        problem: Quadratic | None = None,
        accuracy: float = 0.8,
        twice: bool = False,
        reachable: bool = True,
        coordinator: Coordinator | None = None,
    ) -> None:
        self.coordinator = coordinator or begin(setup, problem.start if problem else None)
        self.now = 0.0
        self.speeds = dict(enumerate(speeds))
        self.calibrated = dict(enumerate(calibrated or speeds))
        self.lives: dict[int, Life] = {}
        self.heard: list[tuple[float, Event]] = []
        self.ordered: list[tuple[float, Command]] = []
        self.trained: list[Lease] = []
        self.book: Counter[tuple[int, int]] = Counter()
        self.saved: tuple[Any, Counter[tuple[int, int]]] | None = None
        self.problem = problem
        self._delay_s, self._detect_s, self._respawn_s = delay_s, detect_s, respawn_s
        self._accuracy, self._twice, self.reachable = accuracy, twice, reachable
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._ticket = itertools.count()
        self._alarm_s = inf
        self._contents: dict[tuple[int, int], Lease] = {}
        self._sent: dict[int, tuple[Vector, Vector]] = {}
        self._unsummed: dict[int, Lease] = {}
        self._teams: dict[int, tuple[int, ...]] = {}
        self._parts: dict[int, dict[int, Vector | None]] = {}  # of each attempt to sum, by worker

    # ------------------------------------------------------------------------------------ playing

    def at(self, when: float, act: Callable[..., None], *arguments: Any) -> Stage:
        """Plan something for a moment."""
        heapq.heappush(self._queue, (max(when, self.now), next(self._ticket), lambda: act(*arguments)))
        return self

    def run(self, until: float = inf) -> Stage:
        """Play until the run is over, or until a moment."""
        while self._queue and self._queue[0][0] <= until and self.outcome is None:
            self.now, _, act = heapq.heappop(self._queue)
            act()
            assert len(self.heard) < 50_000, "it goes on for ever"
        if self.outcome is None and until < inf:
            self.now = max(self.now, until)
        return self

    def open(self) -> Stage:
        """Let all workers join at the start."""
        for worker in self.speeds:
            self.at(0.0, self.join, worker)
        return self

    @property
    def outcome(self) -> Outcome | None:
        return self.coordinator.outcome

    def tell(self, event: Event) -> list[Command]:
        """Hand an event to the coordinator, check what must always hold, and carry out its commands."""
        ledger, now = self.coordinator.supply.ledger, round(self.now, 6)
        before, version = ledger.committed, self.coordinator.model.version
        commands = self.coordinator.handle(event, now)
        self.heard.append((now, event))
        self.ordered += [(now, command) for command in commands]
        if isinstance(event, Pushed) and ledger.committed > before:
            lease = self._contents[event.incarnation, event.lease]
            lease = replace(lease, indices=lease.indices[: event.samples])
            self.trained.append(lease)
            self.book.update((lease.epoch, index) for index in lease.indices.tolist())
            if self.coordinator.setup.strategy.meets == "team":
                self._unsummed[event.worker] = lease
        if isinstance(event, Reduced) and self.coordinator.model.version > version:
            assert tuple(sorted(self._unsummed)) == self._teams[event.attempt], "a sum of others than those who count"
            self._unsummed = {}
        self._strike_out()
        if isinstance(event, WorkerJoined):
            life = self.lives[event.worker]
            life.incarnation = self.coordinator.members[event.worker].incarnation
        self.check()
        for command in commands:
            self._obey(command)
        self._set_alarm()
        return commands

    def _strike_out(self) -> None:
        """Samples that were trained by who is gone, and are in no sum yet, were not trained."""
        for worker, lease in list(self._unsummed.items()):
            member = self.coordinator.members[worker]
            if self.outcome is not None or not member.present or member.incarnation != lease.incarnation:
                self.book.subtract((lease.epoch, index) for index in self._unsummed.pop(worker).indices.tolist())

    def check(self) -> None:
        """What must hold after every event; the whole account now and then, and at the end."""
        ledger = self.coordinator.supply.ledger
        open_ = ledger.outstanding()
        assert ledger.issued == ledger.committed + ledger.returned + sum(lease.size for lease in open_)
        assert all(lease.size > 0 and lease.owner in (lease.worker, SHARED) for lease in open_)
        current = {worker: member.incarnation for worker, member in self.coordinator.members.items() if member.present}
        assert all(current.get(lease.worker) == lease.incarnation for lease in open_)
        if len(self.heard) % 8 == 0 or self.outcome is not None:
            account = ledger.account()
            assert (account.lost, account.duplicated) == (0, 0)
            assert account.committed == self.book.total()

    def settled(self, outcome: Outcome = "finished") -> bool:
        """Check the books after the end: they close, and a finished run trained everything exactly once."""
        assert self.outcome == outcome, f"{self.outcome} at {self.now} s"
        self.check()
        assert isinstance(self.ordered[-1][1], Finish)
        assert max(self.book.values(), default=1) <= 1
        for weights, copy in self._sent.values():
            assert np.array_equal(weights, copy), "weights that were sent have changed"
        if outcome == "finished":
            account = self.coordinator.supply.ledger.account()
            assert account.committed == self.coordinator.setup.plan.total == self.book.total()
            assert account.issued == account.committed + account.returned
        return True

    def commands(self, *kinds: type) -> list[Any]:
        """The commands of some kinds, in order."""
        return [command for _, command in self.ordered if isinstance(command, kinds)]

    # ------------------------------------------------------------------------------------- faults

    def join(self, worker: int, speed: float | None = None) -> None:
        """A process of a worker becomes ready, whatever became of the one before."""
        if speed is not None:
            self.speeds[worker] = self.calibrated[worker] = speed
        member = self.coordinator.members.get(worker)
        self._begin(Life(worker, self.speeds[worker], member.incarnation if member else 0))

    def kill(self, worker: int) -> None:
        """End a worker's process; the engine notices a little later."""
        life = self.lives.get(worker)
        if life is not None and not life.over:
            life.over = True
            self.at(self.now + self._detect_s, self._report, life)

    def freeze(self, worker: int, duration_s: float) -> None:
        """Stop a worker's process for a while; nobody can end it, and it goes on as if nothing had happened."""
        if worker in self.lives:
            self.lives[worker].frozen_until = self.now + duration_s

    def slow_down(self, worker: int, factor: float) -> None:
        """A machine gets slower for good, from its next lease on."""
        self.speeds[worker] /= factor
        if worker in self.lives:
            self.lives[worker].speed /= factor

    def stop(self, outcome: Outcome = "interrupted") -> None:
        """Somebody ends the run."""
        self.tell(StopRequested(outcome, "somebody asked"))

    def restart_server(self, survivors: bool = True) -> None:
        """The server dies and comes back from its newest checkpoint; workers live on unless ``survivors`` is False."""
        setup = replace(self.coordinator.setup, session=self.coordinator.setup.session + 1)
        if self.saved is None:
            self.coordinator, self.book = begin(setup, self.problem.start if self.problem else None), Counter()
        else:
            tree, book = self.saved
            self.coordinator, self.book = restore(setup, saved_and_loaded(tree), self.now), Counter(book)
        self._alarm_s, self._sent, self.trained, self._unsummed = inf, {}, [], {}
        for worker, life in self.lives.items():
            if life.over or not survivors or not life.leases:
                life.over = True
                self.at(self.now + self._respawn_s, self.join, worker)

    # --------------------------------------------------------------------------------- the engine

    def _obey(self, command: Command) -> None:
        match command:
            case Send():
                self._contents.update(((command.incarnation, lease.id), lease) for lease in command.leases)
                if command.weights is not None:
                    self._sent.setdefault(command.version, (command.weights, command.weights.copy()))
                life = self.lives[command.worker]
                assert life.incarnation == command.incarnation
                self.at(self.now + self._delay_s, self._receive, life, command)
            case Reduce():
                self._teams[command.attempt] = command.team
                self.at(self.now + self._delay_s, self._sum, self.lives[command.worker], command)
            case Replace():
                self._end(command.worker)
                self.at(self.now + self._respawn_s, self._respawn, Life(command.worker, 0.0, command.incarnation))
            case Dismiss():
                self._end(command.worker)
            case Refuse():
                self._turn_away(command)
            case Evaluate():
                self.at(self.now, self.tell, Evaluated(command.version, command.committed, command.at_s, 0.5))
            case SaveCheckpoint():
                self.saved = saved_and_loaded(self.coordinator.snapshot(self.now)), Counter(self.book)
            case Finish():
                assert self.coordinator.outcome == command.outcome

    def _end(self, worker: int) -> None:
        """End a process, if it can be reached."""
        life = self.lives.get(worker)
        if life is not None and life.frozen_until <= self.now:
            life.over = True

    def _respawn(self, life: Life) -> None:
        life.speed = self.speeds[life.worker]
        if self.coordinator.members[life.worker].incarnation == life.incarnation:
            self._begin(life)

    def _turn_away(self, command: Refuse) -> None:
        """A refused process ends; one that outlived a server's restart comes back as a newcomer."""
        life = self.lives.get(command.worker)
        if life is not None and life.incarnation == command.incarnation and not life.over:
            life.over = True
            member = self.coordinator.members.get(command.worker)
            if member is None or not (member.present or member.record.dismissed):
                self.at(self.now + self._respawn_s, self.join, command.worker)

    def _report(self, life: Life) -> None:
        self.tell(WorkerLost(life.worker, life.incarnation, "its process died"))

    def _set_alarm(self) -> None:
        due = self.coordinator.next_deadline_s()
        if due is not None and due < self._alarm_s and self.outcome is None:
            self._alarm_s = due
            self.at(due + 1e-6, self._ring)  # the engine's clock is rounded

    def _ring(self) -> None:
        self._alarm_s = inf
        self.tell(TimePassed())

    # ---------------------------------------------------------------------------------- a worker

    def _begin(self, life: Life) -> None:
        self.lives[life.worker] = life
        self.tell(WorkerJoined(life.worker, self.calibrated[life.worker]))

    def _receive(self, life: Life, command: Send) -> None:
        if life.over or life.incarnation != command.incarnation:
            return
        if command.weights is not None:
            self._fold(life, command.weights)
        elif command.summed and life.total is not None and life.base is not None:
            self._fold(life, life.base + life.total)
        life.total = None
        life.base_version, life.in_flight = command.version, False
        life.leases.extend(command.leases)
        self._advance(life)

    def _fold(self, life: Life, weights: Vector) -> None:
        """As ``bptcnn.inner.Exchange`` does it."""
        rule = self.coordinator.setup.strategy
        if life.local is None or life.base is None or life.pushed is None or not (life.ahead or rule.keeps_local):
            life.local = weights
        else:
            life.local = life.local + rule.correction(life.base, life.pushed, weights)
        life.base, life.pushed = weights, None

    def _advance(self, life: Life) -> None:
        """Push if there is something to push, then train on."""
        if life.done and not life.in_flight:
            lease = life.leases.popleft()
            life.done, life.in_flight, life.ahead, life.sequence = False, True, False, life.sequence + 1
            push = self._push(life, lease.id)
            for copy in range(1 + self._twice):
                self.at(self.now + self._delay_s * (1 + copy), self.tell, push)
        if not (life.training or life.done) and life.leases:
            life.training, life.samples = True, _fitting(life.leases[0], life.speed)
            life.busy_s = life.samples / life.speed
            self.at(self.now + life.busy_s, self._trained, life, life.incarnation)

    def _sum(self, life: Life, command: Reduce) -> None:
        """Take part in a sum: it is there when all take part, and lost when they do not in time."""
        if life.over or life.incarnation != command.incarnation:
            return
        if self.now < life.frozen_until:
            self.at(life.frozen_until, self._sum, life, command)
            return
        parts = self._parts.setdefault(command.attempt, {})
        parts[life.worker] = None if life.pushed is None else np.float32(command.scale) * life.pushed
        self.at(self.now + command.patience_s, self._give_up, life, command)
        if len(parts) == len(command.team) and self.reachable:
            total = None if self.problem is None else np.sum([parts[worker] for worker in command.team], axis=0)
            self._parts[command.attempt] = {}
            for worker in command.team:
                self.at(self.now + self._delay_s, self._summed, self.lives[worker], command, total)

    def _summed(self, life: Life, command: Reduce, total: Vector | None) -> None:
        if not life.over and self.now >= life.frozen_until:
            life.total = total
            delta = total if life.worker == command.team[0] else None
            self.at(
                self.now + self._delay_s,
                self.tell,
                Reduced(life.worker, life.incarnation, command.attempt, succeeded=True, delta=delta),
            )

    def _give_up(self, life: Life, command: Reduce) -> None:
        if not life.over and self.now >= life.frozen_until and life.worker in self._parts[command.attempt]:
            del self._parts[command.attempt][life.worker]
            self.tell(Reduced(life.worker, life.incarnation, command.attempt, False, None, "nobody came"))

    def _trained(self, life: Life, incarnation: int) -> None:
        if life.over or life.incarnation != incarnation:
            return
        if self.now < life.frozen_until:
            self.at(life.frozen_until, self._trained, life, incarnation)
            return
        life.training, life.done, life.ahead = False, True, True
        if self.problem is not None and life.local is not None:
            life.local = self.problem.train(life.local, life.leases[0].indices[: life.samples])
        self._advance(life)

    def _push(self, life: Life, lease: int) -> Pushed:
        delta = None
        if life.local is not None and life.base is not None:
            delta = life.pushed = self.coordinator.setup.strategy.outgoing(life.local, life.base)
            delta.flags.writeable = False
        steps = ceil(life.samples / self.coordinator.setup.plan.batch_size)
        return Pushed(
            worker=life.worker,
            incarnation=life.incarnation,
            sequence=life.sequence,
            lease=lease,
            base_version=life.base_version,
            steps=steps,
            samples=life.samples,
            busy_s=life.busy_s,
            loss=1.0,
            accuracy=self._accuracy,
            delta=delta,
        )
