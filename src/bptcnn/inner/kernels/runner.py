"""The loop of a lane, in machine code: take the best ready task, run its calls, release what waited for it.

Lanes share a table of tasks, at which each looks in order of priority and, among equals, at its own first. A lane takes
the first that is ready and not taken, so work is divided as it is done: a lane on a disturbed core takes less. To take
a task, and to release what waited for it, are atomic operations on the number of tasks that each still waits for; there
is no lock and no interpreter.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from llvmlite import ir

from bptcnn.inner.kernels.emit import I32, I64, PTR, Target, Value
from bptcnn.inner.kernels.shape import Vectors

TAKEN = -1
"""In place of the number of tasks that a task waits for."""

PATIENCE = 200
"""Looks at the table before a lane without work offers its core to others."""


def lane(module: ir.Module, name: str, _: Vectors) -> None:
    """Emit the loop.

    It is called with:

    - left int32 [1]: tasks not finished; waiting int32 [tasks]: unfinished tasks in front of each;
    - calls int64 [tasks + 1]: where a task's calls begin; kernels ptr [calls]; arguments ptr [calls];
    - followers int64 [tasks + 1]: where those of a task begin; follower int64 [...];
    - number of tasks; times int64 [tasks, 4]: seconds and nanoseconds at start, and at finish; lanes int32 [tasks]: who
      ran it;
    - this lane's number;
    - block int64 [tasks]: the one that a task is for, or -1; blocks int64 [1]: how many there are, for tasks of others
      have nothing to do;
    - the clock;
    - this lane's view int64 [tasks]: the order in which it looks at them.

    Args:
        module: gets the function.
        name: of the function.
    """
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), [PTR]), name)
    entry = function.append_basic_block("entry")
    look, scan, test, next_, take, run, idle, leave = (
        function.append_basic_block(label) for label in ("look", "scan", "test", "next", "take", "run", "idle", "leave")
    )
    builder = ir.IRBuilder(entry)

    def argument(place: int, kind: Value = PTR) -> Value:
        return builder.load(builder.gep(function.args[0], [I64(place)], source_etype=kind), typ=kind)

    left, waiting, calls, kernels, arguments, followers, follower = (argument(place) for place in range(7))
    count, times, lanes, number = argument(7, I64), argument(8), argument(9), argument(10, I64)
    block, blocks, clock, view = argument(11), argument(12), argument(13, I64), argument(14)
    gettime = ir.Function(module, ir.FunctionType(I32, [I32, PTR]), "clock_gettime")
    pause = ir.Function(module, ir.FunctionType(I32, []), "sched_yield")

    def note_time(place: int) -> None:
        slot = builder.gep(times, [builder.add(builder.mul(index, I64(4)), I64(place))], source_etype=I64)
        builder.call(gettime, [builder.trunc(clock, I32), slot])

    tries = builder.alloca(I64)
    builder.store(I64(0), tries)
    builder.branch(look)

    builder.position_at_end(look)
    unfinished = builder.load_atomic(left, "acquire", 4, typ=I32)
    builder.cbranch(builder.icmp_signed(">", unfinished, I32(0)), scan, leave)

    builder.position_at_end(scan)
    builder.branch(test)
    builder.position_at_end(test)
    place = builder.phi(I64)
    place.add_incoming(I64(0), scan)
    index = builder.load(builder.gep(view, [place], source_etype=I64), typ=I64)
    slot = builder.gep(waiting, [index], source_etype=I32)
    ready = builder.icmp_signed("==", builder.load_atomic(slot, "acquire", 4, typ=I32), I32(0))
    builder.cbranch(ready, take, next_)
    builder.position_at_end(next_)
    following = builder.add(place, I64(1))
    place.add_incoming(following, next_)
    builder.cbranch(builder.icmp_signed("<", following, count), test, idle)

    builder.position_at_end(take)
    swapped = builder.cmpxchg(slot, I32(0), I32(TAKEN), "acq_rel", "acquire")
    builder.cbranch(builder.extract_value(swapped, 1), run, look)

    builder.position_at_end(run)
    builder.store(I64(0), tries)
    note_time(0)
    of_block = builder.load(builder.gep(block, [index], source_etype=I64), typ=I64)
    with (
        builder.if_then(builder.icmp_signed("<", of_block, builder.load(blocks, typ=I64))),
        _each(builder, calls, index) as call,
    ):
        kernel = builder.load(builder.gep(kernels, [call], source_etype=PTR), typ=PTR)
        given = builder.load(builder.gep(arguments, [call], source_etype=PTR), typ=PTR)
        kind = ir.FunctionType(ir.VoidType(), [PTR])
        builder.call(Target(kernel, kind), [given])
    note_time(2)
    builder.store(builder.trunc(number, I32), builder.gep(lanes, [index], source_etype=I32))
    with _each(builder, followers, index) as link:
        task = builder.load(builder.gep(follower, [link], source_etype=I64), typ=I64)
        builder.atomic_rmw("sub", builder.gep(waiting, [task], source_etype=I32), I32(1), "acq_rel")
    builder.atomic_rmw("sub", left, I32(1), "acq_rel")
    builder.branch(look)

    builder.position_at_end(idle)
    tried = builder.add(builder.load(tries, typ=I64), I64(1))
    builder.store(tried, tries)
    with builder.if_then(builder.icmp_signed(">", tried, I64(PATIENCE))):
        builder.call(pause, [])
    builder.branch(look)

    builder.position_at_end(leave)
    builder.ret_void()


@contextmanager
def _each(builder: ir.IRBuilder, starts: Value, index: Value) -> Iterator[Value]:
    """Loop from ``starts[index]`` to ``starts[index + 1]``, maybe over nothing."""
    first = builder.load(builder.gep(starts, [index], source_etype=I64), typ=I64)
    last = builder.load(builder.gep(starts, [builder.add(index, I64(1))], source_etype=I64), typ=I64)
    with builder.if_then(builder.icmp_signed("<", first, last)):
        before, body = builder.block, builder.append_basic_block()
        after = builder.append_basic_block()
        builder.branch(body)
        builder.position_at_end(body)
        place = builder.phi(I64)
        place.add_incoming(first, before)
        yield place
        following = builder.add(place, I64(1))
        place.add_incoming(following, builder.block)
        builder.cbranch(builder.icmp_signed("<", following, last), body, after)
        builder.position_at_end(after)
