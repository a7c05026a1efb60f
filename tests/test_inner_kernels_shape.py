"""Which input meets which output through which place of the filter, and tiles that fit the registers."""

from __future__ import annotations

from blocks import BF16, GROUPS, KINDS
from hypothesis import assume, given
from hypothesis import strategies as st

from bptcnn.inner.kernels.matrices.lines import lines_of, runs, side_by_side
from bptcnn.inner.kernels.shape import Plane, Taps, Vectors, Window, alike, backward_taps, forward_taps
from bptcnn.inner.kernels.tiling import output_tile, shared_by, weight_tile

Meetings = list[tuple[int, int, int]]


def brute_force(size: int, stride: int, padding: int, inputs: int, outputs: int) -> Meetings:
    """Output, filter's place and input of each product, by definition."""
    meetings = ((out, place, out * stride + place - padding) for out in range(outputs) for place in range(size))
    return sorted(meeting for meeting in meetings if 0 <= meeting[2] < inputs)


def of_taps(taps: tuple[Taps, ...], total: int, others: int) -> Meetings:
    """What is made, filter's place and what is seen of each product."""
    return sorted(
        (phase.phase + phase.every * i, phase.places[t], phase.step * i + phase.offsets[t])
        for phase in taps
        for i in range(phase.count(total))
        for t in phase.seen(i, others)
    )


@st.composite
def filters(draw: st.DrawFn) -> tuple[int, int, int, int]:
    size = draw(st.integers(1, 7))
    padding = draw(st.integers(0, size - 1))
    return size, draw(st.integers(1, 5)), padding, draw(st.integers(max(1, size - 2 * padding), 20))


def test_taps_worked_out_by_hand() -> None:
    assert of_taps(forward_taps(3, 2, 1), 2, 3) == [(0, 1, 0), (0, 2, 1), (1, 0, 1), (1, 1, 2)]
    assert of_taps(backward_taps(3, 2, 1), 3, 2) == [(0, 1, 0), (1, 0, 1), (1, 2, 0), (2, 1, 1)]


@given(filters())
def test_taps_meet_what_the_definition_says(shape: tuple[int, int, int, int]) -> None:
    size, stride, padding, inputs = shape
    outputs = Window(size, 1, stride, padding).outputs(Plane(1, inputs, 2 * padding + 9), 1).rows
    expected = brute_force(size, stride, padding, inputs, outputs)
    assert of_taps(forward_taps(size, stride, padding), outputs, inputs) == expected
    backward = of_taps(backward_taps(size, stride, padding), inputs, outputs)
    assert sorted((out, place, into) for into, place, out in backward) == expected


@given(filters())
def test_phases_cover_each_input_once(shape: tuple[int, int, int, int]) -> None:
    size, stride, padding, inputs = shape
    covered = [t.phase + t.every * i for t in backward_taps(size, stride, padding) for i in range(t.count(inputs))]
    assert sorted(covered) == list(range(inputs))


@given(filters(), st.integers(1, 16))
def test_tiles_of_columns_cover_all_and_know_what_they_see(shape: tuple[int, int, int, int], width: int) -> None:
    size, stride, padding, inputs = shape
    outputs = (inputs + 2 * padding - size) // stride + 1
    for across, count, others in (
        *((taps, taps.count(outputs), inputs) for taps in forward_taps(size, stride, padding)),
        *((taps, taps.count(inputs), outputs) for taps in backward_taps(size, stride, padding)),
    ):
        if not count:
            continue
        covered = set()
        for first, step, repeats, seen in alike(across, count, others, width):
            for repeat in range(repeats):
                columns = range(first + repeat * step, first + repeat * step + len(seen))
                assert [across.seen(column, others) for column in columns] == list(seen)
                covered |= set(columns)
        assert covered == set(range(count))


planes = st.builds(Plane, st.integers(1, 200), st.integers(1, 40), st.integers(1, 40))


@given(filters(), planes, st.sampled_from([*KINDS, *GROUPS, BF16]), st.booleans())
def test_a_tile_of_outputs_fits_the_registers(
    shape: tuple[int, int, int, int], out: Plane, vectors: Vectors, forward: bool
) -> None:
    size, stride, padding, inputs = shape
    across = (forward_taps if forward else backward_taps)(size, stride, padding)
    tile, shared = output_tile(across, inputs, out, vectors), shared_by(vectors, across, out)
    assert 1 <= tile.channels <= out.channels
    assert 1 <= tile.columns <= max(taps.count(out.columns) for taps in across)
    assert tile.columns % shared == 0
    columns = tile.columns // shared
    if (tile.channels, columns) != (1, 1):
        seen = max(len({t.step * shared * x + o for x in range(columns) for o in t.offsets}) for t in across)
        kept = columns if tile.again else seen
        assert vectors.parts * (tile.channels * columns + kept) + 1 <= vectors.registers


@given(filters(), st.integers(1, 7), planes, st.integers(1, 200), st.sampled_from([*KINDS, BF16]))
def test_a_tile_of_weights_fits_the_registers_and_divides_the_filters(
    shape: tuple[int, int, int, int], columns: int, data: Plane, num_filters: int, vectors: Vectors
) -> None:
    rows, stride, padding, _ = shape
    assume(padding < columns <= data.columns + 2 * padding and rows <= data.rows + 2 * padding)
    window = Window(rows, columns, stride, padding)
    outs, ins = weight_tile(window, data, window.outputs(data, num_filters), vectors)
    assert num_filters % outs == 0
    assert 1 <= ins <= data.channels
    assert (outs, ins) == (1, 1) or (outs + 1) * ins * columns + 1 <= vectors.registers


# ------------------------------------------------------------------------------------------------ narrow blocks


@given(filters(), st.integers(1, 30), st.booleans())
def test_lines_hold_what_each_output_sees(shape: tuple[int, int, int, int], outputs: int, forward: bool) -> None:
    size, stride, padding, columns = shape
    for taps in (forward_taps if forward else backward_taps)(size, stride, padding):
        lines = lines_of(taps, outputs)
        for (number, shift), offset in zip(lines.places, taps.offsets, strict=True):
            low, high = lines.inside(lines.phases[number], columns)
            for x in range(outputs):
                assert 0 <= x + shift < lines.count
                column = lines.step * (x + shift + lines.first) + lines.phases[number]
                assert column == taps.step * x + offset
                assert (low <= x + shift < high) is (0 <= column < columns)


@given(st.integers(1, 130), st.sampled_from([1, 2, 4]), st.sampled_from([2, 4]))
def test_matrices_cover_all_columns_and_no_others(count: int, span: int, most: int) -> None:
    covered = [
        start + repeat * span * most + offset + column
        for start, repeats, offsets in side_by_side(count, span, most)
        for repeat in range(repeats)
        for offset in offsets
        for column in range(min(span, count))
    ]
    assert sorted(set(covered)) == list(range(count))
    assert all(len(offsets) <= most for _, _, offsets in side_by_side(count, span, most))
    assert len(covered) < count + span


@given(st.integers(0, 20), st.integers(0, 40), st.integers(1, 8))
def test_runs_cover_all_entries_and_no_others(low: int, count: int, size: int) -> None:
    covered = [
        start + repeat * length + entry
        for start, repeats, length in runs(low, low + count, size)
        for repeat in range(repeats)
        for entry in range(length)
    ]
    assert sorted(set(covered)) == list(range(low, low + count))
    assert all(repeats > 0 for _, repeats, _ in runs(low, low + count, size))
