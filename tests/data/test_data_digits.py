"""The bundled digits: complete, split once and for all, fair to every class."""

from __future__ import annotations

import hashlib

import numpy as np

from bptcnn.data.digits import load_digits


def test_the_split_is_stratified_and_complete() -> None:
    digits = load_digits()
    train, test = np.bincount(digits.train.labels), np.bincount(digits.test.labels)
    assert (train + test).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    assert (train.sum(), test.sum()) == (1437, 360)
    assert np.abs(test - (train + test) / 5).max() <= 1


def test_pixels_span_the_full_range() -> None:
    images = load_digits().train.images
    assert (images.dtype, images.min(), images.max()) == (np.uint8, 0, 255)
    assert len(np.unique(images)) == 17


def test_no_image_is_in_both_parts() -> None:
    digits = load_digits()
    trained = {image.tobytes() for image in digits.train.images}
    assert not any(image.tobytes() in trained for image in digits.test.images)


def test_the_split_never_changes() -> None:
    digits = load_digits()
    content = b"".join(array.tobytes() for split in (digits.train, digits.test) for array in split)
    assert hashlib.sha256(content).hexdigest().startswith("d6ed6a79482fa5ad")
