"""The journal: what happened and what was ordered, line by line, and the run played again from it."""

from __future__ import annotations

import copy
import json
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from jobs import PAIRS, Blank, Clouds, a_config, linear
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from bptcnn import telemetry
from bptcnn.api import simulate
from bptcnn.config import RunConfig
from bptcnn.data import wrap
from bptcnn.engine.job import prepare
from bptcnn.engine.journal import POINTS, Journal, name_of, plain
from bptcnn.engine.replay import replay
from bptcnn.engine.server import Server
from bptcnn.errors import RunFolderError
from bptcnn.outer.coordination import begin, restore
from bptcnn.outer.coordinator import Setup
from bptcnn.outer.messages import Evaluate, Lease, Pushed, SaveCheckpoint, Send, WorkerJoined

LEASE = Lease(4, 1, 1, 2, 1, np.array([5, 3, 8]), (0.25, 0.5))
ONES = np.ones(3, np.float32)


def a_setup(config: RunConfig, train: Any) -> Setup:
    return prepare(config, linear, wrap(train, train)).setup(num_weights=1, session=0)


def train_two_leases(server: Server, start_s: float) -> None:
    """One worker joins and pushes the two leases that it is given first."""
    [sent] = (command for command in server.handle(WorkerJoined(0, 100.0), start_s) if isinstance(command, Send))
    for number, lease in enumerate(sent.leases, start=1):
        push = Pushed(0, sent.incarnation, number, lease.id, sent.version, 1, lease.size, 0.1, 1.0, 0.5, None)
        server.handle(push, start_s + 0.1 * number)


def lines(path: Path) -> list[dict[str, Any]]:
    return list(telemetry.read(path))


# ----------------------------------------------------------------------------------------- single lines


def test_messages_are_written_without_their_vectors() -> None:
    pushed = Pushed(1, 2, 3, 4, 5, 6, 7, 0.5, 0.25, 0.75, ONES)
    assert plain(pushed) == {
        **{"worker": 1, "incarnation": 2, "sequence": 3, "lease": 4, "base_version": 5, "steps": 6, "samples": 7},
        **{"busy_s": 0.5, "loss": 0.25, "accuracy": 0.75},
    }
    assert plain(Evaluate(1, 200, 0.5, ONES)) == {"version": 1, "committed": 200, "at_s": 0.5}


def test_leases_are_written_by_number_and_checksum() -> None:
    checksum = zlib.crc32(np.array([5, 3, 8], np.int64).tobytes())
    assert plain(Send(1, 1, 7, ONES, (LEASE,)))["leases"] == [{"id": 4, "epoch": 2, "samples": 3, "crc32": checksum}]


def test_kinds_are_named_in_snake_case() -> None:
    assert [name_of(kind) for kind in (WorkerJoined, Pushed, SaveCheckpoint)] == [
        "worker_joined",
        "pushed",
        "save_checkpoint",
    ]


def test_a_push_is_written_with_the_size_of_its_lease(tmp_path: Path) -> None:
    with Journal(tmp_path / "events.jsonl", tmp_path / "board", start_s=0.0) as journal:
        journal.session(0, 0.0, None, "virtual")
        journal.session(1, 0.5, tmp_path / "000007", "ray")
        journal.event(WorkerJoined(1, 100.0), 0.5)
        journal.command(Send(1, 1, 0, ONES, (LEASE,)), 0.5)
        journal.event(Pushed(1, 1, 1, 4, 0, 2, 8, 0.5, float("nan"), 0.75, ONES), 1.25)
    first, second, joined, sent, pushed = lines(tmp_path / "events.jsonl")
    assert first == {"t": 0.0, "event": "session_started", "session": 0, "checkpoint": None, "engine": "virtual"}
    assert second == {"t": 0.5, "event": "session_started", "session": 1, "checkpoint": "000007", "engine": "ray"}
    assert joined == {"t": 0.5, "event": "worker_joined", "worker": 1, "samples_per_s": 100.0}
    assert (sent["event"], sent["t"], sent["version"]) == ("send", 0.5, 0)
    assert (pushed["event"], pushed["t"], pushed["samples"], pushed["loss"]) == ("pushed", 1.25, 8, None)


def test_the_journal_on_disk_is_never_behind_a_checkpoint(tmp_path: Path) -> None:
    seen: list[tuple[str, int]] = []

    def save(tree: dict[str, Any]) -> None:
        last = lines(events)[-1]
        seen.append((last["event"], last["version"]))
        assert tree["model"]["version"] == last["version"]

    config = a_config(speeds=(100.0,), checkpoint={"every_s": 0.001})
    events = tmp_path / "events.jsonl"
    with Journal(events, tmp_path / "board", start_s=0.0) as journal:
        train_two_leases(Server(begin(a_setup(config, Blank(100)), None), journal, save), 0.0)
    assert seen == [("save_checkpoint", version) for version in (0, 1, 2)]


def curve(folder: Path) -> list[tuple[int, float]]:
    board = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    board.Reload()
    return [(point.step, point.value) for point in board.Scalars("train_loss/worker_0")]


def a_push(number: int, samples: int, loss: float) -> Pushed:
    return Pushed(0, 1, number, number, 0, 1, samples, 0.1, loss, 0.5, None)


def test_curves_go_on_where_commits_were_taken_back_and_end_where_the_run_does(tmp_path: Path) -> None:
    with Journal(tmp_path / "events.jsonl", tmp_path / "board", start_s=0.0) as journal:
        for number, committed in enumerate([500, 100, 110, 120, 121]):
            journal.curves(a_push(number, 1, float(number)), number / 10, committed, total=10 * POINTS)
    assert curve(tmp_path / "board") == [(500, 0.0), (110, 1.5), (120, 3.0), (121, 4.0)]


def test_curves_have_a_bounded_number_of_points_each_the_mean_of_its_pushes(tmp_path: Path) -> None:
    """A point is due each 10 samples: a push of 2 makes the first, four of 3 and 2, at 6.0 and 1.0, each other one."""
    with Journal(tmp_path / "events.jsonl", tmp_path / "board", start_s=0.0) as journal:
        committed = 0
        for number in range(4001):
            samples = 2 + number % 2
            committed += samples
            push = a_push(number, samples, loss=1.0 + 5 * (number % 2))
            journal.curves(push, number / 100, committed, total=10 * POINTS)
    found = curve(tmp_path / "board")
    assert found[:3] == [(2, 1.0), (12, pytest.approx((3 * 6 + 2 + 3 * 6 + 2) / 10)), (22, pytest.approx(4.0))]
    assert len(found) == 1001


# ---------------------------------------------------------------------------------------- played again


@pytest.mark.parametrize(("rule", "allocation"), PAIRS)
def test_a_run_is_played_again_to_the_same_commands(tmp_path: Path, rule: str, allocation: str) -> None:
    config = a_config(rule, allocation, checkpoint={"every_s": 0.05})
    data = (Clouds.draw(400), Clouds.draw(20, seed=1))
    run = simulate(config, model=linear, data=data, out=tmp_path / "run", link="2ms", faults="kill:0@0.06,join:900@0.1")
    steps = list(replay(run.path / "events.jsonl", a_setup(config, data[0])))
    assert all(step.ordered == step.recorded for step in steps)
    assert sum(len(step.recorded) for step in steps) + len(steps) + 1 == len(lines(run.path / "events.jsonl"))
    finish = {"event": "finish", "outcome": "finished", "reason": "every sample is committed"}
    assert [command for step in steps for command in step.recorded if command["event"] == "finish"] == [finish]


def test_restarts_of_the_server_are_played_again_too(tmp_path: Path) -> None:
    config = a_config(checkpoint={"every_s": 0.02})
    data, faults = (Blank(600), Blank(2)), "crash@0.01,crash@2.1,kill:1@4.15,crash@4.18"
    run = simulate(config, model=linear, data=data, out=tmp_path / "run", link="20ms", faults=faults, timing_only=True)
    sessions = [line["checkpoint"] for line in lines(run.path / "events.jsonl") if line["event"] == "session_started"]
    assert len(sessions) == 4
    assert sessions[:2] == [None, None]
    assert None not in sessions[2:]
    assert all(step.ordered == step.recorded for step in replay(run.path / "events.jsonl", a_setup(config, Blank(600))))


def test_a_checkpoint_that_did_not_reach_the_disk_is_missing_when_played_again_too(tmp_path: Path) -> None:
    config = a_config("agwu", "dynamic", (100.0,), checkpoint={"every_s": 0.001})
    setup, events, saved = a_setup(config, Blank(100)), tmp_path / "events.jsonl", []
    with Journal(events, tmp_path / "board", start_s=0.0) as journal:
        journal.session(0, 0.0, None, "virtual")
        train_two_leases(Server(begin(setup, None), journal, saved.append), 0.0)
        for session in (1, 2):  # only the first checkpoint is left, both times
            journal.session(session, float(session), tmp_path / "000001", "ray")
            restored = restore(replace(setup, session=session), copy.deepcopy(saved[0]), float(session))
            train_two_leases(Server(restored, journal, lambda tree: None), float(session))
    steps = list(replay(events, setup))
    assert len(steps) == 3 * 3
    assert all(step.ordered == step.recorded for step in steps)


def test_a_journal_that_was_changed_is_found_out(tmp_path: Path) -> None:
    config = a_config("sgwu", "dynamic")
    run = simulate(config, model=linear, data=(Blank(600), Blank(2)), out=tmp_path / "run", timing_only=True)
    records = lines(run.path / "events.jsonl")
    third = [record for record in records if record["event"] == "pushed"][2]
    third["busy_s"] *= 3
    changed = tmp_path / "changed.jsonl"
    changed.write_text("".join(json.dumps(record) + "\n" for record in records))
    steps = replay(changed, a_setup(config, Blank(600)))
    assert any(step.ordered != step.recorded for step in steps)


def test_a_missing_journal_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="cannot open"):
        next(replay(tmp_path / "events.jsonl", a_setup(a_config(), Blank(10))))
