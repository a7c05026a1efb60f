"""Files kept between runs: what takes long to find out, named by what it depends on.

Whatever is kept can always be made again. So a file that can't be trusted counts as absent, and a folder that can't be
written to stops nobody.

The home of these files is ``$BPTCNN_CACHE`` where that is set (empty: nothing is kept), otherwise ``bptcnn`` in
``$XDG_CACHE_HOME`` or ``~/.cache``; each kind of them has a folder there.
"""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from pathlib import Path


def folder(kind: str) -> Path | None:
    """Where files of a kind are kept; not made yet, perhaps.

    Args:
        kind: of files.

    Returns:
        The folder; None when nothing is to be kept or there is no home to keep it in.

    Source: XDG Base Directory Specification; a relative ``$XDG_CACHE_HOME`` is to be ignored.
    """
    ours = os.environ.get("BPTCNN_CACHE")
    theirs = Path(os.environ.get("XDG_CACHE_HOME", ""))
    try:
        if ours is not None:
            return Path(ours).expanduser() / kind if ours else None
        return (theirs if theirs.is_absolute() else Path.home() / ".cache") / "bptcnn" / kind
    except RuntimeError:  # no home
        return None


def read(kind: str, name: str) -> bytes | None:
    """Find a file.

    Args:
        kind: of files.
        name: as given to :func:`write`.

    Returns:
        Its content; None if there is none, or if somebody else could have written it.
    """
    home = folder(kind)
    if home is None:
        return None
    try:
        with (home / name).open("rb") as file:
            status = os.fstat(file.fileno())
            if status.st_uid != os.geteuid() or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
                return None
            content = file.read()
            with contextlib.suppress(OSError):
                os.utime(file.fileno())  # what was of use last is the last to go
            return content
    except (OSError, ValueError):  # a ValueError: the folder's name holds a null byte
        return None


def write(kind: str, name: str, content: bytes) -> bool:
    """Keep a file in place of an earlier one; a reader at any moment finds the one or the other, whole.

    Args:
        kind: of files.
        name: of the file.
        content: of the file.

    Returns:
        Whether it is kept; False when nothing is to be kept or the folder can't be written to.

    Example:
        >>> from unittest import mock
        >>> with tempfile.TemporaryDirectory() as home, mock.patch.dict(os.environ, BPTCNN_CACHE=home):
        ...     write("songs", "one", b"la"), read("songs", "one"), read("songs", "two")
        (True, b'la', None)
    """
    home = folder(kind)
    if home is None:
        return False
    try:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        _replace(home / name, content)
    except (OSError, ValueError):
        return False
    return True


def limit(kind: str, most_bytes: int) -> None:
    """Delete the files that were not read or written for longest.

    Args:
        kind: of files.
        most_bytes: that may stay.
    """
    home = folder(kind)
    if home is None:
        return
    found = []
    with contextlib.suppress(OSError, ValueError):
        for path in home.iterdir():
            with contextlib.suppress(OSError):  # another process deletes, too
                status = path.stat()
                found.append((status.st_mtime_ns, status.st_size, path))
    total = 0
    for _, size, path in sorted(found, reverse=True):
        total += size
        if total > most_bytes:
            with contextlib.suppress(OSError):
                path.unlink()


def _replace(path: Path, content: bytes) -> None:
    """Write aside under a name of its own, as several workers may make the same at once, then rename."""
    number, name = tempfile.mkstemp(dir=path.parent, prefix=f"{path.stem[:12]}-", suffix=".part")
    part = Path(name)
    try:
        with os.fdopen(number, "wb") as stream:
            stream.write(content)
        part.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            part.unlink()
        raise
