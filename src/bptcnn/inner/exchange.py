"""What a worker sends of its weights, and what an answer changes in them."""

from __future__ import annotations

from math import isfinite
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

from bptcnn.errors import DivergedError
from bptcnn.models import FlatModel

Vector = npt.NDArray[np.float32]


class WorkersHalf(Protocol):
    """The part of an update rule that workers carry out; vectors are float32 [num_weights] and never written to."""

    @property
    def keeps_local(self) -> bool:
        """Whether a worker's weights stay its own, rather than become the global ones with each answer."""

    def outgoing(self, local: Vector, base: Vector) -> Vector:
        """What is pushed, in memory of its own.

        Args:
            local: the worker's weights.
            base: the global weights that it received last.
        """

    def correction(self, base: Vector, pushed: Vector, weights: Vector) -> Vector:
        """What the answer to a push adds to the local weights, in memory of its own.

        Args:
            base: as for ``outgoing``.
            pushed: what ``outgoing`` returned.
            weights: the global weights in the answer.
        """


class Exchange:
    """The weights of one worker between two global versions: one push, one answer.

    Args:
        flat: the worker's network.
        half: the update rule.
        summed: whether workers sum what they learned among themselves, instead of pushing it to a server.

    Example:
        >>> from torch import nn
        >>> from bptcnn.outer.rules import LocalSgd
        >>> flat = FlatModel(nn.Linear(1, 1))
        >>> exchange = Exchange(flat, LocalSgd())
        >>> exchange.fold(np.zeros(2, np.float32), ahead=False)
        >>> _ = flat.vector.fill_(1)
        >>> exchange.push()
        array([1., 1.], dtype=float32)
    """

    def __init__(self, flat: FlatModel, half: WorkersHalf, *, summed: bool = False) -> None:
        self._flat, self._half, self.summed = flat, half, summed
        self._total: Vector | None = None
        self._base: Vector | None = None
        self._pushed: Vector | None = None

    def push(self) -> Vector:
        """What goes to the server; the next ``fold`` accounts for it.

        Returns:
            float32 [num_weights], fresh.

        Raises:
            DivergedError: some weight is no longer finite.
        """
        assert self._base is not None, "weights are received before any are sent"
        assert self._pushed is None, "one push is answered before the next is sent"
        outgoing = self._half.outgoing(self._flat.vector.cpu().numpy(), self._base)
        if not isfinite(float(np.dot(outgoing, outgoing))):
            raise DivergedError("the weights are no longer finite")
        self._pushed = outgoing
        return outgoing

    def part(self, scale: float) -> Vector:
        """What goes into the sum of a team, of the last push.

        Args:
            scale: its factor.

        Returns:
            float32 [num_weights], fresh.
        """
        assert self._pushed is not None, "what is summed has been learned before"
        return np.float32(scale) * self._pushed

    def take_sum(self, total: Vector | None) -> None:
        """Keep the sum of a team until the server says whether it counts.

        Args:
            total: float32 [num_weights]; None if it was lost.
        """
        self._total = total

    def fold_sum(self) -> None:
        """Go on from the last weights received and the sum of what the team learned from them."""
        assert self._base is not None
        assert self._total is not None, "only a sum that a worker has counts for it"
        self.fold(self._base + self._total, ahead=False)

    def fold(self, weights: Vector, *, ahead: bool) -> None:
        """Take an answer in, keeping what was learned since the last push.

        The first weights are taken as they are. So are later ones, to the bit, if nothing was learned since the push
        and the rule wants all workers to go on from the global weights.

        Args:
            weights: float32 [num_weights]; may be read-only, and is kept until the next call.
            ahead: whether steps were made since the last push.
        """
        if self._pushed is None or self._base is None or not (ahead or self._half.keeps_local):
            self._flat.load(weights)
        else:
            correction = self._half.correction(self._base, self._pushed, weights)
            self._flat.vector.add_(torch.from_numpy(correction).to(self._flat.vector))
        self._base, self._pushed, self._total = weights, None, None
