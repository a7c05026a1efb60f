"""``train`` and ``simulate``: the two calls that everything else leads to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from bptcnn.config import RunConfig
from bptcnn.engine.auto import settle
from bptcnn.engine.facts import foreseen
from bptcnn.engine.observer import Observer, Silent
from bptcnn.engine.virtual import FaultPlan, Link, Simulation, Speeds, changing, steady
from bptcnn.folder import RunFolder
from bptcnn.launch import Data, Model, Run, Task, began_with, stored
from bptcnn.outer.rules import Auto


def train(
    config: RunConfig | None = None,
    *,
    model: Model | None = None,
    data: Data | None = None,
    out: str | Path | None = None,
    resume: str | Path | None = None,
    address: str | None = None,
    overrides: Mapping[str, Any] | None = None,
    observer: Observer | None = None,
) -> Run:
    """Train a network on unequal workers, on Ray.

    Args:
        config: the recipe; None for the defaults, or with ``resume`` for the stored one.
        model: a factory of the user's own network; it may ask for ``input_shape`` and ``num_classes`` by these names.
        data: (training set, test set), map-style PyTorch data sets of (image, label); None for the recipe's.
        out: folder of the run; None for the next free one under ``runs/``.
        resume: folder of a run to go on with.
        address: of a running Ray cluster; None starts one on this machine.
        overrides: with ``resume``: settings by dotted key that must equal the stored ones.
        observer: is told how the run goes.

    Returns:
        The run.

    Raises:
        BptcnnError: one of its kinds; see ``bptcnn.errors``.

    Example:
        >>> run = train(RunConfig(epochs=20), out="runs/digits")  # doctest: +SKIP
        >>> run.summary["test_accuracy"]  # doctest: +SKIP
        0.978
    """
    from bptcnn.engine.ray import RayEngine  # Ray takes a second to import, and simulations do without.

    initial = None
    if resume is not None:
        config = stored(Path(resume), config, overrides or {})
        initial = began_with(Path(resume), config)
    task = Task.of(config, model, data, initial)
    watcher = observer or Silent()
    folder = RunFolder.open(resume) if resume is not None else task.folder(out)
    return task.carry_out(folder, watcher, lambda: RayEngine(task.job, folder, watcher, address).run())


def simulate(
    config: RunConfig | None = None,
    *,
    model: Model | None = None,
    data: Data | None = None,
    out: str | Path | None = None,
    link: str = "free",
    faults: str = "",
    trace: int | Speeds | None = None,
    timing_only: bool = False,
    observer: Observer | None = None,
) -> Run:
    """Play a run on a virtual clock: the same decisions and arithmetic, no cluster, any speeds, faults on demand.

    Args:
        config: the recipe; ``workers.speeds`` are the virtual speeds, 1,000 samples/s each if not given.
        model: as for ``train``.
        data: as for ``train``.
        out: as for ``train``.
        link: network of each worker, such as ``100Mbit,5ms``; ``free`` for none.
        faults: what goes wrong, such as ``kill:1@5,freeze:2@8+3`` or ``random:7``, in virtual seconds.
        trace: seed of speeds that change every few virtual seconds by up to 4x, or what each worker's speed is over
            time; None for steady ones.
        timing_only: leave the arithmetic out: no accuracy, but thousands of times faster.
        observer: is told how the run goes.

    Returns:
        The run; its times are virtual.

    Raises:
        BptcnnError: one of its kinds; see ``bptcnn.errors``.

    Example:
        >>> import tempfile
        >>> config = RunConfig(epochs=2, workers={"count": 2, "speeds": (300, 100)})
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     run = simulate(config, out=f"{folder}/run", timing_only=True)
        >>> run.summary["samples"]["lost"], round(run.summary["samples_per_second"])
        (0, 400)
    """
    task = Task.of(config, model, data)
    workers = task.job.config.workers
    speeds = workers.speeds or (1000.0,) * workers.count
    horizon_s = len(task.job.train) * task.job.config.epochs / sum(speeds)
    plan = FaultPlan.parse(faults, num_workers=workers.count, horizon_s=horizon_s)
    network = Link.parse(link)
    traces = trace if callable(trace) else steady if trace is None else changing(trace)
    if isinstance(task.job.config.strategy, Auto):
        settled, sentence = settle(task.job.config, foreseen(task.job, speeds, network, traces, horizon_s))
        task = replace(task, job=replace(task.job, config=settled, notices=(*task.job.notices, sentence)))
    folder = task.folder(out)
    watcher = observer or Silent()
    return task.carry_out(
        folder,
        watcher,
        lambda: Simulation(task.job, folder, watcher, network, plan, timing_only=timing_only, traces=traces).run(),
    )


__all__ = ["Run", "simulate", "train"]
