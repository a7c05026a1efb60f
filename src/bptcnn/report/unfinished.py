"""A run that has no summary yet, or never got one: what its events tell."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from bptcnn.report.format import count, duration


def progress_lines(events: Iterable[Mapping[str, Any]], folder: Path) -> list[str]:
    """How far a run has come, and how to go on with it.

    Args:
        events: of ``events.jsonl``, each with a time ``t`` in seconds and a name ``event``.
        folder: of the run.

    Returns:
        Lines of text.
    """
    last: Mapping[str, Any] | None = None
    pushes: dict[int, int] = {}
    num_samples = 0
    for event in events:
        last = event
        if event["event"] == "pushed":
            pushes[event["worker"]] = pushes.get(event["worker"], 0) + 1
            num_samples += event["samples"]
    lines = [f"{folder} has no summary: the run is still going or was cut off."]
    if last is not None:
        lines += [
            f"last event: {last['event']}, {duration(last['t'])} after the start.",
            f"progress: {count(num_samples)} samples in {count(sum(pushes.values()))} pushes of {len(pushes)} workers.",
        ]
    return [*lines, f"If it is not running any more, {how_to_continue(folder)}"]


def how_to_continue(folder: Path) -> str:
    """The command that goes on with a run."""
    return f"continue it with: bptcnn train --resume {shlex.quote(str(folder))}"


def can_continue(summary: Mapping[str, Any]) -> bool:
    """Whether a run with this summary stopped before its end and may go on."""
    return summary["engine"] == "ray" and summary["outcome"] in ("interrupted", "failed")
