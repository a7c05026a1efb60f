"""What carries the messages of a simulation: one link a worker, slow, and now and then faulty."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from bptcnn.engine.virtual.clock import VirtualClock
from bptcnn.engine.virtual.link import Link
from bptcnn.engine.virtual.process import Process
from bptcnn.outer.messages import Pushed, Send, WorkerJoined

CONTROL_BYTES = 256
"""A message without weights."""


class Wires:
    """Carries joins, pushes and answers; a connection is as old as the process's latest join.

    Args:
        clock: the virtual clock.
        link: between each worker and the server.
        vector_bytes: size of one weight vector.
        deliver: hands a message and its sender to the server.
    """

    def __init__(
        self,
        clock: VirtualClock,
        link: Link,
        vector_bytes: int,
        deliver: Callable[[WorkerJoined | Pushed, Process], None],
    ) -> None:
        self._clock, self._deliver = clock, deliver
        self._short_s = link.transfer_s(CONTROL_BYTES)
        self._long_s = link.transfer_s(vector_bytes + CONTROL_BYTES)
        self._held_up_s: dict[int, float] = {}
        self._doubled: set[int] = set()

    def join(self, process: Process, message: WorkerJoined) -> None:
        """Carry a join to the server.

        Args:
            process: who joins.
            message: the event to deliver.
        """
        self._clock.after(self._short_s, partial(self._arrive, message, process, process.life))

    def push(self, process: Process, message: Pushed) -> None:
        """Carry a push to the server, late or twice if that was asked for.

        Args:
            process: who pushes.
            message: the event to deliver.
        """
        delay_s = self._long_s + self._held_up_s.pop(process.worker, 0.0)
        copies = 2 if process.worker in self._doubled else 1
        self._doubled.discard(process.worker)
        for _ in range(copies):
            self._clock.after(delay_s, partial(self._arrive, message, process, process.life))

    def answer(self, process: Process, message: Send) -> None:
        """Carry weights and leases to a process.

        Args:
            process: who gets them.
            message: the command to carry out.
        """
        self._clock.after(self._long_s, partial(process.answer, message, process.life))

    def hold_up(self, worker: int, span_s: float) -> None:
        """Let the worker's next push take longer.

        Args:
            worker: whose.
            span_s: by how much, virtual seconds.
        """
        self._held_up_s[worker] = span_s

    def double(self, worker: int) -> None:
        """Let the worker's next push arrive twice."""
        self._doubled.add(worker)

    def _arrive(self, message: WorkerJoined | Pushed, process: Process, life: int) -> None:
        """Deliver a message; a push outlives its process, but nothing outlives the server that it was sent to."""
        if life == process.life and (process.alive or isinstance(message, Pushed)):
            self._deliver(message, process)
