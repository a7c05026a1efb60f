"""What an exchange costs the server, measured: a real coordinator takes real pushes, for a moment and for nothing."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bptcnn.config import RunConfig
from bptcnn.engine.forecast import FOR_EVER_S, Unseen, Weights
from bptcnn.engine.job import Job
from bptcnn.engine.journal import Journal
from bptcnn.engine.packing import Letter, WorkerEnd
from bptcnn.engine.ray.fate import die_with_parent
from bptcnn.engine.ray.frames import Address
from bptcnn.engine.ray.listener import Listener
from bptcnn.engine.ray.packers import Packers
from bptcnn.engine.server import Server
from bptcnn.outer import coordination
from bptcnn.outer.messages import Pushed, Send, Vector, WorkerJoined
from bptcnn.outer.rules import AsyncLocalSgd
from bptcnn.wire import Dtype

RULE = AsyncLocalSgd(momentum=0.0)
"""Nobody waits for anybody: all that there is to wait for is the server."""

NUM_SAMPLES = 1_000_000
"""More exchanges, of one sample each, than fit into a rehearsal."""


def _rehearsed(num_workers: int, num_weights: int, dtype: Dtype) -> Job:
    """A job that is all exchange: a push after each sample."""
    config = RunConfig(
        epochs=1,
        batch_size=1,
        workers={"count": num_workers},
        allocation={"name": "dynamic"},
        strategy=RULE,
        exchange={"every": 1, "dtype": dtype},
        checkpoint={"every_s": FOR_EVER_S},
        evaluation={"average": 0},  # at first each version is averaged, later few are
    )
    return Job(config, partial(Weights, num_weights), Unseen(NUM_SAMPLES), Unseen(1), None)


class DeskActor:
    """The server of a rehearsal.

    Args:
        num_workers: who take part, numbered from 0.
        weights: float32 [num_weights].
        path: folder for the journal, on this machine.
    """

    def __init__(self, num_workers: int, weights: Vector, path: Path) -> None:
        die_with_parent()
        torch.set_num_threads(1)
        self._num_workers, self._weights, self._path = num_workers, np.array(weights), path
        self._listener = Listener(self.answer)

    async def address(self) -> Address | None:
        """Where to connect to, as ``ServerActor.address``."""
        return self._listener.address()

    async def answer(self, request: Letter[Pushed] | Vector) -> Letter[Send] | Vector:
        """Take a push in as ``ServerActor.push`` would, or send a vector back.

        Args:
            request: the push or the vector.
        """
        if not isinstance(request, Letter):
            return request
        commands = self._server.handle(await self._end.open(request), time.monotonic())
        self._count += 1
        return await self._end.pack(next(command for command in commands if isinstance(command, Send)))

    async def rehearse(self, here: Any, dtype: Dtype, scouts: Sequence[Any]) -> float:
        """Let all push as fast as they can.

        Args:
            here: handle of this actor.
            dtype: how vectors travel.
            scouts: handles of those who push.

        Returns:
            Processor time that an exchange takes here, seconds: it does not count who waits for a slow link.
        """
        first, began_s = await self._open(dtype), time.process_time()
        calls = (scout.exchange.remote(here, dtype, first[worker]) for worker, scout in enumerate(scouts))
        await asyncio.gather(*calls, return_exceptions=True)
        self._journal.close()
        return (time.process_time() - began_s) / max(1, self._count)

    async def _open(self, dtype: Dtype) -> dict[int, Letter[Send]]:
        """Begin anew; each worker's first answer."""
        self._count = 0
        job = _rehearsed(self._num_workers, len(self._weights), dtype)
        coordinator = coordination.begin(job.setup(num_weights=len(self._weights), session=0), self._weights)
        self._journal = Journal(self._path / f"{dtype}.jsonl", self._path / dtype, time.time())
        self._server = Server(coordinator, self._journal, save=lambda tree: None)
        self._end = Packers(job.server_end(), self._weights.nbytes)
        now = time.monotonic()
        joined = [self._server.handle(WorkerJoined(worker, 1.0), now) for worker in range(self._num_workers)]
        sent = [command for commands in joined for command in commands if isinstance(command, Send)]
        return {answer.worker: await self._end.pack(answer) for answer in sent}


def exchange(
    dtype: Dtype, first: Letter[Send], deliver: Callable[[Letter[Pushed]], Letter[Send]], until: Callable[[], bool]
) -> None:
    """A worker's part: push, without a step in between, as often as there is time, at least once.

    Args:
        dtype: how vectors travel.
        first: its first answer.
        deliver: brings a push to the server and the answer back.
        until: whether the time is over.
    """
    end = WorkerEnd(RULE, dtype)
    answer = end.open(first)
    assert answer.weights is not None
    delta, leases, count = 1e-6 * answer.weights, deque(answer.leases), 0
    while not (count and until()):
        count, lease = count + 1, leases.popleft()
        push = Pushed(
            worker=answer.worker,
            incarnation=answer.incarnation,
            sequence=count,
            lease=lease.id,
            base_version=answer.version,
            steps=1,
            samples=lease.size,
            busy_s=1e-3,
            loss=0.0,
            accuracy=0.0,
            delta=delta,
        )
        answer = end.open(deliver(end.pack(push)))
        leases.extend(answer.leases)
