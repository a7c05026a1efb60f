"""Random crops and flips are a function of (seed, epoch, index) alone."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bptcnn.data.augment import Transform, draw, splitmix64

IMAGES = np.random.default_rng(0).integers(1, 256, (40, 3, 6, 5), dtype=np.uint8)
IMAGES.flags.writeable = False

transforms = st.builds(
    Transform,
    crop=st.none() | st.tuples(st.integers(1, 6), st.integers(1, 5)),
    pad=st.integers(0, 3),
    flip=st.booleans(),
    training=st.booleans(),
    seed=st.integers(-5, 2**70),
)
index_lists = st.lists(st.integers(0, len(IMAGES) - 1), min_size=1, max_size=30)


def view(transform: Transform, indices: list[int], epoch: int = 0) -> np.ndarray:
    chosen = np.array(indices, dtype=np.int64)
    return transform.apply(IMAGES[chosen], chosen, epoch)


def test_splitmix64_gives_the_published_sequence() -> None:
    gamma = 0x9E3779B97F4A7C15
    states = np.array([(1234567 + step * gamma) % 2**64 for step in range(3)], dtype=np.uint64)
    assert splitmix64(states).tolist() == [6457827717110365317, 3203168211198807973, 9817491932198370423]


@given(transforms, index_lists, st.integers(0, 1000), st.randoms())
def test_a_sample_looks_the_same_in_any_batch_and_order(transform, indices, epoch, random) -> None:
    together = view(transform, indices, epoch)
    order = list(range(len(indices)))
    random.shuffle(order)
    shuffled = view(transform, [indices[i] for i in order], epoch)
    np.testing.assert_array_equal(shuffled, together[order])
    for position, index in enumerate(indices):
        np.testing.assert_array_equal(view(transform, [index], epoch)[0], together[position])


@given(transforms, index_lists)
def test_every_result_is_a_window_of_the_bordered_image_perhaps_mirrored(transform, indices) -> None:
    height, width = transform.crop or (6, 5)
    pad = transform.pad if transform.crop else 0
    for index, result in zip(indices, view(transform, indices), strict=True):
        bordered = np.pad(IMAGES[index], ((0, 0), (pad, pad), (pad, pad)))
        windows = [
            bordered[:, top : top + height, left : left + width]
            for top in range(bordered.shape[1] - height + 1)
            for left in range(bordered.shape[2] - width + 1)
        ]
        mirrored = [window[..., ::-1] for window in windows] if transform.flip and transform.training else []
        assert any(np.array_equal(result, window) for window in windows + mirrored)


def test_the_test_view_is_the_centre_and_never_mirrored() -> None:
    result = view(Transform(crop=(4, 3), flip=True), [0, 1])
    np.testing.assert_array_equal(result, IMAGES[:2, :, 1:5, 1:4])


def test_epoch_seed_and_index_each_change_the_draw() -> None:
    indices = np.arange(200)
    base = draw(1, 2, indices)
    assert len(set(base.tolist())) == 200
    assert not np.any(base == draw(1, 3, indices))
    assert not np.any(base == draw(2, 2, indices))


def test_windows_and_mirrors_are_uniform() -> None:
    """25 windows x 2 mirrors: chi-square with 49 degrees of freedom stays below its 0.999 quantile."""
    num_samples = 20_000
    ramp = np.arange(25, dtype=np.uint8).reshape(1, 1, 5, 5) + np.uint8(1)
    images = np.broadcast_to(np.pad(ramp, ((0, 0), (0, 0), (0, 1), (0, 1))), (num_samples, 1, 6, 6))
    result = Transform((2, 2), 0, flip=True, training=True, seed=3).apply(images, np.arange(num_samples), epoch=1)
    _, counts = np.unique(result.reshape(num_samples, 4), axis=0, return_counts=True)
    assert len(counts) == 50
    expected = num_samples / 50
    assert ((counts - expected) ** 2 / expected).sum() < 85.4


@pytest.mark.parametrize("training", [True, False])
def test_a_crop_may_be_larger_than_the_image_if_the_border_allows(training: bool) -> None:
    result = view(Transform(crop=(8, 8), pad=2, training=training), [3])
    assert result.shape == (1, 3, 8, 8)
    if not training:
        np.testing.assert_array_equal(result[0], np.pad(IMAGES[3], ((0, 0), (1, 1), (2, 1))))
