"""Runs of a benchmark: independent of each other, several at a time in processes of their own, no folders left."""

from __future__ import annotations

import json
import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch

from bptcnn import api
from bptcnn.bench.protocol import Settings
from bptcnn.config import compose
from bptcnn.engine.virtual import Speeds, SpeedTrace, changing
from bptcnn.errors import DivergedError, WorkersLostError
from bptcnn.folder import RunFolder


@dataclass(frozen=True, slots=True)
class Case:
    """One run.

    Attributes:
        rule: a contender, or the ideal.
        level: of heterogeneity.
        seed: of everything random.
        settings: the recipe, by dotted key.
        engine: what it is played on.
        link: network of each worker.
        trace: seed of speeds that change; None for steady ones.
        together: the speeds, samples/s, whose traces the one worker has in sum; empty for a trace a worker.
    """

    rule: str
    level: str
    seed: int
    settings: Settings
    engine: Literal["virtual", "ray"] = "virtual"
    link: str = "free"
    trace: int | None = None
    together: tuple[float, ...] = ()

    @property
    def key(self) -> str:
        """Equal for cases that are the same run, whatever they are called."""
        parts = (self.seed, self.settings, self.engine, self.link, self.trace, self.together)
        return json.dumps(parts, sort_keys=True)


class Played(NamedTuple):
    """What a run came to.

    Attributes:
        outcome: ``finished``, ``diverged`` or ``failed``.
        time_to_accuracy: seconds, samples committed and test accuracy of each evaluation.
        final_accuracy: the last of them; None if there is none.
        bytes_pushed: weight bytes from workers to server.
        bytes_pulled: weight bytes from server to workers.
        train_seconds: length of the run, on its own clock.
        wall_seconds: what it took to play it.
    """

    outcome: str
    time_to_accuracy: list[list[float]]
    final_accuracy: float | None
    bytes_pushed: int
    bytes_pulled: int
    train_seconds: float
    wall_seconds: float


def play(case: Case, scratch: Path) -> Played:
    """Play one run, in a folder that is thrown away.

    Args:
        case: the run.
        scratch: where that folder may be.

    Returns:
        What it came to; one that diverged, or lost all its workers, has come to something, too.

    Raises:
        BptcnnError: it cannot be carried out.
        KeyboardInterrupt: the user stopped it.
    """
    began_s = time.monotonic()
    config = compose(None, {**case.settings, "seed": case.seed})
    with tempfile.TemporaryDirectory(dir=scratch) as parent:
        path = Path(parent) / "run"
        try:
            if case.engine == "ray":
                summary: Mapping[str, Any] | None = api.train(config, out=path).summary
            else:
                torch.set_num_threads(1)  # others play beside this one
                summary = api.simulate(config, out=path, link=case.link, trace=_speeds(case)).summary
        except (DivergedError, WorkersLostError):
            summary = RunFolder.peek(path).read_summary()
    assert summary is not None, "an engine that stops by itself leaves a summary"
    if summary["outcome"] == "interrupted":
        raise KeyboardInterrupt
    return Played(
        outcome=summary["outcome"],
        time_to_accuracy=summary["time_to_accuracy"],
        final_accuracy=summary["test_accuracy"],
        bytes_pushed=summary["bytes_pushed"],
        bytes_pulled=summary["bytes_pulled"],
        train_seconds=summary["train_seconds"],
        wall_seconds=time.monotonic() - began_s,
    )


def _speeds(case: Case) -> Speeds | None:
    if case.trace is None:
        return None
    each = changing(case.trace)
    if not case.together:
        return each
    return lambda worker, samples_per_s: SpeedTrace.total([each(*one) for one in enumerate(case.together)])


Tell = Callable[[Case, Played], None]


class Player:
    """Plays runs, each once: a run that was played before is remembered. Make it with :func:`players`.

    Args:
        pool: the processes; None to play here, one run after the other.
        scratch: for run folders.
    """

    def __init__(self, pool: ProcessPoolExecutor | None, scratch: Path) -> None:
        self._pool, self._scratch = pool, scratch
        self._known: dict[str, Played] = {}

    def play(self, cases: Sequence[Case], tell: Tell) -> list[Played]:
        """Play runs.

        Args:
            cases: the runs.
            tell: is called with each case as it ends, in whatever order they do.

        Returns:
            What each of them came to.

        Raises:
            BptcnnError: one cannot be carried out.
        """
        alike: dict[str, list[Case]] = {}
        for case in cases:
            alike.setdefault(case.key, []).append(case)
        for first, played in self._played([same[0] for same in alike.values()]):
            self._known[first.key] = played
            for case in alike[first.key]:
                tell(case, played)
        return [self._known[case.key] for case in cases]

    def _played(self, cases: Sequence[Case]) -> Iterator[tuple[Case, Played]]:
        yield from ((case, self._known[case.key]) for case in cases if case.key in self._known)
        fresh = [case for case in cases if case.key not in self._known]
        if self._pool is None:
            yield from ((case, play(case, self._scratch)) for case in fresh)
            return
        futures: dict[Future[Played], Case] = {self._pool.submit(play, case, self._scratch): case for case in fresh}
        for future in as_completed(futures):
            yield futures[future], future.result()


@contextmanager
def players(jobs: int) -> Iterator[Player]:
    """Processes to play runs in.

    Args:
        jobs: how many; with one, runs are played in this process.

    Yields:
        The player; when it is left early, runs that have not begun are dropped.
    """
    with tempfile.TemporaryDirectory(prefix="bptcnn-bench-") as scratch:
        if jobs == 1:
            yield Player(None, Path(scratch))
            return
        # Spawned, not forked: PyTorch has threads by now. Ctrl-C ends them at once, without a word and without tidying.
        pool = ProcessPoolExecutor(jobs, get_context("spawn"), signal.signal, (signal.SIGINT, signal.SIG_DFL))
        try:
            yield Player(pool, Path(scratch))
        finally:
            pool.shutdown(cancel_futures=True)
