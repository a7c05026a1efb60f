"""Real workers and a real server: they die and stand still, nothing is lost, and the virtual engine decides the same.

All runs here share one local cluster.
"""

from __future__ import annotations

import gc
import os
import re
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
import torch
from jobs import Watcher, last_state
from real.processes import actors, closed, events_of, until
from torch import nn
from torch.utils.data import Dataset

from bptcnn.api import Run, simulate, train
from bptcnn.config import RunConfig, compose
from bptcnn.data import load, wrap
from bptcnn.engine.job import prepare
from bptcnn.engine.ray import RayEngine
from bptcnn.engine.ray.channel import Channel
from bptcnn.engine.ray.cluster import cluster
from bptcnn.engine.replay import replay
from bptcnn.errors import ClusterError, DivergedError, TrainingError, WorkerError, WorkersLostError
from bptcnn.folder import RunFolder
from bptcnn.models import FlatModel, load_model
from bptcnn.outer.rules import RULES
from bptcnn.outer.status import Status
from bptcnn.wire import Sizes

pytestmark = pytest.mark.real

EPOCHS = 6
PAIR = {"count": 2, "speeds": (2400.0, 1200.0)}


@pytest.fixture(scope="module", autouse=True)
def connection() -> Iterator[None]:
    """Runs use the connection that they find, and leave it open."""
    before = dict(os.environ)
    with cluster(None, num_workers=3):
        yield
        assert ray.is_initialized()
    assert {key for key in os.environ if key.startswith("RAY_")} == {key for key in before if key.startswith("RAY_")}


class Saboteur(Watcher):
    """Does something when so great a part of the run is done."""

    def __init__(self) -> None:
        super().__init__(self._act_if_due)
        self._plan: list[tuple[float, Callable[[], object]]] = []

    def at(self, part: float, act: Callable[[], object]) -> None:
        self._plan.append((part, act))

    def strike(self, part: float, number: signal.Signals, kind: str, which: int = 0) -> None:
        """Send a signal to an actor's process."""
        self.at(part, lambda: os.kill(actors(kind)[which], number))

    def _act_if_due(self, status: Status) -> None:
        while self._plan and status.committed >= self._plan[0][0] * status.total:
            self._plan.pop(0)[1]()


def a_run(folder: Path, observer: Watcher | None = None, **settings: Any) -> Run:
    usual = {"epochs": EPOCHS, "workers": PAIR, "exchange": {"every": 4}, "checkpoint": {"every_s": 0.5}}
    config = RunConfig(**{**usual, **settings})
    return train(config, out=folder / "run", observer=observer)


def replayed(run: Run, config: RunConfig) -> list[tuple[Any, Any]]:
    """What the journal says was ordered, and what a fresh coordinator orders on the same events."""
    job = prepare(config, None, load(config.data, config.seed))
    setup = job.setup(num_weights=FlatModel(job.network()).num_weights, session=0)
    return [(step.recorded, step.ordered) for step in replay(run.path / "events.jsonl", setup)]


def sizes(config: RunConfig) -> Sizes:
    job = prepare(config, None, load(config.data, config.seed))
    return job.sizes(FlatModel(job.network()).num_weights)


def leases(folder: Path) -> list[Any]:
    """Who was sent which version and which samples, in order."""
    return [(e["worker"], e["version"], e["leases"]) for e in events_of(folder) if e["event"] == "send"]


def test_workers_that_die_or_stand_still_are_replaced_and_nothing_is_lost(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    observer = Saboteur()
    observer.strike(0.2, signal.SIGKILL, "Worker", 0)
    observer.strike(0.2, signal.SIGSTOP, "Worker", 1)
    patience = {"patience_s": 1.0, "first_s": 5.0}
    three = {"count": 3, "speeds": (2000.0, 1000.0, 1000.0)}
    exchange = {"every": 4, "dtype": "int8"}  # whoever joins has to be given what the differences are to
    run = a_run(tmp_path, observer, faults=patience, workers=three, strategy="easgd", exchange=exchange)
    assert closed(run.summary, epochs=EPOCHS)
    assert run.summary["samples"]["returned"] > 0
    assert sum(worker["replaced"] for worker in run.summary["workers"]) == 2
    assert run.summary["test_accuracy"] > 0.9
    full, push, pull = sizes(RunConfig(strategy="easgd", exchange=exchange))
    assert run.summary["bytes_pushed"] == push * sum(worker["pushes"] for worker in run.summary["workers"])
    entries = events_of(run.path)
    sends = [(entry["worker"], entry["incarnation"]) for entry in entries if entry["event"] == "send"]
    pushed = [entry for entry in entries if entry["event"] == "pushed"]
    assert run.summary["bytes_pulled"] == pull * len(sends) + (full - pull) * len(set(sends))
    replaced = [notice.split(": ")[1].split(" for ")[0] for notice in observer.notices if " is replaced: " in notice]
    assert sorted(replaced) == ["it was silent", "its process died"]
    newest = {worker["worker"]: 1 + worker["replaced"] for worker in run.summary["workers"]}
    told = drawn(run)  # a replacement may be too late for work, but nobody tells for a process that died
    assert told
    assert set(told) <= {entry["worker"] for entry in pushed if entry["incarnation"] == newest[entry["worker"]]}
    until(lambda: not actors("Worker"), "the end of the stopped process", patience_s=10)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("name", ["ad-psgd", "gosgd"])
def test_a_worker_that_dies_among_peers_takes_nothing_along_but_its_lease(tmp_path: Path, name: str) -> None:
    observer = Saboteur()
    observer.strike(0.3, signal.SIGKILL, "Worker", 0)
    exchange = {"dtype": "int8"}  # which is bf16 here
    workers = {"count": 3, "speeds": (2000.0, 1000.0, 1000.0)}
    run = a_run(tmp_path, observer, strategy=name, exchange=exchange, workers=workers)
    assert closed(run.summary, epochs=EPOCHS)
    assert sum(worker["replaced"] for worker in run.summary["workers"]) == 1
    assert all(worker["samples"] for worker in run.summary["workers"])
    reports = [entry["mass"] for entry in events_of(run.path) if entry["event"] == "reported"]
    assert len(reports) > 6  # several collections, of weights that count for something
    assert all(0 <= mass < 1 for mass in reports)  # 0 before a replacement's first weights have come
    assert run.summary["test_accuracy"] > 0.9


def test_workers_that_sum_lose_one_while_another_stands_still_and_sum_on(tmp_path: Path) -> None:
    observer = Saboteur()
    observer.strike(0.2, signal.SIGKILL, "Worker", 0)
    observer.strike(0.4, signal.SIGSTOP, "Worker", 1)
    workers = {"count": 3, "speeds": (2000.0, 1000.0, 1000.0)}
    patience = {"patience_s": 2.0, "first_s": 5.0}
    settings = {"strategy": "allreduce", "workers": workers, "faults": patience, "batch_size": 32}
    run = a_run(tmp_path, observer, **settings)
    assert closed(run.summary, epochs=EPOCHS)
    assert sum(worker["replaced"] for worker in run.summary["workers"]) == 2
    assert run.summary["test_accuracy"] > 0.9
    teams = [entry["team"] for entry in events_of(run.path) if entry["event"] == "reduce"]
    assert [0, 1, 2] in teams
    assert min(map(len, teams)) < 3
    steps = replayed(run, RunConfig(epochs=EPOCHS, exchange={"every": 4}, checkpoint={"every_s": 0.5}, **settings))
    assert all(ordered == recorded for recorded, ordered in steps)


@pytest.mark.parametrize("name", sorted(RULES.keys() - {"ad-psgd", "gosgd", "local-sgd"}))  # they are above
def test_every_rule_trains_on_real_processes(tmp_path: Path, name: str) -> None:
    """A new rule is tested here by being one."""
    rule = {"name": name, **({"rate": 0.5} if name == "downpour" else {})}
    run = a_run(tmp_path, strategy=rule, epochs=3, optimizer={"lr": 0.02, "momentum": 0.5})
    assert closed(run.summary, epochs=3)
    assert run.summary["test_accuracy"] > (0.05 if name == "none" else 0.5)
    assert np.array_equal(FlatModel(run.model()).snapshot(), last_state(run)["average"])


def test_a_server_that_dies_with_a_worker_goes_on_from_its_newest_checkpoint(tmp_path: Path) -> None:
    observer = Saboteur()
    observer.strike(0.5, signal.SIGKILL, "Worker")
    observer.strike(0.5, signal.SIGKILL, "Server")
    began_s = time.monotonic()
    run = a_run(tmp_path, observer)
    assert time.monotonic() - began_s < run.summary["train_seconds"] + 60  # nobody waits for who cannot come
    assert closed(run.summary, epochs=EPOCHS)
    assert sorted(worker["replaced"] for worker in run.summary["workers"]) == [0, 1]  # the other one joins again
    assert "the server died: it goes on from its newest checkpoint" in observer.notices
    entries = events_of(run.path)
    [restart] = [n for n, entry in enumerate(entries) if entry["event"] == "session_started" and entry["session"] == 1]
    saves = [entry for entry in entries[:restart] if entry["event"] == "save_checkpoint"]
    restored = saves[int(entries[restart]["checkpoint"]) - 1]
    assert entries[restart - 1]["t"] - restored["t"] < 2 * 0.5
    times = [at_s for at_s, _, _ in run.summary["time_to_accuracy"]]
    assert times == sorted(times)


def test_a_synchronous_run_decides_what_the_simulated_one_decides(tmp_path: Path) -> None:
    config = RunConfig(epochs=2, strategy="sgwu", allocation="uniform", workers=PAIR, exchange={"every": 4})
    real = train(config, out=tmp_path / "real")
    virtual = simulate(config, out=tmp_path / "virtual", timing_only=True)
    assert leases(real.path) == leases(virtual.path)
    assert drawn(real) == [0, 1]
    assert drawn(virtual) == []


def drawn(run: Run) -> list[int]:
    """Workers whose last step the summary tells of, each with a drawing that says the same."""
    rows = run.summary["last_steps"]
    files = {path.relative_to(run.path).as_posix(): path.read_text() for path in run.path.glob("timelines/*")}
    assert sorted(files) == [row["timeline"] for row in rows]
    for row in rows:
        assert f", balance {row['balance']:.2f}, " in files[row["timeline"]]
        assert 0 <= row["critical_waiting_seconds"] < row["seconds"] < 60
    return [row["worker"] for row in rows]


def test_an_asynchronous_run_can_be_played_again_and_says_where_the_machine_is_too_slow(tmp_path: Path) -> None:
    # At the usual rate about one run in five diverges where others use the cores, too, and leases differ most.
    steady = {"optimizer": {"lr": 0.005}, "allocation": "dynamic"}
    config = RunConfig(epochs=20, workers={"count": 2, "speeds": (1e6, 1e6)}, **steady)
    run = train(config, out=tmp_path / "run")
    steps = replayed(run, config)
    assert len(steps) > 50
    assert all(recorded == ordered for recorded, ordered in steps)
    assert any(
        "of the 1,000,000 samples/s asked for: this machine is too slow for these --speeds" in notice
        for notice in run.notices
    )
    assert all(worker["speed"] < worker["asked_speed"] == 1e6 for worker in run.summary["workers"])


def test_a_loss_that_is_no_number_ends_the_run_and_keeps_the_last_good_weights(tmp_path: Path) -> None:
    with pytest.raises(
        DivergedError, match=r"the loss became (nan|inf) .* in local step \d+ of worker \d: lower optimizer"
    ):
        a_run(tmp_path, optimizer={"lr": 1e6})
    run = tmp_path / "run"
    network = prepare(RunConfig(), None, load(RunConfig().data, 0)).network()
    load_model(run / "model.safetensors", network)
    assert all(bool(torch.isfinite(weights).all()) for weights in network.parameters())


def dots(size: int, torn_after: int | None = None, cut_after: int | None = None) -> Any:
    """Images of 8x8; a process that asks for more than so many finds one that is torn, or its connection cut."""

    class Dots(Dataset[Any]):  # made here so that it travels whole
        classes = ("black", "white")
        asked = 0

        def __len__(self) -> int:
            return size

        def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
            self.asked += 1
            if torn_after is not None and self.asked > torn_after:
                raise ValueError("image 77 is torn")
            if self.asked == cut_after:
                for channel in filter(lambda item: isinstance(item, Channel), gc.get_objects()):
                    channel._connection.shutdown(socket.SHUT_RDWR)
            return torch.full((1, 8, 8), float(index % 2)), index % 2

    return Dots()


@pytest.mark.parametrize(
    ("torn", "whose", "sentence"),
    [
        ((800, None), WorkerError, r"worker \d failed: ValueError: image 77 is torn \(test_ray_engine.py, line"),
        ((None, 100), TrainingError, r"testing the network failed: ValueError: image 77 is torn"),
    ],
)
def test_an_error_in_the_users_own_code_ends_the_run_in_order(
    tmp_path: Path, torn: tuple[int | None, int | None], whose: type[Exception], sentence: str
) -> None:
    config = RunConfig(epochs=400, batch_size=8, workers=PAIR, exchange={"every": 4}, evaluation={"every": 0.25})
    job = prepare(config, None, wrap(dots(400, torn[0]), dots(50, torn[1])))
    with RunFolder.create(tmp_path / "run", config.to_toml()) as folder:
        result = RayEngine(job, folder, Watcher(), None).run()
    assert type(result.error) is whose
    assert re.match(sentence, str(result.error))
    assert (result.summary["outcome"], result.summary["reason"]) == ("failed", str(result.error))
    assert result.weights is not None
    kinds = [entry["event"] for entry in events_of(tmp_path / "run")]
    assert kinds.count("pushed") >= 3
    assert kinds.count("finish") == 1
    assert list((tmp_path / "run" / "checkpoints").iterdir())


@pytest.mark.parametrize("name", ["agwu", "sgwu"])
def test_a_worker_whose_connection_is_cut_joins_again_and_nothing_is_lost(tmp_path: Path, name: str) -> None:
    config = RunConfig(epochs=4, batch_size=8, workers=PAIR, exchange={"every": 4}, strategy=name)
    job = prepare(config, None, wrap(dots(400, cut_after=300), dots(50)))
    with RunFolder.create(tmp_path / "run", config.to_toml()) as folder:
        run = RayEngine(job, folder, Watcher(), None).run()
    assert run.error is None
    assert closed(run.summary, epochs=4, num_samples=400)
    assert run.summary["samples"]["returned"] > 0
    entries = events_of(tmp_path / "run")
    joins = [entry["worker"] for entry in entries if entry["event"] == "worker_joined"]
    assert sorted(joins) == [0, 0, 1, 1]
    assert not [entry for entry in entries if entry["event"] in ("worker_lost", "replace", "refuse")]


def test_auto_measures_and_chooses_once_and_a_resumed_run_keeps_to_it(tmp_path: Path) -> None:
    observer = Saboteur()
    observer.at(0.3, lambda: os.kill(os.getpid(), signal.SIGINT))
    first = a_run(tmp_path, observer, epochs=3, strategy="auto", exchange={"every": 99})
    match = re.match(
        r"auto: ([\w-]+)(?:, as [\w %]+)?, an exchange every (?:(\d+) steps|step)(?: in \w+)?(, overlapped)?: "
        r"should learn most a second, at \d+ % of ([12],\d{3}|3,[0-6]\d\d) samples/s, on links of [\d.e+]+ [\w /.]+$",
        first.notices[0],
    )
    assert match, first.notices
    assert (observer.notices[0], observer.noticed_after[0]) == (first.notices[0], 0)
    config = compose(first.path / "config.toml", {})
    assert (config.strategy.name, config.exchange.every, config.exchange.overlap, config.allocation.name) == (
        match[1],
        int(match[2] or 1),
        match[3] is not None,
        "dynamic",
    )
    assert first.summary["outcome"] == "interrupted"
    assert not actors("Scout") + actors("Desk")
    asked = RunConfig(epochs=3, workers=PAIR, checkpoint={"every_s": 0.5}, strategy="auto")
    run = train(asked, resume=first.path)
    assert closed(run.summary, epochs=3)
    assert not [notice for notice in run.notices if "auto" in notice]
    assert run.summary["strategy"] == match[1]
    assert compose(run.path / "config.toml", {}) == config


def test_auto_tells_of_an_error_in_the_users_own_code_before_anything_begins(tmp_path: Path) -> None:
    job = prepare(RunConfig(strategy="auto", workers=PAIR), None, wrap(dots(400, torn_after=40), dots(50)))
    with (
        pytest.raises(WorkerError, match=r"^worker \d failed: ValueError: image 77 is torn \(test_ray_engine.py, line"),
        RunFolder.create(tmp_path / "run", job.config.to_toml()) as folder,
    ):
        RayEngine(job, folder, Watcher(), None).run()
    until(lambda: not actors(), "the end of the actors", patience_s=10)


def test_a_worker_that_dies_over_and_over_is_given_up(tmp_path: Path) -> None:
    here = os.getpid()

    def fatal(num_classes: int) -> nn.Module:
        if os.getpid() != here:
            os.kill(os.getpid(), signal.SIGKILL)
        return nn.Sequential(nn.Flatten(), nn.Linear(64, num_classes))

    config = RunConfig(workers={"count": 1}, faults={"restarts": 1})
    with pytest.raises(WorkersLostError, match="no worker is left, the last one because its process died: mend the"):
        train(config, model=fatal, out=tmp_path / "run")


def test_a_cluster_that_is_too_small_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match=r"has 32 CPUs, too few for workers\.count = 33"):
        train(RunConfig(workers={"count": 33}), out=tmp_path / "run")


def test_the_second_signal_ends_a_run_at_once(tmp_path: Path) -> None:
    observer = Saboteur()
    observer.at(0.1, lambda: os.kill(os.getpid(), signal.SIGTERM))
    observer.at(0.1, lambda: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        a_run(tmp_path, observer)
    until(lambda: not actors(), "the end of the actors", patience_s=10)
