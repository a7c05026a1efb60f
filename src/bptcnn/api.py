"""``train`` and ``simulate``: the two calls that everything else leads to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import nn
from torch.utils.data import Dataset

from bptcnn.config import RunConfig, compose
from bptcnn.data import load, wrap
from bptcnn.engine.job import Job, prepare
from bptcnn.engine.observer import Observer, Result
from bptcnn.engine.virtual import FaultPlan, Link, Simulation
from bptcnn.errors import DivergedError, RunFolderError, TrainingError, WorkersLostError
from bptcnn.folder import RunFolder
from bptcnn.models import FlatModel, load_model, save_model
from bptcnn.outer.status import Status

Model = Callable[..., nn.Module]
Data = tuple[Dataset[Any], Dataset[Any]]


class Silent:
    """An observer that shows nothing."""

    def status(self, status: Status) -> None:
        """Ignore it."""

    def notice(self, text: str) -> None:
        """Ignore it."""


class Run:
    """A run that has ended.

    Attributes:
        path: its folder.
        summary: its ``summary.json`` as a mapping.
        notices: what the user was told on the way.
    """

    def __init__(self, job: Job, path: Path, summary: Mapping[str, Any], notices: tuple[str, ...]) -> None:
        self._job = job
        self.path = path
        self.summary = summary
        self.notices = notices

    def model(self) -> nn.Module:
        """The trained network, in evaluation mode."""
        network = self._job.network()
        load_model(RunFolder.peek(self.path).model_path, network)
        return network.eval()


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

    if resume is not None:
        config = _stored(Path(resume), config, overrides or {})
    config = config or RunConfig()
    job = _job(config, model, data)
    folder = RunFolder.open(resume) if resume is not None else _create(config, out)
    watcher = observer or Silent()
    return _carry_out(job, folder, lambda: RayEngine(job, folder, watcher, address).run())


def simulate(
    config: RunConfig | None = None,
    *,
    model: Model | None = None,
    data: Data | None = None,
    out: str | Path | None = None,
    link: str = "free",
    faults: str = "",
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
    config = config or RunConfig()
    job = _job(config, model, data)
    speeds = config.workers.speeds or (1000.0,) * config.workers.count
    horizon_s = len(job.train) * config.epochs / sum(speeds)
    plan = FaultPlan.parse(faults, num_workers=config.workers.count, horizon_s=horizon_s)
    network = Link.parse(link)
    folder = _create(config, out)
    watcher = observer or Silent()
    return _carry_out(
        job, folder, lambda: Simulation(job, folder, watcher, network, plan, timing_only=timing_only).run()
    )


def _job(config: RunConfig, model: Model | None, data: Data | None) -> Job:
    return prepare(config, model, load(config.data, config.seed) if data is None else wrap(*data))


def _create(config: RunConfig, out: str | Path | None) -> RunFolder:
    return RunFolder.create(_next_free(config) if out is None else out, config.to_toml())


def _next_free(config: RunConfig) -> Path:
    stem = f"{config.data.name.split(':')[0]}-{config.model.name.split(':')[-1]}-{config.strategy.name}"
    number = 1
    while (path := Path("runs") / f"{stem}-{number}").exists():
        number += 1
    return path


def _stored(path: Path, config: RunConfig | None, overrides: Mapping[str, Any]) -> RunConfig:
    """The configuration that a run was started with; anything else asked for now must agree with it."""
    folder = RunFolder.peek(path)
    if folder.finished:
        raise RunFolderError(
            f"run folder {str(path)!r} holds a finished run: nothing is left to do, choose another --out"
        )
    recipe = folder.config_path
    stored = compose(recipe, {})
    asked = config or compose(recipe, overrides)
    if asked != stored:
        now, then = asked.model_dump(), stored.model_dump()
        key = next(name for name in then if now[name] != then[name])
        raise RunFolderError(
            f"run folder {str(path)!r} belongs to another configuration ({key} differs): "
            "resume it without settings, or choose another --out"
        )
    return stored


def _carry_out(job: Job, folder: RunFolder, run: Callable[[], Result]) -> Run:
    """Run an engine in a folder and write what came of it."""
    with folder:
        try:
            result = run()
        except BaseException:
            folder.discard()
            raise
        if result.weights is not None:
            flat = FlatModel(job.network())
            flat.load(result.weights)
            save_model(folder.model_path, flat.state_dict())
        folder.write_summary(result.summary)
    _raise_if_failed(result.summary, folder.path)
    return Run(job, folder.path, result.summary, result.notices)


def _raise_if_failed(summary: Mapping[str, Any], path: Path) -> None:
    outcome, reason = summary["outcome"], summary.get("reason", "")
    if outcome == "diverged":
        raise DivergedError(f"{reason}: lower --lr; the last good weights are in {str(path)!r}")
    if outcome == "failed":
        raise WorkersLostError(f"{reason}: mend the machines, then go on with --resume {path}")
    if outcome not in ("finished", "interrupted"):
        raise TrainingError(reason)
