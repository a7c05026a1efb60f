"""Looking at real processes, and at command lines that run beside the test."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

PATIENCE_S = 60.0
"""How long anything may take at most; on an idle machine all of it takes a few seconds."""


def until(holds: Callable[[], Any], what: str, patience_s: float = PATIENCE_S) -> Any:
    """Wait for something outside this process; its first true value."""
    end_s = time.monotonic() + patience_s
    while not (value := holds()):
        assert time.monotonic() < end_s, f"waited {patience_s:.0f} s in vain for {what}"
        time.sleep(0.05)
    return value


def descendants(ancestor: int) -> dict[int, str]:
    """Titles of all processes below one, by process number."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            fields = entry.read_text().rpartition(") ")[2].split()
            if fields[0] != "Z":
                parents[int(entry.parent.name)] = int(fields[1])
    found = {pid for pid in parents if pid != ancestor and _is_below(pid, ancestor, parents)}
    return {pid: title for pid in found if (title := title_of(pid))}


def _is_below(pid: int, ancestor: int, parents: dict[int, int]) -> bool:
    while pid in parents and pid != ancestor:
        pid = parents[pid]
    return pid == ancestor


def title_of(pid: int) -> str:
    """The command line of a process, empty when it is gone or a zombie."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
    except OSError:
        return ""


def actors(kind: str = "", ancestor: int | None = None) -> list[int]:
    """Processes of Ray actors of a class, or of any, below this process if not told otherwise."""
    below = descendants(ancestor or os.getpid())
    return sorted(pid for pid, title in below.items() if re.match(rf"ray::\w*{kind}\w*Actor\b", title))


def alive(pids: dict[int, str]) -> dict[int, str]:
    """Those of these processes that still run."""
    return {pid: title for pid, title in pids.items() if title_of(pid)}


class Command:
    """A program that runs beside the test, with all that it prints."""

    def __init__(self, *arguments: str, cwd: Path, env: dict[str, str] | None = None) -> None:
        self.output = cwd / f"output-{time.monotonic_ns()}"
        self.errors = self.output.with_suffix(".err")
        with self.output.open("wb") as out, self.errors.open("wb") as err:
            self.process = subprocess.Popen(
                [sys.executable, *arguments],
                cwd=cwd,
                env={**os.environ, **(env or {})},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def printed(self) -> str:
        return self.output.read_text()

    @property
    def complained(self) -> str:
        return self.errors.read_text()

    def wait(self, patience_s: float = PATIENCE_S) -> int:
        return self.process.wait(patience_s)

    def to_group(self, number: signal.Signals) -> None:
        """What a terminal does for Ctrl-C."""
        os.killpg(self.pid, number)


@contextmanager
def command(*arguments: str, cwd: Path, env: dict[str, str] | None = None) -> Iterator[Command]:
    """Run Python with these arguments; whatever happens, nothing of it stays."""
    running = Command(*arguments, cwd=cwd, env=env)
    try:
        yield running
    finally:
        below = descendants(running.pid)
        running.process.kill()
        running.process.wait()
        for pid in alive(below):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def bptcnn(*words: str, cwd: Path, env: dict[str, str] | None = None) -> Any:
    """Run the command line."""
    return command("-m", "bptcnn", *words, cwd=cwd, env=env)


def summary_of(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "summary.json").read_text()))


def events_of(folder: Path) -> list[dict[str, Any]]:
    """Whole lines of the journal, while it is being written too."""
    path = folder / "events.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def closed(summary: dict[str, Any], *, epochs: int, num_samples: int = 1437) -> bool:
    """Whether every sample was committed as often as it was due."""
    account = summary["samples"]
    return (
        summary["outcome"] == "finished"
        and (account["lost"], account["duplicated"]) == (0, 0)
        and account["committed"] == epochs * num_samples
    )
