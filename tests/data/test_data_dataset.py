"""The user's own data sets: any reasonable item becomes a batch, any other is named by its index."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import IterableDataset, Subset, TensorDataset

from bptcnn.data import DatasetAdapter, ImageSet, Samples, wrap
from bptcnn.errors import DataError

GREY = np.arange(20, dtype=np.uint8).reshape(5, 4)


class Items(list[Any]):
    """A map-style data set that counts how often it is read."""

    def __init__(self, *items: Any, **attributes: Any) -> None:
        super().__init__(items)
        self.reads = 0
        for name, value in attributes.items():
            setattr(self, name, value)

    def __getitem__(self, index: Any) -> Any:
        self.reads += 1
        return super().__getitem__(index)


class Stream(IterableDataset[Any]):
    """Gives its items in one order only."""

    def __iter__(self) -> Any:
        return iter([(GREY, 0)])


def first(image: Any) -> torch.Tensor:
    return DatasetAdapter(Items((image, 0))).batch(np.array([0]), epoch=0).images[0]


def read_only(image: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    image.flags.writeable = False
    return image


@pytest.mark.parametrize(
    "image",
    [
        torch.from_numpy(GREY.copy()),
        torch.from_numpy(GREY.copy())[None] / 255,
        torch.from_numpy(GREY.copy())[None].double() / 255,
        torch.nn.Parameter(torch.from_numpy(GREY.copy())[None] / 255),
        GREY,
        GREY[:, :, np.newaxis],
        GREY[np.newaxis].astype(np.float64) / 255,
        read_only(GREY.copy()),
        GREY[::-1][::-1],
        GREY[::-1, ::-1].copy()[::-1, ::-1],
        Image.fromarray(GREY),
    ],
    ids=lambda image: type(image).__name__,
)
def test_every_kind_of_image_becomes_the_same_tensor(image: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = first(image)
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.numpy(), GREY[np.newaxis] / 255, rtol=1e-6)


def test_colour_images_get_their_channels_first() -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (5, 4, 3), dtype=np.uint8)
    expected = rgb.transpose(2, 0, 1) / 255
    for image in (rgb, Image.fromarray(rgb), Image.fromarray(rgb).convert("RGBA"), rgb.transpose(2, 0, 1)):
        np.testing.assert_allclose(first(image).numpy(), expected, rtol=1e-6)


@pytest.mark.parametrize("label", [2, np.int64(2), np.uint8(2), torch.tensor(2)])
def test_every_kind_of_integer_is_a_label(label: Any) -> None:
    assert DatasetAdapter(Items((GREY, label))).batch(np.array([0]), epoch=0).labels.tolist() == [2]


def test_batches_follow_the_indices() -> None:
    adapter = DatasetAdapter(TensorDataset(torch.arange(6.0).reshape(6, 1, 1, 1), torch.tensor([0, 1, 2, 0, 1, 2])))
    batch = adapter.batch(np.array([4, 0, 4]), epoch=3)
    assert batch.images.flatten().tolist() == [4, 0, 4]
    assert batch.labels.tolist() == [1, 0, 1]
    assert (len(adapter), adapter.shape, adapter.num_classes) == (6, (1, 1, 1), 3)
    assert isinstance(adapter, Samples)


@pytest.mark.parametrize(
    "attributes",
    [
        {"classes": ["a", "b", "c"]},
        {"num_classes": 3},
        {"targets": [0, 2, 1]},
        {"targets": torch.tensor([0, 2])},
        {"labels": np.array([2, 0])},
        {"classes": "abc", "targets": np.array([2.5]), "labels": [2]},
    ],
    ids=str,
)
def test_declared_classes_spare_the_scan(attributes: dict[str, Any]) -> None:
    items = Items(*[(GREY, 0)] * 5, **attributes)
    assert DatasetAdapter(items).num_classes == 3
    assert DatasetAdapter(Subset(items, [0, 1])).num_classes == 3
    assert items.reads == 2


def test_otherwise_all_labels_are_read_once() -> None:
    items = Items(*[(GREY, label) for label in (0, 4, 1)])
    assert DatasetAdapter(items).num_classes == 5
    assert items.reads == 1 + 3


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ((GREY[:2], 0), r"item 1 has shape \(1, 2, 4\), not \(1, 5, 4\) as item 0"),
        ((GREY, 1.0), "item 1 has label 1.0: use an integer"),
        ((GREY, torch.tensor([1, 2])), "item 1 has label .*: use an integer"),
        ((GREY, None), "item 1 has label None"),
        ((GREY, -1), "item 1 has label -1: use 0 or more"),
        ((GREY, 3), "item 1 has label 3: use 0 to 2"),
        ((GREY.astype(np.int64), 0), "item 1 has an image of type int64"),
        ((torch.zeros(1, 5, 4, dtype=torch.int32), 0), "item 1 has an image of type torch.int32"),
        (("cat.png", 0), "item 1 has an image of type str"),
        ((np.zeros((1, 1, 5, 4), dtype=np.uint8), 0), r"item 1 has an image of shape \(1, 1, 5, 4\)"),
        (GREY, r"item 1 is of type ndarray: return a pair \(image, label\)"),
        ((GREY, 0, 0), "item 1 is of type tuple"),
    ],
)
def test_a_bad_item_is_named_by_its_index(item: Any, message: str) -> None:
    adapter = DatasetAdapter(Items((GREY, 0), item, num_classes=3))
    with pytest.raises(DataError, match=message):
        adapter.batch(np.array([0, 1]), epoch=0)


def test_a_negative_label_is_found_by_the_scan_too() -> None:
    with pytest.raises(DataError, match="item 1 has label -1"):
        DatasetAdapter(Items((GREY, 0), (GREY, -1)))


def test_an_empty_data_set_is_refused() -> None:
    with pytest.raises(DataError, match="type Items is empty"):
        DatasetAdapter(Items())


@pytest.mark.parametrize("stream", [Stream(), iter([1])])
def test_a_stream_is_refused(stream: Any) -> None:
    with pytest.raises(DataError, match="use a map-style torch Dataset"):
        DatasetAdapter(stream)


def test_wrap_passes_samples_through() -> None:
    images = ImageSet(np.zeros((3, 1, 5, 4), dtype=np.uint8), np.arange(3), 3, (0.0,), (1.0,))
    pair = wrap(images, Items((GREY, 2)))
    assert pair.train is images
    assert pair.test.num_classes == 3


def test_wrap_takes_a_test_set_with_fewer_classes() -> None:
    pair = wrap(Items((GREY, 0), (GREY, 1)), Items((GREY, 0)))
    assert (pair.train.num_classes, pair.test.num_classes) == (2, 2)


def test_wrap_refuses_a_test_set_with_more_classes() -> None:
    train = Items((GREY, 0), (GREY, 1))
    with pytest.raises(DataError, match="test set has 3 classes but the training set 2"):
        wrap(train, Items((GREY, 0), num_classes=3))
    with pytest.raises(DataError, match="item 0 has label 2: use 0 to 1"):
        wrap(train, Items((GREY, 2))).test.batch(np.array([0]), epoch=0)


def test_wrap_refuses_images_of_another_shape() -> None:
    with pytest.raises(DataError, match=r"test images have shape \(1, 2, 4\), not \(1, 5, 4\)"):
        wrap(Items((GREY, 0)), Items((GREY[:2], 0)))
