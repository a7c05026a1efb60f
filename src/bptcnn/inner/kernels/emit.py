"""Writing machine code: arguments, loops and addresses over LLVM's instruction builder."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from llvmlite import ir

F32 = ir.FloatType()
F64 = ir.DoubleType()
I32 = ir.IntType(32)
I64 = ir.IntType(64)
PTR = ir.PointerType()

Value = Any
"""An LLVM value; llvmlite has no types."""

Term = tuple[Value, int]
"""A loop's index and how many numbers one of its steps spans."""


class Variable:
    """A value that loops change; the optimizer keeps it in a register."""

    def __init__(self, kernel: Function, value: Value) -> None:
        self._kernel = kernel
        with kernel.builder.goto_block(kernel.entry):
            self._slot = kernel.builder.alloca(value.type)
        self.set(value)

    def get(self) -> Value:
        """Its present value."""
        return self._kernel.builder.load(self._slot, typ=self._slot.allocated_type)

    def set(self, value: Value) -> None:
        """Change it."""
        self._kernel.builder.store(value, self._slot)


class Function:
    """One function in the making: ``void name(ptr arguments)``.

    Args:
        module: where it belongs.
        name: of the function.

    Attributes:
        builder: for what has no method here.
    """

    def __init__(self, module: ir.Module, name: str) -> None:
        self._module = module
        self._function = ir.Function(module, ir.FunctionType(ir.VoidType(), [PTR]), name)
        # Variables live in a block of their own, in front of all that is computed.
        self.entry = self._function.append_basic_block("entry")
        self._body = self._function.append_basic_block("body")
        self.builder = ir.IRBuilder(self._body)

    def argument(self, place: int) -> Value:
        """The pointer that the caller put at a place."""
        slot = self.builder.gep(self._function.args[0], [I64(place)], source_etype=PTR)
        return self.builder.load(slot, typ=PTR)

    def number(self, place: int) -> Value:
        """The int64 that the caller put at a place."""
        slot = self.builder.gep(self._function.args[0], [I64(place)], source_etype=I64)
        return self.builder.load(slot, typ=I64)

    def finish(self) -> None:
        """End the function."""
        self.builder.ret_void()
        with self.builder.goto_block(self.entry):
            self.builder.branch(self._body)

    @contextmanager
    def loop(self, count: int | Value, start: Value = 0, step: int = 1) -> Iterator[Value]:
        """Repeat what is emitted inside; at least once.

        Args:
            count: first index that is not reached.
            start: first index.
            step: between indices.

        Yields:
            The index, int64.
        """
        builder = self.builder
        before, body, after = builder.block, builder.append_basic_block(), builder.append_basic_block()
        builder.branch(body)
        builder.position_at_end(body)
        index = builder.phi(I64)
        index.add_incoming(integer(start), before)
        yield index
        following = builder.add(index, I64(step))
        index.add_incoming(following, builder.block)
        builder.cbranch(builder.icmp_signed("<", following, integer(count)), body, after)
        builder.position_at_end(after)

    @contextmanager
    def loop_if_any(self, count: Value, start: Value) -> Iterator[Value]:
        """As :meth:`loop`, but nothing happens where ``start`` is not below ``count``.

        Args:
            count: first index that is not reached.
            start: first index.

        Yields:
            The index, int64.
        """
        with self.builder.if_then(self.builder.icmp_signed("<", start, count)), self.loop(count, start) as index:
            yield index

    @contextmanager
    def while_(self, number: Callable[[], Value]) -> Iterator[None]:
        """Repeat what is emitted inside for as long as a number is not zero.

        Args:
            number: emits it, int64.
        """
        head, body, after = (self.builder.append_basic_block() for _ in range(3))
        self.builder.branch(head)
        self.builder.position_at_end(head)
        self.builder.cbranch(self.builder.icmp_signed("!=", number(), I64(0)), body, after)
        self.builder.position_at_end(body)
        yield
        self.builder.branch(head)
        self.builder.position_at_end(after)

    def clamp(self, value: Value, low: int, high: int) -> Value:
        """An int64 brought between two numbers.

        Args:
            value: the number.
            low: what it is at least.
            high: what it is at most.
        """
        builder = self.builder
        value = builder.select(builder.icmp_signed("<", value, I64(low)), I64(low), value)
        return builder.select(builder.icmp_signed(">", value, I64(high)), I64(high), value)

    def least(self, one: Value, other: Value) -> Value:
        """The smaller of two numbers.

        Args:
            one: an int64.
            other: another.
        """
        return self.builder.select(self.builder.icmp_signed("<", one, other), one, other)

    def rounded_up(self, value: Value, divisor: int, high: int) -> Value:
        """``value / divisor``, rounded up, brought between 0 and a number.

        Args:
            value: an int64.
            divisor: by which it is divided.
            high: what the result is at most.
        """
        value = self.clamp(value, 0, high * divisor)
        return self.builder.udiv(self.builder.add(value, I64(divisor - 1)), I64(divisor))

    def tile(self, index: Value, size: int, total: int) -> Value:
        """Where a tile starts: the last one is moved back to end with the whole, and does some work again.

        Args:
            index: of the tile.
            size: of a tile.
            total: what the tiles cover, at least one of them.
        """
        start = self.builder.mul(index, I64(size))
        if total % size == 0:
            return start
        last = I64(total - size)
        return self.builder.select(self.builder.icmp_signed("<", start, last), start, last)

    def variable(self, value: Value) -> Variable:
        """A value that loops change."""
        return Variable(self, value)

    def room(self, count: int, kind: Value) -> Value:
        """Memory on the stack.

        Args:
            count: of what is stored there.
            kind: its type; memory begins on its boundary.
        """
        with self.builder.goto_block(self.entry):
            memory = self.builder.alloca(kind, count)
        memory.type = PTR  # as all pointers here: of whatever is stored there
        return memory

    def at(self, pointer: Value, *terms: Term | Value, kind: Value = F32) -> Value:
        """The address of a number.

        Args:
            pointer: of the first.
            terms: (index, numbers that one step of it spans), or an index whose steps span one.
            kind: type of the numbers.
        """
        for term in terms:
            index, span = term if isinstance(term, tuple) else (term, 1)
            offset = self.builder.mul(index, I64(span)) if span != 1 else integer(index)
            pointer = self.builder.gep(pointer, [offset], source_etype=kind)
        return pointer

    def fetch(self, pointer: Value) -> None:
        """Have a line of memory brought into the first cache; an address where nothing may be read does no harm."""
        to_be_read, to_be_kept, data = I32(0), I32(3), I32(1)
        self.instruction("llvm.prefetch.p0", ir.VoidType(), pointer, to_be_read, to_be_kept, data)

    def anew(self, place: Value) -> Value:
        """The same address or index, which the compiler takes for another: what was loaded there is loaded again."""
        kind = I64 if place.type == I64 else PTR
        return self.builder.call(ir.InlineAsm(ir.FunctionType(kind, [kind]), "", "=r,0"), [place])

    def scalar(self, pointer: Value, kind: Value = F32) -> Value:
        """One number.

        Args:
            pointer: where it is.
            kind: its type.
        """
        return self.builder.load(pointer, typ=kind)

    def intrinsic(self, name: str, *operands: Value) -> Value:
        """Call what LLVM knows.

        Args:
            name: such as ``llvm.fma``, without the type.
            operands: all of the first one's type.
        """
        kind = operands[0].type
        suffix = f"v{kind.count}f32" if isinstance(kind, ir.VectorType) else {F32: "f32", F64: "f64"}[kind]
        return self.instruction(f"{name}.{suffix}", kind, *operands)

    def instruction(self, name: str, result: Value, *operands: Value) -> Value:
        """Call what LLVM knows by its full name, or a function of the C library.

        Args:
            name: with all types, where LLVM knows it.
            result: type of what it makes.
            operands: what it takes.
        """
        function = self._module.globals.get(name)
        if function is None:
            kind = ir.FunctionType(result, [operand.type for operand in operands])
            function = ir.Function(self._module, kind, name)
        return self.builder.call(function, operands)


def integer(value: int | Value) -> Value:
    """A number as int64, unless it is one already."""
    return I64(value) if isinstance(value, int) else value


class Target:
    """An address to call as a function of some type; the instruction builder asks for no more than this."""

    calling_convention = ""

    def __init__(self, pointer: Value, kind: ir.FunctionType) -> None:
        self._pointer = pointer
        self.function_type = kind
        self.type = pointer.type

    def get_reference(self) -> str:
        """As it is written in the code."""
        return str(self._pointer.get_reference())
