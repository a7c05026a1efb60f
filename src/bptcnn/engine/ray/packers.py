"""The server's end of all connections on an event loop: threads pack and unpack what would hold up everybody else."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from bptcnn.engine.packing import Letter, ServerEnd
from bptcnn.inner.machine.hardware import num_cores
from bptcnn.outer.messages import Pushed, Send

LARGE = 4 << 20
"""Bytes of float32 from which on a thread is woken sooner than the work is done."""

A = TypeVar("A")
B = TypeVar("B")


class Packers:
    """Packs for several workers at a time: as many as there are cores, for each takes the memory of some vectors.

    Args:
        end: packs.
        num_bytes: of a vector, as float32.
    """

    def __init__(self, end: ServerEnd, num_bytes: int) -> None:
        self._end = end
        self._threads = ThreadPoolExecutor(num_cores()) if end.packs and num_bytes >= LARGE else None

    async def open(self, letter: Letter[Pushed]) -> Pushed:
        """Read a push (see ``ServerEnd.open``)."""
        return await self._do(self._end.open, letter)

    async def pack(self, answer: Send) -> Letter[Send]:
        """Make an answer ready to travel (see ``ServerEnd.pack``)."""
        return await self._do(self._end.pack, answer)

    async def _do(self, work: Callable[[A], B], what: A) -> B:
        if self._threads is None:
            return work(what)
        return await asyncio.get_running_loop().run_in_executor(self._threads, work, what)
