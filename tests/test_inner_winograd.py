"""Minimal filtering: its transformations, its tables, and where it is worth it; for what it makes see the kernels."""

from __future__ import annotations

import numpy as np
import pytest
from blocks import GROUPS, KINDS, Bench, at_points, drawn, error
from hypothesis import given
from hypothesis import strategies as st

from bptcnn.inner.kernels.shape import Plane, Vectors, Window
from bptcnn.inner.kernels.winograd import tables
from bptcnn.inner.kernels.winograd.forms import OUTPUTS, POINTS, form_of
from bptcnn.inner.kernels.winograd.tiling import (
    BAND_BYTES,
    ROW_BYTES,
    TABLE_BYTES,
    Shape,
    gradient_shape_of,
    shape_of,
    turned,
)

AVX512, AVX, *_ = KINDS
SAME = Window(3, 3, padding=1)


def count_of_tiles(plane: Plane) -> int:
    return -(-plane.rows // OUTPUTS) * -(-plane.columns // OUTPUTS)


each_size = pytest.mark.parametrize("size", POINTS)


def test_two_outputs_worked_out_by_hand() -> None:
    form, weights, data = form_of(3), np.array([1.0, 2.0, 3.0]), np.array([1.0, 10.0, 100.0, 1000.0])
    at_filters, at_data = np.array(form.filters) @ weights, np.array(form.data).T @ data
    assert at_filters.tolist() == [1, 3, 1, 3]
    assert at_data.tolist() == [-99, 110, 90, 990]
    assert (np.array(form.outputs).T @ (at_filters * at_data)).tolist() == [321, 3210]


@each_size
def test_what_is_summed_up_is_a_convolution_and_so_are_its_gradients(size: int) -> None:
    form, numbers = form_of(size), np.random.default_rng(1)
    outputs, filters, of_data = (np.array(matrix) for matrix in (form.outputs, form.filters, form.data))
    weights, data, errors = (numbers.standard_normal(count) for count in (size, size + 1, OUTPUTS))
    assert form.points == len(data)
    made = outputs.T @ ((filters @ weights) * (of_data.T @ data))
    np.testing.assert_allclose(made, [weights @ data[:size], weights @ data[1:]], rtol=1e-12)
    of_inputs = of_data @ ((filters @ weights) * (outputs @ errors))
    np.testing.assert_allclose(of_inputs, np.convolve(weights, errors), rtol=1e-12)
    of_weights = filters.T @ ((outputs @ errors) * (of_data.T @ data))
    np.testing.assert_allclose(of_weights, np.correlate(data, errors), rtol=1e-12)


@each_size
def test_data_is_transformed_by_whole_numbers(size: int) -> None:
    assert all(entry == round(entry) for row in form_of(size).data for entry in row)


@each_size
@pytest.mark.parametrize("emit", [tables.forward, tables.backward, tables.turned])
@pytest.mark.parametrize("ranges", [[(0, 4)], [(3, 4), (0, 2), (2, 3)]])
def test_tables_hold_filters_at_the_points(emit: object, ranges: list[tuple[int, int]], size: int) -> None:
    outs, ins = (12, 5) if emit is tables.forward else (5, 12)
    bench, weight = Bench(AVX512), drawn(1, outs, ins, size, size)
    shape = Shape(size, down=1, across=1, band=1, channels=3, wide=1, groups=1)
    filters = weight.flip(2, 3) if emit is tables.turned else weight
    expected = at_points(filters if emit is tables.forward else filters.transpose(0, 1), shape)
    name, _ = bench.emit(emit, outs, ins, size, 3)
    table, source = bench.memory(*expected.shape), bench.copied(weight)
    for first, last in ranges:
        bench.call(name, source, table, first, last)
    assert error(table, expected.double()) <= 3e-7


@pytest.mark.parametrize(
    ("vectors", "window", "data", "channels"),
    [
        (AVX, Window(3, 3, stride=2, padding=1), Plane(64, 32, 32), 64),
        (AVX, Window(1, 1), Plane(64, 32, 32), 64),
        (AVX, Window(7, 7, padding=3), Plane(64, 32, 32), 64),
        (AVX, Window(3, 5, padding=1), Plane(64, 32, 32), 64),
        (AVX, SAME, Plane(3, 32, 32), 64),  # few channels: to transform them costs more than it spares
        (AVX, SAME, Plane(64, 32, 32), 3),
        (AVX, SAME, Plane(64, 1, 1), 64),  # most of a tile would be thrown away
        (AVX, SAME, Plane(1024, 32, 32), 1024),  # every block would read a table that no cache holds
        (AVX512, SAME, Plane(64, 224, 224), 64),  # neither cache nor stack would hold a row
        (GROUPS[0], SAME, Plane(64, 2, 2), 64),  # of a register with four tiles one would be needed
        (Vectors(16, 32, bf16=True), SAME, Plane(64, 32, 32), 64),
    ],
)
def test_other_convolutions_are_made_the_plain_way(
    vectors: Vectors, window: Window, data: Plane, channels: int
) -> None:
    out = window.outputs(data, channels)
    assert shape_of(vectors, window, data, out) is None
    assert gradient_shape_of(vectors, window, data, out) is None


@given(
    st.sampled_from((*KINDS, *GROUPS)),
    st.sampled_from([(size, padding) for size in POINTS for padding in range(size)]),
    st.integers(16, 130),
    st.integers(16, 130),
    st.integers(6, 40),
    st.integers(6, 40),
    st.sampled_from(["forward", "turned", "overlapping"]),
)
def test_shapes_fit_what_they_are_made_for(
    vectors: Vectors, filters: tuple[int, int], ins: int, outs: int, rows: int, columns: int, way: str
) -> None:
    window, data = Window(filters[0], filters[0], padding=filters[1]), Plane(ins, rows, columns)
    out = window.outputs(data, outs)
    shape = (shape_of if way == "forward" else gradient_shape_of)(vectors, window, data, out)
    if shape is None or (way != "forward" and (way == "turned") != bool(turned(window, data, out))):
        return
    summed, made = (ins, outs) if way == "forward" else (outs, ins)
    cut = data if way == "turned" else out
    assert (shape.down - 1) * OUTPUTS < cut.rows <= shape.down * OUTPUTS
    assert (shape.across - 1) * OUTPUTS < cut.columns / vectors.channels <= shape.across * OUTPUTS
    assert shape.down % shape.band == 0
    assert made % shape.several == 0
    assert shape.channels * shape.wide + shape.wide < vectors.registers
    assert shape.wide <= shape.tiles
    num_bytes = shape.points * summed * shape.tiles * 4 * vectors.lanes
    assert num_bytes <= (ROW_BYTES if shape.band == 1 else BAND_BYTES)
    assert 4 * shape.points * summed * made <= TABLE_BYTES


@given(st.sampled_from(sorted(POINTS)), st.integers(0, 4), st.integers(6, 40), st.integers(6, 40))
def test_the_gradient_of_the_data_takes_as_few_tiles_as_there_are(
    size: int, padding: int, rows: int, columns: int
) -> None:
    window, data = Window(size, size, padding=padding), Plane(16, rows, columns)
    out = window.outputs(data, 16)
    around = turned(window, data, out)
    if around:
        assert around.outputs(out, 16) == data
    assert bool(around) == (count_of_tiles(data) <= count_of_tiles(out))


def test_channels_fall_into_shares_for_the_lanes() -> None:
    out = SAME.outputs(Plane(64, 4, 4), 64)
    shape = shape_of(AVX, SAME, Plane(64, 4, 4), out)
    assert shape is not None
    assert shape.down == shape.band  # a single band
    assert 64 // shape.several >= 4
