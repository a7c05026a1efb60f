"""What bfloat16 needs beside float32: tables of pairs, samples in two registers, numbers that are rounded."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from blocks import BF16, Bench, Memory, bits, drawn, held, needs_bf16, number, paired, samples, values
from hypothesis import given, settings
from hypothesis import strategies as st

from bptcnn.inner.kernels import conv, pointwise, tables, weights
from bptcnn.inner.kernels.shape import Plane, Window
from bptcnn.inner.kernels.sums import Epilogue

pytestmark = needs_bf16

DENSE, PLAIN = Window(1, 1), Epilogue()
SAMPLE = torch.arange(BF16.width)

Emitter = Callable[..., None]


def table_of(bench: Bench, emit: Emitter, weight: torch.Tensor, ranges: list[tuple[int, int]] | None = None) -> Memory:
    """The table that a kernel makes of weights [out, in, size], in calls for some ranges of rows or in one."""
    name, _ = bench.emit(emit, *weight.shape)
    pairs = paired(weight, 1 if emit is tables.by_inputs else 0)
    table, source = bench.block(*pairs.shape), bench.copied(weight)
    for first, last in ranges or [(0, len(table))]:
        bench.call(name, source, table, first, last)
    return table


# ------------------------------------------------------------------------------------------------ tables of pairs


def test_tables_worked_out_by_hand() -> None:
    bench = Bench(BF16)
    weight = torch.tensor([[[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]], [[-1.0, -2.0], [-3.0, -4.0], [-5.0, -6.0]]])
    by_inputs = values(table_of(bench, tables.by_inputs, weight)).tolist()
    assert by_inputs == [[[[1, 3], [2, 4]], [[5, 0], [6, 0]]], [[[-1, -3], [-2, -4]], [[-5, 0], [-6, 0]]]]
    by_outputs = values(table_of(bench, tables.by_outputs, weight.transpose(0, 1).contiguous())).tolist()
    assert by_outputs == [[[[1, 3], [2, 4]], [[-1, -3], [-2, -4]]], [[[5, 0], [6, 0]], [[-5, 0], [-6, 0]]]]


each_table = pytest.mark.parametrize("emit", [tables.by_inputs, tables.by_outputs])


@each_table
@pytest.mark.parametrize("size", [1, 9, 25])
@pytest.mark.parametrize(("outs", "ins"), [(1, 1), (4, 6), (5, 2), (2, 3), (7, 5)])
def test_a_table_holds_each_weight_once_rounded_as_pytorch_rounds(
    outs: int, ins: int, size: int, emit: Emitter
) -> None:
    weight = drawn(1, outs, ins, size)
    expected = bits(paired(weight, 1 if emit is tables.by_inputs else 0))
    assert np.array_equal(table_of(Bench(BF16), emit, weight), expected)


@settings(max_examples=10)
@given(st.sampled_from([tables.by_inputs, tables.by_outputs]), *[st.integers(1, 9)] * 2, st.integers(1, 70), st.data())
def test_a_part_of_any_table_is_all_that_is_written(
    emit: Emitter, outs: int, ins: int, size: int, data: st.DataObject
) -> None:
    weight, bench = drawn(2, outs, ins, size), Bench(BF16)
    whole = table_of(bench, emit, weight)
    assert np.array_equal(whole, bits(paired(weight, 1 if emit is tables.by_inputs else 0)))
    first = data.draw(st.integers(0, len(whole) - 1))
    last = data.draw(st.integers(first + 1, len(whole)))
    part = table_of(bench, emit, weight, [(first, last)])
    assert np.array_equal(part[first:last], whole[first:last])
    assert values(part[:first]).isnan().all()
    assert values(part[last:]).isnan().all()


# ------------------------------------------------------------------------------------------------ products of pairs


def blocks(bench: Bench, *channels: torch.Tensor) -> Memory:
    """Of numbers [samples] for each channel."""
    return bench.blocked(torch.stack([channel.float() for channel in channels], 1)[..., None, None])


def test_a_dense_layer_worked_out_by_hand() -> None:
    """Odd numbers of channels on both sides; every number is one that bfloat16 holds."""
    bench, plane = Bench(BF16), Plane(3)
    forward, tiles = bench.emit(conv.forward, DENSE, plane, plane, bias=True, then=PLAIN)
    backward, others = bench.emit(conv.backward_data, DENSE, plane, plane, PLAIN)
    gradient, parts = bench.emit(weights.backward_weight, DENSE, plane, plane, bias=True)
    weight, bias = torch.tensor([[1.0, 2.0, 4.0], [8.0, 16.0, 32.0], [0.0, -2.0, 1.0]])[..., None], bench.memory(3)
    bias[:] = 0.5, 0.0, -1.0

    odd, third = SAMPLE % 2, SAMPLE % 3
    seen, out = blocks(bench, SAMPLE, SAMPLE**0, third), bench.block(1, 3, 1, 1, BF16.width)
    bench.call(forward, seen, table_of(bench, tables.by_inputs, weight), out, bias, 0, 0, 0, tiles)
    first = SAMPLE + 2 + 4 * third
    assert np.array_equal(out, blocks(bench, first + 0.5, 8 * first, third - 3))

    error = blocks(bench, SAMPLE**0, odd, SAMPLE)
    bench.call(backward, error, table_of(bench, tables.by_outputs, weight), out, 0, 0, 0, 0, others)
    assert np.array_equal(out, blocks(bench, 1 + 8 * odd, 2 + 16 * odd - 2 * SAMPLE, 4 + 32 * odd + SAMPLE))

    of_weight, of_bias = bench.memory(3, 3), bench.memory(3)
    bench.call(gradient, seen, error, of_weight, 0, parts, number(1), of_bias)
    # 0 to 31 sum up to 496, the sixteen odd ones of them to 256, the squares of all to 10416.
    assert of_weight[:, 0].tolist() == [496, 256, 10416]
    assert of_weight[:, 1].tolist() == of_bias.tolist() == [32, 16, 496]
    assert of_weight[:, 2].tolist() == [int(third.sum()), int((odd * third).sum()), int((SAMPLE * third).sum())]


def test_a_sum_is_rounded_once_when_it_is_finished() -> None:
    bench, two = Bench(BF16), Plane(2)
    name, tiles = bench.emit(conv.forward, DENSE, two, Plane(1), bias=False, then=Epilogue(add=True))
    table = table_of(bench, tables.by_inputs, torch.ones(1, 2, 1))
    one, out = SAMPLE**0, bench.block(1, 1, 1, 1, BF16.width)
    # Of whole numbers between 256 and 512, bfloat16 holds the even ones.
    bench.call(name, blocks(bench, 256 * one, one), table, out, 0, blocks(bench, -256 * one), 0, 0, tiles)
    assert np.array_equal(out, blocks(bench, one))
    bench.call(name, blocks(bench, 256 * one, SAMPLE), table, out, 0, blocks(bench, 0 * one), 0, 0, tiles)
    to_even = (256 + SAMPLE + (SAMPLE % 4 == 3).int()) // 2 * 2
    assert np.array_equal(out, blocks(bench, to_even))


# ------------------------------------------------------------------------------------------------ numbers of all kinds


def test_numbers_are_rounded_as_pytorch_rounds_them() -> None:
    bench, plane = Bench(BF16), Plane(400)
    name, _ = bench.emit(pointwise.pack, plane)
    generator = torch.Generator().manual_seed(1)
    # Float32 numbers of any sign and size, NaN too, but those next to zero, which the instruction takes for zero.
    patterns = torch.randint(-(2**31), 2**31, (BF16.width, plane.size), generator=generator, dtype=torch.int32)
    images = patterns.view(torch.float32)
    patterns[:, :100] = patterns[:, :100] // 2**15 * 2**15  # many in the middle between two
    patterns[:, 100] = 0x7F800001  # NaN, but for what is cut off infinite
    images[:, 101], images[:, 102], images[:, 103] = torch.inf, -torch.inf, torch.finfo(torch.float32).max
    images = torch.where(images.abs() < torch.finfo(torch.float32).tiny, 0.0, images)
    source, out = bench.copied(images), bench.block(plane.size, BF16.width)
    bench.call(name, number(source.ctypes.data), 0, out)
    torch.testing.assert_close(values(out), held(BF16, images.T).double(), rtol=0, atol=0, equal_nan=True)


def test_what_is_no_number_stays_so_in_its_own_sample() -> None:
    bench, plane = Bench(BF16), Plane(3, 1, 2)
    convolution, tiles = bench.emit(conv.forward, DENSE, plane, plane, bias=False, then=Epilogue(relu=True))
    add, _ = bench.emit(pointwise.add, plane.size, relu=True, mask=False)
    data, weight = held(BF16, drawn(1, BF16.width, 3, 1, 2)), held(BF16, 1 + drawn(2, 3, 3, 1).abs())
    data[5, 0], data[20, 2], data[21, 1], data[31, 2] = torch.nan, torch.inf, -torch.inf, torch.nan
    seen, out = bench.blocked(data), bench.block(1, 3, 1, 2, BF16.width)
    bench.call(convolution, seen, table_of(bench, tables.by_inputs, weight), out, 0, 0, 0, 0, tiles)
    expected = torch.einsum("oi,sirc->sorc", weight[..., 0].double(), data.double()).relu()
    torch.testing.assert_close(samples(out), expected, rtol=2**-8, atol=1e-6, equal_nan=True)
    bench.call(add, seen, seen, out, 0)
    torch.testing.assert_close(samples(out), (2 * data).double().relu(), rtol=0, atol=0, equal_nan=True)


def test_weights_that_are_no_numbers_stay_so() -> None:
    weight = torch.tensor([torch.nan, torch.inf, -torch.inf, 3e38, 1.0]).expand(2, 3, 5).contiguous()
    for emit, channels in ((tables.by_inputs, 1), (tables.by_outputs, 0)):
        found = values(table_of(Bench(BF16), emit, weight))
        expected = held(BF16, paired(weight, channels)).double()
        torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)
