"""Merged vectors use memory again, but never memory that somebody can still see."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from bptcnn.outer.messages import Vector
from bptcnn.outer.rules import combine
from bptcnn.outer.rules.room import KEPT, room


def address(vector: Vector) -> int:
    return int(vector.__array_interface__["data"][0])


def test_what_nobody_holds_is_used_again() -> None:
    vector = room(1001)
    where = address(vector)
    del vector
    assert where in {address(room(1001)) for _ in range(KEPT)}


def test_a_view_a_tensor_and_a_buffer_keep_their_memory() -> None:
    part, tensor, buffer = room(1002)[10:20], torch.from_numpy(room(1002)), memoryview(room(1002))
    part[:], tensor[:], kept = 1.0, 2.0, np.frombuffer(buffer, np.float32)
    kept[:] = 3.0
    for _ in range(2 * KEPT):
        room(1002)[:] = 9.0
    assert part.tolist() == [1.0] * 10
    assert tensor.eq(2.0).all()
    assert (kept == 3.0).all()


def test_another_length_starts_anew() -> None:
    assert [len(room(length)) for length in (5, 7, 5)] == [5, 7, 5]


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 7)), max_size=40))
def test_a_merge_never_changes_weights_that_are_still_held(steps: list[tuple[bool, int]]) -> None:
    ones = np.ones(6, np.float32)
    held: dict[int, tuple[float, Vector]] = {}
    weights, value = np.zeros(6, np.float32), 0.0
    for keep, slot in steps:
        weights, value = combine(weights, [1.0], [ones]), value + 1.0
        if keep:
            held[slot] = (value, weights)
        else:
            held.pop(slot, None)
        assert weights.tolist() == [value] * 6
        assert all(vector.tolist() == [then] * 6 for then, vector in held.values())
