"""What is compared, and on what: levels of heterogeneity, and the settings that all runs have in common. Pure.

The levels are those of OmniLearn (IEEE TPDS, 2025): 48 units of speed, dealt to four workers ever more unequally. The
ideal is one worker that has them all.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import inf
from typing import Literal, TypeAlias

from bptcnn.errors import ConfigError, unknown

Settings: TypeAlias = Mapping[str, object]
"""Values by dotted key of the recipe."""

IDEAL = "ideal"
"""Name of the one worker with the sum of all speeds."""

UNIT_PER_S = 80.0
"""Samples/s of one unit, if not told otherwise: 48 of them are 3,840 samples/s."""

LEVELS: Mapping[str, tuple[int, ...]] = {
    "HL1": (12, 12, 12, 12),
    "HL2": (12, 12, 8, 16),
    "HL4": (9, 8, 6, 25),
    "HL8": (6, 6, 4, 32),
}
"""Units of each worker; the number tells how many times as fast as the slowest one the fastest is, about."""

NEVER_S = 1e9
"""Between checkpoints: nobody goes on with a run of a benchmark."""

_SHARES = re.compile(r"[1-9]\d*(/[1-9]\d*)*")
_OF_SEVERAL = ("strategy.", "allocation.", "exchange.", "workers.count", "workers.speeds")


def speeds(level: str, unit_per_s: float = UNIT_PER_S) -> tuple[float, ...]:
    """The workers' speeds at a level, samples/s.

    Args:
        level: a name, or units as in ``12/12/8/16``.
        unit_per_s: samples/s of one unit.

    Raises:
        ConfigError: it is neither.

    Example:
        >>> speeds("HL8"), sum(speeds("HL2"))
        ((480.0, 480.0, 320.0, 2560.0), 3840.0)
        >>> speeds("3/1")
        (240.0, 80.0)
    """
    if _SHARES.fullmatch(level):
        return tuple(unit_per_s * int(units) for units in level.split("/"))
    if level not in LEVELS:
        raise ConfigError(
            f"{unknown('level', level, LEVELS)}, or give units of {unit_per_s:g} samples/s, as in 6/6/4/32"
        )
    return tuple(unit_per_s * units for units in LEVELS[level])


@dataclass(frozen=True, slots=True)
class Protocol:
    """What all runs of a benchmark have in common.

    Attributes:
        data: name of the data set.
        data_dir: where its files are; None for the usual place.
        model: name of the network.
        target: test accuracy to reach.
        epochs: budget of a run.
        evaluate_every: epochs between two evaluations.
        link: network of each worker.
        engine: what the runs are played on.
        trace: seed of speeds that change; None for steady ones.
        unit_per_s: samples/s of one unit of speed.
        stop_at_target: end a run where it reaches the target, before its budget is spent.
        extra: settings on top of all others.

    Raises:
        ConfigError: a value is out of range, or a link or trace is given for real processes, which have none to set.
    """

    data: str = "fashion-mnist"
    data_dir: str | None = None
    model: str = "lenet5"
    target: float = 0.9
    epochs: int = 5
    evaluate_every: float = 0.1
    link: str = "free"
    engine: Literal["virtual", "ray"] = "virtual"
    trace: int | None = None
    unit_per_s: float = UNIT_PER_S
    stop_at_target: bool = False
    extra: Settings = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.engine not in ("virtual", "ray"):
            raise ConfigError(f"--engine {self.engine} does not exist: give virtual or ray")
        if not 0 < self.target <= 1:
            raise ConfigError(f"--target {self.target:g} is no accuracy: give a number above 0, 1 at most, as in 0.9")
        if not 0 < self.unit_per_s < inf:
            raise ConfigError(f"--unit {self.unit_per_s:g} is no speed: give samples/s above 0, as in 80")
        if self.engine == "ray" and self.link != "free":
            raise ConfigError(f"--link {self.link} is for --engine virtual: leave it out, real processes use no other")
        if self.engine == "ray" and self.trace is not None:
            raise ConfigError(f"--trace {self.trace} is for --engine virtual: leave it out, real speeds are steady")

    def speeds(self, level: str) -> tuple[float, ...]:
        """The workers' speeds at a level, samples/s.

        Args:
            level: as for the function of the same name.
        """
        return speeds(level, self.unit_per_s)

    def settings(self, rule: str, level: str, own: Settings) -> dict[str, object]:
        """All settings of a run but its seed.

        Args:
            rule: a contender, or the ideal.
            level: of heterogeneity.
            own: the contender's settings.

        Returns:
            Values by dotted key: the protocol's, then the contender's, then what was asked for on top. The ideal heeds
            of that only what also has a meaning for one worker.
        """
        each = self.speeds(level) if rule != IDEAL else (sum(self.speeds(level)),)
        common: dict[str, object] = {
            "data.name": self.data,
            "model.name": self.model,
            "epochs": self.epochs,
            "evaluation.every": self.evaluate_every,
            "schedule.kind": "linear",
            "checkpoint.every_s": NEVER_S,
            "workers.count": len(each),
            "workers.speeds": each,
        }
        if self.data_dir is not None:
            common["data.dir"] = self.data_dir
        if self.stop_at_target:
            common["evaluation.target"] = self.target
        extra = {key: value for key, value in self.extra.items() if rule != IDEAL or not key.startswith(_OF_SEVERAL)}
        return {**common, **own, **extra}
