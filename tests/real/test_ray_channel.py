"""The connection between a worker and the server: real sockets, without Ray."""

from __future__ import annotations

import asyncio
import pickle
import socket
import weakref
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event, Thread
from typing import Any

import numpy as np
import pytest
import ray
from hypothesis import given, settings
from hypothesis import strategies as st
from real.processes import until

from bptcnn.engine.packing import Letter
from bptcnn.engine.ray import frames, listener
from bptcnn.engine.ray.channel import Channel, connected
from bptcnn.engine.ray.frames import IN_BAND, Address
from bptcnn.engine.ray.listener import Listener
from bptcnn.errors import ClusterError, RunFolderError, ServerLostError
from bptcnn.outer.messages import Pushed
from bptcnn.wire import Packed

made: list[Listener] = []
"""The listener of the moment."""


@contextmanager
def listening(
    answer: Callable[[Any], Awaitable[Any]],
    new_loop: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop,
    host: str = "127.0.0.1",
) -> Iterator[Address]:
    """A listener on a loop of its own; everything is hung up in the end."""
    loop, found = new_loop(), Event()
    addresses: list[Address | None] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ray.util, "get_node_ip_address", lambda: host)

        async def life() -> None:
            made[:] = [Listener(answer)]
            addresses.extend([made[0].address(), made[0].address()])
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
    st.integers(0, 3 * IN_BAND).map(
        lambda size: Packed("int8", size, np.arange(size).astype(np.int8), np.ones(3, np.float32))
    ),
)


@settings(deadline=None)
@given(vectors=st.lists(VECTORS, min_size=1, max_size=4), large=st.sampled_from([IN_BAND, 2 * IN_BAND, 1 << 30]))
def test_what_is_sent_arrives_whatever_its_size_and_whoever_moves_it(vectors: list[Any], large: int) -> None:
    with pytest.MonkeyPatch.context() as patch, listening(echo) as address:
        patch.setattr(listener, "LARGE", large)
        worker = Channel(address)
        for vector in vectors:
            message = Pushed(0, 1, 2, 3, 4, 5, 6, 0.1, 1.0, 0.5, None)
            answer = worker.ask(Letter(message, vector))
            assert answer.message == message
            assert pickle.dumps(answer.vector) == pickle.dumps(vector)


@pytest.mark.skipif(not Path("/proc/net/if_inet6").exists(), reason="no IPv6 on this machine")
def test_an_address_may_be_of_either_kind() -> None:
    with listening(echo, host="::1") as address:
        assert Channel(address).ask("hello") == "hello"


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
        until(lambda: "wait" in calls, "the request", patience_s=10)
        assert other.ask("go on") == "done"
        waiting.join()
    assert heard == ["at last"]


def test_what_is_large_is_moved_beside_the_loop_which_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    moving, moved, rush = Event(), Event(), listener._rush

    def hold(*arguments: Any) -> memoryview:
        moving.set()
        assert moved.wait(10)
        return rush(*arguments)

    monkeypatch.setattr(listener, "_rush", hold)
    monkeypatch.setattr(listener, "LARGE", 1 << 20)
    vector, heard = np.arange(1 << 20, dtype=np.float32), []
    with listening(echo) as address:
        slow, quick = Channel(address), Channel(address)
        asking = Thread(target=lambda: heard.append(slow.ask(vector)))
        asking.start()
        assert moving.wait(10)
        assert quick.ask("hello") == "hello"
        moved.set()
        asking.join()
    assert np.array_equal(heard[0], vector)


def test_a_link_on_which_nothing_comes_keeps_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    left, rush = [], listener._rush

    def counted(*arguments: Any) -> memoryview:
        left.append(len(rest := rush(*arguments)))
        return rest

    monkeypatch.setattr(listener, "_rush", counted)
    monkeypatch.setattr(listener, "STALL_MS", 50)
    monkeypatch.setattr(listener, "FAST", 1.0)  # a byte a second
    vector = np.zeros(32 << 18, np.float32)  # 32 MiB: more than is under way
    whole = memoryview(b"".join(frames.packed(vector)))
    with listening(echo) as address:
        worker = Channel(address)
        worker._connection.sendall(whole[: 1 << 20])
        until(lambda: bool(left), "the thread to give up", patience_s=10)
        assert 31 << 20 <= left[0] < 32 << 20
        worker._connection.sendall(whole[1 << 20 :])
        until(lambda: len(left) == 2, "the thread to give up", patience_s=10)  # nobody takes the answer in
        assert 0 < left[1] < 32 << 20
        got = bytes(worker._read(len(whole)))
    assert got == whole


def test_a_slow_link_keeps_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "FAST", 1e12)  # so fast that there is no time for it
    monkeypatch.setattr(listener, "LARGE", 1 << 20)
    vector = np.arange(1 << 20, dtype=np.float32)
    with listening(echo) as address:
        assert np.array_equal(Channel(address).ask(vector), vector)


def test_who_hangs_up_within_a_large_message_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "STALL_MS", 10_000)
    with listening(echo) as address:
        worker = Channel(address)
        assert len(made[-1].lives) == 2
        message = memoryview(b"".join(frames.packed(np.zeros(listener.LARGE, np.float32))))
        worker._connection.sendall(message[: len(message) // 2])
        worker._connection.close()
        until(lambda: len(made[-1].lives) == 1, "the end of the connection", patience_s=5)
        assert Channel(address).ask("hello") == "hello"


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
        with pytest.raises(OSError, match="hung up"):
            Channel(address._replace(secret=bytes(len(address.secret))))
        with socket.create_connection(address[:2]) as stranger:
            stranger.sendall(bytes(len(address.secret)) + b"".join(frames.packed(Trap())))
            with suppress(ConnectionResetError):
                assert not stranger.recv(1)
        assert not Trap.sprung
        assert Channel(address).ask("hello") == "hello"


def test_a_server_that_is_gone_is_told_from_one_that_never_was() -> None:
    with listening(echo) as address:
        worker = Channel(address)
        assert worker.ask(1) == 1
    with pytest.raises(ServerLostError):
        worker.ask(2)
    with pytest.raises(OSError, match="refused"):
        Channel(address)


def test_a_worker_that_is_gone_is_forgotten_with_all_that_it_sent() -> None:
    seen: list[weakref.ref[Any]] = []

    async def answer(request: Any) -> Any:
        seen.append(weakref.ref(request))
        return request + 1

    with listening(answer) as address:
        for _ in range(5):
            worker = Channel(address)
            worker.ask(np.zeros(IN_BAND, np.float32))
            assert len(made[-1].lives) == 2
            until(lambda: seen[-1]() is None, "the end of what was sent", patience_s=10)
            worker._connection.close()
            until(lambda: len(made[-1].lives) == 1, "the end of the connection", patience_s=10)
        with socket.create_connection(address[:2]) as cut:
            cut.sendall(address.secret + b"ha")  # and is cut off within a message
        until(lambda: len(made[-1].lives) == 1, "the end of the connection", patience_s=10)
        assert Channel(address).ask(np.ones(1)).tolist() == [2.0]


def test_who_says_nothing_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames, "CONNECT_S", 0.05)
    with listening(echo) as address, socket.create_connection(address[:2]) as silent:
        assert not silent.recv(1)
        until(lambda: len(made[-1].lives) == 1, "the end of the connection", patience_s=10)


def test_a_listener_that_fails_to_take_a_connection_in_takes_in_the_next() -> None:
    taken: list[int] = []

    class Full(asyncio.SelectorEventLoop):
        async def sock_accept(self, door: socket.socket) -> Any:
            taken.append(1)
            if len(taken) == 1:
                raise OSError(24, "Too many open files")
            return await super().sock_accept(door)

    with listening(echo, Full) as address:
        assert Channel(address).ask("hello") == "hello"


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


@pytest.mark.parametrize("word", ["1", "true", "True"])
def test_where_ray_is_told_to_encrypt_nobody_listens(monkeypatch: pytest.MonkeyPatch, word: str) -> None:
    monkeypatch.setenv("RAY_USE_TLS", word)
    assert Listener(echo).address() is None


def test_where_the_address_is_not_this_machines_own_nobody_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray.util, "get_node_ip_address", lambda: "192.0.2.1")
    assert Listener(echo).address() is None


def test_a_bug_of_the_server_tells_where_it_was() -> None:
    async def answer(request: Any) -> Any:
        raise LookupError(lambda: "what cannot be pickled")

    with listening(answer) as address, pytest.raises(ClusterError, match="LookupError") as raised:
        Channel(address).ask("hello")
    assert "please report this" in str(raised.value)
    assert "in answer" in str(raised.value)
