"""CIFAR-10: a folder, a folder above it, or an archive that is never unpacked to disk."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest

from bptcnn.data.arrays import Arrays
from bptcnn.data.cifar import load_cifar
from bptcnn.data.standard import Store
from bptcnn.errors import DataError


def write_folder(folder: Path, files: dict[str, bytes]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)


def write_archive(path: Path, files: dict[str, bytes]) -> None:
    with tarfile.open(path, "w:xz" if path.suffix == ".xz" else "w:gz") as archive:
        archive.addfile(directory := tarfile.TarInfo("cifar-10-batches-bin"))
        directory.type = tarfile.DIRTYPE
        for name, content in reversed(files.items()):
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def check(arrays: Arrays, files: dict[str, bytes]) -> None:
    """The fourth image of the second file is the eighth of all: plane by plane."""
    record = np.frombuffer(files["data_batch_2.bin"], dtype=np.uint8).reshape(4, 3073)[3]
    assert arrays.train.images.shape == (20, 3, 32, 32)
    np.testing.assert_array_equal(arrays.train.images[7, 1], record[1025:2049].reshape(32, 32))
    assert arrays.train.labels.tolist() == [file + sample for file in range(5) for sample in range(4)]
    assert arrays.test.labels.tolist() == [5, 6, 7, 8]
    assert arrays.train.images.flags.c_contiguous


@pytest.mark.parametrize("subfolder", ["", "cifar-10-batches-bin", "cifar-10", "cifar-10/cifar-10-batches-bin"])
def test_a_folder_is_read(tmp_path: Path, cifar_files: dict[str, bytes], subfolder: str) -> None:
    write_folder(tmp_path / subfolder, cifar_files)
    check(load_cifar(Store("cifar-10", str(tmp_path))), cifar_files)


@pytest.mark.parametrize(
    "name", ["cifar-10-batches-bin.tar.gz", "cifar-10-batches-bin.tar.xz", "cifar-10-binary.tar.gz"]
)
@pytest.mark.parametrize("direct", [True, False])
def test_an_archive_is_read_in_memory(tmp_path: Path, cifar_files: dict[str, bytes], name: str, direct: bool) -> None:
    write_archive(tmp_path / name, cifar_files)
    check(load_cifar(Store("cifar-10", str(tmp_path / name if direct else tmp_path))), cifar_files)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_missing_file_is_named(tmp_path: Path, cifar_files: dict[str, bytes]) -> None:
    del cifar_files["data_batch_3.bin"]
    write_folder(tmp_path / "folder", cifar_files)
    write_archive(tmp_path / "cifar-10-binary.tar.gz", cifar_files)
    for place in ("folder", "cifar-10-binary.tar.gz"):
        with pytest.raises(DataError, match=rf"data_batch_3.bin is missing in .*{place}"):
            load_cifar(Store("cifar-10", str(tmp_path / place)))


def test_nothing_there_is_said_without_a_download(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"missing in .*: put it or the unpacked data_batch_1.bin to .* there"):
        load_cifar(Store("cifar-10", str(tmp_path), remote={}))


@pytest.mark.parametrize("keep", [0, 10, 3000])
def test_a_damaged_archive_is_refused(tmp_path: Path, cifar_files: dict[str, bytes], keep: int) -> None:
    path = tmp_path / "cifar-10-binary.tar.gz"
    write_archive(path, cifar_files)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DataError, match=r"cannot be read as an archive .*copy it again"):
        load_cifar(Store("cifar-10", str(tmp_path)))


@pytest.mark.parametrize("name", ["data_batch_3.bin", "test_batch.bin"])
def test_a_truncated_file_is_named(tmp_path: Path, cifar_files: dict[str, bytes], name: str) -> None:
    cifar_files[name] = cifar_files[name][:-1]
    write_folder(tmp_path, cifar_files)
    with pytest.raises(DataError, match=f"{tmp_path}, {name}: 12291 bytes is no multiple of 3073"):
        load_cifar(Store("cifar-10", str(tmp_path)))


@pytest.mark.parametrize("name", ["data_batch_3.bin", "test_batch.bin"])
def test_a_label_above_nine_is_found_in_its_file(tmp_path: Path, cifar_files: dict[str, bytes], name: str) -> None:
    content = bytearray(cifar_files[name])
    content[2 * 3073] = 10
    cifar_files[name] = bytes(content)
    write_folder(tmp_path, cifar_files)
    with pytest.raises(DataError, match=f"{tmp_path}, {name}: label 10 of record 2 is out of range: use 0 to 9"):
        load_cifar(Store("cifar-10", str(tmp_path)))
