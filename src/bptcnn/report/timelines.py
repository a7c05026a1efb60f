"""The timelines of a run: each worker's last step, drawn, in a folder beside the summary."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bptcnn import durable
from bptcnn.errors import RunFolderError
from bptcnn.inner.account import LastStep


def write(folder: Path, steps: Mapping[int, LastStep]) -> list[dict[str, Any]]:
    """Draw what workers told of their last steps, in place of what those of an earlier session told.

    Args:
        folder: for the drawings; made where there is one.
        steps: by worker; who died, or was served by PyTorch, has told nothing.

    Returns:
        A row for each, for the summary: figures in seconds, and the drawing's name as seen from the run's folder.

    Raises:
        RunFolderError: it cannot be written.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as run:
        ...     write(Path(run, "timelines"), {2: LastStep(4, 0.02, 0.9, 0.001, "<svg/>")})[0]["timeline"]
        'timelines/worker-2.svg'
    """
    try:
        for earlier in folder.glob("worker-*.svg"):
            earlier.unlink()
        if steps:
            folder.mkdir(exist_ok=True)
        for worker, step in steps.items():
            durable.replace(folder / _name(worker), step.drawing.encode())
    except OSError as error:
        raise RunFolderError(
            f"timelines {str(folder)!r} can't be written ({error.strerror}): make room and make them writable"
        ) from error
    return [_row(worker, step, f"{folder.name}/{_name(worker)}") for worker, step in sorted(steps.items())]


def _name(worker: int) -> str:
    return f"worker-{worker}.svg"


def _row(worker: int, step: LastStep, timeline: str) -> dict[str, Any]:
    return {
        "worker": worker,
        "threads": step.num_lanes,
        "seconds": step.seconds,
        "balance": step.balance,
        "critical_waiting_seconds": step.waiting_s,
        "timeline": timeline,
    }
