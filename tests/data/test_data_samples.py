"""Images in memory: normalised batches by index, from memory that may be read-only."""

from __future__ import annotations

import pickle
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bptcnn.data import Batch, DataConfig, ImageSet, Samples, Transform
from bptcnn.data.arrays import channels_first, checked_labels, measure
from bptcnn.errors import ConfigError, DataError


def random_set(rng: np.random.Generator, transform: Transform | None = None) -> ImageSet:
    images = rng.integers(0, 256, (20, 3, 6, 6), dtype=np.uint8)
    labels = np.arange(20, dtype=np.int64) % 4
    return ImageSet(images, labels, 4, (0.5, 0.4, 0.3), (0.2, 0.25, 0.5), transform or Transform())


def test_pixels_become_deviations_from_the_channel_mean(rng: np.random.Generator) -> None:
    images = random_set(rng)
    batch = images.batch(np.array([7, 2, 7]), epoch=0)
    mean, std = np.reshape(images.mean, (3, 1, 1)), np.reshape(images.std, (3, 1, 1))
    expected = (images.images[[7, 2, 7]] / 255 - mean) / std
    np.testing.assert_allclose(batch.images.numpy(), expected, atol=2e-6)
    assert batch.labels.tolist() == [3, 2, 3]
    assert (batch.images.dtype, batch.labels.dtype) == (torch.float32, torch.int64)
    assert batch.images.is_contiguous()


def test_shape_is_what_the_network_sees(rng: np.random.Generator) -> None:
    images = random_set(rng, Transform(crop=(4, 5), training=True))
    assert images.shape == (3, 4, 5)
    assert images.batch(np.arange(3), epoch=0).images.shape == (3, 3, 4, 5)
    assert isinstance(images, Samples)
    assert len(images) == 20


def test_an_empty_lease_gives_an_empty_batch(rng: np.random.Generator) -> None:
    empty = random_set(rng, Transform((6, 6), 2, True, True)).batch(np.array([], dtype=np.int64), epoch=0)
    assert empty.images.shape == (0, 3, 6, 6)


@given(st.lists(st.integers(0, 19), min_size=1, max_size=40), st.integers(0, 9))
def test_a_sample_is_the_same_to_the_last_bit_in_any_batch(indices: list[int], epoch: int) -> None:
    images = random_set(np.random.default_rng(5), Transform((6, 6), 2, True, True, seed=11))
    together = images.batch(np.array(indices), epoch)
    for position, index in enumerate(indices):
        alone = images.batch(np.array([index]), epoch)
        assert torch.equal(alone.images[0], together.images[position])


def test_read_only_memory_is_neither_written_nor_warned_about(rng: np.random.Generator) -> None:
    original = random_set(rng, Transform((6, 6), 2, True, True))
    buffers: list[pickle.PickleBuffer] = []
    head = pickle.dumps(original, protocol=5, buffer_callback=buffers.append)
    shared = pickle.loads(head, buffers=[bytes(buffer.raw()) for buffer in buffers])
    assert len(head) < 2000
    assert not shared.images.flags.writeable
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        batch: Batch = shared.batch(np.arange(20), epoch=1)
    batch.images.zero_()
    batch.labels.zero_()
    assert torch.equal(shared.batch(np.arange(20), 1).images, original.batch(np.arange(20), 1).images)
    assert shared.labels.any()


def test_measured_statistics_are_exact_over_many_chunks(rng: np.random.Generator) -> None:
    images = rng.integers(0, 200, (2500, 3, 3, 4), dtype=np.uint8)
    images[:, 2] = 51
    mean, std = measure(images)
    scaled = images / 255
    np.testing.assert_allclose(mean, scaled.mean(axis=(0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(std[:2], scaled[:, :2].std(axis=(0, 2, 3)), rtol=1e-12)
    assert std[2] == 1.0


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((5, 8, 9), (5, 1, 8, 9)),
        ((5, 1, 8, 9), (5, 1, 8, 9)),
        ((5, 8, 9, 1), (5, 1, 8, 9)),
        ((5, 8, 9, 3), (5, 3, 8, 9)),
        ((5, 3, 9, 3), (5, 3, 9, 3)),
    ],
)
def test_the_channel_axis_is_the_one_of_length_1_or_3(shape: tuple[int, ...], expected: tuple[int, ...]) -> None:
    assert channels_first(np.zeros(shape), "x").shape == expected


def test_images_without_a_channel_axis_are_refused() -> None:
    with pytest.raises(DataError, match=r"x: images of shape \(5, 8, 9, 4\): use"):
        channels_first(np.zeros((5, 8, 9, 4)), "x")


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 1, 4], r"label 4 of sample 2 is out of range: use 0 to 2"),
        ([0, -1], r"label -1 of sample 1 is out of range"),
        ([0.0, 1.0], r"type float64: give one integer per sample"),
        ([[0], [1]], r"shape \(2, 1\)"),
    ],
)
def test_labels_out_of_range_are_named(labels: list[int], message: str) -> None:
    with pytest.raises(DataError, match=message):
        checked_labels(np.array(labels), 3, "here")


def test_no_samples_are_refused() -> None:
    with pytest.raises(DataError, match="no samples"):
        checked_labels(np.array([], dtype=np.uint8), 3, "here")


@pytest.mark.parametrize("values", [{"size": 0}, {"crop": -1}, {"pad": -1}, {"limit": -1}, {"nmae": "digits"}])
def test_settings_out_of_range_are_refused(values: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=next(iter(values))):
        DataConfig(**values)
