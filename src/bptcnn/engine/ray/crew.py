"""The workers' processes, as the driver sees them."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import replace
from typing import Any

import ray

from bptcnn.config import RunConfig
from bptcnn.engine.job import Job
from bptcnn.engine.ray.failure import described
from bptcnn.engine.ray.worker import WorkerActor
from bptcnn.errors import BptcnnError, TrainingError, WorkerError
from bptcnn.inner.account import LastStep


class Crew:
    """Starts, ends and watches processes; it decides nothing.

    Args:
        job: reference to what they train.
        server: handle of the server actor.
        config: the recipe, which may have been chosen after the job was sent.
        per_machine: workers that share a machine.
        peers: whether workers call one another while they train.
    """

    def __init__(self, job: Any, server: Any, config: RunConfig, per_machine: int, *, peers: bool) -> None:
        self._job, self._server, self._config = job, server, config
        self._speeds, self._per_machine = config.workers.speeds, per_machine
        self._calls = 2 if peers else 1
        self._handles: dict[int, Any] = {}
        self._running: dict[Any, int] = {}
        self._over: dict[int, Any] = {}
        self.idle: dict[int, str] = {}
        """Workers without a process, and why."""

    def start(self, worker: int) -> None:
        """Start a worker, in the place of what is left of an earlier process.

        Args:
            worker: its number.
        """
        self.end(worker, "it is started anew")
        actor: Any = ray.remote(WorkerActor).options(
            num_cpus=1, max_restarts=0, max_concurrency=self._calls, scheduling_strategy="SPREAD"
        )
        speed = self._speeds[worker] if self._speeds else None
        self._handles[worker] = handle = actor.remote(
            worker, self._job, self._server, speed, self._per_machine, self._config
        )
        self._running[handle.run.remote()] = worker
        del self.idle[worker]

    def end(self, worker: int, reason: str) -> None:
        """Kill a worker's process if there is one; Ray also kills one that is stopped, after five seconds.

        Args:
            worker: its number.
            reason: why it has none.
        """
        self._running = {call: other for call, other in self._running.items() if other != worker}
        if worker in self._handles:
            ray.kill(self._handles.pop(worker))
        self.idle[worker] = reason

    def end_all(self) -> None:
        """Kill all processes."""
        for handle in self._handles.values():
            ray.kill(handle)

    def look(self, timeout_s: float) -> None:
        """Wait for a process to end, for so long at most; who ended is idle from then on.

        Raises:
            WorkerError: the user's own code failed.
        """
        if not self._running:
            time.sleep(timeout_s)
            return
        ended, _ = ray.wait(list(self._running), num_returns=1, timeout=timeout_s)
        for call in ended:
            worker = self._running.pop(call)
            self.idle[worker] = _epitaph(worker, call)
            self._over[worker] = call

    def last_steps(self, timeout_s: float) -> dict[int, LastStep]:
        """What workers tell that have ended in order, as each does when it hears that the run is over.

        Args:
            timeout_s: how long to wait for those that have not.

        Returns:
            By worker; those that died, stand still or were served by PyTorch have nothing to tell.
        """
        if self._running:
            ended, _ = ray.wait(list(self._running), num_returns=len(self._running), timeout=timeout_s)
            self._over |= {self._running.pop(call): call for call in ended}
        steps: dict[int, LastStep] = {}
        for worker, call in sorted(self._over.items()):
            with suppress(ray.exceptions.RayError):  # the run is over: who died now, and of what, changes nothing
                steps[worker] = ray.get(call, timeout=timeout_s)
        return {worker: step for worker, step in steps.items() if step is not None}


def _epitaph(worker: int, call: Any) -> str:
    """Why a process ended."""
    try:
        ray.get(call)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, BptcnnError):
            raise error.cause from error
        raise
    except ray.exceptions.RayError as error:
        if getattr(error, "actor_init_failed", False):
            last = str(error).strip().splitlines()[-1]
            raise WorkerError(f"worker {worker} cannot start: {last}") from error
        return "its process died"
    return "it had nothing more to do"


def shared(job: Job) -> Any:
    """Put a job where all workers find it; the test set stays with the driver.

    Args:
        job: what they train.

    Returns:
        A reference to it.

    Raises:
        TrainingError: network or data cannot be sent to other processes.
    """
    try:
        return ray.put(replace(job, test=job.train))
    except Exception as error:  # whatever the user's objects raise when they are pickled
        raise TrainingError(
            f"the network or the data set cannot be sent to other processes ({described(error.__cause__ or error)}): "
            "open files and connections in __getitem__, when they are first needed"
        ) from error
