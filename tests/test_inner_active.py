"""Lanes that sit out: when one does, when it comes back, and that steps with fewer lanes have the same bits."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import groupby, pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from bptcnn.inner.account import account
from bptcnn.inner.compiled import Compiled
from bptcnn.inner.lanes import Lanes
from bptcnn.inner.lowering import division
from bptcnn.inner.tasks.active import SLOWER, ActiveLanes
from bptcnn.models import ModelConfig, build

SHAPE = (3, 8, 8)

WELL = {4: 0.1, 3: 0.133, 2: 0.2}
"""Seconds of a step, by lanes that work."""

DISTURBED = {4: 0.16, 3: 0.135, 2: 0.2}
TWICE = {4: 0.4, 3: 0.3, 2: 0.2}


def counts(lanes: ActiveLanes, seconds: Mapping[int, float], steps: int) -> list[int]:
    """How many lanes worked in each of so many steps."""
    found = []
    for _ in range(steps):
        found.append(lanes.count)
        lanes.note(seconds[lanes.count])
    return found


def test_nobody_sits_out_while_steps_are_as_fast_as_ever() -> None:
    assert set(counts(ActiveLanes(4), WELL, 1000)) == {4}


def test_a_lane_sits_out_while_its_core_is_busy_and_comes_back() -> None:
    lanes = ActiveLanes(4)
    counts(lanes, WELL, 20)
    assert counts(lanes, DISTURBED, 400).count(3) > 320
    assert counts(lanes, DISTURBED, 1000).count(3) > 860
    back = counts(lanes, WELL, 200)
    assert set(back[60:]) == {4}


def test_several_sit_out_where_that_is_faster_but_half_of_them_work() -> None:
    lanes = ActiveLanes(4)
    counts(lanes, WELL, 20)
    assert counts(lanes, TWICE, 300)[-1] == 2
    assert counts(lanes, TWICE, 1000).count(2) > 860


def test_where_one_less_is_no_better_that_is_asked_ever_more_rarely() -> None:
    lanes = ActiveLanes(4)
    counts(lanes, WELL, 20)
    slow = {lanes: seconds * 2 for lanes, seconds in WELL.items()}
    assert counts(lanes, slow, 1000).count(4) > 900
    assert counts(lanes, slow, 1000).count(4) > 960


@pytest.mark.parametrize(("scale", "length"), [(1.0, 3), (0.01, 42)])
def test_a_trial_ends_as_soon_as_most_of_its_steps_are_no_better(scale: float, length: int) -> None:
    lanes = ActiveLanes(4)
    counts(lanes, {4: 0.1 * scale}, 200)
    tried = counts(lanes, {4: 0.12 * scale, 3: 0.15 * scale}, 10_000)
    # more than half of 5 steps, or of the 83 that make a tenth of a second
    lengths = [len(list(group)) for count, group in groupby(tried) if count == 3]
    assert len(lengths) >= 5
    assert set(lengths) == {length}


def test_a_trial_with_a_few_slow_steps_goes_on() -> None:
    lanes = ActiveLanes(4)
    counts(lanes, WELL, 20)
    while lanes.count == 4:
        lanes.note(DISTURBED[4])
    for step_s in (1.0, 0.135, 1.0, 0.135, 0.135):
        assert lanes.count == 3
        lanes.note(step_s)
    assert lanes.count == lanes._kept == 3


def test_one_slow_step_is_no_reason() -> None:
    lanes = ActiveLanes(4)
    for step in range(200):
        lanes.note(5.0 if step % 5 == 0 else 0.1)
        assert lanes.count == 4


@given(num_lanes=st.integers(1, 9), seconds=st.lists(st.floats(1e-4, 10), max_size=300))
def test_at_least_two_work_and_one_at_most_changes(num_lanes: int, seconds: list[float]) -> None:
    lanes, found = ActiveLanes(num_lanes), [num_lanes]
    for step_s in seconds:
        lanes.note(step_s)
        found.append(lanes.count)
    assert min(found) >= min(num_lanes, max(2, num_lanes // 2))
    assert max(found) <= num_lanes
    assert all(abs(later - earlier) <= 1 for earlier, later in pairwise(found))


def test_small_differences_are_no_reason() -> None:
    lanes = ActiveLanes(4)
    counts(lanes, WELL, 20)
    assert set(counts(lanes, {4: 0.1 * SLOWER, 3: 0.01}, 1000)) == {4}


def a_network() -> nn.Module:
    return build(ModelConfig(name="resnet8"), SHAPE, 4, seed=3).train()


def a_batch(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    numbers = torch.Generator().manual_seed(0)
    return torch.randn(count, *SHAPE, generator=numbers), torch.randint(0, 4, (count,), generator=numbers)


def test_a_step_has_the_same_bits_whoever_sits_out(monkeypatch: pytest.MonkeyPatch) -> None:
    smallest = division.BY_VECTORS._replace(flops=1.0)  # so that even this network's layers are divided
    monkeypatch.setattr(division, "BY_VECTORS", smallest)
    network, batch = a_network(), a_batch(64)
    compiled, found = Compiled(network, SHAPE, 64, Lanes(4)), []
    for count in (4, 3, 2, 4):
        compiled._active.count = count
        compiled(*batch, functional.cross_entropy)
        assert account(compiled)[1].num_lanes == count
        found.append([p.grad.clone() for p in network.parameters() if p.grad is not None])
    for others in found[1:]:
        assert all(map(torch.equal, found[0], others))


def test_only_steps_with_as_much_to_do_as_the_one_before_are_compared() -> None:
    compiled, seen = Compiled(a_network(), SHAPE, 64, Lanes(2)), list[float]()
    compiled._active.note = seen.append  # type: ignore[method-assign]
    for count in (64, 64, 60, 8, 64, 64):  # 60 samples fill as many blocks as 64 do
        compiled(*a_batch(count), functional.cross_entropy)
    assert len(seen) == 3
    assert all(0 < step_s < 60 for step_s in seen)
