"""The supply of work: ledger and allocation in step, so that a lease is drawn, returned or inherited in one place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bptcnn.outer.allocation import Allocation, Grant, Plan
from bptcnn.outer.ledger import Ledger
from bptcnn.outer.messages import Lease
from bptcnn.outer.pace import shares


class Supply:
    """Hands out leases and takes them back.

    Args:
        plan: sizes, cadence and seed of the data.
        allocation: how data is dealt.
    """

    def __init__(self, plan: Plan, allocation: Allocation) -> None:
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

    def commit(self, lease_id: int) -> Lease:
        """Count a lease as trained.

        Args:
            lease_id: an open lease.

        Returns:
            The lease, now closed.
        """
        lease = self.ledger.commit(lease_id)
        self._allocator.measured(lease.worker)
        return lease

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

    def draw(self, incarnations: Mapping[int, int], speeds: Mapping[int, float]) -> list[Lease]:
        """Lease to these workers, together, what the allocation gives them next.

        Args:
            incarnations: the life of each worker that draws.
            speeds: samples/s of every worker that takes part.

        Returns:
            At most one lease a worker.
        """
        grants = self._allocator.next(list(incarnations), self.ledger, speeds) if incarnations else {}
        part = shares(speeds)
        return [self._lease(worker, incarnations[worker], grant, part[worker]) for worker, grant in grants.items()]

    def _lease(self, worker: int, incarnation: int, grant: Grant, share: float) -> Lease:
        """Draw a lease and foresee which part of the run it spans: all workers advance while this one trains."""
        before = sum(lease.size for lease in self.held(worker))
        start = self.ledger.committed + before / share
        return self.ledger.grant(
            worker=worker,
            incarnation=incarnation,
            epoch=grant.epoch,
            owner=grant.owner,
            count=grant.count,
            progress=(self._fraction(start), self._fraction(start + grant.count / share)),
        )

    def _fraction(self, committed: float) -> float:
        return min(1.0, committed / self.plan.total)

    def snapshot(self) -> dict[str, Any]:
        """The state as a tree for a checkpoint."""
        own = [[lease.worker, lease.epoch] for lease in self.ledger.outstanding() if lease.owner == lease.worker]
        return {"ledger": self.ledger.snapshot(), "allocator": self._allocator.snapshot(), "returned": own}

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
