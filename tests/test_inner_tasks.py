"""The tasks of a local step: their order, their levels, how long each takes."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bptcnn.inner.tasks.dag import Kind, Task, bottom_levels, check, diamond, followers, levels, seconds_of

Graph = tuple[tuple[int, ...], ...]

CHAIN: Graph = ((), (0,), (1,), (2,))
FORK_AND_JOIN: Graph = ((), (0,), (0,), (0,), (1, 2, 3))
UNEVEN: Graph = ((), (0,), (1,), (0, 2), ())


def of(graph: Graph) -> tuple[Task, ...]:
    return tuple(Task(place, Kind.FORWARD, f"conv {place}", 0, after, 1.0, 1.0) for place, after in enumerate(graph))


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    size = draw(st.integers(0, 9))
    return tuple(tuple(sorted(draw(st.sets(st.integers(0, place - 1))))) if place else () for place in range(size))


def paths_from(graph: Graph, task: int) -> list[list[int]]:
    """All ways to the end, one by one."""
    later = [place for place, after in enumerate(graph) if task in after]
    return [[task, *rest] for place in later for rest in paths_from(graph, place)] or [[task]]


def test_a_kind_is_written_as_its_value() -> None:
    assert f"{Kind.BACKWARD_WEIGHT}" == str(Kind.BACKWARD_WEIGHT) == "backward-weight"
    assert Kind("reduce") is Kind.REDUCE


def test_levels_count_the_tasks_before() -> None:
    assert levels(of(CHAIN)) == (0, 1, 2, 3)
    assert levels(of(FORK_AND_JOIN)) == (0, 1, 1, 1, 2)
    assert levels(of(UNEVEN)) == (0, 1, 2, 3, 0)
    assert levels(()) == ()


def test_bottom_levels_are_the_longest_way_to_the_end() -> None:
    assert bottom_levels(of(CHAIN), (1, 2, 3, 4)) == (10, 9, 7, 4)
    assert bottom_levels(of(FORK_AND_JOIN), (1, 2, 9, 3, 4)) == (14, 6, 13, 7, 4)
    assert bottom_levels(of(UNEVEN), (1, 2, 3, 4, 5)) == (10, 9, 7, 4, 5)
    assert bottom_levels(diamond(), (1, 5, 2, 1)) == (7, 6, 3, 1)
    assert bottom_levels((), ()) == ()


def test_followers_turn_the_arrows_round() -> None:
    assert followers(of(FORK_AND_JOIN)) == ((1, 2, 3), (4,), (4,), (4,), ())
    assert followers(of(UNEVEN)) == ((1, 3), (2,), (3,), (), ())


def test_a_task_is_bound_by_arithmetic_or_by_memory() -> None:
    seconds = partial(seconds_of, flops_per_s=100.0, bytes_per_s=10.0)
    task = replace(diamond()[0], flops=400.0, num_bytes=30.0)
    assert seconds(task) == 4
    assert seconds(replace(task, num_bytes=50.0)) == 5
    assert seconds(replace(task, flops=0.0, num_bytes=0.0)) == 0
    with pytest.raises(AssertionError):
        seconds_of(task, 0.0, 10.0)
    with pytest.raises(AssertionError):
        seconds_of(task, 100.0, 0.0)


@pytest.mark.parametrize(
    "wrong",
    [
        {"id": 2},
        {"after": (1,)},
        {"after": (2,)},
        {"after": (-1,)},
        {"after": (0, 0)},
        {"part": -1},
        {"flops": -1.0},
        {"num_bytes": float("nan")},
        {"flops": float("inf")},
    ],
)
def test_tasks_out_of_order_are_refused(wrong: dict[str, object]) -> None:
    tasks = of(FORK_AND_JOIN)
    check(tasks)
    with pytest.raises(AssertionError, match="task"):
        check([tasks[0], replace(tasks[1], **wrong), *tasks[2:]])  # type: ignore[arg-type]


@given(graphs(), st.data())
def test_any_graph_has_the_levels_that_a_look_at_all_paths_finds(graph: Graph, data: st.DataObject) -> None:
    seconds = data.draw(st.lists(st.integers(0, 9), min_size=len(graph), max_size=len(graph)))
    tasks = of(graph)
    check(tasks)
    ways = [paths_from(graph, task) for task in range(len(graph))]
    longest = tuple(max(sum(seconds[task] for task in path) for path in some) for some in ways)
    assert bottom_levels(tasks, seconds) == longest
    reached = [
        [len(path[: path.index(task)]) for some in ways for path in some if task in path] for task in range(len(graph))
    ]
    assert levels(tasks) == tuple(map(max, reached))
    arrows = {(before, task.id) for task in tasks for before in task.after}
    assert {(task, later) for task, some in enumerate(followers(tasks)) for later in some} == arrows
