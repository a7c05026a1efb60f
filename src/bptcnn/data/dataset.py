"""The user's own map-style PyTorch data set, seen as ``Samples``."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Subset

from bptcnn.data.arrays import Indices
from bptcnn.data.samples import Batch
from bptcnn.errors import DataError


class DatasetAdapter:
    """A map-style data set whose items are (image, label), asked for in batches.

    An image is a tensor [C, H, W] or [H, W], an array of such a shape or [H, W, C] (C = 1 or 3), or a PIL image. Bytes
    are scaled to 0..1; floating point is taken as it is, so that the data set's own transform normalises and augments.

    The shape is that of the first item. The number of classes comes from the attribute ``classes``, ``num_classes``,
    ``targets`` or ``labels`` of the data set (or of the one that it is a ``Subset`` of); where there is none, all items
    are read once for their labels.

    Args:
        dataset: has ``__len__`` and ``__getitem__``.
        num_classes: labels are below this; None = find out.

    Raises:
        DataError: the data set has no length or is empty, or an item is not as described.

    Example:
        >>> dots = torch.utils.data.TensorDataset(torch.zeros(6, 1, 4, 4), torch.arange(6) % 3)
        >>> adapter = DatasetAdapter(dots)
        >>> adapter.shape, adapter.num_classes, adapter.batch(np.array([5, 0]), epoch=0).labels
        ((1, 4, 4), 3, tensor([2, 0]))
    """

    def __init__(self, dataset: Any, num_classes: int | None = None) -> None:
        kind = type(dataset).__name__
        if not (hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")):
            raise DataError(
                f"a data set of type {kind} has no length or no items by index: use a map-style torch Dataset"
            )
        if not len(dataset):
            raise DataError(f"the data set of type {kind} is empty: give it at least one item")
        self._dataset = dataset
        image, _ = self._item(0)
        channels, height, width = as_image(image, 0).shape
        self._shape = (channels, height, width)
        self._num_classes = num_classes or declared_classes(dataset) or self._scanned_classes()

    def __len__(self) -> int:
        """Number of items."""
        return len(self._dataset)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of the first item."""
        return self._shape

    @property
    def num_classes(self) -> int:
        """Labels are 0..num_classes - 1."""
        return self._num_classes

    def batch(self, indices: Indices, epoch: int) -> Batch:
        """Read the items one by one.

        Args:
            indices: integers in 0..N - 1, shape [B].
            epoch: has no effect: the data set itself augments.

        Returns:
            The batch.

        Raises:
            DataError: an item is not as described; the message names its index.
        """
        images = torch.empty((len(indices), *self._shape))
        labels = torch.empty(len(indices), dtype=torch.int64)
        for row, index in enumerate(indices.tolist()):
            item, label = self._item(index)
            image = as_image(item, index)
            if image.shape != self._shape:
                found, expected = tuple(image.shape), self._shape
                raise DataError(f"item {index} has shape {found}, not {expected} as item 0: give all images one shape")
            images[row] = image
            labels[row] = self._in_range(as_label(label, index), index)
        return Batch(images, labels)

    def _item(self, index: int) -> tuple[Any, Any]:
        item = self._dataset[index]
        if not isinstance(item, (tuple, list)) or len(item) != 2:
            raise DataError(f"item {index} is of type {type(item).__name__}: return a pair (image, label)")
        return item[0], item[1]

    def _scanned_classes(self) -> int:
        return 1 + max(as_label(self._item(index)[1], index) for index in range(len(self)))

    def _in_range(self, label: int, index: int) -> int:
        if label >= self._num_classes:
            raise DataError(f"item {index} has label {label}: use 0 to {self._num_classes - 1}")
        return label


def declared_classes(dataset: Any) -> int | None:
    """The number of classes by the data set's own attributes, without reading an item.

    Args:
        dataset: perhaps with ``classes``, ``num_classes``, ``targets`` or ``labels``.

    Returns:
        The number, or None if no attribute tells.

    Example:
        >>> declared_classes(type("Pets", (), {"classes": ["cat", "dog"]})())
        2
    """
    if isinstance(dataset, Subset):
        return declared_classes(dataset.dataset)
    classes = getattr(dataset, "classes", None)
    if isinstance(classes, (list, tuple)) and classes:
        return len(classes)
    number = getattr(dataset, "num_classes", None)
    if isinstance(number, (int, np.integer)) and number > 0:
        return int(number)
    for name in ("targets", "labels"):
        labels = getattr(dataset, name, None)
        if isinstance(labels, (list, tuple, np.ndarray, torch.Tensor)):
            values = np.asarray(labels)
            if values.ndim == 1 and values.size and values.dtype.kind in "iu":
                return int(values.max()) + 1
    return None


def as_label(label: Any, index: int) -> int:
    """An item's label as an integer from 0.

    Args:
        label: as the user's data set gives it.
        index: the item's, for the message.

    Returns:
        The class.

    Raises:
        DataError: it is no integer or negative.
    """
    try:
        number = operator.index(label)
    except (TypeError, ValueError):
        raise DataError(f"item {index} has label {label!r}: use an integer") from None
    if number < 0:
        raise DataError(f"item {index} has label {number}: use 0 or more")
    return number


def as_image(item: Any, index: int) -> torch.Tensor:
    """An item's image as float32 [C, H, W].

    Args:
        item: tensor, array or PIL image.
        index: the item's, for the message.

    Returns:
        The image.

    Raises:
        DataError: it is no image, or of another type or number of axes than the class describes.
    """
    if isinstance(item, Image.Image):
        item = np.asarray(item if item.mode in ("L", "RGB") else item.convert("RGB"))
    if isinstance(item, np.ndarray) and item.dtype.kind in "uf":
        # A copy in plain order: torch takes neither read-only memory in silence nor negative strides at all.
        item = torch.from_numpy(np.array(_channels_first(item), order="C"))
    if not isinstance(item, torch.Tensor) or not (item.dtype == torch.uint8 or item.is_floating_point()):
        kind = getattr(item, "dtype", type(item).__name__)
        raise DataError(f"item {index} has an image of type {kind}: use a uint8 or float tensor, array or PIL image")
    if item.ndim not in (2, 3):
        raise DataError(f"item {index} has an image of shape {tuple(item.shape)}: use [C, H, W] or [H, W]")
    image = item.detach().float()
    image = image / 255 if item.dtype == torch.uint8 else image
    return image if image.ndim == 3 else image.unsqueeze(0)


def _channels_first(image: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    last = image.ndim == 3 and image.shape[0] not in (1, 3) and image.shape[2] in (1, 3)
    return image.transpose(2, 0, 1) if last else image
