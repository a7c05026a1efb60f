"""How much of the workers' speed an exchange leaves them, by simulation: the virtual engine, timing only."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from bptcnn.config import RunConfig
from bptcnn.data.samples import Batch
from bptcnn.engine.job import Job
from bptcnn.engine.observer import Silent
from bptcnn.engine.virtual import FaultPlan, Link, Simulation
from bptcnn.folder import RunFolder

FIRST = 8
"""Exchanges of each worker in the shorter of the two runs that are compared."""

MORE = (4, 24)
"""At least, and at most, so many more in the longer one ..."""

PUSHES = 400
"""... and within that so many of all workers together."""

STEPS = 64
"""Steps that are enough to stand for any longer time between two exchanges."""

FOR_EVER_S = 1e9
"""No checkpoint and no deadline in a run that is only played to be timed."""

_MEMORY = Path("/dev/shm")
_BARE: dict[str, Any] = {
    "epochs": 1,
    "checkpoint": {"every_s": FOR_EVER_S},
    "faults": {"patience_s": FOR_EVER_S, "join_s": FOR_EVER_S},
}


@dataclass(frozen=True)
class Unseen:
    """So many samples that nobody looks at.

    Args:
        size: how many.
    """

    size: int
    shape: tuple[int, int, int] = (1, 1, 1)
    num_classes: int = 1

    def __len__(self) -> int:
        """Number of samples."""
        return self.size

    def batch(self, indices: np.ndarray, epoch: int) -> Batch:
        """Black images of one class.

        Args:
            indices: int64 [n].
            epoch: of no consequence.
        """
        return Batch(torch.zeros(len(indices), *self.shape), torch.zeros(len(indices), dtype=torch.int64))


class Weights(nn.Module):
    """A network that only weighs something: its weights take no memory.

    Args:
        num_weights: how many it has.
    """

    def __init__(self, num_weights: int) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.empty(num_weights, device="meta"))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """The same answer whatever the image."""
        return images.new_zeros(len(images), 1)


def throughput(config: RunConfig, num_weights: int, link: Link, span: float, handling_s: float = 0.0) -> float:
    """The samples per second that a run of this configuration trains, once it is under way.

    Maths: ``(n_2 - n_1) / (t_2 - t_1)`` over two runs that differ only in length, so that what begins and ends a run
    cancels out. Where exchanges are rare, several samples are played as one, by workers that are so much slower.

    Args:
        config: rule, exchange, and the workers' speeds, samples/s.
        num_weights: length of the vectors that are exchanged.
        link: of each worker.
        span: samples that all workers together train between two exchanges.
        handling_s: how long the server is busy with one exchange.

    Returns:
        Samples/s.

    Raises:
        KeyboardInterrupt: the user pressed Ctrl-C.

    Example:
        >>> config = RunConfig(strategy="local-sgd", allocation="dynamic", workers={"count": 2, "speeds": (300, 100)})
        >>> round(throughput(config, 1000, Link(), span=4 * 32 * 400 / 300))
        400
    """
    every = config.exchange.every
    assert every != "epoch"
    scale = max(1.0, every / STEPS)
    workers = {"count": config.workers.count, "speeds": [speed / scale for speed in config.workers.speeds]}
    exchange = config.exchange.model_copy(update={"every": min(every, STEPS)})
    kept = {name: getattr(config, name) for name in ("seed", "batch_size", "allocation", "strategy")}
    config = RunConfig(**_BARE, **kept, workers=workers, exchange=exchange)
    size = max(1, round(span / scale))
    more = min(max(MORE[0], PUSHES // config.workers.count), MORE[1])
    short_s, long_s = (_seconds(config, num_weights, link, size * count, handling_s) for count in (FIRST, FIRST + more))
    return scale * size * more / (long_s - short_s)


def _seconds(config: RunConfig, num_weights: int, link: Link, num_samples: int, handling_s: float) -> float:
    """How long a run lasts, virtual seconds."""
    job = Job(config, partial(Weights, num_weights), Unseen(num_samples), Unseen(1), None)
    # In memory where there is a place for files: on a disk, making and deleting them would take most of the time.
    place = _MEMORY if os.access(_MEMORY, os.W_OK) else None
    with (
        tempfile.TemporaryDirectory(dir=place) as parent,
        RunFolder.create(f"{parent}/run", config.to_toml()) as folder,
    ):
        simulation = Simulation(job, folder, Silent(), link, FaultPlan(), timing_only=True, handling_s=handling_s)
        summary = simulation.run().summary
    if summary["outcome"] == "interrupted":
        raise KeyboardInterrupt
    return float(summary["train_seconds"])
