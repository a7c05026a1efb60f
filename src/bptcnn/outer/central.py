"""Exchange through a server: it merges what workers push, one by one or in rounds, and answers with the result."""

from __future__ import annotations

from collections import deque

from bptcnn.outer.coordinator import Coordinator, Setup
from bptcnn.outer.members import Member
from bptcnn.outer.messages import Command, Lease, Outcome, Pushed, SaveCheckpoint, Send, Vector
from bptcnn.outer.pace import shares
from bptcnn.outer.rules import Contribution, Peer
from bptcnn.outer.supply import by_worker


class CentralCoordinator(Coordinator):
    """Merges as the rule says and answers with the new weights; see ``Coordinator`` for the arguments."""

    def __init__(self, setup: Setup, weights: Vector | None) -> None:
        super().__init__(setup, weights)
        self._rounds: deque[set[int]] = deque()  # leases of the round under way, and of the one drawn ahead

    def _take_in(self, push: Pushed, lease: Lease) -> None:
        self.model.add(Contribution(push.worker, push.delta, push.base_version, lease.size, push.accuracy))
        if not self.model.synchronous:
            self._merge()

    def _merge(self) -> None:
        self.model.merge(self._peers(), self._learned_from())

    def _peers(self) -> dict[int, Peer]:
        """What the rule is told of those who take part."""
        present = [member for member in self.members.values() if member.present]
        speeds = self.speeds()
        part = shares({member.worker: speeds[member.worker] for member in present})
        return {m.worker: Peer(m.base_version, m.record.accuracy, part[m.worker]) for m in present}

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
        waiting = self._invited()
        leases = by_worker(self._draw(waiting))
        answered = [member for member in waiting if self.supply.held(member.worker)]
        return [self._send(member, leases.get(member.worker, []), now) for member in answered]

    def _invited(self) -> list[Member]:
        """Who waits for work and may have some: in a warm start, the fastest worker alone."""
        waiting = [member for member in self.members.values() if member.awaiting]
        if self.supply.ledger.committed >= self.setup.strategy.alone_until * self.setup.plan.total:
            return waiting
        speeds = self.speeds()
        first = max(
            (m.worker for m in self.members.values() if m.present), key=lambda worker: speeds[worker], default=None
        )
        return [member for member in waiting if member.worker == first]

    def _round_over(self) -> bool:
        """Whether nobody is awaited any more in the round under way; the next one begins then."""
        open_ = {lease.id for lease in self.supply.ledger.outstanding()}
        if self._rounds and self._rounds[0] & open_:
            return False
        while self._rounds and not self._rounds[0] & open_:
            self._rounds.popleft()
        return True

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
        self.tally.bytes_pulled += self._pulls(member)
        return Send(member.worker, member.incarnation, self.model.version, self.model.weights, tuple(leases))

    def _pulls(self, member: Member) -> int:
        """What the weights in an answer weigh on their way."""
        return self.setup.sizes.pull if member.sequence else self.setup.sizes.full

    # ----------------------------------------------------------------------------------- milestones

    def _mark(self, now: float) -> list[Command]:
        """Order an evaluation or a checkpoint if one is due; a round under way waits until it is merged."""
        if self.model.waiting or self.tally.started_s is None:
            return []
        passed = self.milestones.evaluate(self.supply.ledger.committed)
        commands: list[Command] = [self._evaluate(now)] if passed else []
        return [*commands, SaveCheckpoint(self.model.version)] if self.milestones.save(now) else commands

    def _finish(self, outcome: Outcome, reason: str, now: float) -> list[Command]:
        if self.model.waiting:
            self._merge()
        return super()._finish(outcome, reason, now)
