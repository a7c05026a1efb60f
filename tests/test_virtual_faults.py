"""Faults in the virtual engine: whatever breaks, the run ends and every sample counts exactly as often as it is due."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from jobs import ALLOCATIONS, PAIRS, PAPER_SPEEDS, RULES, Blank, Clouds, Watcher, a_config, linear
from torch.nn import functional

from bptcnn import checkpoint, telemetry
from bptcnn.api import Run, simulate
from bptcnn.data import DataPair
from bptcnn.engine.job import prepare
from bptcnn.engine.virtual import FaultPlan, Link, Simulation, simulation
from bptcnn.errors import WorkersLostError
from bptcnn.folder import RunFolder
from bptcnn.models import build
from bptcnn.outer.rules import STRATEGIES

IMPATIENT = {"patience_s": 0.2, "first_s": 0.3, "join_s": 10.0}
USUAL = {"faults": IMPATIENT, "checkpoint": {"every_s": 0.1}, "exchange": {"every": 4}}


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """These runs write thousands of checkpoints; that a checkpoint is durable is tested with checkpoints."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture
def every_step_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simulation, "REFRESH_S", -1.0)


def play(
    path: Path,
    plan: str,
    *,
    rule: Any = "agwu",
    allocation: Any = "idpa",
    size: int = 600,
    link: str = "free",
    observer: Watcher | None = None,
    **more: Any,
) -> Run:
    """A run of about 0.32 s without faults, timing only."""
    config = a_config(rule, allocation, **{**USUAL, **more})
    data = (Blank(size), Blank(2))
    run = simulate(
        config, model=linear, data=data, out=path, link=link, faults=plan, timing_only=True, observer=observer
    )
    assert_closed(run.summary, size * config.epochs)
    return run


def assert_closed(summary: Mapping[str, Any], total: int) -> None:
    """The account of a finished run."""
    samples = summary["samples"]
    assert summary["outcome"] == "finished"
    assert (samples["lost"], samples["duplicated"]) == (0, 0)
    assert samples["issued"] == samples["committed"] + samples["returned"]
    assert samples["committed"] == total


def happened(run: Run, *kinds: str) -> list[dict[str, Any]]:
    """The journal's entries of some kinds."""
    return [entry for entry in telemetry.read(run.path / "events.jsonl") if entry["event"] in kinds]


# --------------------------------------------------------------------------------------- one by one


@pytest.mark.parametrize(("rule", "allocation"), PAIRS)
def test_a_killed_worker_is_replaced_and_its_samples_return(tmp_path: Path, rule: str, allocation: str) -> None:
    run = play(tmp_path / "run", "kill:3@0.105", rule=rule, allocation=allocation)
    assert run.notices == ("worker 3 is replaced: its process died",)
    [lost] = happened(run, "worker_lost")
    assert lost["t"] == pytest.approx(0.125)
    assert run.summary["samples"]["returned"] > 0
    assert [worker["replaced"] for worker in run.summary["workers"]] == [0, 0, 0, 1]
    joined = [entry["worker"] for entry in happened(run, "worker_joined")]
    assert joined == [0, 1, 2, 3, 3] or allocation == "dynamic"  # its data does not wait for it there


def test_a_short_freeze_only_takes_time(tmp_path: Path) -> None:
    run = play(tmp_path / "run", "freeze:2@0.1+0.15", rule="sgwu", allocation="uniform")
    assert run.notices == ()
    assert run.summary["samples"]["returned"] == 0


def test_a_long_freeze_costs_the_worker_its_leases(tmp_path: Path) -> None:
    run = play(tmp_path / "run", "freeze:0@0.1+60")
    assert len(run.notices) == 1
    assert run.notices[0].startswith("worker 0 is replaced: it was silent for 0.")
    assert run.summary["samples"]["returned"] > 0
    assert run.summary["train_seconds"] < 10


def test_a_death_that_was_taken_for_silence_counts_once(tmp_path: Path) -> None:
    silent = play(tmp_path / "silent", "freeze:0@0.1+60")
    [order] = happened(silent, "replace")
    run = play(tmp_path / "run", f"freeze:0@0.1+60,kill:0@{order['t'] - 0.01:.6f}")
    assert run.notices == silent.notices
    assert not happened(run, "worker_lost")


def test_a_replacement_that_is_ordered_twice_starts_once(tmp_path: Path) -> None:
    run = play(tmp_path / "run", "kill:3@0.1", allocation="uniform", size=1200, faults={**IMPATIENT, "join_s": 1.5})
    assert len(run.notices) == 2
    assert [entry["worker"] for entry in happened(run, "worker_joined")] == [0, 1, 2, 3, 3]


def test_a_push_that_is_late_is_taken(tmp_path: Path) -> None:
    run = play(tmp_path / "run", "delay:0@0.1+0.15")
    assert run.notices == ()
    assert max(worker["mean_staleness"] for worker in run.summary["workers"]) == pytest.approx(
        run.summary["workers"][0]["mean_staleness"]
    )


def test_a_push_that_comes_after_its_leases_were_returned_is_refused(tmp_path: Path) -> None:
    run = play(tmp_path / "run", "delay:0@0.1+1")
    assert len(run.notices) == 1
    [refusal] = happened(run, "refuse")
    assert (refusal["worker"], refusal["incarnation"]) == (0, 1)
    assert refusal["reason"] == "its leases went to others while it was silent"


def test_a_push_that_comes_twice_counts_once(tmp_path: Path) -> None:
    run = play(tmp_path / "run", "duplicate:0@0.1")
    pushes = [(entry["worker"], entry["sequence"]) for entry in happened(run, "pushed")]
    assert len(pushes) == len(set(pushes)) + 1
    assert sum(worker["pushes"] for worker in run.summary["workers"]) == len(pushes) - 1


def test_a_newcomer_takes_its_part(tmp_path: Path) -> None:
    alone, joined = (
        play(tmp_path / name, faults, allocation="dynamic", speeds=(500.0,), size=500).summary
        for name, faults in (("alone", ""), ("joined", "join:1500@0.5"))
    )
    assert alone["train_seconds"] == pytest.approx(2.0)
    assert joined["train_seconds"] == pytest.approx(0.5 + 1.5 * 500 / 2000, abs=0.05)
    assert joined["workers"][1]["samples"] == pytest.approx(750 * 0.75, abs=40)


def test_a_worker_that_dies_too_often_is_given_up(tmp_path: Path) -> None:
    run = play(tmp_path / "run", "kill:1@0.1", faults={**IMPATIENT, "restarts": 0})
    assert run.notices == ("worker 1 is given up, its data goes to the others: its process died",)
    assert [worker["dismissed"] for worker in run.summary["workers"]] == [False, True, False, False]


def test_killing_what_is_dead_already_changes_nothing(tmp_path: Path) -> None:
    run = play(tmp_path / "run", "kill:1@0.1,kill:1@0.11,kill:1@0.5,freeze:1@0.6+9")
    assert run.notices == ("worker 1 is replaced: its process died",)


def test_without_workers_the_run_fails_and_says_how_to_go_on(tmp_path: Path) -> None:
    out = tmp_path / "run"
    with pytest.raises(WorkersLostError) as caught:
        play(out, "kill:0@0.1", speeds=(500.0,), faults={**IMPATIENT, "restarts": 0})
    assert str(caught.value) == (
        f"no worker is left, the last one because its process died: mend the machines, then go on with --resume {out}"
    )
    summary = RunFolder.peek(out).read_summary()
    assert summary is not None
    assert (summary["outcome"], summary["samples"]["lost"]) == ("failed", 0)
    assert checkpoint.newest(out / "checkpoints") is not None


# ------------------------------------------------------------------------------------- server crashes


@pytest.mark.usefixtures("every_step_shows")
@pytest.mark.parametrize(("rule", "allocation"), PAIRS)
def test_a_crash_of_the_server_costs_at_most_one_checkpoint_interval(
    tmp_path: Path, rule: str, allocation: str
) -> None:
    watcher, interval_s = Watcher(), 0.05
    run = play(
        tmp_path / "run",
        "crash@0.2",
        rule=rule,
        allocation=allocation,
        observer=watcher,
        checkpoint={"every_s": interval_s},
    )
    assert run.notices == ("the server died: it goes on from its newest checkpoint",)
    [crash] = watcher.noticed_after
    before, after = watcher.statuses[crash - 1 : crash + 1]
    [_, restart] = happened(run, "session_started")
    first_life = [entry for entry in happened(run, "pushed", "save_checkpoint") if entry["t"] < restart["t"]]
    last = max(place for place, entry in enumerate(first_life) if entry["event"] == "save_checkpoint")
    saved = first_life[last]
    assert after.version == saved["version"]
    assert after.committed == sum(entry.get("samples", 0) for entry in first_life[:last])
    round_s = 40 / 250 if allocation == "uniform" else 40 / 2000 + 0.005
    assert 0.2 - saved["t"] <= interval_s + round_s
    assert before.committed - after.committed <= sum(PAPER_SPEEDS) * (interval_s + round_s)


def test_a_crash_before_the_first_checkpoint_begins_anew(tmp_path: Path) -> None:
    run = play(tmp_path / "run", "crash@0.1", link="200ms")  # nobody has joined yet
    assert [entry["checkpoint"] for entry in happened(run, "session_started")] == [None, None]
    assert run.summary["samples"]["issued"] == 1200


@pytest.mark.parametrize(
    ("link", "plan"), [("free", "crash@0.2"), ("100ms", "crash@0.3"), ("3000ms", "crash@3.5"), ("3000ms", "crash@7")]
)
def test_what_is_under_way_when_the_server_dies_is_lost(tmp_path: Path, link: str, plan: str) -> None:
    run = play(tmp_path / "run", plan, link=link, faults={**IMPATIENT, "patience_s": 20.0})
    assert not happened(run, "refuse", "replace")


def test_workers_that_die_with_the_server_come_back_with_it(tmp_path: Path) -> None:
    run = play(tmp_path / "run", "kill:0@0.1,crash@0.11,kill:1@0.15,kill:2@2.1,join:300@1")
    newcomers = [entry["worker"] for entry in happened(run, "worker_joined") if entry["t"] > 2]
    assert sorted(newcomers)[:5] == [0, 1, 2, 3, 4]


def test_a_server_that_is_down_cannot_crash(tmp_path: Path) -> None:
    run = play(tmp_path / "run", "crash@0.2,crash@0.3")
    assert run.notices == ("the server died: it goes on from its newest checkpoint",)
    assert len(happened(run, "session_started")) == 2


def test_after_a_crash_training_goes_on_from_the_restored_weights_alone(tmp_path: Path) -> None:
    train = Clouds.draw(200)
    config = a_config(
        {"name": "agwu", "accuracy_weight": "none", "staleness": "none"},
        "dynamic",
        (100.0,),
        optimizer={"momentum": 0, "lr": 0.1},
        schedule={"kind": "constant", "warmup": 0},
        checkpoint={"every_s": 0.5},
        evaluation={"average": 0},
    )
    run = simulate(
        config, model=linear, data=(train, Clouds.draw(20)), out=tmp_path / "run", faults="crash@1.35", link="60ms"
    )
    entries = happened(run, "pushed", "save_checkpoint", "session_started")
    restart = max(place for place, entry in enumerate(entries) if entry["event"] == "session_started")
    saved = max(place for place, entry in enumerate(entries[:restart]) if entry["event"] == "save_checkpoint")
    before, after = (sum(entry.get("steps", 0) for entry in part) for part in (entries[:saved], entries[restart:]))
    assert 0 < before < len(train.asked) - after
    network = build(linear, train.shape, train.num_classes, config.seed)
    sgd = torch.optim.SGD(network.parameters(), 0.1, weight_decay=config.optimizer.weight_decay)
    for batch in train.asked[:before] + train.asked[-after:]:
        sgd.zero_grad()
        functional.cross_entropy(network(train.images[batch]), train.labels[batch]).backward()
        sgd.step()
    for name, value in run.model().state_dict().items():
        torch.testing.assert_close(network.state_dict()[name], value, rtol=1e-5, atol=1e-5)


# ------------------------------------------------------------------------------------- random plans


@pytest.mark.parametrize("block", range(4))
def test_the_account_closes_whatever_breaks(tmp_path: Path, block: int) -> None:
    for seed in range(50 * block, 50 * (block + 1)):
        rng = np.random.default_rng(seed)
        rule, allocation = PAIRS[seed % len(PAIRS)]
        speeds = tuple(map(float, rng.choice(PAPER_SPEEDS, size=rng.integers(2, 6))))
        play(
            tmp_path / str(seed),
            f"random:{seed}",
            rule=rule,
            allocation=allocation,
            size=int(rng.integers(5, 80)),
            link=str(rng.choice(["free", "2ms", "100kbit,20ms"])),
            seed=seed,
            speeds=speeds,
            exchange={"every": [1, 2, "epoch"][rng.integers(3)], "overlap": bool(rng.integers(2))},
            faults={**IMPATIENT, "patience_s": float(rng.choice([0.1, 1.0])), "restarts": 20},
            checkpoint={"every_s": float(rng.choice([0.05, 0.5]))},
        )


@pytest.mark.parametrize("seed", range(6))
def test_a_run_with_arithmetic_survives_random_faults_too(tmp_path: Path, seed: int) -> None:
    rule, allocation = PAIRS[seed]
    config = a_config(rule, allocation, epochs=4, faults=IMPATIENT, checkpoint={"every_s": 0.1})
    data = (Clouds.draw(600), Clouds.draw(100, seed=1))
    run = simulate(config, model=linear, data=data, out=tmp_path / "run", faults=f"random:{seed}")
    assert_closed(run.summary, 2400)
    assert run.summary["test_accuracy"] > 0.8


ONE_OF_EACH = "kill:3@0.3,delay:1@0.35+0.1,freeze:2@0.5+2,duplicate:0@0.6,join:800@0.7,crash@1.1,kill:0@3.5"


@pytest.mark.parametrize("dtype", ["fp32", "int8"])
@pytest.mark.parametrize("name", STRATEGIES)
def test_every_rule_learns_whatever_breaks(tmp_path: Path, name: str, dtype: str) -> None:
    """A new rule is tested here by being one."""
    rule = {"name": name, **({"rate": 0.25} if name == "downpour" else {})}
    exchange = {"every": 4, "dtype": dtype}
    optimizer = {"lr": 0.01, "momentum": 0.5}
    config = a_config(rule, "dynamic", epochs=6, exchange=exchange, optimizer=optimizer, faults=IMPATIENT)
    data = (Clouds.draw(2000), Clouds.draw(200, seed=1))
    run = simulate(config, model=linear, data=data, out=tmp_path / "run", faults=ONE_OF_EACH)
    assert_closed(run.summary, 12_000)
    assert run.summary["samples"]["returned"] > 0
    assert run.summary["test_accuracy"] > 0.85


# ------------------------------------------------------------------------------------------ resume


@pytest.mark.usefixtures("every_step_shows")
@pytest.mark.parametrize("allocation", ALLOCATIONS)
@pytest.mark.parametrize("rule", RULES)
def test_an_interrupted_run_goes_on_from_its_folder(tmp_path: Path, rule: str, allocation: str) -> None:
    config, data = a_config(rule, allocation, epochs=3), DataPair(Clouds.draw(400), Clouds.draw(50, seed=1))

    def stop(status: Any) -> None:
        if status.committed >= 500:
            raise KeyboardInterrupt

    run = simulate(config, model=linear, data=data, out=tmp_path / "run", observer=Watcher(stop))
    first = run.summary
    assert (first["outcome"], first["samples"]["lost"]) == ("interrupted", 0)
    assert 500 <= first["samples"]["committed"] < 1200
    job = prepare(config, linear, data)
    with RunFolder.open(run.path) as folder:
        watcher = Watcher()
        result = Simulation(job, folder, watcher, Link(), FaultPlan(), timing_only=False).run()
    assert_closed(result.summary, 1200)
    assert watcher.statuses[0].committed == first["samples"]["committed"]
    assert result.summary["train_seconds"] > first["train_seconds"]
    # The last evaluation of the first session came after its last checkpoint.
    history, earlier = result.summary["time_to_accuracy"], first["time_to_accuracy"][:-1]
    assert history[: len(earlier)] == earlier
    assert [point[1] for point in history] == sorted(point[1] for point in history)


def test_a_finished_run_that_is_opened_again_measures_its_weights_once_more(tmp_path: Path) -> None:
    config, data = a_config(), DataPair(Clouds.draw(200), Clouds.draw(50, seed=1))
    first = simulate(config, model=linear, data=data, out=tmp_path / "run").summary
    with RunFolder.open(tmp_path / "run") as folder:
        job = prepare(config, linear, data)
        summary = Simulation(job, folder, Watcher(), Link(), FaultPlan(), timing_only=False).run().summary
    assert_closed(summary, 400)
    assert summary["time_to_accuracy"] == first["time_to_accuracy"]
