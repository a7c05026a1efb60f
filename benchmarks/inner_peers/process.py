"""The benchmark's end of its contenders' processes, and a process that gets in their way."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from multiprocessing import Pipe
from pathlib import Path

from inner_peers.case import Case, Ready, Setup, Skipped, Turn

GRACE_S = 5
"""For a process to end by itself."""

CALM_S = 0.1
"""Before a turn: OpenMP's threads keep their cores busy for some 20 ms after their work, lest more comes."""


class Contender:
    """A contender in a process of its own, set up and warm, or ``skipped``.

    Args:
        setup: what it does.

    Attributes:
        ready: what it told, or why it does not take part.
    """

    ready: Ready | Skipped

    def __init__(self, setup: Setup) -> None:
        self._pipe, far_end = Pipe()
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process
        path = [str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "inner_peers.child", str(far_end.fileno())],
            pass_fds=[far_end.fileno()],
            env=os.environ | {"PYTHONPATH": os.pathsep.join(path)},
            stdout=self._log,
            stderr=self._log,
        )
        far_end.close()
        try:
            self._pipe.send(setup)
            self.ready = self._pipe.recv()
        except (EOFError, OSError):
            self.ready = Skipped(f"died with {self._last_words()}")

    def turn(self, disturber: int = 0) -> Turn:
        """Have it do one timed repeat; 0, or the process that is in its way."""
        time.sleep(CALM_S)
        self.begin(disturber)
        return self.end()

    def begin(self, disturber: int = 0) -> None:
        """Have it begin a timed repeat."""
        self._pipe.send(disturber)

    def end(self) -> Turn:
        """Of the repeat that it began."""
        try:
            turn = self._pipe.recv()
        except (EOFError, OSError) as error:
            raise RuntimeError(f"a contender died with {self._last_words()}") from error
        assert isinstance(turn, Turn)
        return turn

    def close(self) -> None:
        """End its process."""
        self._pipe.close()
        try:
            self._process.wait(GRACE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()

    def _last_words(self) -> str:
        code = self._process.wait()
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").strip().splitlines()
        return f"exit status {code}" + (f": {lines[-1]}" if lines else "")


class Machine:
    """A process a core, to see what cores reach when all are at work.

    Args:
        stack: closes the processes.
        case: the precision counts.
        task: of ``peak.TASKS``.
        seconds: that a repeat takes, about.
    """

    def __init__(self, stack: ExitStack, case: Case, task: str, seconds: float) -> None:
        self._probes: dict[int, Contender] = {}
        for core in cores():
            probe = Contender(Setup(f"machine {task}", case, (core,), seconds, None))
            stack.callback(probe.close)
            if isinstance(probe.ready, Skipped):
                raise RuntimeError(f"the machine's own rate cannot be measured: {probe.ready.reason}")
            self._probes[core] = probe

    def capacity(self, cores: Sequence[int]) -> float:
        """GFLOP/s of these cores together, now."""
        time.sleep(CALM_S)
        for core in cores:
            self._probes[core].begin()
        turns = [self._probes[core].end() for core in cores]
        return sum(1e-9 * turn.loss / turn.seconds for turn in turns)


@contextmanager
def disturbance(core: int) -> Iterator[int]:
    """Keep a core busy meanwhile, as another user's process does; its number."""
    loop = f"import os\nwhile os.getppid() == {os.getpid()}:\n for _ in range(10**6): pass"
    process = subprocess.Popen([sys.executable, "-c", loop])
    os.sched_setaffinity(process.pid, [core])
    try:
        time.sleep(0.2)  # until it runs
        yield process.pid
    finally:
        process.kill()
        process.wait()


def cores() -> Sequence[int]:
    """That this process may use."""
    return sorted(os.sched_getaffinity(0))
