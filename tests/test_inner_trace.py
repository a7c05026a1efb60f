"""A step as trace events and as a drawing, read back."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from typing import Any
from xml.etree import ElementTree

import pytest

from bptcnn.inner.tasks.dag import Kind, Task, diamond
from bptcnn.inner.tasks.schedule import Schedule, measured, schedule
from bptcnn.inner.tasks.trace import COLOURS, CRITICAL, CRITICAL_CNAME, chrome_trace, timeline_svg

TASKS = diamond()
PLAN = schedule(TASKS, 2, (1e-3, 5e-3, 2e-3, 1e-3))  # lanes 0 1 0 0, from 0 1 1 6 ms; critical are 0, 1 and 3
SVG = "{http://www.w3.org/2000/svg}"


def events(tasks: tuple[Task, ...] = TASKS, plan: Schedule = PLAN) -> list[dict[str, Any]]:
    read: list[dict[str, Any]] = json.loads(json.dumps(chrome_trace(tasks, plan), allow_nan=False))["traceEvents"]
    return read


def bars(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [event for event in events if event["ph"] == "X"]


def drawn(tasks: tuple[Task, ...] = TASKS, plan: Schedule = PLAN, width: int = 960) -> ElementTree.Element:
    return ElementTree.fromstring(timeline_svg(tasks, plan, width))


def boxes(drawing: ElementTree.Element) -> dict[int, dict[str, str]]:
    """The bar of each task, by id."""
    groups = drawing.findall(f"{SVG}g[@data-task]")
    found = {int(group.attrib["data-task"]): group.find(f"{SVG}rect") for group in groups}
    assert len(found) == len(groups)
    return {task: dict(box.attrib) for task, box in found.items() if box is not None}


def texts(drawing: ElementTree.Element) -> list[str]:
    return [element.text or "" for element in drawing.iter(f"{SVG}text")]


def test_each_lane_is_a_named_row() -> None:
    named = {
        (event["name"], event["tid"]): next(iter(event["args"].values())) for event in events() if event["ph"] == "M"
    }
    assert named == {
        ("process_name", 1): "local step",
        ("thread_name", 1): "lane 0",
        ("thread_name", 2): "lane 1",
        ("thread_sort_index", 1): 0,
        ("thread_sort_index", 2): 1,
    }
    assert {event["pid"] for event in events()} == {1}


def test_each_task_is_a_bar_in_microseconds() -> None:
    rows = [(bar["name"], bar["cat"], bar["tid"], bar["ts"], bar["dur"]) for bar in bars(events())]
    assert rows == [
        ("loss loss", "loss", 1, 0, 1000),
        ("conv 1 backward-data", "backward-data", 2, 1000, 5000),
        ("conv 1 backward-weight", "backward-weight", 1, 1000, 2000),
        ("norm 1 reduce", "reduce", 1, 6000, 1000),
    ]
    assert bars(events())[3]["args"] == {
        "task": 3,
        "part": 0,
        "after": [1, 2],
        "flops": 1e6,
        "bytes": 1e4,
        "waited_us": 0,
        "critical": True,
    }


def test_the_critical_path_has_a_colour_of_its_own() -> None:
    assert [bar["args"]["critical"] for bar in bars(events())] == [True, True, False, True]
    assert [bar.get("cname") for bar in bars(events())] == [CRITICAL_CNAME, CRITICAL_CNAME, None, CRITICAL_CNAME]


def test_bars_that_touch_do_not_overlap_in_whole_nanoseconds() -> None:
    # 0.4 ns apart a viewer that rounds start and length would see the second bar begin inside the first
    times = [0.0, 1.4e-9, 2.8e-9, 4.2e-9, 5.6e-9]
    tasks = tuple(replace(TASKS[0], id=place) for place in range(4))
    shown = bars(events(tasks, measured(tasks, 1, [0] * 4, times[:-1], times[1:])))
    whole = [(round(1e3 * bar["ts"]), round(1e3 * bar["dur"])) for bar in shown]
    assert whole == [(0, 1), (1, 2), (3, 1), (4, 2)]
    assert all(first[0] + first[1] <= second[0] for first, second in pairwise(whole))


def test_waiting_is_told_from_the_last_dependency_on() -> None:
    plan = schedule(TASKS, 1, (1e-3, 2e-3, 5e-3, 1e-3))  # the backward-data waits for the backward-weight
    assert [bar["args"]["waited_us"] for bar in bars(events(TASKS, plan))] == [0, 5000, 0, 0]


def test_a_bar_is_drawn_where_and_as_long_as_its_task_ran() -> None:
    for width in (480, 960):
        found = boxes(drawn(width=width))
        left, scale = float(found[0]["x"]), float(found[0]["width"])  # from 0 on, for 1 ms
        assert left + 7 * scale == pytest.approx(width - 20, abs=0.1)  # the whole row
        across = [((float(box["x"]) - left) / scale, float(box["width"]) / scale) for _, box in sorted(found.items())]
        assert [number for pair in across for number in pair] == pytest.approx([0, 1, 1, 5, 1, 2, 6, 1], abs=1e-3)
        rows = [float(box["y"]) for _, box in sorted(found.items())]
        assert rows[0] == rows[2] == rows[3] < rows[1]
        assert [found[task.id]["fill"] for task in TASKS] == [COLOURS[task.kind] for task in TASKS]


def test_the_critical_path_is_outlined_on_top_of_the_others() -> None:
    found = boxes(drawn())
    assert {task for task, box in found.items() if box["stroke"] == CRITICAL} == {0, 1, 3}
    assert list(found) == [2, 0, 1, 3]  # what comes later covers what came before


def test_the_drawing_explains_itself() -> None:
    drawing = drawn()
    said = texts(drawing)
    assert said[0] == "2 lanes, 7 ms, balance 0.90, 0 ms of waiting on the critical path"
    assert {"lane 0", "lane 1", "loss", "backward-data", "backward-weight", "reduce", "critical path"} <= set(said)
    assert "forward" not in said  # the legend names what is there
    first = said.index("0")
    assert said[first : first + 9] == ["0", "1", "2", "3", "4", "5", "6", "7", "milliseconds"]
    notes = [note.text for note in drawing.iter(f"{SVG}title")]
    assert "lane 1: conv 1 backward-data, part 0, 1 to 6 ms, waited 0 ms, on the critical path" in notes
    assert len(notes) == len(TASKS)


def test_a_layer_is_named_where_there_is_room() -> None:
    for said in (texts(drawn()), texts(drawn(width=480))):
        assert (said.count("conv 1"), said.count("norm 1")) == (2, 1)
    long = tuple(replace(task, layer="a block of many layers with a long name") for task in TASKS)
    assert texts(drawn(long, width=480)).count(long[0].layer) == 1


def test_a_drawing_with_too_little_room_keeps_the_critical_path_and_the_longest() -> None:
    seconds = (1e-3, 5e-3, 2e-3, 3e-3, 4e-3, 1e-3)
    fan = tuple(Task(place, Kind.FORWARD, "conv 1", place, (), 0, 0) for place in range(5))
    tasks = (*fan, Task(5, Kind.LOSS, "loss", 0, tuple(range(5)), 0, 0))
    plan = schedule(tasks, 5, seconds)  # each on a lane of its own; critical are 1 and the loss
    assert set(boxes(ElementTree.fromstring(timeline_svg(tasks, plan, most=4)))) == {1, 5, 4, 3}
    assert set(boxes(ElementTree.fromstring(timeline_svg(tasks, plan, most=1)))) == {1}
    said = "4 of 6 tasks: the critical path's, then the longest"
    assert said in texts(ElementTree.fromstring(timeline_svg(tasks, plan, most=4)))
    assert timeline_svg(tasks, plan, most=6) == timeline_svg(tasks, plan)
    assert "of 6 tasks" not in timeline_svg(tasks, plan)


def test_nothing_a_layer_is_called_breaks_the_drawing() -> None:
    odd = tuple(replace(task, layer="</g>&\"'<b>") for task in TASKS)
    drawing = drawn(odd)
    assert "</g>&\"'<b>" in texts(drawing)
    assert len(boxes(drawing)) == len(TASKS)


def test_a_drawing_refers_to_nothing_outside_it() -> None:
    text = timeline_svg(TASKS, PLAN)
    assert "href" not in text
    assert "url(" not in text
    assert text.count("http") == 1  # the name of the format


def test_times_from_nanoseconds_to_minutes_have_few_and_round_marks() -> None:
    for power in range(-9, 3):
        for first in (1, 1.2, 3, 4.999, 9.9):
            plan = schedule(TASKS[:1], 1, (first * 10.0**power,))
            said = texts(drawn(TASKS[:1], plan))
            marks = [float(word) for word in said if word.replace(".", "").isdigit()]
            assert 6 <= len(marks) <= 11
            assert marks[0] == 0
            steps = [second - one for one, second in pairwise(marks)]
            assert steps == pytest.approx([steps[0]] * len(steps))
            assert 0.8 * first * 10.0 ** (power + 3) < marks[-1] <= first * 10.0 ** (power + 3) * (1 + 1e-6)


def test_a_step_without_time_or_tasks_is_drawn_too() -> None:
    assert texts(drawn(TASKS, schedule(TASKS, 1, (0, 0, 0, 0))))[0].startswith("1 lane, 0 ms")
    assert boxes(drawn((), schedule((), 3, ()))) == {}
    assert bars(events((), schedule((), 3, ()))) == []


def test_a_schedule_of_other_tasks_is_refused() -> None:
    for picture in (chrome_trace, timeline_svg):
        with pytest.raises(AssertionError, match="not of these tasks"):
            picture(TASKS[:3], PLAN)
    with pytest.raises(AssertionError, match="pixels wide"):
        timeline_svg(TASKS, PLAN, width=100)


def test_every_kind_has_a_colour() -> None:
    assert set(COLOURS) == set(Kind)
    assert len(set(COLOURS.values())) == len(Kind)
