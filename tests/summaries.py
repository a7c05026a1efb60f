"""A run's summary, for tests of what is made from it."""

from __future__ import annotations

from typing import Any


def worker(number: int, **changes: Any) -> dict[str, Any]:
    usual = {
        "worker": number,
        "speed": 1000.0,
        "asked_speed": None,
        "samples": 25_000,
        "pushes": 100,
        "mean_staleness": 3.0,
        "busy_seconds": 25.0,
        "replaced": 0,
        "dismissed": False,
    }
    return {**usual, **changes}


def summary(**changes: Any) -> dict[str, Any]:
    """Four equal workers that hardly waited."""
    usual: dict[str, Any] = {
        "test_accuracy": 0.973,
        "train_seconds": 83.0,
        "setup_seconds": 7.25,
        "samples_per_second": 1204.8,
        "epochs": 10.0,
        "versions": {"python": "3.11.7", "bptcnn": "0.1.0", "torch": "2.13.0", "ray": "2.60.0", "numpy": "2.4.6"},
        "time_to_accuracy": [[10.0, 10_000, 0.9], [83.0, 100_000, 0.973]],
        "waiting_fraction": [0.01, 0.02, 0.03, 0.04],
        "balance": 0.97,
        "bytes_pushed": 4e8,
        "bytes_pulled": 4.1e8,
        "samples": {"issued": 100_000, "committed": 100_000, "returned": 0, "lost": 0, "duplicated": 0},
        "strategy": "agwu",
        "allocation": "uniform",
        "seed": 7,
        "data": "digits",
        "model": "lenet5",
        "engine": "ray",
        "outcome": "finished",
        "reason": "all samples are committed",
        "workers": [worker(number) for number in range(4)],
    }
    return {**usual, **changes}
