"""A connection of its own for what a worker and the server exchange: Ray brings them together, TCP carries the weights.

A call of a Ray actor that does nothing takes twice as long as a whole exchange of a small network does here
(``benchmarks/exchange.py``). Where Ray is told to encrypt, and where nobody gets through but Ray, calls are Ray's. This
is the worker's end; the server's is the ``listener``.
"""

from __future__ import annotations

import pickle
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import ray

from bptcnn.engine.ray import frames
from bptcnn.engine.ray.frames import Address
from bptcnn.errors import ServerLostError


class Channel:
    """A worker's end; requests are answered one after the other.

    Args:
        address: of the server.

    Raises:
        OSError: nobody can be reached there.
    """

    def __init__(self, address: Address) -> None:
        self._connection = socket.create_connection(address[:2], timeout=frames.CONNECT_S)
        frames.tune(self._connection)
        self._connection.sendall(address.secret)
        self._read(len(frames.WELCOME))  # else whoever answers here is not the server
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
            for part in frames.packed(request):
                self._connection.sendall(part)
            count, length = frames.HEAD.unpack(self._read(frames.HEAD.size))
            sizes = frames.sizes(self._read(count * frames.SIZE.size))
            body = self._read(length)
            answer = pickle.loads(body, buffers=[self._read(size) for size in sizes])
        except OSError as error:
            raise ServerLostError(f"the connection to the server broke ({error.strerror or error})") from error
        if isinstance(answer, frames.Failed):
            raise answer.error
        return answer

    def _read(self, size: int) -> memoryview:
        buffer = frames.room(size)
        rest = buffer
        while rest:
            rest = rest[frames.some(self._connection.recv_into(rest)) :]
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
