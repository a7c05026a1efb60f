"""How close a merge comes to the memory's bandwidth.

A merge ``w' = w + scale d`` reads two vectors and writes a third: 12 bytes a weight. The copy it is compared with reads
one and writes one: 8 bytes a weight, between two buffers that are in memory already. Both run in turns in one process,
on one thread.

Timed: ``bptcnn.outer.rules.combine`` with the room it makes for its result; the weights before are let go, as on a
server.
Not timed: how the difference came into this process's memory.

    python benchmarks/merge.py --samples 200
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import record
import torch

from bptcnn.outer.messages import Vector
from bptcnn.outer.rules import combine

WARM_UP = 10
SCALE = 0.25


def main() -> None:
    """Measure, show, and write a record."""
    parser = argparse.ArgumentParser(description="merge against memory copy")
    parser.add_argument("--samples", type=int, default=200, help="pairs of merge and copy for each size")
    parser.add_argument("--weights", type=int, nargs="+", default=[2_500_000, 11_000_000], help="sizes of the vector")
    parser.add_argument("--out", type=Path, default=record.RECORDS, help="folder of the record")
    options = parser.parse_args()
    load_before = record.load()
    torch.set_num_threads(1)
    series: dict[str, record.Series] = {}
    for num_weights in options.weights:
        series |= measure(num_weights, options.samples)
    record.show(series)
    settings = {"weights": options.weights, "samples": options.samples, "warm_up": WARM_UP, "threads": 1}
    print(record.write(options.out, "merge", settings, series, load_before))


def measure(num_weights: int, num_samples: int) -> dict[str, record.Series]:
    """Merge and copy in turns.

    Args:
        num_weights: length of the vectors.
        num_samples: pairs to keep, after the warm-up.

    Returns:
        Bandwidth of both in GB/s, and merge / copy of each pair.
    """
    random = np.random.default_rng(0)
    weights, delta, source = (random.random(num_weights, np.float32) for _ in range(3))
    target = source.copy()
    merges, copies = [], []
    for _ in range(WARM_UP + num_samples):
        weights, merge_s = timed_merge(weights, delta)
        merges.append(12e-9 * num_weights / merge_s)
        copies.append(8e-9 * num_weights / timed_copy(target, source))
    merges, copies = merges[WARM_UP:], copies[WARM_UP:]
    ratios = [merge / copy for merge, copy in zip(merges, copies, strict=True)]
    size = f"{num_weights:,} weights"
    return {
        f"merge, {size}": record.Series("GB/s", merges),
        f"copy, {size}": record.Series("GB/s", copies),
        f"merge / copy, {size}": record.Series("1", ratios, ">= 0.6"),
    }


def timed_merge(weights: Vector, delta: Vector) -> tuple[Vector, float]:
    """One merge, and the seconds it took."""
    began_s = time.perf_counter()
    merged = combine(weights, [SCALE], [delta])
    return merged, time.perf_counter() - began_s


def timed_copy(target: Vector, source: Vector) -> float:
    """Seconds of one copy."""
    began_s = time.perf_counter()
    np.copyto(target, source)
    return time.perf_counter() - began_s


if __name__ == "__main__":
    main()
