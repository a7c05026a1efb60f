"""What packed vectors cost and save on the wire: speed of packing, then bytes, time and accuracy of whole runs.

Packing and unpacking of one vector on one core, in turns with a copy of the same vector; GB/s of float32.

Runs are simulated: lenet5 on Fashion-MNIST, four workers at 480, 480, 320 and 2,560 samples/s (heterogeneity level HL8
of ``bptcnn bench rules``), real arithmetic on a virtual clock, links of 100 Mbit/s. Recorded for each rule and dtype,
one sample a seed: test accuracy after the last epoch, megabytes pushed and pulled by all, virtual seconds.

    python benchmarks/wire.py --data-dir DIR
    python benchmarks/wire.py --data digits --epochs 1 --rules agwu
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, get_args

import numpy as np
import record

import bptcnn
from bptcnn.config import compose
from bptcnn.outer.rules import RULES
from bptcnn.wire import Dtype, decode, encode

WARM_UP = 5
DTYPES: tuple[Dtype, ...] = get_args(Dtype)
SPEEDS = (480.0, 480.0, 320.0, 2560.0)
MEASURES = (
    ("test_accuracy", "1", 1.0),
    ("bytes_pushed", "MB", 1e6),
    ("bytes_pulled", "MB", 1e6),
    ("train_seconds", "s", 1.0),
)


def main() -> None:
    """Measure, show, and write a record."""
    options = parse()
    load_before = record.load()
    series = packing(options.weights, options.samples)
    for rule, dtype in itertools.product(options.rules, DTYPES):
        summaries = [run(options, rule, dtype, seed) for seed in options.seeds]
        for name, unit, scale in MEASURES:
            values = [summary[name] / scale for summary in summaries]
            series[f"{rule}, {dtype}: {name}"] = record.Series(unit, values)
    record.show(series)
    settings = {name: value for name, value in vars(options).items() if name not in ("out", "data_dir")}
    print(record.write(options.out, "wire", settings | {"warm_up": WARM_UP}, series, load_before))


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="weights in fewer bytes")
    parser.add_argument("--weights", type=int, default=2_500_000, help="length of the vector that is packed")
    parser.add_argument("--samples", type=int, default=100, help="times that it is")
    parser.add_argument("--data", default="fashion-mnist", help="data set")
    parser.add_argument("--data-dir", help="where its files are")
    parser.add_argument("--model", default="lenet5", help="network")
    parser.add_argument("--epochs", type=int, default=3, help="times the data is gone through")
    parser.add_argument("--link", default="100Mbit", help="between each worker and the server")
    parser.add_argument("--rules", nargs="*", default=["local-sgd", "easgd"], choices=list(RULES), help="update rules")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3], help="one run each")
    parser.add_argument("--out", type=Path, default=record.RECORDS, help="folder of the record")
    return parser.parse_args()


def packing(num_weights: int, num_samples: int) -> dict[str, record.Series]:
    """Pack, unpack and copy in turns.

    Args:
        num_weights: length of the vector.
        num_samples: how often, after the warm-up.

    Returns:
        Bandwidths.
    """
    vector = np.random.default_rng(0).standard_normal(num_weights).astype(np.float32)
    packed = {dtype: encode(vector, dtype) for dtype in DTYPES if dtype != "fp32"}
    tasks: dict[str, Callable[[], object]] = {"copy": vector.copy}
    for dtype, wire in packed.items():
        tasks[f"pack {dtype}"] = lambda dtype=dtype: encode(vector, dtype)
        tasks[f"unpack {dtype}"] = lambda wire=wire: decode(wire)
    rates: dict[str, list[float]] = {name: [] for name in tasks}
    for _ in range(WARM_UP + num_samples):
        for name, task in tasks.items():
            began_s = time.perf_counter()
            task()
            rates[name].append(vector.nbytes / 1e9 / (time.perf_counter() - began_s))
    return {name: record.Series("GB/s", samples[WARM_UP:]) for name, samples in rates.items()}


def run(options: argparse.Namespace, rule: str, dtype: Dtype, seed: int) -> Mapping[str, Any]:
    """One run, in a folder that is thrown away; its summary."""
    settings = {
        "seed": seed,
        "epochs": options.epochs,
        "batch_size": 8,
        "data.name": options.data,
        "data.dir": options.data_dir,
        "model.name": options.model,
        "optimizer.lr": 0.01,
        "schedule.kind": "linear",
        "strategy.name": rule,
        "allocation.name": "dynamic",
        "exchange.every": 4,
        "exchange.dtype": dtype,
        "workers.count": len(SPEEDS),
        "workers.speeds": SPEEDS,
    }
    with tempfile.TemporaryDirectory() as folder:
        summary = bptcnn.simulate(compose(None, settings), out=Path(folder) / "run", link=options.link).summary
    print(f"{rule}, {dtype}, seed {seed}: {summary['test_accuracy']:.4f}", flush=True)
    return summary


if __name__ == "__main__":
    main()
