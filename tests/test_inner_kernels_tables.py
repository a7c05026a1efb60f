"""Tables of weights for groups of channels: by hand, and as kernels are given them in their tests."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from blocks import (
    BF16_GROUPS,
    GROUPS,
    MATRICES,
    Bench,
    Memory,
    bits,
    drawn,
    matrices,
    needs_bf16,
    needs_matrices,
    number,
    values,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from bptcnn.inner.kernels import group_tables, parts, tables
from bptcnn.inner.kernels.matrices import tables as matrix_tables
from bptcnn.inner.kernels.shape import Vectors
from bptcnn.inner.machine.processor import host_simd

Emitter = Callable[..., None]

KINDS = (GROUPS[0], BF16_GROUPS[0]) if host_simd().bf16 else (GROUPS[0],)


def table_of(vectors: Vectors, emit: Emitter, weight: torch.Tensor, *ranges: tuple[int, int]) -> tuple[Memory, Memory]:
    """The table that a kernel makes of weights [out, in, size], in calls for some ranges of rows, and the whole one."""
    bench = Bench(vectors)
    expected = bench.filters(weight[..., None], 1 if emit is group_tables.forward else 0)
    name, _ = bench.emit(emit, *weight.shape)
    table, source = bench.block(*expected.shape), bench.copied(weight)
    for first, last in ranges:
        bench.call(name, source, table, first, last)
    return table, expected


WEIGHT = torch.tensor([[[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]], [[-1.0, -2.0], [-3.0, -4.0], [-5.0, -6.0]]])


def test_tables_worked_out_by_hand() -> None:
    weight = torch.cat([WEIGHT, 10 * WEIGHT])  # four output channels, three input channels
    table, _ = table_of(GROUPS[0], group_tables.forward, weight, (0, 1))
    assert table[0, ..., 0, :].tolist() == [
        [[1, -1, 10, -10], [2, -2, 20, -20]],
        [[3, -3, 30, -30], [4, -4, 40, -40]],
        [[5, -5, 50, -50], [6, -6, 60, -60]],
    ]
    table, _ = table_of(GROUPS[0], group_tables.backward, weight.transpose(0, 1).contiguous(), (0, 1))
    assert table[0, 0, :, 0].tolist() == [[1, -1, 10, -10], [2, -2, 20, -20]]


@needs_bf16
def test_tables_of_pairs_worked_out_by_hand() -> None:
    weight = torch.cat([WEIGHT, 2 * WEIGHT, 4 * WEIGHT, 8 * WEIGHT])
    first = [[[1, 3], [-1, -3], [2, 6], [-2, -6], [4, 12], [-4, -12], [8, 24], [-8, -24]]]
    last = [[[6, 0], [-6, 0], [12, 0], [-12, 0], [24, 0], [-24, 0], [48, 0], [-48, 0]]]
    for emit, given_ in ((group_tables.forward, weight), (group_tables.backward, weight.transpose(0, 1))):
        table = values(table_of(BF16_GROUPS[0], emit, given_.contiguous(), (0, 1))[0])
        assert table[0, 0, 0].tolist() == first
        assert table[0, 1, 1].tolist() == last


@settings(max_examples=12)
@given(
    st.sampled_from(KINDS),
    st.sampled_from([group_tables.forward, group_tables.backward]),
    *[st.integers(8, 40)] * 2,
    st.sampled_from([1, 9, 25]),
    st.data(),
)
def test_a_part_of_any_table_is_all_that_is_written(
    vectors: Vectors, emit: Emitter, outs: int, ins: int, size: int, data: st.DataObject
) -> None:
    weight = drawn(2, outs, ins, size)
    rows, channels = (outs, ins) if emit is group_tables.forward else (ins, outs)
    count = group_tables.num_parts(vectors, rows, channels)
    first = data.draw(st.integers(0, count - 1))
    last = data.draw(st.integers(first + 1, count))
    table, expected = table_of(vectors, emit, weight, (first, last))
    if rows % vectors.channels:  # parts are channels, not groups of rows
        table, expected = (each.swapaxes(0, 1) for each in (table, expected))
    assert len(table) == count
    assert np.array_equal(table[first:last], expected[first:last])
    assert values(table[:first].copy()).isnan().all()
    assert values(table[last:].copy()).isnan().all()


# ------------------------------------------------------------------------------------------------ channels turned


@settings(max_examples=12)
@given(st.sampled_from([Vectors(16, 32), Vectors(4, 16)]), *[st.integers(1, 40)] * 2, st.sampled_from([1, 4, 9, 25]))
def test_turned_weights_lie_channel_by_channel(vectors: Vectors, outs: int, ins: int, size: int) -> None:
    weight, bench = drawn(5, outs, ins, size), Bench(vectors)
    name, _ = bench.emit(tables.turned, outs, ins, size)
    source, table = bench.copied(weight), bench.memory(ins, outs, size)
    for part in range(-(-ins // tables.STREAMS)):
        bench.call(name, source, table, part, part + 1)
    assert np.array_equal(table, weight.transpose(0, 1).numpy())


# ------------------------------------------------------------------------------------------------ parts


@settings(max_examples=12)
@given(st.integers(1, 5), st.integers(1, 70), st.data())
def test_parts_of_the_blocks_that_are_there_are_added_in_their_order(
    blocks: int, size: int, data: st.DataObject
) -> None:
    there = data.draw(st.integers(1, blocks))
    of_blocks, bench = drawn(6, blocks, size), Bench(Vectors(16, 32))
    of_blocks[there:] = float("nan")
    name, _ = bench.emit(parts.added, size)
    total = bench.memory(size)
    bench.call(name, bench.copied(of_blocks), total, number(there))
    expected = of_blocks[0].clone()
    for part in of_blocks[1:there]:
        expected += part
    assert np.array_equal(total, expected.numpy())


# ------------------------------------------------------------------------------------------------ matrices


@needs_matrices
@settings(max_examples=15)
@given(st.booleans(), st.sampled_from([16, 32, 48]), st.integers(1, 80), st.integers(1, 11), st.sampled_from([16, 32]))
def test_tables_of_matrices_hold_each_weight_once_and_zeros(
    forward: bool, rows: int, count: int, size: int, depth: int
) -> None:
    weight = drawn(3, *((rows, count) if forward else (count, rows)), size)
    bench, emit = Bench(MATRICES), matrix_tables.forward if forward else matrix_tables.backward
    expected = bits(matrices(weight, 1 if forward else 0, depth))
    name, _ = bench.emit(emit, *weight.shape, depth)
    table, source = bench.block(*expected.shape), bench.copied(weight)
    for tile in reversed(range(rows // 16)):
        assert values(table[tile]).isnan().all()
        bench.call(name, source, table, tile, tile + 1)
    assert np.array_equal(table, expected)
