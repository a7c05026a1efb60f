"""Rounds that the workers sum among themselves: what is summed, and what becomes of a sum that is lost."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from outer.stage import Quadratic, Stage, a_setup

from bptcnn.outer.allocation import Allocation, Dynamic, ExchangeConfig, Uniform
from bptcnn.outer.coordination import begin
from bptcnn.outer.messages import Pushed, Reduce, Reduced, Refuse, Replace, Send, WorkerJoined, WorkerLost
from bptcnn.outer.rules import AllReduce, LocalSgd, Strategy

SPEEDS = [80.0, 40.0]
EACH_STEP = ExchangeConfig(every=1, overlap=False)


def a_stage(rule: Strategy | None = None, allocation: Allocation | None = None, **more: Any) -> Stage:
    setup = a_setup(allocation or Dynamic(), rule or AllReduce(), num_samples=240, exchange=EACH_STEP, num_workers=2)
    speeds = more.pop("speeds", SPEEDS)
    return Stage(setup, speeds, **{"problem": Quadratic(240), "delay_s": 0.01, **more}).open()


def a_round() -> tuple[Any, dict[int, int]]:
    """A coordinator whose three workers have pushed, with the sizes of what they trained."""
    coordinator = begin(a_setup(Uniform(), AllReduce(), exchange=EACH_STEP, num_workers=3), np.zeros(2, np.float32))
    commands = [command for worker in range(3) for command in coordinator.handle(WorkerJoined(worker, 10.0), 0.0)]
    leases = {command.worker: command.leases[0] for command in commands if isinstance(command, Send)}
    for worker, lease in leases.items():
        push = Pushed(worker, 1, 1, lease.id, 0, 1, lease.size, 0.1, 1.0, 0.5, None)
        ordered = coordinator.handle(push, 0.1)
    assert [command.worker for command in ordered] == [0, 1, 2]
    return coordinator, {worker: lease.size for worker, lease in leases.items()}


def told(coordinator: Any, worker: int, *, succeeded: bool, attempt: int = 1, delta: Any = None) -> list[Any]:
    return list(coordinator.handle(Reduced(worker, 1, attempt, succeeded=succeeded, delta=delta), 0.2))


@pytest.mark.parametrize("allocation", [Dynamic(), Uniform()], ids=lambda a: a.name)
def test_it_learns_what_rounds_through_a_server_learn(allocation: Allocation) -> None:
    summed, served = (a_stage(rule, allocation).run() for rule in (AllReduce(), LocalSgd()))
    assert summed.settled()
    assert served.settled()
    assert np.allclose(summed.coordinator.model.weights, served.coordinator.model.weights, atol=1e-6)
    assert summed.coordinator.model.version == served.coordinator.model.version


def test_factors_are_parts_of_the_round_and_weights_travel_once() -> None:
    stage = a_stage(AllReduce()).run()
    for orders in zip(*[iter(stage.commands(Reduce))] * 2, strict=True):
        assert sum(order.scale for order in orders) == pytest.approx(1.0)
        assert {order.team for order in orders} == {(0, 1)}
        assert {order.since for order in orders} == {1}
    first, *others = [[send for send in stage.commands(Send) if send.worker == worker] for worker in (0, 1)]
    for sends in (first, *others):
        assert [send.summed for send in sends] == [False] + [True] * (len(sends) - 1)
        assert all((send.weights is None) == send.summed for send in sends)


def test_the_sum_counts_when_the_first_of_the_team_hands_it_in() -> None:
    coordinator, sizes = a_round()
    assert told(coordinator, 1, succeeded=True) == []
    assert coordinator.model.version == 0
    assert told(coordinator, 0, succeeded=True, delta=np.ones(2, np.float32)) == []
    assert coordinator.model.version == 1
    assert coordinator.model.weights.tolist() == [1.0, 1.0]
    sends = told(coordinator, 2, succeeded=False)
    assert [(send.worker, send.summed) for send in sends] == [(0, True), (1, True), (2, False)]
    assert coordinator.supply.ledger.committed == sum(sizes.values())


def test_who_dies_after_the_sum_has_counted_leaves_its_samples_behind() -> None:
    coordinator, sizes = a_round()
    told(coordinator, 0, succeeded=True, delta=np.ones(2, np.float32))
    coordinator.handle(WorkerLost(1, 1, "its process died"), 0.3)
    assert coordinator.supply.ledger.committed == sum(sizes.values())


def test_a_sum_with_the_part_of_one_who_died_before_it_counted_does_not_count() -> None:
    coordinator, sizes = a_round()
    coordinator.handle(WorkerLost(1, 1, "its process died"), 0.3)
    assert told(coordinator, 0, succeeded=True, delta=np.ones(2, np.float32)) == []
    assert coordinator.model.version == 0
    again = told(coordinator, 2, succeeded=True)
    assert [(order.worker, order.team) for order in again] == [(0, (0, 2)), (2, (0, 2))]
    assert coordinator.supply.ledger.committed == sizes[0] + sizes[2]


@pytest.mark.parametrize("dead", [0, 1])
def test_a_sum_that_is_lost_with_a_worker_is_made_again_by_the_others(dead: int) -> None:
    coordinator, sizes = a_round()
    left = sorted({0, 1, 2} - {dead})
    assert told(coordinator, left[0], succeeded=False) == []
    assert told(coordinator, left[1], succeeded=dead == 0) == []  # it has the sum, but who was to hand it in has died
    replace, *again = coordinator.handle(WorkerLost(dead, 1, "its process died"), 0.3)
    assert isinstance(replace, Replace)
    assert [(order.worker, order.attempt, order.since) for order in again] == [(left[0], 2, 2), (left[1], 2, 2)]
    assert sum(order.scale for order in again) == pytest.approx(1.0)
    assert coordinator.supply.ledger.committed == sizes[left[0]] + sizes[left[1]]
    assert coordinator.model.version == 0


def test_a_word_on_an_attempt_that_is_over_changes_nothing() -> None:
    coordinator, _ = a_round()
    for worker in range(3):
        orders = told(coordinator, worker, succeeded=False)
    assert [order.attempt for order in orders] == [2, 2, 2]
    assert told(coordinator, 0, succeeded=True, attempt=1, delta=np.ones(2, np.float32)) == []
    assert coordinator.model.version == 0


def test_a_word_of_an_earlier_life_is_refused() -> None:
    coordinator, _ = a_round()
    coordinator.handle(WorkerLost(1, 1, "its process died"), 0.3)
    [refusal] = told(coordinator, 1, succeeded=True)
    assert (refusal.worker, refusal.incarnation) == (1, 1)
    assert isinstance(refusal, Refuse)
    again = begin(coordinator.setup, None)  # a server that was restarted knows none of them
    assert isinstance(told(again, 0, succeeded=True)[0], Refuse)


def test_a_connection_that_failed_somebody_is_not_used_again() -> None:
    coordinator, _ = a_round()
    told(coordinator, 0, succeeded=True, delta=np.ones(2, np.float32))
    told(coordinator, 1, succeeded=True)
    sends = told(coordinator, 2, succeeded=False)
    for send in sends:
        push = Pushed(send.worker, 1, 2, send.leases[0].id, 1, 1, send.leases[0].size, 0.1, 1.0, 0.5, None)
        orders = coordinator.handle(push, 0.5)
    assert [(order.attempt, order.since) for order in orders] == [(2, 2)] * 3


def test_a_team_that_comes_back_is_still_connected() -> None:
    stage = a_stage(speeds=(80.0, 1.0)).run(until=40.0)  # the slow one has a part in few of the rounds
    teams = {order.team: set() for order in stage.commands(Reduce)}
    for order in stage.commands(Reduce):
        teams[order.team].add(order.since)
    assert set(teams) == {(0,), (0, 1)}
    assert {team: len(since) for team, since in teams.items()} == {(0,): 1, (0, 1): 1}


def test_how_long_a_sum_may_take_follows_the_last_ones() -> None:
    """4 + 2 s while nothing is known; after a sum of 5 s twice that, and 2 s."""
    coordinator, _ = a_round()
    assert coordinator.next_deadline_s() == pytest.approx(0.1 + 6.0)
    for worker in range(3):
        sends = coordinator.handle(Reduced(worker, 1, 1, succeeded=True, delta=np.ones(2, np.float32)), 5.1)
    for send in sends:
        push = Pushed(send.worker, 1, 2, send.leases[0].id, 1, 1, send.leases[0].size, 0.1, 1.0, 0.5, None)
        orders = coordinator.handle(push, 6.0)
    assert coordinator.next_deadline_s() == pytest.approx(6.0 + 12.0)
    assert [order.patience_s for order in orders] == [pytest.approx(6.0)] * 3


def test_who_stands_still_in_a_sum_is_replaced_and_nobody_else() -> None:
    stage = a_stage(delay_s=0.3)
    while not stage.commands(Reduce):
        stage.run(until=stage.now + 0.1)
    stage.freeze(1, 1000.0)
    stage.run()
    assert stage.settled()
    assert {command.worker for command in stage.commands(Replace)} == {1}


def test_workers_that_do_not_reach_one_another_end_the_run_with_a_sentence() -> None:
    stage = a_stage(reachable=False).run()
    assert stage.settled("failed")
    assert stage.coordinator.reason == (
        "5 times the workers did not reach one another to sum their weights (nobody came), which local-sgd does without"
    )
    assert stage.coordinator.supply.ledger.committed == 0


def test_a_newcomer_waits_for_the_end_of_the_round() -> None:
    stage = a_stage()
    stage.at(1.0, stage.join, 2, 40.0).run()
    assert stage.settled()
    [first] = [send for send in stage.commands(Send) if send.worker == 2][:1]
    assert first.weights is not None
    assert stage.commands(Reduce)[-1].team == (0, 1, 2)
