"""The user's own arrays in a NumPy file."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bptcnn.data.arrays import Arrays, Pixels, Split, channels_first, checked_classes, checked_labels
from bptcnn.errors import DataError

_KEYS = ("x_train", "y_train", "x_test", "y_test")
_CONVERTED_AT_ONCE = 1024


def load_npz(path: Path) -> Arrays:
    """Read ``x_train``, ``y_train``, ``x_test`` and ``y_test`` of a file made by ``numpy.savez``.

    Images are uint8, or floating point in 0..1, which is rounded to 256 grey values. Their shape is [N, H, W],
    [N, C, H, W] or [N, H, W, C]: the channel axis is the one of length 1 or 3, the second before the last. Labels are
    integers from 0; the training labels tell the number of classes. Nothing in the file is ever unpickled.

    Args:
        path: the file.

    Returns:
        The images as uint8 [N, C, H, W].

    Raises:
        DataError: the file or a key is missing, or an array is not as described.
    """
    if not path.is_file():
        raise DataError(f"npz:{path}: no such file: give the path of a file made by numpy.savez")
    x_train, y_train, x_test, y_test = _read(path)
    train = _split(x_train, y_train, None, f"{path}, train")
    num_classes = checked_classes(int(train.labels.max()) + 1, f"{path}, train")
    return Arrays(train, _split(x_test, y_test, num_classes, f"{path}, test"), num_classes)


def _read(path: Path) -> list[npt.NDArray[Any]]:
    try:
        with path.open("rb") as file:
            stored = np.load(file, allow_pickle=False)
            held = stored.files if isinstance(stored, np.lib.npyio.NpzFile) else []
            missing = [key for key in _KEYS if key not in held]
            if missing:
                raise DataError(f"{path} has no key {missing[0]!r}: use numpy.savez with {', '.join(_KEYS)}")
            return [stored[key] for key in _KEYS]
    except (OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path} cannot be read ({_first_line(error)}): write it with numpy.savez") from error


def _first_line(error: Exception) -> str:
    return str(error).split("\n")[0].rstrip(".")


def _split(x: npt.NDArray[Any], y: npt.NDArray[Any], num_classes: int | None, where: str) -> Split:
    labels = checked_labels(y, num_classes, where)
    if len(x) != len(labels):
        raise DataError(f"{where}: {len(x)} images but {len(labels)} labels: give one label per image")
    return Split(_as_pixels(channels_first(x, where), where), labels)


def _as_pixels(images: npt.NDArray[Any], where: str) -> Pixels:
    if images.dtype == np.uint8:
        return np.ascontiguousarray(images)
    if images.dtype.kind != "f":
        raise DataError(f"{where}: images of type {images.dtype}: use uint8, or floating point in 0..1")
    pixels = np.empty(images.shape, dtype=np.uint8)
    for start in range(0, len(images), _CONVERTED_AT_ONCE):
        chunk = images[start : start + _CONVERTED_AT_ONCE].astype(np.float32)
        if not np.isfinite(chunk).all():
            raise DataError(f"{where}: images hold nan or inf: replace it by numbers in 0..1")
        if chunk.min() < 0 or chunk.max() > 1:
            raise DataError(f"{where}: images reach from {chunk.min():g} to {chunk.max():g}: scale them to 0..1")
        pixels[start : start + _CONVERTED_AT_ONCE] = np.rint(chunk * 255)
    return pixels
