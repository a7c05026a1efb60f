"""From what the user asks for to a run in its folder: everything around an engine."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn
from torch.utils.data import Dataset
from typing_extensions import Self

from bptcnn import checkpoint, telemetry
from bptcnn.config import RunConfig, compose
from bptcnn.data import DataPair, load, wrap
from bptcnn.engine.job import Job, State, prepare
from bptcnn.engine.observer import Observer, Result
from bptcnn.errors import ConfigError, DivergedError, RunFolderError, WorkersLostError
from bptcnn.folder import RunFolder
from bptcnn.models import FlatModel, load_model, read_model, save_model
from bptcnn.outer.rules import Auto
from bptcnn.report import timelines

Model = Callable[..., nn.Module]
Data = tuple[Dataset[Any], Dataset[Any]]


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


@dataclass(frozen=True)
class Task:
    """A job, and what its network and data are called.

    Attributes:
        job: what to train.
        data: name of the data set.
        model: name of the network.
        strategy: name of the update rule, as it was asked for.
    """

    job: Job
    data: str
    model: str
    strategy: str

    @classmethod
    def of(
        cls,
        config: RunConfig | Mapping[str, Any] | None,
        model: Model | None,
        data: Data | None,
        initial: State | None = None,
    ) -> Self:
        """Check what the user gave and prepare the job.

        Args:
            config: the recipe, perhaps as a mapping; None for the defaults.
            model: the user's factory; None for the recipe's network.
            data: the user's training and test set; None for the recipe's.
            initial: what a run that is resumed began with, if it was kept.

        Returns:
            The task.

        Raises:
            ConfigError: an argument is of the wrong kind.
            DataError: the data cannot be loaded.
            ModelError: the network cannot be built, or does not fit.
        """
        config = _recipe(config)
        if model is not None and not callable(model):
            raise ConfigError(
                f"model = {model!r} is no factory: give a class or function, or name a network in RunConfig(model=...)"
            )
        job = prepare(config, model, load(config.data, config.seed) if data is None else _pair(data), initial)
        data_name = config.data.name if data is None else type(data[0]).__name__
        model_name = config.model.name if model is None else getattr(model, "__name__", type(model).__name__)
        return cls(job, data_name, model_name, config.strategy.name)

    def folder(self, out: str | Path | None) -> RunFolder:
        """Make the run's folder, with the weights to begin with if the recipe alone does not tell them.

        Args:
            out: where; None for the next free one under ``runs/``.

        Raises:
            ModelError: the weights cannot be written.
            RunFolderError: it is taken.
        """
        config = self.job.config
        folder = RunFolder.create(self._next_free() if out is None else out, config.to_toml())
        if self.job.initial is not None:
            try:
                save_model(folder.initial_path, self.job.initial)
            except BaseException:
                folder.discard()
                raise
        return folder

    def carry_out(self, folder: RunFolder, observer: Observer, run: Callable[[], Result]) -> Run:
        """Run an engine in a folder and write what came of it.

        Args:
            folder: open; closed when this returns.
            observer: is told what there is to know before the start.
            run: the engine.

        Returns:
            The run.

        Raises:
            TrainingError: it could not finish; what it reached is in the folder.
        """
        with folder:
            try:
                for text in self.job.notices:
                    observer.notice(text)
                result = run()
            except BaseException:
                folder.discard()
                raise
            summary = result.summary | {"data": self.data, "model": self.model}
            if result.weights is not None:
                flat = FlatModel(self.job.network())
                flat.load(result.weights)
                save_model(folder.model_path, flat.state_dict())
            summary |= {"last_steps": timelines.write(folder.timelines_path, result.last_steps)}
            folder.write_summary(summary)
        if result.error is not None:
            raise result.error
        _raise_if_failed(summary, folder.path)
        return Run(self.job, folder.path, summary, (*self.job.notices, *result.notices))

    def _next_free(self) -> Path:
        stem = f"{self.data.split(':')[0]}-{self.model.split(':')[-1]}-{self.strategy}"
        number = 1
        while (path := Path("runs") / f"{stem}-{number}").exists():
            number += 1
        return path


def stored(path: Path, config: RunConfig | None, overrides: Mapping[str, Any]) -> RunConfig:
    """The configuration that a run was started with; anything else asked for now must agree with it.

    Args:
        path: the run's folder.
        config: what is asked for; None for what is stored.
        overrides: single settings asked for, by dotted key.

    Returns:
        The stored configuration.

    Raises:
        RunFolderError: it is no run that can go on, or one of another configuration.
    """
    folder = RunFolder.peek(path)
    _check_resumable(folder)
    recipe = folder.config_path
    before = compose(recipe, {})
    asked = config or compose(recipe, overrides)
    if isinstance(asked.strategy, Auto):  # it was chosen when the run started, with all that belongs to it
        chosen = ("strategy", "allocation", "exchange")
        asked = asked.model_copy(update={name: getattr(before, name) for name in chosen})
    if asked != before:
        now, then = asked.model_dump(), before.model_dump()
        key = next(name for name in then if now[name] != then[name])
        raise RunFolderError(
            f"run folder {str(path)!r} belongs to another configuration ({key} differs): "
            "resume it without settings, or choose another --out"
        )
    return before


def began_with(path: Path, config: RunConfig) -> State | None:
    """The weights that a run began with, if it kept them: the file that they came from is not needed again.

    Args:
        path: the run's folder.
        config: its configuration.

    Returns:
        All tensors of the network; None if they are those that its factory draws.

    Raises:
        ModelError: the run's own copy is missing or damaged.
    """
    kept = RunFolder.peek(path).initial_path
    return read_model(kept) if config.model.init is not None or kept.exists() else None


def _check_resumable(folder: RunFolder) -> None:
    name = f"run folder {str(folder.path)!r}"
    if folder.finished:
        raise RunFolderError(f"{name} holds a finished run: nothing is left to do, choose another --out")
    first = next(iter(telemetry.read(folder.events_path)), {}) if folder.events_path.exists() else {}
    if first.get("engine") == "virtual":
        raise RunFolderError(f"{name} holds a simulation, which cannot go on as training: simulate it again")
    if checkpoint.newest(folder.checkpoints_path) is None:
        raise RunFolderError(
            f"{name} holds no checkpoint to go on from: start anew with its config.toml and another --out"
        )


def _recipe(config: RunConfig | Mapping[str, Any] | None) -> RunConfig:
    if isinstance(config, RunConfig):
        return config
    if config is None or isinstance(config, Mapping):
        return RunConfig(**(config or {}))
    raise ConfigError(f"config = {config!r} is no recipe: give a RunConfig")


def _pair(data: Data) -> DataPair:
    if not isinstance(data, tuple | list) or len(data) != 2:
        raise ConfigError(
            f"data of type {type(data).__name__} is not understood: give a pair, (training set, test set), "
            "or name a data set in RunConfig(data=...)"
        )
    return wrap(*data)


def _raise_if_failed(summary: Mapping[str, Any], path: Path) -> None:
    outcome, reason = summary["outcome"], summary.get("reason", "")
    if outcome == "diverged":
        raise DivergedError(f"{reason}: lower optimizer.lr (--lr); the last good weights are in {str(path)!r}")
    if outcome == "failed":
        raise WorkersLostError(f"{reason}: mend the machines, then go on with --resume {path}")
