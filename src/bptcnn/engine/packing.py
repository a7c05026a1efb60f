"""The two ends of the connection between a worker and the server: vectors are packed before they travel.

Only the ends know of it: the layers above and below see float32 vectors. A worker gets all weights with its first
answer, as float32; from then on the server keeps a copy of what the worker has, and each answer is the packed
difference to it. So what one answer loses to rounding is part of the next, and both ends keep the same copy to the
bit. A new incarnation begins anew, whatever became of the one before.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from bptcnn.outer.messages import Pushed, Send, Vector
from bptcnn.outer.rules import Strategy
from bptcnn.wire import Dtype, Packed, Sizes, Wire, decode, encode, num_bytes

M = TypeVar("M", Pushed, Send)


@dataclass(frozen=True, slots=True)
class Letter(Generic[M]):
    """A push or an answer on its way.

    Attributes:
        message: all but the vector.
        vector: the vector as it travels; None when only timing is simulated, or without one.
    """

    message: M
    vector: Wire | None


class WorkerEnd:
    """A worker's end, for one incarnation.

    What a push loses to rounding is added to the next (error feedback), so that all pushes together are what was
    learned, within the rounding of the last. Where weights are pushed as such, their difference to those received last
    travels, which the server has too. That has no error feedback: the next push says again where the weights are, so no
    error can add up, and with the error of the last one added they would not be there.

    Args:
        rule: the update rule.
        dtype: how vectors travel.

    Example:
        >>> import numpy as np
        >>> from bptcnn.outer.rules import LocalSgd
        >>> end = WorkerEnd(LocalSgd(), "int8")
        >>> learned = Pushed(0, 1, 1, 0, 0, 1, 1, 0.1, 1.0, 0.5, np.array([127.0, 0.4], np.float32))
        >>> [decode(end.pack(learned).vector).tolist() for _ in range(3)]  # 1.2 in three pushes
        [[127.0, 0.0], [127.0, 1.0], [127.0, 0.0]]
    """

    def __init__(self, rule: Strategy, dtype: Dtype) -> None:
        self._dtype = _dtype(rule, dtype)
        self._adds_up = rule.pushes_differences
        self._base: Vector | None = None
        self._lost: Vector | None = None

    def pack(self, push: Pushed) -> Letter[Pushed]:
        """Make a push ready to travel; once for each push."""
        return Letter(replace(push, delta=None), None if push.delta is None else self._packed(push.delta))

    def _packed(self, pushed: Vector) -> Wire:
        if self._dtype == "fp32":
            return pushed
        if not self._adds_up:
            assert self._base is not None
            return encode(pushed - self._base, self._dtype)
        due = pushed if self._lost is None else pushed + self._lost
        packed = encode(due, self._dtype)
        self._lost = due - decode(packed)
        return packed

    def open(self, letter: Letter[Send]) -> Send:
        """Read an answer; all of them, in order."""
        if letter.vector is None:
            return letter.message
        weights = decode(letter.vector)
        if isinstance(letter.vector, Packed):
            assert self._base is not None, "the first weights are not packed"
            weights += self._base
        self._base = weights
        return replace(letter.message, weights=weights)


class ServerEnd:
    """The server's end of all connections; it has a copy of the weights of each worker, unless fp32 travels.

    Args:
        rule: the update rule.
        dtype: how vectors travel.
    """

    def __init__(self, rule: Strategy, dtype: Dtype) -> None:
        self._dtype = _dtype(rule, dtype)
        self._adds_up = rule.pushes_differences
        self._copies: dict[tuple[int, int], Vector | None] = {}  # by worker and incarnation

    @property
    def packs(self) -> bool:
        """Whether vectors change on their way."""
        return self._dtype != "fp32"

    def changes(self, answer: Send) -> bool:
        """Whether an answer only says what changes in weights that the worker has already."""
        return (answer.worker, answer.incarnation) in self._copies

    def pack(self, answer: Send) -> Letter[Send]:
        """Make an answer ready to travel; once for each answer, a worker's in order.

        Those of different workers may be packed at once, and one to a life that is over late.
        """
        return Letter(replace(answer, weights=None), self._packed(answer))

    def _packed(self, answer: Send) -> Wire | None:
        weights = answer.weights
        if self._dtype == "fp32":
            return weights
        life = answer.worker, answer.incarnation
        if life not in self._copies:
            for worker, incarnation in list(self._copies):  # to which others may add meanwhile
                if worker == life[0] and incarnation < life[1]:
                    self._copies.pop((worker, incarnation), None)
            self._copies[life] = None if weights is None else weights.copy()
            return weights
        copy = self._copies[life]
        if weights is None or copy is None:
            return None
        packed = encode(weights - copy, self._dtype)
        copy += decode(packed)
        return packed

    def open(self, letter: Letter[Pushed]) -> Pushed:
        """Read a push; what an earlier incarnation pushed may come out wrong, as it is refused."""
        if letter.vector is None:
            return letter.message
        delta = decode(letter.vector)
        copy = self._copies.get((letter.message.worker, letter.message.incarnation))
        if not self._adds_up and copy is not None:
            delta += copy
        return replace(letter.message, delta=delta)


def parcel_dtype(dtype: Dtype) -> Dtype:
    """How weights travel from worker to worker: as such, for who gets them has nothing that they could differ from.

    Multiples of 1/127 of the largest weight in a block would be too coarse for them: bf16 takes the place of what is
    smaller.

    Args:
        dtype: what was asked for.
    """
    return "fp32" if dtype == "fp32" else "bf16"


def sizes(rule: Strategy, dtype: Dtype, num_weights: int) -> Sizes:
    """What a run's vectors weigh on their ways.

    Args:
        rule: the update rule.
        dtype: how vectors travel.
        num_weights: their length.
    """
    full, packed = num_bytes(num_weights, "fp32"), num_bytes(num_weights, _dtype(rule, dtype))
    if rule.meets != "peers":
        return Sizes(full, push=packed, pull=packed)
    return Sizes(full, push=num_bytes(num_weights, parcel_dtype(dtype)), pull=full)


def _dtype(rule: Strategy, dtype: Dtype) -> Dtype:
    """How vectors travel between a worker and the server.

    To and from a server that does not merge they travel seldom, or as a sum that is made of float32. Without error
    feedback int8 takes the place of whatever is smaller.
    """
    if rule.meets != "server":
        return "fp32"
    return dtype if rule.pushes_differences or dtype not in ("int4", "2bit") else "int8"
