"""The account of a compiled step that has run: every task, on which lane and when."""

from __future__ import annotations

from dataclasses import replace

from bptcnn.inner.compiled import Compiled
from bptcnn.inner.tasks.dag import Kind, Task, followers
from bptcnn.inner.tasks.schedule import Schedule, measured


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
        return _measured(tuple(whole.program.tasks), compiled.num_lanes, lanes, start, finish)
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
    return _measured((*forward, loss, *moved), compiled.num_lanes, [*lanes, 0, *lanes_back], starts, finishes)


def _measured(
    tasks: tuple[Task, ...], num_lanes: int, lanes: list[int], starts: list[int], finishes: list[int]
) -> tuple[tuple[Task, ...], Schedule]:
    first = min(starts)
    start_s, finish_s = ([(time - first) / 1e9 for time in times] for times in (starts, finishes))
    return tasks, measured(tasks, num_lanes, lanes, start_s, finish_s)
