"""A worker's side of gossip: its weights have a mass, which it shares with others by sending half of it along."""

from __future__ import annotations

from math import isfinite
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from bptcnn.errors import DivergedError
from bptcnn.models import FlatModel


class Parcel(NamedTuple):
    """Weights and what they count for; the weights are None when only timing is simulated.

    Attributes:
        mass: alpha, from 0 to 1.
        weights: float32 [num_weights]; never written to.
        answer_to: the worker that wants as much back; None for nobody.
    """

    mass: float
    weights: npt.NDArray[np.float32] | None
    answer_to: int | None = None


class Mixing:
    """The weights of one worker among others that have weights of their own.

    Maths: ``x = (a_s x_s + alpha x) / (a_s + alpha)``, ``alpha = alpha + a_s`` for each parcel (x_s, a_s) that comes;
    ``alpha = alpha / 2`` for each that goes. A worker without mass takes over the first weights that come, to the bit.

    Args:
        flat: the worker's network; None to keep the masses only.
        answer_to: the worker's number, if it wants an answer to what it sends.

    Attributes:
        mass: alpha; a worker without any has yet to get weights.

    Example:
        >>> mixing = Mixing(None)
        >>> mixing.take(Parcel(0.5, None))
        >>> mixing.leave(halve=True).mass, mixing.mass
        (0.25, 0.25)
    """

    def __init__(self, flat: FlatModel | None, answer_to: int | None = None) -> None:
        self._flat = flat
        self._answer_to = answer_to
        self.mass = 0.0
        self._left = Parcel(0.0, None)

    def take(self, parcel: Parcel, *, answers: bool = True) -> Parcel | None:
        """Mix a parcel in.

        Args:
            parcel: what came.
            answers: whether this worker answers; else it keeps all that it has.

        Returns:
            The answer, which is half of what this worker had, if one is wanted and there is something to give.
        """
        wanted = answers and parcel.answer_to is not None and self.mass > 0
        answer = self.share() if wanted else None
        whole = self.mass + parcel.mass
        if self._flat is not None and parcel.weights is not None and whole > 0:
            theirs = torch.from_numpy(parcel.weights.copy()).to(self._flat.vector)
            self._flat.vector.lerp_(theirs, parcel.mass / whole)
        if not self.mass:
            self._left = Parcel(whole, parcel.weights)
        self.mass = whole
        return answer

    def leave(self, *, halve: bool) -> Parcel:
        """What is sent at the end of a lease; it is also what ``report`` tells until the next.

        Args:
            halve: whether somebody gets it, and half of the mass with it.

        Returns:
            The weights as they are, and the mass that stays, or goes.

        Raises:
            DivergedError: some weight is no longer finite.
        """
        weights = None if self._flat is None else self._flat.snapshot()
        if weights is not None and not isfinite(float(np.dot(weights, weights))):
            raise DivergedError("the weights are no longer finite")
        self.mass /= 2 if halve else 1
        self._left = Parcel(self.mass, weights)
        return self._left._replace(answer_to=self._answer_to) if halve else self._left

    def share(self) -> Parcel:
        """Half of the mass, with the weights as they are, for a worker that has none or less."""
        self.mass /= 2
        self._left = self._left._replace(mass=self._left.mass / 2)
        return Parcel(self.mass, None if self._flat is None else self._flat.snapshot())

    def report(self, *, idle: bool) -> Parcel:
        """The weights that the coordinator knows the samples of, and what they count for.

        Args:
            idle: whether nothing was learned since the last lease, so that what others sent since counts too.
        """
        if idle:
            return Parcel(self.mass, None if self._flat is None else self._flat.snapshot())
        return self._left
