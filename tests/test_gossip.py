"""Workers that send their weights to one another: no mass is lost, no sample either."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jobs import ALLOCATIONS, PAPER_SPEEDS, Blank, Clouds, linear
from torch import nn

from bptcnn import telemetry
from bptcnn.api import Run, simulate
from bptcnn.config import RunConfig
from bptcnn.data import DataPair
from bptcnn.engine.job import prepare
from bptcnn.engine.observer import Silent
from bptcnn.engine.virtual import FaultPlan, Link, Simulation
from bptcnn.errors import DivergedError, WorkersLostError
from bptcnn.folder import RunFolder
from bptcnn.inner import Mixing, Parcel, Recipient
from bptcnn.models import FlatModel
from bptcnn.outer.average import Average

IMPATIENT = {"patience_s": 0.1, "first_s": 0.1, "join_s": 5.0, "restarts": 20}
RULES: list[dict[str, Any]] = [
    {"name": "gosgd"},
    {"name": "gosgd", "p": 1.0},
    {"name": "gosgd", "p": 0.03},
    {"name": "none"},
    {"name": "ad-psgd"},
    {"name": "ad-psgd", "p": 1.0},
]


def a_config(rule: Mapping[str, Any], allocation: str = "dynamic", **settings: Any) -> RunConfig:
    usual = {"epochs": 4, "batch_size": 8, "workers": {"count": 4, "speeds": PAPER_SPEEDS}, "optimizer": {"lr": 0.05}}
    return RunConfig(**{**usual, "strategy": rule, "allocation": allocation, **settings})


def play(
    folder: Path,
    config: RunConfig,
    faults: str = "",
    *,
    size: int = 600,
    timing_only: bool = True,
    link: str = "free",
) -> Run:
    data = (Blank(size), Blank(4)) if timing_only else (Clouds.draw(size), Clouds.draw(200, seed=1))
    return simulate(config, model=linear, data=data, out=folder, faults=faults, link=link, timing_only=timing_only)


def closed(run: Run, total: int) -> bool:
    samples = run.summary["samples"]
    assert run.summary["outcome"] == "finished"
    assert (samples["lost"], samples["duplicated"], samples["committed"]) == (0, 0, total)
    return bool(samples["issued"] == samples["committed"] + samples["returned"])


# --------------------------------------------------------------------------------------------- the worker's half


def a_mixing(value: float, mass: float, answers_to: int | None = None) -> tuple[Mixing, FlatModel]:
    flat = FlatModel(nn.Linear(1, 1))
    mixing = Mixing(flat, answers_to)
    mixing.take(Parcel(mass, np.full(2, value, np.float32)))
    return mixing, flat


def test_two_workers_by_hand() -> None:
    """Worker 0 at 8 with 1/2 sends 1/4 to worker 1 at 2 with 1/2, which comes to (8/4 + 2/2) / (3/4) = 4."""
    (sender, _), (receiver, flat) = a_mixing(8.0, 0.5), a_mixing(2.0, 0.5)
    receiver.take(sender.leave(Recipient(9)))
    assert (sender.mass, receiver.mass) == (0.25, 0.75)
    assert flat.snapshot().tolist() == pytest.approx([4.0, 4.0])


def test_an_exchange_both_ways_by_hand() -> None:
    """Worker 0 at 8 with 1/2 and worker 1 at 2 with 1/4 come to (8/2 + 2/4) / (3/4) = 6, with 3/8 each."""
    (asks, at), (answers, there) = a_mixing(8.0, 0.5, answers_to=0), a_mixing(2.0, 0.25, answers_to=1)
    parcel = asks.leave(Recipient(9))
    assert parcel.answer == Recipient(0, 0.5)
    to, answer = answers.take(parcel)
    assert (to, answer) == (0, Parcel(0.125, pytest.approx([2.0, 2.0]), None))
    assert asks.take(answer) is None
    assert (asks.mass, answers.mass) == (0.375, 0.375)
    assert (at.snapshot().tolist(), there.snapshot().tolist()) == ([6.0, 6.0], [6.0, 6.0])


@given(mass=st.floats(0.1, 1), other=st.floats(0.1, 1), parts=st.tuples(st.integers(1, 9), st.integers(1, 9)))
def test_an_exchange_leaves_masses_in_proportion_and_both_at_one_point(
    mass: float, other: float, parts: tuple[int, int]
) -> None:
    (asks, at), (answers, there) = a_mixing(8.0, mass, answers_to=0), a_mixing(2.0, other, answers_to=1)
    parcel = asks.leave(Recipient(1, parts[1] / sum(parts)))
    asks.take(answers.take(parcel)[1])
    assert asks.mass + answers.mass == pytest.approx(mass + other)
    assert asks.mass * parts[1] == pytest.approx(answers.mass * parts[0])
    mean = (8.0 * mass + 2.0 * other) / (mass + other)
    assert at.snapshot().tolist() + there.snapshot().tolist() == pytest.approx([mean] * 4, rel=1e-5)


def test_no_answer_where_none_is_wanted_or_there_is_nothing_to_give() -> None:
    (sender, _), (asks, _) = a_mixing(8.0, 0.5), a_mixing(8.0, 0.5, answers_to=3)
    receiver, _ = a_mixing(2.0, 0.5)
    assert receiver.take(sender.leave(Recipient(9))) is None
    assert asks.leave(None).answer is None
    assert Mixing(FlatModel(nn.Linear(1, 1))).take(asks.leave(Recipient(9))) is None
    assert receiver.mass == 0.75


def test_the_first_weights_are_taken_to_the_bit_and_read_only_memory_too() -> None:
    weights = np.array([0.1, 1e-30], np.float32)
    weights.flags.writeable = False
    mixing, flat = Mixing(model := FlatModel(nn.Linear(1, 1))), model
    mixing.take(Parcel(0.125, weights))
    assert np.array_equal(flat.snapshot(), weights)
    assert mixing.report(idle=False) == Parcel(0.125, weights)


def test_a_report_is_of_the_last_push_unless_there_was_nothing_to_do_since() -> None:
    mixing, flat = a_mixing(8.0, 0.5)
    mixing.leave(Recipient(9))
    flat.vector.fill_(1.0)
    mixing.take(Parcel(0.25, np.full(2, 3.0, np.float32)))
    last, now = mixing.report(idle=False), mixing.report(idle=True)
    assert (last.mass, last.weights.tolist()) == (0.25, [8.0, 8.0])
    assert (now.mass, now.weights.tolist()) == (0.5, [2.0, 2.0])


def test_weights_that_are_no_numbers_are_not_sent() -> None:
    mixing, flat = a_mixing(8.0, 0.5)
    flat.vector[1] = float("inf")
    with pytest.raises(DivergedError, match=r"^the weights are no longer finite$"):
        mixing.leave(Recipient(9))
    assert mixing.mass == 0.5


@pytest.mark.parametrize("answered", [False, True])
@given(messages=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.booleans()), max_size=40))
def test_no_message_changes_the_mass_or_the_weighted_sum(messages: list[tuple[int, int, bool]], answered: bool) -> None:
    workers = [a_mixing(float(2**w), 0.25, answers_to=w if answered else None) for w in range(4)]
    under_way: list[tuple[int, Parcel]] = []
    for sender, receiver, late in messages:
        parcel = workers[sender][0].leave(Recipient(9))
        if late:
            under_way.append((receiver, parcel))
        else:
            answer = workers[receiver][0].take(parcel)
            if answer is not None:
                assert answer[0] == sender
                under_way.append(answer)
        masses = [mixing.mass for mixing, _ in workers] + [parcel.mass for _, parcel in under_way]
        values = [float(flat.vector[0]) for _, flat in workers] + [float(p.weights[0]) for _, p in under_way]
        assert sum(masses) == pytest.approx(1.0, abs=1e-12)
        assert np.dot(masses, values) == pytest.approx((1 + 2 + 4 + 8) / 4, rel=1e-5)


# ------------------------------------------------------------------------------------------------ whole runs


class Scales(Simulation):
    """Weighs all masses after each event."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.under_way: list[Parcel] = []
        self.sums: list[float] = []
        send, hand = self._wires.send, self._wires._hand

        def sending(process: Any, to: int, parcel: Parcel) -> None:
            self.under_way.append(parcel)
            send(process, to, parcel)

        def handing(worker: int, parcel: Parcel) -> bool:
            self.under_way = [other for other in self.under_way if other is not parcel]
            return hand(worker, parcel)

        self._wires.send, self._wires._hand = sending, handing

    def _step(self) -> bool:
        going = super()._step()
        waiting = [parcel for process in self._processes.values() for parcel in process._parcels]
        parts = [*(process._local._mixing for process in self._processes.values()), *self.under_way, *waiting]
        self.sums.append(sum(part.mass for part in parts))
        return going


@pytest.mark.parametrize("link", ["free", "100kbit,20ms"])
@pytest.mark.parametrize("rule", RULES, ids=str)
def test_the_masses_of_workers_and_messages_are_always_one(tmp_path: Path, rule: dict[str, Any], link: str) -> None:
    config = a_config(rule, evaluation={"average": 0})
    job = prepare(config, linear, DataPair(Clouds.draw(600), Clouds.draw(100, seed=1)))
    with RunFolder.create(tmp_path / "run", "") as folder:
        scales = Scales(job, folder, Silent(), Link.parse(link), FaultPlan(), timing_only=False)
        result = scales.run()
    started = next(i for i, mass in enumerate(scales.sums) if mass > 0.999)
    assert len(scales.sums) - started > 100
    assert scales.sums[started:] == pytest.approx([1.0] * (len(scales.sums) - started), abs=1e-9)
    assert not scales.under_way
    locals_ = [process._local._mixing for process in scales._processes.values()]
    mean = sum(mixing.mass * mixing._flat.snapshot() for mixing in locals_)
    np.testing.assert_allclose(result.weights, mean, atol=1e-6)
    assert result.summary["test_accuracy"] > 0.85


def test_what_comes_back_from_nobody_is_not_answered(tmp_path: Path) -> None:
    """A worker that takes its own parcel for another one's would answer itself, for ever."""
    returned: list[Parcel] = []

    class Returns(Simulation):
        def _hand(self, worker: int, parcel: Parcel) -> bool:
            if parcel.answer is None:
                return super()._hand(worker, parcel)
            process = self._processes[parcel.answer.worker]
            take = process.take
            process.take = lambda parcel, life: (returned.append(parcel), take(parcel, life))  # type: ignore[assignment]
            return False

    job = prepare(a_config({"name": "ad-psgd"}), linear, DataPair(Blank(600), Blank(4)))
    with RunFolder.create(tmp_path / "run", "") as folder:
        Returns(job, folder, Silent(), Link(), FaultPlan(), timing_only=True).run()
    assert len(returned) > 10
    assert {parcel.answer for parcel in returned} == {None}


@pytest.mark.parametrize("link", ["free", "20kbit,100ms"])
def test_the_average_follows_what_was_collected_but_not_what_misses_messages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, link: str
) -> None:
    followed: list[int] = []
    monkeypatch.setattr(Average, "follow", lambda self, weights, num_samples: followed.append(num_samples))
    run = play(tmp_path / "run", a_config({"name": "ad-psgd", "p": 1.0}), timing_only=False, link=link)
    assert followed == sorted(set(followed))
    assert followed[-1] == 2400
    assert {samples for _, samples, _ in run.summary["time_to_accuracy"]} <= set(followed)


@pytest.mark.parametrize("allocation", ALLOCATIONS)
@pytest.mark.parametrize("rule", RULES, ids=str)
def test_every_sample_is_trained_once_and_learned(tmp_path: Path, rule: dict[str, Any], allocation: str) -> None:
    run = play(tmp_path / "run", a_config(rule, allocation), timing_only=False)
    assert closed(run, 2400)
    assert run.summary["samples"]["returned"] == 0
    assert run.summary["test_accuracy"] > 0.85
    assert [point[1] for point in run.summary["time_to_accuracy"]][-1] == 2400


class Means(Simulation):
    """Keeps the masses of all workers, and of what they are about to take in, after each event."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.masses: list[list[float]] = []

    def _step(self) -> bool:
        going = super()._step()
        self.masses.append(
            [
                process._local._mixing.mass + sum(parcel.mass for parcel in process._parcels)
                for process in self._processes.values()
            ]
        )
        return going


def mean_masses(folder: Path, config: RunConfig, link: str = "free") -> np.ndarray:
    job = prepare(config, linear, DataPair(Blank(4000), Blank(4)))
    with RunFolder.create(folder, "") as created:
        run = Means(job, created, Silent(), Link.parse(link), FaultPlan(), timing_only=True)
        run.run()
    means = np.mean(run.masses, axis=0)
    return means / means.sum()


@pytest.mark.parametrize("name", ["ad-psgd", "gosgd"])
@pytest.mark.parametrize("batches", ["proportional", "equal"])
def test_a_mass_is_in_proportion_to_the_steps(tmp_path: Path, name: str, batches: str) -> None:
    means = mean_masses(tmp_path / "run", a_config({"name": name}, exchange={"batches": batches}, epochs=8))
    parts = np.array([8.0, 4.0, 2.0, 1.0] if batches == "proportional" else [8.0] * 4)
    exact = (name, batches) == ("ad-psgd", "proportional")
    assert means == pytest.approx(parts / parts.sum(), abs=0.01 if exact else 0.06)


@pytest.mark.parametrize(("name", "most"), [("ad-psgd", 0.35), ("gosgd", 0.6)])
def test_who_has_nothing_left_to_train_on_does_not_end_up_with_everything(
    tmp_path: Path, name: str, most: float
) -> None:
    """With equal shares the fastest worker is through after an eighth of the time: it answers, or gets no more."""
    means = mean_masses(tmp_path / "run", a_config({"name": name}, "uniform", epochs=8))
    assert max(means) < most


@pytest.mark.parametrize("link", ["free", "20ms"])
def test_who_waits_for_its_next_lease_answers(tmp_path: Path, link: str) -> None:
    config = a_config({"name": "ad-psgd"}, exchange={"overlap": False}, epochs=8)
    parts = np.array([8.0, 4.0, 2.0, 1.0])
    assert mean_masses(tmp_path / "run", config, link) == pytest.approx(parts / parts.sum(), abs=0.03)


def test_messages_are_as_frequent_as_p_says(tmp_path: Path) -> None:
    run = play(tmp_path / "run", a_config({"name": "gosgd", "p": 0.2}, exchange={"batches": "equal"}), size=8000)
    steps, pushes = (sum(worker[key] for worker in run.summary["workers"]) for key in ("steps", "pushes"))
    assert 4000 <= steps < 4020  # a short lease at the end is a short step
    assert pushes / steps == pytest.approx(0.2, abs=0.03)


def test_a_worker_that_dies_takes_nothing_along_but_its_lease(tmp_path: Path) -> None:
    run = play(
        tmp_path / "run",
        a_config({"name": "gosgd"}),
        "kill:0@0.31,kill:2@0.4,join:1000@0.5",
        size=2000,
        timing_only=False,
    )
    assert closed(run, 8000)
    assert [worker["replaced"] for worker in run.summary["workers"]] == [1, 0, 1, 0, 0]
    assert all(worker["samples"] for worker in run.summary["workers"])
    assert run.summary["test_accuracy"] > 0.85


def test_what_all_workers_knew_when_all_died_is_trained_again(tmp_path: Path) -> None:
    config = a_config({"name": "gosgd"}, checkpoint={"every_s": 60.0}, evaluation={"every": 1.0})
    run = play(tmp_path / "run", config, "kill:0@0.3,kill:1@0.3,kill:2@0.3,kill:3@0.3", size=2000, timing_only=False)
    assert closed(run, 8000)
    assert run.summary["samples"]["returned"] >= 0.9 * 0.3 * 3750
    assert run.summary["test_accuracy"] > 0.85


def test_a_server_that_dies_goes_on_from_weights_and_samples_that_fit(tmp_path: Path) -> None:
    config = a_config({"name": "gosgd"}, checkpoint={"every_s": 0.2})
    run = play(tmp_path / "run", config, "crash@1.0", size=2000, timing_only=False)
    assert closed(run, 8000)
    entries = list(telemetry.read(run.path / "events.jsonl"))
    begun = [entry["t"] for entry in entries if entry["event"] == "session_started"]
    saved = [entry["t"] for entry in entries if entry["event"] == "save_checkpoint" and entry["t"] < begun[1]]
    assert 1.0 - saved[-1] < 0.4
    assert run.summary["samples"]["returned"] < 0.5 * 3750
    assert run.summary["test_accuracy"] > 0.85


@pytest.mark.parametrize("block", range(4))
def test_random_faults_lose_nothing(tmp_path: Path, block: int) -> None:
    for seed in range(20 * block, 20 * (block + 1)):
        rng = np.random.default_rng(seed)
        count = int(rng.integers(2, 6))
        config = a_config(
            RULES[seed % len(RULES)],
            ALLOCATIONS[rng.integers(3)],
            workers={"count": count, "speeds": tuple(map(float, rng.choice(PAPER_SPEEDS, size=count)))},
            exchange={"every": [1, 2, "epoch"][rng.integers(3)], "overlap": bool(rng.integers(2))},
            faults={**IMPATIENT, "patience_s": float(rng.choice([0.1, 1.0])), "restarts": int(rng.choice([1, 20]))},
            checkpoint={"every_s": float(rng.choice([0.05, 0.5]))},
        )
        size, link = int(rng.integers(5, 300)), str(rng.choice(["free", "2ms", "100kbit,20ms"]))
        try:
            run = play(tmp_path / str(seed), config, f"random:{seed}", size=size, link=link)
        except WorkersLostError:
            continue
        assert closed(run, 4 * size)
        assert run.summary["train_seconds"] < 100
