"""The supply of work: ledger and allocation in step, so that a lease is drawn, returned or inherited in one place."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import inf
from typing import Any

from bptcnn.outer.allocation import Allocation, Grant, Plan
from bptcnn.outer.ledger import Ledger
from bptcnn.outer.messages import Lease, Recipient


class Supply:
    """Hands out leases and takes them back.

    Args:
        plan: sizes, cadence and seed of the data.
        allocation: how data is dealt.
        timed: whether leases end by the clock.
    """

    def __init__(self, plan: Plan, allocation: Allocation, *, timed: bool = False) -> None:
        self._timed = timed
        self.plan = plan
        self.ledger = Ledger(plan.num_samples)
        self._allocator = allocation.start(plan)

    @property
    def exhausted(self) -> bool:
        """Whether every sample of the run is committed."""
        return self.ledger.committed == self.plan.total

    def held(self, worker: int) -> list[Lease]:
        """The worker's open leases, oldest first."""
        return self.ledger.outstanding(worker)

    def join(self, worker: int) -> None:
        """A worker takes part for the first time."""
        self._allocator.join(worker)

    def commit(self, lease_id: int, count: int) -> Lease:
        """Count a lease, or the part of it that there was time for, as trained.

        Args:
            lease_id: an open lease.
            count: samples trained, the first ones of the lease.

        Returns:
            What was trained; the lease is closed.
        """
        lease = self.ledger.commit(lease_id, count)
        self._allocator.measured(lease.worker)
        return lease

    def revoke(self, leases: Sequence[Lease]) -> None:
        """Undo commits, oldest first as given: what was learned from them is lost."""
        for lease in reversed(leases):
            self.ledger.revoke(lease)
            if lease.owner == lease.worker:
                self._allocator.returned(lease.worker, lease.epoch)

    def take_back(self, worker: int) -> None:
        """Return all leases of a worker to their pools."""
        for lease in reversed(self.held(worker)):
            self.ledger.give_back(lease.id)
            if lease.owner == worker:
                self._allocator.returned(worker, lease.epoch)

    def leave(self, worker: int, speeds: Mapping[int, float]) -> None:
        """Deal what a worker held to the others, for good.

        Args:
            worker: who left, its leases already taken back.
            speeds: samples/s of those that stay.
        """
        self._allocator.leave(worker, self.ledger, speeds)

    def draw(
        self,
        incarnations: Mapping[int, int],
        speeds: Mapping[int, float],
        *,
        limit: int | None = None,
        to: Recipient | None = None,
    ) -> list[Lease]:
        """Lease to these workers, together, what the allocation gives them next.

        A timed lease lasts as long as the allocation's part of the data would take at the speed measured so far, and
        holds more than that, where there is more, for a worker that turns out to be faster.

        Args:
            incarnations: the life of each worker that draws.
            speeds: samples/s of every worker that takes part.
            limit: samples of a lease at most, whatever the allocation gives.
            to: see ``Lease.to``.

        Returns:
            At most one lease a worker.
        """
        grants = self._allocator.next(list(incarnations), self.ledger, speeds) if incarnations else {}
        if limit is not None:
            grants = {worker: replace(grant, count=min(grant.count, limit)) for worker, grant in grants.items()}
        spans = {worker: grant.count / speeds[worker] if self._timed else inf for worker, grant in grants.items()}
        sizes = self._with_spare(grants) if self._timed else {worker: grant.count for worker, grant in grants.items()}
        return [self._lease(w, incarnations[w], grant, sizes[w], speeds, spans[w], to) for w, grant in grants.items()]

    def _with_spare(self, grants: Mapping[int, Grant]) -> dict[int, int]:
        """Up to twice what was granted, out of what nobody was granted."""
        wanted: Counter[tuple[int, int]] = Counter()
        for grant in grants.values():
            wanted[grant.epoch, grant.owner] += grant.count
        room = {pool: min(2.0, self.ledger.available(*pool) / count) for pool, count in wanted.items()}
        return {worker: int(grant.count * room[grant.epoch, grant.owner]) for worker, grant in grants.items()}

    def _lease(
        self,
        worker: int,
        incarnation: int,
        grant: Grant,
        size: int,
        speeds: Mapping[int, float],
        span_s: float,
        to: Recipient | None,
    ) -> Lease:
        """Draw a lease and foresee which part of the run it spans: all workers advance while this one trains.

        A timed lease ends with a step: none of its steps should hold more than fits into its time.
        """
        before, share = sum(lease.size for lease in self.held(worker)), speeds[worker] / sum(speeds.values())
        start = self.ledger.committed + before / share
        return self.ledger.grant(
            worker=worker,
            incarnation=incarnation,
            epoch=grant.epoch,
            owner=grant.owner,
            count=size,
            progress=(self._fraction(start), self._fraction(start + size / share)),
            span_s=span_s,
            batch_size=min(grant.count, self.plan.step_size(worker, speeds)) if self.plan.proportional else None,
            to=to,
        )

    def _fraction(self, committed: float) -> float:
        return min(1.0, committed / self.plan.total)

    def snapshot(self, undone: Sequence[Lease] = ()) -> dict[str, Any]:
        """The state as a tree for a checkpoint.

        Args:
            undone: see ``Ledger.snapshot``.
        """
        open_ = [*self.ledger.outstanding(), *undone]
        own = [[lease.worker, lease.epoch] for lease in open_ if lease.owner == lease.worker]
        return {"ledger": self.ledger.snapshot(undone), "allocator": self._allocator.snapshot(), "returned": own}

    def resume(self, tree: dict[str, Any]) -> None:
        """Take over the state that ``snapshot`` described."""
        self.ledger = Ledger.restore(tree["ledger"])
        self._allocator.resume(tree["allocator"])
        for worker, epoch in tree["returned"]:
            self._allocator.returned(worker, epoch)


def by_worker(leases: Sequence[Lease]) -> dict[int, list[Lease]]:
    """Group leases by the worker that holds them, order kept."""
    groups: dict[int, list[Lease]] = {}
    for lease in leases:
        groups.setdefault(lease.worker, []).append(lease)
    return groups
