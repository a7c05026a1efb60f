"""A worker as a Ray actor: it trains, and talks to the server without waiting for it where the rule allows."""

from __future__ import annotations

import sys
import time
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np
import ray
import torch

from bptcnn.engine.job import Job
from bptcnn.engine.ray.failure import described
from bptcnn.engine.ray.fate import die_with_parent
from bptcnn.engine.ray.server import Answer
from bptcnn.engine.translate import pushed, work
from bptcnn.errors import ConfigError, DivergedError, WorkerError
from bptcnn.inner import LocalWorker, Throttle
from bptcnn.inner.account import LastStep
from bptcnn.inner.machine.devices import device_named
from bptcnn.inner.machine.hardware import num_cores
from bptcnn.inner.machine.memory import keep_memory
from bptcnn.outer.messages import Refuse, Send

PROBE_STEPS = 2
"""Timed local steps that a worker's first speed is measured on, after one that warms up."""

SWITCH_S = 0.0005
"""How long either thread may keep the interpreter from the other; Python's default is ten times that."""

RETRY_S = 0.25
"""Pause before a worker asks again for a server that is being restarted."""

LOST_SERVER_S = 240.0
"""After so long without a server a worker gives up; longer than the driver, which then says so."""


class WorkerActor:
    """Trains until the server says that the run is over.

    Args:
        worker: its number.
        job: what to train; its arrays lie in shared memory.
        server: handle of the server actor.
        samples_per_s: emulated speed; None for as fast as it can.
        per_machine: workers that share this machine's cores.
    """

    def __init__(self, worker: int, job: Job, server: Any, samples_per_s: float | None, per_machine: int) -> None:
        die_with_parent()
        keep_memory()
        self._threads = job.config.workers.threads or max(1, num_cores() // per_machine)
        torch.set_num_threads(self._threads)
        torch.manual_seed(job.config.seed * 1_000_003 + worker)
        self._worker = worker
        self._job = job
        self._server = server
        self._throttle = Throttle(samples_per_s, clock=time.perf_counter, sleep=time.sleep) if samples_per_s else None
        self._messenger = ThreadPoolExecutor(1)
        self._device = torch.device("cpu")
        sys.setswitchinterval(SWITCH_S)

    def run(self) -> LastStep | None:
        """Take part until the end.

        Returns:
            The account of the last step; None if it was not compiled.

        Raises:
            ConfigError: the device that the user asked for is not there.
            WorkerError: the user's model or data set failed.
        """
        try:
            self._device = device_named(self._job.config.workers.device, self._worker)
            self._learner = self._job.learner(self._job.network(), self._threads, self._device)
            self._stay(self._measure())
            return self._learner.last_step()
        except (ray.exceptions.RayError, ConfigError):
            raise  # the server's, or Ray's own; or the user's, who is told in the same words
        except Exception as error:
            raise WorkerError(f"worker {self._worker} failed: {described(error)}") from error

    def _stay(self, speed: float) -> None:
        """Join the server, and join again each time it was restarted from its checkpoint."""
        gone_s: float | None = None
        while True:
            try:
                session = ray.get(self._server.session.remote())
                gone_s = None
                answer = self._train(speed)
                if not isinstance(answer, Refuse) or session == ray.get(self._server.session.remote()):
                    return
            except DivergedError as error:
                ray.get(self._server.stop.remote("diverged", f"{error} of worker {self._worker}"))
                return
            except ray.exceptions.RayActorError:
                gone_s = time.monotonic() if gone_s is None else gone_s
                if time.monotonic() - gone_s > LOST_SERVER_S:
                    raise
                time.sleep(RETRY_S)

    def _train(self, speed: float) -> Answer:
        """The life of one incarnation; returns what ended it."""
        local = self._job.local_worker(self._learner)
        call: Future[Answer] | None = self._ask("join", self._worker, speed)
        incarnation = 0
        while True:
            if call is not None and (local.idle or local.done or call.done()):
                answer = call.result()
                if not isinstance(answer, Send):
                    return answer
                call, incarnation = None, answer.incarnation
                local.receive(answer.version, answer.weights, [work(lease) for lease in answer.leases])
            elif local.done:
                message = pushed(self._worker, incarnation, local.finish())
                call = self._ask("push", replace(message, delta=None), message.delta)
            else:
                self._step(local)

    def _ask(self, method: str, *arguments: Any) -> Future[Answer]:
        """Call the server in a thread of its own: packing and unpacking weights must not hold up the steps either."""
        return self._messenger.submit(lambda: ray.get(getattr(self._server, method).remote(*arguments)))

    def _step(self, local: LocalWorker) -> None:
        started_s = time.perf_counter()
        num_samples = local.step()
        if self._throttle is not None:
            self._throttle.pace(num_samples, started_s)
        local.note_busy(time.perf_counter() - started_s)

    def _measure(self) -> float:
        """Time a few steps on a copy of the network that is thrown away; samples/s."""
        probe = self._job.learner(self._job.network(), self._threads, self._device)
        indices = np.arange(min(self._job.config.batch_size, len(self._job.train)))
        for step in range(1 + PROBE_STEPS):
            if step == 1:
                begun_s = time.perf_counter()
            started_s = time.perf_counter()
            with suppress(DivergedError):  # training will say so, and in which step
                probe.step(indices, epoch=0, lr=1e-6)
            if self._throttle is not None:
                self._throttle.pace(len(indices), started_s)
        return PROBE_STEPS * len(indices) / (time.perf_counter() - begun_s)
