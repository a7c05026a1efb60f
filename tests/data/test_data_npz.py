"""The user's own arrays: every accepted layout, and one sentence for everything else."""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bptcnn.data.npz import load_npz
from bptcnn.errors import DataError

X = np.random.default_rng(0).integers(0, 256, (6, 5, 4, 3), dtype=np.uint8)
GOOD: dict[str, Any] = {
    "x_train": X,
    "y_train": np.array([0, 1, 2, 0, 1, 2]),
    "x_test": X[:2],
    "y_test": np.array([2, 1]),
}


def save(folder: Path, **arrays: Any) -> Path:
    np.savez(folder / "own.npz", **arrays)
    return folder / "own.npz"


def test_classes_come_from_the_training_labels(tmp_path: Path) -> None:
    arrays = load_npz(save(tmp_path, **GOOD))
    np.testing.assert_array_equal(arrays.train.images, X.transpose(0, 3, 1, 2))
    assert arrays.train.images.flags.c_contiguous
    assert arrays.num_classes == 3
    assert arrays.test.labels.tolist() == [2, 1]


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_floating_point_is_rounded_to_256_grey_values(tmp_path: Path, dtype: str) -> None:
    scaled = {key: (value / 255).astype(dtype) if key[0] == "x" else value for key, value in GOOD.items()}
    found = load_npz(save(tmp_path, **scaled)).train.images
    np.testing.assert_array_equal(found, X.transpose(0, 3, 1, 2))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"x_train": X.astype(np.int64)}, "type int64: use uint8, or floating point"),
        ({"x_train": X.astype(float)}, r"reach from 0 to 255: scale them to 0\.\.1"),
        ({"x_test": np.full((2, 5, 4, 3), np.nan)}, "own.npz, test: images hold nan or inf: replace"),
        ({"x_train": np.where(X > 250, -np.inf, 0.5)}, "own.npz, train: images hold nan or inf"),
        (
            {"y_train": np.zeros(6, dtype=int)},
            "train: all samples are of one class: a data set needs at least two classes",
        ),
        ({"x_train": X[:5]}, "train: 5 images but 6 labels"),
        ({"x_train": X.reshape(6, 60)}, r"shape \(6, 60\)"),
        ({"x_train": X.astype(object)}, "cannot be read"),
        ({"y_train": np.array([0, -1, 0, 0, 0, 0])}, "label -1 of sample 1"),
        ({"y_test": np.array([0, 3])}, "test: label 3 of sample 1 is out of range: use 0 to 2"),
        ({"y_test": np.array([0.0, 1.0])}, "give one integer per sample"),
        ({"x_train": X[:0], "y_train": np.array([], dtype=int)}, "no samples"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path: Path, changed: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_npz(save(tmp_path, **GOOD | changed))


def test_a_missing_key_is_named(tmp_path: Path) -> None:
    partial = {key: value for key, value in GOOD.items() if key != "y_test"}
    with pytest.raises(DataError, match=r"no key 'y_test': use numpy.savez with x_train, y_train, x_test, y_test"):
        load_npz(save(tmp_path, **partial))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"npz:.*absent.npz: no such file"):
        load_npz(tmp_path / "absent.npz")


class Trap:
    """Would leave a file behind if it were ever unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_nothing_is_ever_unpickled(tmp_path: Path) -> None:
    trap = Trap(tmp_path / "sprung")
    pickled = tmp_path / "pickled.npz"
    pickled.write_bytes(pickle.dumps(trap))
    stored = save(tmp_path, **GOOD | {"y_test": np.array([trap, trap])})
    for path in (pickled, stored):
        with pytest.raises(DataError, match="cannot be read"):
            load_npz(path)
    assert not (tmp_path / "sprung").exists()


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    path = save(tmp_path, **GOOD)
    whole = path.read_bytes()
    single = io.BytesIO()
    np.save(single, X)
    for content in (b"", whole[:300], whole[:200] + bytes(40) + whole[240:], single.getvalue()):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"cannot be read|has no key"):
            load_npz(path)
