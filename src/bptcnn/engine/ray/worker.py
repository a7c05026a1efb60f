"""A worker as a Ray actor: it trains, and talks to the server without waiting for it where the rule allows."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import replace
from statistics import harmonic_mean
from typing import Any, TypeAlias

import ray
import torch

from bptcnn.config import RunConfig
from bptcnn.engine.job import Job
from bptcnn.engine.packing import Letter, parcel_dtype
from bptcnn.engine.ray.channel import connected
from bptcnn.engine.ray.failure import described
from bptcnn.engine.ray.fate import die_with_parent
from bptcnn.engine.ray.post import Post
from bptcnn.engine.ray.probe import step_speeds, throttle
from bptcnn.engine.ray.ring import Ring
from bptcnn.engine.translate import pushed, reported, work
from bptcnn.errors import ClusterError, ConfigError, DivergedError, RunFolderError, ServerLostError, WorkerError
from bptcnn.inner import LocalWorker, Parcel, Recipient
from bptcnn.inner.account import LastStep
from bptcnn.inner.machine.devices import device_named
from bptcnn.inner.machine.hardware import num_cores
from bptcnn.inner.machine.memory import keep_memory
from bptcnn.outer.messages import Finish, Pushed, Reduce, Reduced, Refuse, Send
from bptcnn.wire import Wire, decode

PROBE_STEPS = 2
"""Timed local steps that a worker's first speed is measured on."""

SWITCH_S = 0.0005
"""How long either thread may keep the interpreter from the other; Python's default is ten times that."""

RETRY_S = 0.25
"""Pause before a worker asks again for a server that is being restarted."""

LOST_SERVER_S = 240.0
"""After so long without a server a worker gives up; longer than the driver, which then says so."""

Answer: TypeAlias = Send | Reduce | Refuse | Finish


class WorkerActor:
    """Trains until the server says that the run is over.

    Args:
        worker: its number.
        job: what to train; its arrays lie in shared memory.
        server: handle of the server actor.
        samples_per_s: emulated speed; None for as fast as it can.
        per_machine: workers that share this machine's cores.
        config: the recipe, if it was chosen after the job had been sent; None for the job's.
    """

    def __init__(
        self,
        worker: int,
        job: Job,
        server: Any,
        samples_per_s: float | None,
        per_machine: int,
        config: RunConfig | None = None,
    ) -> None:
        die_with_parent()
        keep_memory()
        job = job if config is None else replace(job, config=config)
        self._threads = job.config.workers.threads or max(1, num_cores() // per_machine)
        torch.manual_seed(job.config.seed * 1_000_003 + worker)
        self._worker = worker
        self._job = job
        self._server = server
        self._throttle = throttle(samples_per_s)
        self._messenger = ThreadPoolExecutor(1)
        self._post = Post(server, parcel_dtype(job.config.exchange.dtype))
        self._mixes = job.rule.meets == "peers"
        self._ring = Ring(server, worker)
        self._end = job.worker_end()
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
        torch.set_num_threads(self._threads)  # of this thread, which need not be the one that made the actor
        try:
            self._device = device_named(self._job.config.workers.device, self._worker)
            self._learner = self._job.learner(self._job.network(), self._threads, self._device)
            self._stay(self._measure())
            return self._learner.last_step()
        except (ray.exceptions.RayError, ClusterError, RunFolderError, ConfigError):
            raise  # the server's, or Ray's own; or the user's, who is told in the same words
        except Exception as error:
            raise WorkerError(f"worker {self._worker} failed: {described(error)}") from error

    def _stay(self, speed: float) -> None:
        """Join the server, and join again each time it was restarted from its checkpoint."""
        gone_s: float | None = None
        cut_in = -1
        while True:
            try:
                session = ray.get(self._server.session.remote())
                gone_s = None
                answer = self._train(speed, by_ray=session == cut_in)
                if not isinstance(answer, Refuse) or session == ray.get(self._server.session.remote()):
                    return
            except DivergedError as error:
                ray.get(self._server.stop.remote("diverged", f"{error} of worker {self._worker}"))
                return
            except ServerLostError:
                cut_in = session  # if this server lives, what cut the connection may do so again
            except ray.exceptions.RayActorError:
                gone_s = time.monotonic() if gone_s is None else gone_s
                if time.monotonic() - gone_s > LOST_SERVER_S:
                    raise
                time.sleep(RETRY_S)

    def _train(self, speed: float, *, by_ray: bool) -> Answer:
        """The life of one incarnation; returns what ended it."""
        for _ in self._post.received():
            pass  # of an earlier life of the server, which this one knows nothing of
        local, self._end = self._job.local_worker(self._learner, self._worker), self._job.worker_end()
        address = None if by_ray else ray.get(self._server.address.remote())
        self._deliver = connected(address, self._server.push)
        handle = ray.get_runtime_context().current_actor
        call: Future[Answer] | None = self._ask("join", self._worker, speed, handle)
        incarnation = 0
        while True:
            self._take_all(local, self._post.received())
            waits = local.idle or local.done
            if call is not None and (call.done() or (waits and not self._mixes)):
                answer = call.result()
                if isinstance(answer, Reduce):
                    call = self._sum(local, answer)
                elif isinstance(answer, Send):
                    incarnation = answer.incarnation
                    call = self._receive(local, answer)
                else:
                    return answer
            elif local.done and call is None:
                finished = local.finish()
                call = self._push(pushed(self._worker, incarnation, finished), waits=local.idle)
                if finished.to is not None and finished.parcel is not None:
                    self._post.send(finished.to, finished.parcel)
            elif waits:
                self._post.wait()  # for the server, or for another worker, who may want an answer
            else:
                self._step(local)

    def _receive(self, local: LocalWorker, answer: Send) -> Future[Answer] | None:
        """Take an answer in, and do at once what it asks for; returns the call that then waits for the next."""
        leases = [work(lease) for lease in answer.leases]
        local.receive(answer.version, answer.weights, leases, answer.mass, summed=answer.summed)
        if answer.greet is not None:
            self._post.send(answer.greet, local.share())
        if not answer.report:
            return None
        waits = not local.holds_work
        if waits:
            self._take_all(local, self._post.settle())
        message = reported(self._worker, answer.incarnation, local.report())
        call = self._ask("report", replace(message, weights=None), message.weights, waits=waits)
        return call if waits else None

    def _sum(self, local: LocalWorker, order: Reduce) -> Future[Answer]:
        """Sum with the team what all have learned; the first of the team hands the sum in."""
        part = local.part(order.scale)
        assert part is not None
        total, reason = self._ring.sum(order, part)
        local.take_sum(total)
        message = Reduced(self._worker, order.incarnation, order.attempt, total is not None, None, reason)
        return self._ask("reduced", message, total if order.team[0] == self._worker else None)

    def take(self, mass: float, weights: Wire, answer: Recipient | None) -> None:
        """Another worker sends its weights; they are mixed in between two steps.

        Args:
            mass: what they count for.
            weights: as they travel.
            answer: who wants an answer.
        """
        self._post.deliver(Parcel(mass, decode(weights), answer))

    def _take_all(self, local: LocalWorker, parcels: Iterable[Parcel]) -> None:
        for parcel in parcels:
            answer = local.take(parcel)
            if answer is not None:
                self._post.send(*answer)

    def _ask(self, method: str, *arguments: Any, **named: Any) -> Future[Answer]:
        """Call the server in a thread of its own: packing and unpacking weights must not hold up the steps either."""
        return self._submit(lambda: self._opened(ray.get(getattr(self._server, method).remote(*arguments, **named))))

    def _push(self, push: Pushed, *, waits: bool) -> Future[Answer]:
        """Push likewise; who has nothing else to do needs no other thread, and saves the time of handing over."""

        def call() -> Answer:
            return self._opened(self._deliver(self._end.pack(push)))

        if not waits or self._mixes:
            return self._submit(call)
        answered: Future[Answer] = Future()
        answered.set_result(call())
        return answered

    def _submit(self, call: Callable[[], Answer]) -> Future[Answer]:
        submitted = self._messenger.submit(call)
        if self._mixes:
            submitted.add_done_callback(lambda _: self._post.wake())
        return submitted

    def _opened(self, answer: Any) -> Answer:
        return self._end.open(answer) if isinstance(answer, Letter) else answer

    def _step(self, local: LocalWorker) -> None:
        started_s = time.perf_counter()
        with self._throttle.step(local.next_size) if self._throttle else nullcontext():
            local.step()
        local.note_busy(time.perf_counter() - started_s)

    def _measure(self) -> float:
        """Time a few steps; samples/s."""
        return harmonic_mean(step_speeds(self._job, self._threads, self._device, self._throttle, PROBE_STEPS))
