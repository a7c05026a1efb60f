"""CIFAR-10 in its binary version: a folder, or an archive that is read without unpacking it to disk.

A record is one label byte and 3,072 pixels: 32x32 red, then green, then blue. Source: A. Krizhevsky, "Learning multiple
layers of features from tiny images", 2009.
"""

from __future__ import annotations

import lzma
import tarfile
import zlib
from pathlib import Path, PurePosixPath

import numpy as np

from bptcnn.data.arrays import Arrays, Split, Statistics, checked_labels
from bptcnn.data.standard import Store
from bptcnn.errors import DataError

_NUM_CLASSES = 10
_SHAPE = (3, 32, 32)
_RECORD_BYTES = 1 + 3 * 32 * 32
_TRAIN_FILES = [f"data_batch_{number}.bin" for number in range(1, 6)]
_TEST_FILE = "test_batch.bin"
_UNPACKED = f"the unpacked data_batch_1.bin to data_batch_5.bin and {_TEST_FILE}"
_FOLDER = "cifar-10-batches-bin"
_ARCHIVES = ["cifar-10-binary.tar.gz", f"{_FOLDER}.tar.gz", f"{_FOLDER}.tar.xz"]
_PUBLISHED_IMAGES = 50_000
_PUBLISHED = Statistics((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))


def load_cifar(store: Store) -> Arrays:
    """Read the six files.

    Args:
        store: where they are; its folder may be the archive itself.

    Returns:
        RGB images of 32x32 pixels, in the files' order.

    Raises:
        DataError: a file is missing or damaged.
    """
    place = _place(store)
    files = _from_folder(place) if place.is_dir() else _from_archive(place)
    missing = [name for name in [*_TRAIN_FILES, _TEST_FILE] if name not in files]
    if missing:
        raise DataError(f"{missing[0]} is missing in {place}: give the complete binary version of CIFAR-10")
    train = _joined([_records(files[name], f"{place}, {name}") for name in _TRAIN_FILES])
    test = _joined([_records(files[_TEST_FILE], f"{place}, {_TEST_FILE}")])
    return Arrays(train, test, _NUM_CLASSES, _PUBLISHED if len(train.labels) == _PUBLISHED_IMAGES else None)


def _place(store: Store) -> Path:
    """The folder of the six files, or the archive."""
    found = store.find([_TRAIN_FILES[0], f"{_FOLDER}/{_TRAIN_FILES[0]}"])
    if found is not None:
        return found.parent
    if store.dir is not None and store.folders()[0].is_file():
        return store.folders()[0]
    return store.obtain(_ARCHIVES, _UNPACKED)


def _from_folder(folder: Path) -> dict[str, bytes]:
    paths = [folder / name for name in [*_TRAIN_FILES, _TEST_FILE]]
    try:
        return {path.name: path.read_bytes() for path in paths if path.is_file()}
    except OSError as error:
        raise DataError(f"{folder} cannot be read ({error}): copy it again") from error


def _from_archive(path: Path) -> dict[str, bytes]:
    """Read the members in the archive's order, so that it is decompressed once."""
    wanted = {*_TRAIN_FILES, _TEST_FILE}
    files = {}
    try:
        with tarfile.open(path, "r|*") as archive:
            for member in archive:
                stream = archive.extractfile(member) if member.isfile() else None
                if stream is not None and PurePosixPath(member.name).name in wanted:
                    files[PurePosixPath(member.name).name] = stream.read()
    except (OSError, EOFError, tarfile.TarError, lzma.LZMAError, zlib.error) as error:
        raise DataError(f"{path} cannot be read as an archive ({error}): copy it again") from error
    return files


def _records(content: bytes, where: str) -> Split:
    """The images and labels of one file; a view of its bytes."""
    if not content or len(content) % _RECORD_BYTES:
        raise DataError(f"{where}: {len(content)} bytes is no multiple of {_RECORD_BYTES} per image: copy it again")
    records = np.frombuffer(content, dtype=np.uint8).reshape(-1, _RECORD_BYTES)
    labels = checked_labels(records[:, 0], _NUM_CLASSES, where, unit="record")
    return Split(records[:, 1:].reshape(-1, *_SHAPE), labels)


def _joined(parts: list[Split]) -> Split:
    return Split(np.concatenate([part.images for part in parts]), np.concatenate([part.labels for part in parts]))
