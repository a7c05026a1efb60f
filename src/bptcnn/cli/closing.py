"""What a run prints when it is over."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from bptcnn.report.result import result_lines
from bptcnn.report.unfinished import can_continue, how_to_continue

if TYPE_CHECKING:
    from bptcnn.api import Run


def conclude(run: Run) -> None:
    """Print the result; where the run was interrupted, say how to go on and exit as for a signal."""
    for line in result_lines(run.summary):
        typer.echo(line)
    typer.echo(f"run folder: {run.path}")
    if can_continue(run.summary):
        typer.echo(how_to_continue(run.path))
    if run.summary["outcome"] == "interrupted":
        raise typer.Exit(130)
