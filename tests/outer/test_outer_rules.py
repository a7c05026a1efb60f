"""How pushes become the next weights: the papers' numbers, and the contract that every rule keeps."""

from __future__ import annotations

from collections.abc import Mapping
from math import e, isfinite

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from outer.stage import ALLOCATIONS, Quadratic, Stage, a_setup

from bptcnn.outer.allocation import Allocation, Dynamic, ExchangeConfig, Idpa, Uniform
from bptcnn.outer.global_model import GlobalModel
from bptcnn.outer.rules import (
    RULES,
    AdPsgd,
    Agwu,
    AllReduce,
    Alone,
    Anytime,
    AsyncLocalSgd,
    Contribution,
    Diloco,
    Downpour,
    Eamsgd,
    Easgd,
    Gosgd,
    LocalSgd,
    Memory,
    Peer,
    Sgwu,
    Strategy,
    combine,
)
from bptcnn.outer.rules.combine import total

EVERY_RULE: list[Strategy] = [
    Agwu(),
    Agwu(accuracy_weight="relative", staleness="polynomial"),
    Agwu(accuracy_weight="none", staleness="none"),
    Sgwu(),
    Sgwu(accuracy_weight="none"),
    LocalSgd(),
    LocalSgd(weighting="equal"),
    Diloco(),
    Diloco(lr=1.0, momentum=0.0, weighting="equal"),
    AsyncLocalSgd(),
    AsyncLocalSgd(momentum=0.0),
    AsyncLocalSgd(delay=3),
    Downpour(rate=0.25),
    Downpour(rate=1.0, adapt="adagrad"),
    Anytime(),
    AllReduce(),
    AllReduce(weighting="equal"),
    Easgd(),
    Eamsgd(moving_rate=0.3),
]
AMONG_PEERS: list[Strategy] = [Alone(), AdPsgd(), Gosgd(), Gosgd(p=1.0, mean="plain")]
"""Rules without a server that merges; what they do in a run is the matter of ``tests/test_gossip.py``."""

ONE_WORKER_ALONE: list[Strategy] = [
    Sgwu(),
    Agwu(accuracy_weight="none", staleness="none"),
    LocalSgd(),
    Anytime(),
    Diloco(lr=1.0, momentum=0.0),
    AsyncLocalSgd(momentum=0.0),
    Downpour(),
]
"""Rules that add one worker's differences up as they are, when there is no other."""


def name_of(rule: Strategy) -> str:
    return "-".join(str(value) for value in rule.model_dump().values())


def push(worker: int = 0, base: int = 0, accuracy: float = 0.5, delta: np.ndarray | None = None) -> Contribution:
    return Contribution(worker, delta, base, 64, accuracy)


def peers(*bases: int, accuracy: float | None = 0.5) -> dict[int, Peer]:
    return {worker: Peer(base, accuracy) for worker, base in enumerate(bases)}


# --------------------------------------------------------------------------------------------- combine


def test_combine_is_numpy_with_no_argument_touched() -> None:
    rng = np.random.default_rng(0)
    weights, *deltas = (rng.standard_normal(1000).astype(np.float32) for _ in range(4))
    scales = [0.3, -0.5, 2.0]
    inputs = [weights, *deltas]
    copies = [vector.copy() for vector in inputs]
    for vector in inputs:
        vector.flags.writeable = False
    merged = combine(weights, scales, deltas)
    expected = weights + sum(scale * delta for scale, delta in zip(scales, deltas, strict=True))
    np.testing.assert_allclose(merged, expected, atol=1e-6)
    assert merged.dtype == np.float32
    assert merged.flags.writeable
    assert not any(np.shares_memory(merged, vector) for vector in inputs)
    assert all(np.array_equal(vector, copy) for vector, copy in zip(inputs, copies, strict=True))


@pytest.mark.filterwarnings("error")
def test_combine_reads_read_only_memory_without_a_warning() -> None:
    weights = np.frombuffer(np.ones(3, np.float32).tobytes(), np.float32)
    assert combine(weights, [1.0], [weights]).tolist() == [2, 2, 2]


def test_total_is_numpy_with_no_argument_touched() -> None:
    vectors = [np.array([1.0, -2.0], np.float32), np.array([0.5, 4.0], np.float32)]
    for vector in vectors:
        vector.flags.writeable = False
    summed = total([2.0, -1.0], vectors)
    assert summed.tolist() == [1.5, -8.0]
    assert not any(np.shares_memory(summed, vector) for vector in vectors)


# ------------------------------------------------------------------------------------------------ SGWU


def test_sgwu_averages_the_local_weights_by_accuracy() -> None:
    base = np.array([1.0, 2.0], np.float32)
    local = [np.array([2.0, 2.0], np.float32), np.array([1.0, 6.0], np.float32)]
    pushes = [push(w, accuracy=q, delta=local[w] - base) for w, q in enumerate([0.75, 0.25])]
    merged, scales, _ = Sgwu().merge(base, pushes, peers(0, 0), 0)
    assert scales == [0.75, 0.25]
    np.testing.assert_allclose(merged, 0.75 * local[0] + 0.25 * local[1])
    assert Sgwu(accuracy_weight="none").scales(pushes, {}, 0) == [0.5, 0.5]


def test_sgwu_is_a_plain_mean_while_nothing_is_classified_rightly() -> None:
    assert Sgwu().scales([push(w, accuracy=0.0) for w in range(4)], {}, 3) == [0.25] * 4


# ------------------------------------------------------------------------------------------------ AGWU


def gamma(base: int, version: int, others: dict[int, Peer], **settings: str) -> float:
    [scale] = Agwu(accuracy_weight="none", **settings).scales([push(base=base)], others, version)
    return scale


@pytest.mark.parametrize("m", [1, 2, 7])
def test_gamma_is_one_over_m_at_first_and_for_equal_bases(m: int) -> None:
    assert gamma(0, 0, peers(*[0] * m)) == 1 / m
    assert gamma(30, 40, peers(*[30] * m)) == pytest.approx(1 / m)


def test_gamma_by_hand() -> None:
    bases = (10, 9, 8, 4)
    expected = np.exp(np.array(bases) / 10) / np.exp(np.array(bases) / 10).sum()
    assert [gamma(base, 10, peers(*bases)) for base in bases] == pytest.approx(expected.tolist())


def test_gamma_over_versions_dies_out() -> None:
    for i in (101, 1001):
        fresh = gamma(i - 1, i - 1, peers(0, 0), gamma_over="versions")
        assert fresh * (i - 1) == pytest.approx(e / (e - 1), rel=0.02)  # 1.58


def test_polynomial_staleness_damps_by_the_root_of_the_lag() -> None:
    assert gamma(10, 10, peers(10, 10), staleness="polynomial") == 1 / 2
    assert gamma(7, 10, peers(7, 10), staleness="polynomial") == pytest.approx(1 / 4)
    assert gamma(2, 10, peers(2, 10), staleness="polynomial") == pytest.approx(1 / 6)
    assert gamma(2, 10, peers(2, 10), staleness="none") == 1 / 2


def test_accuracy_scales_the_step_raw_or_relative() -> None:
    known = {0: Peer(5, 0.9), 1: Peer(5, 0.3)}
    for weight, expected in (("raw", 0.45), ("relative", 0.75), ("none", 0.5)):
        [scale] = Agwu(accuracy_weight=weight).scales([push(0, 5, accuracy=0.9)], known, 5)
        assert scale == pytest.approx(expected)


def test_who_has_not_pushed_yet_does_not_count_in_the_mean_accuracy() -> None:
    first = {0: Peer(0, 0.2), 1: Peer(0, None), 2: Peer(0, None), 3: Peer(0, None)}
    assert Agwu(accuracy_weight="relative").scales([push(0, 0, accuracy=0.2)], first, 0) == [0.25]
    nobody = {0: Peer(0, 0.0), 1: Peer(0, None)}
    assert Agwu(accuracy_weight="relative").scales([push(0, 0, accuracy=0.0)], nobody, 0) == [0.5]


@pytest.mark.parametrize("allocation", [Idpa(), Dynamic()], ids=lambda a: a.name)
def test_gamma_stays_near_a_quarter_for_four_unequal_workers(allocation: Allocation) -> None:
    setup = a_setup(allocation, Agwu(accuracy_weight="none"), num_samples=500, epochs=8)
    stage = Stage(setup, [200, 100, 50, 25], delay_s=0.01)
    model, gammas = stage.coordinator.model, []
    merge = model.merge

    def note(others: Mapping[int, Peer], num_samples: int) -> None:
        merge(others, num_samples)
        gammas.extend(model.scales)

    model.merge = note
    stage.open().run()
    assert len(gammas) > 200
    assert all(0.21 < value < 0.26 for value in gammas[100:-20])


# ---------------------------------------------------------------------------- local SGD and outer momentum


def after(rule: Strategy, *rounds: list[float], workers: int = 1) -> tuple[list[float], Memory]:
    """W after each merge, from 0 on, of one weight; a round holds the differences of its workers."""
    rule, weights, memory, seen = rule.settled(workers), np.zeros(1, np.float32), {}, []
    for version, deltas in enumerate(rounds):
        pushes = [push(worker, version, delta=np.array([d], np.float32)) for worker, d in enumerate(deltas)]
        merged = rule.merge(weights, pushes, peers(*[version] * workers), version, memory)
        assert merged.weights is not None
        weights, memory = merged.weights, merged.memory
        seen.append(float(weights[0]))
    return seen, memory


def test_local_sgd_averages_by_samples_or_equally() -> None:
    pushes = [Contribution(worker, None, 0, size, 0.1) for worker, size in enumerate((96, 32))]
    assert LocalSgd().scales(pushes, {}, 0) == [0.75, 0.25]
    assert LocalSgd(weighting="equal").scales(pushes, {}, 0) == [0.5, 0.5]
    assert after(LocalSgd(), [4.0, 2.0], [1.0, 1.0])[0] == [3.0, 4.0]


def test_diloco_by_hand() -> None:
    """Means 3 and 1: v = 3, then 0.5 * 3 + 1 = 2.5; W = 0.5 (3 + 1.5) = 2.25, then + 0.5 (1 + 1.25) = 3.375."""
    seen, memory = after(Diloco(lr=0.5, momentum=0.5), [4.0, 2.0], [0.0, 2.0])
    assert seen == [2.25, 3.375]
    assert memory["velocity"].tolist() == [2.5]


def test_diloco_without_momentum_is_local_sgd() -> None:
    rounds = [4.0, 2.0], [-1.0, 0.5], [0.25, 8.0]
    assert after(Diloco(lr=1.0, momentum=0.0), *rounds)[0] == after(LocalSgd(), *rounds)[0]


def test_delayed_nesterov_by_hand() -> None:
    """n = 2, eta = 1, b = 0.5. Pushes 4, 2, 2, 6: half of each at once, and b v at each second one.

    v = (4 + 2) / 2 = 3: W = 2, then 2 + 1 + 1.5 = 4.5; v = 1.5 + 4 = 5.5: W = 5.5, then 5.5 + 3 + 2.75 = 11.25.
    """
    seen, memory = after(AsyncLocalSgd(), [4.0], [2.0], [2.0], [6.0], workers=2)
    assert seen == [2.0, 4.5, 5.5, 11.25]
    assert {name: vector.tolist() for name, vector in memory.items()} == {"velocity": [5.5]}
    assert after(AsyncLocalSgd(delay=2), [4.0], [2.0], [2.0], [6.0], workers=7)[0] == seen


def test_asynchronous_local_sgd_without_momentum_takes_an_equal_part_of_each_push() -> None:
    assert after(AsyncLocalSgd(momentum=0.0), [4.0], [2.0], workers=4) == ([1.0, 1.5], {})
    assert after(AsyncLocalSgd(lr=2.0, momentum=0.0), [4.0], [2.0], workers=4)[0] == [2.0, 3.0]


def test_asynchronous_pushes_count_by_speed_unless_told_otherwise() -> None:
    others = {worker: Peer(0, None, share) for worker, share in enumerate((0.5, 0.3, 0.2))}
    assert [AsyncLocalSgd(lr=2.0).scales([push(w)], others, 0)[0] for w in others] == pytest.approx([1.0, 0.6, 0.4])
    assert [AsyncLocalSgd(delay=6).scales([push(w)], others, 0)[0] for w in others] == pytest.approx([0.25, 0.15, 0.1])
    assert AsyncLocalSgd(weighting="equal").scales([push(1)], others, 0) == [1 / 3]


# ------------------------------------------------------------------------------------------------ Downpour


def test_downpour_applies_pushes_at_a_rate_of_its_own() -> None:
    assert after(Downpour(), [4.0], [-2.0], workers=9)[0] == [4.0, 2.0]
    assert after(Downpour(rate=0.25), [4.0], [-2.0], workers=9)[0] == [1.0, 0.5]


def test_adagrad_by_hand() -> None:
    """Pushes 3, 4: steps of 0.1 * 3 / 3, then of 0.1 * 4 / 5; a weight that is not pushed does not move."""
    seen, memory = after(Downpour(rate=0.1, adapt="adagrad"), [3.0], [4.0], [0.0])
    assert seen == pytest.approx([0.1, 0.18, 0.18])
    assert memory["squares"].tolist() == [25.0]


# ------------------------------------------------------------------------------------------------ EASGD


def elastic_descent(rate: float, lr: float, rounds: int) -> float:
    """How far worker and centre are from 0 after so many rounds on x^2 / 2, the gradient taken before the move."""
    rule = Easgd(moving_rate=rate)
    local, centre = np.array([1.0], np.float32), np.array([-0.5], np.float32)
    for version in range(rounds):
        pushed = rule.outgoing(local, centre)
        local = local - np.float32(lr) * local
        [merged, _, _] = rule.merge(centre, [push(0, version, delta=pushed)], peers(version), version)
        assert merged is not None
        local = local + rule.correction(centre, pushed, merged)
        centre = merged
    return float(abs(local[0]) + abs(centre[0]))


@pytest.mark.parametrize("lr", [0.5, 1.0, 1.5])
def test_easgd_is_stable_up_to_the_bound_of_the_paper(lr: float) -> None:
    bound = (4 - 2 * lr) / (4 - lr)
    assert elastic_descent(0.95 * bound, lr, 400) < 1e-3
    assert elastic_descent(1.05 * bound, lr, 400) > 1e3


def test_elastic_workers_and_centre_exchange_what_they_lose() -> None:
    """m = 3: a = 0.3. Worker 5, centre 1: the centre gains 1.2, and the answer takes 1.2 from the worker."""
    rule = Easgd().settled(num_workers=3)
    centre, local = np.array([1.0], np.float32), np.array([5.0], np.float32)
    merged = rule.merge(centre, [push(0, 0, delta=rule.outgoing(local, centre))], peers(0, 0, 0), 0)
    assert merged.scales == pytest.approx([0.3])
    assert merged.weights == pytest.approx([2.2])
    assert rule.correction(centre, local, merged.weights) == pytest.approx([-1.2])


def test_the_moving_rate_is_nine_tenths_shared_by_the_workers() -> None:
    assert Easgd().settled(9).moving_rate == pytest.approx(0.1)
    assert Easgd(moving_rate=0.5).settled(9) == Easgd(moving_rate=0.5)
    assert Easgd().scales([push()], peers(0, 0, 0), 0) == pytest.approx([0.3])


def test_only_eamsgd_prescribes_the_momentum_of_the_workers() -> None:
    assert {type(rule): rule.local_momentum for rule in EVERY_RULE if rule.local_momentum} == {Eamsgd: 0.99}


def test_the_mean_of_peers_is_by_mass_or_plain() -> None:
    reports = [
        Contribution(w, np.array([x], np.float32), 0, 0, 0.5, mass) for w, (x, mass) in enumerate([(8, 0.3), (4, 0.1)])
    ]
    forgotten = np.array([99.0], np.float32)
    assert Gosgd().merge(forgotten, reports, {}, 0).weights == pytest.approx([7.0])
    assert Gosgd(mean="plain").merge(forgotten, reports, {}, 0).weights == pytest.approx([6.0])


@pytest.mark.parametrize("rule", EVERY_RULE, ids=name_of)
def test_the_workers_half_touches_nothing_that_it_is_given(rule: Strategy) -> None:
    rule = rule.settled(3)
    given_ = [np.random.default_rng(i).standard_normal(20).astype(np.float32) for i in range(4)]
    copies = [vector.copy() for vector in given_]
    for vector in given_:
        vector.flags.writeable = False
    local, base, pushed, weights = given_
    for made in (rule.outgoing(local, base), rule.correction(base, pushed, weights)):
        assert made.flags.writeable
        assert not any(np.shares_memory(made, vector) for vector in given_)
    assert all(np.array_equal(vector, copy) for vector, copy in zip(given_, copies, strict=True))


@pytest.mark.parametrize("rule", EVERY_RULE, ids=name_of)
def test_a_merge_touches_nothing_that_it_is_given(rule: Strategy) -> None:
    rng, rule = np.random.default_rng(3), rule.settled(3)
    weights, memory = rng.standard_normal(50).astype(np.float32), {}
    for version in range(5):
        pushes = [
            push(worker, version, delta=rng.standard_normal(50).astype(np.float32))
            for worker in range(3 if rule.synchronous else 1)
        ]
        given_ = [weights, *(p.delta for p in pushes), *memory.values()]
        copies = [vector.copy() for vector in given_]
        for vector in given_:
            vector.flags.writeable = False
        merged = rule.merge(weights, pushes, peers(*[version] * 3), version, memory)
        assert all(np.array_equal(vector, copy) for vector, copy in zip(given_, copies, strict=True))
        assert merged.weights is not None
        made = [merged.weights, *merged.memory.values()]
        assert all(vector.dtype == np.float32 and vector.shape == (50,) for vector in made)
        assert not any(np.shares_memory(merged.weights, vector) for vector in [*given_, *merged.memory.values()])
        weights, memory = merged.weights, dict(merged.memory)


def test_what_a_rule_remembers_is_saved_and_taken_over() -> None:
    whole, cut = (GlobalModel(Diloco(), np.zeros(2, np.float32)) for _ in range(2))
    for version in range(4):
        if version == 2:
            tree = cut.snapshot()
            cut = GlobalModel(Diloco(), None)
            cut.resume(tree)
        for model in (whole, cut):
            model.add(push(0, version, delta=np.array([1.0, version], np.float32)))
            model.merge(peers(version), 64 * (version + 1))
    assert np.array_equal(whole.weights, cut.weights)
    assert whole.version == cut.version == 4


# -------------------------------------------------------------------------------------------- contract


@given(
    data=st.data(),
    rule=st.sampled_from([*EVERY_RULE, *AMONG_PEERS]),
    version=st.integers(0, 1000),
    num_workers=st.integers(1, 8),
)
def test_scales_are_finite_not_negative_and_at_most_one_in_sum(
    data: st.DataObject, rule: Strategy, version: int, num_workers: int
) -> None:
    qualities = st.one_of(st.none(), st.floats(0, 1))
    others = {w: Peer(data.draw(st.integers(0, version)), data.draw(qualities)) for w in range(num_workers)}
    pushing = range(num_workers) if rule.synchronous or rule.meets == "peers" else [0]
    pushes = [push(w, others[w].base_version, data.draw(st.floats(0, 1))) for w in pushing]
    for p in pushes:  # as the coordinator does: the push is noted before it is merged
        others[p.worker] = Peer(p.base_version, p.accuracy)
    scales = rule.scales(pushes, others, version)
    assert len(scales) == len(pushes)
    assert all(isfinite(scale) and scale >= 0 for scale in scales)
    assert sum(scales) <= 1 + 1e-9


@pytest.mark.parametrize("allocation", ALLOCATIONS, ids=lambda a: a.name)
@pytest.mark.parametrize("rule", EVERY_RULE, ids=name_of)
def test_every_rule_finds_the_optimum_over_unequal_workers(rule: Strategy, allocation: Allocation) -> None:
    problem = Quadratic(240, lr=0.2)
    setup = a_setup(allocation, rule, num_samples=240, epochs=10, exchange=ExchangeConfig(every=4))
    stage = Stage(setup, [80, 40, 20, 10], delay_s=0.05, problem=problem).open().run()
    assert stage.settled()
    assert stage.coordinator.model.weights is not None
    assert problem.distance(problem.start) > 5
    assert problem.distance(stage.coordinator.model.weights) < 0.15


def test_every_known_rule_is_in_the_table() -> None:
    assert {type(rule) for rule in [*EVERY_RULE, *AMONG_PEERS]} == set(RULES.values())


@pytest.mark.parametrize("rule", ONE_WORKER_ALONE, ids=name_of)
@pytest.mark.parametrize("allocation", ALLOCATIONS, ids=lambda a: a.name)
def test_one_worker_is_plain_sequential_sgd(rule: Strategy, allocation: Allocation) -> None:
    problem = Quadratic(240, lr=0.05, spread=2.0)
    setup = a_setup(allocation, rule, num_samples=240, epochs=2, num_workers=1)
    stage = Stage(setup, [10.0], problem=problem).open().run()
    weights = problem.start
    for lease in stage.trained:
        weights = problem.train(weights, lease.indices)
    assert stage.coordinator.model.version == len(stage.trained) > 20
    np.testing.assert_allclose(stage.coordinator.model.weights, weights, atol=1e-6)


@pytest.mark.parametrize("allocation", ALLOCATIONS, ids=lambda a: a.name)
def test_with_one_worker_the_two_rules_agree(allocation: Allocation) -> None:
    ends = []
    for rule in (Sgwu(), Agwu(accuracy_weight="none", staleness="none")):
        setup = a_setup(allocation, rule, num_samples=240, epochs=2, num_workers=1)
        stage = Stage(setup, [10.0], delay_s=0.0, problem=Quadratic(240, spread=2.0)).open().run()
        ends.append(stage.coordinator.model.weights)
    np.testing.assert_allclose(ends[0], ends[1], atol=1e-6)


@pytest.mark.parametrize("rule", [rule for rule in ONE_WORKER_ALONE if not rule.timed], ids=name_of)
def test_the_overlap_does_not_change_the_result_of_one_worker(rule: Strategy) -> None:
    ends = []
    for overlap in (True, False):
        setup = a_setup(
            Uniform(),
            rule,
            num_samples=240,
            num_workers=1,
            exchange=ExchangeConfig(every=2, overlap=overlap),
        )
        stage = Stage(setup, [10.0], delay_s=0.3, problem=Quadratic(240, spread=2.0)).open().run()
        ends.append(stage.coordinator.model.weights)
    np.testing.assert_allclose(ends[0], ends[1], atol=1e-5)


def test_a_round_is_merged_in_the_order_of_the_workers() -> None:
    deltas = [np.full(2, value, np.float32) for value in (3e8, -3e8, 3.0)]  # a sum that depends on the order
    ends = []
    for order in ([0, 1, 2], [2, 0, 1]):
        model = GlobalModel(Sgwu(), np.zeros(2, np.float32))
        for worker in order:
            model.add(push(worker, delta=deltas[worker]))
        model.merge(peers(0, 0, 0), 192)
        ends.append(model.weights)
    assert np.array_equal(*ends)
    assert model.version == 1
    assert model.waiting == []


def test_timing_only_counts_versions_and_touches_no_weights() -> None:
    model = GlobalModel(Agwu(), None)
    model.add(push())
    model.merge(peers(0, 0), 64)
    assert (model.version, model.weights, model.scales) == (1, None, [0.25])
