"""A folder of JPEG and PNG files, one subfolder per class: ``PATH/train/CLASS/*`` and ``PATH/test/CLASS/*``."""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from bptcnn.data.arrays import Arrays, Pixels, Split, checked_classes
from bptcnn.errors import DataError, unknown

_SUFFIXES = {".jpg", ".jpeg", ".png"}
_TEST_NAMES = ("test", "val", "valid")
_MEMORY_SHARE = 0.8

_File = tuple[Path, int]


def load_folder(path: Path, size: int, limit: int = 0, available_bytes: int | None = None) -> Arrays:
    """Decode all images at once into memory, as RGB squares.

    Classes are numbered in the order of their names. Samples go round the classes (the first image of each, then the
    second of each), so that the first ``limit`` samples hold every class. Hidden files are ignored.

    Args:
        path: the folder with ``train`` and ``test`` (or ``val``, ``valid``).
        size: the short side is resized to this, then the centre is cut out; in pixels.
        limit: decode only the first training images; 0 = all.
        available_bytes: memory that may be used; None = ask the system.

    Returns:
        Images of 3 x size x size.

    Raises:
        DataError: the layout is another, a file is no image, or the images would not fit in memory.
    """
    train_path, test_path = _parts(path)
    classes = [folder.name for folder in _class_folders(train_path)]
    train = _files(train_path, classes)[: limit or None]
    test = _files(test_path, classes)
    checked_classes(len(classes), str(train_path))
    _check_memory(
        path, len(train) + len(test), size, _available_bytes() if available_bytes is None else available_bytes
    )
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        return Arrays(_decode(train, size, pool), _decode(test, size, pool), len(classes))


def _parts(path: Path) -> tuple[Path, Path]:
    if not path.is_dir():
        raise DataError(f"imagefolder:{path}: no such folder: give one with train/CLASS/* and test/CLASS/*")
    tests = [path / name for name in _TEST_NAMES if (path / name).is_dir()]
    missing = "train" if not (path / "train").is_dir() else "test" if not tests else None
    if missing:
        raise DataError(f"imagefolder:{path} has no folder {missing}/: arrange it as train/CLASS/* and test/CLASS/*")
    return path / "train", tests[0]


def _visible(folder: Path) -> list[Path]:
    return sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))


def _class_folders(part: Path) -> list[Path]:
    folders = _visible(part)
    for entry in folders:
        if not entry.is_dir():
            raise DataError(f"{entry} is in no class folder: move it to {part}/CLASS/ or remove it")
    if not folders:
        raise DataError(f"{part} has no class folders: arrange it as {part}/CLASS/*")
    return folders


def _files(part: Path, classes: Sequence[str]) -> list[_File]:
    """(path, label) of all images, going round the classes."""
    per_class = []
    for folder in _class_folders(part):
        if folder.name not in classes:
            raise DataError(f"{part}: {unknown('class', folder.name, classes)}")
        per_class.append([(file, classes.index(folder.name)) for file in _images(folder)])
    rounds = itertools.zip_longest(*per_class)
    return [file for one_round in rounds for file in one_round if file is not None]


def _images(folder: Path) -> list[Path]:
    files = _visible(folder)
    if not files:
        raise DataError(f"class folder {folder} is empty: put JPEG or PNG files there or remove it")
    for file in files:
        if file.suffix.lower() not in _SUFFIXES or not file.is_file():
            raise DataError(f"{file} is no JPEG or PNG file: remove it or convert it")
    return files


def _check_memory(path: Path, num_images: int, size: int, available_bytes: int) -> None:
    needed = num_images * 3 * size * size
    if needed > _MEMORY_SHARE * available_bytes:
        raise DataError(
            f"imagefolder:{path}: {num_images} images of {size}x{size} need {needed / 2**30:.3g} GiB, more than "
            f"{_MEMORY_SHARE:.0%} of the {available_bytes / 2**30:.3g} GiB available: lower data.size, or give a "
            "Dataset of your own through the Python API"
        )


def _available_bytes() -> int:
    """Memory that can be taken without swapping, by the kernel's estimate and the control group's limit."""
    fields = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    available = int(fields["MemAvailable"].split()[0]) * 1024
    group = Path("/sys/fs/cgroup")
    try:
        return min(available, int((group / "memory.max").read_text()) - int((group / "memory.current").read_text()))
    except (OSError, ValueError):  # no such group, or its limit is the word "max"
        return available


def _decode(files: Sequence[_File], size: int, pool: ThreadPoolExecutor) -> Split:
    images = np.empty((len(files), 3, size, size), dtype=np.uint8)

    def place(row: int) -> None:
        images[row] = decode(files[row][0], size)

    for _ in pool.map(place, range(len(files))):
        pass
    return Split(images, np.array([label for _, label in files], dtype=np.int64))


def decode(path: Path, size: int) -> Pixels:
    """Read an image file as an RGB square.

    Args:
        path: a JPEG or PNG file of any size and mode.
        size: side of the result in pixels.

    Returns:
        uint8 [3, size, size]: the central square, resized with antialiasing.

    Raises:
        DataError: the file is damaged or no such image.
    """
    try:
        with Image.open(path, formats=("JPEG", "PNG")) as image:
            # Lets JPEG skip detail that resizing would throw away; twice the size keeps the antialiasing.
            image.draft(None, (2 * size, 2 * size))
            side = min(image.size)
            left, top = (image.width - side) / 2, (image.height - side) / 2
            square = _as_rgb(image).resize(
                (size, size), Image.Resampling.BILINEAR, box=(left, top, left + side, top + side)
            )
    except Exception as error:  # damaged files make Pillow raise nearly anything
        raise DataError(f"{path} cannot be read as an image ({error}): replace or remove it") from error
    return np.asarray(square).transpose(2, 0, 1)


def _as_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16-bit grey, which Pillow would clip instead of scaling
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    return (image.convert("RGBA") if image.mode == "P" else image).convert("RGB")
