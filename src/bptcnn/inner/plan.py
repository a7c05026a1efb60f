"""Which way of computing a step is the fastest here: measured once, remembered for this machine, network and batch."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from statistics import median
from typing import Protocol

import torch
from torch import nn

from bptcnn.errors import UnsupportedError
from bptcnn.inner import cache
from bptcnn.inner.compiled import Compiled, host_vectors
from bptcnn.inner.cuda import Graphed
from bptcnn.inner.eager import Eager, Loss, Precision
from bptcnn.inner.lanes import Lanes
from bptcnn.inner.machine.devices import device_of
from bptcnn.inner.machine.hardware import fingerprint

BUDGET_S = 3.0
"""Seconds of measuring after one step each; a candidate that does not get its turn is not chosen."""


class Gradients(Protocol):
    """A way of computing a step: leaves the gradients in the parameters' ``grad``."""

    def __call__(self, images: torch.Tensor, labels: torch.Tensor, loss: Loss) -> tuple[torch.Tensor, torch.Tensor]:
        """The loss and the scores of a batch."""
        ...


@dataclass(frozen=True, slots=True)
class Row:
    """A candidate: its name, its measured samples/s (0 where there are none), and what is to be said of it."""

    name: str
    samples_per_s: float
    note: str = ""


@dataclass(frozen=True, slots=True)
class Plan:
    """The candidates, and which one is used."""

    winner: str
    rows: tuple[Row, ...]

    @property
    def reason(self) -> str:
        """Why the winner won, in one sentence."""
        speeds = {row.name: row.samples_per_s for row in self.rows if row.samples_per_s}
        others = {name: speed for name, speed in speeds.items() if name != self.winner}
        if not others:
            return f"{self.winner} is the only one that was measured"
        second = max(others, key=lambda name: others[name])
        return f"{self.winner} is {speeds[self.winner] / others[second]:.2f} times as fast as {second}"


def candidates(
    module: nn.Module, batch: tuple[torch.Tensor, torch.Tensor], loss: Loss, precision: Precision, lanes: Lanes
) -> dict[str, Callable[[], Gradients]]:
    """Ways of computing a step where the network is, the most promising first.

    Args:
        module: the network.
        batch: an example: images and labels.
        loss: of scores and labels.
        precision: of the arithmetic.
        lanes: for the compiled one.

    Returns:
        How each is made, by its name.
    """
    images = batch[0]

    def compiled() -> Gradients:
        if images.ndim != 4 or images.dtype != torch.float32:
            raise UnsupportedError("its input is no batch of float32 images")
        channels, rows, columns = images.shape[1:]
        return Compiled(module, (channels, rows, columns), len(images), lanes, host_vectors(precision, len(images)))

    def graph() -> Gradients:
        return Graphed(module, batch, loss, precision)

    best = {"cuda graph": graph} if device_of(module).type == "cuda" else {"compiled": compiled}
    return {
        **best,
        "pytorch, channels last": lambda: Eager(module, precision, channels_last=True),
        "pytorch": lambda: Eager(module, precision),
    }


def plan(
    module: nn.Module,
    batch: tuple[torch.Tensor, torch.Tensor],
    loss: Loss,
    ways: Mapping[str, Callable[[], Gradients]],
    *,
    budget_s: float | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> tuple[Plan, Gradients]:
    """Measure candidates in turns; the module's statistics and the random state are as before.

    Args:
        module: the network.
        batch: an example: images and labels.
        loss: of scores and labels.
        ways: the candidates.
        budget_s: for all of them; None for the usual.
        clock: returns seconds.

    Returns:
        The plan, and the winner.

    Raises:
        Exception: whatever the last candidate raised, if none works.
    """
    budget_s = BUDGET_S if budget_s is None else budget_s
    made: dict[str, Gradients] = {}
    notes: dict[str, str] = {}
    for name, make in ways.items():
        try:
            made[name] = make()
        except UnsupportedError as error:
            notes[name] = str(error)
    seconds: dict[str, list[float]] = {name: [] for name in made}
    buffers = [(buffer, buffer.clone()) for buffer in module.buffers()]
    device = device_of(module)
    with _forked(device):
        for way in made.values():  # the first step touches memory for the first time and is no measure of those after
            way(*batch, loss)
        _finish(device)
        started_s = clock()
        while clock() - started_s < budget_s:
            for name, way in made.items():
                before_s = clock()
                if before_s - started_s < budget_s:
                    way(*batch, loss)
                    _finish(device)
                    seconds[name].append(clock() - before_s)
    for buffer, before in buffers:
        buffer.copy_(before)
    size = len(batch[0])
    speeds = {name: size / median(times) for name, times in seconds.items() if times}
    rows = tuple(Row(name, round(speeds.get(name, 0.0), 1), notes.get(name, "")) for name in ways)
    winner = max(speeds, key=lambda name: speeds[name])
    return Plan(winner, rows), made[winner]


def _forked(device: torch.device) -> AbstractContextManager[None]:
    """Give back the random state, the GPU's too."""
    return torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])


def _finish(device: torch.device) -> None:
    """Wait for what was only handed to a GPU so far."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def remembered(
    module: nn.Module,
    batch: tuple[torch.Tensor, torch.Tensor],
    loss: Loss,
    precision: Precision,
    lanes: Lanes,
    *,
    again: bool = False,
) -> tuple[Plan, Gradients]:
    """The plan of an earlier run on this machine for an equal network and batch; made and remembered if there is none.

    Args:
        module: the network.
        batch: an example: images and labels.
        loss: of scores and labels.
        precision: of the arithmetic.
        lanes: for the compiled candidate.
        again: measure even if there is one.

    Returns:
        The plan, and the winner.
    """
    ways, device = candidates(module, batch, loss, precision, lanes), device_of(module)
    gpu = (torch.cuda.get_device_name(device),) if device.type == "cuda" else ()
    threads = torch.get_num_threads()
    parts = fingerprint(), *gpu, str(module), tuple(batch[0].shape), precision, lanes.num_lanes, threads
    known = None if again else cache.load(*parts)
    if known is not None and known.get("winner") in ways:
        try:
            rows = tuple(Row(**row) for row in known["rows"])
            return Plan(known["winner"], rows), ways[known["winner"]]()
        except (KeyError, TypeError, UnsupportedError):
            pass  # written by another version, or no longer true
    made, winner = plan(module, batch, loss, ways)
    cache.save(asdict(made), *parts)
    return made, winner
