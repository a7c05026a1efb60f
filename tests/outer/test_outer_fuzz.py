"""Everything that can go wrong, mixed at random: a run always ends, and its books always close."""

from __future__ import annotations

import random

import pytest
from outer.stage import PAIRS, Quadratic, Stage, a_setup

from bptcnn.outer.allocation import ExchangeConfig, Idpa
from bptcnn.outer.rules import AllReduce, Anytime, Easgd

NUM_SEEDS = 120
CHUNK = 20


def a_random_stage(rng: random.Random, pair: int) -> Stage:
    """A small run of any shape, and up to twenty faults of any kind."""
    allocation, rule = PAIRS[pair]
    num_workers, num_samples, epochs = rng.randint(1, 5), rng.choice([3, 40, 200]), rng.randint(1, 4)
    if allocation.name == "idpa":
        form = rng.choice(["cumulative", "per_batch"])
        allocation = Idpa(batches=rng.randint(1, 2 * epochs - 1), form=form)
    setup = a_setup(
        allocation,
        rng.choice([rule, rule, *([Anytime(), AllReduce()] if rule.synchronous else [Easgd()])]),
        num_samples=num_samples,
        epochs=epochs,
        exchange=ExchangeConfig(every=rng.choice([1, 2, 4, 50, "epoch"]), overlap=rng.random() < 0.7),
        num_workers=num_workers,
        checkpoint_s=rng.choice([0.5, 5.0]),
        seed=pair,
    )
    speeds = [rng.choice([5.0, 10.0, 20.0, 40.0, 80.0]) * rng.choice([1, 1, 1, 1, 0.01]) for _ in range(num_workers)]
    stage = Stage(
        setup,
        speeds,
        calibrated=[speed * rng.choice([0.3, 1, 1, 3]) for speed in speeds],
        delay_s=rng.choice([0.0, 0.01, 0.5]),
        detect_s=rng.choice([0.0, 1.0, 5.0]),
        respawn_s=rng.choice([0.1, 2.0, 10.0, 100.0]),
        problem=Quadratic(num_samples),
        twice=rng.random() < 0.3,
    )
    for worker in range(num_workers):
        stage.at(rng.choice([0.0, 0.0, 3.0, 40.0]), stage.join, worker)
    for _ in range(rng.choice([0, 1, 3, 8, 20])):
        plan_a_fault(stage, rng, rng.uniform(0, 1.3 * num_samples * epochs / sum(speeds)), num_workers)
    return stage


def plan_a_fault(stage: Stage, rng: random.Random, when: float, num_workers: int) -> None:
    worker = rng.randrange(num_workers)
    match rng.choice(["kill", "kill", "kill", "freeze", "late", "rejoin", "restart", "slow", "stop"]):
        case "kill":
            stage.at(when, stage.kill, worker)
        case "freeze":
            stage.at(when, stage.freeze, worker, rng.choice([1.0, 20.0, 200.0]))
        case "late":
            stage.at(when, stage.join, num_workers + rng.randrange(2), rng.choice([10.0, 40.0]))
        case "rejoin":
            stage.at(when, stage.join, worker)
        case "restart":
            stage.at(when, stage.restart_server, rng.random() < 0.5)
        case "slow":
            stage.at(when, stage.slow_down, worker, rng.choice([0.2, 3.0, 10.0]))
        case "stop" if rng.random() < 0.2:
            stage.at(when, stage.stop)


@pytest.mark.parametrize("first", range(0, NUM_SEEDS, CHUNK))
def test_any_mixture_of_faults_ends_with_closed_books(first: int) -> None:
    for seed in range(first, first + CHUNK):
        stage = a_random_stage(random.Random(seed), seed % len(PAIRS)).run()
        assert stage.outcome is not None, f"seed {seed} stalled at {stage.now} s"
        assert stage.settled(stage.outcome), f"seed {seed}"
