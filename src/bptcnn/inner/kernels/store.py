"""Kernels kept between runs: one file each, named by what its code depends on.

A file holds the digest of the rest, a line that says what the kernel is, and the code.
"""

from __future__ import annotations

import hashlib
import json
import platform
from functools import cache
from importlib.metadata import version
from pathlib import Path

import llvmlite

from bptcnn.inner import kept
from bptcnn.inner.kernels.image import Image
from bptcnn.inner.machine import processor

KIND = "kernels"
MOST_BYTES = 64 << 20
"""A network has a quarter of a megabyte, about."""

_DIGEST_BYTES = hashlib.sha256().digest_size


def load(kernel: str) -> tuple[int | None, Image] | None:
    """Find a kernel.

    Args:
        kernel: what it is, as given to :func:`save`.

    Returns:
        What its emitter said of it, and the kernel; None if there is none that is whole and was made for these cores by
        this version.
    """
    content = kept.read(KIND, _name(kernel)) or b""
    digest, rest = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
    if hashlib.sha256(rest).digest() != digest:
        return None
    line, _, code = rest.partition(b"\n")
    about = json.loads(line)
    if about["for"] != _depends_on(kernel):  # a file that was renamed
        return None
    return about["said"], Image(code, tuple((offset, function) for offset, function in about["foreign"]))


def save(kernel: str, said: int | None, image: Image) -> None:
    """Keep a kernel, if that is possible.

    Args:
        kernel: what it is: its emitter, shape and options, in words that are the same in every process.
        said: by its emitter.
        image: the kernel.
    """
    about = {"for": _depends_on(kernel), "said": said, "foreign": image.foreign}
    rest = json.dumps(about).encode() + b"\n" + image.code
    kept.write(KIND, _name(kernel), hashlib.sha256(rest).digest() + rest)


def tidy() -> None:
    """Delete what was of use longest ago, where there is too much."""
    kept.limit(KIND, MOST_BYTES)


def _name(kernel: str) -> str:
    return hashlib.sha256(json.dumps(_depends_on(kernel)).encode()).hexdigest()


def _depends_on(kernel: str) -> list[str]:
    return [kernel, *_here()]


def sources() -> str:
    """A digest of all that emits and links, so that no change of it needs a new number."""
    files = sorted(Path(__file__).parent.rglob("*.py"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()


@cache
def _here() -> tuple[str, ...]:
    """Cores, compiler, and what is given to it."""
    features, versions = " ".join(sorted(processor.features())), (version("bptcnn"), llvmlite.__version__)
    return platform.machine(), processor.name(), features, *versions, sources()
