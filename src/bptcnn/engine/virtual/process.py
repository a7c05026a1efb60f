"""One worker process of a simulation: the loop of a real one, cut at its waits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from bptcnn.engine.packing import Letter, WorkerEnd
from bptcnn.engine.translate import pushed, reported, work
from bptcnn.engine.virtual.clock import VirtualClock
from bptcnn.engine.virtual.trace import SpeedTrace
from bptcnn.errors import DivergedError
from bptcnn.inner import LocalWorker, Parcel
from bptcnn.outer.messages import Pushed, Reduce, Reduced, Reported, Send, Vector, WorkerJoined


class Network(Protocol):
    """How a process reaches the server."""

    def join(self, process: Process, message: WorkerJoined) -> None:
        """Carry a join.

        Args:
            process: who joins.
            message: the event to deliver.
        """

    def push(self, process: Process, letter: Letter[Pushed]) -> None:
        """Carry a push.

        Args:
            process: who pushes.
            letter: the event to deliver, packed.
        """

    def report(self, process: Process, message: Reported) -> None:
        """Carry weights that the server asked for.

        Args:
            process: who reports.
            message: the event to deliver.
        """

    def reduce(self, process: Process, order: Reduce, part: Vector | None) -> None:
        """Let a process take part in a sum.

        Args:
            process: who.
            order: which sum.
            part: what goes into it.
        """

    def reduced(self, process: Process, message: Reduced, *, hands_in: bool) -> None:
        """Carry the word on a sum.

        Args:
            process: who took part.
            message: the event to deliver.
            hands_in: whether the sum goes with it.
        """

    def send(self, process: Process, to: int, parcel: Parcel) -> None:
        """Carry weights to another worker; back, if that one is not there.

        Args:
            process: who sends.
            to: the worker that gets them.
            parcel: what it gets.
        """


class Process:
    """A worker process: trains on its leases, one push in flight at most.

    Args:
        worker: its number.
        speed: its speed over time.
        clock: the virtual clock.
        network: carries its messages.
        make_local: builds the worker's side of the exchange; called anew for each join.
        make_end: builds its end of the connection; likewise.

    Attributes:
        alive: whether it runs.
        life: how often it has joined; what was under way before its latest join is lost.
        frozen_until_s: it does nothing before this moment.
    """

    def __init__(
        self,
        worker: int,
        speed: SpeedTrace,
        clock: VirtualClock,
        network: Network,
        make_local: Callable[[], LocalWorker],
        make_end: Callable[[], WorkerEnd],
    ) -> None:
        self.worker = worker
        self.alive = True
        self.frozen_until_s = 0.0
        self._speed = speed
        self._clock = clock
        self._network = network
        self._make_local, self._make_end = make_local, make_end
        self.life = 0
        self.join()

    def join(self) -> None:
        """Ask for work, forgetting all that an earlier server granted."""
        self.life += 1
        self._local, self._end = self._make_local(), self._make_end()
        self._incarnation = 0
        self._stepping = False
        self._in_flight = True
        self._answers: list[Letter[Send]] = []
        self._parcels: list[Parcel] = []
        self._network.join(self, WorkerJoined(self.worker, self._speed.samples_per_s(self._clock.now)))

    def stop(self) -> None:
        """End; whatever is still under way for this process is lost."""
        self.alive = False

    def answer(self, letter: Letter[Send], life: int) -> None:
        """An answer of the server arrived; it is folded in between two steps.

        Args:
            letter: the answer, packed.
            life: how often this process had joined when it was sent; a later join has broken that connection.
        """
        if life == self.life:
            self._answers.append(letter)
            self._advance(life)

    def reduce(self, order: Reduce, life: int) -> None:
        """The server wants this process to sum what it pushed last with its team.

        Args:
            order: the command.
            life: as for ``answer``.
        """
        if not self.alive or life != self.life:
            return
        if self._clock.now < self.frozen_until_s:
            self._clock.at(self.frozen_until_s, lambda: self.reduce(order, life))
            return
        self._network.reduce(self, order, self._local.part(order.scale))

    def summed(self, order: Reduce, total: Vector | None, life: int, *, succeeded: bool) -> None:
        """A sum has ended.

        Args:
            order: which one.
            total: float32 [num_weights]; None when only timing is simulated, or without success.
            life: as for ``answer``.
            succeeded: whether all took part.
        """
        if not self.alive or life != self.life:
            return
        if self._clock.now < self.frozen_until_s:
            self._clock.at(self.frozen_until_s, lambda: self.summed(order, total, life, succeeded=succeeded))
            return
        self._local.take_sum(total)
        first = succeeded and order.team[0] == self.worker
        reason = "" if succeeded else "somebody did not take part"
        message = Reduced(self.worker, order.incarnation, order.attempt, succeeded, total if first else None, reason)
        self._network.reduced(self, message, hands_in=first)

    def take(self, parcel: Parcel, life: int) -> None:
        """Weights arrived from another worker; they are mixed in between two steps.

        Args:
            parcel: what came.
            life: as for ``answer``.
        """
        if life == self.life:
            self._parcels.append(parcel)
            self._advance(life)

    def _advance(self, life: int) -> None:
        """Go on from a point between two steps: what came in first, then a push if one is due, then the next step."""
        if not self.alive or life != self.life or self._stepping:
            return
        if self._clock.now < self.frozen_until_s:
            self._clock.at(self.frozen_until_s, lambda: self._advance(life))
            return
        for parcel in self._parcels:
            answer = self._local.take(parcel)
            if answer is not None:
                self._network.send(self, *answer)
        for letter in self._answers:
            self._receive(self._end.open(letter))
        self._parcels, self._answers = [], []
        if self._local.done and not self._in_flight:
            self._in_flight = True
            with self._named():
                finished = self._local.finish()
            self._network.push(self, self._end.pack(pushed(self.worker, self._incarnation, finished)))
            if finished.to is not None and finished.parcel is not None:
                self._network.send(self, finished.to, finished.parcel)
        if not self._local.idle and not self._local.done:
            self._begin_step()

    def _receive(self, message: Send) -> None:
        self._incarnation, self._in_flight = message.incarnation, False
        leases = [work(lease) for lease in message.leases]
        self._local.receive(message.version, message.weights, leases, message.mass, summed=message.summed)
        if message.greet is not None:
            self._network.send(self, message.greet, self._local.share())
        if message.report:
            self._network.report(self, reported(self.worker, self._incarnation, self._local.report()))

    def _begin_step(self) -> None:
        self._stepping = True
        life, started_s = self.life, self._clock.now
        span_s = self._speed.duration_s(started_s, self._local.next_size)
        self._clock.after(span_s, lambda: self._end_step(life, started_s))

    def _end_step(self, life: int, started_s: float) -> None:
        if not self.alive or life != self.life:
            return
        if self._clock.now < self.frozen_until_s:
            self._clock.at(self.frozen_until_s, lambda: self._end_step(life, started_s))
            return
        with self._named():
            self._local.step()
        self._local.note_busy(self._clock.now - started_s)
        self._stepping = False
        self._advance(life)

    @contextmanager
    def _named(self) -> Iterator[None]:
        """Say which worker diverged."""
        try:
            yield
        except DivergedError as error:
            raise DivergedError(f"{error} of worker {self.worker}") from None
