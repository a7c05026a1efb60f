"""One exchange of weights between a worker and the server on one machine, as the product does it.

The real ``ServerActor`` (coordinator, ledger, journal, agwu) and a real ``WorkerActor`` with a linear network of 2.5
million weights (10 MB), synthetic images, and one local step between two exchanges. The main process polls the server
as a driver does.

Timed, in the worker's process, with the local steps left out:

- ``difference``: local minus base weights (``LocalWorker.finish``);
- ``push + merge + pull``: from the difference to the answer in hand: there on the worker's connection to the server,
  the ledger, the journal, the merge, and back with the new weights; with ``--dtype`` also packing and unpacking on
  both sides;
- ``fold``: the answer into the local weights (``LocalWorker.receive``);
- ``exchange``: the three together. A run hides most of it behind the next local steps; here the worker waits.

In turns with it, from the same process, as the least that the transport costs: a bare Ray actor that adds the vector to
its own and returns the sum, and a bare TCP connection on the loopback that does the same.

    python benchmarks/exchange.py --samples 300
"""

from __future__ import annotations

import argparse
import socket
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, get_args

import numpy as np
import record
from torch import nn

from bptcnn.config import compose
from bptcnn.data import DataPair
from bptcnn.data.samples import ImageSet
from bptcnn.engine.job import Job, prepare
from bptcnn.engine.ray.channel import connected
from bptcnn.engine.ray.cluster import cluster
from bptcnn.engine.ray.driver import POLL_S
from bptcnn.engine.ray.server import ServerActor
from bptcnn.engine.ray.worker import WorkerActor
from bptcnn.engine.translate import pushed, work
from bptcnn.folder import RunFolder
from bptcnn.models import FlatModel
from bptcnn.outer.messages import Send, Vector
from bptcnn.wire import Dtype

import ray  # isort: skip - after the engine, which sets Ray's environment

WARM_UP = 30
SIDE = 50
"""Of an image, in pixels: 2,500 inputs of the network."""

PARTS = ("difference", "push + merge + pull", "fold")


class Stopwatch(WorkerActor):
    """A worker that times its exchanges."""

    def measure(self, num_samples: int, adder: Any) -> dict[str, list[float]]:
        """Join the run, and exchange after each lease.

        Args:
            num_samples: exchanges to keep, after the warm-up.
            adder: an ``Adder`` actor.

        Returns:
            Seconds of each kind.
        """
        self._learner = self._job.learner(self._job.network())
        local = self._job.local_worker(self._learner, self._worker)
        self._deliver = connected(ray.get(self._server.address.remote()), self._server.push)
        answer = self._ask("join", self._worker, self._measure()).result()
        assert isinstance(answer, Send)
        local.receive(answer.version, answer.weights, [work(lease) for lease in answer.leases])
        vector = self._learner.flat.snapshot()
        link = Link(ray.get(adder.listen.remote()), vector)
        seconds: dict[str, list[float]] = {name: [] for name in (*PARTS, "bare Ray", "bare TCP")}
        for _ in range(WARM_UP + num_samples):
            while not local.done:
                self._step(local)
            marks = [time.perf_counter()]
            message = pushed(self._worker, answer.incarnation, local.finish())
            marks.append(time.perf_counter())
            answer = self._push(message, waits=True).result()
            assert isinstance(answer, Send)
            marks.append(time.perf_counter())
            local.receive(answer.version, answer.weights, [work(lease) for lease in answer.leases])
            marks.append(time.perf_counter())
            for part, began_s, ended_s in zip(PARTS, marks, marks[1:], strict=False):
                seconds[part].append(ended_s - began_s)
            began_s = time.perf_counter()
            ray.get(adder.add.remote(vector))
            seconds["bare Ray"].append(time.perf_counter() - began_s)
            began_s = time.perf_counter()
            link.exchange(vector)
            seconds["bare TCP"].append(time.perf_counter() - began_s)
        return {name: samples[WARM_UP:] for name, samples in seconds.items()}


class Adder:
    """The least that a parameter server does, by Ray call and by TCP.

    Args:
        weights: float32 [num_weights].
    """

    def __init__(self, weights: Vector) -> None:
        self._weights = weights.copy()

    def add(self, delta: Vector) -> Vector:
        """Return the sum, in new memory."""
        return self._weights + delta

    def listen(self) -> int:
        """Serve one connection on the loopback; its port."""
        server = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=self._serve, args=(server,), daemon=True).start()
        return int(server.getsockname()[1])

    def _serve(self, server: socket.socket) -> None:
        connection, _ = server.accept()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        delta, total = np.empty_like(self._weights), np.empty_like(self._weights)
        while fill(connection, delta):
            np.add(self._weights, delta, out=total)
            connection.sendall(total)


class Link:
    """A worker's end of the TCP connection."""

    def __init__(self, port: int, vector: Vector) -> None:
        self._connection = socket.create_connection(("127.0.0.1", port))
        self._connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._answer = np.empty_like(vector)

    def exchange(self, vector: Vector) -> None:
        """Send a vector and wait for the sum."""
        self._connection.sendall(vector)
        fill(self._connection, self._answer)


def fill(connection: socket.socket, vector: Vector) -> bool:
    """Receive a whole vector; False if the connection ended."""
    rest = memoryview(vector).cast("B")
    while rest:
        count = connection.recv_into(rest)
        if not count:
            return False
        rest = rest[count:]
    return True


def make_job(num_weights: int, num_leases: int, dtype: str) -> Job:
    """A linear network of about so many weights, and an image for each lease."""
    num_classes = max(2, num_weights // SIDE**2)
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (num_leases, 1, SIDE, SIDE), np.uint8)
    samples = ImageSet(images, random.integers(0, num_classes, num_leases), num_classes, mean=(0.5,), std=(0.25,))
    settings = {
        "epochs": 1,
        "batch_size": 1,
        "exchange.every": 1,
        "exchange.dtype": dtype,
        "optimizer.lr": 1e-4,
        "allocation.name": "uniform",
        "strategy.name": "agwu",
        "workers.count": 1,
    }

    def network() -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(SIDE**2, num_classes, bias=False))

    return prepare(compose(None, settings), network, DataPair(samples, samples))


def measure(job: Job, num_samples: int, path: Path) -> dict[str, list[float]]:
    """Start the cluster, the server and the worker as a driver does, and take the samples.

    Args:
        job: has enough leases.
        num_samples: exchanges to keep.
        path: a new run folder.

    Returns:
        Seconds of each kind.
    """
    weights = FlatModel(job.network()).snapshot()
    with RunFolder.create(path, job.config.to_toml()) as folder, cluster(None, 1):
        options = {"num_cpus": 1, "max_restarts": -1, "max_task_retries": 0, "max_concurrency": 10_000}
        setup = job.setup(num_weights=len(weights), session=0)
        server = ray.remote(ServerActor).options(**options).remote(setup, job.config, folder.path.resolve())
        first = ray.put(weights)
        adder = ray.remote(Adder).options(num_cpus=1).remote(weights)
        worker = ray.remote(Stopwatch).options(num_cpus=1).remote(0, ray.put(job), server, None, 1)
        call = worker.measure.remote(num_samples, adder)
        while not ray.wait([call], timeout=POLL_S)[0]:
            ray.get(server.poll.remote(first))
        seconds: dict[str, list[float]] = ray.get(call)
    return seconds


def in_series(seconds: dict[str, list[float]]) -> dict[str, record.Series]:
    """Milliseconds, the whole exchange, and its ratio to what the transport alone costs, exchange by exchange."""
    whole = [sum(parts) for parts in zip(*(seconds[part] for part in PARTS), strict=True)]
    series = {"exchange": record.Series("ms", [1e3 * value for value in whole])}
    for name, samples in seconds.items():
        target = "<= 15" if name == "push + merge + pull" else ""
        series[name] = record.Series("ms", [1e3 * value for value in samples], target)
    for bare in ("bare Ray", "bare TCP"):
        ratios = [value / least for value, least in zip(seconds["push + merge + pull"], seconds[bare], strict=True)]
        series[f"push + merge + pull / {bare}"] = record.Series("1", ratios)
    return series


def main() -> None:
    """Measure, show, and write a record."""
    parser = argparse.ArgumentParser(description="push, merge and pull between one worker and the server")
    parser.add_argument("--samples", type=int, default=300, help="exchanges to time")
    parser.add_argument("--weights", type=int, default=2_500_000, help="about how many weights the network has")
    parser.add_argument("--dtype", choices=get_args(Dtype), default="fp32", help="how vectors travel")
    parser.add_argument("--out", type=Path, default=record.RECORDS, help="folder of the record")
    options = parser.parse_args()
    load_before = record.load()
    job = make_job(options.weights, WARM_UP + options.samples + 8, options.dtype)
    with tempfile.TemporaryDirectory() as folder:
        series = in_series(measure(job, options.samples, Path(folder) / "run"))
    record.show(series)
    num_weights = FlatModel(job.network()).num_weights
    settings = {"weights": num_weights, "samples": options.samples, "warm_up": WARM_UP, "dtype": options.dtype}
    print(record.write(options.out, "exchange", settings, series, load_before))


if __name__ == "__main__":
    main()
