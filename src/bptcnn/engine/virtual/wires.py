"""What carries the messages of a simulation: one link a worker, slow, and now and then faulty."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from bptcnn.engine.job import Job
from bptcnn.engine.packing import Letter, parcel_dtype
from bptcnn.engine.virtual.clock import VirtualClock
from bptcnn.engine.virtual.link import Link
from bptcnn.engine.virtual.process import Process
from bptcnn.engine.virtual.ring import Ring
from bptcnn.inner import Parcel
from bptcnn.outer.messages import Pushed, Reduce, Reduced, Reported, Send, Vector, WorkerJoined
from bptcnn.wire import decode, encode

CONTROL_BYTES = 256
"""A message without weights."""


class Wires:
    """Carries joins, pushes and answers; a connection is as old as the process's latest join.

    Args:
        clock: the virtual clock.
        link: between each worker and the server.
        job: what is trained, and how vectors travel.
        num_weights: their length.
        deliver: hands a message and its sender to the server.
        hand: hands a parcel to a worker; tells whether it is there.
        handling_s: how long the server is busy with a push and its answer; others wait in the order in which they came.
    """

    def __init__(
        self,
        clock: VirtualClock,
        link: Link,
        job: Job,
        num_weights: int,
        deliver: Callable[[WorkerJoined | Pushed | Reported | Reduced, Process], None],
        hand: Callable[[int, Parcel], bool],
        handling_s: float = 0.0,
    ) -> None:
        self._clock, self._deliver, self._hand = clock, deliver, hand
        self._meets, self._end = job.rule.meets, job.server_end()
        self._parcel_dtype = parcel_dtype(job.config.exchange.dtype)
        self._short_s = link.transfer_s(CONTROL_BYTES)
        times = (link.transfer_s(size + CONTROL_BYTES) for size in job.sizes(num_weights))
        self._full_s, self._push_s, self._pull_s = times
        self._ring = Ring(clock, link, job.sizes(num_weights).full)
        self._handling_s, self._free_s = handling_s, 0.0
        self._held_up_s: dict[int, float] = {}
        self._doubled: set[int] = set()

    def join(self, process: Process, message: WorkerJoined) -> None:
        """Carry a join to the server.

        Args:
            process: who joins.
            message: the event to deliver.
        """
        self._clock.after(self._short_s, partial(self._arrive, message, process, process.life))

    def push(self, process: Process, letter: Letter[Pushed]) -> None:
        """Carry a push to the server, late or twice if that was asked for.

        Args:
            process: who pushes.
            letter: the event to deliver, packed.
        """
        delay_s = self._push_s if self._meets == "server" else self._short_s
        delay_s += self._held_up_s.pop(process.worker, 0.0)
        copies = 2 if process.worker in self._doubled else 1
        self._doubled.discard(process.worker)
        for _ in range(copies):
            self._clock.after(delay_s, partial(self._queue, letter, process, process.life))

    def answer(self, process: Process, message: Send) -> None:
        """Carry leases, and weights where it has none of its own, to a process.

        Args:
            process: who gets them.
            message: the command to carry out.
        """
        delay_s = self._pull_s if self._end.changes(message) else self._full_s
        if message.summed or (self._meets == "peers" and message.mass is None):
            delay_s = self._short_s
        self._clock.after(delay_s, partial(process.answer, self._end.pack(message), process.life))

    def report(self, process: Process, message: Reported) -> None:
        """Carry weights that the server asked for.

        Args:
            process: who reports.
            message: the event to deliver.
        """
        self._clock.after(self._full_s, partial(self._arrive, message, process, process.life))

    def order(self, process: Process, message: Reduce) -> None:
        """Carry the order to sum to a process.

        Args:
            process: who gets it.
            message: the command to carry out.
        """
        self._clock.after(self._short_s, partial(process.reduce, message, process.life))

    def reduce(self, process: Process, order: Reduce, part: Vector | None) -> None:
        """Let a process take part in a sum.

        Args:
            process: who.
            order: which sum.
            part: what goes into it.
        """
        self._ring.join(process, order, part)

    def reduced(self, process: Process, message: Reduced, *, hands_in: bool) -> None:
        """Carry the word on a sum to the server.

        Args:
            process: who took part.
            message: the event to deliver.
            hands_in: whether the sum goes with it.
        """
        delay_s = self._full_s if hands_in else self._short_s
        self._clock.after(delay_s, partial(self._arrive, message, process, process.life))

    def send(self, process: Process, to: int, parcel: Parcel) -> None:
        """Carry weights to another worker; back, if that one is not there.

        Args:
            process: who sends.
            to: the worker that gets them.
            parcel: what it gets.
        """
        life = process.life

        def arrive() -> None:
            if not self._hand(to, self._rounded(parcel)):
                self._clock.after(self._short_s, partial(process.take, parcel._replace(answer=None), life))

        self._clock.after(self._push_s, arrive)

    def _rounded(self, parcel: Parcel) -> Parcel:
        """A parcel as it comes out at the other end."""
        if parcel.weights is None or self._parcel_dtype == "fp32":
            return parcel
        return parcel._replace(weights=decode(encode(parcel.weights, self._parcel_dtype)))

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

    def _queue(self, letter: Letter[Pushed], process: Process, life: int) -> None:
        """A push has arrived: it is handled when those before it are."""
        self._free_s = max(self._free_s, self._clock.now) + self._handling_s
        if self._handling_s:
            self._clock.at(self._free_s, partial(self._arrive, letter, process, life))
        else:
            self._arrive(letter, process, life)

    def _arrive(self, message: WorkerJoined | Reported | Reduced | Letter[Pushed], process: Process, life: int) -> None:
        """Deliver a message; a push outlives its process, but nothing outlives the server that it was sent to."""
        if life == process.life and (process.alive or isinstance(message, Letter)):
            self._deliver(self._end.open(message) if isinstance(message, Letter) else message, process)
