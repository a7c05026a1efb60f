"""Lanes: threads that share a table, sleep, are woken, come too late, and end."""

from __future__ import annotations

import ctypes
import gc
import threading
import time

import numpy as np
import pytest

from bptcnn.inner.kernels import pointwise
from bptcnn.inner.kernels.library import Library, arguments
from bptcnn.inner.kernels.shape import Vectors
from bptcnn.inner.lanes import Lanes, Table
from bptcnn.inner.lowering.buffers import Array, aligned
from bptcnn.inner.lowering.program import Call, Chains
from bptcnn.inner.tasks.dag import Kind

BLOCKS, WIDTH, LENGTH = 5, 4, 3


def work(num_lanes: int) -> tuple[Table, Array]:
    """A table whose chains count: every number of the array is to become the length of a chain; the array."""
    library = Library(Vectors(WIDTH, 16))
    kernel, _ = library.use(pointwise.add, 1, relu=False, mask=False)
    numbers = aligned((LENGTH + 1) * BLOCKS * WIDTH).reshape(LENGTH + 1, BLOCKS, WIDTH)
    ones = aligned(WIDTH)
    ones[:] = 1.0
    chains = Chains(BLOCKS, Kind.FORWARD)
    for place in range(LENGTH):
        for block in range(BLOCKS):
            source, target = numbers[place, block], numbers[place + 1, block]
            addresses = source.ctypes.data, ones.ctypes.data, target.ctypes.data, 0
            chains.call(block, f"layer {place}", Call(kernel, addresses), 1.0, 1.0)
        chains.barrier(f"layer {place}", [])
    program = chains.program
    blocks = np.array([BLOCKS], np.int64)
    table = Table(program, library.compile(), [1.0] * len(program.tasks), blocks, num_lanes)
    table.kept = ones  # type: ignore[attr-defined]
    return table, numbers


@pytest.mark.parametrize("num_lanes", [1, 2, 5])
def test_every_task_runs_once_after_what_it_waits_for_in_every_run(num_lanes: int) -> None:
    lanes, (table, numbers) = Lanes(num_lanes), work(num_lanes)
    for _ in range(200):
        numbers[:] = 0.0
        lanes.run(table)
        assert (numbers == np.arange(LENGTH + 1)[:, None, None]).all()
    ran, start, finish = table.record()
    assert set(ran) <= set(range(num_lanes))
    assert all(0 < one <= other for one, other in zip(start, finish, strict=True))


def test_a_table_may_go_as_soon_as_its_run_has_ended() -> None:
    lanes = Lanes(4)
    for _ in range(100):
        table, numbers = work(4)
        lanes.run(table)
        del table
        assert (numbers[-1] == LENGTH).all()
        numbers[:] = np.nan
        gc.collect(0)


def test_what_the_caller_does_meanwhile_may_fail_and_the_run_is_finished_all_the_same() -> None:
    lanes, (table, numbers) = Lanes(3), work(3)

    def fails() -> None:
        raise KeyboardInterrupt

    for _ in range(20):
        numbers[:] = 0.0
        with pytest.raises(KeyboardInterrupt):
            lanes.run(table, fails)
        assert (numbers[-1] == LENGTH).all()
    numbers[:] = 0.0
    lanes.run(table)
    assert (numbers[-1] == LENGTH).all()


def test_helpers_begin_while_the_caller_does_something_else() -> None:
    lanes, (table, numbers) = Lanes(2), work(2)
    seen = []

    def waits() -> None:
        until = time.monotonic() + 20.0
        while not (numbers[-1] == LENGTH).all() and time.monotonic() < until:
            pass
        seen.append(bool((numbers[-1] == LENGTH).all()))

    lanes.run(table, waits)
    assert seen == [True]
    assert set(table.record()[0]) == {1}


def test_threads_end_with_their_lanes() -> None:
    before = set(threading.enumerate())
    lanes, (table, _) = Lanes(4), work(4)
    mine = set(threading.enumerate()) - before
    assert len(mine) == 3
    lanes.run(table)
    del lanes
    gc.collect()
    for thread in mine:
        thread.join(20.0)
        assert not thread.is_alive()


def test_who_has_no_part_in_a_run_is_given_nothing() -> None:
    lanes, (table, numbers), (other, untouched) = Lanes(4), work(2), work(1)
    other.arm()
    whole = arguments([*table.jobs, other.job, other.job])  # what may lie behind the jobs
    table.jobs = (ctypes.c_int64 * 1).from_buffer(whole)
    seen = []
    lanes.run(table, lambda: seen.extend(bell[place] for bell in lanes._bells[1:] for place in (0, 1)))
    assert seen == [0] * 4
    assert (numbers[-1] == LENGTH).all()
    assert not untouched.any()
