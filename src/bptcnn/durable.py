"""Files that are there as a whole or not at all, even if the machine loses power."""

from __future__ import annotations

import os
from pathlib import Path

PART = ".part"
"""Added to the name of a file that is being written."""


def replace(path: Path, data: bytes) -> None:
    """Write a file aside, then give it its name, durably.

    Args:
        path: the file, replaced if it exists; its folder does.
        data: its content.

    Raises:
        OSError: it cannot be written; an earlier file stays as it was.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     replace(Path(folder, "session"), b"1")
        ...     [path.name for path in Path(folder).iterdir()]
        ['session']
    """
    part = path.with_name(path.name + PART)
    with part.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
