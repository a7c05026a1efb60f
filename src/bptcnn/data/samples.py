"""Samples that are asked for by index: the one face all data sets have inside bptcnn."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch

from bptcnn.data.arrays import Indices, Labels, Pixels
from bptcnn.data.augment import Transform


class Batch(NamedTuple):
    """``images`` float32 [B, C, H, W], normalised; ``labels`` int64 [B]."""

    images: torch.Tensor
    labels: torch.Tensor


@runtime_checkable
class Samples(Protocol):
    """A data set whose batches are asked for by index.

    ``batch`` depends on its arguments alone: whichever worker asks, in whatever order, gets the same tensors.
    """

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) as the network sees an image."""
        ...

    @property
    def num_classes(self) -> int:
        """Labels are 0..num_classes - 1."""
        ...

    def __len__(self) -> int:
        """Number of samples."""
        ...

    def batch(self, indices: Indices, epoch: int) -> Batch:
        """The samples at some indices, as they look in one epoch.

        Args:
            indices: integers in 0..N - 1, shape [B].
            epoch: seeds the augmentation.
        """
        ...


class DataPair(NamedTuple):
    """What is trained on and what is measured on."""

    train: Samples
    test: Samples


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Images in memory, normalised and augmented when a batch is asked for.

    ``x = (pixel / 255 - mean) / std`` per channel. The arrays may be read-only (shared memory): nothing writes to them.

    Args:
        images: uint8 [N, C, H, W].
        labels: int64 [N].
        num_classes: labels are 0..num_classes - 1.
        mean: per channel, on the scale where white is 1.
        std: per channel, on the same scale, above 0.
        transform: crop, border and mirror.

    Example:
        >>> grey = ImageSet(np.full((4, 1, 2, 2), 51, dtype=np.uint8), np.arange(4), 4, mean=(0.1,), std=(0.5,))
        >>> grey.batch(np.array([3, 1]), epoch=0).labels
        tensor([3, 1])
        >>> round(grey.batch(np.array([0]), epoch=0).images.mean().item(), 4)
        0.2
    """

    images: Pixels
    labels: Labels
    num_classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    transform: Transform = field(default_factory=Transform)

    def __post_init__(self) -> None:
        """Check our own loaders."""
        assert self.images.dtype == np.uint8, "images must be uint8"
        assert self.images.ndim == 4, "images must be [N, C, H, W]"
        assert self.labels.dtype == np.int64, "labels must be int64"
        assert self.labels.shape == self.images.shape[:1], "one label per image"
        assert len(self.mean) == len(self.std) == self.images.shape[1], "one mean and deviation per channel"

    def __len__(self) -> int:
        """Number of images."""
        return len(self.images)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) after the crop."""
        channels, *stored = self.images.shape[1:]
        height, width = self.transform.crop or stored
        return channels, height, width

    def batch(self, indices: Indices, epoch: int) -> Batch:
        """Gather, transform and normalise.

        Args:
            indices: integers in 0..N - 1, shape [B].
            epoch: the epoch, from 0; another epoch draws other crops and flips.

        Returns:
            The batch, in memory of its own.
        """
        pixels = self.transform.apply(np.take(self.images, indices, axis=0), indices, epoch)
        # A single-precision product and sum per pixel: exact to the last bit whatever the size of the batch.
        images = np.empty(pixels.shape, dtype=np.float32)
        np.multiply(pixels, self._per_channel([1 / (255 * s) for s in self.std]), out=images)
        images += self._per_channel([-m / s for m, s in zip(self.mean, self.std, strict=True)])
        return Batch(torch.from_numpy(images), torch.from_numpy(np.take(self.labels, indices)))

    @staticmethod
    def _per_channel(values: list[float]) -> np.ndarray[tuple[int, int, int], np.dtype[np.float32]]:
        return np.array(values, dtype=np.float32).reshape(-1, 1, 1)
