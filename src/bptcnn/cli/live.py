"""The live view of a running job: a display on a terminal, a line now and then elsewhere.

Both views are observers (``status`` and ``notice``) and context managers.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from types import TracebackType

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from bptcnn.outer.status import Status, WorkerStatus
from bptcnn.report.columns import Cell, fitted
from bptcnn.report.format import count, duration, number, percent

STATE_STYLES = {"lost": "red", "joining": "dim", "waiting": "yellow", "training": "green", "done": "dim green"}
"""How each state looks; where not all workers can be shown, those of the first states are."""

HEADINGS = ("worker", "samples/s", "share", "steps", "staleness", "waiting", "loss", "accuracy", "state")
EXPENDABLE = ("steps", "staleness", "loss", "share", "accuracy", "waiting", "samples/s")
"""Columns that a narrow terminal does without, the least important first."""

NARROW = 70
FIXED_LINES = 6  # around the rows: bar, its caption, two of figures, headings, and the cursor's
LAST_ROWS = 8
LINE_EVERY_S = 10.0
LINE_EVERY_FRACTION = 0.1


def view(console: Console | None = None, *, virtual: bool = False) -> LiveView | PlainView:
    """The view that fits where the output goes.

    Args:
        console: the output; None means stdout.
        virtual: the seconds are those of a virtual clock.

    Returns:
        A display for a terminal, plain lines for a file or pipe.
    """
    console = console or Console(highlight=False)
    return LiveView(console, virtual=virtual) if console.is_terminal else PlainView(virtual=virtual)


class LiveView:
    """A display that is drawn anew at each status; notices scroll away above it.

    It never outgrows the terminal, and what stays when it ends is a few rows.

    Args:
        console: a terminal.
        virtual: the seconds are those of a virtual clock.
    """

    def __init__(self, console: Console, *, virtual: bool = False) -> None:
        self._console = console
        self._virtual = virtual
        self._latest: Status | None = None
        self._live = Live(Text("starting the workers", style="dim"), console=console, auto_refresh=False)

    def __enter__(self) -> LiveView:
        self._live.start(refresh=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._latest is not None:
            self._show(self._latest, LAST_ROWS)
        self._live.stop()

    def status(self, status: Status) -> None:
        """Redraw."""
        self._latest = status
        self._show(status, len(status.workers))

    def notice(self, text: str) -> None:
        """Print a sentence above the display."""
        self._console.print(Text(text))

    def _show(self, status: Status, rows: int) -> None:
        width, height = self._console.size
        rows = max(1, min(rows, height - FIXED_LINES))
        self._live.update(draw(status, width=width, rows=rows, virtual=self._virtual), refresh=True)


class PlainView:
    """A line every ten seconds or tenth of the run, whichever comes first; the first and the last status always.

    Args:
        write: prints one line.
        clock: seconds, never going back.
        virtual: the seconds of a status are those of a virtual clock.
    """

    def __init__(
        self,
        write: Callable[[str], None] = lambda line: print(line, flush=True),
        clock: Callable[[], float] = time.monotonic,
        *,
        virtual: bool = False,
    ) -> None:
        self._virtual = virtual
        self._write = write
        self._clock = clock
        self._printed: Status | None = None
        self._printed_at_s = 0.0
        self._latest: Status | None = None

    def __enter__(self) -> PlainView:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._latest is not None and self._latest is not self._printed:
            self._print(self._latest)

    def status(self, status: Status) -> None:
        """Print a line if it is time for one."""
        self._latest = status
        if self._printed is None or self._is_due(status, self._printed):
            self._print(status)

    def notice(self, text: str) -> None:
        """Print a sentence."""
        self._write(text)

    def _is_due(self, status: Status, printed: Status) -> bool:
        if self._clock() - self._printed_at_s >= LINE_EVERY_S:
            return True
        return status.committed - printed.committed >= LINE_EVERY_FRACTION * status.total

    def _print(self, status: Status) -> None:
        self._write(line(status, virtual=self._virtual))
        self._printed, self._printed_at_s = status, self._clock()


def line(status: Status, *, virtual: bool = False) -> str:
    """A status as one line of text.

    Args:
        status: what is written.
        virtual: the seconds are those of a virtual clock.

    Returns:
        The line.
    """
    parts = [
        f"{_done(status):>5}",
        f"{count(status.committed)}/{count(status.total)} samples",
        f"{count(status.samples_per_s)}/s",
        f"test accuracy {percent(status.test_accuracy)}",
        _remaining(status, virtual),
    ]
    lost = sum(worker.state == "lost" for worker in status.workers)
    if lost:
        parts.append(f"{lost} of {len(status.workers)} workers lost")
    return "  ".join(parts)


def draw(status: Status, *, width: int = 80, rows: int | None = None, virtual: bool = False) -> RenderableType:
    """A status as a progress bar, a line of figures, and one row a worker.

    Args:
        status: what is drawn.
        width: of the terminal, in characters.
        rows: how many workers are shown; None shows all.
        virtual: the seconds are those of a virtual clock.

    Returns:
        The display.
    """
    figures = Text.assemble(
        "test accuracy ",
        (percent(status.test_accuracy), "bold"),
        "   ",
        (count(status.samples_per_s), "bold"),
        f" samples/s   {count(status.version)} merges",
    )
    shown = select(status.workers, len(status.workers) if rows is None else rows)
    table = fitted(HEADINGS, [_cells(worker) for worker in shown], width, EXPENDABLE, left=("state",))
    parts: list[RenderableType] = [_progress(status, width, virtual), figures, table]
    hidden = len(status.workers) - len(shown)
    if hidden:
        parts.append(Text(f"... and {hidden} more worker{'s' * (hidden > 1)}", style="dim"))
    return Group(*parts)


def select(workers: Sequence[WorkerStatus], limit: int) -> list[WorkerStatus]:
    """The workers that matter most: those that do not train, then the slowest.

    Args:
        workers: all of them.
        limit: how many there is room for, the line that counts the others included.

    Returns:
        Some or all, in their order.
    """
    if len(workers) <= limit:
        return list(workers)
    states = list(STATE_STYLES)
    urgent = sorted(workers, key=lambda worker: (states.index(worker.state), worker.samples_per_s))
    return sorted(urgent[: max(limit - 1, 1)], key=lambda worker: worker.worker)


def _progress(status: Status, width: int, virtual: bool) -> Table:
    """The bar beside its caption, or above it where there is little room."""
    bar = ProgressBar(
        total=max(status.total, 1), completed=status.committed, complete_style="cyan", finished_style="green"
    )
    caption = f"{_done(status)} of {count(status.total)} samples, {_remaining(status, virtual)}"
    progress = Table.grid(padding=(0, 2, 0, 0), expand=True)
    progress.add_column(ratio=1)
    if width < NARROW:
        progress.add_row(bar)
        progress.add_row(caption)
    else:
        progress.add_column(justify="right", no_wrap=True)
        progress.add_row(bar, caption)
    return progress


def _cells(worker: WorkerStatus) -> list[Cell]:
    waiting = Text(percent(worker.waiting, digits=0), style="yellow" if worker.waiting >= 0.2 else "")
    return [
        str(worker.worker),
        count(worker.samples_per_s),
        percent(worker.share, digits=0),
        count(worker.steps),
        number(worker.staleness, digits=1),
        waiting,
        number(worker.loss, digits=3),
        percent(worker.accuracy),
        Text(worker.state, style=STATE_STYLES[worker.state]),
    ]


def _done(status: Status) -> str:
    return percent(status.committed / max(status.total, 1), digits=0)


def _remaining(status: Status, virtual: bool) -> str:
    clock = " of virtual time" if virtual else ""
    if status.committed >= status.total:
        return f"{duration(status.elapsed_s)}{clock} in all"
    return "- left" if status.eta_s is None else f"{duration(status.eta_s)}{clock} left"
