"""The account of a compiled step that has run: every task, on which lane and when."""

from __future__ import annotations

from dataclasses import dataclass, replace

from bptcnn.inner.compiled import Compiled
from bptcnn.inner.tasks.dag import Kind, Task, followers
from bptcnn.inner.tasks.schedule import Schedule, measured
from bptcnn.inner.tasks.trace import timeline_svg

BARS = 360
"""Of a worker's drawing at most: it travels to the driver, and is to stay below 100 kB however deep the network is."""


@dataclass(frozen=True, slots=True)
class LastStep:
    """What a worker tells of the last step that it computed.

    Attributes:
        num_lanes: threads that computed it.
        seconds: from its first task to the end of its last one.
        balance: mean / largest time that a thread worked, 0 to 1.
        waiting_s: seconds that tasks of the critical path waited for a thread.
        drawing: its timeline, an SVG document.
    """

    num_lanes: int
    seconds: float
    balance: float
    waiting_s: float
    drawing: str

    @classmethod
    def of(cls, compiled: Compiled) -> LastStep:
        """Add the last step up and draw it.

        Args:
            compiled: has computed at least one step.

        Example:
            >>> import torch
            >>> from torch import nn
            >>> from bptcnn.inner.lanes import Lanes
            >>> compiled = Compiled(nn.Sequential(nn.Flatten(), nn.Linear(4, 2)), (1, 2, 2), 8, Lanes(1))
            >>> _ = compiled(torch.ones(8, 1, 2, 2), torch.zeros(8, dtype=torch.int64), nn.functional.cross_entropy)
            >>> step = LastStep.of(compiled)
            >>> step.num_lanes, step.balance, step.drawing[:4]
            (1, 1.0, '<svg')
        """
        tasks, schedule = account(compiled)
        return cls(
            num_lanes=schedule.num_lanes,
            seconds=schedule.makespan_s,
            balance=schedule.balance,
            waiting_s=schedule.critical_waiting_s,
            drawing=timeline_svg(tasks, schedule, most=BARS),
        )


def account(compiled: Compiled) -> tuple[tuple[Task, ...], Schedule]:
    """Say of the last step what was done when; PyTorch's loss, if it was not compiled, counts as a task.

    Args:
        compiled: has computed at least one step.

    Returns:
        The tasks, and when and where each ran.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from bptcnn.inner.lanes import Lanes
        >>> compiled = Compiled(nn.Sequential(nn.Flatten(), nn.Linear(4, 2)), (1, 2, 2), 8, Lanes(1))
        >>> _ = compiled(torch.ones(8, 1, 2, 2), torch.zeros(8, dtype=torch.int64), nn.functional.cross_entropy)
        >>> tasks, schedule = account(compiled)
        >>> sorted({str(task.kind) for task in tasks}), schedule.num_lanes
        (['backward-weight', 'forward', 'loss', 'reduce'], 1)
    """
    if len(compiled.passes) == 1:
        (whole,) = compiled.passes
        lanes, start, finish = whole.table.record()
        return _measured(tuple(whole.program.tasks), whole.table.num_lanes, lanes, start, finish)
    forward, backward = (each.program.tasks for each in compiled.passes)
    (lanes, start, finish), (lanes_back, start_back, finish_back) = (each.table.record() for each in compiled.passes)
    ends = tuple(task.id for task, after in zip(forward, followers(forward), strict=True) if not after)
    loss = Task(len(forward), Kind.LOSS, "loss", 0, ends, 0.0, 0.0)
    shift = len(forward) + 1
    moved = (
        replace(task, id=task.id + shift, after=tuple(number + shift for number in task.after) or (loss.id,))
        for task in backward
    )
    starts, finishes = ([*start, max(finish), *start_back], [*finish, min(start_back), *finish_back])
    num_lanes = compiled.passes[0].table.num_lanes
    return _measured((*forward, loss, *moved), num_lanes, [*lanes, 0, *lanes_back], starts, finishes)


def _measured(
    tasks: tuple[Task, ...], num_lanes: int, lanes: list[int], starts: list[int], finishes: list[int]
) -> tuple[tuple[Task, ...], Schedule]:
    first = min(starts)
    start_s, finish_s = ([(time - first) / 1e9 for time in times] for times in (starts, finishes))
    return tasks, measured(tasks, num_lanes, lanes, start_s, finish_s)
