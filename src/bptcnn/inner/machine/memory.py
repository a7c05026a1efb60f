"""The C library's allocator, told to keep what it is given back; and what the kernel counts of that.

By default glibc maps every block over 32 MiB afresh and unmaps it when it is freed, so each training step meets the
same memory as zero pages again: one page fault per 4 KiB of activations and gradients. That is the largest avoidable
cost of a step on the CPU.
"""

from __future__ import annotations

import ctypes
import re
import resource
import sys
from pathlib import Path

# From <malloc.h>: a parameter's number, and the value that it gets.
_MMAP_MAX = (-4, 0)
_TRIM_THRESHOLD = (-1, 2**31 - 1 - 4096)
_TOP_PAD = (-2, 64 << 20)

_STATUS = Path("/proc/self/status")


def keep_memory() -> bool:
    """Keep freed memory in this process, for the next step to use; calling it again changes nothing.

    No block is mapped by itself any more and the heap is never trimmed; it grows by 64 MiB at a time. The other ways
    are shut: glibc rejects an mmap threshold over 32 MiB, and a trim threshold alone freezes the mmap threshold at
    128 KiB, which makes things worse.

    The process stays as large as its largest step. A size settles once it came by some ten times: until then a new
    block, with room to align it, is a little larger than the hole that the last one left. In any thread but the main
    one a block over 64 MiB is still mapped afresh, as the heap of such a thread can't grow beyond that.

    Returns:
        Whether it took effect; False where the C library is not glibc. An allocator put in glibc's place
        (``LD_PRELOAD``) may say True and do as it likes.

    Source: ``mallopt(3)``; glibc, ``malloc/malloc.c`` and ``malloc/arena.c``.
    """
    if sys.platform != "linux":
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # musl, or a Python without dynamic loading
        return False
    # In this order, and no further than it goes: the second without the first is the one that makes things worse.
    return all(mallopt(*setting) == 1 for setting in (_MMAP_MAX, _TRIM_THRESHOLD, _TOP_PAD))


def give_memory_back() -> bool:
    """Return what the allocator keeps for later to the system: the other side of :func:`keep_memory`.

    Returns:
        Whether the C library can do so.
    """
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):
        return False
    trim(0)
    return True


def minor_faults() -> int:
    """Count the page faults that this process met so far without reading from a disk.

    Returns:
        A count over all threads, which only grows.

    Example:
        >>> before = minor_faults()
        >>> minor_faults() >= before
        True
    """
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def peak_bytes() -> int:
    """Measure the most memory that this process ever held at once.

    Returns:
        Peak resident set in bytes.

    Example:
        >>> peak_bytes() > 1 << 20
        True
    """
    try:
        match = re.search(r"^VmHWM:\s*(\d+) kB$", _STATUS.read_text(), re.MULTILINE)
    except OSError:
        match = None
    if match:
        return int(match[1]) << 10
    # Second best: on Linux a program starts with the peak of the process that started it, which may be far larger.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak << 10
