"""Folders of image files: any size and mode becomes an RGB square; anything else is named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bptcnn.data.folder import decode, load_folder
from bptcnn.errors import DataError


def paint(path: Path, colour: object, mode: str = "RGB", size: tuple[int, int] = (20, 12)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, colour).save(path)
    return path


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    """Three cats and two dogs to learn from, one dog to recognise."""
    for number in range(3):
        paint(tmp_path / "train" / "cat" / f"{number}.png", (number, 0, 0))
    for number in range(2):
        paint(tmp_path / "train" / "dog" / f"{number}.PNG", (100 + number, 0, 0))
    paint(tmp_path / "test" / "dog" / "a.JPeG", (120, 0, 0))
    (tmp_path / "train" / ".DS_Store").touch()
    (tmp_path / "train" / "cat" / ".hidden").touch()
    return tmp_path


def test_samples_go_round_the_classes(pets: Path) -> None:
    arrays = load_folder(pets, size=8)
    assert arrays.train.labels.tolist() == [0, 1, 0, 1, 0]
    assert arrays.train.images[:, 0, 0, 0].tolist() == [0, 100, 1, 101, 2]
    assert arrays.train.images.shape == (5, 3, 8, 8)
    assert (arrays.test.labels.tolist(), arrays.num_classes) == ([1], 2)


def test_a_limit_keeps_every_class(pets: Path) -> None:
    (pets / "train" / "cat" / "2.png").write_bytes(b"never decoded")
    assert load_folder(pets, size=8, limit=4).train.labels.tolist() == [0, 1, 0, 1]


@pytest.mark.parametrize("name", ["val", "valid"])
def test_the_test_part_may_be_called_validation(pets: Path, name: str) -> None:
    (pets / "test").rename(pets / name)
    assert len(load_folder(pets, size=8).test.labels) == 1


@pytest.mark.parametrize(
    ("mode", "colour", "expected"),
    [
        ("L", 77, (77, 77, 77)),
        ("1", 1, (255, 255, 255)),
        ("LA", (77, 9), (77, 77, 77)),
        ("RGBA", (10, 20, 30, 40), (10, 20, 30)),
        ("I;16", 77 * 256 + 5, (77, 77, 77)),
        ("P", (10, 20, 30), (10, 20, 30)),
    ],
)
def test_every_mode_becomes_rgb(tmp_path: Path, mode: str, colour: object, expected: tuple[int, ...]) -> None:
    image = decode(paint(tmp_path / "x.png", colour, mode), size=4)
    assert image.dtype == np.uint8
    assert image[:, 2, 1].tolist() == list(expected)


def test_a_transparent_palette_gives_no_warning(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    image = Image.new("P", (6, 6), (10, 20, 30))
    image.putpixel((5, 5), (200, 0, 0))
    image.save(tmp_path / "x.png", transparency=bytes([100, 128]))
    assert decode(tmp_path / "x.png", size=6)[:, 0, 0].tolist() == [10, 20, 30]
    assert not recwarn


def test_a_cmyk_jpeg_is_read(tmp_path: Path) -> None:
    red, green, blue = decode(paint(tmp_path / "x.jpg", (0, 255, 255, 0), "CMYK"), size=4)[:, 1, 1]
    assert red > 240
    assert max(green, blue) < 15


@pytest.mark.parametrize(("height", "width"), [(8, 24), (24, 8), (8, 8)])
def test_the_short_side_is_resized_and_the_centre_kept(tmp_path: Path, height: int, width: int) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    image = Image.fromarray(noise)
    image.save(tmp_path / "x.png")
    halved = np.asarray(image.resize((width // 2, height // 2), Image.Resampling.BILINEAR))
    top, left = (height // 2 - 4) // 2, (width // 2 - 4) // 2
    expected = halved[top : top + 4, left : left + 4].transpose(2, 0, 1)
    np.testing.assert_array_equal(decode(tmp_path / "x.png", size=4), expected)


def test_resizing_smooths(tmp_path: Path) -> None:
    """One-pixel stripes become even grey; picking single pixels would give black or white."""
    stripes = np.tile(np.array([0, 255], dtype=np.uint8), (64, 32))
    Image.fromarray(stripes).save(tmp_path / "x.png")
    assert np.abs(decode(tmp_path / "x.png", size=8).astype(int) - 127).max() < 16


@pytest.mark.parametrize("size", [20, 160, 320])
def test_a_jpeg_keeps_the_detail_that_the_size_shows(tmp_path: Path, size: int) -> None:
    """Tiles of 4 x 4 pixels: decoding at too low a resolution would blur them."""
    tiles = np.random.default_rng(0).integers(0, 256, (160, 160), dtype=np.uint8)
    scene = Image.fromarray(tiles.repeat(4, axis=0).repeat(4, axis=1))
    scene.save(tmp_path / "x.jpg", quality=95)
    scene.save(tmp_path / "x.png")
    difference = decode(tmp_path / "x.jpg", size).astype(int) - decode(tmp_path / "x.png", size)
    assert np.abs(difference).mean() < 6


def test_what_is_no_image_is_named(pets: Path) -> None:
    (pets / "train" / "dog" / "notes.txt").touch()
    with pytest.raises(DataError, match=r"dog/notes.txt is no JPEG or PNG file"):
        load_folder(pets, size=8)


@pytest.mark.parametrize("content", [b"", b"not an image", b"GIF89a" + bytes(40)])
def test_a_false_image_is_named(pets: Path, content: bytes) -> None:
    (pets / "train" / "dog" / "1.PNG").write_bytes(content)
    with pytest.raises(DataError, match=r"dog/1.PNG cannot be read as an image"):
        load_folder(pets, size=8)


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_a_truncated_image_is_named(tmp_path: Path, suffix: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (50, 50, 3), dtype=np.uint8)
    path = tmp_path / f"x.{suffix}"
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(DataError, match=f"x.{suffix} cannot be read as an image"):
        decode(path, size=8)


def test_a_file_outside_the_class_folders_is_named(pets: Path) -> None:
    (pets / "train" / "stray.png").touch()
    with pytest.raises(DataError, match=r"train/stray.png is in no class folder"):
        load_folder(pets, size=8)


def test_an_empty_class_is_named(pets: Path) -> None:
    (pets / "train" / "emu").mkdir()
    (pets / "train" / "emu" / ".hidden").touch()
    with pytest.raises(DataError, match=r"class folder .*train/emu is empty"):
        load_folder(pets, size=8)


def test_a_single_class_is_refused_before_decoding(pets: Path) -> None:
    (pets / "train" / "cat").rename(pets / "elsewhere")
    (pets / "train" / "dog" / "1.PNG").write_bytes(b"never decoded")
    with pytest.raises(DataError, match=r"train: all samples are of one class: .* needs at least two classes"):
        load_folder(pets, size=8)


def test_a_class_only_in_the_test_is_named(pets: Path) -> None:
    (pets / "test" / "dog").rename(pets / "test" / "dogs")
    with pytest.raises(DataError, match=r"unknown class 'dogs': did you mean 'dog'\?"):
        load_folder(pets, size=8)


@pytest.mark.parametrize("missing", ["train", "test"])
def test_a_missing_part_says_the_layout(pets: Path, missing: str) -> None:
    (pets / missing).rename(pets / "elsewhere")
    with pytest.raises(DataError, match=rf"has no folder {missing}/: arrange it as train/CLASS/\* and test/CLASS/\*"):
        load_folder(pets, size=8)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"imagefolder:.*absent: no such folder"):
        load_folder(tmp_path / "absent", size=8)


def test_images_beyond_memory_are_refused_before_decoding(pets: Path) -> None:
    """Six images of 3 x 8 x 8 bytes need 1,152 bytes: 80 % of 1,440."""
    (pets / "train" / "dog" / "1.PNG").write_bytes(b"never decoded")
    with pytest.raises(DataError, match=r"6 images of 8x8 need .* GiB, more than 80% .* lower data.size, or give"):
        load_folder(pets, size=8, available_bytes=1439)
    paint(pets / "train" / "dog" / "1.PNG", (0, 0, 0))
    assert len(load_folder(pets, size=8, available_bytes=1440).train.labels) == 5
