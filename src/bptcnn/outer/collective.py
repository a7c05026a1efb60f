"""Rounds that the workers sum among themselves: the coordinator says who sums with whom, and gets the sum.

A round ends in three moves. Each worker pushes its account, without weights. When all of the round have pushed, they
are told to sum their differences, a team with one order for each. The first of the team hands the sum in; that moment
is the merge. Whoever has the sum goes on from it, all others get the new weights from the server. If the sum is lost,
as one of the team died in it, the others, who still have their differences, sum again; the dead one's samples go back.
"""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from typing import TypeAlias

from bptcnn.outer.central import CentralCoordinator
from bptcnn.outer.coordinator import Setup
from bptcnn.outer.members import Member
from bptcnn.outer.messages import Command, Lease, Outcome, Pushed, Reduce, Reduced, Refuse, Send, Vector
from bptcnn.outer.pace import rhythm
from bptcnn.outer.rules import Contribution

Team: TypeAlias = tuple[tuple[int, int], ...]
"""Those who sum: workers and their incarnations."""

ATTEMPTS = 5
"""How often a team may fail to sum a round, before the run ends."""

ATTEMPTS_OF_A_SESSION = 1_000_000_000
"""Attempts of session s are numbered from s times this, so that no two sessions share a number."""

MOST_TEAMS = 16
"""Teams that stay connected, those that summed last: where shares are small, not all workers are in each round."""

HISTORY = 32
"""Sums whose durations are remembered."""


class CollectiveCoordinator(CentralCoordinator):
    """Rounds without weights on the way to a server; see ``Coordinator`` for the arguments."""

    def __init__(self, setup: Setup, weights: Vector | None) -> None:
        super().__init__(setup, weights)
        self._learned: dict[int, tuple[Contribution, Lease]] = {}  # by worker: committed, but in no sum yet
        self._attempt = setup.session * ATTEMPTS_OF_A_SESSION
        self._failures, self._reason = 0, ""
        self._team: Team = ()
        self._connected: dict[Team, int] = {}  # teams that have summed, and since which attempt
        self._awaited: set[int] = set()  # who has yet to say what became of the sum
        self._current: set[int] = set()  # who has the sum that the global weights came from
        self._ordered_s = 0.0
        self._durations: deque[float] = deque(maxlen=HISTORY)

    # --------------------------------------------------------------------------------------- events

    def _forget(self, worker: int) -> None:
        """What this life of the worker learned in the round is gone, unless it is in the sum already."""
        if worker in self._learned:
            _, lease = self._learned.pop(worker)
            self.supply.revoke([lease])
        self._awaited.discard(worker)
        self._current.discard(worker)
        self._connected = {team: since for team, since in self._connected.items() if worker not in dict(team)}

    def _bytes_for(self, lease: Lease) -> int:
        return 0

    def _take_in(self, push: Pushed, lease: Lease) -> None:
        contribution = Contribution(push.worker, None, push.base_version, lease.size, push.accuracy)
        self._learned[push.worker] = contribution, lease

    def _reduced(self, event: Reduced, now: float) -> list[Command]:
        member = self.members.get(event.worker)
        if member is None or event.incarnation != member.incarnation or not member.present:
            return [Refuse(event.worker, event.incarnation, "its leases went to others while it was silent")]
        if event.attempt != self._attempt or event.worker not in self._awaited:
            return []
        self._awaited.discard(event.worker)
        member.heard_s, member.awaiting = now, True
        if not event.succeeded:
            self._reason = event.reason
            self._connected.pop(self._team, None)  # what was broken is not used again
            return []
        self._current.add(event.worker)
        first, complete = self._team[0][0], self._learned.keys() == dict(self._team).keys()
        if event.worker == first and complete:  # else it holds what somebody learned whose samples have gone back
            self._durations.append(now - self._ordered_s)
            self._merge_sum(event.delta)
        return []

    def _merge_sum(self, delta: Vector | None) -> None:
        """The sum is the round's one contribution; each part of it has its factor already."""
        num_samples = sum(lease.size for lease in self._undone())
        first, _ = self._learned[self._team[0][0]]
        self.model.add(replace(first, delta=delta, num_samples=num_samples))
        self._learned, self._failures = {}, 0
        self._merge()
        ring = 2 * (len(self._team) - 1) * self.setup.sizes.full  # each sends, and gets, so much over their number
        self.tally.bytes_pushed += ring + self.setup.sizes.full
        self.tally.bytes_pulled += ring

    def _deadline_s(self, member: Member) -> float | None:
        """Also of a worker that is to sum."""
        if member.worker in self._awaited:
            return member.heard_s + self._patience_s()
        return super()._deadline_s(member)

    def _patience_s(self) -> float:
        """How long a sum may take, by what the last ones took, as for leases."""
        faults = self.setup.faults
        if not self._durations:
            return faults.first_s + faults.patience_s
        centre, spread = rhythm(self._durations)
        return faults.slack * (centre + faults.mads * spread) + faults.patience_s

    # -------------------------------------------------------------------------------------- serving

    def _serve(self, now: float) -> list[Command]:
        """When the round is complete, have it summed; when it is, begin the next, or end."""
        if self._awaited or not self._started(now) or not self._round_over():
            return []
        return self._sum(now) if self._learned else super()._serve(now)

    def _sum(self, now: float) -> list[Command]:
        """Tell all who have pushed to sum; after an attempt that has failed, those who are left."""
        workers = tuple(sorted(self._learned))
        team = tuple((worker, self.members[worker].incarnation) for worker in workers)
        self._failures = self._failures + 1 if self._failures and team == self._team else 1  # until the sum is here
        if self._failures > ATTEMPTS:
            why = f"{ATTEMPTS} times the workers did not reach one another to sum their weights ({self._reason})"
            return self._finish("failed", f"{why}, which local-sgd does without", now)
        self._attempt += 1
        since = self._connected.pop(team, self._attempt)
        self._connected = dict([*self._connected.items(), (team, since)][-MOST_TEAMS:])
        self._team, self._current, self._awaited, self._ordered_s = team, set(), set(workers), now
        for worker in workers:
            self.members[worker].heard_s, self.members[worker].awaiting = now, False
        contributions = [self._learned[worker][0] for worker in workers]
        scales = self.setup.strategy.scales(contributions, self._peers(), self.model.version)
        patience_s = self._patience_s() / 2  # so that who waits for somebody is not taken for silent
        return [
            Reduce(worker, incarnation, self._attempt, workers, since, scale, patience_s)
            for (worker, incarnation), scale in zip(team, scales, strict=True)
        ]

    def _send(self, member: Member, leases: list[Lease], now: float) -> Send:
        """All weights, but to those who have the sum."""
        answer = super()._send(member, leases, now)
        return replace(answer, weights=None, summed=True) if member.worker in self._current else answer

    def _pulls(self, member: Member) -> int:
        return 0 if member.worker in self._current else self.setup.sizes.full

    # ----------------------------------------------------------------------------------- milestones

    def _mark(self, now: float) -> list[Command]:
        return [] if self._learned else super()._mark(now)

    def _undone(self) -> list[Lease]:
        """Commits that are in no sum yet."""
        return [lease for _, lease in self._learned.values()]

    def _finish(self, outcome: Outcome, reason: str, now: float) -> list[Command]:
        self.supply.revoke(self._undone())
        self._learned = {}
        return super()._finish(outcome, reason, now)
