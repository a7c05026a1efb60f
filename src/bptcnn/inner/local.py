"""A worker's side of the exchange: leases in, steps, push out. No clock and no messages: an engine drives it."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from bptcnn.errors import DivergedError
from bptcnn.inner.exchange import Exchange, Vector
from bptcnn.inner.learner import Learner
from bptcnn.inner.mixing import Mixing, Parcel
from bptcnn.inner.optimizer import OptimizerConfig, ScheduleConfig
from bptcnn.inner.work import Finished, Work


class LocalWorker:
    """The leases a worker holds and how far it is.

    Args:
        batch_size: samples of a local step.
        optimizer: for the peak learning rate.
        schedule: learning rate over the run.
        learner: does the arithmetic; None to simulate timing only.
        exchange: sends weights to a server and takes in its answers; given with a learner, unless there is a mixing.
        mixing: sends weights to other workers and takes in theirs.
        smallest_step: samples from which on a local step goes its full way.

    Example:
        >>> import numpy as np
        >>> worker = LocalWorker(32, OptimizerConfig(), ScheduleConfig())
        >>> worker.receive(0, None, [Work(7, 1, np.arange(64), (0.0, 0.1))])
        >>> while not worker.done:
        ...     worker.note_busy(0.5 if worker.step() == 32 else 0.0)
        >>> finished = worker.finish()
        >>> finished.lease, finished.steps, finished.busy_s
        (7, 2, 1.0)
    """

    def __init__(
        self,
        batch_size: int,
        optimizer: OptimizerConfig,
        schedule: ScheduleConfig,
        learner: Learner | None = None,
        exchange: Exchange | None = None,
        mixing: Mixing | None = None,
        *,
        smallest_step: int = 1,
    ) -> None:
        self._batch_size = batch_size
        self._smallest_step = smallest_step
        self._optimizer = optimizer
        self._schedule = schedule
        self._learner = learner
        self._exchange = exchange
        self._mixing = mixing
        self._leases: deque[Work] = deque()
        self._base_version = 0
        self._sequence = 0
        self._steps_total = 0
        self._begin()

    def receive(
        self,
        version: int,
        weights: Vector | None,
        leases: list[Work],
        mass: float | None = None,
        *,
        summed: bool = False,
    ) -> None:
        """Take an answer in: fold the weights, queue the leases.

        Args:
            version: of the global weights.
            weights: float32 [num_weights]; None when only timing is simulated.
            leases: new work.
            mass: what the weights count for, where workers exchange among themselves.
            summed: whether the weights are those that the team has summed.
        """
        if self._mixing is not None and mass is not None:
            self._mixing.take(Parcel(mass, weights))
        if self._exchange is not None and weights is not None:
            self._exchange.fold(weights, ahead=self._step > 0)
        if self._exchange is not None and summed:
            self._exchange.fold_sum()
        self._base_version = version
        self._leases.extend(leases)

    def part(self, scale: float) -> Vector | None:
        """What goes into the sum of a team; None when only timing is simulated.

        Args:
            scale: its factor.
        """
        return self._exchange.part(scale) if self._exchange else None

    def take_sum(self, total: Vector | None) -> None:
        """Keep the sum of a team until the server says whether it counts.

        Args:
            total: float32 [num_weights]; None if it was lost, or only timing is simulated.
        """
        if self._exchange is not None:
            self._exchange.take_sum(total)

    def take(self, parcel: Parcel) -> tuple[int, Parcel] | None:
        """Take in what another worker sent, between two steps.

        Args:
            parcel: what came.

        Returns:
            Who gets an answer to it, and the answer, if one is due.
        """
        assert self._mixing is not None
        return self._mixing.take(parcel)

    def share(self) -> Parcel:
        """Half of what the weights count for, with the weights, for a worker that has none."""
        assert self._mixing is not None
        return self._mixing.share()

    def report(self) -> Parcel:
        """The weights as they were at the last push, and what they count for among the workers'."""
        assert self._mixing is not None
        return self._mixing.report(idle=not self._step)

    @property
    def holds_work(self) -> bool:
        """Whether there is something to train on."""
        return bool(self._leases)

    @property
    def idle(self) -> bool:
        """Whether there is nothing to train on, or no weights to train."""
        return not self._leases or (self._mixing is not None and not self._mixing.mass)

    @property
    def done(self) -> bool:
        """Whether the first lease is trained, as far as its time allows, and waits to be pushed."""
        if not self._leases or not self._step:
            return False
        lease, typical_s = self._leases[0], self._busy_s / self._step
        return self._step == self._num_steps(lease) or self._busy_s + typical_s / 2 > lease.span_s

    @property
    def next_size(self) -> int:
        """Samples of the next step."""
        start, stop = self._bounds()
        return stop - start

    def step(self) -> int:
        """Train one local step.

        Returns:
            Its samples.

        Raises:
            DivergedError: naming the step.
        """
        start, stop = self._bounds()
        lease = self._leases[0]
        if self._learner is not None:
            way = min(1.0, (stop - start) / self._smallest_step)
            lr = way * self._optimizer.lr * self._schedule.factor(self._progress(lease))
            try:
                result = self._learner.step(lease.indices[start:stop], lease.epoch, lr)
            except DivergedError as error:
                raise DivergedError(f"{error}, in local step {self._steps_total + 1}") from None
            self._loss += result.loss
            self._correct += result.correct
        self._step += 1
        self._steps_total += 1
        return stop - start

    def note_busy(self, seconds: float) -> None:
        """Add to the time spent in steps."""
        self._busy_s += seconds

    def finish(self) -> Finished:
        """Close the first lease and say what it brought.

        Raises:
            DivergedError: some weight is no longer finite; naming the step.
        """
        assert self.done
        lease, (size, _) = self._leases[0], self._bounds()
        self._sequence += 1
        finished = Finished(
            sequence=self._sequence,
            lease=lease.id,
            base_version=self._base_version,
            steps=self._step,
            samples=size,
            busy_s=self._busy_s,
            loss=self._loss / size,
            accuracy=self._quality(size),
            delta=self._outgoing(),
            to=None if lease.to is None else lease.to.worker,
            parcel=self._parcel(lease),
        )
        self._leases.popleft()
        self._begin()
        return finished

    def _begin(self) -> None:
        self._step = self._correct = 0
        self._loss = self._busy_s = 0.0

    def _num_steps(self, lease: Work) -> int:
        return lease.num_steps(self._batch_size, self._smallest_step)

    def _bounds(self) -> tuple[int, int]:
        lease = self._leases[0]
        size, steps = len(lease.indices), self._num_steps(lease)
        return size * self._step // steps, size * (self._step + 1) // steps

    def _progress(self, lease: Work) -> float:
        """How far the run is expected to be in the middle of this step."""
        start, stop = lease.progress
        return start + (stop - start) * (self._step + 0.5) / self._num_steps(lease)

    def _outgoing(self) -> Vector | None:
        if self._exchange is None:
            return None
        with self._located():
            learned = self._exchange.push()
        return None if self._exchange.summed else learned

    def _parcel(self, lease: Work) -> Parcel | None:
        with self._located():
            return self._mixing.leave(lease.to) if self._mixing else None

    @contextmanager
    def _located(self) -> Iterator[None]:
        """Say after which step the weights went wrong."""
        try:
            yield
        except DivergedError as error:
            raise DivergedError(f"{error}, after local step {self._steps_total}") from None

    def _quality(self, size: int) -> float:
        held_out = self._learner.validate() if self._learner else None
        return self._correct / size if held_out is None else held_out
