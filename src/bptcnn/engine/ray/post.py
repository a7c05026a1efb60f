"""Weights from worker to worker on Ray: sent in a thread of its own, taken in between two steps."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any

import ray

from bptcnn.inner import Parcel
from bptcnn.wire import Dtype, encode

NAP_S = 0.25
"""How long a worker without weights waits before it looks around."""

SETTLE_S = 10.0
"""How long a worker without work waits until what it sent has arrived."""


class Post:
    """One worker's letter box, and its way to those of others.

    Args:
        server: handle of the server actor, which knows where the others are.
        dtype: how weights travel.
    """

    def __init__(self, server: Any, dtype: Dtype) -> None:
        self._server, self._dtype = server, dtype
        self._box: SimpleQueue[Parcel | None] = SimpleQueue()
        self._postman = ThreadPoolExecutor(1)
        self._under_way: list[Future[None]] = []

    def deliver(self, parcel: Parcel) -> None:
        """Put a parcel into the box; from any thread."""
        self._box.put(parcel)

    def received(self) -> Iterator[Parcel]:
        """Take out all that is there."""
        with suppress(Empty):
            while True:
                parcel = self._box.get_nowait()
                if parcel is not None:
                    yield parcel

    def wake(self) -> None:
        """Let who waits look around; from any thread."""
        self._box.put(None)

    def wait(self) -> None:
        """Wait for a parcel or to be woken, a moment at most; the parcel stays in the box."""
        with suppress(Empty):
            self._box.put(self._box.get(timeout=NAP_S))

    def send(self, to: int, parcel: Parcel) -> None:
        """Send a parcel; it comes back if there is nobody.

        Args:
            to: the worker that gets it.
            parcel: what it gets.
        """
        self._under_way = [post for post in self._under_way if not post.done()]
        self._under_way.append(self._postman.submit(self._carry, to, parcel))

    def settle(self) -> Iterator[Parcel]:
        """Wait until all that was sent has arrived, or come back, and take out what is there."""
        wait(self._under_way, timeout=SETTLE_S)
        return self.received()

    def _carry(self, to: int, parcel: Parcel) -> None:
        try:
            handle = ray.get(self._server.peer.remote(to))
            if handle is not None and parcel.weights is not None:
                ray.get(handle.take.remote(parcel.mass, encode(parcel.weights, self._dtype), parcel.answer))
                return
        except ray.exceptions.RayError:
            pass  # it, or the server, died
        self.deliver(parcel._replace(answer=None))
