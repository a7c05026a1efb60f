"""Speed, patience, milestones, balance and status."""

from __future__ import annotations

import numpy as np
import pytest
from outer.stage import saved_and_loaded

from bptcnn.outer.members import SESSION, Member
from bptcnn.outer.messages import Lease, Pushed
from bptcnn.outer.milestones import CheckpointConfig, EvaluationConfig, Milestones
from bptcnn.outer.pace import WINDOW, FaultConfig, Pace, shares
from bptcnn.outer.tally import Tally, balance

FAULTS = FaultConfig(mads=8, slack=2, patience_s=10, first_s=60, join_s=120)


def paced(*seconds_per_sample: float) -> Pace:
    pace = Pace(100.0)
    for seconds in seconds_per_sample:
        pace.observe(size=10, busy_s=10 * seconds, interval_s=10 * seconds)
    return pace


def test_patience_before_the_first_push_follows_the_calibration() -> None:
    assert Pace(100.0).patience_s(500, FAULTS) == 2 * 500 / 100 + 10 + 60


def test_patience_is_median_plus_deviations() -> None:
    assert paced(0.1, 0.1, 0.1).patience_s(50, FAULTS) == pytest.approx(2 * 50 * 0.1 + 10)
    # median 0.3, absolute deviations 0.2 0.1 0 0.1 0.7: MAD 0.1
    assert paced(0.1, 0.2, 0.3, 0.4, 1.0).patience_s(50, FAULTS) == pytest.approx(2 * 50 * (0.3 + 8 * 0.1) + 10)


def test_one_slow_lease_changes_patience_little_and_old_ones_are_forgotten() -> None:
    steady = paced(*[0.1] * 10)
    steady.observe(size=10, busy_s=100, interval_s=100)
    assert steady.patience_s(10, FAULTS) == pytest.approx(12)
    assert paced(*[9.0] * 50, *[0.1] * WINDOW).patience_s(10, FAULTS) == pytest.approx(12)


def test_speed_follows_the_last_leases_only() -> None:
    assert Pace(100.0).samples_per_s == 100
    assert paced(0.1).samples_per_s == pytest.approx(10)
    assert paced(9, 9, 9, 0.1, 0.1, 0.1, 0.1).samples_per_s == pytest.approx(10)
    instant = Pace(1.0)
    instant.observe(size=10, busy_s=0.0, interval_s=0.0)
    assert np.isfinite(instant.samples_per_s)


def test_a_restored_pace_is_the_same() -> None:
    pace = paced(0.1, 0.2, 0.9)
    restored = Pace.restore(saved_and_loaded(pace.snapshot()))
    assert restored.samples_per_s == pace.samples_per_s
    assert restored.patience_s(7, FAULTS) == pace.patience_s(7, FAULTS)


def test_shares_sum_to_one() -> None:
    assert shares({0: 2.0, 5: 6.0}) == {0: 0.25, 5: 0.75}


def test_evaluations_are_told_once_for_each_stride() -> None:
    due = Milestones(EvaluationConfig(every=0.25), CheckpointConfig(), num_samples=100)
    told = [committed for committed in range(0, 201, 5) if due.evaluate(committed)]
    assert told == [25, 50, 75, 100, 125, 150, 175, 200]
    due = Milestones(EvaluationConfig(every=0.25), CheckpointConfig(), num_samples=100)
    assert [due.evaluate(committed) for committed in (20, 80, 80, 99, 100)] == [False, True, False, False, True]


def test_a_checkpoint_is_due_at_once_and_then_by_the_clock() -> None:
    due = Milestones(EvaluationConfig(), CheckpointConfig(every_s=10), num_samples=100)
    assert [due.save(now) for now in (5, 14.9, 15, 16, 24.9, 60, 69)] == [True, False, True, False, False, True, False]


def test_restored_milestones_repeat_no_evaluation() -> None:
    due = Milestones(EvaluationConfig(every=0.5), CheckpointConfig(), num_samples=100)
    assert due.evaluate(60)
    again = Milestones(EvaluationConfig(every=0.5), CheckpointConfig(), num_samples=100)
    again.resume(saved_and_loaded(due.snapshot()))
    assert [again.evaluate(committed) for committed in (60, 99, 100)] == [False, False, True]


def test_balance_is_the_largest_over_the_mean() -> None:
    assert balance({w: 1500 / speed for w, speed in enumerate([2000, 1000, 500, 250])}, 4) == pytest.approx(32 / 15)
    assert balance({0: 2.0}, num_workers=4) == 4
    assert balance({}, num_workers=4) == 1


def test_elapsed_time_goes_on_after_a_restart() -> None:
    tally = Tally(started_s=10.0)
    tally.history.append((3.0, 50, 0.5))
    tally.note(a_lease(), 1.5, vector_bytes=100)
    restored = Tally.restore(saved_and_loaded(tally.snapshot(now=25.0)), 25.0)
    assert restored.elapsed_s(1000.0) == 15.0
    restored.started_s = 1000.0
    assert restored.elapsed_s(1002.0) == 17.0
    restored.ended_s = 1003.0
    assert restored.elapsed_s(5000.0) == 18.0
    assert (restored.history, restored.busy, restored.bytes_pushed) == (tally.history, {2: {1: 1.5}}, 100)


def a_lease() -> Lease:
    return Lease(7, 1, 1, 2, 1, np.arange(10), (0.0, 0.1))


def test_a_member_keeps_its_record_over_its_lives() -> None:
    member = Member(1)
    assert member.state(holds=False, started=False, over=False) == "joining"
    member.join(100.0, session=0, version=4, now=1.0)
    member.note(Pushed(1, 1, 1, 7, 4, 2, 10, 0.5, 1.25, 0.75, None), a_lease(), version=6, now=2.0)
    assert member.state(holds=True, started=True, over=False) == "training"
    row = member.status("training", elapsed_s=2.0, committed=40)
    assert (row.state, row.share, row.steps, row.staleness, row.waiting) == ("training", 0.25, 2, 2.0, 0.75)
    assert (row.samples_per_s, row.loss, row.accuracy) == (20.0, 1.25, 0.75)
    member.leave(3.0)
    assert member.state(holds=False, started=True, over=False) == "lost"
    assert member.state(holds=False, started=True, over=True) == "done"
    restored = Member.restore(saved_and_loaded(member.snapshot()))
    assert restored.record == member.record
    restored.join(50.0, session=2, version=9, now=0.0)
    assert restored.incarnation == 2 * SESSION + 1
    restored.join(50.0, session=2, version=9, now=0.0)
    assert restored.incarnation == 2 * SESSION + 2
    assert restored.record.pushes == 1


def test_who_was_given_up_may_come_back_in_the_next_session() -> None:
    member = Member(1)
    member.join(100.0, session=0, version=0, now=0.0)
    member.record.dismissed, member.record.replaced, member.record.samples = True, 3, 500
    restored = Member.restore(saved_and_loaded(member.snapshot()))
    assert (restored.record.dismissed, restored.record.replaced, restored.record.samples) == (False, 0, 500)
    assert restored.pace is None  # a newcomer


def test_when_silence_is_too_long() -> None:
    member = Member(1)
    assert member.deadline_s([], 0.0, FAULTS) is None  # nobody knows whether it will ever come
    member.join(100.0, session=0, version=0, now=50.0)
    assert member.deadline_s([], 50.0, FAULTS) is None  # it has nothing to do
    assert member.deadline_s([a_lease()], 50.0, FAULTS) is None  # it waits for an answer
    member.awaiting = False
    assert member.deadline_s([a_lease()], 50.0, FAULTS) == pytest.approx(50 + 2 * 10 / 100 + 70)
    member.leave(60.0)
    assert member.deadline_s([], 50.0, FAULTS) == 60 + 120  # for its replacement to join
    assert member.deadline_s([], 90.0, FAULTS) == 90 + 120  # a restarted server waits from its own start
    assert member.deadline_s([], None, FAULTS) is None
    member.record.dismissed = True
    assert member.deadline_s([], 50.0, FAULTS) is None
