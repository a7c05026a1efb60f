"""Exchange without a server: workers send their weights to one another, the coordinator keeps the books.

Each lease ends with a message to a worker that was drawn when the lease was granted, so a sample counts when what was
learned from it is in another worker's hands. The global weights are a mean that the coordinator asks the workers for
when it wants to measure, to save or to end. In between it remembers which commits they do not know of: a checkpoint
leaves those out, and should all workers die at once they are trained again.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from bptcnn.outer.coordinator import Coordinator, Setup
from bptcnn.outer.ledger import SHARED
from bptcnn.outer.members import Member
from bptcnn.outer.messages import (
    Command,
    Lease,
    Outcome,
    Pushed,
    Recipient,
    Reported,
    SaveCheckpoint,
    Send,
    Vector,
)
from bptcnn.outer.rules import Contribution
from bptcnn.outer.rules.gossip import Peers
from bptcnn.outer.supply import by_worker

GOSSIP = 0x60551F
"""Seeds the draws of this module apart from all others."""

STANDSTILL = 3
"""What is missing from the mean is lost once so many collections in a row did not bring it."""


@dataclass
class Collection:
    """The workers' weights, being asked for.

    Attributes:
        expected: workers that have yet to report.
        since: what each one committed after it was asked; whoever is in here was asked.
        reports: what has come in.
    """

    expected: set[int]
    since: dict[int, list[Lease]] = field(default_factory=dict)
    reports: dict[int, Contribution] = field(default_factory=dict)


class GossipCoordinator(Coordinator):
    """Says who sends to whom, and when all are asked for their weights; see ``Coordinator`` for the arguments."""

    def __init__(self, setup: Setup, weights: Vector | None) -> None:
        super().__init__(setup, weights)
        assert isinstance(setup.strategy, Peers)
        self._rule = setup.strategy
        self._holders: set[int] = set()  # workers with weights of their own, or with a message of such a one coming
        self._founders: dict[int, float] = {}  # who is about to get the global weights, and the mass to go with them
        self._uncollected: list[Lease] = []  # committed, but not in the global weights
        self._collection: Collection | None = None
        self._collected_mass, self._standstill = 0.0, 0
        self._evaluation_due = self._checkpoint_due = False
        self._marked_version = 0

    # --------------------------------------------------------------------------------------- events

    def _forget(self, worker: int) -> None:
        """What this life of the worker held is gone: its mass too, so that the mean is one of the others."""
        self._holders.discard(worker)
        self._founders.pop(worker, None)
        if self._collection is not None:
            self._collection.expected.discard(worker)
            self._collection.reports.pop(worker, None)

    def _bytes_for(self, lease: Lease) -> int:
        ways = 2 if self._rule.answered else 1
        return 0 if lease.to is None else ways * self.setup.sizes.push

    def _take_in(self, push: Pushed, lease: Lease) -> None:
        self._uncollected.append(lease)
        if self._collection is not None and push.worker in self._collection.since:
            self._collection.since[push.worker].append(lease)

    def _reported(self, report: Reported, now: float) -> list[Command]:
        member = self.members.get(report.worker)
        if member is None or report.incarnation != member.incarnation or not member.present:
            return []
        member.heard_s = now
        member.awaiting = member.awaiting or not self.supply.held(member.worker)
        if self._collection is not None and report.worker in self._collection.since:
            self._collection.expected.discard(report.worker)
            quality = member.record.accuracy or 0.0
            self._collection.reports[report.worker] = Contribution(
                report.worker, report.weights, self.model.version, 0, quality, report.mass
            )
            self._conclude()
        return []

    def _deadline_s(self, member: Member) -> float | None:
        """Also of a worker that has nothing to do but to report."""
        collection = self._collection
        asked = collection is not None and member.worker in collection.expected & collection.since.keys()
        if asked and member.pace is not None and not self.supply.held(member.worker):
            return member.heard_s + member.pace.patience_s(self.setup.plan.batch_size, self.setup.faults)
        return super()._deadline_s(member)

    # -------------------------------------------------------------------------------------- serving

    def _serve(self, now: float) -> list[Command]:
        """Grant leases to whoever waits and has weights; when all is committed, ask for these, and end."""
        if not self._started(now):
            return []
        self._conclude()
        self._found()
        if self.supply.exhausted:
            if not self._uncollected and self._collection is None:
                return self._finish("finished", "every sample is committed", now)
            self._collect()
        greetings = self._greetings()
        waiting = [m for m in self.members.values() if m.awaiting and m.worker in self._holders]
        leases = by_worker([lease for member in waiting for lease in self._draw(member)])
        answered = [m for m in waiting if self.supply.held(m.worker) or self._asks(m) or m.worker in greetings]
        return [self._send(m, leases.get(m.worker, []), greetings.get(m.worker), now) for m in answered]

    def _found(self) -> None:
        """If nobody has weights, let all who are there begin with the global ones; what was learned since is lost."""
        if any(self.members[worker].present for worker in self._holders):
            return
        self.supply.revoke(self._undone())
        self._uncollected, self._collection = [], None
        present = [worker for worker, member in self.members.items() if member.present]
        self._holders = set(present)
        steps = {worker: self.setup.plan.step_size(worker, self.speeds()) for worker in present}
        self._founders = {worker: step / sum(steps.values()) for worker, step in steps.items()}

    def _greetings(self) -> dict[int, int]:
        """Who sends half of its weights to whom, as that one has none yet."""
        free = [m.worker for m in self.members.values() if m.awaiting and m.worker in self._holders]
        new = [m.worker for m in self.members.values() if m.present and m.worker not in self._holders]
        greetings = dict(zip(free, new, strict=False))
        self._holders |= set(greetings.values())
        return greetings

    def _draw(self, member: Member) -> list[Lease]:
        """Fill up a worker's leases: each as long as chance has it until the next message."""
        leases: list[Lease] = []
        while len(self.supply.held(member.worker)) <= self.setup.leases_ahead:
            limit, to = self._next_message(member.worker)
            drawn = self.supply.draw({member.worker: member.incarnation}, self.speeds(), limit=limit, to=to)
            if not drawn:
                break
            leases += drawn
        return leases

    def _next_message(self, worker: int) -> tuple[int | None, Recipient | None]:
        """After how many samples the worker sends its weights, and to whom.

        What an exchange moves keeps masses in proportion to steps: then each sample counts as much as any other.
        """
        others = [other for other in sorted(self._holders - {worker}) if self._gives_back(self.members[other])]
        speeds, plan = self.speeds(), self.setup.plan
        steps = {other: plan.step_size(other, speeds) for other in speeds}
        paces = {other: speed / steps[other] for other, speed in speeds.items()}  # steps/s
        rate = self._rule.message_rate(paces[worker] * len(paces) / sum(paces.values()))
        if not rate or not others:
            return None, None
        rng = np.random.default_rng((plan.seed, GOSSIP, self.supply.ledger.next_id))
        to = int(rng.choice(others))
        return int(rng.geometric(rate)) * steps[worker], Recipient(to, steps[to] / (steps[worker] + steps[to]))

    def _gives_back(self, member: Member) -> bool:
        """Whether mass that goes there comes back some day: who has nothing left to train on only answers."""
        begun = member.worker not in self._founders and member.record.pushes > 0
        over = begun and member.awaiting and not self.supply.held(member.worker)
        return member.present and (self._rule.answered or not over)

    def _send(self, member: Member, leases: list[Lease], greet: int | None, now: float) -> Send:
        member.heard_s, member.awaiting, member.base_version = now, False, self.model.version
        mass, asked = self._founders.pop(member.worker, None), self._asks(member)
        if self._collection is not None and asked:
            self._collection.since[member.worker] = []
        weights = None if mass is None else self.model.weights
        self.tally.bytes_pulled += 0 if mass is None else self.setup.sizes.full
        self.tally.bytes_pushed += 0 if greet is None else self.setup.sizes.push
        report = asked or not self.supply.held(member.worker)  # an answer that a worker without work is free again
        version = self.model.version
        return Send(member.worker, member.incarnation, version, weights, tuple(leases), mass, report, greet)

    # ----------------------------------------------------------------------------------- collection

    def _collect(self) -> None:
        """Begin to ask for weights, unless that is under way."""
        if self._collection is None:
            self._collection = Collection({w for w in self._holders - self._founders.keys() if self.members[w].present})

    def _asks(self, member: Member) -> bool:
        collection = self._collection
        return collection is not None and member.worker in collection.expected - collection.since.keys()

    def _conclude(self) -> None:
        """Make the global weights once all have reported, and remember what they do not know of."""
        collection = self._collection
        if collection is None or collection.expected:
            return
        self._collection = None
        if not any(report.mass for report in collection.reports.values()):
            self._holders.clear()  # who had weights has died before sharing them
            return
        for contribution in collection.reports.values():
            if contribution.mass:  # else its first weights are still on their way
                self.model.add(contribution)
        self.tally.bytes_pushed += len(collection.reports) * self.setup.sizes.full
        later = {lease.id for leases in collection.since.values() for lease in leases}
        new = self._holders - collection.since.keys()
        self._uncollected = [lease for lease in self._uncollected if lease.id in later or lease.worker in new]
        again = self._misses_messages(sum(report.mass for report in collection.reports.values()))
        self.model.merge({}, None if again else self._learned_from())
        if again:
            self._collect()

    def _misses_messages(self, mass: float) -> bool:
        """Whether to ask again, as at the end messages may be under way: what they carry is missing from the mean.

        Who died may have taken it along, so that it never comes. But an answer as large as its message leaves the mass
        as it was, twice: while the one is under way, then the other.
        """
        self._standstill = self._standstill + 1 if mass == self._collected_mass else 0
        self._collected_mass = mass
        missing = self._rule.message_rate(1.0) > 0 and mass < 1 - 1e-9
        return self.supply.exhausted and missing and self._standstill < STANDSTILL

    # ----------------------------------------------------------------------------------- milestones

    def _mark(self, now: float) -> list[Command]:
        """Order what is due if the global weights are new, else see to it that they will be."""
        if self.tally.started_s is None:
            return []
        self._evaluation_due |= self.milestones.evaluate(self.supply.ledger.committed)
        self._checkpoint_due |= self.milestones.save(now)
        if not (self._evaluation_due or self._checkpoint_due):
            return []
        if self._collection is not None or (self._uncollected and self.model.version == self._marked_version):
            self._collect()
            return []
        commands: list[Command] = [self._evaluate(now)] if self._evaluation_due else []
        commands += [SaveCheckpoint(self.model.version)] if self._checkpoint_due else []
        self._evaluation_due = self._checkpoint_due = False
        self._marked_version = self.model.version
        return commands

    def _undone(self) -> list[Lease]:
        """Commits that the global weights know nothing of; of workers given up, they go to all."""
        gone = {worker for worker, member in self.members.items() if member.record.dismissed}
        return [replace(lease, owner=SHARED) if lease.owner in gone else lease for lease in self._uncollected]

    def _finish(self, outcome: Outcome, reason: str, now: float) -> list[Command]:
        self.supply.revoke(self._undone())
        self._uncollected = []
        return super()._finish(outcome, reason, now)
