"""Stories of workers that die, freeze, repeat themselves or come late: no sample is lost, none counts twice."""

from __future__ import annotations

import pytest
from outer.stage import FAULTS, PAIR_NAMES, PAIRS, Quadratic, Stage, a_setup

from bptcnn.outer.allocation import Allocation, Dynamic, ExchangeConfig, Idpa, Uniform
from bptcnn.outer.messages import (
    Dismiss,
    Evaluate,
    Finish,
    Pushed,
    Refuse,
    Replace,
    SaveCheckpoint,
    Send,
    TimePassed,
    WorkerJoined,
    WorkerLost,
)
from bptcnn.outer.rules import Agwu, Sgwu

every_pair = pytest.mark.parametrize(("allocation", "rule"), PAIRS, ids=PAIR_NAMES)
SPEEDS = [80.0, 40.0, 20.0, 10.0]


def a_stage(allocation: Allocation, rule: Agwu | Sgwu, **settings: object) -> Stage:
    setup = a_setup(allocation, rule, exchange=ExchangeConfig(every=4))
    return Stage(setup, SPEEDS, problem=Quadratic(480), **settings).open()


# ----------------------------------------------------------------------------------------------- death


@every_pair
def test_a_worker_dies_and_is_replaced(allocation: Allocation, rule: Agwu | Sgwu) -> None:
    stage = a_stage(allocation, rule)
    stage.at(3.0, stage.kill, 0)
    assert stage.run().settled()
    [replace] = stage.commands(Replace)
    assert (replace.worker, replace.incarnation, replace.reason) == (0, 1, "its process died")
    assert {lease.incarnation for lease in stage.trained if lease.worker == 0} == {1, 2}
    assert stage.coordinator.supply.ledger.returned > 0
    assert stage.coordinator.members[0].record.replaced == 1


@every_pair
def test_a_worker_that_dies_too_often_is_given_up_and_its_data_dealt_to_the_others(
    allocation: Allocation, rule: Agwu | Sgwu
) -> None:
    stage = a_stage(allocation, rule, detect_s=0.1, respawn_s=0.2)
    for moment in (1.0, 2.0, 3.0):
        stage.at(moment, stage.kill, 1)
    assert stage.run().settled()
    assert len(stage.commands(Replace)) == FAULTS.restarts
    [dismiss] = stage.commands(Dismiss)
    assert dismiss.worker == 1
    given_up = stage.ordered.index(next(entry for entry in stage.ordered if isinstance(entry[1], Dismiss)))
    later = [command for _, command in stage.ordered[given_up:] if isinstance(command, Send)]
    assert {command.worker for command in later} == {0, 2, 3}


@pytest.mark.parametrize("rule", [Agwu(), Sgwu()], ids=lambda r: r.name)
def test_heirs_keep_what_they_inherit(rule: Agwu | Sgwu) -> None:
    setup = a_setup(Uniform(), rule, num_samples=400, epochs=6)
    stage = Stage(setup, [40.0, 40.0, 40.0, 20.0], detect_s=0.0, respawn_s=0.0).open()
    for moment in (0.1, 0.2, 0.3):
        stage.at(moment, stage.kill, 3)
    assert stage.run().settled()
    sizes = {w: sum(lease.size for lease in stage.trained if (lease.epoch, lease.worker) == (4, w)) for w in range(3)}
    assert sorted(sizes.values()) == [133, 133, 134]


@every_pair
def test_all_workers_die_at_once_and_come_back(allocation: Allocation, rule: Agwu | Sgwu) -> None:
    stage = a_stage(allocation, rule)
    for worker in range(4):
        stage.at(2.5, stage.kill, worker)
    assert stage.run().settled()
    assert len(stage.commands(Replace)) == 4


@every_pair
def test_the_run_fails_when_nobody_is_left(allocation: Allocation, rule: Agwu | Sgwu) -> None:
    stage = a_stage(allocation, rule, detect_s=0.1, respawn_s=0.1)
    for moment in range(1, 4):
        for worker in range(4):
            stage.at(moment, stage.kill, worker)
    assert stage.run().settled("failed")
    assert len(stage.commands(Dismiss)) == 3
    finish = stage.commands(Finish)[-1]
    assert "no worker is left" in finish.reason
    assert "its process died" in finish.reason
    assert isinstance(stage.ordered[-2][1], SaveCheckpoint)


@every_pair
def test_a_failed_run_goes_on_with_new_machines(allocation: Allocation, rule: Agwu | Sgwu) -> None:
    stage = a_stage(allocation, rule, detect_s=0.1, respawn_s=0.1)
    for moment in range(1, 4):
        for worker in range(4):
            stage.at(moment, stage.kill, worker)
    stage.run()
    before = stage.coordinator.supply.ledger.committed
    assert 0 < before < 1440
    stage.restart_server()
    assert stage.coordinator.supply.ledger.committed == before
    assert stage.run().settled()
    assert not stage.commands(Refuse)


@every_pair
def test_a_replacement_that_never_joins_is_given_up(allocation: Allocation, rule: Agwu | Sgwu) -> None:
    stage = a_stage(allocation, rule, respawn_s=1e6)
    stage.at(2.0, stage.kill, 2)
    assert stage.run().settled()
    assert stage.now < 2.0 + 1.0 + FAULTS.restarts * (FAULTS.join_s + 1) + 60
    if allocation.name != "dynamic":  # which need not wait for it
        assert len(stage.commands(Replace)) == FAULTS.restarts
        assert len(stage.commands(Dismiss)) == 1


def test_who_never_joins_does_not_keep_a_run_without_workers_alive() -> None:
    stage = Stage(a_setup(Dynamic(), Agwu()), SPEEDS, detect_s=0.0, respawn_s=0.0)
    stage.at(0.0, stage.join, 0)
    for moment in (32.0, 33.0, 34.0):
        stage.at(moment, stage.kill, 0)
    assert stage.run().settled("failed")


# --------------------------------------------------------------------------------------------- silence


@every_pair
def test_a_frozen_worker_is_given_up_and_its_late_push_refused(allocation: Allocation, rule: Agwu | Sgwu) -> None:
    stage = a_stage(allocation, rule)
    stage.at(3.0, stage.freeze, 1, 25.0)
    stage.at(3.0, stage.slow_down, 0, 4.0)  # so that the run is still going when it thaws
    zombie_push = []
    stage.at(3.0, lambda: zombie_push.append(stage.lives[1]))
    assert stage.run().settled()
    [replace] = [command for command in stage.commands(Replace) if command.worker == 1]
    assert "silent for" in replace.reason
    silent = next(now for now, command in stage.ordered if command is replace)
    assert 4.0 < silent < 28.0
    refused = [(now, c) for now, c in stage.ordered if isinstance(c, Refuse)]
    assert all((c.worker, c.incarnation) == (1, 1) and now >= 28.0 for now, c in refused)
    assert bool(refused) == (stage.now > 28.0)
    assert {lease.incarnation for lease in stage.trained if lease.worker == 1} == {1, 2}


def test_the_late_push_of_a_zombie_changes_nothing() -> None:
    for allocation, rule in PAIRS:
        stage = a_stage(allocation, rule).run(until=3.0)
        coordinator = stage.coordinator
        lease = coordinator.supply.held(3)[0]
        stage.tell(WorkerLost(3, 1, "the link was cut"))
        before = (coordinator.model.version, coordinator.supply.ledger.account(), coordinator.members[3].record.pushes)
        commands = stage.tell(Pushed(3, 1, 99, lease.id, 0, 1, lease.size, 1.0, 1.0, 0.5, None))
        assert [type(command) for command in commands] == [Refuse]
        after = (coordinator.model.version, coordinator.supply.ledger.account(), coordinator.members[3].record.pushes)
        assert after == before
        assert stage.run().settled()


@every_pair
def test_silence_is_judged_only_while_there_is_work(allocation: Allocation, rule: Agwu | Sgwu) -> None:
    stage = Stage(a_setup(allocation, rule, num_samples=480), [80.0, 80.0, 80.0, 1.0], calibrated=[80.0] * 4).open()
    assert stage.run().settled()
    assert {command.worker for command in stage.commands(Replace)} <= {3}


def test_time_passing_with_nobody_there_is_nothing() -> None:
    for allocation, rule in PAIRS:
        stage = Stage(a_setup(allocation, rule), SPEEDS)
        assert stage.coordinator.next_deadline_s() is None
        assert stage.tell(TimePassed()) == []
        stage.join(0)
        assert stage.coordinator.next_deadline_s() == FAULTS.join_s
        assert stage.tell(TimePassed()) == []


# ------------------------------------------------------------------------------------------ repetition


@every_pair
def test_repeated_pushes_are_ignored(allocation: Allocation, rule: Agwu | Sgwu) -> None:
    once, twice = (a_stage(allocation, rule, twice=twice).run() for twice in (False, True))
    assert once.settled()
    assert twice.settled()
    assert [(now, command.version) for now, command in once.ordered if isinstance(command, Send)] == [
        (now, command.version) for now, command in twice.ordered if isinstance(command, Send)
    ]
    assert once.coordinator.model.weights.tolist() == twice.coordinator.model.weights.tolist()


@every_pair
def test_duplicates_that_arrive_late_are_ignored(allocation: Allocation, rule: Agwu | Sgwu) -> None:
    stage = a_stage(allocation, rule, twice=True, delay_s=0.7)
    stage.at(4.0, stage.kill, 2)
    assert stage.run().settled()


@every_pair
def test_a_worker_joins_again_without_having_been_reported_lost(allocation: Allocation, rule: Agwu | Sgwu) -> None:
    stage = a_stage(allocation, rule)
    stage.at(3.0, stage.join, 0).at(3.0, stage.join, 0).at(5.0, stage.join, 3)
    assert stage.run().settled()
    assert stage.coordinator.members[0].incarnation == 3
    assert stage.coordinator.members[0].record.replaced == 0
    assert not stage.commands(Replace)


# ------------------------------------------------------------------------------- arrivals, departures


@every_pair
def test_a_late_joiner_helps(allocation: Allocation, rule: Agwu | Sgwu) -> None:
    alone = a_stage(allocation, rule).run()
    stage = a_stage(allocation, rule)
    stage.at(0.5, stage.join, 4, 100.0)
    assert stage.run().settled()
    helped = any(lease.worker == 4 for lease in stage.trained)
    assert helped == (allocation.name != "uniform")
    assert stage.now < alone.now if helped else stage.now == pytest.approx(alone.now)


@every_pair
def test_a_late_joiner_takes_over_what_the_dead_leave(allocation: Allocation, rule: Agwu | Sgwu) -> None:
    stage = a_stage(allocation, rule, detect_s=0.1, respawn_s=0.1)
    stage.at(1.0, stage.join, 7, 100.0)
    for moment in (2.0, 3.0, 4.0):
        for worker in range(4):
            stage.at(moment, stage.kill, worker)
    assert stage.run().settled()
    assert {command.worker for command in stage.commands(Dismiss)} == {0, 1, 2, 3}
    assert stage.trained[-1].worker == 7


@every_pair
def test_events_of_a_dismissed_worker_change_nothing(allocation: Allocation, rule: Agwu | Sgwu) -> None:
    stage = a_stage(allocation, rule, detect_s=0.1, respawn_s=0.1)
    for moment in (0.5, 1.0, 1.5):
        stage.at(moment, stage.kill, 2)
    stage.run(until=2.5)
    incarnation = stage.coordinator.members[2].incarnation
    assert stage.coordinator.members[2].record.dismissed
    before = stage.coordinator.supply.ledger.account()
    assert stage.tell(WorkerLost(2, incarnation, "again")) == []
    assert [type(c) for c in stage.tell(Pushed(2, incarnation, 9, 1, 0, 1, 8, 1.0, 1.0, 0.5, None))] == [Refuse]
    assert [type(c) for c in stage.tell(WorkerJoined(2, 50.0))] == [Refuse]
    assert stage.coordinator.supply.ledger.account() == before
    assert stage.run().settled()


def test_a_worker_that_dies_before_it_ever_joins_is_replaced_then_given_up() -> None:
    for allocation, rule in PAIRS:
        stage = Stage(a_setup(allocation, rule), SPEEDS, respawn_s=1e6)
        for worker in range(3):
            stage.at(0.0, stage.join, worker)
        stage.run(until=0.0)
        for _ in range(FAULTS.restarts):
            [replace] = stage.tell(WorkerLost(3, 0, "it could not be started"))
            assert (replace.worker, replace.incarnation) == (3, 0)
        commands = stage.tell(WorkerLost(3, 0, "it could not be started"))
        assert [type(command) for command in commands][:4] == [Dismiss, Send, Send, Send]  # the others need not wait
        assert stage.run().settled()


def test_unknown_workers_are_refused_or_ignored() -> None:
    stage = a_stage(Dynamic(), Agwu()).run(until=1.0)
    assert stage.tell(WorkerLost(9, 0, "who?")) == []
    [refuse] = stage.tell(Pushed(9, 1, 1, 1, 0, 1, 8, 1.0, 1.0, 0.5, None))
    assert (type(refuse), refuse.worker) == (Refuse, 9)
    assert 9 not in stage.coordinator.members


def test_an_earlier_life_being_reported_dead_does_not_end_the_present_one() -> None:
    stage = a_stage(Dynamic(), Agwu())
    stage.at(1.0, stage.join, 0).run(until=2.0)
    assert stage.tell(WorkerLost(0, 1, "the old process ended")) == []
    assert stage.coordinator.members[0].present


def test_work_of_the_dead_returns_to_the_pool_that_it_came_from() -> None:
    stage = Stage(a_setup(Uniform(), Agwu(), num_samples=400), SPEEDS, detect_s=0.0, respawn_s=0.05).open()
    for moment in (0.2, 0.4, 0.6):  # worker 3 is given up; its data becomes the others' and, once they are done, shared
        stage.at(moment, stage.kill, 3)
    stage.at(4.5, stage.join, 5, 80.0)
    stage.at(4.6, stage.kill, 5)
    stage.run(until=4.55)
    shared = [lease for lease in stage.coordinator.supply.held(5) if lease.owner != 5]
    stage.run(until=4.6)
    for lease in shared:
        assert lease.owner == -1
    assert stage.run().settled()


def test_returned_leases_are_granted_again_in_their_order() -> None:
    for allocation in (Uniform(), Dynamic()):
        stage = Stage(a_setup(allocation, Agwu(), num_workers=1), [10.0]).open().run(until=1.0)
        held = [lease.indices.tolist() for lease in stage.coordinator.supply.held(0)]
        stage.join(0)
        assert [lease.indices.tolist() for lease in stage.coordinator.supply.held(0)] == held
        assert stage.run().settled()


def test_a_returned_piece_stays_in_its_iteration() -> None:
    """A worker that dies holding pieces of two iterations finds both cut as before."""
    setup = a_setup(Uniform(), Agwu(), num_samples=640)
    stage = Stage(setup, [40.0] * 4).open()
    stage.at(3.7, stage.kill, 0).run(until=3.7)
    assert [lease.epoch for lease in stage.coordinator.supply.held(0)] == [1, 2]
    assert stage.run().settled()
    assert {lease.size for lease in stage.trained} == {16}


# ------------------------------------------------------------------------------------------------ stop


@every_pair
def test_a_stop_in_the_middle_of_a_round_keeps_what_was_pushed(allocation: Allocation, rule: Agwu | Sgwu) -> None:
    stage = a_stage(allocation, rule).run(until=3.05)
    pushed = stage.coordinator.supply.ledger.committed
    waiting = len(stage.coordinator.model.waiting)
    version = stage.coordinator.model.version
    stage.stop("interrupted")
    assert stage.settled("interrupted")
    kinds = [type(command) for _, command in stage.ordered[-3:]]
    assert kinds == [Evaluate, SaveCheckpoint, Finish]
    assert stage.coordinator.model.version == version + bool(waiting)
    assert stage.coordinator.model.waiting == []
    assert stage.coordinator.supply.ledger.committed == pushed
    assert stage.tell(TimePassed()) == []  # nothing happens after the end
    stage.restart_server()
    assert stage.coordinator.supply.ledger.committed == pushed
    assert stage.run().settled()


def test_a_stop_before_anybody_joined() -> None:
    stage = Stage(a_setup(Idpa(), Sgwu()), SPEEDS)
    stage.stop("diverged")
    assert stage.settled("diverged")
    assert [type(command) for _, command in stage.ordered] == [SaveCheckpoint, Finish]


@pytest.mark.parametrize("every", [1000, "epoch"])
@every_pair
def test_leases_larger_than_the_data(allocation: Allocation, rule: Agwu | Sgwu, every: int) -> None:
    setup = a_setup(allocation, rule, exchange=ExchangeConfig(every=every), epochs=1)
    stage = Stage(setup, SPEEDS).open()
    stage.at(1.0, stage.kill, 0).at(1.0, stage.kill, 3)
    assert stage.run().settled()
