"""A message on its way between a worker and the server, the same at both ends.

A head says how many buffers there are and how long the pickle is; then come the buffers' sizes, the pickle, and the
buffers, sent from where they lie.
"""

from __future__ import annotations

import pickle
import socket
import struct
from typing import Any, NamedTuple

import numpy as np

from bptcnn.errors import BptcnnError

IN_BAND = 4096
"""What is smaller is pickled with the message; what is larger is sent from where it lies, and lands where it stays."""

PATIENCE = {"TCP_KEEPIDLE": 30, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 6, "TCP_USER_TIMEOUT": 90_000}
"""A machine that went away without a word is noticed after a minute and a half, be something under way or not."""

CONNECT_S = 5.0
"""How long either end waits for the other to say the first word."""

SECRET_BYTES = 32
"""Of what a worker says first."""

WELCOME = b"\x01"
"""What a server says to whoever knows its secret."""

HEAD = struct.Struct("!QQ")
"""The number of buffers, and the length of the pickle."""

SIZE = struct.Struct("!Q")
"""Of a buffer, in bytes."""


class Address(NamedTuple):
    """Where a server listens, and what it wants to hear first."""

    host: str
    port: int
    secret: bytes


class Failed(NamedTuple):
    """Instead of an answer: what went wrong."""

    error: BptcnnError


def packed(message: Any) -> list[Any]:
    """What to send, one part after the other.

    Args:
        message: anything that can be pickled; its arrays are sent from where they lie.

    Example:
        >>> [len(part) for part in packed(np.zeros(IN_BAND, np.uint8))][1:]
        [4096]
    """
    large: list[memoryview] = []

    def is_small(buffer: pickle.PickleBuffer) -> bool:
        raw = buffer.raw()
        if raw.nbytes >= IN_BAND:
            large.append(raw)
        return raw.nbytes < IN_BAND

    body = pickle.dumps(message, protocol=5, buffer_callback=is_small)
    lengths = b"".join(SIZE.pack(raw.nbytes) for raw in large)
    return [HEAD.pack(len(large), len(body)) + lengths + body, *large]


def sizes(lengths: memoryview) -> list[int]:
    """The buffers' sizes, as they were sent."""
    return [size for (size,) in SIZE.iter_unpack(lengths)]


def room(size: int) -> memoryview:
    """New memory to receive into; a bytearray would be filled with zeros first."""
    return np.empty(size, np.uint8).data


def some(count: int) -> int:
    """How much was moved.

    Raises:
        ConnectionError: nothing was, which means that the other end hung up.
    """
    if not count:
        raise ConnectionError("the other end hung up")
    return count


def tune(connection: socket.socket) -> None:
    """Send at once what is to be sent, and notice when the other end is gone for good."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in PATIENCE.items():
        connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
