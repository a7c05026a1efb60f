"""Reports: numbers as text, the account of the samples, who was slow and why, tables."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from summaries import summary, worker

from bptcnn.errors import RunFolderError
from bptcnn.inner.account import LastStep
from bptcnn.report import timelines
from bptcnn.report.diagnosis import most_waiting, who_is_slow
from bptcnn.report.format import duration, percent
from bptcnn.report.result import account_line, result_lines
from bptcnn.report.tables import accuracy_curve, overview, thin
from bptcnn.report.unfinished import can_continue, progress_lines


def text(renderable: Any, width: int = 80) -> str:
    console = Console(width=width, record=True, file=open("/dev/null", "w"))  # noqa: SIM115, PTH123
    console.print(renderable)
    return console.export_text()


def unequal(**changes: Any) -> dict[str, Any]:
    """Speeds 8:4:2:1 and equal shares: only the slowest never waits."""
    workers = [worker(number, speed=speed) for number, speed in enumerate([2000.0, 1000.0, 500.0, 250.0])]
    return summary(workers=workers, waiting_fraction=[0.875, 0.75, 0.5, 0.0], train_seconds=100.0, **changes)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "0.0 s"), (9.99, "10.0 s"), (10, "10 s"), (59.6, "1 min 0 s"), (3599.7, "1 h 0 min"), (90_000, "25 h 0 min")],
)
def test_durations_have_at_most_two_units(seconds: float, words: str) -> None:
    assert duration(seconds) == words


@given(st.floats(0, 1), st.integers(0, 2))
def test_only_all_is_100_percent_and_only_nothing_is_0(fraction: float, digits: int) -> None:
    assert (percent(fraction, digits).startswith("100")) == (fraction == 1.0)
    assert (float(percent(fraction, digits).split()[0]) == 0.0) == (fraction == 0.0)


def test_an_account_that_does_not_balance_says_so() -> None:
    samples = {"issued": 10, "committed": 7, "returned": 2, "lost": 1, "duplicated": 0}
    assert account_line(samples) == "samples: issued 10 != committed 7 + returned 2; lost 1, duplicated 0"


def test_an_interrupted_run_says_what_is_left() -> None:
    samples = {"issued": 28_789, "committed": 28_309, "returned": 480, "lost": 0, "duplicated": 0}
    run = summary(samples=samples, samples_total=143_524, outcome="interrupted", reason="Ctrl-C")
    expected = "samples: issued 28,789 = committed 28,309 + returned 480; lost 0, duplicated 0; 115,215 to go"
    assert result_lines(run)[1] == expected
    assert "115,215 to go" in text(overview(run), 120)
    assert account_line(samples, 28_309).endswith("duplicated 0")


def test_the_result_is_three_lines() -> None:
    assert result_lines(summary()) == [
        "test accuracy 97.3 %   1,205 samples/s   1 min 23 s of training, after 7.2 s of setup",
        "samples: issued 100,000 = committed 100,000 + returned 0; lost 0, duplicated 0",
        "no worker waited more than 4.0 % of the time.",
    ]


def test_a_virtual_run_does_not_pass_for_a_real_one() -> None:
    assert result_lines(summary(engine="virtual"))[0].endswith("1 min 23 s of virtual time")


def test_a_balanced_run_leaves_nothing_to_say() -> None:
    assert who_is_slow(summary()) == []


def test_who_waits_because_of_its_share_is_told_what_would_help() -> None:
    sentences = who_is_slow(unequal())
    assert sentences[0] == (
        "worker 0 waited 88 % of the time: it makes 53 % of the speed and got 25 % of the samples "
        "(--allocation dynamic follows the speeds)."
    )
    assert most_waiting(unequal()) == sentences[0]


def test_no_other_allocation_is_advised_where_it_is_not_uniform() -> None:
    assert "--allocation" not in most_waiting(unequal(allocation="idpa"))


def test_a_loss_makes_the_others_wait() -> None:
    run = summary(waiting_fraction=[0.5, 0.2, 0.2, 0.2])
    run["workers"][1]["replaced"] = 1
    assert "waited 50 % of the time: for the replacement of worker 1" in most_waiting(run)
    assert "worker 1 waited 20 % of the time: it was lost and had to be replaced." in who_is_slow(run)


def test_who_holds_the_right_share_waits_for_its_exchanges() -> None:
    run = summary(waiting_fraction=[0.5, 0.2, 0.2, 0.2], train_seconds=100.0)
    assert most_waiting(run) == "worker 0 waited 50 % of the time: 500 ms at each of its 100 exchanges."


def test_a_speed_that_was_not_reached_is_the_machines() -> None:
    run = summary(workers=[worker(0, speed=310.0, asked_speed=500.0), worker(1, speed=480.0, asked_speed=500.0)])
    run["waiting_fraction"] = [0.0, 0.0]
    assert who_is_slow(run) == ["worker 0 ran at 310 of the asked 500 samples/s: this machine is too slow for that."]


def test_replacements_are_counted() -> None:
    run = summary(workers=[worker(0, replaced=1), worker(1, replaced=2)], waiting_fraction=[0.0, 0.0])
    assert who_is_slow(run) == ["worker 0 was replaced 1 time.", "worker 1 was replaced 2 times."]


def test_a_worker_that_was_given_up_is_named() -> None:
    run = summary(workers=[worker(0, replaced=3, dismissed=True), worker(1)], waiting_fraction=[0.0, 0.0])
    given_up = "worker 0 was given up, and its data dealt to the others."
    assert who_is_slow(run) == ["worker 0 was replaced 3 times.", given_up]


def test_a_worker_that_never_trained_does_not_count_as_waiting() -> None:
    idle = worker(0, samples=0, speed=None, pushes=0)
    run = summary(workers=[idle, worker(1)], waiting_fraction=[1.0, 0.0])
    assert who_is_slow(run) == ["worker 0 trained nothing."]
    assert most_waiting(run) == "no worker waited more than 0.0 % of the time."
    assert most_waiting(summary(workers=[idle], waiting_fraction=[1.0])) == "no worker trained anything."


@pytest.mark.parametrize("width", [80, 140])
def test_the_overview_fits_the_terminal(width: int) -> None:
    lines = text(overview(unequal()), width).splitlines()
    assert max(map(len, lines)) <= width
    assert "…" not in "".join(lines)
    rows = [" ".join(line.split()) for line in lines]
    assert "trained lenet5 on digits, 10 epochs" in rows
    assert "0 2,000 - 25,000 100 3.0 25 s 88 % 0" in rows
    assert "1 min 23 s 100,000 97.3 %" in rows


@pytest.mark.parametrize(
    ("width", "headings"),
    [
        (69, "worker samples/s asked samples pushes busy waiting replaced"),
        (50, "worker samples/s samples waiting replaced"),
        (30, "worker samples/s waiting"),
    ],
)
def test_a_narrow_terminal_gets_fewer_columns_but_whole_ones(width: int, headings: str) -> None:
    lines = text(overview(unequal(), width), width).splitlines()
    assert max(map(len, lines)) <= width
    assert headings in [" ".join(line.split()) for line in lines]
    assert "…" not in "".join(lines)


A_STEP = LastStep(num_lanes=4, seconds=0.0123, balance=0.914, waiting_s=4.5e-4, drawing="<svg>0.91 ms</svg>")


def test_each_worker_that_tells_of_its_last_step_has_a_line_and_a_drawing(tmp_path: Path) -> None:
    rows = timelines.write(tmp_path / "timelines", {3: A_STEP, 0: replace(A_STEP, num_lanes=2)})
    drawn = text(overview(summary(last_steps=rows)))
    assert max(map(len, drawn.splitlines())) <= 80
    lines = [" ".join(line.split()) for line in drawn.splitlines()]
    first = lines.index("worker threads last step balance critical wait timeline")
    assert lines[first + 1 : first + 3] == [
        "0 2 12.30 ms 0.91 0.45 ms timelines/worker-0.svg",
        "3 4 12.30 ms 0.91 0.45 ms timelines/worker-3.svg",
    ]
    assert (tmp_path / rows[1]["timeline"]).read_text() == A_STEP.drawing


def test_drawings_of_an_earlier_session_make_room(tmp_path: Path) -> None:
    folder = tmp_path / "timelines"
    timelines.write(folder, {0: A_STEP, 1: A_STEP})
    timelines.write(folder, {1: replace(A_STEP, drawing="<svg/>")})
    assert [(path.name, path.read_text()) for path in folder.iterdir()] == [("worker-1.svg", "<svg/>")]


def test_without_a_measured_step_there_is_neither_a_line_nor_a_folder(tmp_path: Path) -> None:
    assert timelines.write(tmp_path / "timelines", {}) == []
    assert not list(tmp_path.iterdir())
    for run in (summary(), summary(last_steps=[])):  # an earlier version's summary has no such rows
        assert "timeline" not in text(overview(run))


def test_drawings_that_cannot_be_written_are_explained(tmp_path: Path) -> None:
    (tmp_path / "timelines").touch()
    with pytest.raises(RunFolderError, match=r"timelines' can't be written \(.*\): make room and"):
        timelines.write(tmp_path / "timelines", {0: A_STEP})


def test_a_run_that_stopped_early_says_why() -> None:
    assert "interrupted: Ctrl-C" in text(overview(summary(outcome="interrupted", reason="Ctrl-C")))


def test_a_run_without_evaluations_has_no_curve() -> None:
    shown = text(overview(summary(time_to_accuracy=[], test_accuracy=None)))
    assert "after  samples" not in shown
    assert "test accuracy  -" in shown


@given(st.lists(st.integers(), unique=True), st.integers(2, 20))
def test_thinning_keeps_the_ends_and_the_order(rows: list[int], limit: int) -> None:
    kept = thin(rows, limit)
    assert len(kept) == min(len(rows), limit)
    assert kept[:1] == rows[:1]
    assert kept[-1:] == rows[-1:]
    assert [row for row in rows if row in set(kept)] == kept


def test_a_long_curve_is_thinned() -> None:
    assert accuracy_curve([[float(t), t, 0.5] for t in range(1000)]).row_count == 12


def test_a_run_cut_off_tells_how_far_it_came() -> None:
    events = [
        {"t": 0.0, "event": "joined", "worker": 0},
        {"t": 2.0, "event": "pushed", "worker": 0, "samples": 640},
        {"t": 3.0, "event": "pushed", "worker": 1, "samples": 320},
        {"t": 95.0, "event": "lost", "worker": 1},
    ]
    assert progress_lines(events, Path("runs/my run")) == [
        "runs/my run has no summary: the run is still going or was cut off.",
        "last event: lost, 1 min 35 s after the start.",
        "progress: 960 samples in 2 pushes of 2 workers.",
        "If it is not running any more, continue it with: bptcnn train --resume 'runs/my run'",
    ]


def test_a_run_without_events_says_how_to_go_on() -> None:
    assert len(progress_lines([], Path("runs/a"))) == 2


@pytest.mark.parametrize(
    ("engine", "outcome", "may_continue"),
    [
        ("ray", "interrupted", True),
        ("ray", "finished", False),
        ("ray", "diverged", False),
        ("virtual", "interrupted", False),
    ],
)
def test_only_a_real_run_that_stopped_early_continues(engine: str, outcome: str, may_continue: bool) -> None:
    assert can_continue({"engine": engine, "outcome": outcome}) is may_continue
