"""What every loader returns: checked arrays of pixels and labels, and their statistics."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from bptcnn.errors import DataError

Pixels = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int64]
Indices = npt.NDArray[np.integer[Any]]

_MEASURED_AT_ONCE = 1024


class Statistics(NamedTuple):
    """Mean and standard deviation of each channel, on the scale where white is 1."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


class Split(NamedTuple):
    """One part of a data set: ``images`` uint8 [N, C, H, W] and ``labels`` int64 [N]."""

    images: Pixels
    labels: Labels


class Arrays(NamedTuple):
    """A whole data set in memory; ``statistics`` is None where no published figures apply."""

    train: Split
    test: Split
    num_classes: int
    statistics: Statistics | None = None


def checked_classes(num_classes: int, where: str) -> int:
    """Take a number of classes that leaves something to tell apart.

    Args:
        num_classes: how many there are.
        where: what they belong to, for the message.

    Returns:
        The number.

    Raises:
        DataError: there is only one.
    """
    if num_classes < 2:
        raise DataError(f"{where}: all samples are of one class: a data set needs at least two classes")
    return num_classes


def checked_labels(labels: npt.NDArray[Any], num_classes: int | None, where: str, unit: str = "sample") -> Labels:
    """Take labels that are integers in range.

    Args:
        labels: one integer per sample, shape [N].
        num_classes: labels must be below this; None = no upper limit.
        where: what the labels belong to, for the message.
        unit: what each label belongs to, for the message.

    Returns:
        The labels as int64.

    Raises:
        DataError: there are none, they are no integers, or one is out of range.

    Example:
        >>> checked_labels(np.array([0, 2, 7]), 3, "train.npz")
        Traceback (most recent call last):
        bptcnn.errors.DataError: train.npz: label 7 of sample 2 is out of range: use 0 to 2
    """
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise DataError(f"{where}: labels of shape {labels.shape} and type {labels.dtype}: give one integer per sample")
    if not len(labels):
        raise DataError(f"{where}: no samples: a data set needs at least one")
    bad = labels < 0 if num_classes is None else (labels < 0) | (labels >= num_classes)
    if bad.any():
        at = int(np.argmax(bad))
        allowed = "0 and above" if num_classes is None else f"0 to {num_classes - 1}"
        raise DataError(f"{where}: label {labels[at]} of {unit} {at} is out of range: use {allowed}")
    return labels.astype(np.int64)


def channels_first(images: npt.NDArray[Any], where: str) -> npt.NDArray[Any]:
    """Bring images to [N, C, H, W]: the channel axis is the one of length 1 or 3, the second before the last.

    Args:
        images: shape [N, H, W], [N, C, H, W] or [N, H, W, C].
        where: what the images belong to, for the message.

    Returns:
        The images as [N, C, H, W]; a view where possible.

    Raises:
        DataError: neither axis has length 1 or 3, or the number of axes is another.

    Example:
        >>> channels_first(np.zeros((5, 8, 9, 3)), "x").shape
        (5, 3, 8, 9)
    """
    if images.ndim == 3:
        return images[:, np.newaxis]
    if images.ndim == 4 and images.shape[1] in (1, 3):
        return images
    if images.ndim == 4 and images.shape[3] in (1, 3):
        return images.transpose(0, 3, 1, 2)
    raise DataError(f"{where}: images of shape {images.shape}: use [N, H, W], [N, C, H, W] or [N, H, W, C], C = 1 or 3")


def measure(images: Pixels) -> Statistics:
    """Mean and standard deviation of each channel, exact: from a histogram of the 256 grey values.

    Args:
        images: uint8 [N, C, H, W].

    Returns:
        Both per channel on the scale 0..1; a channel of one single value gets the deviation 1.

    Example:
        >>> measure(np.array([0, 255], dtype=np.uint8).reshape(2, 1, 1, 1))
        Statistics(mean=(0.5,), std=(0.5,))
    """
    counts = np.zeros((images.shape[1], 256))
    for start in range(0, len(images), _MEASURED_AT_ONCE):
        chunk = images[start : start + _MEASURED_AT_ONCE]
        for channel, histogram in enumerate(counts):
            histogram += np.bincount(chunk[:, channel].ravel(), minlength=256)
    values = np.arange(256) / 255
    shares = counts / counts.sum(axis=1, keepdims=True)
    mean = shares @ values
    variance = (shares * (values - mean[:, np.newaxis]) ** 2).sum(axis=1)
    std = np.where(variance > 0, np.sqrt(variance), 1.0)
    return Statistics(tuple(mean.tolist()), tuple(std.tolist()))
