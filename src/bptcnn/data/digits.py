"""The bundled data set: 1,797 handwritten digits of 8x8 pixels, for first steps and tests without a network.

Origin: E. Alpaydin, C. Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository, 1998,
https://doi.org/10.24432/C50P49, licence CC BY 4.0. ``digits.npz`` holds its test part unchanged (grey values 0..16), in
the order in which scikit-learn distributes it.
"""

from __future__ import annotations

import importlib.resources

import numpy as np

from bptcnn.data.arrays import Arrays, Split

_BRIGHTEST = 16


def load_digits() -> Arrays:
    """Read the bundled digits, split into 1,437 for training and 360 for the test.

    The test part is every fifth sample of the set sorted by class, so each class gives its fifth to within one sample.

    Returns:
        Images of 1x8x8 pixels on the scale 0..255.

    Example:
        >>> digits = load_digits()
        >>> digits.train.images.shape, digits.test.images.shape
        ((1437, 1, 8, 8), (360, 1, 8, 8))
    """
    with (importlib.resources.files("bptcnn.data") / "digits.npz").open("rb") as file, np.load(file) as stored:
        images, labels = stored["images"], stored["labels"].astype(np.int64)
    pixels = np.rint(images[:, np.newaxis] * (255 / _BRIGHTEST)).astype(np.uint8)
    tested = np.zeros(len(labels), dtype=bool)
    tested[np.argsort(labels, kind="stable")[::5]] = True
    return Arrays(Split(pixels[~tested], labels[~tested]), Split(pixels[tested], labels[tested]), num_classes=10)
