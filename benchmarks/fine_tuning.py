"""What fine-tuning brings where there are few samples, and what frozen layers save.

A network is trained on Fashion-MNIST; then one on a few handwritten digits: from scratch, from those weights, and from
those weights with the first layers frozen. All are simulated runs, which repeat to the bit: 10 epochs in batches of 16
on two workers of unequal speed. Recorded: test accuracy at the end, bytes of a push, and the time of one worker's
compiled step, in turns, with all layers trained and with the first ones frozen.

    python benchmarks/fine_tuning.py --data-dir DIR --digits-dir DIR
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import record
import torch
from torch.nn import functional

import bptcnn
from bptcnn.config import compose
from bptcnn.inner.compiled import Compiled
from bptcnn.inner.lanes import Lanes
from bptcnn.inner.layout import host_vectors
from bptcnn.models import FlatModel, ModelConfig, build, freeze

FROZEN = {"resnet8": ("0.*", "1.0.*"), "lenet5": ("0.*",)}
"""The first layers: of resnet8 three convolutions of seven, of lenet5 both."""

DIGITS: Mapping[str, Mapping[str, Any]] = {"resnet8": {}, "lenet5": {"data.pad": 6, "data.crop": 28}}
"""The network's images are as large as those that it was trained on, unless their size does not matter to it."""

SHAPE, BATCH, STEPS = (1, 28, 28), 64, 50


def main() -> None:
    """Train, fine-tune, time, show, and write a record."""
    options = parse()
    torch.set_num_threads(1)
    load_before = record.load()
    series: dict[str, record.Series] = {}
    with tempfile.TemporaryDirectory() as folder:
        for model, frozen in FROZEN.items():
            first = Path(folder) / model
            summary = pretrain(options, model, first)
            series[f"{model}, Fashion-MNIST: accuracy"] = record.Series("1", [summary["test_accuracy"]])
            ways = {
                "from scratch": {},
                "tuned": {"model.init": str(first)},
                "tuned, frozen": {"model.init": str(first), "model.freeze": frozen},
            }
            for limit in options.limits:
                for way, settings in ways.items():
                    runs = [tune(options, model, limit, seed, settings) for seed in range(options.samples)]
                    name = f"{model}, {limit} digits, {way}"
                    series[f"{name}: accuracy"] = record.Series("1", [run["test_accuracy"] for run in runs])
                    series[f"{name}: push"] = record.Series("bytes", [bytes_of_a_push(run) for run in runs])
    for model in FROZEN:
        series |= step_times(model)
    record.show(series)
    settings = {name: value for name, value in vars(options).items() if not name.endswith(("out", "dir"))}
    print(record.write(options.out, "fine-tuning", settings, series, load_before))


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="fine-tuning with few samples")
    parser.add_argument("--data-dir", help="where Fashion-MNIST is")
    parser.add_argument("--digits-dir", help="where digits are, in four files named as MNIST's; else MNIST itself")
    parser.add_argument("--digits", default="USPS, 16x16", help="what these are, for the record")
    parser.add_argument("--limits", type=int, nargs="+", default=[200, 500], help="samples to tune on")
    parser.add_argument("--samples", type=int, default=5, help="runs of each kind, with seeds 0, 1, ...")
    parser.add_argument("--out", type=Path, default=record.RECORDS, help="folder of the record")
    return parser.parse_args()


def pretrain(options: argparse.Namespace, model: str, out: Path) -> Mapping[str, Any]:
    """Four epochs over the first 20,000 images of Fashion-MNIST on four unequal workers."""
    settings = {
        "data.name": "fashion-mnist",
        "data.dir": options.data_dir,
        "data.limit": 20_000,
        "model.name": model,
        "epochs": 4,
        "workers.count": 4,
        "workers.speeds": (2000.0, 1000.0, 500.0, 250.0),
        "evaluation.every": 4,
    }
    return bptcnn.simulate(compose(None, settings), out=out).summary


def tune(options: argparse.Namespace, model: str, limit: int, seed: int, more: Mapping[str, Any]) -> Mapping[str, Any]:
    """Train on a few digits; the summary."""
    settings = {
        "seed": seed,
        "data.name": "mnist",
        "data.dir": options.digits_dir,
        "data.limit": limit,
        "model.name": model,
        "epochs": 10,
        "batch_size": 16,
        "optimizer.lr": 0.05,
        "workers.count": 2,
        "workers.speeds": (1000.0, 500.0),
        "evaluation.every": 10,
        **DIGITS[model],
        **more,
    }
    with tempfile.TemporaryDirectory() as folder:
        return bptcnn.simulate(compose(None, settings), out=Path(folder) / "run").summary


def bytes_of_a_push(summary: Mapping[str, Any]) -> float:
    """What one push carries."""
    return float(summary["bytes_pushed"] / sum(worker["pushes"] for worker in summary["workers"]))


def step_times(model: str) -> dict[str, record.Series]:
    """Milliseconds of a compiled step on two lanes, all layers trained and the first ones frozen in turns."""
    images, labels = torch.randn(BATCH, *SHAPE), torch.arange(BATCH) % 10
    steps = {}
    for way, patterns in (("all train", ()), ("first frozen", FROZEN[model])):
        network = build(ModelConfig(name=model), SHAPE, 10, seed=0)
        freeze(network, patterns)
        FlatModel(network).train()
        steps[way] = Compiled(network, SHAPE, BATCH, Lanes(2), host_vectors("fp32", BATCH))
    times: dict[str, list[float]] = defaultdict(list)
    for number in range(STEPS + 3):
        for way, step in steps.items():
            began_s = time.perf_counter()
            step(images, labels, functional.cross_entropy)
            if number >= 3:  # memory is touched for the first time before
                times[f"{model}, step of {BATCH}, {way}"].append(1e3 * (time.perf_counter() - began_s))
    return {name: record.Series("ms", samples) for name, samples in times.items()}


if __name__ == "__main__":
    main()
