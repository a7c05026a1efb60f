"""What ``auto`` decides from, measured: a short-lived actor in the place of each worker."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import harmonic_mean
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import ray
import torch
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from bptcnn.engine.auto import DTYPES
from bptcnn.engine.facts import Facts, spread_of
from bptcnn.engine.job import Job
from bptcnn.engine.packing import Letter
from bptcnn.engine.ray.channel import connected
from bptcnn.engine.ray.cluster import this_node
from bptcnn.engine.ray.failure import described
from bptcnn.engine.ray.fate import die_with_parent
from bptcnn.engine.ray.probe import step_speeds, throttle
from bptcnn.engine.ray.rehearsal import DeskActor, exchange
from bptcnn.engine.virtual import Link
from bptcnn.errors import BptcnnError, ClusterError, ConfigError, ServerLostError, WorkerError
from bptcnn.inner.machine.devices import device_named
from bptcnn.inner.machine.hardware import num_cores
from bptcnn.inner.machine.memory import keep_memory
from bptcnn.outer.messages import Send, Vector
from bptcnn.wire import Dtype

NUM_STEPS = 6
"""Timed local steps of each worker at least; enough to see whether its speed changes."""

BUDGET_S = 1.0
"""Fast workers time more of them within so long."""

TRIPS = 3
"""How often weights travel to the server and back; the first trip, on a connection that is new, does not count."""

REHEARSAL_S = 0.3
"""How long workers push without steps in between, for each way in which weights may travel."""

PATIENCE_S = 20.0
"""How long all of that may take; on slow links it is the links that count, not the server."""

POLL_S = 0.2
"""Between two looks whether the user pressed Ctrl-C."""


class ScoutActor:
    """Does what the worker in its place would do, for a moment.

    Args:
        worker: its number.
        job: what to train; its arrays lie in shared memory.
        samples_per_s: emulated speed; None for as fast as it can.
        per_machine: workers that share this machine's cores.
    """

    def __init__(self, worker: int, job: Job, samples_per_s: float | None, per_machine: int) -> None:
        die_with_parent()
        keep_memory()
        self._worker, self._job, self._speed = worker, job, samples_per_s
        self._threads = job.config.workers.threads or max(1, num_cores() // per_machine)
        self._ask: Callable[[Any], Any] | None = None

    def speeds(self) -> list[float]:
        """Time local steps.

        Returns:
            Samples/s of each.

        Raises:
            ConfigError: the device that the user asked for is not there.
            WorkerError: the user's model or data set failed.
        """
        torch.set_num_threads(self._threads)
        try:
            device = device_named(self._job.config.workers.device, self._worker)
            return step_speeds(self._job, self._threads, device, throttle(self._speed), NUM_STEPS, BUDGET_S)
        except ConfigError:
            raise
        except Exception as error:
            raise WorkerError(f"worker {self._worker} failed: {described(error)}") from error

    def trip(self, desk: Any, num_weights: int) -> float:
        """Have a vector go to the server and come back.

        Args:
            desk: handle of the server's stand-in.
            num_weights: length of the vector.

        Returns:
            Seconds.
        """
        ask, vector = self._way(desk), np.zeros(num_weights, np.float32)
        started_s = time.perf_counter()
        ask(vector)
        return time.perf_counter() - started_s

    def exchange(self, desk: Any, dtype: Dtype, first: Letter[Send]) -> None:
        """Push, without a step in between, as often as there is time.

        Args:
            desk: handle of the server's stand-in.
            dtype: how vectors travel.
            first: its first answer.
        """
        until_s = time.monotonic() + REHEARSAL_S
        exchange(dtype, first, self._way(desk), lambda: time.monotonic() > until_s)

    def _way(self, desk: Any) -> Callable[[Any], Any]:
        self._ask = self._ask or connected(ray.get(desk.address.remote()), desk.answer)
        return self._ask


def survey(job: Job, shared: Any, vector: Vector, per_machine: int, look_up: Callable[[], None]) -> Facts:
    """Measure workers and links, all at once, as they will be at work.

    Args:
        job: what they are to train.
        shared: reference to it.
        vector: the weights, float32 [num_weights].
        per_machine: workers that share a machine.
        look_up: is called now and then while there is nothing to do but wait; may raise.

    Returns:
        The facts of all workers that answered within the time for which a run waits for them.

    Raises:
        BptcnnError: the user's own code failed.
        ClusterError: no worker answered.
    """
    workers, until_s = job.config.workers, time.monotonic() + job.config.faults.join_s
    actor: Any = ray.remote(ScoutActor).options(num_cpus=1, max_restarts=0, scheduling_strategy="SPREAD")
    emulated = workers.speeds or (None,) * workers.count
    scouts = {worker: actor.remote(worker, shared, emulated[worker], per_machine) for worker in range(workers.count)}
    try:
        speeds = _answers({worker: scout.speeds.remote() for worker, scout in scouts.items()}, until_s, look_up)
        with _desk(len(speeds), vector) as desk:
            there = {worker: scouts[worker] for worker in speeds}
            short = _round_trips(there, desk, 1, until_s, look_up)
            long = _round_trips({worker: scouts[worker] for worker in short}, desk, len(vector), until_s, look_up)
            if not long:
                raise ClusterError(
                    f"none of {workers.count} workers could be measured within {job.config.faults.join_s:g} s: "
                    "choose a rule with --strategy, or raise faults.join_s"
                )
            handling_s = _handling_s([scouts[worker] for worker in long], desk, look_up)
    finally:
        for scout in scouts.values():
            ray.kill(scout)
    return Facts(
        speeds=tuple(harmonic_mean(speeds[worker]) for worker in long),
        links=tuple(_link(short[worker], long[worker], 2 * vector.nbytes) for worker in long),
        num_weights=len(vector),
        batch_size=job.config.batch_size,
        num_samples=len(job.train),
        spread=spread_of(speeds[worker] for worker in long),
        handling_s=handling_s,
    )


@contextmanager
def _desk(num_workers: int, vector: Vector) -> Iterator[Any]:
    """A stand-in for the server, where the server will be."""
    here = NodeAffinitySchedulingStrategy(this_node(), soft=False)
    actor: Any = ray.remote(DeskActor).options(num_cpus=0, max_restarts=0, scheduling_strategy=here)
    with TemporaryDirectory(ignore_cleanup_errors=True) as path:  # a desk that is ended early may be writing yet
        desk = actor.remote(num_workers, vector, Path(path))
        try:
            yield desk
        finally:
            ray.kill(desk)


def _handling_s(scouts: Sequence[Any], desk: Any, look_up: Callable[[], None]) -> dict[Dtype, float]:
    """How long the server is busy with one exchange, seconds, by how weights travel; nothing if that takes too long."""
    found: dict[Dtype, float] = {}
    until_s = time.monotonic() + PATIENCE_S
    for dtype in DTYPES:
        answers = _answers({0: desk.rehearse.remote(desk, dtype, scouts)}, until_s, look_up)
        if not answers:
            return {}
        found[dtype] = answers[0]
    return found


def _link(short_s: float, long_s: float, num_bytes: int) -> Link:
    """The link on which a round trip takes so long without and with so many bytes."""
    return Link(num_bytes / (long_s - short_s) if long_s > short_s else float("inf"), short_s / 2)


def _round_trips(
    scouts: Mapping[int, Any], desk: Any, num_weights: int, until_s: float, look_up: Callable[[], None]
) -> dict[int, float]:
    """The shortest time in which a vector of each worker went to the server and came back, seconds."""
    best: dict[int, float] = {}
    for trip in range(TRIPS):
        calls = {worker: scout.trip.remote(desk, num_weights) for worker, scout in scouts.items()}
        times = _answers(calls, until_s, look_up)
        if trip:
            best = {worker: min(took_s, best.get(worker, took_s)) for worker, took_s in times.items()}
        scouts = {worker: scouts[worker] for worker in times}
    return best


def _answers(calls: Mapping[int, Any], until_s: float, look_up: Callable[[], None]) -> dict[int, Any]:
    """What each worker answers; whoever is late or dead is left out."""
    waiting = {call: worker for worker, call in calls.items()}
    found: dict[int, Any] = {}
    while waiting and time.monotonic() < until_s:
        look_up()
        ended, _ = ray.wait(list(waiting), num_returns=1, timeout=POLL_S)
        for call in ended:
            worker = waiting.pop(call)
            try:
                found[worker] = ray.get(call)
            except ray.exceptions.RayTaskError as error:
                if isinstance(error.cause, ServerLostError | ray.exceptions.RayActorError):
                    continue  # the desk died, or it was cut off
                if isinstance(error.cause, BptcnnError):
                    raise error.cause from error
                raise
            except ray.exceptions.RayError:
                pass  # it died: training will find out whether it does so again
    return dict(sorted(found.items()))
