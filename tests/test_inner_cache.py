"""Measured plans between runs: found again by what they depend on, and never a reason to stop."""

from __future__ import annotations

import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bptcnn.inner import cache, kept

PARTS = ("AMD EPYC; 4 cores", "lenet5", (64, 1, 28, 28), "fp32")
PLAN = {"lanes": 4, "tiles": [6, 16], "seconds": 0.25}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of plans, not made yet."""
    monkeypatch.setenv("BPTCNN_CACHE", str(tmp_path / "deep"))
    return tmp_path / "deep" / "plans"


def only_file(home: Path) -> Path:
    (path,) = home.iterdir()
    return path


def test_a_plan_is_found_again(home: Path) -> None:
    assert cache.load(*PARTS) is None
    assert cache.save(PLAN, *PARTS)
    assert cache.load(*PARTS) == PLAN
    assert only_file(home).name == f"{cache.key(*PARTS)}.json"


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize("position", range(len(PARTS)))
def test_whatever_it_depends_on_makes_another_plan(position: int) -> None:
    cache.save(PLAN, *PARTS)
    others = [part if index != position else "other" for index, part in enumerate(PARTS)]
    assert cache.load(*others) is None
    assert cache.load(*PARTS[:position], *PARTS[position + 1 :]) is None


@pytest.mark.usefixtures("home")
def test_a_later_plan_replaces_an_earlier_one(home: Path) -> None:
    assert cache.save(PLAN, *PARTS)
    assert cache.save({"lanes": 2}, *PARTS)
    assert cache.load(*PARTS) == {"lanes": 2}
    assert only_file(home).suffix == ".json"


def test_the_file_says_what_the_plan_depends_on(home: Path) -> None:
    cache.save(PLAN, *PARTS)
    assert json.loads(only_file(home).read_text())["parts"] == ["AMD EPYC; 4 cores", "lenet5", [64, 1, 28, 28], "fp32"]


PART = st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda part: st.lists(part), max_leaves=5)


@given(first=st.lists(PART), second=st.lists(PART))
def test_parts_run_into_one_another_nowhere(first: list[Any], second: list[Any]) -> None:
    assert (cache.key(*first) == cache.key(*second)) == (json.dumps(first) == json.dumps(second))


def test_a_key_is_the_same_in_every_process_and_for_tuples_and_lists() -> None:
    assert cache.key("a", (1, 2)) == cache.key("a", [1, 2])
    assert cache.key() == "4f53cda18c2baa0c0354bb5f9a3ecbe5ed12ab4d8e11ba873c2f11161202b945"  # sha256 of []
    assert cache.key("a", "b") != cache.key("ab")


# ------------------------------------------------------------------------------------------------ damage


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff\xfe\x00",
        b"null",
        b"[]",
        b"{}",
        b'{"format": 1}',
        b'{"format": 1, "plan": [1]}',
        b'{"format": 2, "plan": {}}',
        b'{"format": "1", "plan": {}}',
        b'{"plan": {}}',
        b"[" * 100_000,
    ],
)
def test_a_damaged_file_counts_as_absent_and_is_replaced(home: Path, content: bytes) -> None:
    cache.save(PLAN, *PARTS)
    only_file(home).write_bytes(content)
    assert cache.load(*PARTS) is None
    assert cache.save(PLAN, *PARTS)
    assert cache.load(*PARTS) == PLAN


def test_every_truncated_file_counts_as_absent(home: Path) -> None:
    cache.save(PLAN, *PARTS)
    whole = only_file(home).read_bytes()
    for length in range(len(whole)):
        only_file(home).write_bytes(whole[:length])
        assert cache.load(*PARTS) is None


def test_a_folder_in_place_of_a_file_counts_as_absent(home: Path) -> None:
    (home / f"{cache.key(*PARTS)}.json").mkdir(parents=True)
    assert cache.load(*PARTS) is None
    assert not cache.save(PLAN, *PARTS)
    assert only_file(home).is_dir()


# ------------------------------------------------------------------------------------------------ a home that refuses


def test_a_file_in_place_of_the_folder_stops_nobody(home: Path) -> None:
    home.parent.mkdir()
    home.touch()  # what is asked for lies below a file
    assert not cache.save(PLAN, *PARTS)
    assert cache.load(*PARTS) is None


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_stops_nobody(home: Path) -> None:
    cache.save(PLAN, *PARTS)
    home.chmod(0o500)
    try:
        assert not cache.save({"lanes": 2}, *PARTS)
        assert cache.load(*PARTS) == PLAN
    finally:
        home.chmod(0o700)


@pytest.mark.parametrize("failing", ["mkdir", "replace", "write"])
def test_a_full_or_read_only_disk_stops_nobody_and_keeps_the_earlier_plan(
    home: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    cache.save(PLAN, *PARTS)

    def fail(*anything: Any, **more: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        if failing == "write":
            patch.setattr(kept.tempfile, "mkstemp", fail)
        else:
            patch.setattr(Path, failing, fail)
        assert not cache.save({"lanes": 2}, *PARTS)
    assert cache.load(*PARTS) == PLAN
    assert only_file(home).suffix == ".json"


def test_a_disk_that_fills_up_midway_leaves_nothing_behind(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache.save(PLAN, *PARTS)
    if not Path("/dev/full").exists():
        pytest.skip("needs a device that is always full")
    opened = os.fdopen
    with monkeypatch.context() as patch:

        def full(number: int, *options: Any, **more: Any) -> Any:
            os.close(number)
            return opened(os.open("/dev/full", os.O_WRONLY), *options, **more)

        patch.setattr(os, "fdopen", full)
        assert not cache.save({"lanes": 2}, *PARTS)
    assert cache.load(*PARTS) == PLAN
    assert only_file(home).suffix == ".json"


def test_many_writers_leave_one_whole_plan(home: Path) -> None:
    def write_and_read(number: int) -> dict[str, Any] | None:
        cache.save({"lanes": number, "filling": "x" * 10_000}, *PARTS)
        return cache.load(*PARTS)

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(write_and_read, range(64)))
    assert all(plan is not None and len(plan["filling"]) == 10_000 for plan in found)
    assert only_file(home).suffix == ".json"


# ------------------------------------------------------------------------------------------------ where


def test_an_empty_variable_switches_caching_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("BPTCNN_CACHE", "")
    assert kept.folder("plans") is None
    assert not cache.save(PLAN, *PARTS)
    assert cache.load(*PARTS) is None
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("ours", "theirs", "expected"),
    [
        (None, None, "~/.cache/bptcnn/plans"),
        (None, "", "~/.cache/bptcnn/plans"),
        (None, "relative/is/ignored", "~/.cache/bptcnn/plans"),
        (None, "/caches", "/caches/bptcnn/plans"),
        ("/ours", "/caches", "/ours/plans"),
        ("~/ours", None, "~/ours/plans"),
    ],
)
def test_the_folder_is_ours_or_the_users_caches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ours: str | None, theirs: str | None, expected: str
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name, value in [("BPTCNN_CACHE", ours), ("XDG_CACHE_HOME", theirs)]:
        monkeypatch.delenv(name, raising=False)
        if value is not None:
            monkeypatch.setenv(name, value)
    assert kept.folder("plans") == Path(expected.replace("~", str(tmp_path)))


def test_without_a_home_nothing_is_cached(monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("BPTCNN_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    assert kept.folder("plans") is None
    assert not cache.save(PLAN, *PARTS)
