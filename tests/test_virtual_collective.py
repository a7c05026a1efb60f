"""Sums among workers in the virtual engine: what they cost, what they learn, what breaks them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from jobs import Blank, Clouds, a_config, linear

from bptcnn import telemetry
from bptcnn.api import Run, simulate

IMPATIENT = {"patience_s": 0.2, "first_s": 0.3, "join_s": 10.0}


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def play(path: Path, rule: str = "allreduce", allocation: str = "dynamic", **more: Any) -> Run:
    """A run whose rounds go through a server, or do not."""
    faults, link = more.pop("faults_planned", ""), more.pop("link", "free")
    exchange = {"every": 1, "overlap": False}
    config = a_config(rule, allocation, **{"exchange": exchange, "faults": IMPATIENT, "epochs": 2, **more})
    data = (Clouds.draw(1000), Clouds.draw(200, seed=1))
    return simulate(config, model=linear, data=data, out=path, faults=faults, link=link)


@pytest.mark.parametrize("allocation", ["uniform", "dynamic"])
def test_it_learns_what_rounds_through_a_server_learn(tmp_path: Path, allocation: str) -> None:
    summed, served = (play(tmp_path / rule, rule, allocation) for rule in ("allreduce", "local-sgd"))
    ours, theirs = summed.model(), served.model()
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert np.allclose(one.detach().numpy(), other.detach().numpy(), atol=1e-5)
    assert summed.summary["train_seconds"] == pytest.approx(served.summary["train_seconds"])


def test_a_sum_takes_two_turns_less_than_twice_the_workers_around_the_ring(tmp_path: Path) -> None:
    config = a_config("allreduce", "dynamic", speeds=(1000.0,) * 4, batch_size=10, epochs=1, exchange={"every": 1})
    run = simulate(
        config,
        model=linear,
        data=(Blank(400), Blank(4)),
        out=tmp_path / "run",
        link="1ms",
        timing_only=True,
    )
    # Ten rounds of ten samples each: 10 ms of steps, 6 turns of 1 ms; then 1 ms each for push, order, sum and answer.
    assert run.summary["train_seconds"] == pytest.approx(10 * (0.010 + 0.006 + 0.004), abs=0.002)
    assert all(worker["pushes"] == 10 for worker in run.summary["workers"])


def test_bytes_are_those_of_the_ring_and_of_the_sum_that_is_handed_in(tmp_path: Path) -> None:
    summary = (run := play(tmp_path / "run")).summary
    entries = list(telemetry.read(run.path / "events.jsonl"))
    teams = {entry["attempt"]: len(entry["team"]) for entry in entries if entry["event"] == "reduce"}
    ring, size = sum(2 * (members - 1) for members in teams.values()), 4 * (4 * 3 + 3)
    assert summary["bytes_pushed"] == (ring + len(teams)) * size
    behind = [entry for entry in entries if entry["event"] == "send" and not entry["summed"]]
    assert summary["bytes_pulled"] == (ring + len(behind)) * size


@pytest.mark.parametrize("seed", range(12))
def test_whatever_breaks_the_run_ends_with_closed_books(tmp_path: Path, seed: int) -> None:
    run = play(tmp_path / "run", faults_planned=f"random:{seed}", link="2ms", checkpoint={"every_s": 0.2}, epochs=3)
    samples = run.summary["samples"]
    assert run.summary["outcome"] == "finished"
    assert (samples["lost"], samples["duplicated"], samples["committed"]) == (0, 0, 3000)
    assert run.summary["test_accuracy"] > 0.8


def test_a_worker_that_dies_in_a_sum_takes_only_its_own_samples_along(tmp_path: Path) -> None:
    """With 20 ms a turn nearly all of the time is spent in sums."""
    run = play(tmp_path / "run", faults_planned="kill:2@1.0", link="20ms")
    entries = list(telemetry.read(run.path / "events.jsonl"))
    lost = [entry for entry in entries if entry["event"] == "reduced" and not entry["succeeded"]]
    assert {entry["worker"] for entry in lost} == {0, 1, 3}
    [attempt] = {entry["attempt"] for entry in lost}
    orders = [entry for entry in entries if entry["event"] == "reduce" and entry["attempt"] > attempt]
    assert orders[0]["team"] == [0, 1, 3]
    assert orders[0]["since"] == attempt + 1
    assert run.summary["samples"]["returned"] < 20
