"""Random crops and flips that depend on nothing but (seed, epoch, sample index).

A counter-based generator hashes the three numbers instead of keeping a state, so that a sample looks the same in an
epoch whichever worker draws it, in whatever batch and order: a lease that returns is trained on the same pixels.

References:
    J. Salmon, M. Moraes, R. Dror, D. Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
    G. Steele, D. Lea, C. Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014 (SplitMix64).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bptcnn.data.arrays import Indices, Pixels

_Bits = npt.NDArray[np.uint64]
_Offsets = npt.NDArray[np.intp]


def splitmix64(state: _Bits) -> _Bits:
    """SplitMix64's next output for each state; a bijection of the 64-bit numbers.

    Args:
        state: uint64, at least one axis.

    Returns:
        uint64 of the same shape.

    Example:
        >>> hex(splitmix64(np.zeros(1, dtype=np.uint64))[0])
        '0xe220a8397b1dcdaf'
    """
    z = state + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def draw(seed: int, epoch: int, indices: Indices) -> _Bits:
    """64 random bits per sample, a function of the three numbers alone.

    Args:
        seed: the run's seed.
        epoch: the epoch, from 0.
        indices: sample indices, shape [B].

    Returns:
        uint64 of shape [B].
    """
    key = splitmix64(np.array([seed % 2**64], dtype=np.uint64))
    key = splitmix64(key ^ np.uint64(epoch))
    return splitmix64(key ^ indices.astype(np.uint64))


def _below(bits24: _Bits, limit: int) -> _Offsets:
    """Scale 24 random bits to 0..limit - 1; the bias is below limit / 2**24."""
    return ((bits24 * np.uint64(limit)) >> np.uint64(24)).astype(np.intp)


@dataclass(frozen=True)
class Transform:
    """From stored images to those the network sees: border, crop, mirror.

    Args:
        crop: (height, width) of the result; None = whole images.
        pad: width of the black border that is added before the crop, in pixels.
        flip: mirror half of the images (only in training).
        training: crop and mirror at random; otherwise crop the centre and never mirror.
        seed: the run's seed.

    Example:
        >>> images = np.arange(16, dtype=np.uint8).reshape(1, 1, 4, 4)
        >>> Transform(crop=(2, 2)).apply(images, np.array([0]), epoch=0).tolist()
        [[[[5, 6], [9, 10]]]]
    """

    crop: tuple[int, int] | None = None
    pad: int = 0
    flip: bool = False
    training: bool = False
    seed: int = 0

    def apply(self, images: Pixels, indices: Indices, epoch: int) -> Pixels:
        """Transform a batch.

        Args:
            images: uint8 [B, C, H, W]; not written to.
            indices: the samples' indices in the data set, shape [B].
            epoch: the epoch, from 0.

        Returns:
            uint8 [B, C, h, w], perhaps a view of ``images``.
        """
        if not self.training:
            return images if self.crop is None else _central(_padded(images, self.pad), self.crop)
        if self.crop is None and not self.flip:
            return images
        bits = draw(self.seed, epoch, indices)
        if self.crop is not None:
            images = _random(_padded(images, self.pad), self.crop, bits)
        return _mirrored(images, (bits & np.uint64(1)).astype(bool)) if self.flip else images


def _padded(images: Pixels, pad: int) -> Pixels:
    if not pad:
        return images
    batch, channels, height, width = images.shape
    padded = np.zeros((batch, channels, height + 2 * pad, width + 2 * pad), dtype=np.uint8)
    padded[:, :, pad:-pad, pad:-pad] = images
    return padded


def _central(images: Pixels, crop: tuple[int, int]) -> Pixels:
    height, width = crop
    top, left = (images.shape[2] - height) // 2, (images.shape[3] - width) // 2
    return images[:, :, top : top + height, left : left + width]


def _random(images: Pixels, crop: tuple[int, int], bits: _Bits) -> Pixels:
    """Cut one window per image: bits 40..63 choose its row, bits 16..39 its column."""
    windows = np.lib.stride_tricks.sliding_window_view(images, crop, axis=(2, 3))
    tops = _below(bits >> np.uint64(40), windows.shape[2])
    lefts = _below((bits >> np.uint64(16)) & np.uint64(0xFFFFFF), windows.shape[3])
    cut: Pixels = windows[np.arange(len(images)), :, tops, lefts]
    return cut


def _mirrored(images: Pixels, chosen: npt.NDArray[np.bool_]) -> Pixels:
    return np.where(chosen[:, np.newaxis, np.newaxis, np.newaxis], images[..., ::-1], images)
