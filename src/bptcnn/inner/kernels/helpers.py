"""Threads that help, in machine code: they work off what they are given, and wait for more.

None of them ever has to wait for the interpreter. Each has a *bell*, int64 [BELL]:

- a *job*: what a lane's loop is called with; 0: none; ``END``: no more will come;
- 1 while the helper is at work, else 0;
- the code of a lane's loop;
- from ``MUTEX`` on, a mutex of the C library, which guards the first two; from ``CONDITION`` on, a condition.
"""

from __future__ import annotations

from llvmlite import ir

from bptcnn.inner.kernels.emit import I32, I64, PTR, Function, Target, Value
from bptcnn.inner.kernels.shape import Vectors

END = 1
"""A job that ends a helper."""

MUTEX, CONDITION, BELL = 8, 24, 40
"""Places in a bell; 128 bytes are room for a mutex or a condition of any C library."""

WATCH = 1500
"""Looks at its bell before a helper without work sleeps, its core offered to others each time: a millisecond or so,
longer than it takes from one step to the next where nothing else is to be done."""


def helper(module: ir.Module, name: str, _: Vectors) -> None:
    """Emit what a helper does until it is given ``END``.

    Arguments: its bell.

    Args:
        module: gets the function.
        name: of the function.
    """
    function = Function(module, name)
    builder, bell, job = function.builder, _Bell(function, function.argument(0)), function.variable(I64(0))
    with function.while_(lambda: builder.sub(job.get(), I64(END))):
        left = function.variable(I64(WATCH))
        with function.while_(lambda: builder.mul(bell.silent(), left.get())):
            function.instruction("sched_yield", I32)
            left.set(builder.sub(left.get(), I64(1)))
        bell.lock()
        with function.while_(bell.silent):
            function.instruction("pthread_cond_wait", I32, bell.condition, bell.mutex)
        job.set(function.scalar(bell.job, I64))
        builder.store(I64(0), bell.job)
        builder.store(I64(1), bell.busy)
        bell.unlock()
        with builder.if_then(builder.icmp_signed("!=", job.get(), I64(END))):
            _work(function, bell.loop, job.get())
        builder.atomic_rmw("xchg", bell.busy, I64(0), "release")
    function.finish()


def begin(module: ir.Module, name: str, _: Vectors) -> None:
    """Emit the ringing of bells. Arguments: how many int64; the bells ptr [...]; the job of each int64 [...].

    Args:
        module: gets the function.
        name: of the function.
    """
    function = Function(module, name)
    with function.loop_if_any(function.number(0), I64(0)) as index:
        bell = _Bell(function, function.scalar(function.at(function.argument(1), index, kind=I64), PTR))
        bell.lock()
        job = function.scalar(function.at(function.argument(2), index, kind=I64), I64)
        function.builder.store(job, bell.job)
        bell.unlock()
        function.instruction("pthread_cond_signal", I32, bell.condition)
    function.finish()


def finish(module: ir.Module, name: str, _: Vectors) -> None:
    """Emit the caller's part, at the end of which no helper is at work any more; who slept on is not disturbed.

    Arguments: how many bells int64; the bells ptr [...]; the code of a lane's loop; the caller's own job.

    Args:
        module: gets the function.
        name: of the function.
    """
    function = Function(module, name)
    builder = function.builder
    _work(function, function.argument(2), function.number(3))
    with function.loop_if_any(function.number(0), I64(0)) as index:
        bell = _Bell(function, function.scalar(function.at(function.argument(1), index, kind=I64), PTR))
        bell.lock()
        builder.store(I64(0), bell.job)
        bell.unlock()
        with function.while_(bell.answered):
            function.instruction("sched_yield", I32)
    function.finish()


class _Bell:
    """A bell, as code sees it."""

    def __init__(self, function: Function, pointer: Value) -> None:
        self._function = function
        self.job, self.busy, self.mutex, self.condition = (
            function.at(pointer, I64(place), kind=I64) for place in (0, 1, MUTEX, CONDITION)
        )
        self.loop = function.scalar(function.at(pointer, I64(2), kind=I64), PTR)

    def lock(self) -> None:
        self._function.instruction("pthread_mutex_lock", I32, self.mutex)

    def unlock(self) -> None:
        self._function.instruction("pthread_mutex_unlock", I32, self.mutex)

    def silent(self) -> Value:
        """1 if there is no job, else 0."""
        builder = self._function.builder
        return builder.zext(builder.icmp_signed("==", self._seen(self.job), I64(0)), I64)

    def answered(self) -> Value:
        """1 if the helper is at work, else 0."""
        return self._seen(self.busy)

    def _seen(self, pointer: Value) -> Value:
        return self._function.builder.load_atomic(pointer, "acquire", 8, typ=I64)


def _work(function: Function, loop: Value, job: Value) -> None:
    """Call the loop of a lane."""
    called = Target(loop, ir.FunctionType(ir.VoidType(), [PTR]))
    function.builder.call(called, [function.builder.inttoptr(job, PTR)])
