"""Data sets by name: the right loader, the right statistics, the right crops."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from bptcnn.data import DataConfig, ImageSet, load
from bptcnn.errors import ConfigError, DataError


def image_sets(config: DataConfig, seed: int = 0) -> tuple[ImageSet, ImageSet]:
    train, test = load(config, seed)
    assert isinstance(train, ImageSet)
    assert isinstance(test, ImageSet)
    return train, test


def test_measured_statistics_centre_the_training_images() -> None:
    train, test = image_sets(DataConfig())
    images = train.batch(np.arange(len(train)), epoch=0).images
    assert images.mean().item() == pytest.approx(0, abs=1e-5)
    assert images.std().item() == pytest.approx(1, abs=1e-4)
    assert test.mean == train.mean


def test_published_statistics_are_used_for_the_published_set(tmp_path: Path, write_idx) -> None:
    images = np.broadcast_to(np.uint8(3), (60_000, 28, 28))
    write_idx(tmp_path, images, np.zeros(60_000), "{}-ubyte")
    train, _ = image_sets(DataConfig(name="fashion-mnist", dir=str(tmp_path)))
    assert (train.mean, train.std) == ((0.2860,), (0.3530,))


def test_cifar_is_found_by_name(tmp_path: Path, cifar_files: dict[str, bytes]) -> None:
    for name, content in cifar_files.items():
        (tmp_path / name).write_bytes(content)
    train, test = image_sets(DataConfig(name="cifar-10", dir=str(tmp_path)))
    assert (len(train), len(test), train.shape) == (20, 4, (3, 32, 32))


def test_a_path_may_begin_with_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    x = np.zeros((2, 4, 4), dtype=np.uint8)
    np.savez(tmp_path / "own.npz", x_train=x, y_train=[0, 1], x_test=x, y_test=[1, 1])
    train, _ = image_sets(DataConfig(name="npz:~/own.npz"))
    assert (train.shape, train.num_classes) == ((1, 4, 4), 2)


def test_an_image_folder_takes_size_and_limit(tmp_path: Path) -> None:
    for part in ("train", "test"):
        for colour in ("black", "white"):
            (tmp_path / part / colour).mkdir(parents=True)
            Image.new("L", (9, 7), colour).save(tmp_path / part / colour / "0.png")
    train, test = image_sets(DataConfig(name=f"imagefolder:{tmp_path}", size=5, limit=1))
    assert (len(train), len(test), train.shape) == (1, 2, (3, 5, 5))


def test_a_limit_keeps_the_first_samples_and_the_whole_test() -> None:
    whole, _ = image_sets(DataConfig())
    train, test = image_sets(DataConfig(limit=10))
    np.testing.assert_array_equal(train.labels, whole.labels[:10])
    assert len(test) == 360
    assert train.num_classes == 10
    assert len(load(DataConfig(limit=9999), 0).train) == 1437


@pytest.mark.parametrize("config", [DataConfig(pad=2), DataConfig(crop=5), DataConfig(flip=True)], ids=str)
def test_training_augments_by_seed_and_epoch_but_the_test_never_does(config: DataConfig) -> None:
    indices = np.arange(50)
    (train, test), (other, other_test) = image_sets(config, seed=1), image_sets(config, seed=2)
    first = train.batch(indices, 0).images
    assert torch.equal(first, train.batch(indices, 0).images)
    assert not torch.equal(first, train.batch(indices, 1).images)
    assert not torch.equal(first, other.batch(indices, 0).images)
    assert torch.equal(test.batch(indices, 0).images, other_test.batch(indices, 7).images)


@pytest.mark.parametrize(
    ("crop", "pad", "shape"), [(0, 0, (1, 8, 8)), (0, 3, (1, 8, 8)), (6, 0, (1, 6, 6)), (10, 1, (1, 10, 10))]
)
def test_both_parts_have_the_shape_of_the_crop(crop: int, pad: int, shape: tuple[int, int, int]) -> None:
    for part in load(DataConfig(crop=crop, pad=pad), seed=0):
        assert part.shape == shape
        assert part.batch(np.array([0, 1]), 0).images.shape == (2, *shape)


def test_the_test_crop_is_centred_with_or_without_border() -> None:
    _, whole = image_sets(DataConfig())
    _, cropped = image_sets(DataConfig(crop=5, pad=3))
    expected = whole.batch(np.arange(9), 0).images[:, :, 1:6, 1:6]
    assert torch.equal(cropped.batch(np.arange(9), 0).images, expected)


def test_a_crop_beyond_the_border_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"data.crop = 11 exceeds the 8x8 images with data.pad = 1: lower it"):
        load(DataConfig(crop=11, pad=1), seed=0)


def test_parts_of_different_shape_are_refused(tmp_path: Path) -> None:
    x = np.zeros((2, 4, 4), dtype=np.uint8)
    np.savez(tmp_path / "own.npz", x_train=x, y_train=[0, 1], x_test=x[:, :3], y_test=[1, 1])
    with pytest.raises(DataError, match=r"differ in shape, \(1, 4, 4\) and \(1, 3, 4\)"):
        load(DataConfig(name=f"npz:{tmp_path / 'own.npz'}"), seed=0)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mnits", "unknown data set 'mnits': did you mean 'mnist'"),
        ("", "unknown data set ''"),
        ("mnist:here", "unknown data set 'mnist:here'"),
        ("npz", "data set 'npz' lacks a path: write npz:PATH"),
        ("imagefolder:", "data set 'imagefolder:' lacks a path: write imagefolder:PATH"),
    ],
)
def test_unknown_names_are_refused(name: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        load(DataConfig(name=name), seed=0)
