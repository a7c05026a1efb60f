"""Fetch one file over HTTP: resumed where it broke off, verified, and in place only when it is right."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import http.client
import logging
import os
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from bptcnn.errors import DataError

_log = logging.getLogger(__name__)

_BLOCK_BYTES = 1 << 20
_SILENCE_S = 30.0


@dataclass(frozen=True)
class RemoteFile:
    """A file on a server: where it is, and how to know that it arrived whole."""

    url: str
    sha256: str
    num_bytes: int

    @property
    def name(self) -> str:
        """The last part of the address."""
        return self.url.rsplit("/", 1)[-1]


def fetch(file: RemoteFile, folder: Path) -> Path:
    """Download a file unless it is there.

    Bytes gather in ``NAME.part``, from which a later call goes on; processes that fetch the same file wait for one
    another.

    Args:
        file: what to download.
        folder: where it belongs; created if absent.

    Returns:
        The file's path.

    Raises:
        DataError: the server can't be reached, the connection broke, or the checksum is wrong (the bytes are removed);
            neither an empty file nor a folder that was made for it stays behind.
    """
    target = folder / file.name
    if target.exists():
        return target
    part = folder / (file.name + ".part")
    try:
        with _tidied(folder), _locked(part) as stream:
            if target.exists():
                part.unlink(missing_ok=True)
            else:
                _complete(file, stream, part)
                _accept(file, part, target)
    except (OSError, http.client.HTTPException) as error:
        raise DataError(
            f"cannot download {file.url} ({error}): run again to go on, or put the file at {target}"
        ) from error
    return target


@contextlib.contextmanager
def _tidied(folder: Path) -> Iterator[None]:
    """Remove a folder again if what it is made for fails and leaves it empty."""
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        yield
    except BaseException:
        with contextlib.suppress(OSError):  # not empty, or gone
            for path in made:
                path.rmdir()
        raise


def _complete(file: RemoteFile, stream: BinaryIO, part: Path) -> None:
    """Append what is missing; a file that is still empty after a failure is removed."""
    try:
        _append(file, stream)
    except BaseException:
        with contextlib.suppress(OSError):
            stream.flush()
            if part.stat().st_size == 0:
                part.unlink()
        raise


def _append(file: RemoteFile, stream: BinaryIO) -> None:
    """Append what is missing; start afresh where the server can't go on from the middle."""
    have = stream.seek(0, os.SEEK_END)
    if have >= file.num_bytes:
        return
    _log.info("downloading %s (%.1f MB, %.1f MB there)", file.url, file.num_bytes / 1e6, have / 1e6)
    with _ask(file.url, have) as response:
        if not _goes_on(response, have):
            stream.truncate(0)
        while stream.tell() <= file.num_bytes and (block := response.read(_BLOCK_BYTES)):
            stream.write(block)
    stream.flush()
    have = stream.tell()
    if have < file.num_bytes:
        raise ConnectionError(f"the connection broke after {have} of {file.num_bytes} bytes")


def _ask(url: str, start_bytes: int) -> http.client.HTTPResponse:
    headers = {"User-Agent": "bptcnn"} | ({"Range": f"bytes={start_bytes}-"} if start_bytes else {})
    response: http.client.HTTPResponse = urllib.request.urlopen(
        urllib.request.Request(url, headers=headers), timeout=_SILENCE_S
    )
    return response


def _goes_on(response: http.client.HTTPResponse, start_bytes: int) -> bool:
    content_range = response.headers.get("Content-Range", "")
    return response.status == http.client.PARTIAL_CONTENT and content_range.startswith(f"bytes {start_bytes}-")


def _accept(file: RemoteFile, part: Path, target: Path) -> None:
    """Move the finished file into place, or remove it if it isn't what it should be."""
    found = _sha256(part)
    if found != file.sha256:
        part.unlink()
        raise DataError(
            f"{file.url} has the checksum {found[:12]}..., not {file.sha256[:12]}...; it was removed: run again, "
            f"or put the right file at {target}"
        )
    part.replace(target)


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[BinaryIO]:
    """Open a file for appending, alone; wait for another process that has it."""
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)  # anew each time: who failed before may have removed it
        with path.open("ab") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
            if _is_at(stream, path):
                yield stream
                return


def _is_at(stream: BinaryIO, path: Path) -> bool:
    """Whether a handle is still the file at a path: whoever held the lock before may have moved or removed it."""
    try:
        return os.path.samestat(os.fstat(stream.fileno()), path.stat())
    except FileNotFoundError:
        return False
