"""A run's summary as tables for the terminal: pure functions from the mapping to what rich prints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from bptcnn.report.columns import fitted
from bptcnn.report.format import count, duration, milliseconds, number, percent, size
from bptcnn.report.result import account_line, time_taken

T = TypeVar("T")

OUTCOME_STYLES = {"finished": "green", "interrupted": "yellow"}
CURVE_ROWS = 12

WORKER_HEADINGS = ("worker", "samples/s", "asked", "samples", "pushes", "staleness", "busy", "waiting", "replaced")
EXPENDABLE = ("staleness", "pushes", "busy", "asked", "replaced", "samples")
"""Columns that a narrow terminal does without, the least important first."""

STEP_HEADINGS = ("worker", "threads", "last step", "balance", "critical wait", "timeline")
STEP_EXPENDABLE = ("threads", "last step", "critical wait", "balance")


def overview(summary: Mapping[str, Any], width: int = 80) -> RenderableType:
    """All that a summary says.

    Args:
        summary: as in ``summary.json``.
        width: of the terminal, in characters.

    Returns:
        Header, workers, their last steps, account of the samples and accuracy over time.
    """
    account = account_line(summary["samples"], summary.get("samples_total"))
    parts: list[RenderableType] = [header(summary), "", workers(summary, width), ""]
    if summary.get("last_steps"):  # else PyTorch served all workers, or time was virtual
        parts += [last_steps(summary["last_steps"], width), ""]
    parts += [account, ""]
    if summary["time_to_accuracy"]:
        parts += [accuracy_curve(summary["time_to_accuracy"], width), ""]
    return Group(*parts)


def header(summary: Mapping[str, Any]) -> Table:
    """What was trained, how, and what came out.

    Args:
        summary: as in ``summary.json``.

    Returns:
        Two columns, name and value.
    """
    pushes = sum(worker["pushes"] for worker in summary["workers"])
    reason = "" if summary["outcome"] == "finished" else f": {summary['reason']}"
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(style="dim", no_wrap=True)
    table.add_row("trained", f"{summary['model']} on {summary['data']}, {summary['epochs']:.3g} epochs")
    table.add_row("strategy", f"{summary['strategy']}, allocation {summary['allocation']}, seed {summary['seed']}")
    table.add_row("outcome", Text(summary["outcome"] + reason, style=OUTCOME_STYLES.get(summary["outcome"], "red")))
    table.add_row("test accuracy", Text(percent(summary["test_accuracy"]), style="bold"))
    table.add_row("speed", f"{count(summary['samples_per_second'])} samples/s")
    table.add_row("time", time_taken(summary))
    table.add_row(
        "exchanged",
        f"{count(pushes)} pushes; {size(summary['bytes_pushed'])} pushed, {size(summary['bytes_pulled'])} pulled",
    )
    table.add_row("balance", number(summary["balance"], digits=3))
    table.add_row("made with", ", ".join(f"{name} {version}" for name, version in summary["versions"].items()))
    return table


def workers(summary: Mapping[str, Any], width: int = 80) -> Table:
    """One row a worker.

    Args:
        summary: as in ``summary.json``.
        width: of the terminal, in characters.

    Returns:
        Speed, samples, exchanges, staleness, training and waiting time, as far as there is room.
    """
    rows = [
        (
            str(worker["worker"]),
            count(worker["speed"]),
            count(worker["asked_speed"]),
            count(worker["samples"]),
            count(worker["pushes"]),
            number(worker["mean_staleness"], digits=1),
            duration(worker["busy_seconds"]),
            percent(waiting, digits=0),
            count(worker["replaced"]),
        )
        for worker, waiting in zip(summary["workers"], summary["waiting_fraction"], strict=True)
    ]
    return fitted(WORKER_HEADINGS, rows, width, EXPENDABLE)


def last_steps(rows: Sequence[Mapping[str, Any]], width: int = 80) -> Table:
    """One row for each worker that told of its last step.

    Args:
        rows: as in ``summary.json``.
        width: of the terminal, in characters.

    Returns:
        Threads, time, balance of the threads, how long tasks of the critical path waited for one, and the drawing.
    """
    cells = [
        (
            str(row["worker"]),
            count(row["threads"]),
            milliseconds(row["seconds"]),
            number(row["balance"], digits=2),
            milliseconds(row["critical_waiting_seconds"]),
            row["timeline"],
        )
        for row in rows
    ]
    return fitted(STEP_HEADINGS, cells, width, STEP_EXPENDABLE, left=("timeline",))


def accuracy_curve(points: Sequence[Sequence[float]], width: int = 80) -> Table:
    """Test accuracy over time, thinned to a dozen rows.

    Args:
        points: seconds, samples committed and test accuracy of each evaluation.
        width: of the terminal, in characters.

    Returns:
        One row a point; the first and the last are always there.
    """
    rows = [
        (duration(seconds), count(committed), percent(accuracy))
        for seconds, committed, accuracy in thin(points, CURVE_ROWS)
    ]
    return fitted(("after", "samples", "test accuracy"), rows, width, expendable=("samples",))


def thin(rows: Sequence[T], limit: int) -> list[T]:
    """At most so many rows, evenly spaced, the first and the last among them.

    Args:
        rows: all of them.
        limit: 2 or more.

    Returns:
        Rows in their order.

    Example:
        >>> thin(range(101), 5)
        [0, 25, 50, 75, 100]
    """
    if len(rows) <= limit:
        return list(rows)
    last = len(rows) - 1
    return [rows[round(step * last / (limit - 1))] for step in range(limit)]
