"""Which lane runs which task when: by hand, then what holds for any step."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bptcnn.inner.tasks.dag import Kind, Task, bottom_levels, diamond, levels
from bptcnn.inner.tasks.schedule import Schedule, measured, priorities, schedule

Graph = tuple[tuple[int, ...], ...]


def of(*graph: tuple[int, ...]) -> tuple[Task, ...]:
    return tuple(Task(place, Kind.FORWARD, f"conv {place}", 0, after, 1.0, 1.0) for place, after in enumerate(graph))


CHAIN = of((), (0,), (1,))
FORK_AND_JOIN = of((), (0,), (0,), (0,), (1, 2, 3))
APART = of((), (), (), ())


def test_a_chain_gains_nothing_from_a_second_lane() -> None:
    for num_lanes in (1, 2):
        plan = schedule(CHAIN, num_lanes, (1, 2, 3))
        assert (plan.start_s, plan.finish_s, plan.makespan_s) == ((0, 1, 3), (1, 3, 6), 6)
        assert (plan.critical_path, plan.critical_waiting_s) == ((0, 1, 2), 0)
    # lane 0 has worked 1 second when task 1 is ready, lane 1 none; then lane 0 has worked less
    assert (plan.lane, plan.load_s, plan.balance) == ((0, 1, 0), (4, 2), 0.75)


def test_a_fork_spreads_and_a_join_waits_for_all() -> None:
    plan = schedule(FORK_AND_JOIN, 3, (1, 2, 4, 3, 1))
    assert plan.start_s == (0, 1, 1, 1, 5)
    # the longest of the fork first, to a lane that has not worked yet
    assert plan.lane == (0, 0, 1, 2, 0)
    assert plan.load_s == (4, 4, 3)
    assert plan.balance == pytest.approx(11 / 12)
    assert (plan.makespan_s, plan.critical_path, plan.critical_waiting_s) == (6, (0, 2, 4), 0)


def test_with_two_lanes_the_last_of_the_fork_waits_for_one() -> None:
    plan = schedule(FORK_AND_JOIN, 2, (1, 4, 4, 4, 1))
    assert plan.start_s == (0, 1, 1, 5, 9)
    # task 3 could have started at 1 and did at 5, which made the step longer
    assert (plan.critical_path, plan.critical_waiting_s, plan.makespan_s) == ((0, 3, 4), 4, 10)
    assert plan.ready_s == (0, 1, 1, 1, 9)


def test_the_longer_way_through_a_diamond_starts_first() -> None:
    plan = schedule(diamond(), 1, (1, 2, 5, 1))
    assert plan.start_s == (0, 6, 1, 8)
    assert (plan.lane, plan.makespan_s, plan.balance) == ((0, 0, 0, 0), 9, 1)
    # what ends last before the reduction is task 1: it was ready at 1 and waited for task 2
    assert (plan.critical_path, plan.critical_waiting_s) == ((0, 1, 3), 5)


def test_independent_tasks_start_longest_first() -> None:
    plan = schedule(APART, 2, (1, 2, 3, 4))
    assert (plan.start_s, plan.lane) == ((4, 3, 0, 0), (0, 1, 1, 0))
    assert (plan.makespan_s, plan.load_s, plan.balance) == (5, (5, 5), 1)
    assert (plan.critical_path, plan.critical_waiting_s) == ((0,), 4)  # of two that end together, the first


def test_upstream_tasks_start_before_longer_downstream_ones() -> None:
    # task 3 heads a way of 9 seconds but lies at level 1; tasks 1 and 2 are entries of 1 second
    tasks, seconds = of((), (), (), (0,)), (3, 1, 1, 9)
    assert priorities(tasks, seconds) == ((0, -12, 0), (0, -1, 1), (0, -1, 2), (1, -9, 3))
    assert schedule(tasks, 1, seconds).start_s == (0, 3, 4, 5)


def test_equals_start_in_order_of_their_ids() -> None:
    assert schedule(APART, 1, (1, 1, 1, 1)).start_s == (0, 1, 2, 3)


def test_a_task_goes_to_the_lane_that_has_worked_least() -> None:
    # at 4, when task 2 is ready, lane 0 has worked 4 seconds and lane 1 one second; both are free
    plan = schedule(of((), (), (0, 1)), 2, (4, 1, 1))
    assert (plan.lane, plan.load_s, plan.balance) == ((0, 1, 1), (4, 2), 0.75)


def test_what_finishes_together_is_counted_before_anything_starts() -> None:
    # tasks 0 and 1 end at 2; of all three that they let go the two longer ones start
    assert schedule(of((), (), (0,), (1,), (1,)), 2, (2, 2, 1, 9, 9)).start_s == (0, 0, 11, 2, 2)


def test_lanes_without_work_count_in_the_balance() -> None:
    assert schedule(CHAIN[:1], 4, (2,)).balance == 0.25
    assert schedule((), 4, ()).balance == 1
    assert schedule((), 4, ()).critical_path == ()
    assert schedule((), 4, ()).makespan_s == 0


def test_tasks_that_take_no_time_still_keep_their_order() -> None:
    plan = schedule(diamond(), 2, (0, 0, 0, 0))
    assert (plan.makespan_s, plan.balance, plan.critical_waiting_s) == (0, 1, 0)
    assert schedule(CHAIN, 1, (0, 2, 0)).start_s == (0, 0, 2)


@pytest.mark.parametrize(
    ("num_lanes", "seconds"),
    [(0, (1, 1, 1)), (1, (1, 1)), (1, (1, 1, -1)), (1, (1, 1, float("nan"))), (1, (1, 1, float("inf")))],
)
def test_a_plan_needs_a_lane_and_a_time_for_each_task(num_lanes: int, seconds: tuple[float, ...]) -> None:
    with pytest.raises(AssertionError):
        schedule(CHAIN, num_lanes, seconds)


def test_what_happened_is_told_like_what_was_planned() -> None:
    plan = schedule(FORK_AND_JOIN, 2, (1, 4, 4, 4, 1))
    began = 1000.0
    ran = measured(
        FORK_AND_JOIN, 2, plan.lane, [began + s for s in plan.start_s], [began + s for s in plan.finish_s], began
    )
    assert ran == plan


def test_a_late_beginning_and_hand_overs_are_waiting_on_the_critical_path() -> None:
    # the first task starts half a second after the step, the second 0.25 s after the first; off the path nothing counts
    ran = measured(of((), (), (0,)), 2, [0, 1, 0], [10.5, 13.0, 12.75], [12.5, 14.0, 15.75], began_s=10.0)
    assert ran.start_s == (0.5, 3.0, 2.75)
    assert (ran.critical_path, ran.critical_waiting_s, ran.makespan_s) == ((0, 2), 0.75, 5.75)
    assert ran.load_s == (5, 1)
    assert measured(of((), (), (0,)), 2, [0, 1, 0], [10.5, 13.0, 12.75], [12.5, 14.0, 15.75]).makespan_s == 5.25


@pytest.mark.parametrize(
    ("lane", "start_s", "finish_s", "told"),
    [
        ([0, 0, 0], [0, 1, 1.5], [1, 2, 3], "before task 1 had finished"),
        ([0, 1, 0], [0, 0.5, 2], [1, 2, 3], "before task 0 had finished"),
        ([0, 1, 2], [0, 1, 2], [1, 2, 3], "lane 2 of 2"),
        ([0, -1, 0], [0, 1, 2], [1, 2, 3], "lane -1 of 2"),
        ([0, 0, 0], [0, 1, 2], [1, 2, 1.5], "from 2.0 to 1.5"),
        ([0, 0, 0], [-1, 1, 2], [1, 2, 3], "from -1.0 to 1.0"),
        ([0, 0, 0], [0, 1, 2], [1, 2, float("nan")], "from 2.0 to nan"),
        ([0, 0], [0, 1], [1, 2], "2 records of 3 tasks"),
    ],
)
def test_what_can_not_have_happened_is_refused(
    lane: list[int], start_s: list[float], finish_s: list[float], told: str
) -> None:
    with pytest.raises(AssertionError, match=told):
        measured(CHAIN, 2, lane, start_s, finish_s, began_s=0.0)


def test_a_lane_can_not_run_two_tasks_at_once() -> None:
    with pytest.raises(AssertionError, match="lane 0 ran tasks 0 and 1 at once"):
        measured(of((), ()), 1, [0, 0], [0, 1], [2, 3])


@dataclass(frozen=True)
class Step:
    """Any step: whole seconds, so that sums are exact."""

    tasks: tuple[Task, ...]
    seconds: tuple[int, ...]
    num_lanes: int

    @property
    def plan(self) -> Schedule:
        return schedule(self.tasks, self.num_lanes, self.seconds)

    @property
    def critical_s(self) -> float:
        return max(bottom_levels(self.tasks, self.seconds), default=0)


@st.composite
def steps(draw: st.DrawFn) -> Step:
    size = draw(st.integers(0, 24))
    graph: list[tuple[int, ...]] = []
    for place in range(size):
        recent = st.integers(max(0, place - 6), place - 1)
        graph.append(tuple(draw(st.sets(recent, max_size=3))) if place else ())
    seconds = draw(st.lists(st.integers(0, 9), min_size=size, max_size=size))
    return Step(of(*graph), tuple(seconds), draw(st.integers(1, 5)))


@given(steps())
def test_a_plan_keeps_the_order_and_gives_each_lane_one_task_at_a_time(step: Step) -> None:
    plan = step.plan
    assert all(plan.start_s[task.id] >= plan.finish_s[before] for task in step.tasks for before in task.after)
    spans = zip(plan.start_s, plan.finish_s, step.seconds, strict=True)
    assert all(finish - start == seconds for start, finish, seconds in spans)
    for lane in range(step.num_lanes):
        mine = sorted((plan.start_s[t.id], plan.finish_s[t.id]) for t in step.tasks if plan.lane[t.id] == lane)
        assert all(first[1] <= second[0] for first, second in pairwise(mine))
    assert set(plan.lane) <= set(range(step.num_lanes))


@given(steps())
def test_no_lane_idles_while_a_task_is_ready(step: Step) -> None:
    plan = step.plan
    for task in step.tasks:
        for moment in range(int(plan.ready_s[task.id]), int(plan.start_s[task.id])):
            busy = {
                plan.lane[other.id]
                for other in step.tasks
                if plan.start_s[other.id] <= moment < plan.finish_s[other.id]
            }
            assert len(busy) == step.num_lanes


@given(steps())
def test_whoever_starts_has_the_first_claim_of_all_that_wait(step: Step) -> None:
    plan, keys = step.plan, priorities(step.tasks, step.seconds)
    assert [key[-1] for key in keys] == list(range(len(step.tasks)))
    assert tuple(key[0] for key in keys) == levels(step.tasks)
    for task in step.tasks:
        start = plan.start_s[task.id]
        # a task of no time may become ready and start at the moment of others: whoever was ready before is compared
        passed_over = [o.id for o in step.tasks if plan.ready_s[o.id] < start < plan.start_s[o.id]]
        assert all(keys[task.id] < keys[other] for other in passed_over)


@given(steps())
def test_the_makespan_lies_within_the_bounds_of_list_scheduling(step: Step) -> None:
    makespan, total, lanes = step.plan.makespan_s, sum(step.seconds), step.num_lanes
    assert makespan >= step.critical_s
    assert lanes * makespan >= total
    assert lanes * makespan <= total + (lanes - 1) * step.critical_s


@given(steps())
def test_one_lane_takes_the_sum_and_lanes_for_all_take_the_longest_path(step: Step) -> None:
    assert schedule(step.tasks, 1, step.seconds).makespan_s == sum(step.seconds)
    wide = schedule(step.tasks, len(step.tasks) + 1, step.seconds)
    assert (wide.makespan_s, wide.critical_waiting_s) == (step.critical_s, 0)


@given(steps())
def test_work_and_waiting_on_the_critical_path_add_up_to_the_makespan(step: Step) -> None:
    plan = step.plan
    path = plan.critical_path
    assert all(before in step.tasks[task].after for before, task in pairwise(path))
    assert sum(step.seconds[task] for task in path) + plan.critical_waiting_s == plan.makespan_s
    assert not path or plan.finish_s[path[-1]] == plan.makespan_s
    assert bool(path) == bool(step.tasks)


@given(steps())
def test_loads_are_all_the_work_and_the_balance_is_a_fraction(step: Step) -> None:
    plan = step.plan
    assert sum(plan.load_s) == sum(step.seconds)
    assert 0 < plan.balance <= 1
    assert plan.balance >= 1 / step.num_lanes - 1e-12


@given(steps(), st.floats(0.1, 10))
def test_the_same_step_has_the_same_plan_and_uneven_times_break_nothing(step: Step, unit: float) -> None:
    assert step.plan == step.plan
    seconds = tuple(unit * span for span in step.seconds)  # sums are no longer exact
    plan = schedule(step.tasks, step.num_lanes, seconds)
    assert plan == schedule(list(step.tasks), step.num_lanes, list(seconds))
    assert 0 < plan.balance <= 1
    along = sum(seconds[task] for task in plan.critical_path) + plan.critical_waiting_s
    assert along == pytest.approx(plan.makespan_s, abs=1e-9)
