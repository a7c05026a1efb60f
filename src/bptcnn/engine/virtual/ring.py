"""Sums among the workers of a simulation: all of a team take part in time, or nobody has the sum."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

from bptcnn.engine.virtual.clock import VirtualClock
from bptcnn.engine.virtual.link import Link
from bptcnn.engine.virtual.process import Process
from bptcnn.outer.messages import Reduce, Vector
from bptcnn.outer.rules.combine import total


class Place(NamedTuple):
    """A process in a sum, and which life of it."""

    process: Process
    life: int
    order: Reduce
    part: Vector | None


class Ring:
    """Sums by passing parts around a ring: in 2 (m - 1) turns, each of which sends 1/m of the weights.

    Args:
        clock: the virtual clock.
        link: of each worker.
        num_bytes: of the weights.
    """

    def __init__(self, clock: VirtualClock, link: Link, num_bytes: int) -> None:
        self._clock, self._link, self._num_bytes = clock, link, num_bytes
        self._sums: dict[int, dict[int, Place]] = {}

    def join(self, process: Process, order: Reduce, part: Vector | None) -> None:
        """Take part in a sum; the process hears what becomes of it.

        Args:
            process: who.
            order: which sum.
            part: what goes into it; None when only timing is simulated.
        """
        places = self._sums.setdefault(order.attempt, {})
        if not places:
            self._clock.after(order.patience_s, partial(self._give_up, order))
        places[process.worker] = Place(process, process.life, order, part)
        if len(places) == len(order.team):
            self._clock.after(self.duration_s(len(places)), partial(self._complete, order))

    def duration_s(self, team_size: int) -> float:
        """How long a sum takes.

        Args:
            team_size: m, workers that take part.
        """
        return 2 * (team_size - 1) * self._link.transfer_s(self._num_bytes // team_size)

    def _complete(self, order: Reduce) -> None:
        """All have the sum, if all have stayed; who stands still keeps the others waiting."""
        places = self._sums[order.attempt]
        if any(place.process.frozen_until_s > self._clock.now for place in places.values()):
            self._clock.after(order.patience_s, partial(self._end, order, None, succeeded=False))
            return
        succeeded = all(place.process.alive and place.life == place.process.life for place in places.values())
        parts = [places[worker].part for worker in order.team]
        vectors = [part for part in parts if part is not None and succeeded]
        self._end(order, total([1.0] * len(vectors), vectors) if vectors else None, succeeded=succeeded)

    def _give_up(self, order: Reduce) -> None:
        if len(self._sums.get(order.attempt, order.team)) < len(order.team):
            self._end(order, None, succeeded=False)

    def _end(self, order: Reduce, whole: Vector | None, *, succeeded: bool) -> None:
        for place in self._sums.pop(order.attempt).values():
            place.process.summed(place.order, whole, place.life, succeeded=succeeded)
