"""The sample account: what leaves a pool is committed once or comes back."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from outer.stage import saved_and_loaded

from bptcnn.outer.ledger import SHARED, Account, Ledger


def dealt(num_samples: int = 10, owner: int = SHARED) -> Ledger:
    ledger = Ledger(num_samples)
    ledger.deal(epoch=1, owner=owner, indices=np.arange(num_samples))
    return ledger


def test_a_returned_lease_is_the_next_to_be_granted() -> None:
    ledger = dealt()
    first = ledger.grant(worker=0, incarnation=1, epoch=1, owner=SHARED, count=3)
    second = ledger.grant(worker=0, incarnation=1, epoch=1, owner=SHARED, count=3)
    ledger.give_back(second.id)
    ledger.give_back(first.id)
    again = ledger.grant(worker=1, incarnation=1, epoch=1, owner=SHARED, count=6)
    assert again.indices.tolist() == [0, 1, 2, 3, 4, 5]
    assert again.id == 3
    assert ledger.account() == Account(issued=12, committed=0, returned=6, duplicated=0, lost=0)


def test_what_there_was_no_time_for_is_the_next_to_be_granted() -> None:
    ledger = dealt()
    lease = ledger.grant(worker=0, incarnation=1, epoch=1, owner=SHARED, count=6)
    assert ledger.commit(lease.id, 4).indices.tolist() == [0, 1, 2, 3]
    assert ledger.account() == Account(issued=6, committed=4, returned=2, duplicated=0, lost=0)
    again = ledger.grant(worker=1, incarnation=1, epoch=1, owner=SHARED, count=6)
    assert again.indices.tolist() == [4, 5, 6, 7, 8, 9]


def test_the_account_finds_a_lost_and_a_duplicated_sample() -> None:
    ledger = dealt()
    lease = ledger.grant(worker=0, incarnation=1, epoch=1, owner=SHARED, count=4)
    ledger.commit(lease.id)
    assert (ledger.account().lost, ledger.account().duplicated) == (0, 0)
    ledger._committed[0] += 2
    ledger._committed[1] -= 1
    assert (ledger.account().lost, ledger.account().duplicated) == (1, 2)
    del ledger._pools[1, SHARED]
    assert ledger.account().lost == 7


@pytest.mark.parametrize("count", [0, 11])
def test_a_grant_is_at_least_one_sample_and_at_most_the_pool(count: int) -> None:
    with pytest.raises(AssertionError):
        dealt().grant(worker=0, incarnation=1, epoch=1, owner=SHARED, count=count)


def test_a_lease_ends_only_once() -> None:
    ledger = dealt()
    lease = ledger.grant(worker=0, incarnation=1, epoch=1, owner=SHARED, count=3)
    ledger.commit(lease.id)
    for end in (ledger.commit, ledger.give_back):
        with pytest.raises(KeyError):
            end(lease.id)


def test_what_waits_for_one_worker_can_be_shared_out() -> None:
    ledger = dealt(owner=3)
    ledger.deal(epoch=2, owner=3, indices=np.arange(5))
    ledger.deal(epoch=2, owner=1, indices=np.arange(5, 8))
    ledger.share_out(3)
    assert ledger.earliest(3) is None
    assert ledger.earliest(SHARED) == 1
    assert (ledger.available(1, SHARED), ledger.available(2, SHARED), ledger.available(2, 1)) == (10, 5, 3)


def test_a_restored_ledger_counts_open_leases_as_returned() -> None:
    ledger = dealt()
    ledger.commit(ledger.grant(worker=0, incarnation=1, epoch=1, owner=SHARED, count=2).id)
    open_ = ledger.grant(worker=0, incarnation=1, epoch=1, owner=SHARED, count=5)
    restored = Ledger.restore(saved_and_loaded(ledger.snapshot()))
    assert restored.account() == Account(issued=7, committed=2, returned=5, duplicated=0, lost=0)
    assert restored.outstanding() == []
    again = restored.grant(worker=1, incarnation=1, epoch=1, owner=SHARED, count=8)
    assert again.indices.tolist() == list(range(2, 10))
    assert again.id > open_.id
    assert ledger.account() == Account(issued=7, committed=2, returned=0, duplicated=0, lost=0)


class AnyHistory(RuleBasedStateMachine):
    """Deals, grants, commits, returns and restores in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.ledger, self.epoch = Ledger(30), 0

    @rule(owner=st.sampled_from([SHARED, 0, 1]), count=st.integers(1, 30))
    def deal(self, owner: int, count: int) -> None:
        self.epoch += 1
        self.ledger.deal(
            epoch=self.epoch, owner=owner, indices=np.random.default_rng(self.epoch).permutation(30)[:count]
        )

    @rule(owner=st.sampled_from([SHARED, 0, 1]), part=st.floats(0.01, 1))
    def grant(self, owner: int, part: float) -> None:
        epoch = self.ledger.earliest(owner)
        if epoch is not None:
            count = max(1, int(part * self.ledger.available(epoch, owner)))
            self.ledger.grant(worker=max(owner, 0), incarnation=1, epoch=epoch, owner=owner, count=count)

    @precondition(lambda self: self.ledger.outstanding())
    @rule(data=st.data(), commit=st.booleans(), part=st.floats(0, 1))
    def end(self, data: st.DataObject, commit: bool, part: float) -> None:
        lease = data.draw(st.sampled_from(self.ledger.outstanding()))
        if commit:
            self.ledger.commit(lease.id, max(1, int(part * lease.size)))
        else:
            self.ledger.give_back(lease.id)

    @rule(owner=st.sampled_from([0, 1]))
    def share_out(self, owner: int) -> None:
        self.ledger.share_out(owner)

    @rule()
    def restart(self) -> None:
        self.ledger = Ledger.restore(saved_and_loaded(self.ledger.snapshot()))

    @invariant()
    def closes(self) -> None:
        account = self.ledger.account()
        open_ = sum(lease.size for lease in self.ledger.outstanding())
        assert account.issued == account.committed + account.returned + open_
        assert (account.lost, account.duplicated) == (0, 0)


TestAnyHistory = AnyHistory.TestCase
TestAnyHistory.settings = settings(max_examples=20, stateful_step_count=25)


@given(st.lists(st.integers(1, 5), min_size=1, max_size=8))
def test_a_snapshot_of_a_snapshot_is_the_same(counts: list[int]) -> None:
    ledger = dealt(40)
    for count in counts:
        ledger.grant(worker=0, incarnation=1, epoch=1, owner=SHARED, count=count)
    once = saved_and_loaded(ledger.snapshot())
    twice = saved_and_loaded(Ledger.restore(saved_and_loaded(once)).snapshot())
    assert once.keys() == twice.keys()
    assert all(np.array_equal(once[key], twice[key]) for key in once)
