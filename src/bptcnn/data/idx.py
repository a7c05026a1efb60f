"""MNIST, Fashion-MNIST and whatever comes in the same four files: the idx format, compressed or not.

An idx file is big-endian: two zero bytes, the type (8 = unsigned byte), the number of axes, the length of each axis in
four bytes, then the values. Source: Y. LeCun, C. Cortes, C. Burges, "The MNIST database of handwritten digits".
"""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path

import numpy as np

from bptcnn.data.arrays import Arrays, Pixels, Split, Statistics, checked_labels
from bptcnn.data.standard import Store
from bptcnn.errors import DataError

_NUM_CLASSES = 10
_UNSIGNED_BYTE = 8
_GZIP = b"\x1f\x8b"
_PUBLISHED_SHAPE = (60_000, 1, 28, 28)
_PUBLISHED = {
    "mnist": Statistics((0.1307,), (0.3081,)),
    "fashion-mnist": Statistics((0.2860,), (0.3530,)),
}


def load_idx(store: Store) -> Arrays:
    """Read the four files of a data set.

    Args:
        store: where the files are. Other grey images of any size and up to ten classes may stand under these names.

    Returns:
        The images with one channel; the published statistics if they are as many and as large as the published ones.

    Raises:
        DataError: a file is missing, damaged, of another kind, or does not fit the others.
    """
    train, test = _split(store, "train"), _split(store, "t10k")
    published = train.images.shape == _PUBLISHED_SHAPE
    return Arrays(train, test, _NUM_CLASSES, _PUBLISHED[store.name] if published else None)


def _split(store: Store, part: str) -> Split:
    images_path = store.obtain(_spellings(f"{part}-images", "idx3"))
    labels_path = store.obtain(_spellings(f"{part}-labels", "idx1"))
    images, labels = read_idx(images_path, 3), read_idx(labels_path, 1)
    if len(images) != len(labels):
        raise DataError(
            f"{images_path} holds {len(images)} images but {labels_path.name} {len(labels)} labels: replace one"
        )
    return Split(images[:, np.newaxis], checked_labels(labels, _NUM_CLASSES, str(labels_path)))


def _spellings(stem: str, kind: str) -> list[str]:
    return [f"{stem}{mark}{kind}-ubyte{suffix}" for suffix in (".gz", "") for mark in ("-", ".")]


def read_idx(path: Path, num_axes: int) -> Pixels:
    """Read one idx file of unsigned bytes.

    Args:
        path: the file, perhaps compressed by gzip whatever its name.
        num_axes: the number of axes that it must have.

    Returns:
        A read-only array.

    Raises:
        DataError: the file is damaged or no such idx file.
    """
    content = _content(path)
    expected = bytes([0, 0, _UNSIGNED_BYTE, num_axes])
    if content[:4] != expected:
        raise DataError(
            f"{path} starts with {content[:4].hex()}, not {expected.hex()}: it is no idx{num_axes}-ubyte file"
        )
    start = 4 + 4 * num_axes
    shape = tuple(np.frombuffer(content[4:start], dtype=">u4").tolist()) if len(content) >= start else (0,) * num_axes
    size = math.prod(shape)
    if not size or len(content) != start + size:
        raise DataError(
            f"{path} holds {max(len(content) - start, 0)} values but its head says {size}: it is damaged, copy it again"
        )
    return np.frombuffer(content, dtype=np.uint8, offset=start).reshape(shape)


def _content(path: Path) -> bytes:
    try:
        content = path.read_bytes()
        return gzip.decompress(content) if content.startswith(_GZIP) else content
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read ({error}): copy it again") from error
