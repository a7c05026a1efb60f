"""The server's end of the connections with the workers: an event loop, and threads for what is large."""

from __future__ import annotations

import asyncio
import hmac
import pickle
import secrets
import select
import socket
import time
import traceback
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from math import ceil
from typing import Any

import ray

from bptcnn.engine.ray import frames
from bptcnn.engine.ray.cluster import encrypts
from bptcnn.engine.ray.frames import Address
from bptcnn.errors import BptcnnError, ClusterError
from bptcnn.inner.machine.hardware import num_cores

LARGE = 4 << 20
"""Bytes from which on a thread moves them, beside the event loop; less is there when a thread is hardly awake."""

FAST, STALL_MS = 250e6, 5
"""Bytes/s of a link that is worth a thread: a slower one keeps it no longer, nor one on which nothing comes for so
long. The rest is left to the loop."""

RETRY_S = 0.1
"""Pause of a listener that could not take a connection in, for want of file descriptors, say."""


class Listener:
    """The server's end: one task for each connection, on the event loop that everything else is on, too.

    Threads move what is large: several connections' bytes at a time, while the loop goes on.

    Args:
        answer: what to reply to a request; its errors are raised where the request came from.
    """

    def __init__(self, answer: Callable[[Any], Awaitable[Any]]) -> None:
        self._answer = answer
        self._movers = ThreadPoolExecutor(2 * num_cores())
        self._address: Address | None = None
        self.lives: set[asyncio.Task[None]] = set()
        """One for whoever is connected, and one that waits for others; the loop itself would let them be collected."""

    def address(self) -> Address | None:
        """Where workers may connect from now on; None where nobody can, or what travels is to be encrypted."""
        if self._address is None and not encrypts():
            host = str(ray.util.get_node_ip_address())  # type: ignore[no-untyped-call]
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            with suppress(OSError):  # an address of Ray's that this machine does not know as its own
                door = socket.create_server((host, 0), family=family)
                door.setblocking(False)
                self._address = Address(host, door.getsockname()[1], secrets.token_bytes(frames.SECRET_BYTES))
                self._start(self._welcome(door, self._address.secret))
        return self._address

    def _start(self, life: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(life)
        self.lives.add(task)
        task.add_done_callback(self.lives.discard)

    async def _welcome(self, door: socket.socket, secret: bytes) -> None:
        with door:
            while True:
                try:
                    connection, _ = await asyncio.get_running_loop().sock_accept(door)
                except OSError:
                    await asyncio.sleep(RETRY_S)
                else:
                    self._start(self._serve(connection, secret))

    async def _serve(self, connection: socket.socket, secret: bytes) -> None:
        """Answer request after request, until who asks goes away."""
        with connection, suppress(OSError, asyncio.TimeoutError):
            connection.setblocking(False)
            frames.tune(connection)
            said = await asyncio.wait_for(_read(connection, frames.SECRET_BYTES), frames.CONNECT_S)
            if hmac.compare_digest(said, secret):
                await asyncio.get_running_loop().sock_sendall(connection, frames.WELCOME)
                while True:
                    await self._exchange(connection)

    async def _exchange(self, connection: socket.socket) -> None:
        """Answer one request; in a function of its own, so that nothing of it is kept until the next."""
        count, length = frames.HEAD.unpack(await _read(connection, frames.HEAD.size))
        sizes = frames.sizes(await _read(connection, count * frames.SIZE.size))
        body = await _read(connection, length)
        buffers = [await self._received(connection, size) for size in sizes]
        for part in await self._reply(body, buffers):
            await self._send(connection, memoryview(part))

    async def _received(self, connection: socket.socket, size: int) -> memoryview:
        buffer = frames.room(size)
        await _fill(connection, await self._moved(connection, select.POLLIN, connection.recv_into, buffer))
        return buffer

    async def _send(self, connection: socket.socket, part: memoryview) -> None:
        rest = await self._moved(connection, select.POLLOUT, connection.send, part)
        await asyncio.get_running_loop().sock_sendall(connection, rest)

    async def _moved(
        self, connection: socket.socket, event: int, move: Callable[[memoryview], int], buffer: memoryview
    ) -> memoryview:
        """Begin with what is large in a thread, which nobody may cancel; what is left to the loop."""
        if len(buffer) < LARGE:
            return buffer
        return await asyncio.get_running_loop().run_in_executor(self._movers, _rush, connection, event, move, buffer)

    async def _reply(self, body: memoryview, buffers: list[memoryview]) -> list[Any]:
        try:
            return frames.packed(await self._answer(pickle.loads(body, buffers=buffers)))
        except BptcnnError as known:
            return frames.packed(frames.Failed(known))
        except Exception:
            error = ClusterError(f"the server failed, please report this: {traceback.format_exc()}")
            return frames.packed(frames.Failed(error))


async def _read(connection: socket.socket, size: int) -> memoryview:
    buffer = frames.room(size)
    await _fill(connection, buffer)
    return buffer


async def _fill(connection: socket.socket, rest: memoryview) -> None:
    loop = asyncio.get_running_loop()
    while rest:
        rest = rest[frames.some(await loop.sock_recv_into(connection, rest)) :]


def _rush(connection: socket.socket, event: int, move: Callable[[memoryview], int], rest: memoryview) -> memoryview:
    """Move bytes for as long as a fast link takes for them; what is left."""
    ready = select.poll()
    ready.register(connection, event)
    until_s = time.monotonic() + len(rest) / FAST
    while rest and (left_s := until_s - time.monotonic()) > 0:
        try:
            rest = rest[frames.some(move(rest)) :]
        except BlockingIOError:
            if not ready.poll(min(STALL_MS, ceil(1e3 * left_s))):
                break
    return rest
