"""The parts of the Ray engine, without Ray: the server as plain coroutines, evaluation, signals, the first hello."""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import numpy as np
import pytest
import ray
from jobs import Clouds, linear
from real.processes import command, title_of, until

from bptcnn.api import train
from bptcnn.config import RunConfig
from bptcnn.engine.job import Job
from bptcnn.engine.packing import Letter, ServerEnd, WorkerEnd
from bptcnn.engine.ray import evaluation, fate, packers, past
from bptcnn.engine.ray.cluster import cluster
from bptcnn.engine.ray.evaluation import Evaluator
from bptcnn.engine.ray.post import Post
from bptcnn.engine.ray.rehearsal import DeskActor, exchange
from bptcnn.engine.ray.server import ServerActor
from bptcnn.engine.ray.signals import StopSignals
from bptcnn.errors import CheckpointError, ClusterError, RunFolderError, TrainingError
from bptcnn.folder import RunFolder
from bptcnn.inner import Parcel, Recipient
from bptcnn.models import FlatModel
from bptcnn.outer.messages import Evaluate, Evaluated, Finish, Pushed, Refuse, Replace, Send
from bptcnn.wire import Dtype, Packed

FIRST = np.zeros(4, np.float32)
FAULTS = {"patience_s": 0.01, "first_s": 0.01, "slack": 1.0, "join_s": 60.0}


def setup(**settings: Any) -> tuple[RunConfig, Any]:
    """Facts of a run of one worker on 64 samples, four steps each; the server needs neither network nor data."""
    values = {"epochs": 2, "batch_size": 4, "workers": {"count": 1}, "exchange": {"every": 4}, **settings}
    config = RunConfig(**values)
    data = Clouds.draw(64)
    return config, Job(config, config.model, data, data, None).setup(num_weights=len(FIRST), session=0)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[RunFolder]:
    with RunFolder.create(tmp_path / "run", "") as created:
        yield created


def server(folder: RunFolder, **settings: Any) -> ServerActor:
    config, facts = setup(**settings)
    return ServerActor(facts, config, folder.path)


def a_push(answer: Send, sequence: int = 1) -> Pushed:
    lease = answer.leases[0]
    return Pushed(0, answer.incarnation, sequence, lease.id, answer.version, 4, lease.size, 0.1, 1.0, 0.5, None)


async def joined(actor: ServerActor) -> Send:
    answer = await actor.join(0, 1000.0)
    assert isinstance(answer, Letter)
    return answer.message


def test_a_push_of_a_worker_that_was_given_up_is_refused(folder: RunFolder) -> None:
    async def story() -> None:
        actor = server(folder, faults=FAULTS)
        await actor.poll(FIRST)
        late = await joined(actor)
        while not (orders := (await actor.poll(FIRST)).orders):
            await asyncio.sleep(0)
        assert isinstance(orders[0], Replace)
        anew = await joined(actor)
        assert isinstance(await actor.push(Letter(a_push(late), FIRST)), Refuse)
        assert isinstance(await actor.push(Letter(a_push(anew), FIRST)), Letter)

    asyncio.run(story())


def test_a_call_of_an_earlier_life_ends_with_it(folder: RunFolder) -> None:
    async def story() -> None:
        actor = server(folder, workers={"count": 3})
        await actor.poll(FIRST)
        first = asyncio.create_task(actor.join(0, 1000.0))  # which waits for the others
        other = asyncio.create_task(actor.join(1, 1000.0))
        await asyncio.sleep(0)
        again = asyncio.create_task(actor.join(0, 1000.0))
        await asyncio.wait([first], timeout=5)
        assert first.cancelled()
        await actor.lost(1, "its process died")
        await asyncio.wait([other], timeout=5)
        assert other.cancelled()
        await actor.stop("interrupted", "the user asked to stop")
        assert isinstance(await again, Finish)

    asyncio.run(story())


@pytest.mark.parametrize("large", [0, 1 << 20])
def test_packed_weights_are_read_and_written_by_the_server(
    folder: RunFolder, large: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packers, "LARGE", large)

    async def story() -> None:
        actor = server(folder, exchange={"every": 4, "dtype": "int8"}, strategy="local-sgd")
        await actor.poll(FIRST)
        end = WorkerEnd(actor._setup.strategy, "int8")
        first = await actor.join(0, 1000.0)
        assert isinstance(first, Letter)
        assert first.vector is FIRST
        sent = end.pack(replace(a_push(end.open(first)), delta=np.array([127, 2, 0.4, 0], np.float32)))
        assert isinstance(sent.vector, Packed)
        second = await actor.push(sent)
        assert isinstance(second, Letter)
        assert isinstance(second.vector, Packed)
        weights = actor._server.coordinator.model.weights
        assert end.open(second).weights.tolist() == weights.tolist() == [127, 2, 0, 0]

    asyncio.run(story())


def test_what_takes_long_to_pack_holds_nobody_up(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    packing, packed, pack = threading.Event(), threading.Event(), ServerEnd.pack

    def hold(end: ServerEnd, answer: Send) -> Letter[Send]:
        packing.set()
        assert packed.wait(10)
        return pack(end, answer)

    monkeypatch.setattr(packers, "LARGE", 0)
    monkeypatch.setattr(ServerEnd, "pack", hold)

    async def story() -> None:
        actor = server(folder, exchange={"every": 4, "dtype": "int8"}, strategy="local-sgd")
        await actor.poll(FIRST)
        joining = asyncio.create_task(actor.join(0, 1000.0))
        while not packing.is_set():
            await asyncio.sleep(0)
        assert (await actor.poll(FIRST)).status.workers[0].worker == 0
        assert not joining.done()
        packed.set()
        assert isinstance(await joining, Letter)

    asyncio.run(story())


def test_a_death_that_the_server_knows_of_already_counts_once(folder: RunFolder) -> None:
    async def story() -> None:
        actor = server(folder)
        await actor.poll(FIRST)
        await joined(actor)
        await actor.lost(0, "its process died")
        await actor.lost(0, "its process died")
        assert len((await actor.poll(FIRST)).orders) == 1

    asyncio.run(story())


def test_workers_wait_until_the_run_is_open_and_the_driver_does_not(folder: RunFolder) -> None:
    async def story() -> None:
        actor = server(folder)
        waiting = asyncio.create_task(actor.session())
        await actor.lost(0, "its process died")
        await actor.stop("interrupted", "the user asked to stop")
        await actor.evaluated(Evaluated(0, 0, 0.0, 0.5), session=0)
        assert await actor.result() is None
        assert not waiting.done()
        await actor.poll(FIRST)
        assert await waiting == 0

    asyncio.run(story())


def test_an_evaluation_that_came_too_late_for_the_checkpoint_is_not_forgotten(folder: RunFolder) -> None:
    known, late, undone = Evaluated(0, 0, 0.1, 0.25), Evaluated(0, 0, 0.2, 0.5), Evaluated(1, 16, 0.3, 0.75)

    async def first_life() -> None:
        actor = server(folder)
        await actor.poll(FIRST)
        await actor.evaluated(known, session=0)
        await actor.push(Letter(a_push(await joined(actor)), FIRST))  # the first checkpoint is written when it joins
        await actor.evaluated(late, session=0)
        await actor.evaluated(undone, session=0)
        actor._saves.close()
        actor._journal.close()
        actor._lock.close()

    async def second_life() -> list[Any]:
        actor = server(folder)
        await actor.poll(FIRST)
        await actor.evaluated(late, session=0)
        await actor.evaluated(replace(late, accuracy=0.6), session=0)
        return actor._server.coordinator.tally.history

    asyncio.run(first_life())
    assert asyncio.run(second_life()) == [(0.1, 0, 0.25), (0.2, 0, 0.5), (0.2, 0, 0.6)]


def test_a_checkpoint_that_cannot_be_written_is_reported_and_training_goes_on(folder: RunFolder) -> None:
    folder.checkpoints_path.write_text("in the way")

    async def story() -> list[str]:
        actor = server(folder)
        await actor.poll(FIRST)
        answer = await joined(actor)
        actor._saves.close()
        notices = (await actor.poll(FIRST)).notices
        assert isinstance(answer, Send)
        return notices

    [notice] = asyncio.run(story())
    assert notice.startswith("cannot write checkpoint")


def test_a_damaged_checkpoint_is_an_error_of_its_own_kind(folder: RunFolder) -> None:
    (folder.checkpoints_path / "000001").mkdir(parents=True)
    with pytest.raises(CheckpointError, match="is missing"):
        asyncio.run(server(folder).poll(FIRST))


def test_a_server_waits_for_the_one_before_it_to_die(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    with folder.events_path.open("ab") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        monkeypatch.setattr(past, "PATIENCE_S", 0.0)
        with pytest.raises(RunFolderError, match="end the other process"):
            past.hold(folder.events_path)
        monkeypatch.setattr(past, "PATIENCE_S", 60.0)
        monkeypatch.setattr(past.time, "sleep", lambda seconds: other.close())
        past.hold(folder.events_path).close()


def test_all_calls_end_when_the_run_ends(folder: RunFolder) -> None:
    async def story() -> None:
        actor = server(folder, workers={"count": 2})
        await actor.poll(FIRST)
        waiting = asyncio.create_task(actor.join(0, 1000.0))  # for the second worker
        await asyncio.sleep(0)
        await actor.stop("interrupted", "the user asked to stop")
        assert await waiting == Finish("interrupted", "the user asked to stop") == await actor.join(1, 1000.0)
        result = await actor.result()
        assert result is not None
        assert result[0]["outcome"] == "interrupted"

    asyncio.run(story())


# ------------------------------------------------------------------------------------------- evaluation


def evaluator() -> tuple[Evaluator, np.ndarray]:
    data = Clouds.draw(30)
    model = FlatModel(linear(data.shape, data.num_classes))
    return Evaluator(model, data), model.snapshot()


def results(tester: Evaluator) -> list[tuple[int, int]]:
    found = []
    while tester.busy:
        found += [(event.version, session) for event, session in tester.finished()]
    return found


def test_evaluations_come_back_in_order_with_the_session_that_asked() -> None:
    tester, weights = evaluator()
    for version in range(4):
        tester.submit(Evaluate(version, 0, 0.0, weights), session=version // 2)
    assert results(tester) == [(0, 0), (1, 0), (2, 1), (3, 1)]
    tester.close()


def test_where_testing_takes_longer_than_training_every_other_test_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def slow(module: Any, test: Any) -> float:
        begun.set()
        go_on.wait()
        return 0.5

    monkeypatch.setattr(evaluation, "accuracy_of", slow)
    tester, weights = evaluator()
    tester.submit(Evaluate(0, 0, 0.0, weights), session=0)
    begun.wait()
    tester._seconds = 10.0
    for version in range(1, 6):
        tester.submit(Evaluate(version, 0, 0.0, weights), session=0)
    go_on.set()
    assert results(tester) == [(0, 0), (1, 0), (4, 0), (5, 0)]
    assert tester.skipped == 2
    tester.close()


def test_what_goes_wrong_in_the_test_set_is_said_in_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(module: Any, test: Any) -> float:
        raise KeyError("three")

    monkeypatch.setattr(evaluation, "accuracy_of", broken)
    tester, weights = evaluator()
    tester.submit(Evaluate(0, 0, 0.0, weights), session=0)
    with pytest.raises(
        TrainingError, match=r"^testing the network failed: KeyError: 'three' \(test_ray_parts.py, line"
    ):
        results(tester)
    tester.submit(Evaluate(1, 0, 0.0, weights), session=0)
    assert not tester.busy
    assert results(tester) == []


# ------------------------------------------------------------------------------------ fate, signals, addresses

CHILD = """
import os, runpy, signal, sys
signal.signal(signal.SIGHUP, signal.SIG_IGN)  # the kernel's own word to stopped orphans
runpy.run_path(sys.argv[1])["die_with_parent"]()
print(os.getpid(), flush=True)
os.kill(os.getpid(), signal.SIGSTOP)
"""


def test_a_stopped_process_dies_with_its_parent(tmp_path: Path) -> None:
    parent = "import subprocess, sys; subprocess.run([sys.executable, '-c', *sys.argv[1:]])"
    with command("-c", parent, CHILD, fate.__file__, cwd=tmp_path) as running:
        child = int(until(lambda: running.printed, "the child"))
        running.process.kill()
        running.wait()
        until(lambda: not title_of(child), "its end", patience_s=10)


def test_the_first_signal_is_noted_and_the_second_interrupts() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with StopSignals() as signals:
        signals.interrupt_if_received()
        os.kill(os.getpid(), signal.SIGTERM)
        assert signals.received
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)  # while things are cleared up
    assert signal.getsignal(signal.SIGTERM) is before


def test_an_ignored_signal_stays_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with StopSignals() as signals:
            os.kill(os.getpid(), signal.SIGINT)
        assert not signals.received
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def listening(answer: bytes) -> Iterator[str]:
    """Something that answers a first connection."""
    with socket.create_server(("127.0.0.1", 0)) as door:

        def serve() -> None:
            connection, _ = door.accept()
            connection.recv(64)
            connection.sendall(answer)
            connection.close()

        guest = threading.Thread(target=serve)
        guest.start()
        yield f"127.0.0.1:{door.getsockname()[1]}"
        guest.join()


def test_more_workers_than_this_machine_can_hold_are_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(4)))
    sentence = (
        r"^3000 workers do not fit on this machine of 4 cores \(at most 64\): lower --workers, or give --address of a "
    )
    for too_many in (65, 3000):
        with pytest.raises(ClusterError, match=sentence.replace("3000", str(too_many))), cluster(None, too_many):
            pass


def test_a_wrong_address_is_found_out_at_once() -> None:
    with socket.create_server(("127.0.0.1", 0)) as door:
        closed_port = door.getsockname()[1]
    sentences = {
        "nonsense": "is not valid: write HOST:PORT of the Ray head",
        "ray://127.0.0.1:10001": "is not valid: write HOST:PORT of the Ray head",
        "127.0.0.1:99999": "nothing answers at '127.0.0.1:99999'",
        f"127.0.0.1:{closed_port}": r"nothing answers at .* \(Connection refused\): start a cluster there",
        "nohost.invalid:6379": "nothing answers at 'nohost.invalid:6379'",
    }
    for address, sentence in sentences.items():
        with pytest.raises(ClusterError, match=sentence), cluster(address, num_workers=1):
            pass


def test_a_port_of_something_else_is_told_from_a_ray_head() -> None:
    with (
        listening(b"-ERR unknown command 'PRI'\r\n") as redis,
        pytest.raises(ClusterError, match="is no Ray head: give the port that 'ray start --head' named"),
        cluster(redis, num_workers=1),
    ):
        pass


def test_a_folder_that_cannot_be_made_is_an_error_before_anything_starts(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RunFolderError, match="can't be used"):
        train(out=tmp_path / "file" / "run")


class Scout:
    """Pushes so often, in this process; or dies."""

    def __init__(self, times: int) -> None:
        self.times = times
        self.versions: list[int] = []
        self.exchange = self

    async def remote(self, desk: DeskActor, dtype: Dtype, first: Letter[Send]) -> None:
        if not self.times:
            raise RuntimeError("it died")
        own_loop = asyncio.new_event_loop()

        def deliver(letter: Letter[Pushed]) -> Letter[Send]:
            answer = own_loop.run_until_complete(desk.answer(letter))
            assert isinstance(answer, Letter)
            self.versions.append(answer.message.version)
            return answer

        await asyncio.to_thread(exchange, dtype, first, deliver, lambda: len(self.versions) == self.times)
        own_loop.close()


@pytest.mark.parametrize("large", [0, 1 << 20])
@pytest.mark.parametrize("dtype", get_args(Dtype))
def test_a_rehearsal_is_all_exchange_whoever_dies(
    dtype: Dtype, large: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packers, "LARGE", large)
    desk, scout = DeskActor(2, FIRST, tmp_path), Scout(5)
    for _ in range(2):  # each begins anew
        scout.versions.clear()
        assert 0 < asyncio.run(desk.rehearse(desk, dtype, [scout, Scout(0)])) < 1.0
        assert scout.versions == [1, 2, 3, 4, 5]


def test_a_parcel_that_nobody_takes_comes_back_and_is_not_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "get", lambda handle: handle)
    server = SimpleNamespace(peer=SimpleNamespace(remote=lambda worker: None))
    post = Post(server, "fp32")
    post.send(1, Parcel(0.25, FIRST, Recipient(0)))
    post.wake()
    assert list(post.settle()) == [Parcel(0.25, FIRST, None)]
    assert list(post.received()) == []
