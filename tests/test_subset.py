"""A part of a data set: samples by their new position, and what is held out for Q."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from bptcnn.data import DataConfig, Samples, load
from bptcnn.data.subset import Subset, hold_out

DIGITS = load(DataConfig(name="digits", pad=1, flip=True), seed=4).train


@given(size=st.integers(2, 300), seed=st.integers(0, 2**32 - 1), part=st.floats(0.01, 0.99))
def test_held_out_and_left_are_the_whole_and_share_nothing(size: int, seed: int, part: float) -> None:
    whole = Subset(DIGITS, np.arange(size))
    count = max(1, int(part * size))
    left, held_out = hold_out(whole, count, seed)
    assert (len(left), len(held_out)) == (size - count, count)
    assert np.array_equal(np.sort(np.concatenate([left.chosen, held_out.chosen])), np.arange(size))


def test_the_choice_follows_the_seed_alone() -> None:
    first, again, other = (hold_out(DIGITS, 50, seed)[1].chosen for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_the_choice_is_random_over_the_whole_set() -> None:
    chosen = hold_out(DIGITS, 400, seed=0)[1].chosen
    assert abs(chosen.mean() / len(DIGITS) - 0.5) < 0.05


def test_a_sample_looks_the_same_under_its_new_number() -> None:
    chosen = np.array([7, 3, 1000])
    part = Subset(DIGITS, chosen)
    for epoch in (1, 2):
        ours, original = part.batch(np.array([2, 0]), epoch), DIGITS.batch(np.array([1000, 7]), epoch)
        assert torch.equal(ours.images, original.images)
        assert torch.equal(ours.labels, original.labels)
    assert (part.shape, part.num_classes, len(part)) == (DIGITS.shape, 10, 3)
    assert isinstance(part, Samples)
