"""What a worker is given to do, and what it says when it is done."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

import numpy as np
import numpy.typing as npt

from bptcnn.inner.exchange import Vector
from bptcnn.inner.mixing import Parcel, Recipient


@dataclass(frozen=True, slots=True)
class Work:
    """A lease as a worker sees it.

    Attributes:
        id: the lease's number.
        epoch: the epoch it counts for.
        indices: int64 [n], its samples in training order.
        progress: fraction of the run at its start and its end.
        span_s: seconds to train for at most, to the nearest step; what is left then goes back.
        batch_size: samples of a local step; None for the worker's own.
        to: who gets the weights when it is done, where workers exchange among themselves; None for nobody.
    """

    id: int
    epoch: int
    indices: npt.NDArray[np.int64]
    progress: tuple[float, float]
    span_s: float = inf
    batch_size: int | None = None
    to: Recipient | None = None

    def num_steps(self, batch_size: int, smallest_step: int) -> int:
        """Local steps over this lease: near-equal batches, so that none is too small to learn from.

        Args:
            batch_size: samples of a step where the lease does not say.
            smallest_step: where steps are no larger than so many samples, none is smaller than they are.
        """
        wanted = self.batch_size or batch_size
        exact = len(self.indices) / wanted
        return max(1, int(exact) if wanted <= smallest_step else round(exact))


@dataclass(frozen=True, slots=True)
class Finished:
    """What a worker has to say about a finished lease; see ``Pushed`` of the outer layer for the fields.

    ``parcel`` goes to the worker ``to``, if there is one.
    """

    sequence: int
    lease: int
    base_version: int
    steps: int
    samples: int
    busy_s: float
    loss: float
    accuracy: float
    delta: Vector | None
    to: int | None = None
    parcel: Parcel | None = None
