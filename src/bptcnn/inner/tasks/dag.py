"""The tasks of one local step: which depend on which, and how far each is from the beginning and from the end.

A task is a block of samples, or a tile of weights, of one part of one layer. Forward, backward and reduction of a layer
wait for each other; its backward-weight lies off the longest path, its backward-data lies on it. Weights move in the
task that made their gradient.

Source: Chen, Li, Bilal, Zhou, Li, Yu, "A bi-layered parallel training architecture for large-scale convolutional neural
networks", IEEE TPDS 30(5), 2019, section on inner-layer parallel training.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from math import isfinite


class Kind(str, Enum):
    """What a task computes; as text, its value."""

    FORWARD = "forward"
    LOSS = "loss"
    BACKWARD_DATA = "backward-data"
    BACKWARD_WEIGHT = "backward-weight"
    REDUCE = "reduce"

    __str__ = str.__str__  # the class that does this by itself came with Python 3.11


@dataclass(frozen=True, slots=True)
class Task:
    """One piece of work, done by one lane without a break.

    Attributes:
        id: its place in the tuple of tasks.
        kind: what it computes.
        layer: for whom, such as ``"conv 2"``.
        part: block of samples or tile of weights, from 0.
        after: the tasks that must have finished; each smaller than ``id``, none twice.
        flops: floating-point operations.
        num_bytes: bytes read and written.
    """

    id: int
    kind: Kind
    layer: str
    part: int
    after: tuple[int, ...]
    flops: float
    num_bytes: float


def check(tasks: Sequence[Task]) -> None:
    """Make sure that tasks stand in an order in which they could be done one by one.

    Raises:
        AssertionError: an id is not the task's place, a dependency does not point backwards or is named twice, or a
            size is negative or not finite.

    Example:
        >>> check([Task(0, Kind.FORWARD, "conv 1", 0, (), 2e6, 3e4), Task(1, Kind.LOSS, "loss", 0, (0,), 1e3, 1e3)])
    """
    for place, task in enumerate(tasks):
        assert task.id == place, f"task {task.id} stands in place {place}"
        assert all(0 <= before < place for before in task.after), f"task {place} is after {task.after}: not backwards"
        # who counts down what a task still waits for would count it twice
        assert len(set(task.after)) == len(task.after), f"task {place} is after {task.after}: one twice"
        assert task.part >= 0, f"task {place} is part {task.part}"
        sizes = (task.flops, task.num_bytes)
        assert all(isfinite(size) and size >= 0 for size in sizes), f"task {place} has sizes {sizes}"


def followers(tasks: Sequence[Task]) -> tuple[tuple[int, ...], ...]:
    """The tasks that wait for each task: the arrows of ``after``, turned round.

    Returns:
        For each task the ids of those that name it in ``after``, ascending.

    Example:
        >>> followers(diamond())
        ((1, 2), (3,), (3,), ())
    """
    found: list[list[int]] = [[] for _ in tasks]
    for task in tasks:
        for before in task.after:
            found[before].append(task.id)
    return tuple(map(tuple, found))


def levels(tasks: Sequence[Task]) -> tuple[int, ...]:
    """How many tasks must have been done before each, in a row.

    Maths: ``level(t) = 0`` without dependencies, else ``1 + max level(p) over p in after(t)``.

    Returns:
        The level of each task, from 0.

    Example:
        >>> levels(diamond())
        (0, 1, 1, 2)
    """
    found: list[int] = []
    for task in tasks:
        found.append(1 + max((found[before] for before in task.after), default=-1))
    return tuple(found)


def bottom_levels(tasks: Sequence[Task], seconds: Sequence[float]) -> tuple[float, ...]:
    """The time from the start of each task to the end of the step if no lane ever were short.

    Maths: ``bottom(t) = seconds(t) + max bottom(f) over f in followers(t)``, 0 if there is none. The largest is the
    length of the longest path: no number of lanes makes the step shorter.

    Args:
        tasks: in order.
        seconds: how long each task takes.

    Returns:
        Seconds for each task, its own included.

    Example:
        >>> bottom_levels(diamond(), (1, 5, 2, 1))
        (7, 6, 3, 1)
    """
    longest = list(seconds)
    for task in reversed(tasks):
        for before in task.after:
            longest[before] = max(longest[before], seconds[before] + longest[task.id])
    return tuple(longest)


def seconds_of(task: Task, flops_per_s: float, bytes_per_s: float) -> float:
    """How long a task takes at best: bound by arithmetic or by memory, whichever is slower.

    Maths: ``max(flops / flops_per_s, bytes / bytes_per_s)``, the roofline.

    Args:
        task: the task.
        flops_per_s: what one lane computes, floating-point operations per second.
        bytes_per_s: what one lane reads and writes, bytes per second.

    Returns:
        Seconds.

    Source: Williams, Waterman, Patterson, "Roofline", CACM 52(4), 2009.

    Example:
        >>> seconds_of(Task(0, Kind.FORWARD, "conv 1", 0, (), flops=6e9, num_bytes=1e8), 2e9, 1e10)
        3.0
    """
    assert flops_per_s > 0, flops_per_s
    assert bytes_per_s > 0, bytes_per_s
    return max(task.flops / flops_per_s, task.num_bytes / bytes_per_s)


def diamond() -> tuple[Task, ...]:
    """The smallest graph with a choice, for examples: a layer backwards, once by data and once by weights.

    Returns:
        Four tasks: the loss, two that wait for it, and one that waits for both.
    """
    return (
        Task(0, Kind.LOSS, "loss", 0, (), 1e6, 1e4),
        Task(1, Kind.BACKWARD_DATA, "conv 1", 0, (0,), 5e6, 1e4),
        Task(2, Kind.BACKWARD_WEIGHT, "conv 1", 0, (0,), 2e6, 1e4),
        Task(3, Kind.REDUCE, "norm 1", 0, (1, 2), 1e6, 1e4),
    )
