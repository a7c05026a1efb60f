"""The connection between a worker and the server: real sockets, without Ray."""

from __future__ import annotations

import asyncio
import gc
import pickle
import socket
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from threading import Event, Thread
from typing import Any

import numpy as np
import pytest
import ray
from hypothesis import given, settings
from hypothesis import strategies as st

from bptcnn.engine.packing import Letter
from bptcnn.engine.ray import channel
from bptcnn.engine.ray.channel import IN_BAND, Address, Channel, Listener, connected
from bptcnn.errors import RunFolderError, ServerLostError
from bptcnn.outer.messages import Pushed
from bptcnn.wire import Packed


@contextmanager
def listening(answer: Callable[[Any], Awaitable[Any]]) -> Iterator[Address]:
    """A listener on a loop of its own; everything is hung up in the end."""
    loop, found = asyncio.new_event_loop(), Event()
    addresses: list[Address | None] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ray.util, "get_node_ip_address", lambda: "127.0.0.1")

        async def life() -> None:
            listener = Listener(answer)
            addresses.extend([listener.address(), listener.address()])
            found.set()

        def serve() -> None:
            loop.run_until_complete(life())
            loop.run_forever()
            for task in asyncio.all_tasks(loop):
                task.cancel()
            loop.run_until_complete(asyncio.sleep(0))
            loop.close()

        thread = Thread(target=serve)
        thread.start()
        found.wait()
    address = addresses[0]
    assert address is not None
    assert addresses == [address, address], "there is one, however often it is asked for"
    try:
        yield address
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()


async def echo(request: Any) -> Any:
    return request


VECTORS = st.one_of(
    st.none(),
    st.integers(0, 3 * IN_BAND).map(lambda size: np.arange(size, dtype=np.float32)),
    st.integers(0, 3 * IN_BAND).map(lambda size: Packed(np.arange(size).astype(np.int8), np.ones(3, np.float32))),
)


@settings(deadline=None)
@given(vectors=st.lists(VECTORS, min_size=1, max_size=4))
def test_what_is_sent_arrives_whatever_its_size(vectors: list[Any]) -> None:
    with listening(echo) as address:
        worker = Channel(address)
        for vector in vectors:
            message = Pushed(0, 1, 2, 3, 4, 5, 6, 0.1, 1.0, 0.5, None)
            answer = worker.ask(Letter(message, vector))
            assert answer.message == message
            assert pickle.dumps(answer.vector) == pickle.dumps(vector)


def test_a_large_vector_lands_in_memory_of_its_own_that_may_be_written_to() -> None:
    vector = np.arange(1_000_000, dtype=np.float32)
    with listening(echo) as address:
        answer = Channel(address).ask(vector)
    answer += 1
    assert answer.tolist() == (vector + 1).tolist()


def test_whoever_waits_for_an_answer_does_not_hold_up_the_others() -> None:
    calls: dict[str, asyncio.Future[str]] = {}

    async def answer(request: str) -> str:
        if request == "go on":
            calls.pop("wait").set_result("at last")
            return "done"
        calls[request] = asyncio.get_running_loop().create_future()
        return await calls[request]

    with listening(answer) as address:
        patient, other, heard = Channel(address), Channel(address), []
        waiting = Thread(target=lambda: heard.append(patient.ask("wait")))
        waiting.start()
        while "wait" not in calls:
            pass
        assert other.ask("go on") == "done"
        waiting.join()
    assert heard == ["at last"]


def test_an_error_is_raised_where_the_request_came_from_and_the_connection_stays() -> None:
    async def answer(request: str) -> str:
        if request == "fail":
            raise RunFolderError("the disk is full")
        return request

    with listening(answer) as address:
        worker = Channel(address)
        with pytest.raises(RunFolderError, match="the disk is full"):
            worker.ask("fail")
        assert worker.ask("again") == "again"


class Trap:
    """Tells when it is unpickled."""

    sprung = False

    def __reduce__(self) -> Any:
        return setattr, (Trap, "sprung", True)


def test_who_does_not_know_the_secret_is_hung_up_on_before_anything_is_read() -> None:
    with listening(echo) as address:
        stranger = Channel(address._replace(secret=bytes(len(address.secret))))
        with pytest.raises(ServerLostError, match="the connection to the server broke"):
            stranger.ask(Trap())
        assert not Trap.sprung
        assert Channel(address).ask("hello") == "hello"


def test_a_server_that_is_gone_is_told_from_one_that_never_was() -> None:
    with listening(echo) as address:
        worker = Channel(address)
        assert worker.ask(1) == 1
    gc.collect()
    with pytest.raises(ServerLostError):
        worker.ask(2)
    with pytest.raises(OSError, match="refused"):
        Channel(address)


def test_a_worker_that_is_gone_is_forgotten() -> None:
    with listening(echo) as address:
        for _ in range(20):
            Channel(address)._connection.close()
        assert Channel(address).ask("still here") == "still here"


def test_where_nobody_gets_through_calls_are_rays(monkeypatch: pytest.MonkeyPatch) -> None:
    class Method:
        def remote(self, request: Any) -> Any:
            return request, "by Ray"

    monkeypatch.setattr(ray, "get", lambda reference: reference)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        nobody = Address("127.0.0.1", taken.getsockname()[1], b"")
    assert connected(nobody, Method())("hello") == ("hello", "by Ray")
    assert connected(None, Method())("hello") == ("hello", "by Ray")
    with listening(echo) as address:
        assert connected(address, Method())("hello") == "hello"


def test_where_ray_is_told_to_encrypt_nobody_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_USE_TLS", "1")
    assert Listener(echo).address() is None
    assert channel.ray is ray
