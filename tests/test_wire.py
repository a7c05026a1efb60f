"""Vectors in fewer bytes: how much is lost, what is exact, and that nothing that is not finite is hidden."""

from __future__ import annotations

import pickle
import warnings
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from bptcnn.wire import BLOCK, CHUNK, Dtype, Packed, decode, encode, num_bytes

PACKED: tuple[Dtype, ...] = ("bf16", "int8", "int4", "2bit")
MULTIPLES: dict[Dtype, int] = {"int8": 127, "int4": 7}
TINY = float(np.finfo(np.float32).tiny)
LENGTHS = st.integers(0, 3 * BLOCK)


def vectors(largest: float = 3e38) -> Any:
    bound = float(np.float32(largest))
    return arrays(np.float32, LENGTHS, elements=st.floats(-bound, bound, width=32))


def quanta(vector: np.ndarray, levels: int) -> np.ndarray:
    """The scale of each value, in the plainest way."""
    blocks = [vector[start : start + BLOCK] for start in range(0, len(vector), BLOCK)]
    return np.concatenate([np.full(len(b), max(float(np.abs(b).max()) / levels, TINY)) for b in blocks] or [[]])


def there_and_back(vector: np.ndarray, dtype: Dtype) -> np.ndarray:
    packed = encode(vector, dtype)
    assert isinstance(packed, Packed)
    assert packed.num_bytes == num_bytes(len(vector), dtype)
    found = decode(packed)
    assert (found.dtype, found.shape) == (np.float32, vector.shape)
    return found


@given(vectors())
def test_bf16_is_off_by_half_of_its_last_digit_at_most(vector: np.ndarray) -> None:
    error = np.abs(there_and_back(vector, "bf16").astype(float) - vector)
    assert (error <= np.maximum(np.abs(vector.astype(float)) * 2.0**-8, 2.0**-134)).all()


@pytest.mark.parametrize(("dtype", "levels"), MULTIPLES.items())
@given(vectors())
def test_integers_are_off_by_half_of_their_scale_at_most(dtype: Dtype, levels: int, vector: np.ndarray) -> None:
    error = np.abs(there_and_back(vector, dtype).astype(float) - vector)
    assert (error <= quanta(vector, levels) * (0.5 + 1e-4)).all()


@given(arrays(np.int16, LENGTHS))
def test_what_bf16_can_write_comes_back_to_the_bit(bits: np.ndarray) -> None:
    vector = (bits.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    vector = vector[~np.isnan(vector)]
    assert np.array_equal(there_and_back(vector, "bf16").view(np.uint32), vector.view(np.uint32))


@pytest.mark.parametrize(("dtype", "levels"), MULTIPLES.items())
@given(st.data(), LENGTHS, st.integers(-120, 110))
def test_what_integers_can_write_comes_back_to_the_bit(
    dtype: Dtype, levels: int, data: st.DataObject, length: int, exponent: int
) -> None:
    multiples = data.draw(arrays(np.int8, length, elements=st.integers(-levels, levels)))
    multiples[::BLOCK] = levels
    vector = np.ldexp(multiples.astype(np.float32), exponent)
    assert np.array_equal(there_and_back(vector, dtype), vector)


def energy(vector: np.ndarray) -> float:
    return float(np.sum(vector.astype(float) ** 2))


@given(vectors(1e6))
def test_two_bits_leave_what_no_other_two_magnitudes_could_say(vector: np.ndarray) -> None:
    """Signs are kept, and what is lost is at right angles to what arrives; there is always something that arrives."""
    vector[np.abs(vector) < 1e-6] = 0
    found = there_and_back(vector, "2bit")
    assert (found * vector >= 0).all()
    lost = energy(vector - found)
    assert lost == pytest.approx(energy(vector) - energy(found), rel=1e-4, abs=1e-5 * energy(vector))
    assert lost <= energy(vector) * (1 - 1 / BLOCK + 1e-6)
    for start in range(0, len(vector), BLOCK):
        assert len(np.unique(np.abs(found[start : start + BLOCK]))) <= 2


def test_two_bits_by_hand() -> None:
    """The mean magnitude is 3, and they are parted at 3.75; a value that is alone in its block arrives as it is."""
    vector = np.array([4.0, -1.0, 1.0, -6.0], np.float32)
    assert there_and_back(vector, "2bit").tolist() == [5, -1, 1, -5]
    alone = np.eye(1, 100, 7, dtype=np.float32)[0]
    assert np.array_equal(there_and_back(alone, "2bit"), alone)


def test_bf16_rounds_ties_to_even() -> None:
    vector = np.array([1 + 2.0**-8, 1 + 3 * 2.0**-8, -1 - 2.0**-8], np.float32)
    assert there_and_back(vector, "bf16").tolist() == [1.0, 1 + 2.0**-6, -1.0]


def test_each_block_has_a_scale_of_its_own_and_zeros_stay_zeros() -> None:
    vector = np.repeat(np.array([1e-6, 0.0, 1e6], np.float32), BLOCK)
    np.testing.assert_allclose(there_and_back(vector, "int8"), vector, rtol=1e-6)
    assert not there_and_back(vector, "int8")[BLOCK : 2 * BLOCK].any()


def test_values_too_small_for_digits_of_their_own_do_no_harm() -> None:
    vector = np.array([1e-45, -3e-40, 1.4e-45, TINY], np.float32)
    with np.errstate(divide="raise"):
        assert np.abs(there_and_back(vector, "int8") - vector).max() <= TINY / 2
        assert not there_and_back(vector[:1], "int8").any()


@pytest.mark.parametrize("dtype", PACKED)
def test_long_vectors_are_written_as_their_parts_are(dtype: Dtype) -> None:
    vector = np.random.default_rng(0).standard_normal(2 * CHUNK + 3 * BLOCK + 7).astype(np.float32)
    found = there_and_back(vector, dtype)
    parts = [there_and_back(vector[start : start + BLOCK], dtype) for start in range(0, len(vector), BLOCK)]
    assert np.array_equal(found, np.concatenate(parts))
    assert dtype in ("int4", "2bit") or 0 < np.abs(found - vector).max() < 0.05
    assert 0 < np.sum((found - vector) ** 2) < {"int4": 0.02, "2bit": 0.12}.get(dtype, 1e-4) * len(vector)


@pytest.mark.parametrize("dtype", PACKED)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_not_hidden(dtype: Dtype, bad: float) -> None:
    vector = np.linspace(-1, 1, 2 * BLOCK + 1, dtype=np.float32)
    vector[[3, -1]] = bad
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = there_and_back(vector, dtype)
    assert not np.isfinite(found[[3, -1]]).any()
    assert np.isfinite(found[BLOCK : 2 * BLOCK]).all()


@pytest.mark.parametrize("dtype", PACKED)
def test_the_vector_is_left_alone_and_may_be_read_only(dtype: Dtype) -> None:
    vector = np.linspace(-1, 1, 1000, dtype=np.float32)
    before = vector.copy()
    vector.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        packed = encode(vector, dtype)
        assert isinstance(packed, Packed)
        packed.values.flags.writeable = packed.scales.flags.writeable = False
        decode(packed)[:] = 0
    assert np.array_equal(vector, before)


@pytest.mark.parametrize("dtype", PACKED)
def test_it_travels_between_processes_in_no_more_bytes_than_it_says(dtype: Dtype) -> None:
    packed = encode(np.ones(10_001, np.float32), dtype)
    assert len(pickle.dumps(packed, protocol=5)) < packed.num_bytes + 500


def test_fp32_is_the_vector_itself() -> None:
    vector = np.ones(3, np.float32)
    assert encode(vector, "fp32") is vector is decode(vector)
    assert num_bytes(3, "fp32") == vector.nbytes
