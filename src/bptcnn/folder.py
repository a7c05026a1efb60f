"""The folder of one run: what lies where, and who may write.

::

    config.toml          the configuration, as text; it makes the folder a run
    run.lock             locked, with the process number inside, while a process trains
    session              how often the run was started or resumed
    initial.safetensors  the network at the start, where it was given or a part of it is frozen
    events.jsonl         what happened (telemetry.EventLog)
    tensorboard/         curves (telemetry.TensorBoardLog)
    checkpoints/         states to resume from (checkpoint)
    timelines/           the workers' last steps, drawn (report.timelines)
    summary.json         the outcome
    model.safetensors    the trained network
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from bptcnn import durable
from bptcnn.errors import RunFolderError

if TYPE_CHECKING:
    from typing_extensions import Self

_CONFIG = "config.toml"
_LOCK = "run.lock"
_SESSION = "session"
_INITIAL = "initial.safetensors"
_EVENTS = "events.jsonl"
_TENSORBOARD = "tensorboard"

# What a start that was killed may leave in a folder that is no run yet.
_START_UP = {name + end for name in (_CONFIG, _SESSION, _INITIAL) for end in ("", durable.PART)} | {_LOCK}


class RunFolder:
    """One run on disk. Make it with :meth:`create`, :meth:`open` or, only to read, :meth:`peek`.

    Args:
        path: the folder, checked by one of those three.
        made: the folders that :meth:`create` had to make, innermost first; None for an earlier run.

    Attributes:
        path: the folder itself.
        config_path: the configuration.
        initial_path: the network at the start, if it is kept.
        events_path: the event log.
        summary_path: the outcome, once there is one.
        model_path: the trained network.
        checkpoints_path: the folder of all checkpoints.
        tensorboard_path: the folder for TensorBoard's ``--logdir``.
        timelines_path: the folder of the workers' last steps, drawn.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as parent:
        ...     with RunFolder.create(Path(parent, "digits"), "epochs = 3") as run:
        ...         session = run.next_session()
        ...         run.write_summary({"outcome": "finished"})
        ...     (session, run.finished)
        (1, True)
    """

    def __init__(self, path: Path, made: tuple[Path, ...] | None = None) -> None:
        self.path = path
        self.config_path = path / _CONFIG
        self.initial_path = path / _INITIAL
        self.events_path = path / _EVENTS
        self.summary_path = path / "summary.json"
        self.model_path = path / "model.safetensors"
        self.checkpoints_path = path / "checkpoints"
        self.tensorboard_path = path / _TENSORBOARD
        self.timelines_path = path / "timelines"
        self._made = made
        self._lock: IO[str] | None = None

    @classmethod
    def create(cls, path: str | os.PathLike[str], config_toml: str) -> Self:
        """Start a new run.

        Args:
            path: a folder that is empty or does not exist; parents are made.
            config_toml: the configuration.

        Returns:
            The locked folder.

        Raises:
            RunFolderError: the folder holds a run or something else, or it can't be written.
        """
        path = Path(path)
        with _explained(path):
            _check_free(path)
            made = tuple(folder for folder in (path, *path.parents) if not folder.exists())
            path.mkdir(parents=True, exist_ok=True)
        run = cls(path, made)
        try:
            with _explained(path):
                run._lock = _locked(path)
                if run.config_path.exists():  # another process was faster, or the run is an earlier one
                    run._made = None
                    raise RunFolderError(_occupied(run, config_toml))
                durable.replace(run.config_path, config_toml.encode())
        except BaseException:
            run.discard()
            raise
        return run

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Self:
        """Continue an earlier run.

        Args:
            path: the folder of that run.

        Returns:
            The locked folder.

        Raises:
            RunFolderError: it is no run, or another process uses it.
        """
        run = cls.peek(path)
        with _explained(run.path):
            run._lock = _locked(run.path)
        return run

    @classmethod
    def peek(cls, path: str | os.PathLike[str]) -> Self:
        """Look at a run without locking it, also while it trains.

        Args:
            path: the folder of that run.

        Returns:
            The folder, only to read.

        Raises:
            RunFolderError: it is no run.
        """
        path = Path(path)
        if not (path / _CONFIG).is_file():
            state = f"has no {_CONFIG}" if path.is_dir() else "is a file" if path.exists() else "does not exist"
            raise RunFolderError(f"{str(path)!r} is not a run (it {state}): name the folder that a run was written to")
        return cls(path)

    @property
    def finished(self) -> bool:
        """Whether the run came to its planned end."""
        summary = self.read_summary()
        return summary is not None and summary.get("outcome") == "finished"

    def next_session(self) -> int:
        """Count one more start of this run.

        Returns:
            1 for the first session, and never the same number twice.

        Raises:
            RunFolderError: the counter is damaged or can't be written.
        """
        counter = self.path / _SESSION
        with _explained(self.path):
            text = counter.read_text() if counter.exists() else "0"
            if not text.strip().isdecimal():
                raise RunFolderError(f"{str(counter)!r} is damaged: write the number of earlier sessions into it")
            number = int(text) + 1
            durable.replace(counter, b"%d\n" % number)
        return number

    def write_config(self, config_toml: str) -> None:
        """Replace the configuration, as a whole or not at all; before the first event, as all others follow from it."""
        with _explained(self.path):
            durable.replace(self.config_path, config_toml.encode())

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """Write the outcome, as a whole or not at all.

        Args:
            summary: JSON values; a number that is nan or infinite is written as null.
        """
        assert self._lock is not None, "only the process that holds the lock writes a summary"
        strict = json.loads(json.dumps(dict(summary)), parse_constant=lambda name: None)
        with _explained(self.path):
            durable.replace(self.summary_path, json.dumps(strict, indent=2, allow_nan=False).encode() + b"\n")

    def read_summary(self) -> dict[str, Any] | None:
        """The outcome, or None as long as there is none.

        Raises:
            RunFolderError: the file is damaged.
        """
        try:
            summary = json.loads(self.summary_path.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValueError):
            summary = None
        if not isinstance(summary, dict):
            raise RunFolderError(
                f"summary {str(self.summary_path)!r} is damaged: delete it, then continue with --resume {self.path}"
            )
        return summary

    def discard(self) -> None:
        """Remove what :meth:`create` made unless an event was recorded since: start-up failed, nothing stays."""
        if self._made is not None and self._lock is not None:
            with suppress(OSError):  # a folder that holds something else by now stays
                _remove(self.path, self._made)
        self.close()

    def close(self) -> None:
        """Release the lock; closing twice is harmless."""
        if self._lock is not None and not self._lock.closed:
            # Unlocked by name: a forked child may hold a copy of the descriptor.
            fcntl.flock(self._lock, fcntl.LOCK_UN)
            self._lock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def _check_free(path: Path) -> None:
    """Refuse a file, and a folder that holds something other than a run."""
    if path.exists() and not path.is_dir():
        raise RunFolderError(f"run folder {str(path)!r} is a file: name a folder")
    if path.is_dir() and not (path / _CONFIG).exists():
        foreign = sorted(entry.name for entry in path.iterdir() if entry.name not in _START_UP)
        if foreign:
            raise RunFolderError(
                f"folder {str(path)!r} holds {foreign[0]!r} and is not a run: choose another --out or an empty folder"
            )


def _occupied(run: RunFolder, config_toml: str) -> str:
    """Why a new run can't start in the folder of an earlier one, and what to do."""
    if run.config_path.read_bytes() != config_toml.encode():
        return f"run folder {str(run.path)!r} belongs to another configuration: choose another --out or delete it"
    if run.finished:
        return f"run folder {str(run.path)!r} holds a finished run: choose another --out or delete it"
    return (
        f"run folder {str(run.path)!r} holds an unfinished run of this configuration: "
        f"continue it with --resume {run.path}"
    )


def _remove(path: Path, made: tuple[Path, ...]) -> None:
    """Empty a folder in which no event was recorded, then remove the folders that were made for it."""
    events = path / _EVENTS
    empty = not events.exists() or events.stat().st_size == 0
    if empty and {entry.name for entry in path.iterdir()} <= {*_START_UP, _EVENTS, _TENSORBOARD}:
        for entry in path.iterdir():
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        for folder in made:
            folder.rmdir()


def _locked(path: Path) -> IO[str]:
    """Lock a run for this process and write down its number."""
    file = (path / _LOCK).open("a+", encoding="ascii")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.seek(0)
        owner = file.read().strip() or "unknown"
        file.close()
        if not isinstance(error, BlockingIOError):
            raise
        raise RunFolderError(
            f"run folder {str(path)!r} is in use by process {owner}: wait for its end or choose another --out"
        ) from None
    file.truncate(0)
    file.write(f"{os.getpid()}\n")
    file.flush()
    return file


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turn the operating system's errors into one sentence."""
    try:
        yield
    except OSError as error:
        raise RunFolderError(
            f"run folder {str(path)!r} can't be used ({error.strerror}): make room there or choose another --out"
        ) from error
