"""Run folders: one writer at a time, no run overwritten, nothing left behind by a failed start."""

from __future__ import annotations

import fcntl
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bptcnn.errors import RunFolderError
from bptcnn.folder import RunFolder

CONFIG = "epochs = 3\n"


def tree(folder: Path) -> list[str]:
    return sorted(str(entry.relative_to(folder)) for entry in folder.rglob("*"))


@pytest.fixture
def earlier(tmp_path: Path) -> Path:
    """A run that was stopped after it had written an event."""
    with RunFolder.create(tmp_path / "run", CONFIG) as run:
        run.events_path.write_text("{}\n")
    return tmp_path / "run"


def test_a_new_run_gets_its_folder_and_its_parents(tmp_path: Path) -> None:
    with RunFolder.create(tmp_path / "runs" / "digits", CONFIG) as run:
        assert run.path == tmp_path / "runs" / "digits"
        assert run.config_path.read_text() == CONFIG
        assert (run.path / "run.lock").read_text() == f"{os.getpid()}\n"
        assert not run.finished
        assert run.read_summary() is None
        assert tree(run.path) == ["config.toml", "run.lock"]
    names = [run.events_path, run.summary_path, run.model_path, run.checkpoints_path, run.tensorboard_path]
    assert [str(name.relative_to(run.path)) for name in [*names, run.timelines_path]] == [
        "events.jsonl",
        "summary.json",
        "model.safetensors",
        "checkpoints",
        "tensorboard",
        "timelines",
    ]


def test_an_empty_folder_will_do(tmp_path: Path) -> None:
    RunFolder.create(str(tmp_path), CONFIG).close()
    assert RunFolder.open(str(tmp_path)).config_path.read_text() == CONFIG


def test_an_unfinished_run_is_resumed_not_restarted(earlier: Path) -> None:
    with pytest.raises(RunFolderError, match=f"continue it with --resume {earlier}"):
        RunFolder.create(earlier, CONFIG)
    with RunFolder.open(earlier) as run:
        assert run.events_path.read_text() == "{}\n"


def test_a_finished_run_is_not_overwritten(earlier: Path) -> None:
    with RunFolder.open(earlier) as run:
        run.write_summary({"outcome": "finished"})
        assert run.finished
    with pytest.raises(RunFolderError, match="holds a finished run: choose another --out or delete it"):
        RunFolder.create(earlier, CONFIG)


@pytest.mark.parametrize("text", ["epochs = 4\n", CONFIG + "\n", ""])
def test_a_run_of_another_configuration_is_left_alone(earlier: Path, text: str) -> None:
    with pytest.raises(RunFolderError, match="belongs to another configuration: choose another --out or delete it"):
        RunFolder.create(earlier, text)
    assert (earlier / "config.toml").read_text() == CONFIG


def test_a_refused_run_stays_as_it_was_even_if_it_only_just_began(tmp_path: Path) -> None:
    RunFolder.create(tmp_path / "run", CONFIG).close()
    with pytest.raises(RunFolderError, match="--resume"):
        RunFolder.create(tmp_path / "run", CONFIG)
    assert tree(tmp_path / "run") == ["config.toml", "run.lock"]


def test_a_folder_with_other_things_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(RunFolderError, match=r"holds 'thesis.tex' and is not a run: choose another --out"):
        RunFolder.create(tmp_path, CONFIG)
    assert tree(tmp_path) == ["thesis.tex"]


def test_what_a_killed_start_left_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / "run.lock").write_text("12\n")
    (tmp_path / "config.toml.part").write_text("epo")
    RunFolder.create(tmp_path, CONFIG).close()
    assert tree(tmp_path) == ["config.toml", "run.lock"]


def test_only_a_run_can_be_resumed_or_inspected(tmp_path: Path) -> None:
    for look in (RunFolder.open, RunFolder.peek):
        with pytest.raises(RunFolderError, match=r"is not a run \(it does not exist\): name the folder"):
            look(tmp_path / "absent")
        with pytest.raises(RunFolderError, match=r"is not a run \(it has no config.toml\): name the folder"):
            look(tmp_path)
    assert tree(tmp_path) == []


def test_one_process_at_a_time(earlier: Path) -> None:
    first = RunFolder.open(earlier)
    for another in (lambda: RunFolder.open(earlier), lambda: RunFolder.create(earlier, CONFIG)):
        with pytest.raises(RunFolderError, match=f"is in use by process {os.getpid()}: wait for its end"):
            another()
    assert not RunFolder.peek(earlier).finished
    first.close()
    first.close()
    RunFolder.open(earlier).close()


def test_a_killed_process_gives_the_folder_back(earlier: Path) -> None:
    code = (
        "import os, sys\n"
        "from bptcnn.folder import RunFolder\n"
        "run = RunFolder.open(sys.argv[1])\n"
        "print(os.getpid(), flush=True)\n"
        "sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(earlier)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        pid = int(other.stdout.readline())
        with pytest.raises(RunFolderError, match=f"in use by process {pid}"):
            RunFolder.open(earlier)
        other.kill()
        other.wait()
    RunFolder.open(earlier).close()


def test_a_forked_child_does_not_keep_the_lock(earlier: Path) -> None:
    run = RunFolder.open(earlier)
    copy = os.dup(run._lock.fileno())  # type: ignore[union-attr]
    run.close()
    RunFolder.open(earlier).close()
    os.close(copy)


def test_sessions_count_on(earlier: Path) -> None:
    for expected in (1, 2, 3):
        with RunFolder.open(earlier) as run:
            assert run.next_session() == expected
    (earlier / "session").write_text("")
    with RunFolder.open(earlier) as run, pytest.raises(RunFolderError, match="session' is damaged: write the number"):
        run.next_session()


def test_a_summary_is_strict_json_for_people(earlier: Path) -> None:
    with RunFolder.open(earlier) as run:
        run.write_summary({"outcome": "diverged", "loss": math.nan, "workers": [{"speed": math.inf}]})
        assert run.summary_path.read_text().startswith('{\n  "outcome": "diverged",\n')
        assert run.read_summary() == {"outcome": "diverged", "loss": None, "workers": [{"speed": None}]}
        assert not run.finished
        assert not list(earlier.glob("*.part"))


@pytest.mark.parametrize("text", ["", "{", "[]", "\x00"])
def test_a_damaged_summary_is_named(earlier: Path, text: str) -> None:
    (earlier / "summary.json").write_text(text)
    with pytest.raises(RunFolderError, match=r"summary.json' is damaged: delete it"):
        RunFolder.peek(earlier).read_summary()


def test_a_reader_writes_nothing(earlier: Path) -> None:
    reader = RunFolder.peek(earlier)
    with pytest.raises(AssertionError):
        reader.write_summary({})
    reader.discard()
    assert tree(earlier) == ["config.toml", "events.jsonl", "run.lock"]


def test_a_failed_start_leaves_nothing_behind(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "runs" / "deep" / "digits", CONFIG)
    run.next_session()
    run.events_path.touch()
    run.tensorboard_path.mkdir()
    (run.tensorboard_path / "events").write_text("only a header")
    run.discard()
    assert tree(tmp_path) == []


def test_discarding_keeps_what_is_not_ours(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "runs" / "one", CONFIG)
    (tmp_path / "runs" / "two").mkdir()
    run.discard()
    assert tree(tmp_path) == ["runs", "runs/two"]
    (tmp_path / "empty").mkdir()
    RunFolder.create(tmp_path / "empty", CONFIG).discard()
    assert tree(tmp_path) == ["empty", "runs", "runs/two"]


def test_discarding_keeps_a_run_that_began(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "run", CONFIG)
    run.events_path.write_text('{"t": 0.0}\n')
    run.discard()
    assert tree(tmp_path) == ["run", "run/config.toml", "run/events.jsonl", "run/run.lock"]
    RunFolder.open(tmp_path / "run").discard()
    assert RunFolder.peek(tmp_path / "run").config_path.read_text() == CONFIG


@pytest.mark.parametrize("name", ["notes.txt", "model.safetensors", "checkpoints"])
def test_discarding_keeps_anything_of_worth(tmp_path: Path, name: str) -> None:
    run = RunFolder.create(tmp_path / "run", CONFIG)
    (run.path / name).touch()
    run.discard()
    assert tree(run.path) == sorted(["config.toml", "run.lock", name])


def test_a_start_on_a_full_disk_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunFolderError, match=r"can't be used \(No space left on device\): make room"):
        RunFolder.create(tmp_path / "run", CONFIG)
    assert tree(tmp_path) == []


def test_a_file_system_without_locks_is_a_users_error(earlier: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unsupported(file: object, operation: int) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", unsupported)
    with pytest.raises(RunFolderError, match=r"can't be used \(Operation not supported\)"):
        RunFolder.open(earlier)


def test_a_path_that_is_a_file_is_a_users_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RunFolderError, match=r"file' is a file: name a folder"):
        RunFolder.create(tmp_path / "file", CONFIG)
    with pytest.raises(RunFolderError, match=r"can't be used \(Not a directory\)"):
        RunFolder.create(tmp_path / "file" / "run", CONFIG)
