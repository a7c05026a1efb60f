"""The record of a run: every event the coordinator heard and every command it gave, in one file.

From ``events.jsonl`` a run can be played again, see ``replay``.
"""

from __future__ import annotations

import zlib
from collections import defaultdict
from dataclasses import dataclass, fields
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import numpy as np
from typing_extensions import Self

from bptcnn.outer.messages import Command, Evaluated, Event, Lease, Pushed
from bptcnn.telemetry import EventLog, TensorBoardLog

POINTS = 1000
"""Of a worker's curve, about: pushes that lie closer together than its points make one, their mean by samples."""


class Journal:
    """Writes JSON lines for programs and TensorBoard scalars for people.

    Args:
        events_path: ``events.jsonl`` of the run.
        tensorboard_path: folder of the TensorBoard file.
        start_s: wall time at which the run's clock stood at 0; 0 for a virtual clock.
    """

    def __init__(self, events_path: Path, tensorboard_path: Path, start_s: float) -> None:
        self._log = EventLog(events_path)
        self._board = TensorBoardLog(tensorboard_path, start_s)
        self._gathered: dict[int, _Gathered] = defaultdict(_Gathered)

    def event(self, event: Event, now: float) -> None:
        """Write an event, as the coordinator is about to hear it.

        Args:
            event: what happened.
            now: the run's clock, seconds.
        """
        self._log.write(now, name_of(type(event)), **plain(event))

    def command(self, command: Command, now: float) -> None:
        """Write a command, as it is about to be carried out.

        Args:
            command: what is ordered.
            now: the run's clock, seconds.
        """
        self._log.write(now, name_of(type(command)), **plain(command))

    def curves(self, event: Event, now: float, committed: int, total: int) -> None:
        """Draw what an event adds to the TensorBoard curves, against committed samples.

        Args:
            event: as handled.
            now: the run's clock, seconds.
            committed: samples committed after it.
            total: samples of the whole run.
        """
        if isinstance(event, Pushed) and event.samples:
            gathered = self._gathered[event.worker]
            gathered.add(event, committed, now)
            gathered.due = min(gathered.due, committed + total / POINTS)  # what was committed may be taken back
            if committed >= gathered.due:
                self._draw(event.worker, gathered)
                self._gathered[event.worker] = _Gathered(due=committed + total / POINTS)
        if isinstance(event, Evaluated):
            self._board.scalar("test_accuracy", event.accuracy, event.committed, now)

    def _draw(self, worker: int, gathered: _Gathered) -> None:
        at = gathered.committed, gathered.at_s
        self._board.scalar(f"train_loss/worker_{worker}", gathered.loss, *at)
        self._board.scalar(f"train_accuracy/worker_{worker}", gathered.accuracy, *at)

    def session(self, number: int, now: float, restored: Path | None, engine: Literal["ray", "virtual"]) -> None:
        """Note that a server began to work on this run.

        Args:
            number: sessions before this one.
            now: the run's clock, seconds.
            restored: the checkpoint that it goes on from; None if it begins anew.
            engine: what drives it.
        """
        name = restored.name if restored else None
        self._log.write(now, "session_started", session=number, checkpoint=name, engine=engine)

    def flush(self) -> None:
        """Hand all that was written so far to the operating system."""
        self._log.flush()

    def close(self) -> None:
        """Write out what is buffered, and draw the ends of the curves."""
        for worker, gathered in self._gathered.items():
            if gathered.samples:
                self._draw(worker, gathered)
        self._gathered.clear()
        self._log.close()
        self._board.close()

    def __enter__(self) -> Self:
        """Use as a context manager."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        self.close()


@dataclass(slots=True)
class _Gathered:
    """What a worker has pushed since the last point of its curves; the next is due at so many committed samples."""

    due: float = 0.0
    samples: int = 0
    loss: float = 0.0
    accuracy: float = 0.0
    committed: int = 0
    at_s: float = 0.0

    def add(self, push: Pushed, committed: int, at_s: float) -> None:
        """Take a push into the means; they stand where and when the last one does."""
        self.committed, self.at_s = committed, at_s
        self.samples += push.samples
        self.loss += (push.loss - self.loss) * push.samples / self.samples
        self.accuracy += (push.accuracy - self.accuracy) * push.samples / self.samples


def plain(message: Event | Command) -> dict[str, Any]:
    """A message as JSON values: vectors left out, leases by number, size and checksum of their indices.

    Args:
        message: an event or a command.

    Returns:
        Its fields.
    """
    values = {field.name: getattr(message, field.name) for field in fields(message)}
    return {name: _value(value) for name, value in values.items() if name not in ("delta", "weights")}


def _value(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_value(part) for part in value]
    if isinstance(value, Lease):
        checksum = zlib.crc32(np.ascontiguousarray(value.indices).tobytes())
        return {"id": value.id, "epoch": value.epoch, "samples": value.size, "crc32": checksum}
    return value


def name_of(kind: type[Any]) -> str:
    """How the journal calls a kind of event or command: ``WorkerJoined`` is ``worker_joined``."""
    return "".join(f"_{c.lower()}" if c.isupper() else c for c in kind.__name__).lstrip("_")
