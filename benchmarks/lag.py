"""What it costs to learn from old weights, and from few bits.

Rounds of 1, 2, 4 ... local steps, that wait and that overlap, the same without rounds, and rounds of one step whose
vectors are packed: ``local-sgd`` and ``async-local-sgd`` on free links in the virtual engine, where an epoch takes as
long whatever the exchange: all the difference is in what is learned. At each level every way runs with the same batch,
rate and seeds; ``slowdown`` is the time until an accuracy is reached over that of rounds of one step that wait, seed by
seed and accuracy by accuracy, where a run that never reaches it counts with its length. ``lag`` is what ``auto`` calls
so: how many local steps old the weights of others are, on average.

    python benchmarks/lag.py --data-dir DIR
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np
import record

from bptcnn.bench.crossing import crossing_s
from bptcnn.bench.protocol import Protocol, speeds
from bptcnn.bench.runs import Case, Played, players
from bptcnn.engine.auto import DTYPES, Candidate
from bptcnn.engine.facts import Facts
from bptcnn.engine.virtual import Link
from bptcnn.outer.rules import AsyncLocalSgd, LocalSgd
from bptcnn.wire import Dtype

STEPS = ((48, 0.03), (96, 0.05))
"""Samples of a local step of all workers together, and a rate that suits them."""


class Way(NamedTuple):
    """One way to exchange, at one level, with one batch and rate."""

    level: str
    samples: int
    rate: float
    rounds: bool
    every: int
    overlap: bool
    dtype: Dtype

    @property
    def name(self) -> str:
        """For tables and records."""
        kind = ("" if self.rounds else "asynchronous ") + ("overlapped" if self.overlap else "waiting")
        packed = "" if self.dtype == "fp32" else f", {self.dtype}"
        return f"{self.level}, {self.samples} at {self.rate:g}, every {self.every} {kind}{packed}"

    @property
    def candidate(self) -> Candidate:
        """As ``auto`` sees it."""
        rule = LocalSgd() if self.rounds else AsyncLocalSgd(momentum=0.0)
        return Candidate(rule, self.every, self.dtype, self.overlap)

    @property
    def lag(self) -> float:
        """As ``auto`` counts it, where messages take no time."""
        each = speeds(self.level)
        return self.candidate.lag(Facts(each, (Link(),) * len(each), 1, self.batch_size, 1))

    @property
    def batch_size(self) -> int:
        """Samples of a step of the fastest worker."""
        each = speeds(self.level)
        return round(self.samples * max(each) / sum(each))

    def case(self, protocol: Protocol, seed: int) -> Case:
        """The run."""
        own = {
            **{f"strategy.{key}": value for key, value in self.candidate.rule.model_dump().items()},
            "allocation.name": "dynamic",
            "exchange.every": self.every,
            "exchange.overlap": self.overlap,
            "exchange.dtype": self.dtype,
            "batch_size": self.batch_size,
            "optimizer.lr": self.rate,
        }
        rule = self.candidate.rule.name
        return Case(rule, self.level, seed, protocol.settings(rule, self.level, own))


def main() -> None:
    """Play, show, and write a record."""
    parser = argparse.ArgumentParser(description="what it costs to learn from old weights, and from few bits")
    parser.add_argument("--data", default="fashion-mnist")
    parser.add_argument("--data-dir", help="where its files are")
    parser.add_argument("--model", default="lenet5")
    parser.add_argument("--levels", nargs="+", default=["HL1", "HL8"])
    parser.add_argument("--waiting", type=int, nargs="*", default=[1, 2, 4, 8, 16], help="local steps a round")
    parser.add_argument("--overlapped", type=int, nargs="*", default=[1, 2, 4], help="likewise")
    parser.add_argument("--asynchronous", type=int, nargs="*", default=[1, 2, 4], help="likewise, without rounds")
    parser.add_argument("--dtypes", nargs="*", default=DTYPES[1:], choices=DTYPES, help="packed")
    parser.add_argument("--targets", type=float, nargs="+", default=[0.86, 0.87, 0.88, 0.89], help="accuracies")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--seeds", type=int, nargs="+", default=[11, 12, 13])
    parser.add_argument("--jobs", type=int, default=4, help="runs at a time")
    parser.add_argument("--out", type=Path, default=record.RECORDS, help="folder of the record")
    options = parser.parse_args()
    load_before = record.load()
    protocol = Protocol(data=options.data, data_dir=options.data_dir, model=options.model, epochs=options.epochs)
    kinds: list[tuple[bool, int, bool, Dtype]] = [
        *((True, every, False, "fp32") for every in sorted({1, *options.waiting})),
        *((True, every, True, "fp32") for every in options.overlapped),
        *((False, every, overlap, "fp32") for every in options.asynchronous for overlap in (False, True)),
        *((True, 1, False, dtype) for dtype in options.dtypes),
    ]
    ways = [Way(level, *steps, *kind) for level, steps, kind in product(options.levels, STEPS, kinds)]
    runs = list(product(ways, options.seeds))
    with players(options.jobs) as player:
        played = player.play([way.case(protocol, seed) for way, seed in runs], lambda case, one: None)
    times = {run: reached(one, options.targets) for run, one in zip(runs, played, strict=True)}
    series: dict[str, record.Series] = {}
    for way in ways:
        series[f"{way.name}: lag"] = record.Series("steps", [way.lag])
        series[f"{way.name}: slowdown"] = record.Series("1", list(slowdowns(way, options.seeds, times)))
    if found := exponents(series):
        series["exponent"] = record.Series("1", found)
    record.show(series)
    settings = {name: value for name, value in vars(options).items() if name not in ("out", "data_dir", "jobs")}
    print(record.write(options.out, "lag", settings, series, load_before))


def reached(played: Played, targets: list[float]) -> list[float]:
    """When each accuracy was reached, seconds; the end of the run for never."""
    found = (crossing_s(played.time_to_accuracy, target) for target in targets)
    return [played.train_seconds if at_s is None else at_s for at_s in found]


def slowdowns(way: Way, seeds: list[int], times: dict[tuple[Way, int], list[float]]) -> Iterator[float]:
    """Seed by seed and accuracy by accuracy."""
    base = way._replace(rounds=True, every=1, overlap=False, dtype="fp32")
    for seed in seeds:
        for own, least in zip(times[way, seed], times[base, seed], strict=True):
            yield own / least


def exponents(series: dict[str, record.Series]) -> list[float]:
    """Of ``slowdown = (1 + lag)^p``, way by way; the median slowdown of each counts."""
    ways = [name.removesuffix(": lag") for name in series if name.endswith(": lag")]
    pairs = ((series[f"{way}: lag"].median, series[f"{way}: slowdown"].median) for way in ways)
    return [float(np.log(slower) / np.log1p(lag)) for lag, slower in pairs if lag]


if __name__ == "__main__":
    main()
