"""Fate sharing: what belongs to a run dies with it, also where nobody is left to end it in order."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_PR_SET_PDEATHSIG = 1

_KILL_UNLESS_TOLD = 'read -r _ || kill -9 "$@"'
"""The end of the input without a line means that whoever held the pipe was killed."""


def die_with_parent() -> None:
    """Have the kernel kill this process when the one that started it dies, even while it is stopped."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


@contextmanager
def helpers_die_with_us() -> Iterator[Callable[[], None]]:
    """See to it that nothing of a local Ray cluster stays when this process is killed.

    The kernel then ends what this process started, and Ray's workers end themselves; but two helpers of Ray's raylet
    stay for a minute. A shell that does nothing but wait for the end of this process kills them; where this process
    ends in order it kills them itself.

    Yields:
        To be called once the cluster runs.
    """
    guards: list[subprocess.Popen[bytes]] = []
    helpers: dict[int, str] = {}

    def guard() -> None:
        found = [child for raylet in _children(os.getpid(), "raylet") for child in _helpers(raylet)]
        helpers.update((child, _birth(child)) for child in found)
        command = ["sh", "-c", _KILL_UNLESS_TOLD, "guard", *map(str, found)]
        shell = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True)
        guards.append(shell)

    try:
        yield guard
    finally:
        for shell in guards:
            shell.communicate(b"\n")
        for helper, birth in helpers.items():
            if birth and _birth(helper) == birth:
                with suppress(ProcessLookupError):
                    os.kill(helper, signal.SIGKILL)


def _birth(pid: int) -> str:
    """When a process began, in ticks since the machine did; empty when it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()[19]
    except OSError:
        return ""


def _helpers(raylet: int) -> Iterator[int]:
    """Children of the raylet that are no workers: those have process groups of their own."""
    for child in _children(raylet):
        with suppress(ProcessLookupError):
            if os.getpgid(child) == os.getpgid(raylet):
                yield child


def _children(parent: int, name: str | None = None) -> Iterator[int]:
    """Processes by parent, and by name if given."""
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            pid, _, rest = entry.read_text().partition(" (")
            title, _, fields = rest.rpartition(") ")
            if int(fields.split()[1]) == parent and name in (None, title):
                yield int(pid)
