"""The live view of a running job: a display on a terminal, a line now and then elsewhere.

Both views are observers (``status`` and ``notice``) and context managers.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from bptcnn.outer.status import Status, WorkerStatus
from bptcnn.report.format import count, duration, number, percent

STATE_STYLES = {"joining": "dim", "training": "green", "waiting": "yellow", "lost": "red"}
LINE_EVERY_S = 10.0
LINE_EVERY_FRACTION = 0.1


def view(console: Console | None = None) -> LiveView | PlainView:
    """The view that fits where the output goes.

    Args:
        console: the output; None means stdout.

    Returns:
        A display for a terminal, plain lines for a file or pipe.
    """
    console = console or Console(highlight=False)
    return LiveView(console) if console.is_terminal else PlainView()


class LiveView:
    """A display that is drawn anew at each status; notices scroll away above it.

    Args:
        console: a terminal.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(Text("starting the workers", style="dim"), console=console, auto_refresh=False)

    def __enter__(self) -> LiveView:
        self._live.start(refresh=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def status(self, status: Status) -> None:
        """Redraw."""
        self._live.update(draw(status), refresh=True)

    def notice(self, text: str) -> None:
        """Print a sentence above the display."""
        self._console.print(Text(text))


class PlainView:
    """A line every ten seconds or tenth of the run, whichever comes first; the first and the last status always.

    Args:
        write: prints one line.
        clock: seconds, never going back.
    """

    def __init__(
        self,
        write: Callable[[str], None] = lambda line: print(line, flush=True),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
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
        self._write(line(status))
        self._printed, self._printed_at_s = status, self._clock()


def line(status: Status) -> str:
    """A status as one line of text."""
    parts = [
        f"{_done(status):>5}",
        f"{count(status.committed)}/{count(status.total)} samples",
        f"{count(status.samples_per_s)}/s",
        f"test accuracy {percent(status.test_accuracy)}",
        _remaining(status),
    ]
    lost = sum(worker.state == "lost" for worker in status.workers)
    if lost:
        parts.append(f"{lost} of {len(status.workers)} workers lost")
    return "  ".join(parts)


def draw(status: Status) -> RenderableType:
    """A status as a progress bar, a line of figures, and one row a worker."""
    progress = Table.grid(padding=(0, 2, 0, 0), expand=True)
    progress.add_column(ratio=1)
    progress.add_column(justify="right", no_wrap=True)
    progress.add_row(
        ProgressBar(
            total=max(status.total, 1), completed=status.committed, complete_style="cyan", finished_style="green"
        ),
        f"{_done(status)} of {count(status.total)} samples, {_remaining(status)}",
    )
    figures = Text.assemble(
        "test accuracy ",
        (percent(status.test_accuracy), "bold"),
        "   ",
        (count(status.samples_per_s), "bold"),
        f" samples/s   {count(status.version)} merges",
    )
    return Group(progress, figures, _workers(status.workers))


def _workers(workers: tuple[WorkerStatus, ...]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for heading in ("worker", "samples/s", "share", "steps", "staleness", "waiting", "loss", "accuracy"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("state", no_wrap=True)
    for worker in workers:
        table.add_row(*_cells(worker))
    return table


def _cells(worker: WorkerStatus) -> list[RenderableType]:
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


def _remaining(status: Status) -> str:
    if status.committed >= status.total:
        return f"{duration(status.elapsed_s)} in all"
    return f"{duration(status.eta_s)} left"
