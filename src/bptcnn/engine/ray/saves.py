"""Checkpoints written in the background, one after the other."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from bptcnn.engine.server import write_checkpoint


class Saves:
    """Writes checkpoints in a thread of its own.

    Args:
        path: the run's checkpoint folder.
        keep: how many stay.
    """

    def __init__(self, path: Path, keep: int) -> None:
        self._path, self._keep = path, keep
        self._writer = ThreadPoolExecutor(1)
        self._under_way: list[Future[None]] = []

    def begin(self, tree: dict[str, Any]) -> None:
        """Write a checkpoint soon.

        Args:
            tree: the coordinator's state.
        """
        self._under_way.append(self._writer.submit(write_checkpoint, self._path, self._keep, tree))

    def failed(self) -> list[str]:
        """What went wrong since the last look; training goes on, the next checkpoint may succeed."""
        done = [save for save in self._under_way if save.done()]
        self._under_way = [save for save in self._under_way if save not in done]
        return [str(error) for save in done if (error := save.exception()) is not None]

    def close(self) -> None:
        """Wait until all is written."""
        self._writer.shutdown()
