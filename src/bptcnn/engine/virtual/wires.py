"""What carries the messages of a simulation: one link a worker, slow, and now and then faulty."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from bptcnn.engine.virtual.clock import VirtualClock
from bptcnn.engine.virtual.link import Link
from bptcnn.engine.virtual.process import Process
from bptcnn.inner import Parcel
from bptcnn.outer.messages import Pushed, Reported, Send, WorkerJoined

CONTROL_BYTES = 256
"""A message without weights."""


class Wires:
    """Carries joins, pushes and answers; a connection is as old as the process's latest join.

    Args:
        clock: the virtual clock.
        link: between each worker and the server.
        vector_bytes: size of one weight vector.
        deliver: hands a message and its sender to the server.
        hand: hands a parcel to a worker; tells whether it is there.
        central: whether weights go through the server with each push, rather than from worker to worker.
    """

    def __init__(
        self,
        clock: VirtualClock,
        link: Link,
        vector_bytes: int,
        deliver: Callable[[WorkerJoined | Pushed | Reported, Process], None],
        hand: Callable[[int, Parcel], bool],
        *,
        central: bool,
    ) -> None:
        self._clock, self._deliver, self._hand, self._central = clock, deliver, hand, central
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
        delay_s = (self._long_s if self._central else self._short_s) + self._held_up_s.pop(process.worker, 0.0)
        copies = 2 if process.worker in self._doubled else 1
        self._doubled.discard(process.worker)
        for _ in range(copies):
            self._clock.after(delay_s, partial(self._arrive, message, process, process.life))

    def answer(self, process: Process, message: Send) -> None:
        """Carry leases, and weights where it has none of its own, to a process.

        Args:
            process: who gets them.
            message: the command to carry out.
        """
        with_weights = self._central or message.mass is not None
        delay_s = self._long_s if with_weights else self._short_s
        self._clock.after(delay_s, partial(process.answer, message, process.life))

    def report(self, process: Process, message: Reported) -> None:
        """Carry weights that the server asked for.

        Args:
            process: who reports.
            message: the event to deliver.
        """
        self._clock.after(self._long_s, partial(self._arrive, message, process, process.life))

    def send(self, process: Process, to: int, parcel: Parcel) -> None:
        """Carry weights to another worker; back, if that one is not there.

        Args:
            process: who sends.
            to: the worker that gets them.
            parcel: what it gets.
        """
        life = process.life

        def arrive() -> None:
            if not self._hand(to, parcel):
                self._clock.after(self._short_s, partial(process.take, parcel, life))

        self._clock.after(self._long_s, arrive)

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

    def _arrive(self, message: WorkerJoined | Pushed | Reported, process: Process, life: int) -> None:
        """Deliver a message; a push outlives its process, but nothing outlives the server that it was sent to."""
        if life == process.life and (process.alive or isinstance(message, Pushed)):
            self._deliver(message, process)
