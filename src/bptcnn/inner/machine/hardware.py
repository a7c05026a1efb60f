"""What this process may use of the machine: cores and caches; and what a measurement on it depends on.

What the kernel says is read below a root folder, so that a test can make a machine up. Whatever is missing or can't be
understood counts as not said: asking about the hardware never fails.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from importlib.metadata import version
from math import ceil
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from bptcnn.inner.machine import processor
from bptcnn.inner.machine.processor import ROOT

_CACHE_BYTES = {1: 32 << 10, 2: 512 << 10, 3: 8 << 20}
_UNIT_BYTES = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


# ------------------------------------------------------------------------------------------------ cores


def num_cores(root: Path = ROOT) -> int:
    """Cores that this process may keep busy: a container granted 2 of 64 cores sees 2.

    Args:
        root: the file system in which the kernel's files are.

    Returns:
        The size of the affinity mask or the CPU quota rounded up to a whole core, whichever is less; at least 1.

    Example:
        >>> 1 <= num_cores() <= len(affinity())
        True
    """
    cores = len(affinity())
    quota = quota_cores(root)
    return cores if quota is None else min(cores, max(1, ceil(quota)))


def quota_cores(root: Path = ROOT) -> float | None:
    """The tightest CPU quota of this process's control groups, from its own up to where they are mounted.

    Args:
        root: the file system in which the kernel's files are.

    Returns:
        CPU seconds per second, above 0; None without a quota.

    Source: Linux kernel documentation, ``admin-guide/cgroup-v2.rst`` (``cpu.max``) and ``scheduler/sched-bwc.rst``
    (``cpu.cfs_quota_us``, ``cpu.cfs_period_us``); ``cgroups(7)``, ``proc_pid_mountinfo(5)``.
    """
    quotas = (_quota(folder) for folder in _groups(root))
    return min((quota for quota in quotas if quota is not None), default=None)


def affinity() -> tuple[int, ...]:
    """The cores on which the calling thread may run.

    Returns:
        Numbers of cores in rising order; where the platform has no affinity, all cores.
    """
    if hasattr(os, "sched_getaffinity"):
        return tuple(sorted(os.sched_getaffinity(0)))
    return tuple(range(os.cpu_count() or 1))


class _Mount(NamedTuple):
    """A hierarchy of control groups: its kind, the group at its top and where that group is mounted."""

    kind: str
    top: PurePosixPath
    point: str


def _groups(root: Path) -> Iterator[Path]:
    """Folders of this process's control groups and of all groups around them."""
    mounts = list(_mounts(processor.text(root / "proc/self/mountinfo")))
    for kind, group in _memberships(processor.text(root / "proc/self/cgroup")):
        of_kind = [mount for mount in mounts if mount.kind == kind]
        # Where none holds the group (a process that was moved into a container), what is mounted is the best guess.
        for mount in [mount for mount in of_kind if group.is_relative_to(mount.top)] or of_kind:
            below = group.relative_to(mount.top).parts if group.is_relative_to(mount.top) else ()
            if ".." in below:  # outside of what this namespace shows
                below = ()
            top = root / mount.point.lstrip("/")
            yield from (top.joinpath(*below[:depth]) for depth in range(len(below), -1, -1))


def _memberships(text: str) -> Iterator[tuple[str, PurePosixPath]]:
    """The groups that govern this process's CPU time: ``0::/path`` in version 2, ``4:cpu,cpuacct:/path`` in 1."""
    for line in text.splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            yield "cgroup2", PurePosixPath(path)
        elif "cpu" in controllers.split(","):
            yield "cgroup", PurePosixPath(path)


def _mounts(text: str) -> Iterator[_Mount]:
    for line in text.splitlines():
        place, _, what = line.partition(" - ")
        places, whats = place.split(" "), what.split(" ")
        if len(places) < 5 or len(whats) < 3:
            continue
        if whats[0] == "cgroup2" or (whats[0] == "cgroup" and "cpu" in whats[2].split(",")):
            yield _Mount(whats[0], PurePosixPath(_unescaped(places[3])), _unescaped(places[4]))


def _unescaped(field: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), field)


def _quota(folder: Path) -> float | None:
    """Cores granted by one group: version 2 says both numbers in one file, version 1 in two."""
    fields = processor.text(folder / "cpu.max").split() or [
        *processor.text(folder / "cpu.cfs_quota_us").split(),
        *processor.text(folder / "cpu.cfs_period_us").split(),
    ]
    try:
        quota_us, period_us = map(int, fields)  # "max" and -1 stand for no quota
        return quota_us / period_us if quota_us > 0 and period_us > 0 else None
    except (ValueError, OverflowError):
        return None


# ------------------------------------------------------------------------------------------------ caches


def cache_bytes(level: int, root: Path = ROOT) -> int:
    """Size of the cache of a level that holds data.

    Args:
        level: 1, 2 or 3.
        root: the file system in which the kernel's files are.

    Returns:
        Bytes; of a shared cache, all of it. Where unknown, 32 KiB, 512 KiB or 8 MiB.

    Example:
        >>> cache_bytes(2, Path("no/such/machine"))
        524288
    """
    assert level in _CACHE_BYTES, f"a cache has level 1, 2 or 3, not {level}"
    for entry in sorted((root / "sys/devices/system/cpu/cpu0/cache").glob("index*")):
        if processor.text(entry / "level").strip() == str(level) and processor.text(entry / "type").strip() in {
            "Data",
            "Unified",
        }:
            match = re.fullmatch(r"([1-9][0-9]{0,9})([KMG]?)", processor.text(entry / "size").strip())
            if match:
                return int(match[1]) * _UNIT_BYTES[match[2]]
    return _CACHE_BYTES[level]


# ------------------------------------------------------------------------------------------------ identity


def fingerprint(root: Path = ROOT) -> str:
    """Name what a measured plan depends on: processor, cores granted, vectors, and the versions that compute.

    Args:
        root: the file system in which the kernel's files are.

    Returns:
        One short line, the same in every process with the same rights on this machine.
    """
    import torch  # a second, which who only asks for cores need not wait

    vectors = processor.host_simd(root)
    return "; ".join(
        (
            processor.name(root),
            f"{num_cores(root)} cores",
            f"simd {vectors.width}x{vectors.registers}{' bf16' if vectors.bf16 else ''}",
            f"torch {torch.__version__}",
            f"bptcnn {version('bptcnn')}",
        )
    )
