"""Who is answered when, and how little anybody waits."""

from __future__ import annotations

from itertools import pairwise
from math import ceil

import pytest
from outer.stage import ALLOCATIONS, RULES, Quadratic, Stage, a_setup

from bptcnn.outer.allocation import Allocation, Dynamic, ExchangeConfig, Idpa, Uniform
from bptcnn.outer.messages import Evaluate, Pushed, Replace, SaveCheckpoint, Send, WorkerJoined
from bptcnn.outer.milestones import EvaluationConfig
from bptcnn.outer.pace import FaultConfig
from bptcnn.outer.rules import Agwu, Anytime, Downpour, LocalSgd, Sgwu
from bptcnn.outer.tally import balance

SPEEDS = [2000.0, 1000.0, 500.0, 250.0]
by_name = pytest.mark.parametrize("allocation", ALLOCATIONS, ids=lambda a: a.name)


def played(allocation: Allocation, rule: Agwu | Sgwu, **settings: object) -> Stage:
    setup = a_setup(allocation, rule, **{"num_samples": 2400, "exchange": ExchangeConfig(every=4), **settings})
    stage = Stage(setup, SPEEDS).open().run()
    assert stage.settled()
    return stage


def throughput(stage: Stage) -> float:
    """Samples/s of the whole run over the sum of the workers' speeds."""
    coordinator = stage.coordinator
    return coordinator.setup.plan.total / coordinator.tally.elapsed_s(stage.now) / sum(stage.speeds.values())


# ------------------------------------------------------------------------------------------ throughput


@pytest.mark.parametrize("allocation", [Idpa(), Dynamic()], ids=lambda a: a.name)
@pytest.mark.parametrize("rule", RULES, ids=lambda r: r.name)
def test_shares_that_follow_speed_leave_nobody_waiting(allocation: Allocation, rule: Agwu | Sgwu) -> None:
    stage = played(allocation, rule, num_samples=6000)
    assert throughput(stage) >= 0.99
    rows = [member.record for member in stage.coordinator.members.values()]
    assert max(1 - row.busy_s / stage.now for row in rows) < 0.02


@pytest.mark.parametrize("rule", RULES, ids=lambda r: r.name)
def test_equal_shares_wait_for_the_slowest(rule: Agwu | Sgwu) -> None:
    stage = played(Uniform(), rule)
    assert throughput(stage) == pytest.approx(1000 / 3750, rel=1e-3)
    by_epoch = [balance(busy, 4) for busy in stage.coordinator.tally.busy.values()]
    assert by_epoch == pytest.approx([32 / 15] * 3)  # 2.133


def test_everybody_is_equally_stale() -> None:
    stage = played(Idpa(), Agwu())
    stale = [m.record.staleness / m.record.pushes for m in stage.coordinator.members.values()]
    assert stale == pytest.approx([3.0] * 4, abs=0.15)


@by_name
def test_dynamic_shares_follow_a_machine_that_slows_down(allocation: Allocation) -> None:
    setup = a_setup(allocation, Agwu(), num_samples=6000, exchange=ExchangeConfig(every=4))
    stage = Stage(setup, [1000.0] * 4).open()
    assert stage.at(0.5, stage.slow_down, 0, 4.0).run().settled()
    ideal_s = 0.5 + (18_000 - 2000) / 3250
    assert (stage.now / ideal_s < 1.03) == (allocation.name == "dynamic")


# ----------------------------------------------------------------------------------------- synchronous


@by_name
def test_nobody_is_answered_before_the_round_is_complete(allocation: Allocation) -> None:
    stage = Stage(
        a_setup(allocation, Sgwu(), exchange=ExchangeConfig(every=2, overlap=False)), SPEEDS, delay_s=0.01
    ).open()
    handle, open_rounds = stage.coordinator.handle, []

    def watch(event: object, now: float) -> list:
        commands = handle(event, now)
        sends = [command for command in commands if isinstance(command, Send)]
        if sends:
            granted = sum(len(command.leases) for command in sends)
            open_rounds.append((granted, len(stage.coordinator.supply.ledger.outstanding())))
            assert {command.version for command in sends} == {stage.coordinator.model.version}
        return commands

    stage.coordinator.handle = watch
    assert stage.run().settled()
    assert len(open_rounds) > 10
    assert all(granted == outstanding for granted, outstanding in open_rounds)


@pytest.mark.parametrize("allocation", [Idpa(), Dynamic()], ids=lambda a: a.name)
def test_the_leases_of_a_round_are_in_proportion_to_speed(allocation: Allocation) -> None:
    stage = played(allocation, Sgwu())
    rounds = [stage.trained[first : first + 4] for first in range(0, len(stage.trained), 4)]
    assert all({lease.worker for lease in round_} == {0, 1, 2, 3} for round_ in rounds[:-1])
    for round_ in rounds[:-1]:
        total = sum(lease.size for lease in round_)
        assert all(abs(lease.size - total * SPEEDS[lease.worker] / 3750) <= 2 for lease in round_)


@by_name
def test_a_round_closes_without_a_worker_that_died(allocation: Allocation) -> None:
    exchange = ExchangeConfig(every=2, overlap=False)
    stage = Stage(a_setup(allocation, Sgwu(), exchange=exchange), SPEEDS, detect_s=0.5, respawn_s=1e6).open()
    stage.at(0.003, stage.kill, 3).run(until=0.502)
    assert stage.coordinator.model.version == 0  # three have pushed and wait for the fourth
    assert len(stage.coordinator.model.waiting) == 3
    stage.run(until=0.504)
    assert stage.coordinator.model.version == 1
    assert {command.worker for command in stage.commands(Send)[-3:]} == {0, 1, 2}


@by_name
def test_a_round_that_overlaps_closes_without_a_worker_that_died_and_the_next_one_too(allocation: Allocation) -> None:
    setup = a_setup(allocation, Sgwu(), num_samples=4800, faults=FaultConfig(restarts=0))
    stage = Stage(setup, SPEEDS, detect_s=0.5, respawn_s=1e6).open()
    stage.at(0.003, stage.kill, 3).run(until=0.502)
    assert stage.coordinator.model.version == 0
    stage.run(until=0.504)
    assert (
        stage.coordinator.model.version == 2
    )  # the lease ahead of the three was trained meanwhile, and pushed at once
    assert stage.run().settled()


@pytest.mark.parametrize("allocation", [Idpa(), Dynamic()], ids=lambda a: a.name)
@pytest.mark.parametrize("overlap", [True, False])
def test_rounds_that_overlap_hide_the_transfer(allocation: Allocation, overlap: bool) -> None:
    """Leases of 32 ms and messages of 12 ms: without overlap 32 of 56 ms are training."""
    setup = a_setup(allocation, Sgwu(), num_samples=24_000, exchange=ExchangeConfig(every=8, overlap=overlap))
    stage = Stage(setup, SPEEDS, delay_s=0.012).open().run()
    assert stage.settled()
    assert throughput(stage) == pytest.approx(1.0 if overlap else 32 / 56, abs=0.02)


def test_who_has_pushed_is_not_awaited_however_long_the_round_takes() -> None:
    faults = FaultConfig(patience_s=0.1, first_s=0.1, mads=1.0, slack=1.0, join_s=30.0)
    stage = Stage(a_setup(Dynamic(), Sgwu(), faults=faults), SPEEDS).open()
    stage.at(0.001, stage.freeze, 3, 0.15).run()
    assert stage.settled()
    assert not stage.commands(Replace)


@pytest.mark.parametrize("allocation", [Uniform(), Idpa(), Dynamic()], ids=lambda a: a.name)
def test_a_worker_that_joins_during_a_round_waits_for_the_next(allocation: Allocation) -> None:
    setup = a_setup(allocation, Sgwu(), num_samples=1600)
    stage = Stage(setup, SPEEDS).open().run(until=0.001)
    stage.join(4, 500.0)
    assert isinstance(stage.heard[-1][1], WorkerJoined)
    assert not [command for command in stage.commands(Send) if command.worker == 4]
    assert stage.run().settled()
    trained = sum(lease.size for lease in stage.trained if lease.worker == 4)
    assert (trained > 0) == (allocation.name != "uniform")  # its data was all given away


def test_evaluations_see_whole_rounds_only() -> None:
    stage = played(Uniform(), Sgwu(), num_samples=480, evaluate_every=0.1)
    versions = [(command.version, command.committed) for command in stage.commands(Evaluate)]
    assert versions[-1][1] == 1440
    assert len({version for version, _ in versions}) == len(versions)
    per_round = [sum(lease.size for lease in stage.trained[: 4 * version]) for version, _ in versions]
    assert [committed for _, committed in versions] == per_round


@by_name
def test_a_round_that_ends_by_the_clock_waits_for_no_worker_that_slows_down(allocation: Allocation) -> None:
    """Worker 0 is four times slower from 0.5 s on, within a round of about 1.1 s: that round is no longer for it."""
    ends = []
    for rule in (LocalSgd(), Anytime()):
        setup = a_setup(
            allocation, rule, num_samples=9000, exchange=ExchangeConfig(every=125, overlap=False), num_workers=2
        )
        stage = Stage(setup, [900.0, 900.0]).open()
        stage.at(0.5, stage.slow_down, 0, 4.0).run(until=30.0)
        pushes = [now for now, event in stage.heard if isinstance(event, Pushed) and event.worker == 0]
        ends.append(pushes[1] - pushes[0])
        assert stage.run().settled()
    assert ends[0] > 3 * ends[1]


@pytest.mark.parametrize("allocation", [Idpa(), Dynamic()], ids=lambda a: a.name)
def test_rounds_by_the_clock_keep_every_machine_busy_while_speeds_change(allocation: Allocation) -> None:
    setup = a_setup(allocation, Anytime(), num_samples=9000, exchange=ExchangeConfig(every=4), num_workers=3)
    stage = Stage(setup, [1000.0, 500.0, 500.0], delay_s=0.01).open()
    for when in (0.3, 0.9, 1.5):
        stage.at(when, stage.slow_down, 1, 0.5).at(when + 0.3, stage.slow_down, 1, 2.0)
    assert stage.run().settled()
    rows = [member.record for member in stage.coordinator.members.values()]
    assert sum(row.busy_s for row in rows) / stage.now / 3 > (0.97 if allocation.name == "dynamic" else 0.9)


# ---------------------------------------------------------------------------------------- asynchronous


@by_name
@pytest.mark.parametrize("overlap", [True, False])
def test_leases_ahead(allocation: Allocation, overlap: bool) -> None:
    setup = a_setup(allocation, Agwu(), num_samples=4800, exchange=ExchangeConfig(every=2, overlap=overlap))
    stage = Stage(setup, SPEEDS, delay_s=0.01).open().run(until=0.3)
    ledger = stage.coordinator.supply.ledger
    assert [len(ledger.outstanding(worker)) for worker in range(4)] == [1 + overlap] * 4
    assert [len(command.leases) for command in stage.commands(Send)[:4]] == [1 + overlap] * 4
    assert {len(command.leases) for command in stage.commands(Send)[4:]} == {1}


@by_name
def test_a_worker_that_holds_a_lease_is_answered_at_once_an_idle_one_when_there_is_work(
    allocation: Allocation,
) -> None:
    stage = Stage(a_setup(allocation, Agwu()), SPEEDS)
    handle, idle = stage.coordinator.handle, 0

    def watch(event: object, now: float) -> list:
        nonlocal idle
        commands = handle(event, now)
        if isinstance(event, Pushed) and stage.outcome is None:
            answered = [command.worker for command in commands if isinstance(command, Send)]
            holds = bool(stage.coordinator.supply.held(event.worker))
            assert answered == [event.worker] * holds
            idle += not holds
        return commands

    stage.coordinator.handle = watch
    assert stage.open().run().settled()
    assert idle > 0


def test_dynamic_leases_whole_steps_to_asynchronous_workers() -> None:
    setup = a_setup(Dynamic(), Agwu(), num_samples=4800, epochs=1)
    stage = Stage(setup, [2000.0, 1100.0, 550.0, 300.0]).open().run(until=1.0)
    assert {lease.size for lease in stage.trained} == {8, 16}
    assert stage.run().settled()


def test_a_slow_link_costs_nothing_while_a_lease_is_ahead() -> None:
    elapsed = {}
    for overlap in (True, False):
        exchange = ExchangeConfig(every=16, overlap=overlap)
        setup = a_setup(Idpa(), Agwu(), num_samples=6000, exchange=exchange, checkpoint_s=1000)
        stage = Stage(setup, SPEEDS, delay_s=0.02).open().run()
        elapsed[overlap] = stage.now
    assert elapsed[True] == pytest.approx(18_000 / 3750, rel=0.03)
    assert elapsed[False] > 1.4 * elapsed[True]


@pytest.mark.parametrize("rule", RULES, ids=lambda r: r.name)
@pytest.mark.parametrize("every", [3, 16, "epoch"])
def test_all_workers_exchange_equally_often_in_an_iteration(rule: Agwu | Sgwu, every: int) -> None:
    stage = played(Idpa(batches=3), rule, exchange=ExchangeConfig(every=every))
    plan = stage.coordinator.setup.plan
    for iteration in {lease.epoch for lease in stage.trained}:
        pieces = [[x.size for x in stage.trained if (x.epoch, x.worker) == (iteration, w)] for w in range(4)]
        assert len({len(sizes) for sizes in pieces}) == 1
        expected = 1 if every == "epoch" else ceil(sum(pieces[0]) / (every * plan.batch_size))
        assert len(pieces[0]) == expected
        assert max(pieces[0]) - min(pieces[0]) <= 1


# ------------------------------------------------------------------------------ start, marks, records


@by_name
def test_training_starts_when_all_have_joined(allocation: Allocation) -> None:
    stage = Stage(a_setup(allocation, Agwu()), SPEEDS)
    for worker in range(3):
        stage.at(1.0 + worker, stage.join, worker)
    stage.run(until=10.0)
    assert stage.ordered == []
    stage.at(12.0, stage.join, 3).run(until=12.0)
    assert {command.worker for command in stage.commands(Send)} == {0, 1, 2, 3}
    assert stage.coordinator.tally.started_s == 12.0


@by_name
def test_training_starts_without_those_that_stay_away(allocation: Allocation) -> None:
    stage = Stage(a_setup(allocation, Agwu()), SPEEDS)
    assert stage.at(1.0, stage.join, 0).at(2.0, stage.join, 2).run().settled()
    assert stage.coordinator.tally.started_s == pytest.approx(31.0, abs=1e-5)
    assert {lease.worker for lease in stage.trained} == {0, 2}


def test_checkpoints_come_by_the_clock_and_at_the_end() -> None:
    stage = Stage(a_setup(Dynamic(), Agwu(), checkpoint_s=5.0), [10.0, 10.0, 10.0, 10.0]).open().run()
    times = [now for now, command in stage.ordered if isinstance(command, SaveCheckpoint)]
    assert all(5.0 <= later - earlier < 8.0 for earlier, later in pairwise(times[:-1]))
    assert times[-1] == pytest.approx(stage.now, abs=1e-5)
    assert times[0] == 0.0
    assert len(times) == 8


def test_the_tally_adds_up() -> None:
    stage = played(Dynamic(), Agwu(), num_samples=480, evaluate_every=1.0)
    tally, members = stage.coordinator.tally, stage.coordinator.members.values()
    pushes = [event for _, event in stage.heard if isinstance(event, Pushed)]
    assert tally.bytes_pushed == 32 * len(pushes) == 32 * sum(member.record.pushes for member in members)
    assert tally.bytes_pulled == 32 * len(stage.commands(Send))
    assert sum(member.record.samples for member in members) == 1440
    assert sum(sum(busy.values()) for busy in tally.busy.values()) == pytest.approx(
        sum(member.record.busy_s for member in members)
    )
    assert [committed for _, committed, _ in tally.history] == sorted(committed for _, committed, _ in tally.history)


def test_the_last_version_is_evaluated() -> None:
    for rule in RULES:
        setup = a_setup(Dynamic(), rule, evaluate_every=0.7)
        stage = Stage(setup, SPEEDS, problem=Quadratic(480)).open().run()
        last = stage.commands(Evaluate)[-1]
        assert last.version == stage.coordinator.model.version
        assert last.weights is stage.coordinator.model.average
        assert last.committed == 1440
        assert EvaluationConfig(every=0.7) == stage.coordinator.setup.evaluation


def test_a_warm_start_is_trained_by_the_fastest_worker_alone() -> None:
    setup = a_setup(Dynamic(), Downpour(rate=0.25, warm_start=0.25), num_samples=1600)
    stage = Stage(setup, SPEEDS).open()
    stage.at(0.3, stage.kill, 0).run()
    assert stage.settled()
    counted = [sum(lease.size for lease in stage.trained[: index + 1]) for index in range(len(stage.trained))]
    early = [lease.worker for lease, size in zip(stage.trained, counted, strict=True) if size <= 0.25 * 4800]
    assert set(early) == {0, 1}  # the second takes over from the first, which died
    assert early == sorted(early) or early.count(0) > early.count(1)
    assert {lease.worker for lease in stage.trained} == {0, 1, 2, 3}
