"""What unequal speeds cost under each update rule and allocation: real runs on Ray, one after the other.

Four workers slowed down to 2000, 1000, 500 and 250 samples/s train lenet5 on Fashion-MNIST for three epochs. Recorded
for each run: test accuracy at its end; samples/s of all workers together (3,750 if nobody ever waited); the fraction
of the time that the most waiting worker waited; balance, the longest of the workers' times in the last epoch / their
mean.

    python benchmarks/throughput.py --data-dir DIR
    python benchmarks/throughput.py --data digits --epochs 1 --rules agwu --allocations idpa
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import record

import bptcnn
from bptcnn.config import compose
from bptcnn.outer.allocation import ALLOCATIONS
from bptcnn.outer.rules import RULES

MEASURES = {"test_accuracy": "1", "samples_per_second": "1/s", "waiting": "1", "balance": "1"}


def main() -> None:
    """Run every combination, show, and write a record."""
    options = parse()
    load_before = record.load()
    series: dict[str, record.Series] = {}
    print(f"{'':22}", *(f"{measure:>18}" for measure in MEASURES))
    for rule, allocation in itertools.product(options.rules, options.allocations):
        summaries = [train(options, rule, allocation, seed) for seed in range(options.samples)]
        for measure, unit in MEASURES.items():
            values = [figure(summary, measure) for summary in summaries]
            series[f"{rule}, {allocation}: {measure}"] = record.Series(unit, values)
    settings = {name: value for name, value in vars(options).items() if name not in ("out", "data_dir")}
    print(record.write(options.out, "throughput", settings, series, load_before))


def parse() -> argparse.Namespace:
    """The command line."""
    rules, allocations = list(RULES), list(ALLOCATIONS)
    parser = argparse.ArgumentParser(description="update rules and allocations over unequal workers")
    parser.add_argument("--data", default="fashion-mnist", help="data set")
    parser.add_argument("--data-dir", help="where its files are")
    parser.add_argument("--model", default="lenet5", help="network")
    parser.add_argument("--epochs", type=int, default=3, help="times the data is gone through")
    parser.add_argument("--speeds", type=float, nargs="+", default=[2000.0, 1000.0, 500.0, 250.0], help="samples/s")
    parser.add_argument("--rules", nargs="+", default=rules, choices=rules, help="update rules")
    parser.add_argument("--allocations", nargs="+", default=allocations, choices=allocations, help="of the data")
    parser.add_argument("--samples", type=int, default=1, help="runs of each combination, with seeds 0, 1, ...")
    parser.add_argument("--out", type=Path, default=record.RECORDS, help="folder of the record")
    return parser.parse_args()


def train(options: argparse.Namespace, rule: str, allocation: str, seed: int) -> Mapping[str, Any]:
    """One run, in a folder that is thrown away; its summary."""
    settings = {
        "seed": seed,
        "epochs": options.epochs,
        "data.name": options.data,
        "data.dir": options.data_dir,
        "model.name": options.model,
        "strategy.name": rule,
        "allocation.name": allocation,
        "workers.count": len(options.speeds),
        "workers.speeds": tuple(options.speeds),
    }
    with tempfile.TemporaryDirectory() as folder:
        summary = bptcnn.train(compose(None, settings), out=Path(folder) / "run").summary
    cells = (f"{figure(summary, measure):18.4g}" for measure in MEASURES)
    print(f"{f'{rule}, {allocation}, seed {seed}':22}", *cells, flush=True)
    return summary


def figure(summary: Mapping[str, Any], measure: str) -> float:
    """One measure of a run."""
    return max(summary["waiting_fraction"]) if measure == "waiting" else float(summary[measure])


if __name__ == "__main__":
    main()
