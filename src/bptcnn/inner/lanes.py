"""Lanes: threads that work a program's tasks off together."""

from __future__ import annotations

import ctypes
import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from bptcnn.inner.kernels import helpers, runner
from bptcnn.inner.kernels.image import address_of
from bptcnn.inner.kernels.library import Arguments, arguments, function
from bptcnn.inner.lowering.program import Program
from bptcnn.inner.tasks.dag import followers
from bptcnn.inner.tasks.homes import homes, views
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
        num_lanes: who works it off.
        job: address of what the loop of the calling thread's lane is called with.
        jobs: of each other lane.
    """

    def __init__(
        self, program: Program, kernels: Mapping[str, int], seconds: Sequence[float], blocks: Numbers, num_lanes: int
    ) -> None:
        self.num_lanes = num_lanes
        tasks, count = program.tasks, len(program.tasks)
        keys = priorities(tasks, seconds)
        self.order = [key[-1] for key in sorted(keys)]
        place, after = {task: index for index, task in enumerate(self.order)}, followers(tasks)
        following = [[place[follower] for follower in after[task]] for task in self.order]
        groups = [program.calls[task] for task in self.order]
        calls = [call for group in groups for call in group]
        given = [np.array(call.arguments, np.int64) for call in calls]
        self._lane, self._times = np.zeros(count, np.int32), np.zeros((count, 4), np.int64)
        self._left = np.zeros(1, np.int32)
        self._waiting_at_first = np.array([len(tasks[task].after) for task in self.order], np.int32)
        self._waiting = self._waiting_at_first.copy()
        tables = (
            self._left,
            self._waiting,
            _starts(groups),
            np.array([kernels[call.kernel] for call in calls], np.int64),
            np.array([each.ctypes.data for each in given], np.int64),
            _starts(following),
            np.array([task for group in following for task in group] or [0], np.int64),
        )
        of_block = np.array([program.blocks[task] for task in self.order], np.int64)
        self._kept = tables, given, of_block, blocks
        seen = views(keys, homes(tasks, program.blocks, num_lanes), num_lanes)
        self._views = [np.array([place[task] for task in view], np.int64) for view in seen]
        addresses = [table.ctypes.data for table in tables]
        times, for_all = (self._times.ctypes.data, self._lane.ctypes.data), (of_block.ctypes.data, blocks.ctypes.data)
        self._calls = [
            arguments([*addresses, count, *times, lane, *for_all, time.CLOCK_MONOTONIC, view.ctypes.data])
            for lane, view in enumerate(self._views)
        ]
        jobs = [ctypes.addressof(call) for call in self._calls]
        self.job, self.jobs = jobs[0], arguments(jobs[1:])

    def record(self) -> tuple[list[int], list[int], list[int]]:
        """Of each task, in the order of their numbers: who ran it last, and its start and finish in nanoseconds."""
        place = np.argsort(self.order)
        start, finish = (self._times[place] @ [[10**9, 0], [1, 0], [0, 10**9], [0, 1]]).T.tolist()
        return self._lane[place].tolist(), start, finish

    def arm(self) -> None:
        """Make it ready for a run; no lane is at work on it."""
        np.copyto(self._waiting, self._waiting_at_first)
        self._left[0] = len(self._waiting)


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
        self._bells = [_bell() for _ in range(num_lanes - 1)]
        for bell in self._bells:
            threading.Thread(target=_help, args=(bell,), daemon=True, name="lane").start()
        self._places = arguments([ctypes.addressof(bell) for bell in self._bells])
        self._table: Table | None = None
        self._begin, self._finish = function(helpers.begin), function(helpers.finish)
        self.close = weakref.finalize(self, _end, self._bells)  # which the threads hold, too

    def run(self, table: Table, meanwhile: Callable[[], None] = lambda: None) -> None:
        """Work a program off; returns when all its tasks are done and nobody looks at the table any more.

        Args:
            table: made for as many lanes, or for the first few of them.
            meanwhile: what the calling thread does first, while the others begin.
        """
        if table is not self._table:  # which stays in memory even if somebody interrupts this in the wrong place
            self._table, bells = table, (len(table.jobs), ctypes.addressof(self._places))
            self._opening = arguments([*bells, ctypes.addressof(table.jobs)])
            self._closing = arguments([*bells, _address(function(runner.lane)), table.job])
        table.arm()
        self._begin(self._opening)
        try:
            meanwhile()
        finally:
            self._finish(self._closing)


Bell = Arguments


def _bell() -> Bell:
    """A bell that nobody has rung."""
    bell = arguments([0, 0, _address(function(runner.lane)), *[0] * (helpers.BELL - 3)])
    for place, kind in ((helpers.MUTEX, "mutex"), (helpers.CONDITION, "cond")):
        init = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)(address_of(f"pthread_{kind}_init"))
        init(ctypes.addressof(bell) + 8 * place, None)
    function(helpers.helper)  # compiled before there are threads, for each would compile one of its own
    return bell


def _help(bell: Bell) -> None:
    """What a thread does that helps."""
    function(helpers.helper)(arguments([ctypes.addressof(bell)]))


def _end(bells: Sequence[Bell]) -> None:
    """Let all helpers end."""
    places, jobs = arguments([ctypes.addressof(bell) for bell in bells]), arguments([helpers.END] * len(bells))
    function(helpers.begin)(arguments([len(bells), ctypes.addressof(places), ctypes.addressof(jobs)]))


def _address(code: Callable[..., None]) -> int:
    return ctypes.cast(code, ctypes.c_void_p).value or 0  # type: ignore[arg-type]


def _starts(groups: Sequence[Sequence[object]]) -> Numbers:
    return np.cumsum([0, *(len(group) for group in groups)]).astype(np.int64)
