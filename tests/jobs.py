"""Small jobs for tests of the inner layer and the engines: data sets made up on the spot and networks that fit them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from bptcnn import checkpoint
from bptcnn.api import Run
from bptcnn.config import RunConfig
from bptcnn.data.samples import Batch
from bptcnn.outer.status import Status

torch.set_num_threads(1)  # networks this small only lose by more

RULES = ("agwu", "sgwu")
ALLOCATIONS = ("uniform", "idpa", "dynamic")
PAIRS = [(rule, allocation) for rule in RULES for allocation in ALLOCATIONS]
PAPER_SPEEDS = (2000.0, 1000.0, 500.0, 250.0)


@dataclass(frozen=True)
class Blank:
    """So many black images of one class: enough where only time is simulated."""

    size: int
    shape: tuple[int, int, int] = (1, 1, 1)
    num_classes: int = 2

    def __len__(self) -> int:
        return self.size

    def batch(self, indices: np.ndarray, epoch: int) -> Batch:
        return Batch(torch.zeros(len(indices), *self.shape), torch.zeros(len(indices), dtype=torch.int64))


@dataclass(frozen=True)
class Clouds:
    """Points around one centre a class, as images of 1x1 pixel and several channels; ``asked`` has every batch."""

    images: torch.Tensor
    labels: torch.Tensor
    num_classes: int
    asked: list[np.ndarray] = field(default_factory=list)

    @classmethod
    def draw(cls, size: int, *, num_classes: int = 3, channels: int = 4, seed: int = 0) -> Clouds:
        centres = np.random.default_rng(11).standard_normal((num_classes, channels)) * 2
        rng = np.random.default_rng(seed)
        labels = rng.integers(num_classes, size=size)
        points = centres[labels] + rng.standard_normal((size, channels))
        images = torch.tensor(points, dtype=torch.float32)[:, :, None, None]
        return cls(images, torch.tensor(labels), num_classes)

    @property
    def shape(self) -> tuple[int, int, int]:
        return (self.images.shape[1], 1, 1)

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, indices: np.ndarray, epoch: int) -> Batch:
        self.asked.append(indices)
        return Batch(self.images[indices], self.labels[indices])


def linear(input_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
    """The smallest network: softmax regression."""
    return nn.Sequential(nn.Flatten(), nn.Linear(int(np.prod(input_shape)), num_classes))


def normed(input_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
    """A network with statistics of its own, and with chance in it."""
    channels = input_shape[0]
    return nn.Sequential(
        nn.BatchNorm2d(channels),
        nn.Flatten(),
        nn.Linear(channels, 8),
        nn.ReLU(),
        nn.Dropout(0.2),
        nn.Linear(8, num_classes),
    )


def a_config(
    rule: str = "agwu", allocation: str = "idpa", speeds: tuple[float, ...] = PAPER_SPEEDS, **more: Any
) -> RunConfig:
    """A run on workers of these speeds; ``faults`` as for impatient people."""
    usual = {
        "strategy": rule,
        "allocation": allocation,
        "workers": {"count": len(speeds), "speeds": speeds},
        "epochs": 2,
        "batch_size": 10,
        "exchange": {"every": 2},
    }
    return RunConfig(**{**usual, **more})


class Watcher:
    """An observer that remembers what it was told and in which order; ``act`` is called with every status."""

    def __init__(self, act: Any = None) -> None:
        self.statuses: list[Status] = []
        self.notices: list[str] = []
        self.noticed_after: list[int] = []
        self._act = act

    def status(self, status: Status) -> None:
        self.statuses.append(status)
        if self._act is not None:
            self._act(status)

    def notice(self, text: str) -> None:
        self.notices.append(text)
        self.noticed_after.append(len(self.statuses))


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def last_state(run: Run) -> dict[str, np.ndarray]:
    """The global weights and their average, as the newest checkpoint has them."""
    newest = checkpoint.newest(run.path / "checkpoints")
    assert newest is not None
    model = checkpoint.load(newest)["model"]
    return {"weights": model["weights"], "average": model["average"]["weights"]}
