"""The allocator keeps what it is given back, where it can be told to."""

from __future__ import annotations

import ctypes
import json
import os
import platform
import resource
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bptcnn.inner.machine import memory
from bptcnn.inner.machine.memory import keep_memory, peak_bytes

ON_GLIBC = sys.platform == "linux" and platform.libc_ver()[0] == "glibc"
STEPS = """
import json, sys, threading, torch
from bptcnn.inner.machine.memory import keep_memory, minor_faults

torch.set_num_threads(1)
took_effect = [keep_memory() for _ in range(int(sys.argv[1]))]

def steps(count):
    before = minor_faults()
    for _ in range(count):
        torch.ones(40 << 18)  # 40 MiB of float32
    return minor_faults() - before

faults = []
work = lambda: faults.extend([steps(20), steps(100)])  # the first of them settle the allocator
if sys.argv[2] == "main":
    work()
else:
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
print(json.dumps([took_effect, *faults]))
"""


GROWTH = """
import json
from bptcnn.inner.machine.memory import minor_faults, peak_bytes

before = minor_faults(), peak_bytes()
block = bytearray(b"x") * (512 << 20)
held = minor_faults(), peak_bytes()
del block
print(json.dumps([before, held, (minor_faults(), peak_bytes())]))
"""


def printed_by(program: str, *arguments: str) -> Any:
    """What a fresh process prints; with the allocator as it comes."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC", "GLIBC", "LD_"))}
    command = [sys.executable, "-c", program, *arguments]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True, env=environ).stdout)


def faults_of_100_steps(*, calls: int, thread: str = "main") -> int:
    """Page faults of as many blocks of 40 MiB, allocated and freed one after the other by a fresh process."""
    took_effect, _, faults = printed_by(STEPS, str(calls), thread)
    assert took_effect == [True] * calls
    return int(faults)


@pytest.mark.real
@pytest.mark.skipif(not ON_GLIBC, reason="only glibc can be told to keep memory")
def test_kept_memory_is_not_faulted_in_again() -> None:
    without = faults_of_100_steps(calls=0)
    for kept in (faults_of_100_steps(calls=2), faults_of_100_steps(calls=1, thread="other")):
        assert kept < without / 10


class FakeC:
    """A C library that takes some settings and refuses one."""

    def __init__(self, refused: int | None = None) -> None:
        self.taken: dict[int, int] = {}
        self.refused = refused

    def mallopt(self, parameter: int, value: int) -> int:
        if parameter == self.refused:
            return 0
        self.taken[parameter] = value
        return 1


@pytest.fixture
def linux(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "linux")


@pytest.mark.usefixtures("linux")
def test_three_settings_work_together(monkeypatch: pytest.MonkeyPatch) -> None:
    library = FakeC()
    monkeypatch.setattr(ctypes, "CDLL", lambda name: library)
    assert keep_memory()
    assert keep_memory()
    assert library.taken == {-4: 0, -1: 2**31 - 4097, -2: 64 << 20}


@pytest.mark.usefixtures("linux")
def test_without_the_first_setting_the_others_which_would_harm_are_left() -> None:
    for refused, taken in [(-4, set()), (-1, {-4}), (-2, {-4, -1})]:
        library = FakeC(refused)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(ctypes, "CDLL", lambda name, library=library: library)
            assert not keep_memory()
        assert set(library.taken) == taken


@pytest.mark.usefixtures("linux")
def test_a_c_library_without_such_settings_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: SimpleNamespace())
    assert not keep_memory()

    def static(name: None) -> None:
        raise OSError("dynamic loading not supported")

    monkeypatch.setattr(ctypes, "CDLL", static)
    assert not keep_memory()


def test_other_systems_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(ctypes, "CDLL", None)  # calling it would fail
    assert not keep_memory()


@pytest.mark.real
def test_faults_and_the_peak_grow_with_memory_that_is_touched_and_stay_when_it_is_freed() -> None:
    (faults, peak), (faults_held, peak_held), (faults_freed, peak_freed) = printed_by(GROWTH)
    assert faults < faults_held <= faults_freed
    assert 0.9 * (512 << 20) < peak_held - peak < 1.1 * (512 << 20)
    assert peak_freed == pytest.approx(peak_held, rel=0.01)


@pytest.mark.parametrize(("system", "expected"), [("linux", 5000 << 10), ("darwin", 5000)])
@pytest.mark.parametrize("content", [None, "VmRSS:\t1 kB\n"])
def test_without_the_kernels_own_word_the_peak_is_that_of_getrusage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, system: str, expected: int, content: str | None
) -> None:
    status = tmp_path / "status"
    if content is not None:
        status.write_text(content)
    monkeypatch.setattr(memory, "_STATUS", status)
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr(resource, "getrusage", lambda who: SimpleNamespace(ru_maxrss=5000))
    assert peak_bytes() == expected


def test_the_peak_is_this_programs_own_and_not_that_of_who_started_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    status = tmp_path / "status"
    status.write_text("Name:\tpython\nVmPeak:\t   99999 kB\nVmHWM:\t    2276 kB\nVmRSS:\t    1000 kB\n")
    monkeypatch.setattr(memory, "_STATUS", status)
    assert peak_bytes() == 2276 << 10
