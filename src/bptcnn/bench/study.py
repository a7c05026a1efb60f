"""A whole benchmark: perhaps a search for rates and batches, then each contender with each seed, then the table."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from math import inf
from statistics import median
from typing import Any, NamedTuple

from bptcnn.bench.contenders import own_settings
from bptcnn.bench.crossing import crossing_s, median_s
from bptcnn.bench.protocol import IDEAL, Protocol, Settings
from bptcnn.bench.runs import Case, Played, Player, Tell
from bptcnn.config import compose
from bptcnn.engine.virtual import Link

RARELY: Settings = {"exchange.every": 16}
"""Of the ideal on real processes, where an exchange takes time; to one worker it makes no other difference than that
it is evaluated up to so many steps late."""

Entry = tuple[str, str]
"""A contender, or the ideal, and a level."""


class Run(NamedTuple):
    """A case and what it came to; ``seconds_to_target`` is None where the target was not reached."""

    case: Case
    played: Played
    seconds_to_target: float | None


class Trial(NamedTuple):
    """Runs that differ in nothing but their seed."""

    runs: Sequence[Run]

    @property
    def seconds_to_target(self) -> float | None:
        """The median; None if half of them or more miss the target."""
        return median_s(run.seconds_to_target for run in self.runs)

    @property
    def final_accuracy(self) -> float:
        """The median; a run without any counts as 0."""
        return median(run.played.final_accuracy or 0.0 for run in self.runs)

    @property
    def rank(self) -> tuple[float, float]:
        """Smaller is better: the time to target, then the accuracy."""
        return inf if self.seconds_to_target is None else self.seconds_to_target, -self.final_accuracy


@dataclass(frozen=True)
class Study:
    """What is to be played.

    Attributes:
        protocol: what all runs have in common.
        rules: contenders.
        levels: of heterogeneity.
        seeds: of each contender's runs.
        rates: learning rates to try first; empty for what is known to serve.
        batches: batch sizes to try first; likewise.
    """

    protocol: Protocol
    rules: Sequence[str]
    levels: Sequence[str]
    seeds: Sequence[int]
    rates: Sequence[float] = ()
    batches: Sequence[int] = ()
    _found: dict[Entry, dict[str, object]] = field(default_factory=dict)

    @property
    def entries(self) -> list[Entry]:
        """Who plays where, the ideal before the others."""
        return [(rule, level) for level in self.levels for rule in (IDEAL, *self.rules)]

    def check(self) -> None:
        """See whether every run could begin.

        Raises:
            ConfigError: some setting does not exist or is out of range.
        """
        Link.parse(self.protocol.link)
        for entry, seed, tried in itertools.product(self.entries, self.seeds, self._combinations()):
            compose(None, {**self._case(entry, seed, tried).settings, "seed": seed})

    @property
    def num_trials(self) -> int:
        """Runs of the search, those that turn out to be the same counted each."""
        combinations = self._combinations()
        return self.num_runs * len(combinations) if combinations != [{}] else 0

    @property
    def num_runs(self) -> int:
        """Runs after the search, counted likewise."""
        return len(self.entries) * len(self.seeds)

    def search(self, player: Player, tell: Tell) -> list[dict[str, Any]]:
        """Try every combination of rates and batches for every entry alike; that of the fastest median is kept.

        Args:
            player: plays the runs; they end at the target.
            tell: is called with each one that ends.

        Returns:
            A row for each combination, with ``kept`` and the times of all seeds; where none reaches the target the
            most accurate is kept.
        """
        if not self.num_trials:
            return []
        trials = list(itertools.product(self.entries, self._combinations()))
        cases = [self._case(entry, seed, tried, stop=True) for entry, tried in trials for seed in self.seeds]
        runs = iter(self._runs(cases, player, tell))
        rows = [(*trial, Trial(list(itertools.islice(runs, len(self.seeds))))) for trial in trials]
        for entry in self.entries:
            _, self._found[entry], _ = min((row for row in rows if row[0] == entry), key=lambda row: row[2].rank)
        return [
            {
                "rule": entry[0],
                "level": entry[1],
                **tried,
                "seconds_to_target": trial.seconds_to_target,
                "final_accuracy": trial.final_accuracy,
                "seconds_by_seed": {run.case.seed: run.seconds_to_target for run in trial.runs},
                "kept": tried == self._found[entry],
            }
            for entry, tried, trial in rows
        ]

    def play(self, player: Player, tell: Tell) -> list[Run]:
        """Play every entry with every seed, with what the search found.

        Args:
            player: plays the runs.
            tell: is called with each one that ends.

        Returns:
            The runs, in the order of the entries, then of the seeds.
        """
        cases = [
            self._case(entry, seed, self._found.get(entry, {}))
            for entry, seed in itertools.product(self.entries, self.seeds)
        ]
        return self._runs(cases, player, tell)

    def _runs(self, cases: Sequence[Case], player: Player, tell: Tell) -> list[Run]:
        target = self.protocol.target
        played = player.play(cases, tell)
        return [Run(c, p, crossing_s(p.time_to_accuracy, target)) for c, p in zip(cases, played, strict=True)]

    def _combinations(self) -> list[dict[str, object]]:
        """What is tried: every rate with every batch size; a single empty one where nothing is."""
        rates = [{"optimizer.lr": rate} for rate in self.rates] or [{}]
        batches = [{"batch_size": size} for size in self.batches] or [{}]
        return [{**rate, **size} for rate, size in itertools.product(rates, batches)]

    def _case(self, entry: Entry, seed: int, tried: dict[str, object], *, stop: bool = False) -> Case:
        rule, level = entry
        protocol = replace(self.protocol, stop_at_target=True) if stop else self.protocol
        settings = protocol.settings(rule, level, own_settings(rule, level, protocol.data, protocol.model))
        alone = rule == IDEAL
        if alone and protocol.engine == "ray":
            settings |= RARELY
        return Case(
            rule=rule,
            level=level,
            seed=seed,
            settings=settings | tried,
            engine=protocol.engine,
            link="free" if alone else protocol.link,
            trace=protocol.trace,
            together=protocol.speeds(level) if alone and protocol.trace is not None else (),
        )


def table_rows(runs: Sequence[Run], link: str) -> list[dict[str, Any]]:
    """The benchmark's result: a row for each contender, level and seed.

    Args:
        runs: all of them, the ideal's too.
        link: of the contenders.

    Returns:
        Rows of JSON values; ``ideal_seconds`` is the median over the ideal's seeds at that level, ``ratio`` the time
        to target over it. What was not reached is None.
    """
    ideal: dict[str, list[float | None]] = {}
    for run in runs:
        if run.case.rule == IDEAL:
            ideal.setdefault(run.case.level, []).append(run.seconds_to_target)
    ideal_s = {level: median_s(times) for level, times in ideal.items()}
    return [
        {
            "rule": run.case.rule,
            "level": run.case.level,
            "link": link,
            "seed": run.case.seed,
            "seconds_to_target": run.seconds_to_target,
            "ideal_seconds": ideal_s[run.case.level],
            "ratio": _ratio(run.seconds_to_target, ideal_s[run.case.level]),
            "final_accuracy": run.played.final_accuracy,
        }
        for run in runs
        if run.case.rule != IDEAL
    ]


def run_rows(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """The raw samples: each run with its settings, its evaluations and its bytes.

    Args:
        runs: all of them.

    Returns:
        Rows of JSON values.
    """
    return [
        {
            **{name: value for name, value in asdict(run.case).items() if name != "together"},
            "seconds_to_target": run.seconds_to_target,
            **run.played._asdict(),
        }
        for run in runs
    ]


def _ratio(seconds: float | None, ideal_s: float | None) -> float | None:
    return None if seconds is None or not ideal_s else seconds / ideal_s
