"""A contender's process: sets up, warms up, then sleeps until it is asked for one timed repeat at a time.

Started by ``benchmarks/inner.py`` with the number of a pipe's descriptor.
"""

from __future__ import annotations

import os
import re
import resource
import sys
import time
from importlib import import_module
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Protocol, cast

from inner_peers.case import CannotRunError, Ready, Setup, Skipped, Turn

NUM_LOSSES = 3
"""First steps whose losses are told."""


class Runner(Protocol):
    """A contender that is set up."""

    version: str

    def run(self, num_steps: int) -> float:
        """Do so many steps, to their end; the loss of the last."""
        ...


def main(descriptor: int) -> None:
    """Obey the pipe until it ends."""
    pipe: Connection = Connection(descriptor)
    setup: Setup = pipe.recv()
    os.sched_setaffinity(0, setup.cores)  # before the frameworks count their threads
    try:
        runner = make(setup)
        losses = [runner.run(1) for _ in range(NUM_LOSSES)]
        num_steps = warm_up(runner, setup.seconds)
    except (ImportError, CannotRunError) as error:
        pipe.send(Skipped(str(error)))
        return
    except Exception as error:
        pipe.send(Skipped(f"failed with {type(error).__name__}: {error}".splitlines()[0]))
        raise
    pipe.send(Ready(runner.version, losses, num_steps))
    asleep_s, idle_cpu_s = time.perf_counter(), time.process_time()
    while (disturber := pipe.recv()) is not None:
        # A nap too short to tell is taken for a longer one.
        idle_cores = (time.process_time() - idle_cpu_s) / max(0.1, time.perf_counter() - asleep_s)
        done = timed(runner, num_steps, idle_cores, disturber)
        asleep_s, idle_cpu_s = time.perf_counter(), time.process_time()
        pipe.send(done)


def make(setup: Setup) -> Runner:
    """Import the contender's framework, and set it up."""
    framework = setup.contender.split()[0]
    own_module = framework in ("tensorflow", "jax", "machine")
    module = import_module(f"inner_peers.with_{framework if own_module else 'torch'}")
    return cast(Runner, module.Runner(setup))


def warm_up(runner: Runner, seconds: float) -> int:
    """Run for about as long as a timed repeat; the number of steps that fill one."""
    num_steps = 1
    while True:
        began_s = time.perf_counter()
        runner.run(num_steps)
        took_s = time.perf_counter() - began_s
        if took_s > seconds / 2:
            return max(1, round(num_steps * seconds / took_s))
        num_steps *= 2


def timed(runner: Runner, num_steps: int, idle_cores: float, disturber: int) -> Turn:
    """One repeat, after a step that brings what it needs back into the caches."""
    runner.run(1)
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    began_s, lost_s = time.perf_counter(), cpu_seconds(disturber)
    loss = runner.run(num_steps)
    seconds, lost_s = time.perf_counter() - began_s, cpu_seconds(disturber) - lost_s
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults
    return Turn(seconds, num_steps, faults, peak_bytes(), loss, idle_cores, lost_s / seconds)


def cpu_seconds(process: int) -> float:
    """That a process has had; 0 is none."""
    return int(Path(f"/proc/{process}/schedstat").read_text().split()[0]) * 1e-9 if process else 0.0


def peak_bytes() -> int:
    """Most memory that this process ever held; ru_maxrss would begin with that of the process that started it."""
    found = re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) * 1024


if __name__ == "__main__":
    try:
        main(int(sys.argv[1]))
    except (EOFError, KeyboardInterrupt):  # the benchmark has ended, or was ended
        sys.exit(1)
