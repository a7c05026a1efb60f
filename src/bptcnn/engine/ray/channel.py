"""A connection of its own for what a worker and the server exchange: Ray brings them together, TCP carries the weights.

A call of a Ray actor that does nothing takes twice as long as a whole exchange of a small network does here
(``benchmarks/exchange.py``). Where Ray is told to encrypt, and where nobody gets through but Ray, calls are Ray's.
"""

from __future__ import annotations

import asyncio
import hmac
import pickle
import secrets
import socket
import struct
import traceback
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np
import ray

from bptcnn.engine.ray.cluster import encrypts
from bptcnn.errors import BptcnnError, ClusterError, ServerLostError

CONNECT_S = 5.0
"""How long a worker tries to reach the server's machine without Ray."""

IN_BAND = 4096
"""What is smaller is pickled with the message; what is larger is sent from where it lies, and lands where it stays."""

RETRY_S = 0.1
"""Pause of a listener that could not take a connection in, for want of file descriptors, say."""

PATIENCE = {"TCP_KEEPIDLE": 30, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 6, "TCP_USER_TIMEOUT": 90_000}
"""A machine that went away without a word is noticed after a minute and a half, be something under way or not."""

_SECRET_BYTES = 32
_WELCOME = b"\x01"
_HEAD = struct.Struct("!QQ")
"""Each message: the number of buffers and the length of the pickle; the buffers' sizes; the pickle; the buffers."""

_SIZE = struct.Struct("!Q")


class Address(NamedTuple):
    """Where a server listens, and what it wants to hear first."""

    host: str
    port: int
    secret: bytes


class Listener:
    """The server's end: one task for each connection, on the event loop that everything else is on, too.

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
                self._address = Address(host, door.getsockname()[1], secrets.token_bytes(_SECRET_BYTES))
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
            _tune(connection)
            said = await asyncio.wait_for(_read(connection, _SECRET_BYTES), CONNECT_S)
            if hmac.compare_digest(said, secret):
                await asyncio.get_running_loop().sock_sendall(connection, _WELCOME)
                while True:
                    await self._exchange(connection)

    async def _exchange(self, connection: socket.socket) -> None:
        """Answer one request; in a function of its own, so that nothing of it is kept until the next."""
        count, length = _HEAD.unpack(await _read(connection, _HEAD.size))
        sizes = _sizes(await _read(connection, count * _SIZE.size))
        body = await _read(connection, length)
        buffers = [await _read(connection, size) for size in sizes]
        for part in await self._reply(body, buffers):
            await asyncio.get_running_loop().sock_sendall(connection, part)

    async def _reply(self, body: memoryview, buffers: list[memoryview]) -> list[Any]:
        try:
            return _packed(await self._answer(pickle.loads(body, buffers=buffers)))
        except BptcnnError as error:
            return _packed(_Failed(error))
        except Exception:
            return _packed(_Failed(ClusterError(f"the server failed, please report this: {traceback.format_exc()}")))


class Channel:
    """A worker's end; requests are answered one after the other.

    Args:
        address: of the server.

    Raises:
        OSError: nobody can be reached there.
    """

    def __init__(self, address: Address) -> None:
        self._connection = socket.create_connection(address[:2], timeout=CONNECT_S)
        _tune(self._connection)
        self._connection.sendall(address.secret)
        self._read(len(_WELCOME))  # else whoever answers here is not the server
        self._connection.settimeout(None)

    def ask(self, request: Any) -> Any:
        """Send a request and wait for the answer.

        Args:
            request: anything that can be pickled.

        Returns:
            The answer, its arrays in new memory.

        Raises:
            ServerLostError: the connection broke.
            BptcnnError: answering it failed.
        """
        try:
            for part in _packed(request):
                self._connection.sendall(part)
            count, length = _HEAD.unpack(self._read(_HEAD.size))
            sizes = _sizes(self._read(count * _SIZE.size))
            body = self._read(length)
            answer = pickle.loads(body, buffers=[self._read(size) for size in sizes])
        except OSError as error:
            raise ServerLostError(f"the connection to the server broke ({error.strerror or error})") from error
        if isinstance(answer, _Failed):
            raise answer.error
        return answer

    def _read(self, size: int) -> memoryview:
        buffer = _room(size)
        rest = buffer
        while rest:
            rest = rest[_some(self._connection.recv_into(rest)) :]
        return buffer


def connected(address: Address | None, method: Any) -> Callable[[Any], Any]:
    """How to ask: over a connection of one's own if there can be one, else by calls of Ray.

    Args:
        address: of the server.
        method: of its actor.

    Returns:
        What takes a request and waits for the answer.
    """
    if address is not None:
        with suppress(OSError):
            return Channel(address).ask
    return lambda request: ray.get(method.remote(request))


class _Failed(NamedTuple):
    """Instead of an answer: what went wrong."""

    error: BptcnnError


def _packed(message: Any) -> list[Any]:
    """What to send, one part after the other."""
    large: list[memoryview] = []

    def is_small(buffer: pickle.PickleBuffer) -> bool:
        raw = buffer.raw()
        if raw.nbytes >= IN_BAND:
            large.append(raw)
        return raw.nbytes < IN_BAND

    body = pickle.dumps(message, protocol=5, buffer_callback=is_small)
    sizes = b"".join(_SIZE.pack(raw.nbytes) for raw in large)
    return [_HEAD.pack(len(large), len(body)) + sizes + body, *large]


def _sizes(packed: memoryview) -> list[int]:
    return [size for (size,) in _SIZE.iter_unpack(packed)]


def _room(size: int) -> memoryview:
    return np.empty(size, np.uint8).data  # a bytearray would be filled with zeros first


def _some(count: int) -> int:
    """How much has arrived; nothing means that the other end hung up."""
    if not count:
        raise ConnectionError("the other end hung up")
    return count


async def _read(connection: socket.socket, size: int) -> memoryview:
    loop, buffer = asyncio.get_running_loop(), _room(size)
    rest = buffer
    while rest:
        rest = rest[_some(await loop.sock_recv_into(connection, rest)) :]
    return buffer


def _tune(connection: socket.socket) -> None:
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in PATIENCE.items():
        connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
