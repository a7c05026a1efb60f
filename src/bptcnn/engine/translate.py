"""Between the two layers, which do not know each other: leases become work, finished work becomes a push."""

from __future__ import annotations

from bptcnn.inner import Parcel, Recipient
from bptcnn.inner.work import Finished, Work
from bptcnn.outer.messages import Lease, Pushed, Reported


def work(lease: Lease) -> Work:
    """What a worker needs to know of a lease."""
    to = None if lease.to is None else Recipient(*lease.to)
    return Work(lease.id, lease.epoch, lease.indices, lease.progress, lease.span_s, lease.batch_size, to)


def pushed(worker: int, incarnation: int, finished: Finished) -> Pushed:
    """The event that a finished lease is.

    Args:
        worker: who trained.
        incarnation: which life of that worker.
        finished: what came of it.

    Returns:
        The message to the server.
    """
    return Pushed(
        worker=worker,
        incarnation=incarnation,
        sequence=finished.sequence,
        lease=finished.lease,
        base_version=finished.base_version,
        steps=finished.steps,
        samples=finished.samples,
        busy_s=finished.busy_s,
        loss=finished.loss,
        accuracy=finished.accuracy,
        delta=finished.delta,
    )


def reported(worker: int, incarnation: int, parcel: Parcel) -> Reported:
    """The event that a report is.

    Args:
        worker: whose weights they are.
        incarnation: which life of that worker.
        parcel: weights and mass.

    Returns:
        The message to the server.
    """
    return Reported(worker, incarnation, parcel.mass, parcel.weights)
