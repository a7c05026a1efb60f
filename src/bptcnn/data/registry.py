"""Data sets by name, and the user's own: both become a ``DataPair``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from bptcnn.data.arrays import Arrays, Split, measure
from bptcnn.data.augment import Transform
from bptcnn.data.cifar import load_cifar
from bptcnn.data.config import DataConfig
from bptcnn.data.dataset import DatasetAdapter, declared_classes
from bptcnn.data.digits import load_digits
from bptcnn.data.folder import load_folder
from bptcnn.data.idx import load_idx
from bptcnn.data.npz import load_npz
from bptcnn.data.samples import DataPair, ImageSet, Samples
from bptcnn.data.standard import Store
from bptcnn.errors import ConfigError, DataError, unknown

_BY_NAME: dict[str, Callable[[DataConfig], Arrays]] = {
    "digits": lambda config: load_digits(),
    "mnist": lambda config: load_idx(Store("mnist", config.dir)),
    "fashion-mnist": lambda config: load_idx(Store("fashion-mnist", config.dir)),
    "cifar-10": lambda config: load_cifar(Store("cifar-10", config.dir)),
}
_BY_PATH: dict[str, Callable[[Path, DataConfig], Arrays]] = {
    "imagefolder": lambda path, config: load_folder(path, config.size, config.limit),
    "npz": lambda path, config: load_npz(path),
}


def load(config: DataConfig, seed: int) -> DataPair:
    """Read a data set by its name.

    Known sets are normalised by their published mean and standard deviation, others by those of the training images.

    Args:
        config: the name, and how the images are prepared.
        seed: decides the random crops and flips of the training images.

    Returns:
        Both parts in memory; the training part augments.

    Raises:
        DataError: the name is unknown, or the data are missing, damaged or not what they say.
        ConfigError: ``data.crop`` is larger than the images.

    Example:
        >>> pair = load(DataConfig(name="digits", pad=1), seed=0)
        >>> len(pair.train), len(pair.test), pair.train.shape, pair.train.num_classes
        (1437, 360, (1, 8, 8), 10)
    """
    arrays = _read(config)
    train, test = arrays.train, arrays.test
    if train.images.shape[1:] != test.images.shape[1:]:
        shapes = f"{train.images.shape[1:]} and {test.images.shape[1:]}"
        raise DataError(f"{config.name}: training and test images differ in shape, {shapes}: make them equal")
    if config.limit:
        train = Split(train.images[: config.limit], train.labels[: config.limit])
    mean, std = arrays.statistics or measure(train.images)
    training, testing = _transforms(config, train.images.shape[2:], seed)
    return DataPair(
        ImageSet(train.images, train.labels, arrays.num_classes, mean, std, training),
        ImageSet(test.images, test.labels, arrays.num_classes, mean, std, testing),
    )


def wrap(train_set: Any, test_set: Any) -> DataPair:
    """Take the user's own data sets.

    Args:
        train_set: a map-style PyTorch data set of (image, label) items, or anything that implements ``Samples``.
        test_set: the same; its images have the same shape and its labels are among those of the training set.

    Returns:
        Both parts as ``Samples``.

    Raises:
        DataError: an item is not as ``DatasetAdapter`` describes, or the two do not fit together.
    """
    train = train_set if isinstance(train_set, Samples) else DatasetAdapter(train_set)
    test = test_set if isinstance(test_set, Samples) else DatasetAdapter(test_set, train.num_classes)
    tested = test.num_classes if test is test_set else declared_classes(test_set) or 0
    if tested > train.num_classes:
        raise DataError(f"the test set has {tested} classes but the training set {train.num_classes}: make them equal")
    if test.shape != train.shape:
        raise DataError(f"the test images have shape {test.shape}, not {train.shape} as in training: make them equal")
    return DataPair(train, test)


def _read(config: DataConfig) -> Arrays:
    if config.name in _BY_NAME:
        return _BY_NAME[config.name](config)
    kind, _, path = config.name.partition(":")
    if kind not in _BY_PATH:
        raise DataError(unknown("data set", config.name, [*_BY_NAME, *(f"{kind}:PATH" for kind in _BY_PATH)]))
    if not path:
        raise DataError(f"data set {config.name!r} lacks a path: write {kind}:PATH")
    return _BY_PATH[kind](Path(path).expanduser(), config)


def _transforms(config: DataConfig, stored: tuple[int, ...], seed: int) -> tuple[Transform, Transform]:
    """How training and test images of the stored (height, width) are prepared."""
    height, width = stored
    if config.crop > min(stored) + 2 * config.pad:
        raise ConfigError(
            f"data.crop = {config.crop} exceeds the {height}x{width} images with data.pad = {config.pad}: lower it"
        )
    crop = (config.crop, config.crop) if config.crop else None
    border = config.pad if config.crop > min(stored) else 0
    moved = crop or ((height, width) if config.pad else None)
    return Transform(moved, config.pad, config.flip, training=True, seed=seed), Transform(crop, border)
