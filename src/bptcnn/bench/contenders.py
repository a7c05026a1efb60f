"""Who takes part: a row of settings a contender, and what was found to serve each best on a data set and network."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from bptcnn.bench.protocol import IDEAL, Settings
from bptcnn.errors import ConfigError, unknown

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_DYNAMIC: Settings = {"allocation.name": "dynamic", "exchange.every": 4}
"""Leases in proportion to speed as it is now."""

CONTENDERS: Mapping[str, Settings] = {
    "default": {},
    "auto": {"strategy.name": "auto"},
    # Batches in proportion to speed; or equal ones, as all of today's tools have them.
    "allreduce": {"strategy.name": "allreduce", "allocation.name": "dynamic"},
    "allreduce-equal": {"strategy.name": "allreduce", "allocation.name": "uniform"},
    "local-sgd": {**_DYNAMIC, "strategy.name": "local-sgd"},
    "anytime": {**_DYNAMIC, "strategy.name": "anytime"},
    "sgwu": {**_DYNAMIC, "strategy.name": "sgwu"},
    "diloco": {**_DYNAMIC, "strategy.name": "diloco", "exchange.every": 16},
    "agwu": {**_DYNAMIC, "strategy.name": "agwu"},
    "async-local-sgd": {**_DYNAMIC, "strategy.name": "async-local-sgd"},
    "downpour": {**_DYNAMIC, "strategy.name": "downpour", "strategy.rate": 0.25},
    # With momentum on the workers it would be EAMSGD.
    "easgd": {**_DYNAMIC, "strategy.name": "easgd", "optimizer.momentum": 0.0},
    "eamsgd": {**_DYNAMIC, "strategy.name": "eamsgd", "strategy.momentum": 0.9},
    "gosgd": {**_DYNAMIC, "strategy.name": "gosgd"},
    "ad-psgd": {**_DYNAMIC, "strategy.name": "ad-psgd"},
    "none": {**_DYNAMIC, "strategy.name": "none"},
}
"""Settings of each contender by dotted key; what tuned.toml says of it comes on top."""

ALL = "all"
OTHERS = "others"
"""The entry of tuned.toml for what a contender's own one leaves open."""

ONE_WORKER: Settings = {**_DYNAMIC, "strategy.name": "local-sgd", "exchange.overlap": False}
"""Of the ideal. The mean over one worker is what that worker learned: plain SGD, whatever the cadence."""


def choose(names: Sequence[str]) -> list[str]:
    """The contenders that are meant.

    Args:
        names: contenders; ``all`` stands for every one.

    Returns:
        Each once, in the order of the names.

    Raises:
        ConfigError: one does not exist.

    Example:
        >>> choose(["agwu", "sgwu", "agwu"])
        ['agwu', 'sgwu']
    """
    chosen: list[str] = []
    for name in names:
        if name != ALL and name not in CONTENDERS:
            raise ConfigError(unknown("contender", name, [*CONTENDERS, ALL]))
        chosen += CONTENDERS if name == ALL else [name]
    return list(dict.fromkeys(chosen))


def own_settings(rule: str, level: str, data: str, model: str) -> dict[str, object]:
    """What a contender, or the ideal, is run with.

    Args:
        rule: a contender, or the ideal.
        level: of heterogeneity.
        data: name of the data set.
        model: name of the network.

    Returns:
        Its row, then what was found to serve it best on that data and network, at that level.
    """
    entries = _tuned().get(data, {}).get(model, {})
    if rule == IDEAL:
        return {**ONE_WORKER, **_at(entries.get(IDEAL, {}), level)}
    return {**CONTENDERS[rule], **_at(entries.get(OTHERS, {}), level), **_at(entries.get(rule, {}), level)}


@cache
def _tuned() -> dict[str, Any]:
    return tomllib.loads((Path(__file__).parent / "tuned.toml").read_text())


def _at(entry: Mapping[str, Any], level: str) -> dict[str, object]:
    """An entry's settings, those of the level last."""
    general = {name: value for name, value in entry.items() if name not in _levels(entry)}
    return {**dict(_flat(general)), **dict(_flat(entry.get(level, {})))}


def _levels(entry: Mapping[str, Any]) -> list[str]:
    """Sub-tables that are levels, not sections of a recipe."""
    return [name for name in entry if name.startswith("HL") or "/" in name]


def _flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, object]]:
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value
