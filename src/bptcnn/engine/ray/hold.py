"""One server at a time writes to a run folder."""

from __future__ import annotations

import fcntl
import time
from pathlib import Path
from typing import IO

from bptcnn.errors import RunFolderError

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
