"""Programs: tasks, the kernel calls of each, and the chains of calls that blocks of samples go through. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from bptcnn.inner.tasks.dag import Kind, Task

EVERY_BLOCK = -1
"""In place of a block, for a task that concerns them all."""


@dataclass(frozen=True, slots=True)
class Call:
    """A kernel and its arguments: addresses and numbers."""

    kernel: str
    arguments: tuple[int, ...]


@dataclass(slots=True)
class Program:
    """Tasks, and of each its calls and the block that it is for."""

    tasks: list[Task] = field(default_factory=list)
    calls: list[tuple[Call, ...]] = field(default_factory=list)
    blocks: list[int] = field(default_factory=list)


@dataclass(slots=True)
class _Chain:
    after: tuple[int, ...] = ()
    calls: list[Call] = field(default_factory=list)
    flops: float = 0.0
    num_bytes: float = 0.0
    layers: list[str] = field(default_factory=list)


class Chains:
    """A program in the making: one chain of calls for each block, and tasks for all blocks between them.

    Args:
        num_blocks: blocks of samples.
        kind: of the chains' tasks.

    Example:
        >>> chains = Chains(2, Kind.FORWARD)
        >>> for block in range(2):
        ...     chains.call(block, "conv 1", Call("conv", ()), flops=8.0, num_bytes=4.0)
        >>> _ = chains.barrier("norm 2", [Call("combine", ())])
        >>> for block in range(2):
        ...     chains.call(block, "norm 2", Call("normalize", ()), flops=0.0, num_bytes=4.0)
        >>> _ = chains.close()
        >>> [(task.layer, task.part, task.after) for task in chains.program.tasks]
        [('conv 1', 0, ()), ('conv 1', 1, ()), ('norm 2', 0, (0, 1)), ('norm 2', 0, (2,)), ('norm 2', 1, (2,))]
    """

    def __init__(self, num_blocks: int, kind: Kind) -> None:
        self.program = Program()
        self._kind = kind
        self._chains = [_Chain() for _ in range(num_blocks)]

    def call(self, block: int, layer: str, call: Call, flops: float, num_bytes: float) -> None:
        """Append a call to a block's chain.

        Args:
            block: whose chain.
            layer: what it is for.
            call: the call.
            flops: its floating-point operations.
            num_bytes: what it reads and writes.
        """
        chain = self._chains[block]
        chain.calls.append(call)
        chain.flops += flops
        chain.num_bytes += num_bytes
        if layer not in chain.layers:
            chain.layers.append(layer)

    def split(self, block: int, layer: str, calls: Sequence[Call], flops: float, num_bytes: float) -> None:
        """Let several tasks do one layer of a block, where there are fewer blocks than lanes.

        Args:
            block: whose chain.
            layer: what they are for.
            calls: one a task.
            flops: of all of them.
            num_bytes: what all of them read and write.
        """
        after, share = self._close(block), len(calls)
        self._chains[block].after = tuple(
            self.task(self._kind, layer, part, after, [call], flops / share, num_bytes / share, block)
            for part, call in enumerate(calls)
        )

    def turn(self, kind: Kind) -> tuple[int, ...]:
        """End all chains; what follows in them is of another kind.

        Args:
            kind: of the tasks that follow.

        Returns:
            The last tasks of each.
        """
        before = self.close()
        self._kind = kind
        return before

    def barrier(self, layer: str, calls: Iterable[Call], also: Iterable[int] = ()) -> tuple[int, ...]:
        """A task after all chains; they go on after it.

        Args:
            layer: what it is for.
            calls: what it does.
            also: other tasks that it comes after.

        Returns:
            The last tasks of the chains in front of it.
        """
        before = self.close()
        number = self.task(Kind.REDUCE, layer, 0, (*before, *also), calls, 0.0, 0.0)
        for chain in self._chains:
            chain.after = (number,)
        return before

    def after(self, tasks: Iterable[int]) -> None:
        """Let all chains go on after some tasks.

        Args:
            tasks: their numbers.
        """
        self.close()
        for chain in self._chains:
            chain.after = (*chain.after, *tasks)

    def close(self) -> tuple[int, ...]:
        """End all chains.

        Returns:
            The last tasks of each.
        """
        return tuple(number for block in range(len(self._chains)) for number in self._close(block))

    def task(
        self,
        kind: Kind,
        layer: str,
        part: int,
        after: Iterable[int],
        calls: Iterable[Call],
        flops: float,
        num_bytes: float,
        block: int = EVERY_BLOCK,
    ) -> int:
        """Append a task of its own.

        Args:
            kind: of task.
            layer: what it is for.
            part: block or tile.
            after: what must have ended.
            calls: what it does.
            flops: floating-point operations.
            num_bytes: what it reads and writes.
            block: whose it is, if that of one.

        Returns:
            Its number.
        """
        program = self.program
        number = len(program.tasks)
        program.tasks.append(Task(number, kind, layer, part, tuple(sorted(set(after))), flops, num_bytes))
        program.calls.append(tuple(calls))
        program.blocks.append(block)
        return number

    def _close(self, block: int) -> tuple[int, ...]:
        chain = self._chains[block]
        if chain.calls:
            label = chain.layers[0] if len(chain.layers) == 1 else f"{chain.layers[0]} to {chain.layers[-1]}"
            cost = chain.flops, chain.num_bytes
            number = self.task(self._kind, label, block, chain.after, chain.calls, *cost, block)
            self._chains[block] = _Chain((number,))
        return self._chains[block].after


def ranges(total: int, parts: int) -> Iterator[tuple[int, int]]:
    """Divide tiles as equally as can be into at most so many parts.

    Args:
        total: tiles.
        parts: at most.

    Returns:
        First tile of each part, and one past its last.

    Example:
        >>> list(ranges(5, 2)), list(ranges(2, 3))
        ([(0, 2), (2, 5)], [(0, 1), (1, 2)])
    """
    parts = min(parts, total)
    return ((part * total // parts, (part + 1) * total // parts) for part in range(parts))
