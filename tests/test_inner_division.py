"""Into how many parts a block's share of a layer falls."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bptcnn.inner.kernels.shape import Vectors
from bptcnn.inner.lowering.division import BY_MATRICES, BY_VECTORS, SUMS_BYTES, Division, chunks_of_sums
from bptcnn.inner.lowering.program import ranges

VECTORS, MATRICES = Vectors(8, 16), Vectors(16, 32, bf16=True, matrices=True)


def parts(num_blocks: int, num_lanes: int, work: float, vectors: Vectors = VECTORS, *, meet: bool = True) -> list[int]:
    division = Division(num_blocks, num_lanes, vectors, meet)
    return [division.parts(block, work) for block in range(num_blocks)]


@pytest.mark.parametrize(
    ("num_blocks", "num_lanes", "work", "found"),
    [
        (6, 2, 1e9, [1, 1, 1, 1, 8, 8]),  # of the last round, every lane's block
        (6, 2, 3.8e7, [1, 1, 1, 1, 3, 3]),
        (6, 2, 0.9e7, [1] * 6),  # not worth it
        (4, 4, 1e9, [8] * 4),
        (4, 3, 1e9, [1, 8, 8, 8]),
        (2, 4, 1e9, [16, 16]),
        (1, 4, 1e9, [32]),
        (1, 4, 1e6, [4]),  # each lane gets some
        (6, 1, 1e9, [1] * 6),  # nobody waits
    ],
)
def test_who_would_wait_for_the_last_round_shares_it(
    num_blocks: int, num_lanes: int, work: float, found: list[int]
) -> None:
    assert parts(num_blocks, num_lanes, work) == found


@pytest.mark.parametrize(
    ("num_blocks", "num_lanes", "work", "found"),
    [
        (8, 4, 1e9, [1] * 8),  # whoever is done goes on with something else
        (4, 4, 4e8, [1] * 4),
        (4, 4, 6e8, [8] * 4),
        (4, 3, 4e8, [1, 8, 8, 8]),
        (2, 4, 4e8, [16, 16]),
    ],
)
def test_blocks_that_meet_at_the_end_only_are_divided_where_they_are_few(
    num_blocks: int, num_lanes: int, work: float, found: list[int]
) -> None:
    assert parts(num_blocks, num_lanes, work, meet=False) == found


@pytest.mark.parametrize(
    ("num_lanes", "work", "found"),
    [
        (4, 4e8, [1] * 4),
        (4, 6e8, [2] * 4),
        (3, 4e7, [1] * 4),
        (3, 1.1e8, [1, 2, 2, 2]),
        (3, 1.6e8, [1, 3, 3, 3]),
        (3, 9e8, [1, 3, 3, 3]),  # a block on one lane, six thirds on two, and three for one round more
        (6, 4e7, [2] * 4),
        (2, 1.6e8, [1] * 4),
    ],
)
def test_parts_by_matrices_are_few_as_each_weaves_its_data(num_lanes: int, work: float, found: list[int]) -> None:
    assert parts(4, num_lanes, work, MATRICES) == found


@given(st.integers(1, 40), st.integers(1, 12), st.floats(0, 1e10), st.sampled_from([VECTORS, MATRICES]), st.booleans())
def test_every_lane_gets_a_part_and_no_part_is_too_small(
    num_blocks: int, num_lanes: int, work: float, vectors: Vectors, meet: bool
) -> None:
    found = parts(num_blocks, num_lanes, work, vectors, meet=meet)
    least, grain = -(-num_lanes // num_blocks), BY_MATRICES if vectors.matrices else BY_VECTORS
    assert sum(found) >= min(num_blocks, num_lanes)
    assert all(count == least or work / count >= grain.flops for count in found)
    assert all(least <= count <= max(grain.parts * least, num_lanes) for count in found)
    assert found == sorted(found)


@given(st.sampled_from([4, 6, 8, 12]), st.integers(1, 40), st.integers(1, 60), st.floats(1e4, 1e9), st.floats(1e3, 1e8))
def test_sums_are_divided_into_as_many_tasks_as_are_wanted_or_can_be(
    parts: int, panels: int, wanted: int, data_bytes: float, sums_bytes: float
) -> None:
    of_parts, several = chunks_of_sums(parts, panels, wanted, data_bytes, sums_bytes)
    chunks = -(-panels // several)
    assert parts % of_parts == 0
    assert 1 <= several <= panels
    assert chunks == 1 or chunks * sums_bytes <= 2 * SUMS_BYTES
    most = max(1, min(panels, int(SUMS_BYTES / sums_bytes)))
    assert of_parts * chunks >= min(wanted, parts * most)


def test_what_is_large_is_not_read_or_kept_twice() -> None:
    def divided(panels: int = 16, wanted: int = 12, sums_bytes: float = 2.6e5) -> tuple[int, int]:
        return chunks_of_sums(4, panels, wanted, 6e7, sums_bytes)

    assert divided() == (1, 1)
    assert divided(sums_bytes=2e7) == (4, 16)
    assert divided(wanted=1) == (1, 16)  # a single lane
    assert divided(panels=1) == (4, 1)


@given(
    st.integers(1, 4),
    st.integers(1, 12),
    st.integers(1, 300),
    st.floats(0, 1e10),
    st.sampled_from([VECTORS, MATRICES]),
)
def test_parts_follow_each_other_and_make_everything_once(
    num_blocks: int, num_lanes: int, tiles: int, work: float, vectors: Vectors
) -> None:
    division = Division(num_blocks, num_lanes, vectors, meet=True)
    for block in range(num_blocks):
        found = division.ranges(block, tiles, work)
        assert [first for first, _ in found] == [0, *(last for _, last in found[:-1])]
        assert found[-1][1] == tiles
        assert all(first < last for first, last in found)


@given(st.integers(2, 12), st.integers(1, 300))
def test_parts_of_a_single_block_become_smaller_towards_the_end_of_a_lanes_stretch(num_lanes: int, tiles: int) -> None:
    parts = Division(1, num_lanes, VECTORS, meet=True).ranges(0, tiles, 1e12)
    uniform = -(-tiles // (num_lanes * BY_VECTORS.parts))
    for first, last in ranges(tiles, num_lanes):
        sizes = [end - begin for begin, end in parts if first <= begin < last]
        assert sum(sizes) == last - first  # no part belongs to two lanes
        assert sizes == sorted(sizes, reverse=True)
        assert sizes[-1] <= uniform
