"""A worker's side of gossip: its weights have a mass, and a part of it goes with each message."""

from __future__ import annotations

from math import isfinite
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from bptcnn.errors import DivergedError
from bptcnn.models import FlatModel


class Recipient(NamedTuple):
    """A worker, and which part of a mass goes to it."""

    worker: int
    share: float = 0.5


class Parcel(NamedTuple):
    """Weights and what they count for; the weights are None when only timing is simulated.

    Attributes:
        mass: alpha, from 0 to 1.
        weights: float32 [num_weights]; never written to.
        answer: who wants weights back, and for which part of the mass; None for nobody.
    """

    mass: float
    weights: npt.NDArray[np.float32] | None
    answer: Recipient | None = None


class Mixing:
    """The weights of one worker among others that have weights of their own.

    Maths: ``x = (a_s x_s + alpha x) / (a_s + alpha)``, ``alpha = alpha + a_s`` for each parcel (x_s, a_s) that comes;
    ``a_s = share alpha``, ``alpha = (1 - share) alpha`` for each that goes. A worker without mass takes over the first
    weights that come, to the bit.

    Args:
        flat: the worker's network; None to keep the masses only.
        answers_to: the worker's number, if it wants an answer to what it sends.

    Attributes:
        mass: alpha; a worker without any has yet to get weights.

    Example:
        >>> mixing = Mixing(None)
        >>> mixing.take(Parcel(0.5, None))
        >>> mixing.leave(Recipient(3)).mass, mixing.mass
        (0.25, 0.25)
    """

    def __init__(self, flat: FlatModel | None, answers_to: int | None = None) -> None:
        self._flat = flat
        self._answers_to = answers_to
        self.mass = 0.0
        self._left = Parcel(0.0, None)

    def take(self, parcel: Parcel) -> tuple[int, Parcel] | None:
        """Mix a parcel in.

        Args:
            parcel: what came.

        Returns:
            Who gets an answer, and the answer: a part of what this worker had. None where none is wanted.
        """
        wanted = parcel.answer if self.mass > 0 else None
        answer = None if wanted is None else (wanted.worker, self.share(wanted.share))
        whole = self.mass + parcel.mass
        if self._flat is not None and parcel.weights is not None and whole > 0:
            theirs = torch.from_numpy(parcel.weights.copy()).to(self._flat.vector)
            self._flat.vector.lerp_(theirs, parcel.mass / whole)
        if not self.mass:
            self._left = Parcel(whole, parcel.weights)
        self.mass = whole
        return answer

    def leave(self, to: Recipient | None) -> Parcel:
        """What is sent at the end of a lease; it is also what ``report`` tells until the next.

        Args:
            to: who gets it, and which part of the mass with it; None for nobody.

        Returns:
            The weights as they are, and the mass that goes, or all of it, which stays.

        Raises:
            DivergedError: some weight is no longer finite.
        """
        weights = None if self._flat is None else self._flat.snapshot()
        if weights is not None and not isfinite(float(np.dot(weights, weights))):
            raise DivergedError("the weights are no longer finite")
        given = 0.0 if to is None else self.mass * to.share
        self.mass -= given
        self._left = Parcel(self.mass, weights)
        if to is None:
            return self._left
        answer = None if self._answers_to is None else Recipient(self._answers_to, 1 - to.share)
        return Parcel(given, weights, answer)

    def share(self, part: float = 0.5) -> Parcel:
        """A part of the mass, with the weights as they are, for a worker that has none or less.

        Args:
            part: of the mass.
        """
        given = self.mass * part
        self.mass -= given
        self._left = self._left._replace(mass=self._left.mass * (1 - part))
        return Parcel(given, None if self._flat is None else self._flat.snapshot())

    def report(self, *, idle: bool) -> Parcel:
        """The weights that the coordinator knows the samples of, and what they count for.

        Args:
            idle: whether nothing was learned since the last lease, so that what others sent since counts too.
        """
        if idle:
            return Parcel(self.mass, None if self._flat is None else self._flat.snapshot())
        return self._left
