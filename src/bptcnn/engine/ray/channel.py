"""A connection of its own for what a worker and the server exchange: Ray brings them together, TCP carries the weights.

A call of a Ray actor takes 2 ms of the server's processor, whatever it carries; for a small network that is many times
what the server has to do. Where Ray is told to encrypt, and where nobody gets through but Ray, calls go on being Ray's.
"""

from __future__ import annotations

import asyncio
import hmac
import os
import pickle
import secrets
import socket
import struct
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np
import ray

from bptcnn.errors import ServerLostError

CONNECT_S = 5.0
"""How long a worker tries to reach the server's machine without Ray."""

IN_BAND = 4096
"""What is smaller is pickled with the message; what is larger is sent from where it lies, and lands where it stays."""

KEEPALIVE = {"TCP_KEEPIDLE": 30, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 6}
"""A machine that went away without a word is noticed after a minute and a half."""

_SECRET_BYTES = 32
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
        self._tasks: set[asyncio.Task[None]] = set()

    def address(self) -> Address | None:
        """Where workers may connect from now on; None where what travels is to be encrypted."""
        if self._address is None and os.environ.get("RAY_USE_TLS", "0") != "1":
            host = str(ray.util.get_node_ip_address())  # type: ignore[no-untyped-call]
            door = socket.create_server((host, 0))
            door.setblocking(False)
            self._address = Address(host, door.getsockname()[1], secrets.token_bytes(_SECRET_BYTES))
            self._start(self._welcome(door, self._address.secret))
        return self._address

    def _start(self, life: Any) -> None:
        task = asyncio.get_running_loop().create_task(life)
        self._tasks.add(task)  # the loop itself would let it be collected
        task.add_done_callback(self._tasks.discard)

    async def _welcome(self, door: socket.socket, secret: bytes) -> None:
        while True:
            connection, _ = await asyncio.get_running_loop().sock_accept(door)
            self._start(self._serve(connection, secret))

    async def _serve(self, connection: socket.socket, secret: bytes) -> None:
        """Answer request after request, until who asks goes away."""
        loop = asyncio.get_running_loop()
        with connection, suppress(OSError):
            connection.setblocking(False)
            _tune(connection)
            if not hmac.compare_digest(await _read(connection, _SECRET_BYTES), secret):
                return
            while True:
                count, length = _HEAD.unpack(await _read(connection, _HEAD.size))
                sizes = _sizes(await _read(connection, count * _SIZE.size))
                body = await _read(connection, length)
                buffers = [await _read(connection, size) for size in sizes]
                for part in _packed(await self._reply(pickle.loads(body, buffers=buffers))):
                    await loop.sock_sendall(connection, part)

    async def _reply(self, request: Any) -> Any:
        try:
            return await self._answer(request)
        except Exception as error:
            return _Failed(error)


class Channel:
    """A worker's end; requests are answered one after the other.

    Args:
        address: of the server.

    Raises:
        OSError: nobody can be reached there.
    """

    def __init__(self, address: Address) -> None:
        self._connection = socket.create_connection(address[:2], timeout=CONNECT_S)
        self._connection.settimeout(None)
        _tune(self._connection)
        self._connection.sendall(address.secret)

    def ask(self, request: Any) -> Any:
        """Send a request and wait for the answer.

        Args:
            request: anything that can be pickled.

        Returns:
            The answer, its arrays in new memory.

        Raises:
            ServerLostError: the connection broke.
            Exception: what answering it raised.
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

    error: Exception


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
    for name, value in KEEPALIVE.items():
        connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
