"""``summary.json``: what a run came to."""

from __future__ import annotations

import platform
from dataclasses import asdict
from functools import cache
from importlib.metadata import version
from typing import Any, Literal

from bptcnn.config import RunConfig
from bptcnn.outer.coordinator import Coordinator
from bptcnn.outer.members import Member
from bptcnn.outer.tally import balance


def summarize(
    config: RunConfig, coordinator: Coordinator, now: float, *, engine: Literal["ray", "virtual"]
) -> dict[str, Any]:
    """Add a run up.

    Args:
        config: its recipe.
        coordinator: its state.
        now: the run's clock, seconds.
        engine: what drove it.

    Returns:
        The summary, ready for JSON, except for what only the engine knows.
    """
    tally, ledger = coordinator.tally, coordinator.supply.ledger
    members = [member for _, member in sorted(coordinator.members.items())]
    train_s = tally.elapsed_s(now)
    last = tally.busy[max(tally.busy)] if tally.busy else {}
    taking_part = sum(not member.record.dismissed for member in members)
    history = sorted(tally.history, key=lambda point: point[1])
    return {
        "outcome": coordinator.outcome,
        "reason": coordinator.reason,
        "engine": engine,
        "data": config.data.name,
        "model": config.model.name,
        "strategy": config.strategy.name,
        "allocation": config.allocation.name,
        "seed": config.seed,
        "epochs": ledger.committed / coordinator.setup.plan.num_samples,
        "test_accuracy": history[-1][2] if history else None,
        "train_seconds": train_s,
        "samples_per_second": ledger.committed / train_s if train_s > 0 else 0.0,
        "time_to_accuracy": [list(point) for point in history],
        "waiting_fraction": [max(0.0, 1 - m.record.busy_s / train_s) if train_s > 0 else 0.0 for m in members],
        "balance": balance(last, max(1, taking_part)),
        "bytes_pushed": tally.bytes_pushed,
        "bytes_pulled": tally.bytes_pulled,
        "samples": asdict(ledger.account()),
        "samples_total": coordinator.setup.plan.total,
        "workers": [_worker(member, config) for member in members],
        "versions": versions(),
    }


def versions() -> dict[str, str]:
    """What the figures were made with."""
    packages = ("bptcnn", "torch", "ray", "numpy")
    return {"python": platform.python_version(), **{name: _version(name) for name in packages}}


_version = cache(version)  # reads a file of the installed package


def _worker(member: Member, config: RunConfig) -> dict[str, Any]:
    record, asked = member.record, config.workers.speeds
    return {
        "worker": member.worker,
        "speed": record.samples / record.busy_s if record.busy_s else 0.0,
        "asked_speed": asked[member.worker] if member.worker < len(asked) else None,
        "samples": record.samples,
        "steps": record.steps,
        "pushes": record.pushes,
        "mean_staleness": record.staleness / record.pushes if record.pushes else 0.0,
        "busy_seconds": record.busy_s,
        "replaced": record.replaced,
        "dismissed": record.dismissed,
    }
