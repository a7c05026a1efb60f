"""GoSGD against EASGD at one rate of exchange: training loss against images and against time, as in the GoSGD paper.

Eight equal workers train ``easgd-cifar`` on CIFAR-10 in batches of 128; gossip sends with probability p = 0.02 after a
step, elastic averaging meets the centre every 1 / p = 50 steps. Both run in the virtual engine, with real arithmetic,
on the same links. The loss is what workers report of each lease they trained, so it is that of their own weights.

    python benchmarks/gossip.py --data-dir DIR --epochs 10 --seeds 1,2,3
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from html import escape
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any

import record
import torch

from bptcnn import telemetry
from bptcnn.api import simulate
from bptcnn.config import compose
from bptcnn.engine.summary import versions

P = 0.02
NUM_WORKERS = 8
SPEED = 480.0
"""Samples/s of each worker."""

RULES: Mapping[str, Mapping[str, Any]] = {
    "gosgd": {"strategy.name": "gosgd", "strategy.p": P},
    "easgd": {"strategy.name": "easgd", "exchange.every": round(1 / P)},
    "easgd, in step": {"strategy.name": "easgd", "exchange.every": round(1 / P), "exchange.overlap": False},
}
"""Contenders; the last one waits for the centre at each exchange, as the GoSGD paper has it."""

COLOURS = ("#0969da", "#bc4c00", "#1a7f37")
WIDTH, HEIGHT, LEFT, TOP = 430, 320, 56, 36  # pixels of a panel and its margins

Curve = list[tuple[float, float, float]]
"""Images seen, seconds, and mean loss since the point before."""


def settings(rule: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """A run's recipe, by dotted key."""
    return {
        "data.name": "cifar-10",
        "data.dir": options.data_dir,
        "model.name": "easgd-cifar",
        "precision": "bf16",
        "epochs": options.epochs,
        "batch_size": 128,
        "optimizer.lr": options.lr,
        "optimizer.momentum": options.momentum,
        "optimizer.weight_decay": 1e-4,
        "schedule.kind": "constant",
        "workers.count": NUM_WORKERS,
        "workers.speeds": (SPEED,) * NUM_WORKERS,
        "allocation.name": "dynamic",
        "evaluation.every": 1.0,
        "checkpoint.every_s": 1e9,
        "seed": seed,
        **RULES[rule],
    }


def play(recipe: Mapping[str, Any], link: str) -> tuple[Curve, float]:
    """Run it; its curve and its final test accuracy."""
    torch.set_num_threads(1)
    config = compose(None, recipe)
    with tempfile.TemporaryDirectory() as folder:
        run = simulate(config, out=f"{folder}/run", link=link)
        pushes = [entry for entry in telemetry.read(run.path / "events.jsonl") if entry["event"] == "pushed"]
    stride = run.summary["samples_total"] / config.epochs / 4
    return list(curve(pushes, stride)), run.summary["test_accuracy"]


def curve(pushes: Sequence[Mapping[str, Any]], stride: float) -> Iterator[tuple[float, float, float]]:
    """The mean loss of each stretch of so many images."""
    images = seen = 0
    loss = 0.0
    for push in pushes:
        images, seen = images + push["samples"], seen + push["samples"]
        loss += push["loss"] * push["samples"]
        if seen >= stride:
            yield images, push["t"], loss / seen
            seen, loss = 0, 0.0


def middle(curves: Sequence[Curve]) -> Curve:
    """The median over seeds, point by point."""
    return [
        (median(p[0] for p in at), median(p[1] for p in at), median(p[2] for p in at))
        for at in zip(*curves, strict=False)
    ]


def drawn(curves: Mapping[str, Curve]) -> str:
    """Two panels: against images, and against time."""
    highest = max(loss for points in curves.values() for _, _, loss in points)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {2 * WIDTH} {HEIGHT}" width="{2 * WIDTH}"'
        f' height="{HEIGHT}" font-family="system-ui, sans-serif" font-size="11" fill="#1f2933">',
        f'<rect width="{2 * WIDTH}" height="{HEIGHT}" fill="#ffffff"/>',
    ]
    for panel, title in enumerate(("images seen", "seconds")):
        last = max(points[-1][panel] for points in curves.values())
        left, right, bottom = panel * WIDTH + LEFT, (panel + 1) * WIDTH - 14, HEIGHT - 40
        parts.append(f'<text x="{left}" y="20" font-weight="600">training loss against {title}</text>')
        for tick in range(6):
            y, x = bottom - (bottom - TOP) * tick / 5, left + (right - left) * tick / 5
            parts.append(f'<line x1="{left}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}" stroke="#e4e7eb"/>')
            parts.append(f'<text x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">{highest * tick / 5:.2f}</text>')
            parts.append(f'<text x="{x:.1f}" y="{bottom + 16}" text-anchor="middle">{last * tick / 5:,.0f}</text>')
        for (name, points), colour in zip(curves.items(), COLOURS, strict=False):
            line = " ".join(
                f"{left + (right - left) * point[panel] / last:.1f},{bottom - (bottom - TOP) * point[2] / highest:.1f}"
                for point in points
            )
            parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="1.8"/>')
            y = TOP + 12 + 16 * list(curves).index(name)
            parts.append(f'<text x="{right - 8}" y="{y}" text-anchor="end" fill="{colour}">{escape(name)}</text>')
    return "\n".join([*parts, "</svg>", ""])


def main() -> None:
    """Play all runs, write the record and the figure."""
    parser = argparse.ArgumentParser(description="GoSGD against EASGD on CIFAR-10")
    parser.add_argument("--data-dir", default=None, help="folder of CIFAR-10")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--seeds", default="1,2,3")
    parser.add_argument("--lr", type=float, default=0.01, help="learning rate, constant")
    parser.add_argument("--momentum", type=float, default=0.9)
    parser.add_argument("--link", default="100Mbit")
    parser.add_argument("--jobs", type=int, default=4)
    parser.add_argument("--out", type=Path, default=record.RECORDS)
    options = parser.parse_args()
    seeds = [int(seed) for seed in options.seeds.split(",")]
    cases = [(rule, seed) for rule in RULES for seed in seeds]
    with ProcessPoolExecutor(options.jobs, mp_context=get_context("spawn")) as pool:
        runs = [pool.submit(play, settings(rule, seed, options), options.link) for rule, seed in cases]
        played = {case: run.result() for case, run in zip(cases, runs, strict=True)}
    curves = {rule: middle([played[rule, seed][0] for seed in seeds]) for rule in RULES}
    for rule, points in curves.items():
        accuracy = median(played[rule, seed][1] for seed in seeds)
        print(f"{rule:16} loss {points[-1][2]:.4f} after {points[-1][1]:7.1f} s, test accuracy {accuracy:.4f}")
    shared = {key: value for key, value in settings("gosgd", 0, options).items() if key not in ("data.dir", "seed")}
    rows = [
        {"rule": rule, "seed": seed, "curve": points, "test_accuracy": accuracy}
        for (rule, seed), (points, accuracy) in played.items()
    ]
    content = {"settings": {**shared, "link": options.link}, "versions": versions(), "contenders": RULES, "runs": rows}
    path = record.file(options.out, "gossip", content)
    path.with_suffix(".svg").write_text(drawn(curves))
    print(path)


if __name__ == "__main__":
    main()
