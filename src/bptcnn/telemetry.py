"""What a run writes down while it trains: an event log for reports and scalars for TensorBoard.

Times are the caller's seconds since the run began, real or virtual; nothing here looks at a clock, a host name or a
process number, so two virtual runs of one configuration write the same bytes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from bptcnn.errors import RunFolderError

if TYPE_CHECKING:
    from typing_extensions import Self

_FLUSH_EVERY_S = 1.0
_SCAN_BYTES = 1 << 16


class _Log:
    """A file that is flushed about once a second of the caller's time, and a context manager."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._flushed_at_s = float("-inf")

    def flush(self) -> None:
        """Hand what was written to the operating system."""
        self._file.flush()

    def close(self) -> None:
        """Flush and close the file; closing twice is harmless."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _pace(self, at_s: float) -> None:
        if not self._flushed_at_s <= at_s < self._flushed_at_s + _FLUSH_EVERY_S:
            self._flushed_at_s = at_s
            self.flush()


class EventLog(_Log):
    """The run's diary: one JSON object a line, appended.

    A line that a killed process left unfinished is cut off when the file is opened again.

    Args:
        path: the file, made if needed.

    Raises:
        RunFolderError: the file cannot be opened.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with EventLog(Path(folder) / "events.jsonl") as log:
        ...         log.write(1.5, "pushed", worker=0, loss=float("nan"))
        ...     list(read(Path(folder) / "events.jsonl"))
        [{'t': 1.5, 'event': 'pushed', 'worker': 0, 'loss': None}]
    """

    def __init__(self, path: Path) -> None:
        try:
            file = path.open("a+b")
            file.truncate(_end_of_last_line(file))
        except OSError as error:
            raise _unusable(path, error) from error
        super().__init__(file)

    def write(self, at_s: float, event: str, /, **fields: Any) -> None:
        """Append one event.

        Args:
            at_s: seconds since the run began.
            event: what happened, in the past tense.
            **fields: JSON values, numpy scalars or arrays; a number that is nan or infinite is written as null.
        """
        assert "t" not in fields, "the field 't' is the time of the event"
        self._file.write(_line({"t": round(float(at_s), 6), "event": event, **fields}))
        self._pace(at_s)


def read(path: Path) -> Iterator[dict[str, Any]]:
    """Read an event log, also one that is being written; an unfinished last line is left out.

    Args:
        path: the file.

    Yields:
        The events in the order of writing, each with its time ``t`` in seconds and its ``event``.

    Raises:
        RunFolderError: there is no such file, or a line before the last is damaged.
    """
    try:
        file = path.open("rb")
    except OSError as error:
        raise _unusable(path, error) from error
    with file:
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                return
            try:
                yield json.loads(line)
            except ValueError:
                raise RunFolderError(
                    f"line {number} of event log {str(path)!r} is damaged: delete that line to read the others"
                ) from None


class TensorBoardLog(_Log):
    """Scalars for TensorBoard, one new events file a session.

    Files are named ``events.out.tfevents.<n>.bptcnn`` with n the number of earlier ones.

    Args:
        folder: TensorBoard's ``--logdir``, made if needed.
        start_s: wall time at which the run began, seconds since 1970 (any fixed number in a virtual run).

    Raises:
        RunFolderError: the file cannot be made.
    """

    def __init__(self, folder: Path, start_s: float) -> None:
        # Imported here: only a training process needs them, and they cost every other one 0.2 s.
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.summary.writer.record_writer import RecordWriter

        try:
            folder.mkdir(parents=True, exist_ok=True)
            earlier = len(list(folder.glob("events.out.tfevents.*.bptcnn")))
            file = (folder / f"events.out.tfevents.{earlier:06d}.bptcnn").open("xb")
        except OSError as error:
            raise _unusable(folder, error) from error
        super().__init__(file)
        self._start_s = start_s
        self._event = Event
        self._records = RecordWriter(file)
        self._write(Event(wall_time=start_s, file_version="brain.Event:2"))

    def scalar(self, tag: str, value: float, step: int, at_s: float) -> None:
        """Add one point to a curve.

        Args:
            tag: name of the curve, such as ``"test/accuracy"``.
            value: height of the point.
            step: its place on the axis of steps.
            at_s: seconds since the run began, its place on the axis of time.
        """
        summary = {"value": [{"tag": tag, "simple_value": float(value)}]}
        self._write(self._event(wall_time=self._start_s + at_s, step=int(step), summary=summary))
        self._pace(at_s)

    def _write(self, event: Any) -> None:
        self._records.write(event.SerializeToString(deterministic=True))


def _line(record: dict[str, Any]) -> bytes:
    """One line of strict JSON."""
    try:
        text = json.dumps(record, allow_nan=False, default=_plain)
    except ValueError:  # JSON has no nan and no infinity: they become null
        loose = json.dumps(record, default=_plain)
        text = json.dumps(json.loads(loose, parse_constant=lambda name: None))
    return text.encode() + b"\n"


def _plain(value: Any) -> Any:
    """The Python value of a numpy scalar or array."""
    assert hasattr(value, "tolist"), f"an event can't hold {type(value).__name__}"
    return value.tolist()


def _end_of_last_line(file: IO[bytes]) -> int:
    """Where the last whole line ends, looking backwards from the end."""
    end = file.seek(0, 2)
    while end > 0:
        start = max(0, end - _SCAN_BYTES)
        file.seek(start)
        newline = file.read(end - start).rfind(b"\n")
        if newline >= 0:
            return start + newline + 1
        end = start
    return 0


def _unusable(path: Path, error: OSError) -> RunFolderError:
    return RunFolderError(
        f"cannot open {str(path)!r} ({error.strerror}): check that the run folder is whole and writable"
    )
