"""The average of the latest global weights, against the weights that its formula gives each version."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from outer.stage import Stage, a_setup, saved_and_loaded

from bptcnn.config import RunConfig
from bptcnn.errors import ConfigError
from bptcnn.outer.allocation import Dynamic
from bptcnn.outer.average import GRAIN, Average
from bptcnn.outer.global_model import GlobalModel
from bptcnn.outer.messages import Evaluate, Vector
from bptcnn.outer.rules import AllReduce, AsyncLocalSgd, Contribution, LocalSgd, Strategy


def one(value: float) -> Vector:
    return np.full(1, value, np.float32)


def after(age: float, versions: list[tuple[int, float]]) -> float:
    average = Average(age, one(99.0))
    for num_samples, value in versions:
        average.follow(one(value), num_samples)
    assert average.weights is not None
    return float(average.weights[0])


def test_by_hand() -> None:
    assert after(1 / 2, [(10, 4.0)]) == 4.0  # what it began with counts for nothing
    assert after(1 / 2, [(10, 4.0), (20, 8.0)]) == 6.0
    assert after(1 / 2, [(10, 4.0), (40, 8.0)]) == 7.0  # three times the samples, three times the weight
    assert after(1 / 3, [(10, 4.0), (20, 8.0)]) == 7.0  # (1 / 2)^2 is left of the first


@given(
    age=st.floats(0.02, 0.5),
    steps=st.lists(st.tuples(st.floats(0.01, 2.0), st.floats(-5, 5)), min_size=1, max_size=20),
)
def test_each_version_counts_as_its_samples_lie(age: float, steps: list[tuple[float, float]]) -> None:
    seen, versions = 1000.0, []
    for growth, value in steps:
        seen *= 1 + growth
        versions.append((int(seen), value))
    power = 1 / age - 1
    edges = np.array([0.0, *(num_samples / versions[-1][0] for num_samples, _ in versions)]) ** power
    expected = np.dot(np.diff(edges), [value for _, value in versions])
    assert after(age, versions) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("age", [0.05, 0.2, 0.5])
def test_the_mean_age_is_a_part_of_the_run_so_far(age: float) -> None:
    for end in (20_000, 80_000):
        mean = after(age, [(num_samples, num_samples) for num_samples in range(10, end + 1, 10)])
        assert 1 - mean / end == pytest.approx(age, abs=2 * GRAIN)


def test_it_lies_nearer_to_the_middle_of_what_wanders() -> None:
    rng, average = np.random.default_rng(0), Average(0.05, one(0.0))
    place, places, means = 0.0, [], []
    for num_samples in range(100, 500_000, 100):
        place = 0.9 * place + rng.normal()
        average.follow(one(place), num_samples)
        places.append(place)
        means.append(float(average.weights[0]))  # type: ignore[index]
    assert np.std(means[2500:]) < np.std(places[2500:]) / 4


def test_versions_that_are_hardly_further_are_passed_over() -> None:
    average = Average(0.05, one(0.0))
    for num_samples in (51_200, 51_200, 51_300, 10_000):
        average.follow(one(num_samples), num_samples)
        assert (average.weights, average.num_samples) == (one(51_200), 51_200)
    average.follow(one(0.0), 51_301)
    assert average.num_samples == 51_301


def test_nothing_that_was_handed_out_is_written_to() -> None:
    average, handed = Average(0.05, one(0.0)), []
    for number in range(1, 12):
        average.follow(one(number), 100 * number)
        assert average.weights is not None
        handed.append((average.weights, average.weights.copy()))
    assert all(np.array_equal(vector, copy) for vector, copy in handed)


def test_it_is_saved_and_taken_over() -> None:
    whole, cut = (Average(0.1, one(0.0)) for _ in range(2))
    for number in range(1, 9):
        if number == 5:
            tree = saved_and_loaded(cut.snapshot())
            cut = Average(0.1, None)
            cut.resume(tree)
        for average in (whole, cut):
            average.follow(one(number), 100 * number)
    assert whole == cut


def test_the_global_model_saves_and_takes_over_its_average() -> None:
    whole, cut = (GlobalModel(LocalSgd(), one(0.0), 0.1) for _ in range(2))
    for version in range(6):
        if version == 3:
            tree = saved_and_loaded(cut.snapshot())
            cut = GlobalModel(LocalSgd(), None, 0.1)
            cut.resume(tree)
        for model in (whole, cut):
            model.add(Contribution(0, one(version), version, 64, 0.5))
            model.merge({}, 64 * (version + 1))
    assert whole.average is not None
    assert np.array_equal(whole.average, cut.average)
    assert not np.array_equal(whole.average, whole.weights)


def test_a_version_that_a_better_one_is_to_follow_is_left_out() -> None:
    model = GlobalModel(LocalSgd(), one(0.0), 0.5)
    for num_samples in (None, 64):
        model.add(Contribution(0, one(3.0), 0, 64, 0.5))
        model.merge({}, num_samples)
    assert model.average == one(6.0)


@pytest.mark.parametrize("age", [0.005, 0.51, -0.1])
def test_an_age_that_makes_no_sense_is_refused(age: float) -> None:
    with pytest.raises(ConfigError, match=r"^evaluation.average = "):
        RunConfig(evaluation={"average": age})


def test_without_an_age_the_last_weights_are_measured() -> None:
    model = GlobalModel(LocalSgd(), one(3.0))
    assert model.average is model.weights
    assert GlobalModel(LocalSgd(), None, 0.05).average is None


@pytest.mark.parametrize("rule", [LocalSgd(), AsyncLocalSgd(), AllReduce()], ids=lambda rule: rule.name)
def test_it_follows_the_samples_that_the_weights_know_of(rule: Strategy, monkeypatch: pytest.MonkeyPatch) -> None:
    followed: list[int] = []
    monkeypatch.setattr(Average, "follow", lambda self, weights, num_samples: followed.append(num_samples))
    stage = Stage(a_setup(Dynamic(), rule, evaluate_every=0.1), [200, 100, 50, 25]).open().run()
    assert followed == sorted(followed)
    assert followed[-1] == 3 * 480
    assert {order.committed for order in stage.commands(Evaluate)} <= set(followed)
