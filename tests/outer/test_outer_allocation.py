"""Who gets which samples: numbers by hand, then properties."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from math import ceil

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from outer.stage import ALLOCATIONS, Stage, a_setup

from bptcnn.errors import ConfigError
from bptcnn.outer.allocation import Allocation, Allocator, Dynamic, ExchangeConfig, Idpa, Plan, Uniform
from bptcnn.outer.allocation.apportion import apportion, water_fill
from bptcnn.outer.allocation.partition import iteration_sizes, released_up_to
from bptcnn.outer.ledger import SHARED, Ledger
from bptcnn.outer.rules import Agwu, LocalSgd, Sgwu
from bptcnn.outer.tally import balance

SECONDS_PER_SAMPLE = {0: 1.0, 1: 1.2, 2: 2.0, 3: 4.0}
TRUE_SPEEDS = {worker: 1 / seconds for worker, seconds in SECONDS_PER_SAMPLE.items()}
DECLARED_POWERS = {0: 2.3, 1: 2.3, 2: 2.0, 3: 2.0}

weights = st.dictionaries(st.integers(0, 20), st.floats(0, 1e6), min_size=1, max_size=8)
rates = st.dictionaries(st.integers(0, 20), st.floats(1e-3, 1e6), min_size=1, max_size=8)


def draw(allocator: Allocator, ledger: Ledger, workers: Sequence[int], speeds: Mapping[int, float]) -> dict[int, int]:
    """Let workers draw together and commit at once; the samples each got."""
    sizes = {}
    for worker, grant in allocator.next(workers, ledger, speeds).items():
        lease = ledger.grant(worker=worker, incarnation=1, epoch=grant.epoch, owner=grant.owner, count=grant.count)
        sizes[worker] = ledger.commit(lease.id).size
        allocator.measured(worker)
    return sizes


# -------------------------------------------------------------------------------------------- apportion


def test_apportion_gives_the_rest_to_the_largest_remainders() -> None:
    assert apportion(10, {0: 1, 1: 1, 2: 1}) == {0: 4, 1: 3, 2: 3}
    assert apportion(7, {0: 0.5, 1: 1.6, 2: 4.9}) == {0: 0, 1: 2, 2: 5}
    assert apportion(3, {0: 0, 1: 0}) == {0: 2, 1: 1}
    assert apportion(0, {4: 1.0}) == {4: 0}


@given(st.integers(0, 10**6), weights)
def test_apportion_sums_exactly_and_stays_within_one_of_the_share(total: int, parts: dict[int, float]) -> None:
    result = apportion(total, parts)
    whole = sum(parts.values())
    assert sum(result.values()) == total
    assert min(result.values()) >= 0
    if whole > 0:
        assert all(abs(result[w] - total * (parts[w] / whole)) < 1 + 1e-6 for w in parts)


@given(st.integers(0, 10**5), rates, st.data())
def test_water_fill_sums_exactly_and_levels(total: int, speeds: dict[int, float], data: st.DataObject) -> None:
    given_ = {worker: data.draw(st.integers(0, 10**5)) for worker in speeds}
    new = water_fill(total, speeds, given_)
    assert sum(new.values()) == total
    assert min(new.values()) >= 0
    topped_up = [worker for worker in speeds if new[worker] > 0]
    latest_start = max((((given_[w] + new[w] - 1) / speeds[w]) for w in topped_up), default=0.0)
    for worker in speeds:  # no one could have taken a sample and still be the first to finish
        assert (given_[worker] + new[worker] + 1) / speeds[worker] >= latest_start * (1 - 1e-9)


def test_water_fill_by_hand() -> None:
    assert water_fill(100, {0: 3.0, 1: 1.0}, {0: 0, 1: 0}) == {0: 75, 1: 25}
    assert water_fill(100, {0: 3.0, 1: 1.0}, {0: 0, 1: 100}) == {0: 100, 1: 0}
    assert water_fill(100, {0: 1.0, 1: 1.0, 2: 1.0}, {0: 500, 1: 40, 2: 0}) == {0: 0, 1: 30, 2: 70}


# ------------------------------------------------------------------------------------------ UDPA, IDPA


def finishing_times(form: str) -> tuple[float, dict[int, int]]:
    """Deal N = 6000 in A = 5 batches; max / mean seconds of one pass over everything, and who holds what."""
    plan = Plan(num_samples=6000, epochs=5, batch_size=10, every="epoch", seed=0)
    section: Allocation = Uniform() if form == "equal" else Idpa(batches=5, form=form)
    allocator, ledger = section.start(plan), Ledger(6000)
    for worker in DECLARED_POWERS:
        allocator.join(worker)
    speeds: Mapping[int, float] = DECLARED_POWERS
    for _ in range(5):
        held = draw(allocator, ledger, list(DECLARED_POWERS), speeds)
        speeds = TRUE_SPEEDS
    return balance({w: held[w] * SECONDS_PER_SAMPLE[w] for w in held}, len(held)), held


def test_idpa_by_hand() -> None:
    equal, cumulative, per_batch = (finishing_times(form) for form in ("equal", "cumulative", "per_batch"))
    assert equal[1] == dict.fromkeys(range(4), 1500)
    assert equal[0] == pytest.approx(4 / 2.05, abs=1e-9)  # the 1.95 of the paper's baseline
    # one misled batch of 1200, then 4800 shared rightly: T_j = t_j n_j(1) + 4800 / sum v
    first = {w: 1200 * power / 8.6 for w, power in DECLARED_POWERS.items()}
    by_hand = balance({w: SECONDS_PER_SAMPLE[w] * first[w] + 4800 / sum(TRUE_SPEEDS.values()) for w in first}, 4)
    assert per_batch[0] == pytest.approx(by_hand, abs=2e-3)
    assert per_batch[0] == pytest.approx(1.22, abs=0.01)
    assert cumulative[0] == pytest.approx(1.0, abs=2e-3)
    assert sum(cumulative[1].values()) == sum(per_batch[1].values()) == 6000


@pytest.mark.parametrize("every", [8, "epoch"])
@pytest.mark.parametrize("rule", [Agwu(), Sgwu()], ids=lambda rule: rule.name)
def test_idpa_corrects_a_misleading_calibration_while_it_trains(rule: Agwu | Sgwu, every: int | str) -> None:
    speeds = [1000 * speed for speed in TRUE_SPEEDS.values()]
    misled = [1000 * power for power in DECLARED_POWERS.values()]
    setup = a_setup(Idpa(batches=5), rule, num_samples=6000, epochs=4, exchange=ExchangeConfig(every=every))
    stage = Stage(setup, speeds, calibrated=misled).open().run()
    by_iteration = [balance(busy, 4) for busy in stage.coordinator.tally.busy.values()]
    assert by_iteration[0] > 1.8
    assert by_iteration[2:] == pytest.approx([1.0] * (len(by_iteration) - 2), abs=2e-3)


def test_iterations_until_the_budget_is_spent() -> None:
    assert iteration_sizes(300, [100]) == [100, 100, 100]
    assert iteration_sizes(600, [20, 40, 60, 80, 100]) == [20, 40, 60, 80, 100, 100, 100, 100]
    assert iteration_sizes(200, [50, 100]) == [50, 100, 50]


@given(st.integers(1, 10), st.integers(1, 30), st.integers(1, 50))
def test_k_epochs_take_k_plus_half_of_a_minus_1_iterations(epochs: int, batches: int, unit: int) -> None:
    assume(batches <= 2 * epochs - 1)
    num_samples = unit * batches
    sizes = iteration_sizes(epochs * num_samples, [unit * a for a in range(1, batches + 1)])
    assert sum(sizes) == epochs * num_samples
    assert sum(size / min(num_samples, unit * a) for a, size in enumerate(sizes, 1)) == pytest.approx(
        epochs + (batches - 1) / 2
    )


@given(st.integers(1, 10_000), st.integers(1, 20))
def test_batches_are_even_and_leave_no_stray_samples(num_samples: int, batches: int) -> None:
    released = released_up_to(num_samples, batches)
    assert (len(released), released[0], released[-1]) == (batches + 1, 0, num_samples)
    assert all(abs(count - num_samples * a / batches) < 1 for a, count in enumerate(released))
    assert all(later >= earlier for earlier, later in pairwise(released))
    if batches % 2:
        assert 2 * sum(released) == num_samples * (batches + 1)


def test_more_batches_than_the_epochs_can_release_are_refused() -> None:
    Idpa(batches=5).check(epochs=3)
    with pytest.raises(ConfigError, match=r"allocation.batches = 6 needs at least 4 epochs: .* use 5 or fewer"):
        Idpa(batches=6).check(epochs=3)


@pytest.mark.parametrize("every", [0, -3])
def test_a_cadence_below_one_step_is_refused(every: int) -> None:
    with pytest.raises(ConfigError, match=f"every = {every}"):
        ExchangeConfig(every=every)


def test_who_came_away_empty_does_not_release_the_next_batch() -> None:
    plan = Plan(num_samples=400, epochs=4, batch_size=10, every=1, seed=0)
    allocator, ledger = Idpa(batches=4).start(plan), Ledger(400)
    for worker in (0, 1):
        allocator.join(worker)
    assert draw(allocator, ledger, [0, 1], {0: 1e6, 1: 1.0}) == {0: 10}
    assert ledger.issued == 10
    assert draw(allocator, ledger, [1], {0: 1.0, 1: 1.0}) == {}
    while (allocated := draw(allocator, ledger, [0, 1], {0: 1.0, 1: 1.0})).get(1) is None:
        assert allocated  # worker 0 works through batch 1; the second batch is split by the new speeds
    assert allocated[1] == 10
    assert ledger.committed == 120


# --------------------------------------------------------------------------------------------- dynamic


def test_dynamic_leases_whole_steps_one_by_one_and_exact_shares_in_rounds() -> None:
    plan = Plan(num_samples=10_000, epochs=2, batch_size=10, every=16, seed=0)
    allocator, ledger = Dynamic().start(plan), Ledger(10_000)
    speeds = {0: 2000.0, 1: 1100.0, 2: 550.0, 3: 1.0}
    assert [draw(allocator, ledger, [w], speeds)[w] for w in range(4)] == [160, 90, 40, 10]
    assert draw(allocator, ledger, [0, 1, 2, 3], speeds) == {0: 160, 1: 88, 2: 44}
    assert draw(allocator, ledger, [1, 2], speeds) == {1: 88, 2: 44}


@given(speeds=st.lists(st.floats(1, 100), min_size=2, max_size=6), every=st.integers(1, 4))
def test_what_a_round_cannot_share_out_is_carried_over_to_the_next(speeds: list[float], every: int) -> None:
    plan = Plan(num_samples=5000, epochs=1, batch_size=8, every=every, seed=0)
    allocator, ledger = Dynamic().start(plan), Ledger(5000)
    by_worker, given_ = dict(enumerate(speeds)), Counter[int]()
    for _ in range(20):
        given_.update(draw(allocator, ledger, list(by_worker), by_worker))
        exact = {worker: given_.total() * speed / sum(speeds) for worker, speed in by_worker.items()}
        assert all(abs(given_[worker] - exact[worker]) < 2 for worker in by_worker)


def test_slower_workers_make_smaller_steps_or_fewer() -> None:
    """Of 10, 6 (rounded from 5.5) and 3 samples; 2 where it would be none; thrice the exact part a lease."""
    plan = Plan(num_samples=10_000, epochs=2, batch_size=10, every=3, seed=0, proportional=True, smallest_step=2)
    allocator, ledger = Dynamic().start(plan), Ledger(10_000)
    speeds = {0: 2000.0, 1: 1100.0, 2: 550.0, 3: 1.0}
    assert [plan.step_size(worker, speeds) for worker in speeds] == [10, 6, 3, 2]
    assert [draw(allocator, ledger, [w], speeds)[w] for w in range(4)] == [30, 16, 8, 1]
    equal = replace(plan, proportional=False)
    assert [equal.step_size(worker, speeds) for worker in speeds] == [10] * 4


@pytest.mark.parametrize("allocation", ALLOCATIONS, ids=lambda a: a.name)
def test_post_local_sgd_exchanges_after_every_step_at_first(allocation: Allocation) -> None:
    setup = a_setup(allocation, LocalSgd(), num_samples=1920, exchange=ExchangeConfig(every=6, overlap=False), epochs=4)
    setup = replace(setup, plan=replace(setup.plan, post=0.5))
    stage = Stage(setup, [10.0] * 4).open().run()
    assert stage.settled()
    sizes = [sum(lease.size for lease in stage.trained[first : first + 4]) for first in range(0, len(stage.trained), 4)]
    assert set(sizes[:100]) == {4 * 8}
    assert max(sizes[130:]) == 4 * 48


def test_one_exchange_per_epoch_covers_the_data_once() -> None:
    plan = Plan(num_samples=1000, epochs=2, batch_size=10, every="epoch", seed=0)
    allocator, ledger = Dynamic().start(plan), Ledger(1000)
    speeds = {0: 6.0, 1: 3.0, 2: 1.0}
    assert draw(allocator, ledger, [0, 1, 2], speeds) == {0: 600, 1: 300, 2: 100}
    assert [draw(allocator, ledger, [w], speeds)[w] for w in range(3)] == [600, 120, 28]  # the last epoch shrinks


def test_dynamic_leases_shrink_at_the_end() -> None:
    plan = Plan(num_samples=200, epochs=1, batch_size=1, every=100, seed=0)
    allocator, ledger = Dynamic().start(plan), Ledger(200)
    speeds = {0: 1.0, 1: 1.0}
    sizes = []
    while size := draw(allocator, ledger, [0], speeds):
        sizes.append(size[0])
    assert sizes == [100, 50, 25, 13, 6, 3, 2, 1]


# -------------------------------------------------------------------------------------------- property


@st.composite
def allocations(draw: st.DrawFn, epochs: int) -> Allocation:
    section = draw(st.sampled_from(ALLOCATIONS))
    if section.name != "idpa":
        return section
    batches = draw(st.integers(1, 2 * epochs - 1))
    return Idpa(batches=batches, form=draw(st.sampled_from(["cumulative", "per_batch"])))


@settings(max_examples=50)
@given(
    data=st.data(),
    num_samples=st.integers(1, 300),
    epochs=st.integers(1, 4),
    batch_size=st.integers(1, 20),
    every=st.one_of(st.integers(1, 40), st.just("epoch")),
    speeds=st.lists(st.sampled_from([1.0, 10.0, 37.0, 1000.0]), min_size=1, max_size=6),
    rule=st.sampled_from([Agwu(), Sgwu()]),
)
def test_every_index_is_trained_exactly_as_often_as_it_is_due(
    data: st.DataObject,
    num_samples: int,
    epochs: int,
    batch_size: int,
    every: int,
    speeds: list[float],
    rule: Agwu | Sgwu,
) -> None:
    section = data.draw(allocations(epochs))
    exchange = ExchangeConfig(every=every, overlap=data.draw(st.booleans()))
    setup = a_setup(
        section,
        rule,
        num_samples=num_samples,
        epochs=epochs,
        batch_size=batch_size,
        exchange=exchange,
        num_workers=len(speeds),
    )
    stage = Stage(setup, speeds).open().run()
    assert stage.outcome == "finished"
    assert stage.book.total() == num_samples * epochs
    assert max(stage.book.values()) == 1  # at most once per epoch
    by_epoch = Counter(epoch for epoch, _ in stage.book)
    num_batches = section.batches if section.name == "idpa" else 1
    assert max(by_epoch) == ceil(epochs + (num_batches - 1) / 2)
    for a in range(1, max(by_epoch)):  # the last iteration may be a part of one
        assert abs(by_epoch[a] - num_samples * min(1, a / num_batches)) < 1
    for a in range(1, num_batches):  # what was released once stays: each full iteration contains the one before
        assert {i for e, i in stage.book if e == a} <= {i for e, i in stage.book if e == a + 1}
    progress = [end for lease in stage.trained for end in lease.progress]
    assert min(progress) >= 0
    assert max(progress) <= 1


@example(num_samples=2, num_workers=5)
@given(num_samples=st.integers(1, 5), num_workers=st.integers(5, 9))
@settings(max_examples=15)
def test_fewer_samples_than_workers(num_samples: int, num_workers: int) -> None:
    for section in ALLOCATIONS:
        setup = a_setup(section, Agwu(), num_samples=num_samples, epochs=2, num_workers=num_workers)
        stage = Stage(setup, [1000.0] + [1.0] * (num_workers - 1)).open().run()
        assert (stage.outcome, stage.book.total()) == ("finished", 2 * num_samples)


def test_equal_seeds_deal_equal_orders_and_others_do_not() -> None:
    def order(section: Allocation, seed: int) -> list[int]:
        stage = Stage(a_setup(section, Sgwu(), seed=seed), [1.0, 2.0, 3.0, 4.0]).open().run()
        return np.concatenate([lease.indices for lease in stage.trained]).tolist()

    for section in ALLOCATIONS:
        assert order(section, 1) == order(section, 1)
        assert order(section, 1) != order(section, 2)


def test_the_shared_pool_serves_idle_workers_by_speed() -> None:
    plan = Plan(num_samples=100, epochs=1, batch_size=10, every=2, seed=0)
    allocator, ledger = Uniform().start(plan), Ledger(100)
    for worker in (0, 1, 2):
        allocator.join(worker)
    speeds = {0: 3.0, 1: 1.0, 2: 1.0}
    assert draw(allocator, ledger, [0, 1, 2], speeds) == {0: 17, 1: 17, 2: 17}
    while ledger.available(1, 0) or ledger.available(1, 1):
        draw(allocator, ledger, [0, 1], speeds)
    allocator.leave(2, ledger, {0: 3.0, 1: 1.0})
    assert ledger.available(1, SHARED) == 16
    assert draw(allocator, ledger, [0, 1], {0: 3.0, 1: 1.0}) == {0: 12, 1: 4}
    assert ledger.committed == 100
