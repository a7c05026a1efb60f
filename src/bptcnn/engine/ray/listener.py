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
from contextlib import suppress
from math import ceil
from typing import Any, TypeVar

import ray

from bptcnn.engine.ray import frames
from bptcnn.engine.ray.cluster import encrypts
from bptcnn.engine.ray.frames import Address
from bptcnn.errors import BptcnnError, ClusterError

LARGE = 4 << 20
"""Bytes from which on threads move and pack them, beside the event loop; less is done when a thread is hardly awake."""

FAST = 250e6
"""Bytes/s of a link that is worth a thread: a slower one keeps it no longer, and leaves the rest to the loop."""

RETRY_S = 0.1
"""Pause of a listener that could not take a connection in, for want of file descriptors, say."""

A = TypeVar("A")
B = TypeVar("B")


class Listener:
    """The server's end: one task for each connection, on the event loop that everything else is on, too.

    Threads move what is large: several connections' bytes at a time, while the loop goes on.

    Args:
        answer: what to reply to a request; its errors are raised where the request came from.
    """

    def __init__(self, answer: Callable[[Any], Awaitable[Any]]) -> None:
        self._answer = answer
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
        buffers = [await _read(connection, size) for size in sizes]
        for part in await self._reply(body, buffers):
            await _send(connection, part)

    async def _reply(self, body: memoryview, buffers: list[memoryview]) -> list[Any]:
        try:
            return frames.packed(await self._answer(pickle.loads(body, buffers=buffers)))
        except BptcnnError as known:
            return frames.packed(frames.Failed(known))
        except Exception:
            error = ClusterError(f"the server failed, please report this: {traceback.format_exc()}")
            return frames.packed(frames.Failed(error))


async def beside(work: Callable[[A], B], what: A, num_bytes: int) -> B:
    """Do a piece of work in a thread, if it would hold up the event loop for longer than a thread takes to wake.

    Args:
        work: what to do.
        what: to do it with.
        num_bytes: how much there is to go through.

    Returns:
        What it returns.
    """
    return await asyncio.to_thread(work, what) if num_bytes >= LARGE else work(what)


async def _read(connection: socket.socket, size: int) -> memoryview:
    loop, buffer = asyncio.get_running_loop(), frames.room(size)
    rest = await _moved(connection, select.POLLIN, connection.recv_into, buffer)
    while rest:
        rest = rest[frames.some(await loop.sock_recv_into(connection, rest)) :]
    return buffer


async def _send(connection: socket.socket, part: bytes | memoryview) -> None:
    rest = await _moved(connection, select.POLLOUT, connection.send, memoryview(part))
    await asyncio.get_running_loop().sock_sendall(connection, rest)


async def _moved(
    connection: socket.socket, event: int, move: Callable[[memoryview], int], buffer: memoryview
) -> memoryview:
    """Begin with what is large in a thread; what is left to the loop."""
    if len(buffer) < LARGE:
        return buffer
    return await asyncio.to_thread(_rush, connection, event, move, buffer)


def _rush(connection: socket.socket, event: int, move: Callable[[memoryview], int], rest: memoryview) -> memoryview:
    """Move bytes for as long as a fast link takes for them; what is left."""
    ready = select.poll()
    ready.register(connection, event)
    until_s = time.monotonic() + len(rest) / FAST
    while rest and (left_s := until_s - time.monotonic()) > 0:
        try:
            rest = rest[frames.some(move(rest)) :]
        except BlockingIOError:
            ready.poll(ceil(1e3 * left_s))
    return rest
