"""The live view: what is drawn, and when a plain line is due."""

from __future__ import annotations

import dataclasses
import io
from typing import Any, get_args

import pytest
from rich.console import Console

from bptcnn.cli.live import LAST_ROWS, STATE_STYLES, LiveView, PlainView, draw, line, select, view
from bptcnn.outer.status import State, Status, WorkerStatus

FAST = WorkerStatus(0, "training", 2013.4, 0.53, 1200, 320, 3.2, 0.03, 0.0345, 0.991)
LOST = WorkerStatus(1, "lost", 502.0, 0.13, 320, 100, 2.9, 0.61, 0.05, 0.97)
NEW = WorkerStatus(2, "joining", 0.0, 0.0, 0, 0, 0.0, 0.0, None, None)
HALFWAY = Status(45.0, 90_000, 180_000, 321, 2000.0, 45.0, 0.973, (FAST, LOST, NEW))


def at(committed: int) -> Status:
    return dataclasses.replace(HALFWAY, committed=committed)


class Clock:
    """Time that passes when told to."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def crowd(count: int) -> Status:
    """Workers that train, faster by one sample a second from one to the next."""
    workers = [dataclasses.replace(FAST, worker=number, samples_per_s=1000.0 + number) for number in range(count)]
    return dataclasses.replace(HALFWAY, workers=tuple(workers))


def drawn(status: Status, width: int, **options: Any) -> list[str]:
    console = Console(width=width, file=io.StringIO(), record=True)
    console.print(draw(status, width=width, **options))
    return console.export_text().splitlines()


def terminal(width: int = 80) -> tuple[Console, io.StringIO]:
    written = io.StringIO()
    return Console(width=width, height=24, file=written, force_terminal=True, highlight=False), written


@pytest.mark.parametrize("width", [80, 200])
def test_the_display_fits_the_terminal(width: int) -> None:
    lines = drawn(HALFWAY, width)
    assert max(map(len, lines)) <= width
    assert "…" not in "".join(lines)
    assert lines[0].endswith("50 % of 180,000 samples, 45 s left")
    assert lines[1] == "test accuracy 97.3 %   2,000 samples/s   321 merges".ljust(len(lines[1]))


def test_each_worker_has_a_row() -> None:
    rows = [" ".join(row.split()) for row in drawn(HALFWAY, 80)[3:]]
    assert rows == [
        "0 2,013 53 % 1,200 3.2 3 % 0.035 99.1 % training",
        "1 502 13 % 320 2.9 61 % 0.050 97.0 % lost",
        "2 0 0 % 0 0.0 0 % - - joining",
    ]


@pytest.mark.parametrize(
    ("width", "headings"),
    [
        (79, "worker samples/s share staleness waiting loss accuracy state"),
        (69, "worker samples/s share waiting loss accuracy state"),
        (40, "worker samples/s waiting state"),
        (20, "worker state"),
    ],
)
def test_a_narrow_terminal_gets_fewer_columns_but_whole_ones(width: int, headings: str) -> None:
    lines = drawn(HALFWAY, width)
    assert max(map(len, lines)) <= width
    assert headings in [" ".join(text.split()) for text in lines]
    assert ("50 % of 180,000 samples, 45 s left" in lines[1]) is (width in (40, 69)), "below the bar"
    assert "…" not in "".join(lines)


def test_every_state_has_a_style() -> None:
    assert set(STATE_STYLES) == set(get_args(State))


def test_more_workers_than_fit_are_counted() -> None:
    lines = drawn(crowd(60), 80, rows=19)
    assert lines[-1].rstrip() == "... and 42 more workers"
    assert [int(text.split()[0]) for text in lines[3:-1]] == list(range(18)), "the slowest"
    assert drawn(crowd(60), 80, rows=60)[-1].split()[0] == "59"


def test_who_does_not_train_is_shown_before_the_slow() -> None:
    states: list[State] = ["done", "training", "waiting", "training", "lost", "done"]
    workers = [
        dataclasses.replace(FAST, worker=number, state=state, samples_per_s=100.0 - number)
        for number, state in enumerate(states)
    ]
    shown = [[worker.worker for worker in select(workers, limit)] for limit in (1, 3, 4, 5, 6)]
    assert shown == [[4], [2, 4], [2, 3, 4], [1, 2, 3, 4], [0, 1, 2, 3, 4, 5]]


def test_before_the_first_commit_nothing_is_known() -> None:
    start = Status(0.0, 0, 180_000, 0, 0.0, None, None, (NEW,))
    assert drawn(start, 80)[0].endswith("0 % of 180,000 samples, - left")
    assert line(start) == "  0 %  0/180,000 samples  0/s  test accuracy -  - left"


def test_at_the_end_the_time_is_the_whole_time() -> None:
    assert (
        line(at(180_000))
        == "100 %  180,000/180,000 samples  2,000/s  test accuracy 97.3 %  45 s in all  1 of 3 workers lost"
    )


def test_virtual_time_is_not_taken_for_real_time() -> None:
    assert drawn(HALFWAY, 80, virtual=True)[0].endswith("50 % of 180,000 samples, 45 s of virtual time left")
    assert "45 s of virtual time left" in line(HALFWAY, virtual=True)
    assert "45 s of virtual time in all" in line(at(180_000), virtual=True)
    assert "45 s left" in line(HALFWAY)


def test_a_job_of_nothing_can_be_drawn() -> None:
    assert drawn(dataclasses.replace(HALFWAY, committed=0, total=0), 80)


def test_the_live_view_draws_each_status_and_prints_notices_above() -> None:
    console, written = terminal()
    with LiveView(console) as live:
        assert "starting the workers" in written.getvalue()
        live.status(HALFWAY)
        live.notice("worker 1 is gone: its data goes to the others [all of it]")
        live.status(at(180_000))
    text = written.getvalue()
    assert text.index("50 %") < text.index("[all of it]") < text.index("100 %")
    assert text.endswith("\x1b[?25h"), "the cursor comes back"


def test_the_live_view_never_outgrows_the_terminal_and_leaves_a_few_rows() -> None:
    console, written = terminal()
    with LiveView(console) as live:
        live.status(crowd(60))
        running = written.getvalue()
    last = written.getvalue().rpartition("samples/s")[2]
    assert running.count("training") == 24 - 6 - 1
    assert "... and 43 more workers" in running
    assert last.count("training") == LAST_ROWS - 1
    assert "... and 53 more workers" in last


@pytest.mark.parametrize("virtual", [False, True])
def test_the_view_is_told_of_virtual_time(virtual: bool) -> None:
    console, written = terminal()
    with view(console, virtual=virtual) as live:
        live.status(HALFWAY)
    assert ("of virtual time" in written.getvalue()) is virtual


def test_an_error_leaves_the_terminal_usable() -> None:
    console, written = terminal()
    with pytest.raises(KeyboardInterrupt), LiveView(console):
        raise KeyboardInterrupt
    assert written.getvalue().endswith("\x1b[?25h")


def test_a_terminal_gets_the_display_and_a_pipe_gets_lines() -> None:
    assert isinstance(view(terminal()[0]), LiveView)
    assert isinstance(view(Console(file=io.StringIO())), PlainView)


def test_plain_lines_come_every_ten_seconds() -> None:
    lines: list[str] = []
    clock = Clock()
    with PlainView(lines.append, clock) as plain:
        for second in range(25):  # four statuses a second, hardly any progress
            for quarter in range(4):
                clock.now_s = second + quarter / 4
                plain.status(at(4 * second + quarter))
    assert [int(text.split()[2].split("/")[0]) for text in lines] == [0, 40, 80, 99]


def test_plain_lines_come_every_tenth_of_a_fast_run() -> None:
    lines: list[str] = []
    with PlainView(lines.append, Clock()) as plain:
        for committed in range(0, 180_001, 1_800):
            plain.status(at(committed))
    assert [text.split(" %")[0].strip() for text in lines] == [str(tenth) for tenth in range(0, 101, 10)]


def test_the_last_status_is_not_printed_twice() -> None:
    lines: list[str] = []
    with PlainView(lines.append, Clock()) as plain:
        plain.status(HALFWAY)
    assert len(lines) == 1


def test_plain_notices_come_at_once() -> None:
    lines: list[str] = []
    with PlainView(lines.append, Clock()) as plain:
        plain.notice("worker 1 is gone")
    assert lines == ["worker 1 is gone"]


def test_lines_reach_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    with PlainView() as plain:
        plain.status(HALFWAY)
    assert capsys.readouterr().out.startswith(" 50 %  90,000/180,000 samples")
