"""Small data sets in the real formats, made afresh for each test."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

WriteIdx = Callable[..., None]


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(1)


def _idx(values: np.ndarray[Any, Any]) -> bytes:
    lengths = np.array(values.shape, dtype=">u4").tobytes()
    return bytes([0, 0, 8, values.ndim]) + lengths + values.astype(np.uint8).tobytes()


@pytest.fixture
def write_idx() -> WriteIdx:
    """Write the four files; spelling and compression follow the pattern of the file names."""

    def write(
        folder: Path, images: np.ndarray[Any, Any], labels: np.ndarray[Any, Any], pattern: str = "{}-ubyte.gz"
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for part in ("train", "t10k"):
            for kind, values in (("images-idx3", images), ("labels-idx1", labels)):
                path = folder / pattern.format(f"{part}-{kind}")
                content = _idx(values)
                path.write_bytes(gzip.compress(content, 1) if path.suffix == ".gz" else content)

    return write


@pytest.fixture
def cifar_files(rng: np.random.Generator) -> dict[str, bytes]:
    """Six files of four records each; the labels of file k start at k."""
    names = [f"data_batch_{number}.bin" for number in range(1, 6)] + ["test_batch.bin"]
    files = {}
    for number, name in enumerate(names):
        records = rng.integers(0, 256, (4, 3073), dtype=np.uint8)
        records[:, 0] = (number + np.arange(4)) % 10
        files[name] = records.tobytes()
    return files
