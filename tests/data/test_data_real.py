"""The real data sets, where the environment variable BPTCNN_DATA names a folder that holds them."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from bptcnn.data import DataConfig, DataPair, ImageSet, load

FOLDER = os.environ.get("BPTCNN_DATA")

pytestmark = pytest.mark.skipif(not FOLDER, reason="BPTCNN_DATA names no folder")


def read(name: str, *place: str) -> DataPair:
    return load(DataConfig(name=name, dir=str(Path(FOLDER or "", *place))), seed=0)


def test_fashion_mnist() -> None:
    pair = read("fashion-mnist")
    assert (len(pair.train), len(pair.test), pair.train.shape) == (60_000, 10_000, (1, 28, 28))
    batch = pair.train.batch(np.arange(60_000), epoch=0)
    assert batch.labels[:10].tolist() == [9, 0, 0, 3, 0, 2, 7, 2, 5, 5]
    assert batch.images.mean().item() == pytest.approx(0, abs=1e-3)
    assert batch.images.std().item() == pytest.approx(1, abs=1e-3)


def test_usps_in_the_names_of_mnist() -> None:
    pair = read("mnist", "usps")
    assert (len(pair.train), len(pair.test), pair.train.shape) == (7_291, 2_007, (1, 16, 16))
    assert pair.train.batch(np.arange(5), epoch=0).labels.tolist() == [6, 5, 4, 7, 3]
    assert isinstance(pair.train, ImageSet)
    assert pair.train.mean != (0.1307,)


def test_cifar_10_from_its_archive() -> None:
    pair = read("cifar-10")
    assert (len(pair.train), len(pair.test), pair.train.shape) == (50_000, 10_000, (3, 32, 32))
    batch = pair.train.batch(np.arange(50_000), epoch=0)
    assert batch.labels[:10].tolist() == [6, 9, 9, 4, 1, 1, 2, 7, 8, 3]
    assert batch.labels.bincount().tolist() == [5_000] * 10
    np.testing.assert_allclose(batch.images.mean(dim=(0, 2, 3)), np.zeros(3), atol=1e-2)
    np.testing.assert_allclose(batch.images.std(dim=(0, 2, 3)), np.ones(3), atol=1e-2)
