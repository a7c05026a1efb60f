"""A server that dies and comes back: nothing it saved is forgotten, nobody of its earlier life is believed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from outer.stage import PAIR_NAMES, PAIRS, Quadratic, Stage, a_setup, saved_and_loaded

from bptcnn import checkpoint
from bptcnn.outer.allocation import Allocation, Dynamic, ExchangeConfig, Idpa, Uniform
from bptcnn.outer.coordinator import Coordinator
from bptcnn.outer.members import SESSION
from bptcnn.outer.messages import Command, Evaluate, Pushed, Refuse, SaveCheckpoint, Send, WorkerJoined
from bptcnn.outer.rules import Agwu, Sgwu

every_pair = pytest.mark.parametrize(("allocation", "rule"), PAIRS, ids=PAIR_NAMES)
SPEEDS = [80.0, 40.0, 20.0, 10.0]


def a_stage(allocation: Allocation, rule: Agwu | Sgwu, checkpoint_s: float = 2.0) -> Stage:
    setup = a_setup(allocation, rule, checkpoint_s=checkpoint_s, exchange=ExchangeConfig(every=4))
    return Stage(setup, SPEEDS, problem=Quadratic(480)).open()


def plain(command: Command) -> tuple[object, ...]:
    """A command in values that compare."""
    if not isinstance(command, Send):
        return type(command).__name__, getattr(command, "version", None), getattr(command, "committed", None)
    leases = [(x.id, x.epoch, x.owner, x.indices.tolist(), x.progress) for x in command.leases]
    weights = None if command.weights is None else command.weights.tolist()
    return command.worker, command.incarnation, command.version, weights, leases


def played_on(setup_session: int, old: Stage, tree: object) -> Stage:
    """A new session from a snapshot, to its end, with one more death on the way."""
    setup = replace(old.coordinator.setup, session=setup_session)
    coordinator = Coordinator.restore(setup, saved_and_loaded(tree), old.now)
    stage = Stage(setup, SPEEDS, problem=Quadratic(480), coordinator=coordinator)
    stage.book.update({(0, -n): 1 for n in range(coordinator.supply.ledger.committed)})  # the earlier session's
    stage.open().at(2.0, stage.kill, 1).run()
    return stage


@settings(max_examples=8)
@given(pair=st.sampled_from(PAIRS), moment=st.floats(0.0, 12.0), death_s=st.floats(0.0, 12.0))
def test_a_snapshot_at_any_moment_leads_to_the_same_future(
    pair: tuple[Allocation, Agwu | Sgwu], moment: float, death_s: float
) -> None:
    stage = a_stage(*pair)
    stage.at(death_s, stage.kill, 0)
    stage.run(until=moment)
    while stage.coordinator.model.waiting:  # a round under way is never saved
        stage.run(until=stage.now + 0.05)
    tree = stage.coordinator.snapshot(stage.now)
    copy = saved_and_loaded(tree)
    again = Coordinator.restore(stage.coordinator.setup, saved_and_loaded(tree), stage.now).snapshot(stage.now)
    futures = [played_on(1, stage, snapshot) for snapshot in (tree, copy, again)]
    commands = [[plain(command) for _, command in future.ordered] for future in futures]
    assert commands[0] == commands[1] == commands[2]
    assert all(future.settled() for future in futures)
    assert len(commands[0]) > 1
    stage.run()  # the session that went on was not disturbed by being looked at
    assert stage.settled()


@every_pair
def test_a_restored_coordinator_knows_what_the_old_one_knew(allocation: Allocation, rule: Agwu | Sgwu) -> None:
    stage = a_stage(allocation, rule).run(until=4.9)
    while stage.coordinator.model.waiting:
        stage.run(until=stage.now + 0.05)
    old = stage.coordinator
    new = Coordinator.restore(replace(old.setup, session=1), saved_and_loaded(old.snapshot(stage.now)), stage.now)
    assert new.model.version == old.model.version > 0
    assert new.model.weights.tolist() == old.model.weights.tolist()
    assert new.supply.ledger.committed == old.supply.ledger.committed
    assert new.supply.ledger.outstanding() == []
    assert new.speeds() == old.speeds()
    assert [m.record for m in new.members.values()] == [m.record for m in old.members.values()]
    assert new.tally.history == old.tally.history
    assert new.tally.elapsed_s(1e9) == pytest.approx(old.tally.elapsed_s(stage.now))


@every_pair
@pytest.mark.parametrize("survivors", [True, False])
def test_the_server_restarts_and_survivors_of_the_earlier_session_are_refused(
    allocation: Allocation, rule: Agwu | Sgwu, survivors: bool
) -> None:
    stage = a_stage(allocation, rule, checkpoint_s=1.0)
    stage.at(4.9, stage.restart_server, survivors).at(7.3, stage.restart_server, survivors)
    assert stage.run().settled()
    refused = [command.incarnation for command in stage.commands(Refuse)]
    assert bool(refused) == survivors
    assert {incarnation // SESSION for incarnation in refused} >= ({0} if survivors else set())
    assert {lease.incarnation // SESSION for lease in stage.trained} == {2}


@every_pair
def test_a_survivor_that_pushes_before_it_joins_again_is_refused(allocation: Allocation, rule: Agwu | Sgwu) -> None:
    stage = a_stage(allocation, rule).run(until=0.0)
    old = stage.coordinator
    lease = old.supply.held(0)[0]
    new = Coordinator.restore(replace(old.setup, session=1), saved_and_loaded(old.snapshot(0.0)), 0.0)
    push = Pushed(0, 1, 1, lease.id, 0, 1, lease.size, 1.0, 1.0, 0.5, None)
    assert [type(command) for command in new.handle(push, 1.0)] == [Refuse]
    for worker in range(4):
        commands = new.handle(WorkerJoined(worker, 10.0), 2.0)
    assert {command.incarnation for command in commands if isinstance(command, Send)} == {SESSION + 1}
    assert [type(command) for command in new.handle(push, 3.0)] == [Refuse]
    assert new.supply.ledger.committed == 0


def test_a_finished_run_that_is_opened_again_is_finished() -> None:
    for allocation, rule in PAIRS:
        stage = a_stage(allocation, rule).run()
        stage.restart_server()
        trained = stage.coordinator.supply.ledger.committed
        assert stage.run().settled()
        assert stage.coordinator.supply.ledger.committed == trained


@pytest.mark.parametrize("allocation", [Uniform(), Idpa()], ids=lambda a: a.name)
def test_a_restart_keeps_the_pieces_of_an_iteration(allocation: Allocation) -> None:
    stage = Stage(a_setup(allocation, Agwu(), num_samples=640, checkpoint_s=0.5), [40.0] * 4).open()
    stage.run(until=4.15).restart_server(survivors=False)
    assert stage.run().settled()
    assert max(lease.size for lease in stage.trained) <= 16


def test_no_evaluation_is_repeated_after_a_restart() -> None:
    stage = a_stage(Dynamic(), Sgwu(), checkpoint_s=0.01).run(until=6.0)
    versions = [command.version for command in stage.commands(Evaluate)]
    stage.restart_server(survivors=False)
    assert stage.run().settled()
    all_versions = [command.version for command in stage.commands(Evaluate)]
    assert all_versions[: len(versions)] == versions
    assert sorted(set(all_versions)) == all_versions


@every_pair
def test_a_snapshot_survives_the_disk(tmp_path: Path, allocation: Allocation, rule: Agwu | Sgwu) -> None:
    stage = a_stage(allocation, rule).run()
    assert stage.saved is not None
    path = checkpoint.save(tmp_path, "0001", stage.coordinator.snapshot(stage.now))
    tree = checkpoint.load(path)
    restored = Coordinator.restore(replace(stage.coordinator.setup, session=1), tree, stage.now)
    assert restored.supply.ledger.account() == stage.coordinator.supply.ledger.account()
    np.testing.assert_array_equal(restored.model.weights, stage.coordinator.model.weights)


def test_checkpoints_are_never_taken_in_the_middle_of_a_round() -> None:
    stage = Stage(a_setup(Uniform(), Sgwu(), checkpoint_s=0.01), SPEEDS, problem=Quadratic(480)).open().run()
    assert stage.settled()  # a snapshot asserts it, and the stage takes one at every order
    assert len(stage.commands(SaveCheckpoint)) > 10
