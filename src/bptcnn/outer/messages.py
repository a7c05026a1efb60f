"""What the coordinator hears (events, past tense) and what it orders (commands, imperative)."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

Vector: TypeAlias = npt.NDArray[np.float32]
"""All weights of a network, one flat float32 array; never written to once it is shared."""

Outcome = Literal["finished", "interrupted", "diverged", "failed"]


class Recipient(NamedTuple):
    """Who gets the weights of another worker, and which part of what they count for goes with them."""

    worker: int
    share: float = 0.5


@dataclass(frozen=True, slots=True)
class Lease:
    """Samples that one worker may train on, once.

    Attributes:
        id: unique within a run.
        worker: who holds it.
        incarnation: which life of that worker.
        epoch: the epoch (of the worker's data) that the samples count for, from 1.
        owner: the pool they came from and go back to.
        indices: int64 [n], indices into the training set.
        progress: expected fraction of the whole run committed when this lease starts and when it ends; the
            learning-rate schedule interpolates between the two.
        span_s: seconds to train for at most; what is not trained by then goes back to its pool.
        batch_size: samples of a local step; None for as many as configured.
        to: where workers exchange among themselves, who gets the weights that this lease leads to; None for nobody.
    """

    id: int
    worker: int
    incarnation: int
    epoch: int
    owner: int
    indices: npt.NDArray[np.int64]
    progress: tuple[float, float]
    span_s: float = inf
    batch_size: int | None = None
    to: Recipient | None = None

    @property
    def size(self) -> int:
        """The number of samples."""
        return len(self.indices)


# ---------------------------------------------------------------------------------------------- events


@dataclass(frozen=True, slots=True)
class WorkerJoined:
    """A worker is ready, having measured its own speed on a few batches."""

    worker: int
    samples_per_s: float


@dataclass(frozen=True, slots=True)
class Pushed:
    """A worker finished a lease and sent the difference it made.

    Attributes:
        worker: who.
        incarnation: which life of that worker.
        sequence: 1, 2, ... within the incarnation; makes a repeated message harmless.
        lease: id of the finished lease.
        base_version: the global version that the difference was trained from.
        steps: local steps taken.
        samples: how many of the lease they covered, the first ones; all of them unless its time ran out.
        busy_s: seconds spent in them.
        loss: mean training loss over the lease.
        accuracy: Q, the accuracy of the local network over the lease, 0 to 1.
        delta: local weights minus base weights; None when only timing is simulated, and where it does not go to the
            server.
    """

    worker: int
    incarnation: int
    sequence: int
    lease: int
    base_version: int
    steps: int
    samples: int
    busy_s: float
    loss: float
    accuracy: float
    delta: Vector | None


@dataclass(frozen=True, slots=True)
class Reported:
    """A worker that exchanges weights with others tells its own, as it was asked to.

    Attributes:
        worker: who.
        incarnation: which life of that worker.
        mass: what the weights count for in the mean.
        weights: float32 [num_weights], as they were at its last push; None when only timing is simulated.
    """

    worker: int
    incarnation: int
    mass: float
    weights: Vector | None


@dataclass(frozen=True, slots=True)
class Reduced:
    """A worker has summed its difference with those of its team, as it was asked to, or could not.

    Attributes:
        worker: who.
        incarnation: which life of that worker.
        attempt: of the order that this answers.
        succeeded: whether it has the sum.
        delta: the sum, float32 [num_weights], from the first of the team only; None when only timing is simulated.
        reason: why it has not, in a few words.
    """

    worker: int
    incarnation: int
    attempt: int
    succeeded: bool
    delta: Vector | None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class WorkerLost:
    """A worker's process or machine is gone."""

    worker: int
    incarnation: int
    reason: str


@dataclass(frozen=True, slots=True)
class TimePassed:
    """Nothing happened for a while: look at the deadlines."""


@dataclass(frozen=True, slots=True)
class Evaluated:
    """The average of the global weights, up to a version, was measured on the test set.

    Attributes:
        version: which one.
        committed: samples committed in it.
        at_s: when that version existed, on the run's clock.
        accuracy: test accuracy, 0 to 1.
    """

    version: int
    committed: int
    at_s: float
    accuracy: float


@dataclass(frozen=True, slots=True)
class StopRequested:
    """Somebody wants the run to end now."""

    outcome: Outcome
    reason: str


Event: TypeAlias = WorkerJoined | Pushed | Reported | Reduced | WorkerLost | TimePassed | Evaluated | StopRequested

# -------------------------------------------------------------------------------------------- commands


@dataclass(frozen=True, slots=True)
class Send:
    """Answer a worker with the current weights and its next leases (perhaps none, while it still holds one).

    Attributes:
        worker: who.
        incarnation: which life of that worker.
        version: of the global weights.
        weights: float32 [num_weights]; None when only timing is simulated, and to workers that have them.
        leases: new work.
        mass: where workers exchange among themselves, what the weights in this answer count for.
        report: whether to answer with ``Reported``.
        greet: a worker without weights, to be sent half of this one's at once.
        summed: whether the weights are those that the worker has summed with its team.
    """

    worker: int
    incarnation: int
    version: int
    weights: Vector | None
    leases: tuple[Lease, ...]
    mass: float | None = None
    report: bool = False
    greet: int | None = None
    summed: bool = False


@dataclass(frozen=True, slots=True)
class Reduce:
    """Have a worker sum what it learned with what its team learned, without a server.

    Attributes:
        worker: who.
        incarnation: which life of that worker.
        attempt: its number, higher than all before.
        team: those who sum, in order; the first hands the sum in.
        since: the first attempt that is connected as this one is.
        scale: the factor of this worker's difference.
        patience_s: how long to wait for the others.
    """

    worker: int
    incarnation: int
    attempt: int
    team: tuple[int, ...]
    since: int
    scale: float
    patience_s: float


@dataclass(frozen=True, slots=True)
class Refuse:
    """Turn a worker away: its incarnation is over."""

    worker: int
    incarnation: int
    reason: str


@dataclass(frozen=True, slots=True)
class Replace:
    """End whatever is left of a worker and start it anew."""

    worker: int
    incarnation: int
    reason: str


@dataclass(frozen=True, slots=True)
class Dismiss:
    """Give a worker up for good: its data has been dealt to the others."""

    worker: int
    reason: str


@dataclass(frozen=True, slots=True)
class Evaluate:
    """Measure these weights, an average up to a version, on the test set, then report ``Evaluated``."""

    version: int
    committed: int
    at_s: float
    weights: Vector | None


@dataclass(frozen=True, slots=True)
class SaveCheckpoint:
    """Write the coordinator's state to disk."""

    version: int


@dataclass(frozen=True, slots=True)
class Finish:
    """The run is over."""

    outcome: Outcome
    reason: str


Command: TypeAlias = Send | Reduce | Refuse | Replace | Dismiss | Evaluate | SaveCheckpoint | Finish
