"""The virtual engine: runs a job on a virtual clock, as fast as this machine can."""

from __future__ import annotations

import time
from collections import deque
from functools import partial

import torch

from bptcnn import checkpoint
from bptcnn.engine.job import Job
from bptcnn.engine.journal import Journal
from bptcnn.engine.observer import Observer, Result
from bptcnn.engine.server import Server, start_or_restore, write_checkpoint
from bptcnn.engine.summary import summarize
from bptcnn.engine.virtual.clock import Alarm, VirtualClock
from bptcnn.engine.virtual.faults import Fault, FaultPlan
from bptcnn.engine.virtual.interrupt import held_back
from bptcnn.engine.virtual.link import Link
from bptcnn.engine.virtual.process import Process
from bptcnn.engine.virtual.trace import Speeds, steady
from bptcnn.engine.virtual.wires import Wires
from bptcnn.errors import DivergedError
from bptcnn.folder import RunFolder
from bptcnn.inner import Parcel, accuracy_of
from bptcnn.inner.machine.devices import Device, device_named
from bptcnn.models import FlatModel
from bptcnn.outer.messages import (
    Command,
    Dismiss,
    Evaluate,
    Evaluated,
    Event,
    Finish,
    Reduce,
    Refuse,
    Replace,
    Send,
    StopRequested,
    TimePassed,
    WorkerLost,
)

DETECTION_S = 0.02
"""From a process's death to the notice of it, as measured on Ray."""

RESTART_S = 2.0
"""From a decision to replace a process to its joining, as measured on Ray."""

DEFAULT_SPEED = 1000.0
"""Samples/s of a worker whose speed is not given."""

REFRESH_S = 0.25
"""Real seconds between two reports to the observer."""


class Simulation:
    """One run.

    Args:
        job: what to train.
        folder: where records go.
        observer: who is told.
        link: the network between each worker and the server.
        faults: what goes wrong, and when.
        timing_only: leave the arithmetic out.
        traces: how each worker's speed changes.
        handling_s: how long the server is busy with one push and its answer, virtual seconds.

    Raises:
        ConfigError: the device that the user asked for is not there.
    """

    def __init__(
        self,
        job: Job,
        folder: RunFolder,
        observer: Observer,
        link: Link,
        faults: FaultPlan,
        *,
        timing_only: bool,
        traces: Speeds = steady,
        handling_s: float = 0.0,
    ) -> None:
        self._job, self._folder, self._observer = job, folder, observer
        self._timing_only, self._traces = timing_only, traces
        # A GPU's sums have no fixed order, and its dropout is not seeded here: who wants that has to say so.
        asked = job.config.workers.device
        self._device: Device = "cpu" if timing_only or asked == "auto" else asked
        device_named(self._device)  # which is there, or nothing is written
        self._clock = VirtualClock()
        self._model = FlatModel(job.network())
        self._wires = Wires(self._clock, link, job, self._model.num_weights, self._deliver, self._hand, handling_s)
        self._weights = None if timing_only else self._model.snapshot()
        self._journal = Journal(folder.events_path, folder.tensorboard_path, start_s=0.0)
        self._server: Server | None = self._start_server()
        self._pending: deque[tuple[Event, Process | None]] = deque()
        self._processes: dict[int, Process] = {}
        self._speeds: dict[int, float] = {}
        self._alarm = Alarm(self._clock, self._next_deadline_s, partial(self._deliver, TimePassed(), None))
        self._finished = False
        self._shown_s = float("-inf")
        self._notices: list[str] = []
        for fault in faults.faults:
            self._clock.at(fault.at_s, partial(self._break, fault))

    def run(self) -> Result:
        """Play the run to its end.

        Returns:
            The result.

        Raises:
            DivergedError: the loss is no longer a number; the last good weights are in the folder.
        """
        speeds = self._job.config.workers.speeds
        for worker in range(self._job.config.workers.count):
            self._speeds[worker] = speeds[worker] if speeds else DEFAULT_SPEED
            self._start_process(worker)
        with self._journal, held_back() as pressed, torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(self._job.config.seed)  # for networks with dropout
            while not self._finished and self._step():
                if pressed():
                    self.interrupt()
                if time.monotonic() - self._shown_s > REFRESH_S:
                    self._show()
        assert self._finished, "nothing left to happen, yet samples are not committed"
        assert self._server is not None
        self._show()
        coordinator = self._server.coordinator
        summary = summarize(self._job.config, coordinator, self._clock.now, engine="virtual")
        return Result(summary | {"setup_seconds": 0.0}, coordinator.model.average, tuple(self._notices))

    def interrupt(self) -> None:
        """End the run at this moment, with a final checkpoint; while the server is down, as soon as it is back."""
        if self._server is None:
            self._clock.after(RESTART_S, self.interrupt)
        elif not self._finished:
            self._deliver(StopRequested("interrupted", "the user asked to stop"), None)

    def _step(self) -> bool:
        try:
            return self._clock.step()
        except DivergedError as error:
            self._deliver(StopRequested("diverged", str(error)), None)
            return True

    def _show(self) -> None:
        self._shown_s = time.monotonic()
        try:
            if self._server is not None:
                self._observer.status(self._server.status(self._clock.now))
        except KeyboardInterrupt:
            self.interrupt()

    # --------------------------------------------------------------------------------------- server

    def _start_server(self) -> Server:
        session = self._folder.next_session() - 1
        setup = self._job.setup(num_weights=self._model.num_weights, session=session)
        coordinator = start_or_restore(setup, self._folder.checkpoints_path, self._weights, self._clock.now)
        newest = checkpoint.newest(self._folder.checkpoints_path)
        self._journal.session(session, self._clock.now, newest, "virtual")
        save = partial(write_checkpoint, self._folder.checkpoints_path, self._job.config.checkpoint.keep)
        return Server(coordinator, self._journal, save)

    def _deliver(self, event: Event, sender: Process | None) -> None:
        """Let the server handle an event, and all events that follow from it at this moment."""
        self._pending.append((event, sender))
        if len(self._pending) > 1:
            return
        while self._pending:
            first, process = self._pending[0]
            if self._server is not None:
                for command in self._server.handle(first, self._clock.now):
                    self._carry_out(command, process)
            self._pending.popleft()
        self._alarm.set()

    def _hand(self, worker: int, parcel: Parcel) -> bool:
        """Give a worker what another one sent; False if it has no process."""
        process = self._processes.get(worker)
        if process is None or not process.alive:
            return False
        process.take(parcel, process.life)
        return True

    def _carry_out(self, command: Command, sender: Process | None) -> None:
        match command:
            case Send():
                self._wires.answer(self._processes[command.worker], command)
            case Reduce():
                self._wires.order(self._processes[command.worker], command)
            case Refuse():
                assert sender is not None, "only a process that said something is refused"
                sender.stop()
            case Replace():
                self._end_process(command.worker)
                self._note(f"worker {command.worker} is replaced: {command.reason}")
                self._clock.after(RESTART_S, partial(self._restart_process, command.worker))
            case Dismiss():
                self._end_process(command.worker)
                self._note(f"worker {command.worker} is given up, its data goes to the others: {command.reason}")
            case Evaluate():
                self._evaluate(command)
            case Finish():
                self._finished = True

    def _evaluate(self, command: Evaluate) -> None:
        if command.weights is None:
            return
        self._model.load(command.weights)
        accuracy = accuracy_of(self._model.module, self._job.test)
        self._pending.append((Evaluated(command.version, command.committed, command.at_s, accuracy), None))

    def _next_deadline_s(self) -> float | None:
        return self._server.coordinator.next_deadline_s() if self._server else None

    # ------------------------------------------------------------------------------------ processes

    def _start_process(self, worker: int) -> None:
        learner = None
        if not self._timing_only:
            learner = self._job.learner(self._job.network(), device=device_named(self._device, worker))

        make_local = partial(self._job.local_worker, learner, worker)
        speed = self._traces(worker, self._speeds[worker])
        self._processes[worker] = Process(worker, speed, self._clock, self._wires, make_local, self._job.worker_end)

    def _restart_process(self, worker: int) -> None:
        """Start a process, unless it was ordered twice."""
        if worker not in self._processes:
            self._start_process(worker)

    def _end_process(self, worker: int) -> None:
        process = self._processes.pop(worker, None)
        if process is not None:
            process.stop()

    # --------------------------------------------------------------------------------------- faults

    def _break(self, fault: Fault) -> None:
        worker = int(fault.number)
        match fault.kind:
            case "kill":
                self._kill(worker)
            case "freeze" if worker in self._processes:
                self._processes[worker].frozen_until_s = self._clock.now + fault.span_s
            case "delay":
                self._wires.hold_up(worker, fault.span_s)
            case "duplicate":
                self._wires.double(worker)
            case "join":
                newcomer = max(self._speeds) + 1
                self._speeds[newcomer] = fault.number
                self._start_process(newcomer)
            case "crash" if self._server is not None:
                self._crash()

    def _kill(self, worker: int) -> None:
        process = self._processes.get(worker)
        if process is not None:
            process.stop()
            self._clock.after(DETECTION_S, partial(self._report_death, process))

    def _report_death(self, process: Process) -> None:
        """Tell the server, unless it has ended that process in the meantime."""
        if self._server is not None and self._processes.get(process.worker) is process:
            incarnation = self._server.coordinator.members[process.worker].incarnation
            self._deliver(WorkerLost(process.worker, incarnation, "its process died"), None)

    def _crash(self) -> None:
        self._server = None
        self._note("the server died: it goes on from its newest checkpoint")
        self._clock.after(RESTART_S, self._recover)

    def _recover(self) -> None:
        self._server = self._start_server()
        for worker in sorted(self._speeds):
            process = self._processes.get(worker)
            if process is not None and process.alive:
                process.join()
            else:
                self._start_process(worker)

    def _note(self, text: str) -> None:
        self._notices.append(text)
        self._observer.notice(text)
