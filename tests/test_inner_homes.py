"""Which of several equal tasks a lane looks at first: by hand, then what holds for any tasks, then in machine code."""

from __future__ import annotations

from collections import Counter
from random import Random

from hypothesis import given
from hypothesis import strategies as st
from test_inner_lanes import BLOCKS, LENGTH, work

from bptcnn.inner.kernels import runner
from bptcnn.inner.kernels.library import function
from bptcnn.inner.tasks.dag import Kind, Task
from bptcnn.inner.tasks.homes import homes, views
from bptcnn.inner.tasks.schedule import Priority


def parts_of(layer: str, count: int, kind: Kind = Kind.FORWARD) -> list[Task]:
    return [Task(part, kind, layer, part, (), 1.0, 1.0) for part in range(count)]


def test_blocks_go_round_and_those_of_the_last_round_are_in_different_lanes() -> None:
    tasks = parts_of("conv 1", 8)
    assert homes(tasks, range(8), 3) == (0, 1, 2, 0, 1, 2, 0, 1)


def test_all_parts_of_a_block_belong_to_its_lane() -> None:
    tasks = [*parts_of("conv 1", 2), *parts_of("conv 1", 2)]
    assert homes(tasks, (4, 4, 5, 5), 2) == (0, 0, 1, 1)


def test_each_lane_has_a_stretch_of_the_parts_of_a_single_block_and_of_what_concerns_all() -> None:
    assert homes(parts_of("conv 1", 5), [0] * 5, 2) == (0, 0, 0, 1, 1)
    tasks = [*parts_of("conv 1", 2), *parts_of("conv 1", 6, Kind.BACKWARD_WEIGHT)]
    assert homes(tasks, (0, 1, *[-1] * 6), 3) == (0, 1, 0, 0, 1, 1, 2, 2)


def test_a_lane_looks_at_its_own_first_and_at_those_of_others_from_the_end_on() -> None:
    keys = [(0, -1.0, task) for task in range(6)]
    assert views(keys, (0, 1, 2, 0, 1, 2), 3) == ((0, 3, 5, 4, 2, 1), (1, 4, 5, 3, 2, 0), (2, 5, 4, 3, 1, 0))


def test_priority_comes_before_home() -> None:
    keys = [(0, -1.0, 0), (0, -2.0, 1), (1, -9.0, 2), (1, -9.0, 3)]
    assert views(keys, (0, 1, 1, 0), 2) == ((1, 0, 3, 2), (1, 0, 2, 3))


@st.composite
def belongings(draw: st.DrawFn) -> tuple[list[Task], list[int], int]:
    blocks = draw(st.lists(st.integers(-1, 5), max_size=30))
    tasks = [
        Task(number, Kind.FORWARD, draw(st.sampled_from("ab")), draw(st.integers(0, 7)), (), 1.0, 1.0)
        for number in range(len(blocks))
    ]
    return tasks, blocks, draw(st.integers(1, 5))


@given(belongings())
def test_everything_has_a_home(given_: tuple[list[Task], list[int], int]) -> None:
    tasks, blocks, num_lanes = given_
    found = homes(tasks, blocks, num_lanes)
    assert len(found) == len(tasks)
    assert set(found) <= set(range(num_lanes))


@given(st.integers(1, 40), st.integers(1, 8))
def test_no_lane_has_more_than_one_block_more_than_another(num_blocks: int, num_lanes: int) -> None:
    shares = Counter(dict.fromkeys(range(num_lanes), 0))
    shares.update(homes(parts_of("conv 1", num_blocks), range(num_blocks), num_lanes))
    assert max(shares.values()) - min(shares.values()) <= 1


@given(
    st.lists(st.tuples(st.integers(0, 3), st.sampled_from([-2.0, -1.0])), max_size=20), st.integers(1, 4), st.randoms()
)
def test_every_lane_sees_everything_once_and_by_priority(
    keys: list[tuple[int, float]], num_lanes: int, random: Random
) -> None:
    numbered: list[Priority] = [(level, bottom, task) for task, (level, bottom) in enumerate(keys)]
    owners = [random.randrange(num_lanes) for _ in keys]
    for lane, view in enumerate(views(numbered, owners, num_lanes)):
        assert sorted(view) == list(range(len(keys)))
        seen = [(*numbered[task][:-1], owners[task] != lane) for task in view]
        assert seen == sorted(seen)


def test_the_loop_of_a_lane_follows_its_view() -> None:
    table, _ = work(2)
    table.arm()
    function(runner.lane)(table.jobs[0])  # type: ignore[arg-type]  # an address
    ran, start, _ = table.record()
    assert set(ran) == {1}
    # its own blocks, 1 and 3, then the others' from the last on; a barrier behind each layer
    expected = [base + block for base in range(0, LENGTH * (BLOCKS + 1), BLOCKS + 1) for block in (1, 3, 4, 2, 0, 5)]
    assert sorted(range(len(start)), key=start.__getitem__) == expected
