"""Which images to train on, and how they are prepared."""

from __future__ import annotations

from pydantic import Field

from bptcnn.section import Section


class DataConfig(Section):
    """Which images to train on, and how they are prepared.

    Example:
        >>> DataConfig(name="cifar-10", pad=4, flip=True).crop
        0
    """

    name: str = "digits"
    """``digits``, ``mnist``, ``fashion-mnist``, ``cifar-10``, ``imagefolder:PATH`` or ``npz:PATH``."""

    dir: str | None = None
    """Folder that holds local copies of a standard data set; by default ``~/.cache/bptcnn``, filled by download."""

    size: int = Field(default=64, gt=0)
    """Side of the images of an ``imagefolder`` after resizing and centre crop, in pixels."""

    crop: int = Field(default=0, ge=0)
    """Side of the crops in pixels: random in training, centred in the test; 0 = whole images."""

    pad: int = Field(default=0, ge=0)
    """Black border added before the random crop, in pixels; with ``crop = 0`` the crop is as large as the image."""

    flip: bool = False
    """Mirror training images left to right at random, half of the time."""

    limit: int = Field(default=0, ge=0)
    """Train on at most the first ``limit`` samples; 0 = all."""
