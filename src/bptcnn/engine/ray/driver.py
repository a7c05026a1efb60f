"""The Ray engine's driver: starts server and workers, carries out what the server orders, and shows how it goes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from bptcnn import checkpoint
from bptcnn.engine.auto import settle
from bptcnn.engine.facts import Facts
from bptcnn.engine.job import Job
from bptcnn.engine.observer import Observer, Result
from bptcnn.engine.ray.cluster import cluster, this_node
from bptcnn.engine.ray.crew import Crew, shared
from bptcnn.engine.ray.evaluation import Evaluator
from bptcnn.engine.ray.notices import Notices
from bptcnn.engine.ray.reach import Reach
from bptcnn.engine.ray.scouts import survey
from bptcnn.engine.ray.server import Order, Report, ServerActor
from bptcnn.engine.ray.signals import StopSignals
from bptcnn.errors import BptcnnError
from bptcnn.folder import RunFolder
from bptcnn.inner.machine.devices import device_named
from bptcnn.inner.machine.threads import one_thread
from bptcnn.models import FlatModel
from bptcnn.outer.messages import Dismiss, Evaluate, Evaluated, Finish, Replace
from bptcnn.outer.rules import Auto

POLL_S = 0.2
"""Between two looks at the server."""

FAREWELL_S = 1.0
"""How long a run that is over waits for what its workers tell of their last steps; most have ended by then."""

STOPPING = "stopping: the last checkpoint is being written (Ctrl-C again ends at once)"
"""The answer to the first Ctrl-C."""


class RayEngine:
    """One run.

    Args:
        job: what to train.
        folder: where records go, on this machine.
        observer: who is told.
        address: of a running cluster; None starts one here.
    """

    def __init__(self, job: Job, folder: RunFolder, observer: Observer, address: str | None) -> None:
        self._job, self._folder, self._observer, self._address = job, folder, observer, address
        self._signals = StopSignals()
        self._notices = Notices(observer, job.config.workers.speeds)
        self._session = -1
        self._told: set[int] = set()
        self._finish: Finish | None = None
        self._error: BptcnnError | None = None
        self._began_s = self._setup_s = 0.0

    def run(self) -> Result:
        """Train to the end, to Ctrl-C, or to an error.

        Returns:
            The result, with the error if the user's own code failed.

        Raises:
            ClusterError: the cluster cannot be reached, or the server does not come back.
            ConfigError: the device that the user asked for is not there.
            RunFolderError: its folder cannot be written, or the newest checkpoint is damaged.
            TrainingError: network or data cannot be sent to other processes.
        """
        self._check()
        self._began_s = time.monotonic()
        config = self._job.config
        with one_thread(), self._signals, cluster(self._address, config.workers.count) as num_machines:
            self._signals.listen()
            self._signals.interrupt_if_received()
            self._start(per_machine=-(-config.workers.count // num_machines))
            try:
                summary, weights = self._watch()
                steps = self._crew.last_steps(FAREWELL_S)
            finally:
                self._signals.end()
                self._end()
        self._notices.conclude(summary)
        summary |= {"setup_seconds": self._setup_s}
        return Result(summary, weights, tuple(self._notices.texts), self._error, steps)

    def _check(self) -> None:
        """Find out before anything is started that the run cannot go on."""
        newest = checkpoint.newest(self._folder.checkpoints_path)
        if newest is not None:
            checkpoint.load(newest)
        if self._address is None and not ray.is_initialized():  # else workers are perhaps on better machines
            device_named(self._job.config.workers.device)

    # ---------------------------------------------------------------------------------------- start

    def _start(self, per_machine: int) -> None:
        model = FlatModel(self._job.network())
        job = shared(self._job)
        if isinstance(self._job.config.strategy, Auto):
            self._choose(survey(self._job, job, model.snapshot(), per_machine, self._signals.interrupt_if_received))
        setup = self._job.setup(num_weights=model.num_weights, session=0)
        here = NodeAffinitySchedulingStrategy(this_node(), soft=False)
        actor: Any = ray.remote(ServerActor).options(
            num_cpus=0, max_restarts=-1, max_task_retries=0, max_concurrency=10_000, scheduling_strategy=here
        )
        server = actor.remote(setup, self._job.config, self._folder.path.resolve())
        self._server = Reach(server, self._folder.path)
        self._first = ray.put(model.snapshot())
        self._evaluator = Evaluator(model, self._job.test)
        self._crew = Crew(job, server, self._job.config, per_machine, peers=self._job.rule.meets == "peers")
        for worker in range(self._job.config.workers.count):
            self._crew.start(worker)

    def _choose(self, facts: Facts) -> None:
        """Decide what the recipe left open, and write it down before anything happens that would depend on it."""
        config, sentence = settle(self._job.config, facts)
        self._folder.write_config(config.to_toml())
        self._job = replace(self._job, config=config)
        self._notices.say(sentence)

    def _end(self) -> None:
        self._evaluator.close()
        self._crew.end_all()
        self._server.end()

    # ---------------------------------------------------------------------------------------- watch

    def _watch(self) -> tuple[dict[str, Any], Any]:
        """Carry out what the server orders until the run is over and its last evaluation is in."""
        while True:
            while self._finish is None or self._evaluator.busy:
                self._turn()
            result: tuple[dict[str, Any], Any] | None = self._server.ask("result")
            if result is not None:  # else the server died before it could answer, and goes on
                return result
            self._finish = None

    def _turn(self) -> None:
        with self._blame():
            self._crew.look(POLL_S)
        if self._finish is None:
            self._stop_if_due()
        report: Report = self._server.ask("poll", self._first)
        self._greet(report)
        for order in report.orders:
            self._carry_out(order)
        if self._finish is None:
            self._tell_losses()
        measured: list[tuple[Evaluated, int]] = []
        with self._blame():
            measured = self._evaluator.finished()
        for event, session in measured:
            self._server.ask("evaluated", event, session)
        self._show(report)

    @contextmanager
    def _blame(self) -> Iterator[None]:
        """Keep the first error of the user's own code: it ends the run, but in order."""
        try:
            yield
        except BptcnnError as error:
            self._error = self._error or error

    def _stop_if_due(self) -> None:
        """Ask for the end, again after each restart of the server."""
        if self._error is not None:
            self._server.ask("stop", "failed", str(self._error))
        elif self._signals.received:
            self._notices.say_once(STOPPING)
            self._server.ask("stop", "interrupted", "the user asked to stop")

    def _greet(self, report: Report) -> None:
        """A server that was restarted knows nothing of what its earlier life ordered or was told."""
        if self._session not in (-1, report.session):
            self._notices.say("the server died: it goes on from its newest checkpoint")
            self._finish = None
            self._told.clear()
        self._session = report.session

    def _carry_out(self, order: Order) -> None:
        match order:
            case Replace():
                self._notices.say(f"worker {order.worker} is replaced: {order.reason}")
                self._crew.start(order.worker)
                self._told.discard(order.worker)
            case Dismiss():
                self._notices.say(f"worker {order.worker} is given up, its data goes to the others: {order.reason}")
                self._crew.end(order.worker, order.reason)
                self._told.add(order.worker)
            case Evaluate():
                self._evaluator.submit(order, self._session)
            case Finish():
                self._finish = order

    def _tell_losses(self) -> None:
        """Tell the server, once, of each worker that has no process."""
        for worker, reason in self._crew.idle.items():
            if worker not in self._told:
                self._server.ask("lost", worker, reason)
                self._told.add(worker)

    # ----------------------------------------------------------------------------------------- show

    def _show(self, report: Report) -> None:
        if not self._setup_s and any(row.state == "training" for row in report.status.workers):
            self._setup_s = time.monotonic() - self._began_s
        for text in report.notices:
            self._notices.say_once(f"{text}; training goes on")
        if self._evaluator.skipped:
            self._notices.say_once(
                "testing takes longer than training, so some tests are left out: raise evaluation.every"
            )
        self._notices.look(report.status)
        self._observer.status(report.status)
