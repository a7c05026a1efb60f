"""When and on which lane each task runs: the plan, and the same account of what really happened.

A lane is one thread on one core. List scheduling: whenever a lane is free, the best of the tasks whose dependencies
have finished starts on it. So no lane idles while a task could run, and with m lanes, a longest path C, all work S:

    max(C, S / m)  <=  makespan  <=  S / m + (1 - 1/m) C

Sources: Chen et al., IEEE TPDS 30(5), 2019, inner-layer parallel training (upstream tasks first, least loaded thread);
Graham, "Bounds on multiprocessing timing anomalies", SIAM J. Appl. Math. 17(2), 1969 (the upper bound).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from math import fsum, inf, isfinite

from bptcnn.inner.tasks.dag import Task, bottom_levels, check, followers, levels

Priority = tuple[int, float, int]
"""Level, bottom level negated, id. Of the ready tasks the smallest starts first; the last entry says which it is."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """Which lane ran each task, and when. No dependency is broken, and no lane runs two tasks at once.

    Attributes:
        num_lanes: lanes there were, used or not.
        after: of each task, the tasks that had to finish first.
        lane: of each task, from 0.
        start_s: of each task, seconds from the beginning of the step.
        finish_s: of each task, likewise.

    Raises:
        AssertionError: such a schedule cannot have happened.

    Example:
        >>> plan = Schedule(2, after=((), (), (0, 1)), lane=(0, 1, 0), start_s=(0, 0, 4), finish_s=(3, 2, 8))
        >>> plan.makespan_s, plan.load_s, plan.critical_path, plan.critical_waiting_s
        (8, (7.0, 2.0), (0, 2), 1.0)
    """

    num_lanes: int
    after: tuple[tuple[int, ...], ...]
    lane: tuple[int, ...]
    start_s: tuple[float, ...]
    finish_s: tuple[float, ...]

    def __post_init__(self) -> None:
        assert self.num_lanes >= 1, f"{self.num_lanes} lanes"
        assert len(self.after) == len(self.lane) == len(self.start_s) == len(self.finish_s)
        last: dict[int, int] = {}
        for task in sorted(range(len(self.lane)), key=lambda task: (self.start_s[task], self.finish_s[task])):
            lane, start, finish = self.lane[task], self.start_s[task], self.finish_s[task]
            assert 0 <= lane < self.num_lanes, f"task {task} on lane {lane} of {self.num_lanes}"
            assert 0 <= start <= finish < inf, f"task {task} from {start} to {finish} s"
            for before in self.after[task]:
                assert self.finish_s[before] <= start, f"task {task} started before task {before} had finished"
            if lane in last:
                assert self.finish_s[last[lane]] <= start, f"lane {lane} ran tasks {last[lane]} and {task} at once"
            last[lane] = task

    @property
    def makespan_s(self) -> float:
        """Seconds from the beginning of the step to the end of its last task; 0 without tasks."""
        return max(self.finish_s, default=0.0)

    @property
    def load_s(self) -> tuple[float, ...]:
        """Seconds that each lane worked."""
        spans: list[list[float]] = [[] for _ in range(self.num_lanes)]
        for lane, start, finish in zip(self.lane, self.start_s, self.finish_s, strict=True):
            spans[lane].append(finish - start)
        return tuple(map(fsum, spans))

    @property
    def balance(self) -> float:
        """Mean load / largest load: 1 if all lanes worked equally long, 1 / lanes if one did it all; 1 without work."""
        load = self.load_s
        largest = max(load)
        # never above 1: both sums are rounded once
        return fsum(load) / (len(load) * largest) if largest > 0 else 1.0

    @property
    def ready_s(self) -> tuple[float, ...]:
        """When the last dependency of each task finished, in seconds; 0 for a task without any."""
        return tuple(max((self.finish_s[before] for before in some), default=0.0) for some in self.after)

    @property
    def critical_path(self) -> tuple[int, ...]:
        """The tasks that set the end, in order of time: the last to finish, its last dependency to finish, and so on.

        Among equals the one of the smallest id. Their seconds and ``critical_waiting_s`` add up to ``makespan_s``.
        """
        path: list[int] = []
        candidates: Iterable[int] = range(len(self.lane))
        while candidates:
            path.append(min(candidates, key=lambda task: (-self.finish_s[task], task)))
            candidates = self.after[path[-1]]
        return tuple(reversed(path))

    @property
    def critical_waiting_s(self) -> float:
        """Seconds that tasks of the critical path could have started earlier, had a lane been there for them.

        Maths: ``sum over critical tasks of (start - finish of the last dependency)``.
        """
        ready = self.ready_s
        return fsum(self.start_s[task] - ready[task] for task in self.critical_path)


def priorities(tasks: Sequence[Task], seconds: Sequence[float]) -> tuple[Priority, ...]:
    """The order in which ready tasks start, for the plan and for threads that take tasks as they become ready.

    Upstream tasks first, by level; among equals the one with the longest way to the end; then by id.

    Args:
        tasks: in order.
        seconds: how long each task takes.

    Returns:
        A key for each task; the smallest starts first.

    Example:
        >>> from bptcnn.inner.tasks.dag import diamond
        >>> priorities(diamond(), (1, 2, 5, 1))
        ((0, -7, 0), (1, -3, 1), (1, -6, 2), (2, -1, 3))
    """
    assert len(seconds) == len(tasks), f"{len(seconds)} times for {len(tasks)} tasks"
    assert all(isfinite(span) and span >= 0 for span in seconds), "a task takes 0 seconds or more"
    rows = zip(levels(tasks), bottom_levels(tasks, seconds), strict=True)
    return tuple((level, -bottom, task) for task, (level, bottom) in enumerate(rows))


def schedule(tasks: Sequence[Task], num_lanes: int, seconds: Sequence[float]) -> Schedule:
    """Plan a step.

    At each moment, as long as a lane is free and a task is ready, the first by ``priorities`` starts; of the free lanes
    it goes to the one that has worked least, then to the first. What finishes at the same moment is counted before
    anything starts.

    Args:
        tasks: in order.
        num_lanes: lanes, 1 or more.
        seconds: how long each task takes on any lane; 0 or more.

    Returns:
        The plan, the same for the same arguments.

    Raises:
        AssertionError: the tasks are not in order, or a time is missing, negative or not finite.

    Example:
        >>> from bptcnn.inner.tasks.dag import diamond
        >>> plan = schedule(diamond(), 2, (1, 5, 2, 1))
        >>> plan.lane, plan.start_s
        ((0, 1, 0, 0), (0.0, 1.0, 1.0, 6.0))
    """
    check(tasks)
    assert num_lanes >= 1, f"{num_lanes} lanes"
    keys, waiting = priorities(tasks, seconds), followers(tasks)
    missing = [len(task.after) for task in tasks]
    lane, start, finish = [-1] * len(tasks), [0.0] * len(tasks), [0.0] * len(tasks)
    ready = [key for key, count in zip(keys, missing, strict=True) if not count]
    heapify(ready)
    loads = [0.0] * num_lanes
    free = [(0.0, number) for number in range(num_lanes)]  # a heap: the least loaded first
    running: list[tuple[float, int]] = []
    now = 0.0
    while ready or running:
        while ready and free:
            task = heappop(ready)[-1]
            load, lane[task] = heappop(free)
            start[task], finish[task] = now, now + seconds[task]
            heappush(running, (finish[task], task))
            loads[lane[task]] = load + seconds[task]
        now = running[0][0]
        while running and running[0][0] == now:
            done = heappop(running)[-1]
            heappush(free, (loads[lane[done]], lane[done]))
            for task in waiting[done]:
                missing[task] -= 1
                if not missing[task]:
                    heappush(ready, keys[task])
    return Schedule(num_lanes, _after(tasks), tuple(lane), tuple(start), tuple(finish))


def measured(
    tasks: Sequence[Task],
    num_lanes: int,
    lane: Sequence[int],
    start_s: Sequence[float],
    finish_s: Sequence[float],
    began_s: float | None = None,
) -> Schedule:
    """Make the same account of a step that lanes have run.

    A lane must read the clock before it lets those go that wait for its task, or they seem to start too early.

    Args:
        tasks: in order.
        num_lanes: lanes there were.
        lane: the lane that ran each task, from 0.
        start_s: when it started each, in seconds on a clock that all lanes share and that never runs backwards.
        finish_s: when it finished each, likewise.
        began_s: when the step began, on that clock; None for the first start.

    Returns:
        The schedule, in seconds from the beginning of the step.

    Raises:
        AssertionError: a task is missing, started before its dependencies had finished, or overlaps another one.

    Example:
        >>> from bptcnn.inner.tasks.dag import diamond
        >>> ran = measured(diamond(), 2, [0, 0, 1, 0], [50, 51, 52, 57], [51, 56, 54, 58], began_s=49)
        >>> ran.makespan_s, ran.critical_path, ran.critical_waiting_s
        (9, (0, 1, 3), 2.0)
    """
    check(tasks)
    assert len(tasks) == len(lane), f"{len(lane)} records of {len(tasks)} tasks"
    origin = min(start_s, default=0.0) if began_s is None else began_s
    starts, finishes = (tuple(time - origin for time in times) for times in (start_s, finish_s))
    return Schedule(num_lanes, _after(tasks), tuple(lane), starts, finishes)


def _after(tasks: Sequence[Task]) -> tuple[tuple[int, ...], ...]:
    return tuple(task.after for task in tasks)
