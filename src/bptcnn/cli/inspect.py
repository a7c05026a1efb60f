"""``bptcnn inspect``: what a run folder tells."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def inspect(
    run: Annotated[Path, typer.Argument(metavar="RUN_DIR", show_default=False, help="A run folder.")],
) -> None:
    """Show the result of a run, or how far it has come."""
    from rich.console import Console

    from bptcnn import telemetry
    from bptcnn.folder import RunFolder
    from bptcnn.report import diagnosis, tables, unfinished

    folder = RunFolder.peek(run)
    summary = folder.read_summary()
    if summary is None:
        events = telemetry.read(folder.events_path) if folder.events_path.exists() else ()
        lines = unfinished.progress_lines(events, run)
    else:
        console = Console(highlight=False)
        console.print(tables.overview(summary, console.width))
        lines = diagnosis.who_is_slow(summary)
        if unfinished.can_continue(summary):
            lines.append(unfinished.how_to_continue(run))
    for line in lines:
        typer.echo(line)
