"""Dynamic allocation: small leases of one common pool, on demand, in proportion to speed as it is now.

The limit of IDPA for ever more batches (A -> infinity): drift, joins and deaths are followed within one lease.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil
from typing import Any, Literal

import numpy as np

from bptcnn.outer.allocation.apportion import apportion
from bptcnn.outer.allocation.base import Allocator, Grant, Plan
from bptcnn.outer.ledger import SHARED, Ledger
from bptcnn.section import Section


class Dynamic(Section):
    """Settings of dynamic allocation.

    Example:
        >>> Dynamic().start(Plan(num_samples=100, epochs=1, batch_size=10, every=2, seed=0))  # doctest: +ELLIPSIS
        <...DynamicAllocator object at ...>
    """

    name: Literal["dynamic"] = "dynamic"
    """Selects this allocation."""

    def start(self, plan: Plan) -> Allocator:
        """Begin an allocation."""
        return DynamicAllocator(plan)


class DynamicAllocator(Allocator):
    """Deals one shuffled epoch at a time into the shared pool.

    A lease holds ``every`` local steps for the fastest worker and is in proportion for the others, rounded to samples,
    or to steps where all steps are of one size and workers come one by one. What a worker is owed of a sample is
    carried over to its next round, so that there shares are exact in the long run, too.
    Towards the end of the run (of the epoch, in rounds) leases shrink to each worker's share of what is left, so that
    all finish together.
    """

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan)
        self._dealt = 0
        self._owed: dict[int, float] = {}

    def join(self, worker: int) -> None:
        """Nothing to prepare: the pool is common."""

    def leave(self, worker: int, ledger: Ledger, speeds: Mapping[int, float]) -> None:
        """Nothing to deal out: the pool is common."""

    def next(self, ready: Sequence[int], ledger: Ledger, speeds: Mapping[int, float]) -> dict[int, Grant]:
        """Lease chunks in proportion to speed (see ``Allocator.next``)."""
        if ledger.earliest(SHARED) is None:
            if self._dealt == self.plan.epochs:
                return {}
            self._deal(ledger)
        epoch = ledger.earliest(SHARED)
        assert epoch is not None
        left = ledger.available(epoch, SHARED)
        deal = self._round if len(ready) > 1 else self._single
        counts = deal(ready, left, ledger, speeds)
        return {worker: Grant(epoch, SHARED, count) for worker, count in counts.items() if count}

    def returned(self, worker: int, epoch: int) -> None:
        """Nothing to remember: the pool is common."""

    def measured(self, worker: int) -> None:
        """Nothing to remember: speeds are asked for anew with each lease."""

    def snapshot(self) -> dict[str, Any]:
        """The state as a tree for a checkpoint."""
        return {"dealt": self._dealt, "owed": [list(item) for item in self._owed.items()]}

    def resume(self, tree: dict[str, Any]) -> None:
        """Take over the state that ``snapshot`` described."""
        self._dealt = tree["dealt"]
        self._owed = dict(map(tuple, tree["owed"]))

    def _deal(self, ledger: Ledger) -> None:
        self._dealt += 1
        order = np.random.default_rng((self.plan.seed, self._dealt)).permutation(self.plan.num_samples)
        ledger.deal(epoch=self._dealt, owner=SHARED, indices=order)

    def _size(self, worker: int, committed: int, speeds: Mapping[int, float]) -> int:
        """Samples of a full lease, in proportion to speed; whole steps where all are of one size."""
        plan, every = self.plan, self.plan.cadence(committed)
        if every == "epoch":
            return max(1, round(plan.num_samples * speeds[worker] / sum(speeds.values())))
        if plan.proportional:
            return max(1, round(every * plan.batch_size * speeds[worker] / max(speeds.values())))
        return max(1, round(every * speeds[worker] / max(speeds.values()))) * plan.batch_size

    def _single(self, ready: Sequence[int], left: int, ledger: Ledger, speeds: Mapping[int, float]) -> dict[int, int]:
        [worker] = ready
        size = self._size(worker, ledger.committed, speeds)
        if ledger.earliest(SHARED) == self.plan.epochs:
            share = ceil(left * speeds[worker] / sum(speeds.values()))
            size = min(size, max(share, self.plan.step_size(worker, speeds)))
        return {worker: min(size, left)}

    def _round(self, ready: Sequence[int], left: int, ledger: Ledger, speeds: Mapping[int, float]) -> dict[int, int]:
        parts = {worker: speeds[worker] for worker in ready}
        full = min(
            self.plan.num_samples / sum(speeds.values()), self.plan.lease_size(ledger.committed) / max(speeds.values())
        )
        size, speed = min(left, max(1, round(full * sum(parts.values())))), sum(parts.values())
        exact = {worker: size * part / speed + self._owed.get(worker, 0.0) for worker, part in parts.items()}
        given = apportion(size, {worker: max(0.0, due) for worker, due in exact.items()})
        self._owed = {worker: exact[worker] - given[worker] for worker in parts}
        return given
