"""Which of several equal tasks a lane takes: one whose data still lies in its core's cache. Pure.

To read what another core wrote takes longer than to read from the own cache or from the one that all share. So blocks
of samples, and tiles of weights from step to step, have a home: a lane that looks at them before it looks at others. It
is a preference among equals and no more. Who has done its own share takes from the others, from the end, where they
arrive last; so no lane is idle that would not have been.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from bptcnn.inner.tasks.dag import Task
from bptcnn.inner.tasks.schedule import Priority


def homes(tasks: Sequence[Task], blocks: Sequence[int], num_lanes: int) -> tuple[int, ...]:
    """The lane that each task belongs to.

    Blocks go round the lanes, so that those of the last round, which all share, belong to different ones. Parts of a
    single block, or of what concerns all blocks, are neighbouring rows or tiles: each lane gets a stretch of them.

    Args:
        tasks: in order.
        blocks: the block that each is for, negative if for all.
        num_lanes: lanes there are, 1 or more.

    Returns:
        A lane for each task.

    Example:
        >>> from bptcnn.inner.tasks.dag import Kind
        >>> tasks = [Task(number, Kind.FORWARD, "conv 1", number, (), 1e6, 1e4) for number in range(4)]
        >>> homes(tasks, (0, 1, 2, 3), 2), homes(tasks, (0, 0, 0, 0), 2)
        ((0, 1, 0, 1), (0, 0, 1, 1))
    """
    assert len(blocks) == len(tasks), f"{len(blocks)} blocks for {len(tasks)} tasks"
    assert num_lanes >= 1, f"{num_lanes} lanes"
    several = max(blocks, default=0) > 0
    parts: dict[tuple[str, str], int] = {}
    for task in tasks:
        parts[task.kind, task.layer] = max(parts.get((task.kind, task.layer), 0), task.part + 1)
    return tuple(
        block % num_lanes if several and block >= 0 else task.part * num_lanes // parts[task.kind, task.layer]
        for task, block in zip(tasks, blocks, strict=True)
    )


def views(keys: Sequence[Priority], home: Sequence[int], num_lanes: int) -> tuple[tuple[int, ...], ...]:
    """The order in which each lane looks at the tasks.

    Args:
        keys: the tasks' priorities.
        home: the lane that each task belongs to.
        num_lanes: lanes there are.

    Returns:
        For each lane, all tasks by priority; among equals, first its own in order, then the others from the last on.

    Example:
        >>> views([(0, -1, 0), (0, -1, 1), (0, -1, 2), (1, -1, 3)], (0, 1, 0, 0), 2)
        ((0, 2, 1, 3), (1, 2, 0, 3))
    """
    equals = [[key[-1] for key in group] for _, group in groupby(sorted(keys), lambda key: key[:-1])]
    return tuple(
        tuple(
            task
            for group in equals
            for task in (
                *(task for task in group if home[task] == lane),
                *(task for task in reversed(group) if home[task] != lane),
            )
        )
        for lane in range(num_lanes)
    )
