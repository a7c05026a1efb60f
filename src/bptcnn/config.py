"""``RunConfig``: everything that defines a run, composed of the sections that the layers declare."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import tomli_w
from pydantic import Field, field_validator, model_validator

from bptcnn.data import DataConfig
from bptcnn.errors import ConfigError, unknown
from bptcnn.inner import OptimizerConfig, ScheduleConfig
from bptcnn.models import ModelConfig
from bptcnn.outer.allocation import ALLOCATIONS, Allocation, Dynamic, ExchangeConfig, Idpa
from bptcnn.outer.milestones import CheckpointConfig, EvaluationConfig
from bptcnn.outer.pace import FaultConfig
from bptcnn.outer.rules import STRATEGIES, AnyStrategy, LocalSgd
from bptcnn.section import Section

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


_USUAL = {"strategy": "local-sgd", "allocation": "dynamic"}
"""The name that is meant where a recipe gives only options."""


class WorkersConfig(Section):
    """Who trains."""

    count: int = Field(default=4, ge=1)
    """Number of workers."""

    speeds: tuple[float, ...] = ()
    """Emulated speeds, samples/s, one a worker; empty: as fast as each can."""

    threads: int = Field(default=0, ge=0)
    """Threads of one worker; 0: the machine's cores divided by the workers on it."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where a worker trains; auto: on a GPU where PyTorch sees one, else on the CPU. Simulations, which repeat to the
    last bit, use a GPU only if told to."""

    @model_validator(mode="after")
    def _one_speed_each(self) -> WorkersConfig:
        if self.speeds and len(self.speeds) != self.count:
            raise ConfigError(
                f"workers.speeds = {','.join(f'{s:g}' for s in self.speeds)} names {len(self.speeds)} workers "
                f"but workers.count = {self.count}: give one speed a worker"
            )
        slow = [speed for speed in self.speeds if not speed > 0]
        if slow:
            raise ConfigError(f"workers.speeds holds {slow[0]:g}: give samples per second above 0")
        return self


class RunConfig(Section):
    """A whole run. Sections may be given as mappings; data, model, strategy and allocation also by name alone.

    Raises:
        ConfigError: naming the key, the value and the remedy.

    Example:
        >>> config = RunConfig(strategy="sgwu", epochs=3, workers={"count": 2})
        >>> config.strategy.name, config.allocation.name, config.workers.count
        ('sgwu', 'dynamic', 2)
    """

    if TYPE_CHECKING:  # sections may be given as mappings or names, which a synthesised signature would not show

        def __init__(self, **values: Any) -> None: ...

    seed: int = Field(default=0, ge=0, lt=2**32)
    """Seed of everything random."""

    epochs: int = Field(default=5, ge=1)
    """K: how often each sample is trained on average."""

    batch_size: int = Field(default=32, ge=1)
    """Samples of one local step."""

    precision: Literal["fp32", "bf16"] = "fp32"
    """Arithmetic of forward and backward; weights are always float32. With ``bf16``, a worker computes in float32 all
    the same where its cores are no faster in bfloat16, or do not multiply it."""

    data: DataConfig = DataConfig()
    """Where images come from."""

    model: ModelConfig = ModelConfig()
    """The network."""

    optimizer: OptimizerConfig = OptimizerConfig()
    """Local SGD."""

    schedule: ScheduleConfig = ScheduleConfig()
    """The learning rate over the run."""

    workers: WorkersConfig = WorkersConfig()
    """Who trains."""

    allocation: Allocation = Dynamic()
    """Who trains on what."""

    strategy: AnyStrategy = LocalSgd()
    """How weights are merged."""

    exchange: ExchangeConfig = ExchangeConfig()
    """How often."""

    evaluation: EvaluationConfig = EvaluationConfig()
    """When accuracy is measured."""

    checkpoint: CheckpointConfig = CheckpointConfig()
    """When state is saved."""

    faults: FaultConfig = FaultConfig()
    """When a silent worker is given up."""

    @field_validator("data", "model", mode="before")
    @classmethod
    def _by_name(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    @field_validator("allocation", mode="before")
    @classmethod
    def _allocation(cls, value: Any) -> Any:
        return _named("allocation", value, ALLOCATIONS)

    @field_validator("strategy", mode="before")
    @classmethod
    def _strategy(cls, value: Any) -> Any:
        return _named("strategy", value, STRATEGIES)

    @model_validator(mode="after")
    def _batches_fit(self) -> RunConfig:
        if isinstance(self.allocation, Idpa):
            self.allocation.check(self.epochs)
        return self

    def to_toml(self) -> str:
        """The complete recipe as TOML text; ``compose`` reads it back to an equal configuration."""
        return tomli_w.dumps(self.model_dump(mode="json", exclude_none=True))


def _named(kind: str, value: Any, known: Mapping[str, Any]) -> Any:
    """Accept a bare name, and say which name comes nearest when it is unknown."""
    if isinstance(value, str):
        value = {"name": value}
    if isinstance(value, Mapping):
        value = {"name": _USUAL[kind], **value}
        if value["name"] not in list(known):  # a list, as what was written may be unhashable
            raise ConfigError(unknown(kind, value["name"], known))
    return value


def compose(recipe: Path | None, overrides: Mapping[str, Any]) -> RunConfig:
    """Read a recipe and lay single values over it.

    Args:
        recipe: a TOML file; None for the defaults.
        overrides: values by dotted key, such as ``{"optimizer.lr": 0.1}``.

    Returns:
        The configuration.

    Raises:
        ConfigError: the file is missing or no TOML, a key does not exist, or a value is out of range.

    Example:
        >>> compose(None, {"optimizer.lr": 0.1, "strategy.name": "sgwu"}).optimizer.lr
        0.1
    """
    tree = _read(recipe) if recipe is not None else {}
    # Names come first: choosing another rule drops the options of the one before, not those given along with it.
    for key in sorted(overrides, key=lambda key: not key.endswith(".name")):
        _lay(tree, key, overrides[key])
    return RunConfig(**tree)


def _read(recipe: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(recipe.read_text())
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not text"
        raise ConfigError(f"cannot read recipe {str(recipe)!r} ({reason}): give the path of a TOML file") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"recipe {str(recipe)!r} is not valid TOML: {error}") from None


def _lay(tree: dict[str, Any], key: str, value: Any) -> None:
    """Set one dotted key; another rule or allocation by name drops the options of the one before."""
    *sections, name = key.split(".")
    where = ".".join(sections)
    for section in sections:
        inner = tree.setdefault(section, {})
        if isinstance(inner, str):
            inner = tree[section] = {"name": inner}
        if not isinstance(inner, dict):
            raise ConfigError(f"key {key!r} does not exist: {section!r} is a value, not a section")
        tree = inner
    if name == "name" and where in _USUAL and tree.get("name", _USUAL[where]) != value:
        tree.clear()
    tree[name] = value
