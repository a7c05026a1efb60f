"""What happens when real processes die or stand still: nothing is lost, nothing counted twice."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from real.processes import actors, closed, kill, pushes, until

from bptcnn.api import Run, train
from bptcnn.config import RunConfig
from bptcnn.outer.status import Status

pytestmark = pytest.mark.real

EPOCHS = 12
FAST = {"workers": {"count": 3, "speeds": (1500, 1000, 500)}, "exchange": {"every": 4}, "checkpoint": {"every_s": 1.0}}
SHORT = {"patience_s": 1.5, "first_s": 5.0, "mads": 4.0}


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    """One connection that all runs of this module share; ``train`` must leave it open."""
    from bptcnn.engine.ray.cluster import cluster

    with cluster(None, num_workers=3):
        yield


class Saboteur:
    """An observer that does something when the run has got so far, and remembers what was said."""

    def __init__(self, *acts: tuple[float, Callable[[], Any]]) -> None:
        self._acts = list(acts)
        self.notices: list[str] = []
        self.seen: list[Status] = []

    def status(self, status: Status) -> None:
        self.seen.append(status)
        if self._acts and status.committed >= self._acts[0][0] * status.total:
            self._acts.pop(0)[1]()

    def notice(self, text: str) -> None:
        self.notices.append(text)


def run(folder: Path, observer: Saboteur, **settings: Any) -> Run:
    config = RunConfig(epochs=EPOCHS, **{**FAST, **settings})
    return train(config, out=folder / "run", observer=observer)


def test_a_killed_worker_is_replaced_and_nothing_is_lost(tmp_path: Path) -> None:
    observer = Saboteur((0.2, lambda: kill(actors("WorkerActor")[0])), (0.5, lambda: kill(actors("WorkerActor")[-1])))
    summary = run(tmp_path, observer).summary
    assert closed(summary, epochs=EPOCHS)
    assert summary["samples"]["returned"] > 0
    assert sum(worker["replaced"] for worker in summary["workers"]) == 2
    assert [notice.partition(" is ")[2] for notice in observer.notices] == ["replaced: its process died"] * 2


def test_a_stopped_worker_is_replaced_and_what_it_says_later_is_refused(tmp_path: Path) -> None:
    frozen: list[int] = []

    def freeze() -> None:
        frozen.append(actors("WorkerActor")[1])
        kill(frozen[0], signal.SIGSTOP)

    observer = Saboteur((0.2, freeze))
    summary = run(tmp_path, observer, faults=SHORT).summary
    assert closed(summary, epochs=EPOCHS)
    assert sum(worker["replaced"] for worker in summary["workers"]) == 1
    assert "is replaced: it was silent for" in observer.notices[0]
    until(lambda: frozen[0] not in actors("WorkerActor"), "the end of the stopped process")


def test_a_killed_server_goes_on_from_its_newest_checkpoint(tmp_path: Path) -> None:
    observer = Saboteur((0.5, lambda: kill(actors("ServerActor")[0])))
    summary = run(tmp_path, observer).summary
    assert closed(summary, epochs=EPOCHS)
    assert observer.notices == ["the server died: it goes on from its newest checkpoint"]
