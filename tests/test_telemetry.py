"""Logs: what is written is read back, and a kill at any byte loses no more than the last line."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader

from bptcnn.errors import RunFolderError
from bptcnn.telemetry import EventLog, TensorBoardLog, read


def test_events_come_back_in_order(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    with EventLog(path) as log:
        log.write(0.0, "joined", worker=0)
        log.write(1.23456789, "pushed", worker=0, size=32)
    assert path.read_text() == (
        '{"t": 0.0, "event": "joined", "worker": 0}\n{"t": 1.234568, "event": "pushed", "worker": 0, "size": 32}\n'
    )
    assert [event["event"] for event in read(path)] == ["joined", "pushed"]


def test_numpy_and_what_is_no_number_become_plain_json(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    with EventLog(path) as log:
        log.write(np.float64(2.5), "evaluated", accuracy=np.float32(0.5), count=np.int64(3), ok=np.bool_(True))
        log.write(3, "diverged", loss=math.nan, speeds=[1.0, math.inf], by={"worker": np.float32("-inf")})
        log.write(4, "dealt", shares=np.array([0.25, 0.75]))
    assert list(read(path)) == [
        {"t": 2.5, "event": "evaluated", "accuracy": 0.5, "count": 3, "ok": True},
        {"t": 3.0, "event": "diverged", "loss": None, "speeds": [1.0, None], "by": {"worker": None}},
        {"t": 4.0, "event": "dealt", "shares": [0.25, 0.75]},
    ]
    assert "NaN" not in path.read_text()


def test_the_log_reaches_the_disk_about_once_a_second_of_its_own_time(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"

    def on_disk() -> int:
        return len(list(read(path)))

    log = EventLog(path)
    log.write(10.0, "first")
    assert on_disk() == 1
    log.write(10.1, "second")
    log.write(10.9, "third")
    assert on_disk() == 1
    log.write(11.0, "fourth")
    assert on_disk() == 4
    log.write(11.1, "fifth")
    log.flush()
    assert on_disk() == 5
    log.write(11.2, "sixth")
    log.close()
    log.close()
    assert on_disk() == 6


@settings(max_examples=40, deadline=None)
@given(data=st.data(), sizes=st.lists(st.integers(0, 200), min_size=1, max_size=5))
def test_a_kill_at_any_byte_loses_only_the_unfinished_line(data: st.DataObject, sizes: list[int]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "events.jsonl"
        with EventLog(path) as log:
            for number, size in enumerate(sizes):
                log.write(number, "pushed", text="x" * size)
        content = path.read_bytes()
        cut = data.draw(st.integers(0, len(content)))
        path.write_bytes(content[:cut])
        whole = content[:cut].count(b"\n")
        assert len(list(read(path))) == whole
        with EventLog(path) as log:
            log.write(9, "resumed")
        events = list(read(path))
        assert [event["t"] for event in events] == [*map(float, range(whole)), 9.0]


def test_a_torn_line_longer_than_one_look_back_is_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_bytes(b'{"t": 0.0, "event": "joined"}\n' + b"x" * 200_000)
    EventLog(path).close()
    assert path.read_bytes() == b'{"t": 0.0, "event": "joined"}\n'


def test_a_damaged_line_inside_is_named(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_text('{"t": 0}\n{"t": \n{"t": 2}\n')
    with pytest.raises(RunFolderError, match=r"line 2 of event log .* is damaged: delete that line"):
        list(read(path))


def test_a_log_that_cannot_be_opened_is_a_users_error(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="No such file"):
        list(read(tmp_path / "absent.jsonl"))
    with pytest.raises(RunFolderError, match="Is a directory"):
        EventLog(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(RunFolderError, match="cannot open"):
        TensorBoardLog(tmp_path / "file", 0.0)


def test_a_field_that_hides_the_time_is_our_own_mistake(tmp_path: Path) -> None:
    with EventLog(tmp_path / "events.jsonl") as log, pytest.raises(AssertionError):
        log.write(0, "pushed", t=3)
    with EventLog(tmp_path / "events.jsonl") as log, pytest.raises(AssertionError):
        log.write(0, "pushed", what=object())


def curve(folder: Path, tag: str) -> list[tuple[float, int, float]]:
    accumulator = EventAccumulator(str(folder))
    accumulator.Reload()
    return [(event.wall_time, event.step, event.value) for event in accumulator.Scalars(tag)]


def test_tensorboard_reads_the_scalars_with_our_time(tmp_path: Path) -> None:
    with TensorBoardLog(tmp_path / "board", start_s=1000.0) as log:
        log.scalar("test/accuracy", 0.25, 1, 0.5)
        log.scalar("test/accuracy", np.float32(0.75), np.int64(2), 2.0)
        log.scalar("train/loss", math.nan, 1, 2.0)
    assert curve(tmp_path / "board", "test/accuracy") == [(1000.5, 1, 0.25), (1002.0, 2, 0.75)]
    assert math.isnan(curve(tmp_path / "board", "train/loss")[0][2])


def test_each_session_adds_a_file_and_tensorboard_joins_them(tmp_path: Path) -> None:
    for session in range(2):
        with TensorBoardLog(tmp_path, start_s=1000.0) as log:
            log.scalar("loss", float(session), session, float(session))
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "events.out.tfevents.000000.bptcnn",
        "events.out.tfevents.000001.bptcnn",
    ]
    assert curve(tmp_path, "loss") == [(1000.0, 0, 0.0), (1001.0, 1, 1.0)]


def test_tensorboard_can_follow_a_run_while_it_trains(tmp_path: Path) -> None:
    log = TensorBoardLog(tmp_path, start_s=0.0)
    log.scalar("loss", 1.0, 1, 0.0)
    file = next(tmp_path.iterdir())
    assert len(list(RawEventFileLoader(str(file)).Load())) == 2
    log.scalar("loss", 1.0, 2, 0.5)
    assert len(list(RawEventFileLoader(str(file)).Load())) == 2
    log.flush()
    assert len(list(RawEventFileLoader(str(file)).Load())) == 3
    log.close()


def test_two_equal_runs_write_equal_bytes(tmp_path: Path) -> None:
    def write(folder: Path) -> list[Any]:
        folder.mkdir()
        with EventLog(folder / "events.jsonl") as events, TensorBoardLog(folder, 5.0) as board:
            for step in range(3):
                events.write(step / 3, "pushed", step=step)
                board.scalar("loss", 1 / (1 + step), step, step / 3)
        return [(file.name, file.read_bytes()) for file in sorted(folder.iterdir())]

    assert write(tmp_path / "a") == write(tmp_path / "b")


def test_logging_imports_neither_torch_nor_tensorflow_and_says_nothing(tmp_path: Path) -> None:
    code = (
        "import sys, json, pathlib\n"
        "from bptcnn.telemetry import TensorBoardLog\n"
        "early = 'tensorboard' in sys.modules\n"
        "TensorBoardLog(pathlib.Path(sys.argv[1]), 0.0).close()\n"
        "print(json.dumps([early, [name for name in ('torch', 'tensorflow') if name in sys.modules]]))\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == [False, []]
    assert done.stderr == ""
