"""MNIST and its relatives: the four idx files in every spelling, and everything that may be wrong with them."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from bptcnn.data.idx import load_idx, read_idx
from bptcnn.data.standard import Store
from bptcnn.errors import DataError

IMAGES = np.random.default_rng(0).integers(0, 256, (12, 5, 4), dtype=np.uint8)
LABELS = np.arange(12, dtype=np.uint8) % 10


@pytest.fixture
def folder(tmp_path: Path, write_idx) -> Path:
    write_idx(tmp_path, IMAGES, LABELS)
    return tmp_path


@pytest.mark.parametrize("pattern", ["{}-ubyte.gz", "{}-ubyte", "dotted", "dotted.gz"])
@pytest.mark.parametrize("subfolder", ["", "mnist"])
def test_all_spellings_are_read(tmp_path: Path, write_idx, pattern: str, subfolder: str) -> None:
    write_idx(tmp_path / subfolder, IMAGES, LABELS, pattern.replace("dotted", "{}-ubyte"))
    if pattern.startswith("dotted"):
        for path in (tmp_path / subfolder).iterdir():
            path.rename(path.with_name(path.name.replace("-idx", ".idx")))
    arrays = load_idx(Store("mnist", str(tmp_path)))
    np.testing.assert_array_equal(arrays.train.images, IMAGES[:, np.newaxis])
    np.testing.assert_array_equal(arrays.test.labels, LABELS)
    assert arrays.num_classes == 10


def test_a_set_of_another_size_is_measured_not_taken_for_mnist(folder: Path) -> None:
    assert load_idx(Store("mnist", str(folder))).statistics is None


def test_compression_is_recognised_whatever_the_name(folder: Path) -> None:
    path = folder / "train-labels-idx1-ubyte.gz"
    path.write_bytes(gzip.decompress(path.read_bytes()))
    np.testing.assert_array_equal(read_idx(path, 1), LABELS)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "starts with , not 00000801"),
        (bytes([0, 0, 13, 1]) + bytes(8), "starts with 00000d01, not 00000801: it is no idx1-ubyte file"),
        (bytes([0, 0, 8, 3]) + bytes(40), "starts with 00000803"),
        (bytes([0, 0, 8, 1, 0]), "holds 0 values but its head says 0"),
        (bytes([0, 0, 8, 1, 0, 0, 0, 9]) + bytes(8), "holds 8 values but its head says 9"),
        (bytes([0, 0, 8, 1, 0, 0, 0, 9]) + bytes(10), "holds 10 values but its head says 9"),
        (bytes([0, 0, 8, 1, 0, 0, 0, 0]), "holds 0 values"),
        (gzip.compress(bytes(1000), mtime=0)[:-10], "cannot be read"),
        (gzip.compress(bytes(1000), mtime=0)[:9] + b"\xff" * 20, "cannot be read"),
    ],
)
def test_damaged_files_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "labels"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_idx(path, 1)


def test_more_images_than_labels_is_refused(folder: Path, write_idx, tmp_path: Path) -> None:
    write_idx(tmp_path / "other", IMAGES[:11], LABELS)
    (tmp_path / "other" / "train-images-idx3-ubyte.gz").rename(folder / "train-images-idx3-ubyte.gz")
    with pytest.raises(DataError, match=r"holds 11 images but train-labels-idx1-ubyte.gz 12 labels"):
        load_idx(Store("mnist", str(folder)))


def test_a_label_above_nine_is_refused(tmp_path: Path, write_idx) -> None:
    write_idx(tmp_path, IMAGES, LABELS + 1)
    with pytest.raises(DataError, match=r"train-labels.*label 10 of sample 9 is out of range: use 0 to 9"):
        load_idx(Store("mnist", str(tmp_path)))


def test_a_missing_file_is_named_and_not_downloaded(folder: Path) -> None:
    (folder / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(DataError, match=rf"t10k-labels-idx1-ubyte.gz is missing in {folder}"):
        load_idx(Store("mnist", str(folder), remote={}))


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data.dir = '.*absent' does not exist"):
        load_idx(Store("mnist", str(tmp_path / "absent")))
