"""Kernels as bytes, and as code in the memory of this process."""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from bptcnn.errors import UnsupportedError

PAGE = 4096
"""Bytes; every kernel begins with a page, for code of ARM64 counts in them, whatever the system's own are."""


@dataclass(frozen=True, slots=True)
class Image:
    """A kernel that runs wherever it lies.

    Attributes:
        code: begins with the function.
        foreign: where in the code the address of which function of the C library is to be written.
    """

    code: bytes
    foreign: tuple[tuple[int, str], ...] = ()


def place(images: Sequence[Image]) -> list[int]:
    """Make kernels ready to be called, for the life of this process.

    Args:
        images: the kernels.

    Returns:
        Where the code of each begins.

    Raises:
        UnsupportedError: the system allows no new code, or lacks a function.
    """
    sizes = [-(-len(image.code) // PAGE) * PAGE for image in images]
    starts = list(accumulate(sizes, initial=0))
    size = max(starts[-1], PAGE)
    memory = mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, mmap.PROT_READ | mmap.PROT_WRITE)
    # Never given back: when the interpreter ends, a lane may be on its way out of it.
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(memory))
    for image, start in zip(images, starts[:-1], strict=True):
        memory[start : start + len(image.code)] = image.code
        for offset, function in image.foreign:
            memory[start + offset : start + offset + 8] = address_of(function).to_bytes(8, "little")
    first = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    protect = ctypes.CDLL(None).mprotect
    if protect(ctypes.c_void_p(first), ctypes.c_size_t(size), mmap.PROT_READ | mmap.PROT_EXEC):
        raise UnsupportedError("this system lets no process run code that it has made")
    return [first + start for start in starts[:-1]]


def address_of(function: str) -> int:
    """Where a function of the C library begins.

    Args:
        function: its name.

    Raises:
        UnsupportedError: there is none of this name.

    Example:
        >>> address_of("expf") != 0
        True
    """
    try:
        return ctypes.cast(getattr(ctypes.CDLL(None), function), ctypes.c_void_p).value or 0
    except AttributeError:
        raise UnsupportedError(f"the C library of this system has no function {function!r}") from None
