"""The parameter server as a Ray actor: one event loop, so each step of the coordinator is atomic without a lock."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import torch

from bptcnn import checkpoint
from bptcnn.config import RunConfig
from bptcnn.engine.journal import Journal
from bptcnn.engine.packing import Letter, ServerEnd
from bptcnn.engine.ray.calls import Calls
from bptcnn.engine.ray.fate import die_with_parent
from bptcnn.engine.ray.frames import Address
from bptcnn.engine.ray.listener import Listener
from bptcnn.engine.ray.packers import Packers
from bptcnn.engine.ray.past import hold, look_back
from bptcnn.engine.ray.ring import MeetingPoint
from bptcnn.engine.ray.saves import Saves
from bptcnn.engine.server import Server, start_or_restore
from bptcnn.engine.summary import summarize
from bptcnn.errors import RunFolderError
from bptcnn.folder import RunFolder
from bptcnn.outer.coordinator import Setup
from bptcnn.outer.messages import (
    Command,
    Dismiss,
    Evaluate,
    Evaluated,
    Event,
    Finish,
    Outcome,
    Pushed,
    Reduce,
    Reduced,
    Refuse,
    Replace,
    Reported,
    Send,
    StopRequested,
    TimePassed,
    Vector,
    WorkerJoined,
    WorkerLost,
)
from bptcnn.outer.status import Status

TICK_S = 0.25
"""How often deadlines are looked at."""

Answer: TypeAlias = Letter[Send] | Reduce | Refuse | Finish
Order: TypeAlias = Replace | Dismiss | Evaluate | Finish


class Report(NamedTuple):
    """What the driver polls: which life of the server speaks, the job's status, orders to carry out, and notices."""

    session: int
    status: Status
    orders: list[Order]
    notices: list[str]


class ServerActor:
    """Carries the server's messages.

    A worker's call is answered when the coordinator sends to that worker: at once, or when a round is complete. If the
    process dies, Ray makes it anew; the driver's next look opens the run again, from the newest checkpoint.

    Args:
        setup: the coordinator's fixed facts; the session number is counted here.
        config: the recipe.
        path: the run folder, on this machine.
    """

    def __init__(self, setup: Setup, config: RunConfig, path: Path) -> None:
        die_with_parent()
        torch.set_num_threads(1)
        self._setup, self._config, self._folder = setup, config, RunFolder.peek(path)
        self._opened = asyncio.Event()
        self._saves = Saves(self._folder.checkpoints_path, config.checkpoint.keep)
        self._calls = Calls[Send | Reduce | Refuse | Finish]()
        self._orders: list[Order] = []
        self._handles: dict[int, Any] = {}
        self._meeting_point = MeetingPoint()
        self._end = Packers(ServerEnd(setup.strategy, setup.exchange.dtype), setup.sizes.full)
        self._listener = Listener(self.push)

    def _open(self, first: Vector) -> None:
        """Begin a session: alone, on the run's own clock, from the newest checkpoint or the first weights."""
        folder = self._folder
        self._lock = hold(folder.events_path)
        self._session = folder.next_session() - 1
        past = look_back(folder.events_path)
        self._origin_s = time.monotonic() - past.ended_s
        self._journal = Journal(folder.events_path, folder.tensorboard_path, time.time() - self._now())
        now, setup = self._now(), replace(self._setup, session=self._session)
        coordinator = start_or_restore(setup, folder.checkpoints_path, first, now)
        self._restored_version = coordinator.model.version
        self._server = Server(coordinator, self._journal, self._saves.begin)
        self._journal.session(self._session, now, checkpoint.newest(folder.checkpoints_path), "ray")
        for event in past.evaluated:
            self._adopt(event)
        self._ticker = asyncio.get_running_loop().create_task(self._tick())
        self._opened.set()

    # -------------------------------------------------------------------------------------- workers

    async def session(self) -> int:
        """Which life of the server this is; answered when the run is open."""
        await self._opened.wait()
        return self._session

    async def join(self, worker: int, samples_per_s: float, handle: Any = None) -> Answer:
        """A worker asks to take part.

        Args:
            worker: its number.
            samples_per_s: its calibrated speed.
            handle: of its actor, for other workers.

        Returns:
            Weights and leases, once there is work.
        """
        self._handles[worker] = handle
        return await self._call(worker, WorkerJoined(worker, samples_per_s))

    async def address(self) -> Address | None:
        """Where a worker may connect to, for its pushes; None where it is to call ``push``."""
        return self._listener.address()

    async def push(self, push: Letter[Pushed]) -> Answer:
        """A worker delivers a difference.

        Args:
            push: the difference as it travels, if it comes here, and all else.

        Returns:
            Weights and leases, once the merge is done and there is work.
        """
        return await self._call(push.message.worker, await self._end.open(push))

    async def report(self, message: Reported, weights: Vector, *, waits: bool) -> Answer | None:
        """A worker among others with weights of their own tells its own.

        Args:
            message: all but the weights.
            weights: float32 [num_weights].
            waits: whether it has nothing else to do.

        Returns:
            If so, leases, once there is work.
        """
        event = replace(message, weights=weights)
        if waits:
            return await self._call(message.worker, event)
        if self._opened.is_set():
            self._handle(event)
        return None

    async def reduced(self, message: Reduced, total: Vector | None) -> Answer:
        """A worker tells what became of a sum that it took part in.

        Args:
            message: all but the sum.
            total: the sum, float32 [num_weights], from the first of the team.

        Returns:
            Leases, once the sum counts; or the order to sum again.
        """
        return await self._call(message.worker, replace(message, delta=total))

    async def meeting_point(self) -> tuple[str, int]:
        """Host and port at which workers that sum learn how to reach one another."""
        return self._meeting_point.address

    async def peer(self, worker: int) -> Any:
        """The handle of a worker's actor; None if it has not joined."""
        return self._handles.get(worker)

    # --------------------------------------------------------------------------------------- driver

    async def poll(self, first: Vector) -> Report:
        """The status, and the orders since the last call; the first call of a life opens the run.

        Args:
            first: W(0), float32 [num_weights], for a run without a checkpoint.

        Raises:
            RunFolderError: the folder cannot be written, or its newest checkpoint is damaged.
        """
        if not self._opened.is_set():
            self._open(first)
        orders, self._orders = self._orders, []
        return Report(self._session, self._server.status(self._now()), orders, self._saves.failed())

    async def lost(self, worker: int, reason: str) -> None:
        """A worker has no process; the driver starts none before it is told to.

        Args:
            worker: its number.
            reason: why it has none.
        """
        known = any(isinstance(order, Replace | Dismiss) and order.worker == worker for order in self._orders)
        if self._opened.is_set() and not known:
            self._handle(WorkerLost(worker, self._server.coordinator.members[worker].incarnation, reason))

    async def stop(self, outcome: Outcome, reason: str) -> None:
        """End the run now.

        Args:
            outcome: what to call it.
            reason: one sentence.
        """
        if self._opened.is_set():
            self._handle(StopRequested(outcome, reason))

    async def evaluated(self, event: Evaluated, session: int) -> None:
        """Take an evaluation in.

        Args:
            event: the accuracy.
            session: the life that asked.
        """
        if self._opened.is_set() and session == self._session:
            self._handle(event)
        elif self._opened.is_set() and session == self._session - 1:
            self._adopt(event)

    async def result(self) -> tuple[dict[str, Any], Vector | None] | None:
        """Summary and final weights, the last checkpoint being on disk; None from a server that has yet to finish."""
        if not self._opened.is_set() or self._server.coordinator.outcome is None:
            return None
        await asyncio.to_thread(self._saves.close)
        self._journal.close()
        coordinator = self._server.coordinator
        return summarize(self._config, coordinator, self._now(), engine="ray"), coordinator.model.average

    # --------------------------------------------------------------------------------------- inside

    def _now(self) -> float:
        """The run's clock: seconds of all sessions, as the journal has them."""
        return time.monotonic() - self._origin_s

    async def _call(self, worker: int, event: Event) -> Answer:
        """Handle a worker's event and wait for its answer; a refused caller is not the one that others wait for."""
        await self._opened.wait()
        coordinator = self._server.coordinator
        if coordinator.outcome is not None:
            return Finish(coordinator.outcome, coordinator.reason)
        commands = self._decide(event)
        refusal = next((command for command in commands if isinstance(command, Refuse)), None)
        if refusal is not None:
            self._dispatch(commands)
            return refusal
        call = self._calls.begin(worker)
        self._dispatch(commands)
        answer = await call
        return await self._end.pack(answer) if isinstance(answer, Send) else answer

    def _adopt(self, event: Evaluated) -> None:
        """Take in what the session before measured too late for its last checkpoint, if that checkpoint has it."""
        known = (event.at_s, event.committed, event.accuracy) in self._server.coordinator.tally.history
        if event.version <= self._restored_version and not known:
            self._handle(event)

    def _handle(self, event: Event) -> None:
        self._dispatch(self._decide(event))

    def _decide(self, event: Event) -> list[Command]:
        try:
            return self._server.handle(event, self._now())
        except OSError as error:
            path = self._folder.path
            raise RunFolderError(
                f"cannot write to {str(path)!r} ({error.strerror}): make room, then go on with --resume {path}"
            ) from error

    def _dispatch(self, commands: list[Command]) -> None:
        for command in commands:
            if isinstance(command, Send | Reduce):
                self._calls.answer(command.worker, command)
            elif isinstance(command, Replace | Dismiss):
                self._calls.drop(command.worker)
            elif isinstance(command, Finish):
                self._calls.answer_all(command)
            if isinstance(command, Replace | Dismiss | Evaluate | Finish):
                self._orders.append(command)

    async def _tick(self) -> None:
        while self._server.coordinator.outcome is None:
            await asyncio.sleep(TICK_S)
            due = self._server.coordinator.next_deadline_s()
            if due is not None and due <= self._now():
                self._handle(TimePassed())
