"""Lanes: threads that work a program's tasks off together."""

from __future__ import annotations

import ctypes
import os
import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from functools import cache

import numpy as np
import numpy.typing as npt

from bptcnn.inner.kernels import runner
from bptcnn.inner.kernels.image import address_of
from bptcnn.inner.kernels.library import Library
from bptcnn.inner.kernels.shape import Vectors
from bptcnn.inner.lowering.program import Program
from bptcnn.inner.tasks.dag import followers
from bptcnn.inner.tasks.schedule import priorities

Numbers = npt.NDArray[np.int64]


class Table:
    """A program in the form that lanes work off, its tasks in order of priority.

    Args:
        program: tasks and their calls.
        kernels: where the code of each begins.
        seconds: expected of each task; decides which come first.
        blocks: int64 [1], blocks of samples in a step.
        num_lanes: who works it off.

    Attributes:
        order: the tasks' numbers, best first.
    """

    def __init__(
        self, program: Program, kernels: Mapping[str, int], seconds: Sequence[float], blocks: Numbers, num_lanes: int
    ) -> None:
        tasks, count = program.tasks, len(program.tasks)
        self.order = [key[-1] for key in sorted(priorities(tasks, seconds))]
        place, after = {task: index for index, task in enumerate(self.order)}, followers(tasks)
        following = [[place[follower] for follower in after[task]] for task in self.order]
        groups = [program.calls[task] for task in self.order]
        calls = [call for group in groups for call in group]
        arguments = [np.array(call.arguments, np.int64) for call in calls]
        self._lane, self._times = np.zeros(count, np.int32), np.zeros((count, 4), np.int64)
        self._left, self._inside = np.zeros(1, np.int32), np.zeros(1, np.int32)
        self._waiting_at_first = np.array([len(tasks[task].after) for task in self.order], np.int32)
        self._waiting = self._waiting_at_first.copy()
        tables = (
            self._left,
            self._waiting,
            _starts(groups),
            np.array([kernels[call.kernel] for call in calls], np.int64),
            np.array([argument.ctypes.data for argument in arguments], np.int64),
            _starts(following),
            np.array([task for group in following for task in group] or [0], np.int64),
        )
        of_block = np.array([program.blocks[task] for task in self.order], np.int64)
        self._kept = tables, arguments, of_block, blocks
        addresses = [table.ctypes.data for table in tables]
        clock = address_of("clock_gettime"), time.CLOCK_MONOTONIC
        for_all = (of_block.ctypes.data, blocks.ctypes.data)
        times, inside = (self._times.ctypes.data, self._lane.ctypes.data), self._inside.ctypes.data
        self._calls = [
            _array([*addresses, count, *times, lane, inside, address_of("sched_yield"), *for_all, *clock])
            for lane in range(num_lanes)
        ]
        self._loop = _loop()

    def record(self) -> tuple[list[int], list[int], list[int]]:
        """Of each task, in the order of their numbers: who ran it last, and its start and finish in nanoseconds."""
        place = np.argsort(self.order)
        start, finish = (self._times[place] @ [[10**9, 0], [1, 0], [0, 10**9], [0, 1]]).T.tolist()
        return self._lane[place].tolist(), start, finish

    def arm(self) -> None:
        """Make it ready for a run, once every lane has left the last one."""
        while self._inside[0]:  # a lane that the system held up is still on its way out
            os.sched_yield()
        np.copyto(self._waiting, self._waiting_at_first)
        self._left[0] = len(self._waiting)

    def work(self, lane: int) -> None:
        """Take and run tasks until none is left.

        Args:
            lane: who works.
        """
        self._loop(ctypes.addressof(self._calls[lane]))


class Lanes:
    """The calling thread and as many others as make ``num_lanes``; they sleep between runs.

    Args:
        num_lanes: threads that work.

    Attributes:
        num_lanes: threads that work.
        close: ends the others; called at the latest when this object is no longer used.

    Example:
        >>> two = Lanes(2)
        >>> _ = two.close()
    """

    def __init__(self, num_lanes: int) -> None:
        self.num_lanes = num_lanes
        self._helpers = [_Helper() for _ in range(num_lanes - 1)]
        self.close = weakref.finalize(self, _close, self._helpers)

    def run(self, table: Table) -> None:
        """Work a program off; returns when all its tasks are done.

        Args:
            table: made for as many lanes.
        """
        table.arm()
        for lane, helper in enumerate(self._helpers, 1):
            helper.wake(table, lane)
        table.work(0)


class _Helper:
    """A thread that works on a table whenever it is woken."""

    def __init__(self) -> None:
        self._bell = threading.Lock()  # held while there is nothing to do
        self._bell.acquire()
        self._job: tuple[Table, int] | None = None
        threading.Thread(target=self._work, daemon=True, name="lane").start()

    def wake(self, table: Table | None, lane: int = 0) -> None:
        """Let it help with a table; None ends it."""
        self._job = None if table is None else (table, lane)
        if self._bell.locked():  # else it has not even heard the last call, and finds this job
            self._bell.release()

    def _work(self) -> None:
        while True:
            self._bell.acquire()
            # Who comes late finds nothing left to do; the table is held here for as long as it is looked at.
            job = self._job
            if job is None:
                return
            table, lane = job
            table.work(lane)
            del job, table


def _close(helpers: list[_Helper]) -> None:
    for helper in helpers:
        helper.wake(None)


@cache
def _loop() -> Callable[[int], None]:
    """The loop of a lane, which is for any vectors the same."""
    library = Library(Vectors(4, 16))
    name, _ = library.use(runner.lane)
    return ctypes.CFUNCTYPE(None, ctypes.c_void_p)(library.compile()[name])


def _starts(groups: Sequence[Sequence[object]]) -> Numbers:
    return np.cumsum([0, *(len(group) for group in groups)]).astype(np.int64)


def _array(numbers: Sequence[int]) -> ctypes.Array[ctypes.c_int64]:
    return (ctypes.c_int64 * len(numbers))(*numbers)
