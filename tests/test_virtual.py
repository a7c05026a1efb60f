"""The virtual engine: times that can be worked out by hand, arithmetic that equals plain SGD, runs equal to the bit."""

from __future__ import annotations

from math import cos, pi
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from jobs import ALLOCATIONS, PAPER_SPEEDS, RULES, Blank, Clouds, a_config, contents, last_state, linear, normed
from torch.nn import functional

from bptcnn import telemetry
from bptcnn.api import Run, simulate
from bptcnn.config import RunConfig
from bptcnn.models import FlatModel, build

CONTROL_BYTES = 256
EVERY_FAULT = "kill:1@0.1,freeze:2@0.12+0.1,duplicate:0@0.13,delay:3@0.13+0.5,join:700@0.15,crash@0.2"


def timing(path: Path, config: RunConfig, size: int, link: str = "free") -> dict[str, Any]:
    """The summary of a run without arithmetic."""
    data = (Blank(size), Blank(2))
    return dict(simulate(config, model=linear, data=data, out=path, link=link, timing_only=True).summary)


def training(path: Path, config: RunConfig, train: Clouds, faults: str = "") -> Run:
    return simulate(config, model=linear, data=(train, Clouds.draw(100, seed=1)), out=path, faults=faults)


# --------------------------------------------------------------------------------- equal to the last bit


@pytest.mark.parametrize(("rule", "faults"), [("agwu", ""), ("agwu", EVERY_FAULT), ("sgwu", EVERY_FAULT)])
def test_two_runs_with_one_seed_write_the_same_bytes(tmp_path: Path, rule: str, faults: str) -> None:
    config = a_config(rule, seed=3, checkpoint={"every_s": 0.05}, evaluation={"every": 0.25})
    data = (Clouds.draw(400), Clouds.draw(50, seed=1))
    for name in ("one", "two"):
        torch.rand(len(name) + ord(name[0]))  # whatever the process did before
        simulate(config, model=normed, data=data, out=tmp_path / name, link="1Mbit,1ms", faults=faults)
    one, two = contents(tmp_path / "one"), contents(tmp_path / "two")
    assert one == two
    kinds = {name.split("/")[0].split(".")[0] for name in one}
    assert kinds >= {"config", "events", "tensorboard", "checkpoints", "model", "summary"}


def test_another_seed_gives_another_run(tmp_path: Path) -> None:
    one, two = (contents(training(tmp_path / str(seed), a_config(seed=seed), Clouds.draw(200)).path) for seed in (1, 2))
    assert one["model.safetensors"] != two["model.safetensors"]
    assert one["events.jsonl"] != two["events.jsonl"]


def test_the_callers_random_numbers_are_left_alone(tmp_path: Path) -> None:
    torch.manual_seed(4)
    expected = torch.rand(3)
    torch.manual_seed(4)
    simulate(a_config(), model=normed, data=(Clouds.draw(100), Clouds.draw(20)), out=tmp_path / "run")
    assert torch.equal(torch.rand(3), expected)


# ------------------------------------------------------------------------------------------ time by hand


def test_equal_shares_leave_the_balance_of_the_speeds(tmp_path: Path) -> None:
    found = timing(tmp_path / "run", a_config("agwu", "uniform"), 4000)
    assert found["balance"] == pytest.approx(4 / np.mean([0.5, 1, 2, 4]), abs=1e-6)
    assert found["balance"] == pytest.approx(2.133, abs=5e-4)
    assert found["train_seconds"] == pytest.approx(2 * 4.0, abs=1e-4)


@pytest.mark.parametrize("allocation", ["idpa", "dynamic"])
def test_shares_that_follow_speed_use_all_of_it(tmp_path: Path, allocation: str) -> None:
    found = timing(tmp_path / "run", a_config("agwu", allocation, epochs=3, batch_size=5), 4000)
    assert found["balance"] <= 1.05
    assert found["samples_per_second"] >= 0.99 * sum(PAPER_SPEEDS)
    assert max(found["waiting_fraction"]) <= 0.01


@pytest.mark.parametrize("allocation", ["idpa", "dynamic"])
def test_rounds_in_proportion_to_speed_cost_hardly_any_waiting(tmp_path: Path, allocation: str) -> None:
    found = timing(tmp_path / "run", a_config("sgwu", allocation, epochs=3, exchange={"every": 8}), 5000)
    assert found["samples_per_second"] >= 0.98 * sum(PAPER_SPEEDS)


def test_equal_shares_make_everybody_wait_for_the_slowest_in_every_round(tmp_path: Path) -> None:
    found = timing(tmp_path / "run", a_config("sgwu", "uniform"), 4000)
    waiting = [1 - 250 / speed for speed in PAPER_SPEEDS]
    assert found["waiting_fraction"] == pytest.approx(waiting, abs=1e-6)
    pushes = [worker["pushes"] for worker in found["workers"]]
    assert pushes == [2 * 1000 / 20] * 4
    assert [worker["mean_staleness"] for worker in found["workers"]] == [0] * 4


# One worker at 1,000 samples/s and 1,000 samples in ten leases of 0.1 s. Weights take T s on the way, each way.
ONE = {"speeds": (1000.0,), "epochs": 1, "batch_size": 10}


@pytest.mark.parametrize(
    ("link", "latency_s", "bytes_per_s"),
    [
        ("free", 0.0, float("inf")),
        ("25ms", 0.025, float("inf")),
        ("1Mbit", 0.0, 125_000),
        ("1Mbit,25ms", 0.025, 125_000),
    ],
)
@pytest.mark.parametrize("strategy", ["agwu", "sgwu"])
def test_without_overlap_every_exchange_costs_the_transfer_there_and_back(
    tmp_path: Path, strategy: str, link: str, latency_s: float, bytes_per_s: float
) -> None:
    config = a_config(strategy, "uniform", **ONE, exchange={"every": 10, "overlap": False})
    found = timing(tmp_path / "run", config, 1000, link)
    transfer_s = latency_s + (4 * 4 + CONTROL_BYTES) / bytes_per_s  # a network of four weights
    assert found["train_seconds"] == pytest.approx(10 * (transfer_s + 0.1 + transfer_s), abs=3e-6)
    assert found["workers"][0]["busy_seconds"] == pytest.approx(1.0)


@pytest.mark.parametrize("link", ["free", "25ms", "49ms"])
def test_with_overlap_a_transfer_shorter_than_the_lease_costs_nothing_after_the_first(
    tmp_path: Path, link: str
) -> None:
    config = a_config("agwu", "uniform", **ONE, exchange={"every": 10})
    transfer_s = 0.0 if link == "free" else float(link[:2]) / 1000
    found = timing(tmp_path / "run", config, 1000, link)
    assert found["train_seconds"] == pytest.approx(transfer_s + 10 * 0.1 + transfer_s, abs=3e-6)


def test_with_overlap_a_longer_transfer_sets_the_pace(tmp_path: Path) -> None:
    # Weights arrive at 0.08 s, the first push leaves at 0.18 s, and from there one leaves every 2 T = 0.16 s.
    config = a_config("agwu", "uniform", **ONE, exchange={"every": 10})
    found = timing(tmp_path / "run", config, 1000, "80ms")
    assert found["train_seconds"] == pytest.approx(0.18 + 9 * 0.16 + 0.08, abs=3e-6)


def test_rounds_hide_the_transfer_too(tmp_path: Path) -> None:
    config = a_config("sgwu", "uniform", **ONE, exchange={"every": 10})
    found = timing(tmp_path / "run", config, 1000, "25ms")
    assert found["train_seconds"] == pytest.approx(0.025 + 10 * 0.1 + 0.025, abs=3e-6)


def test_bytes_are_counted_in_weights_each_way(tmp_path: Path) -> None:
    found = timing(tmp_path / "run", a_config("agwu", "uniform", **ONE, exchange={"every": 10}), 1000)
    assert found["bytes_pushed"] == 10 * 4 * 4
    assert found["bytes_pulled"] == 10 * 4 * 4


def test_once_an_epoch_means_one_push_per_pass_over_the_workers_data(tmp_path: Path) -> None:
    config = a_config("agwu", "uniform", exchange={"every": "epoch"}, epochs=3)
    found = timing(tmp_path / "run", config, 400)
    assert [worker["pushes"] for worker in found["workers"]] == [3, 3, 3, 3]


# ---------------------------------------------------------------------------------------- real arithmetic


@pytest.mark.parametrize("rule", RULES)
def test_digits_are_learned_to_over_90_percent(tmp_path: Path, rule: str) -> None:
    config = RunConfig(strategy=rule, model="case1", epochs=5, workers={"count": 4, "speeds": PAPER_SPEEDS})
    run = simulate(config, out=tmp_path / "run")
    assert run.summary["test_accuracy"] > 0.9
    times, committed, accuracies = zip(*run.summary["time_to_accuracy"], strict=True)
    assert list(times) == sorted(times)
    assert committed[-1] == 5 * 1437
    assert accuracies[-1] == run.summary["test_accuracy"] > accuracies[0]


@pytest.mark.parametrize("rule", ["local-sgd", "sgwu", "agwu", "easgd", "gosgd", "ad-psgd"])
def test_a_worker_a_thirtieth_as_fast_leads_nobody_astray(tmp_path: Path, rule: str) -> None:
    """Its part of a step is a single sample; made at the full rate, such steps end below 0.94, and often as nan."""
    workers = {"count": 2, "speeds": (1000, 30)}
    run = simulate(RunConfig(strategy=rule, seed=1, epochs=10, workers=workers), out=tmp_path / "run")
    assert run.summary["test_accuracy"] > 0.95


def test_a_timed_lease_that_is_less_than_a_smallest_step_ends_in_time(tmp_path: Path) -> None:
    """In each round the slow worker has a sample's time, and twice as many samples lest it runs out of them."""
    config = RunConfig(
        strategy="anytime",
        epochs=1,
        exchange={"every": 1, "overlap": False},
        workers={"count": 2, "speeds": (1000, 30)},
        evaluation={"every": 1},
    )
    assert timing(tmp_path / "run", config, 4000)["train_seconds"] < 1.15 * 4000 / 1030


def plain_sgd(config: RunConfig, batches: list[np.ndarray], train: Clouds) -> dict[str, torch.Tensor]:
    """The same network on the same batches, one after another, with the rate that half of the batch has reached."""
    network = build(linear, train.shape, train.num_classes, config.seed)
    settings, total, done = config.optimizer, sum(map(len, batches)), 0
    sgd = torch.optim.SGD(
        network.parameters(), settings.lr, settings.momentum, 0, settings.weight_decay, settings.nesterov
    )
    for batch in batches:
        progress = (done + len(batch) / 2) / total
        sgd.param_groups[0]["lr"] = settings.lr * (1 + cos(pi * progress)) / 2
        sgd.zero_grad()
        functional.cross_entropy(network(train.images[batch]), train.labels[batch]).backward()
        sgd.step()
        done += len(batch)
    return network.state_dict()


@pytest.mark.parametrize("overlap", [True, False])
@pytest.mark.parametrize("allocation", ["uniform", {"name": "idpa", "batches": 2}, "dynamic"], ids=ALLOCATIONS)
@pytest.mark.parametrize(
    "rule", [{"name": "sgwu"}, {"name": "agwu", "accuracy_weight": "none", "staleness": "none"}], ids=RULES[::-1]
)
def test_one_worker_is_plain_sgd(tmp_path: Path, rule: dict[str, str], allocation: Any, overlap: bool) -> None:
    train = Clouds.draw(200)
    schedule = {"kind": "cosine", "warmup": 0}
    config = a_config(
        rule,
        allocation,
        (100.0,),
        schedule=schedule,
        exchange={"every": 2, "overlap": overlap},
        evaluation={"average": 0},
    )
    run = training(tmp_path / "run", config, train)
    trained = run.model().state_dict()
    for name, value in plain_sgd(config, train.asked, train).items():
        torch.testing.assert_close(trained[name], value, rtol=1e-5, atol=1e-5)
    assert sum(map(len, train.asked)) == 2 * 200


def test_the_average_is_saved_and_training_is_none_the_wiser(tmp_path: Path) -> None:
    train = Clouds.draw(200)
    ages = {age: a_config("agwu", evaluation={"average": age}) for age in (0.0, 0.2)}
    plain, averaged = (training(tmp_path / str(age), config, train) for age, config in ages.items())
    journals = [list(telemetry.read(run.path / "events.jsonl")) for run in (plain, averaged)]
    losses = [[entry["loss"] for entry in journal if entry["event"] == "pushed"] for journal in journals]
    assert losses[0] == losses[1]
    state, model = last_state(averaged), FlatModel(averaged.model()).snapshot()
    assert np.array_equal(FlatModel(plain.model()).snapshot(), state["weights"])
    assert np.array_equal(model, state["average"])
    assert not np.array_equal(model, state["weights"])


def test_q_may_come_from_samples_that_nobody_trains_on(tmp_path: Path) -> None:
    train = Clouds.draw(300)
    strategy = {"name": "sgwu", "accuracy_from": "validation"}
    config = a_config(strategy, "uniform", epochs=1, evaluation={"validation": 60})
    run = training(tmp_path / "run", config, train)
    assert run.summary["samples"]["committed"] == 240
    trained = np.unique(np.concatenate([batch for batch in train.asked if len(batch) <= 20]))
    assert len(trained) == 240


@pytest.mark.parametrize(("allocation", "size"), [("uniform", 4 * 16 * 60), ("dynamic", (16 + 8 + 4 + 2) * 60)])
def test_all_workers_make_the_same_number_of_steps(tmp_path: Path, allocation: str, size: int) -> None:
    config = a_config("local-sgd", allocation, epochs=1, batch_size=16, exchange={"every": 2, "overlap": False})
    run = simulate(config, model=linear, data=(Blank(size), Blank(2)), out=tmp_path / "run", timing_only=True)
    assert [worker["steps"] for worker in run.summary["workers"]] == pytest.approx([60] * 4, abs=2)


def test_post_local_sgd_exchanges_after_every_step_at_first(tmp_path: Path) -> None:
    exchange = {"every": 10, "post": 0.5, "overlap": False}
    config = a_config("local-sgd", "dynamic", **ONE, exchange=exchange)
    found = timing(tmp_path / "run", config, 1000)
    assert found["workers"][0]["pushes"] == 50 + 5
