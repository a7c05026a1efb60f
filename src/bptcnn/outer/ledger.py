"""The sample ledger: every index trained exactly as often as it is due, whatever dies.

Work leaves a pool as a *lease* and ends in exactly one of two ways: committed, in the same step that merges the weights
trained on it, or returned to its pool. Two arrays written nowhere else, ``due`` and ``committed`` (times per index),
are the independent proof.

    issued = committed + returned + outstanding,    lost = duplicated = 0
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import inf
from typing import Any

import numpy as np
import numpy.typing as npt

from bptcnn.outer.messages import Lease, Recipient

SHARED = -1
"""Owner of the pool that any worker may draw from."""

Indices = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Account:
    """The sample account of a run, in samples.

    Attributes:
        issued: handed out in leases, repeats included.
        committed: trained and merged.
        returned: handed out but given back.
        duplicated: committed more often than due.
        lost: due, yet neither committed, outstanding nor waiting in a pool.
    """

    issued: int
    committed: int
    returned: int
    duplicated: int
    lost: int


class Ledger:
    """Pools of due samples, outstanding leases and the account.

    Args:
        num_samples: size of the training set.

    Example:
        >>> ledger = Ledger(4)
        >>> ledger.deal(epoch=1, owner=SHARED, indices=np.arange(4))
        >>> lease = ledger.grant(worker=0, incarnation=1, epoch=1, owner=SHARED, count=3)
        >>> ledger.give_back(lease.id)
        >>> lease = ledger.grant(worker=1, incarnation=1, epoch=1, owner=SHARED, count=4)
        >>> ledger.commit(lease.id).size
        4
        >>> ledger.account()
        Account(issued=7, committed=4, returned=3, duplicated=0, lost=0)
    """

    def __init__(self, num_samples: int) -> None:
        self._due = np.zeros(num_samples, np.int32)
        self._committed = np.zeros(num_samples, np.int32)
        self._pools: dict[tuple[int, int], Indices] = {}
        self._leases: dict[int, Lease] = {}
        self._held: dict[int, dict[int, Lease]] = {}
        self._next_id = 1
        self.issued = 0
        self.committed = 0
        self.returned = 0

    def deal(self, *, epoch: int, owner: int, indices: Indices) -> None:
        """Make samples due once more: they wait in the pool of ``owner`` for ``epoch``.

        Args:
            epoch: the epoch they count for, from 1.
            owner: a worker, or ``SHARED``.
            indices: int64 [n], without repeats, in training order.
        """
        self._due[indices] += 1
        self._put(epoch, owner, indices)

    @property
    def next_id(self) -> int:
        """The number of the next lease; each is given once in a run."""
        return self._next_id

    def available(self, epoch: int, owner: int) -> int:
        """Count the samples that wait in a pool.

        Args:
            epoch: the pool's epoch.
            owner: the pool's owner.

        Returns:
            Number of samples.
        """
        return len(self._pools.get((epoch, owner), ()))

    def earliest(self, owner: int) -> int | None:
        """The first epoch in which ``owner`` has samples waiting; None if there is none."""
        return min((epoch for epoch, holder in self._pools if holder == owner), default=None)

    def grant(
        self,
        *,
        worker: int,
        incarnation: int,
        epoch: int,
        owner: int,
        count: int,
        progress: tuple[float, float] = (0.0, 0.0),
        span_s: float = inf,
        batch_size: int | None = None,
        to: Recipient | None = None,
    ) -> Lease:
        """Lease the next samples of a pool to a worker.

        Args:
            worker: who gets them.
            incarnation: which life of that worker.
            epoch: the pool's epoch.
            owner: the pool's owner.
            count: how many; at least 1, at most what is available.
            progress: see ``Lease.progress``.
            span_s: see ``Lease.span_s``.
            batch_size: see ``Lease.batch_size``.
            to: see ``Lease.to``.

        Returns:
            The lease, outstanding until committed or given back.
        """
        pool = self._pools[epoch, owner]
        assert 1 <= count <= len(pool)
        taken, rest = pool[:count], pool[count:]
        if len(rest):
            self._pools[epoch, owner] = rest
        else:
            del self._pools[epoch, owner]
        lease = Lease(self._next_id, worker, incarnation, epoch, owner, taken, progress, span_s, batch_size, to)
        self._next_id += 1
        self._leases[lease.id] = lease
        self._held.setdefault(worker, {})[lease.id] = lease
        self.issued += count
        return lease

    def commit(self, lease_id: int, count: int | None = None) -> Lease:
        """Count a lease's samples as trained, all or the first ones; the others go back to the head of their pool.

        Args:
            lease_id: an outstanding lease.
            count: how many, from 1 to all; None for all.

        Returns:
            What was committed of the lease, which is closed now.
        """
        lease = self._close(lease_id)
        if count is not None and count < lease.size:
            rest = lease.indices[count:]
            self._put(lease.epoch, lease.owner, rest, first=True)
            self.returned += len(rest)
            lease = replace(lease, indices=lease.indices[:count])
        self._committed[lease.indices] += 1
        self.committed += lease.size
        return lease

    def give_back(self, lease_id: int) -> None:
        """Put a lease's samples back at the head of the pool they came from."""
        lease = self._close(lease_id)
        self._put(lease.epoch, lease.owner, lease.indices, first=True)
        self.returned += lease.size

    def revoke(self, lease: Lease) -> None:
        """Undo a commit: what was learned from these samples is lost, they go back to the head of their pool.

        Args:
            lease: as ``commit`` returned it, perhaps with another owner.
        """
        self._committed[lease.indices] -= 1
        self.committed -= lease.size
        self.returned += lease.size
        self._put(lease.epoch, lease.owner, lease.indices, first=True)

    def share_out(self, owner: int) -> None:
        """Move everything that waits for ``owner`` to the shared pools: it will not come back for it."""
        for epoch, holder in sorted(self._pools):
            if holder == owner:
                self._put(epoch, SHARED, self._pools.pop((epoch, holder)))

    def outstanding(self, worker: int | None = None) -> list[Lease]:
        """The open leases, oldest first; those of one worker if one is named."""
        return list((self._leases if worker is None else self._held.get(worker, {})).values())

    def account(self) -> Account:
        """Close the books as they stand, every index counted one by one.

        Returns:
            The account; ``lost`` and ``duplicated`` come from the two arrays, not from the totals.
        """
        open_ = np.zeros_like(self._due)
        for indices in self._pools.values():
            open_[indices] += 1
        for lease in self._leases.values():
            open_[lease.indices] += 1
        missing = self._due - self._committed - open_
        return Account(
            issued=self.issued,
            committed=self.committed,
            returned=self.returned,
            duplicated=int(np.maximum(self._committed - self._due, 0).sum()),
            lost=int(np.maximum(missing, 0).sum()),
        )

    def snapshot(self, undone: Sequence[Lease] = ()) -> dict[str, Any]:
        """The state as a tree for a checkpoint; outstanding leases count as returned, since no one will commit them.

        Args:
            undone: commits that the checkpoint's weights know nothing of; they count as revoked.
        """
        copy = Ledger(0)
        copy._pools, copy._committed = dict(self._pools), self._committed.copy()
        copy.committed, copy.returned = self.committed, self.returned
        for lease in reversed(self.outstanding()):
            copy._put(lease.epoch, lease.owner, lease.indices, first=True)
            copy.returned += lease.size
        for lease in reversed(undone):
            copy.revoke(lease)
        keys = sorted(copy._pools)
        return {
            "due": self._due.copy(),
            "committed_times": copy._committed,
            "pool_epochs": [epoch for epoch, _ in keys],
            "pool_owners": [owner for _, owner in keys],
            "pool_sizes": [len(copy._pools[key]) for key in keys],
            "pool_indices": np.concatenate([copy._pools[key] for key in keys] or [np.zeros(0, np.int64)]),
            "next_id": self._next_id,
            "totals": [self.issued, copy.committed, copy.returned],
        }

    @classmethod
    def restore(cls, tree: dict[str, Any]) -> Ledger:
        """Build the ledger that ``snapshot`` described."""
        ledger = cls(0)
        ledger._due, ledger._committed = tree["due"], tree["committed_times"]
        blocks = np.split(tree["pool_indices"], np.cumsum(tree["pool_sizes"])[:-1]) if tree["pool_sizes"] else []
        keys = zip(tree["pool_epochs"], tree["pool_owners"], strict=True)
        ledger._pools = dict(zip(keys, blocks, strict=True))
        ledger._next_id = tree["next_id"]
        ledger.issued, ledger.committed, ledger.returned = tree["totals"]
        return ledger

    def _close(self, lease_id: int) -> Lease:
        lease = self._leases.pop(lease_id)
        del self._held[lease.worker][lease_id]
        return lease

    def _put(self, epoch: int, owner: int, indices: Indices, *, first: bool = False) -> None:
        if not len(indices):
            return
        pool = self._pools.get((epoch, owner))
        parts = [] if pool is None else [pool]
        parts.insert(0 if first else len(parts), indices)
        self._pools[epoch, owner] = np.concatenate(parts) if len(parts) > 1 else indices
