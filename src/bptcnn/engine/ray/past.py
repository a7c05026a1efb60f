"""What a server needs to know of the sessions before its own: that they are over, and what they left."""

from __future__ import annotations

import fcntl
import time
from pathlib import Path
from typing import IO, NamedTuple

from bptcnn import telemetry
from bptcnn.errors import RunFolderError
from bptcnn.outer.messages import Evaluated

PATIENCE_S = 30.0
"""How long to wait for the server of an earlier session to die; it does so within seconds after its driver."""

RETRY_S = 0.1
"""Pause between two attempts."""


def hold(events_path: Path) -> IO[bytes]:
    """Lock the event log of a run for this process.

    The driver holds the run's lock; but when it is killed, its server may write for a moment longer, while another
    driver already resumes the run.

    Args:
        events_path: made if needed.

    Returns:
        The open file; closing it, as dying does, releases the lock.

    Raises:
        RunFolderError: another server keeps writing, or the file cannot be opened.
    """
    until_s = time.monotonic() + PATIENCE_S
    try:
        file = events_path.open("ab")
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return file
            except BlockingIOError:
                if time.monotonic() > until_s:
                    raise
                time.sleep(RETRY_S)
    except OSError as error:
        raise RunFolderError(
            f"cannot write {str(events_path)!r} alone ({error.strerror}): end the other process that trains this run"
        ) from error


class Past(NamedTuple):
    """What the journal says of earlier sessions.

    Attributes:
        ended_s: where the run's clock stood; 0 if there were none.
        evaluated: what the last of them measured.
    """

    ended_s: float
    evaluated: list[Evaluated]


def look_back(events_path: Path) -> Past:
    """Read the journal of a run.

    Args:
        events_path: exists, perhaps empty.

    Returns:
        What a new session goes on from.

    Raises:
        RunFolderError: the journal is damaged.
    """
    past = Past(0.0, [])
    for entry in telemetry.read(events_path):
        measured = [] if entry["event"] == "session_started" else past.evaluated
        if entry["event"] == "evaluated":
            measured.append(Evaluated(entry["version"], entry["committed"], entry["at_s"], entry["accuracy"]))
        past = Past(entry["t"], measured)
    return past
