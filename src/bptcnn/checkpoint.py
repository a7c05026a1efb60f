"""Checkpoints: one tree of arrays and scalars in one folder, either whole and verified or not there at all.

::

    checkpoints/00000042/state.safetensors    the arrays
    checkpoints/00000042/state.json           everything else; seals itself and the arrays by SHA-256

The JSON file is ``{"sha256": "<digest of body>", "body": <body>}`` in exactly that spelling, so that every one of its
bytes is covered. In the body an array stands as ``{"$array": key}`` with its JSON pointer (RFC 6901) as key, a float
that JSON lacks as ``{"$float": "nan"}``, and a mapping's own key that begins with ``$`` gets a second one.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors import numpy as safetensors

from bptcnn.errors import CheckpointError

Scalar: TypeAlias = bool | int | float | str | None
Array: TypeAlias = npt.NDArray[Any]
Tree: TypeAlias = Scalar | Array | Sequence["Tree"] | Mapping[str, "Tree"]

FORMAT = 2
ARRAYS = "state.safetensors"
CONTENT = "state.json"

# Names of work in progress; they are no numbers, so `names` never lists them.
_SAVING = ".saving"
_REMOVED = ".removed"


def save(folder: Path, name: str, tree: Tree) -> Path:
    """Write a checkpoint; after a crash at any moment it is there as a whole or not at all.

    Args:
        folder: holds all checkpoints of a run; made if needed.
        name: a zero-padded number; a checkpoint of that name is replaced.
        tree: nested mappings (string keys), lists, scalars and arrays.

    Returns:
        The folder of this checkpoint.

    Raises:
        CheckpointError: the disk is full or not writable.
    """
    assert name.isdecimal(), f"a checkpoint is named by a number, not {name!r}"
    arrays: dict[str, Array] = {}
    content = _encode(tree, "", arrays)
    data = safetensors.save(arrays)
    body = {"format": FORMAT, "arrays_sha256": hashlib.sha256(data).hexdigest(), "content": content}
    target, aside = folder / name, folder / _SAVING
    try:
        folder.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir()
        _write(aside / ARRAYS, data)
        _write(aside / CONTENT, _seal(json.dumps(body, allow_nan=False).encode()))
        _sync(aside)
        _remove(target)
        aside.rename(target)
        _sync(folder)
    except OSError as error:
        raise CheckpointError(
            f"cannot write checkpoint {str(target)!r} ({error.strerror}): make room and make the folder writable"
        ) from error
    return target


def load(path: Path) -> Any:
    """Read a checkpoint and verify every byte of it.

    Args:
        path: the folder of one checkpoint.

    Returns:
        The tree that was saved: arrays with their dtypes and shapes, writable; floats exact.

    Raises:
        CheckpointError: a file is missing or damaged.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     tree = load(save(Path(folder), "0001", {"version": 3, "due": np.arange(2, dtype=np.uint16)}))
        >>> tree
        {'version': 3, 'due': array([0, 1], dtype=uint16)}
    """
    body = _open_seal(path / CONTENT)
    if body["format"] != FORMAT:
        raise CheckpointError(
            f"checkpoint {str(path)!r} has format {body['format']}, this bptcnn reads format {FORMAT}: "
            "continue with the version of bptcnn that wrote it"
        )
    data = _read(path / ARRAYS)
    if hashlib.sha256(data).hexdigest() != body["arrays_sha256"]:
        raise _damaged(path / ARRAYS)
    try:
        return _decode(body["content"], safetensors.load(data))
    except (SafetensorError, KeyError) as error:
        raise _damaged(path / ARRAYS) from error


def names(folder: Path) -> list[str]:
    """The checkpoints in a folder, oldest first; empty if the folder does not exist."""
    if not folder.is_dir():
        return []
    return sorted((entry.name for entry in folder.iterdir() if entry.name.isdecimal() and entry.is_dir()), key=int)


def newest(folder: Path) -> Path | None:
    """The newest checkpoint in a folder, or None."""
    found = names(folder)
    return folder / found[-1] if found else None


def prune(folder: Path, keep: int) -> None:
    """Delete all but the newest checkpoints.

    Args:
        folder: holds all checkpoints of a run.
        keep: how many stay, at least 1.
    """
    assert keep >= 1, "the newest checkpoint must stay"
    for name in names(folder)[:-keep]:
        _remove(folder / name)


def _encode(node: Tree, pointer: str, arrays: dict[str, Array]) -> Any:
    """Replace what JSON can't hold; collect arrays under their JSON pointers."""
    if isinstance(node, np.ndarray):
        arrays[pointer] = np.asarray(node, order="C")
        return {"$array": pointer}
    if isinstance(node, float) and not math.isfinite(node):
        return {"$float": repr(float(node))}
    if node is None or isinstance(node, bool | int | float | str):
        return node
    if isinstance(node, list):
        return [_encode(item, f"{pointer}/{index}", arrays) for index, item in enumerate(node)]
    assert isinstance(node, dict), f"{pointer or 'the root'}: a checkpoint can't hold {type(node).__name__}"
    return {_key(key): _encode(item, f"{pointer}/{_escape(key)}", arrays) for key, item in node.items()}


def _decode(node: Any, arrays: dict[str, Array]) -> Any:
    """Undo :func:`_encode`."""
    if isinstance(node, list):
        return [_decode(item, arrays) for item in node]
    if not isinstance(node, dict):
        return node
    if "$array" in node:
        return arrays[node["$array"]]
    if "$float" in node:
        return float(node["$float"])
    return {key.removeprefix("$"): _decode(item, arrays) for key, item in node.items()}


def _key(key: str) -> str:
    assert isinstance(key, str), f"a checkpoint's keys are strings, not {key!r}"
    return f"${key}" if key.startswith("$") else key


def _escape(key: str) -> str:
    return key.replace("~", "~0").replace("/", "~1")


_HEAD, _MIDDLE, _TAIL = b'{"sha256": "', b'", "body": ', b"}\n"


def _seal(body: bytes) -> bytes:
    return _HEAD + hashlib.sha256(body).hexdigest().encode() + _MIDDLE + body + _TAIL


def _open_seal(path: Path) -> Any:
    """The body of a sealed file; sealing it again must give the very same bytes."""
    data = _read(path)
    body = data[len(_HEAD) + 2 * hashlib.sha256().digest_size + len(_MIDDLE) : -len(_TAIL)]
    if _seal(body) != data:
        raise _damaged(path)
    return json.loads(body)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise _damaged(path, "is missing") from None
    except OSError as error:
        raise _damaged(path, f"cannot be read ({error.strerror})") from error


def _damaged(path: Path, state: str = "is damaged") -> CheckpointError:
    return CheckpointError(
        f"checkpoint file {str(path)!r} {state}: delete the folder {str(path.parent)!r} to continue from the "
        "previous checkpoint"
    )


def _write(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync(folder: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove(path: Path) -> None:
    """Delete a checkpoint: first its name, then its files, so that half of one is never taken for a whole."""
    if path.exists():
        aside = path.with_name(_REMOVED)
        shutil.rmtree(aside, ignore_errors=True)
        path.rename(aside)
        shutil.rmtree(aside)
