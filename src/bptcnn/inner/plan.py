"""Which way of computing a step is the fastest here: measured once, remembered for this machine, network and batch."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from functools import partial
from typing import Protocol

import torch
from torch import nn

from bptcnn.errors import UnsupportedError
from bptcnn.inner import cache
from bptcnn.inner.compiled import Compiled
from bptcnn.inner.cuda import Graphed
from bptcnn.inner.eager import Eager, Loss, Precision
from bptcnn.inner.graph.reader import graph
from bptcnn.inner.kernels import store
from bptcnn.inner.kernels.shape import Plane
from bptcnn.inner.lanes import Lanes
from bptcnn.inner.layout import vectors_for
from bptcnn.inner.machine.devices import device_of
from bptcnn.inner.machine.hardware import fingerprint
from bptcnn.inner.machine.memory import give_memory_back

PART, NEAR = 4, 1.2
"""Candidates are tried on a part of the batch first, and on the whole if so many times their speed would win."""

SMALL = 1 << 16
"""Numbers of a part of a batch, at least: a smaller one would say little of the whole, and takes little memory."""

BUDGET_S = 3.0
"""Seconds of measuring after one step each."""


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
        vectors = vectors_for(graph(module, Plane(channels, rows, columns)), precision, len(images))
        return Compiled(module, (channels, rows, columns), len(images), lanes, vectors)

    def graphed() -> Gradients:
        return Graphed(module, batch, loss, precision)

    best = {"cuda graph": graphed} if device_of(module).type == "cuda" else {"compiled": compiled}
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
    """Measure candidates; the module's statistics and the random state are as before.

    The most promising one on the whole batch; the others in front of it on a part, which needs less memory than a step
    of the winner will, and again on the whole batch only if they come near. Where one of them is faster, the most
    promising one has another chance. The fastest step of each counts: what is remembered for long should not depend on
    what else the machine had to do just then.

    Args:
        module: the network.
        batch: an example: images and labels.
        loss: of scores and labels.
        ways: the candidates, the most promising first.
        budget_s: for all of them; None for the usual.
        clock: returns seconds.

    Returns:
        The plan, and the winner.

    Raises:
        UnsupportedError: none works.
    """
    share_s, device = (BUDGET_S if budget_s is None else budget_s) / len(ways), device_of(module)
    buffers = [(buffer, buffer.clone()) for buffer in module.buffers()]
    notes: dict[str, str] = {}
    part = min(len(batch[0]), max(len(batch[0]) // PART, -(-SMALL * len(batch[0]) // batch[0].numel())))

    def speed(way: Gradients, count: int) -> float:
        some = batch[0][:count], batch[1][:count]
        with _forked(device):
            return count / min(_measured(partial(way, *some, loss), share_s, device, clock))

    def made(name: str) -> Gradients | None:
        try:
            return ways[name]()
        except UnsupportedError as error:
            notes[name] = str(error)
            return None

    first, *others = ways
    speeds: dict[str, float] = {}
    for name in others:
        if way := made(name):
            speeds[name] = speed(way, part)
            del way
            give_memory_back()
    best, winner = made(first), first
    highest = 0.0 if best is None else speed(best, len(batch[0]))
    measured = {first: highest}
    for name in sorted(speeds, key=lambda name: -speeds[name]):
        if speeds[name] * NEAR < measured[first]:
            measured[name] = speeds[name]
            notes |= {name: f"on {part} samples"} if part < len(batch[0]) else {}
        elif way := made(name):
            best = None  # one at a time in memory; kernels that are compiled stay so
            give_memory_back()
            measured[name] = speed(way, len(batch[0]))
            if measured[name] > highest:
                winner, highest = name, measured[name]
            del way
    if winner != first and measured[first] and (way := made(first)):
        measured[first] = max(measured[first], speed(way, len(batch[0])))
        winner, best = (first, way) if measured[first] > highest else (winner, None)
        del way
    for buffer, before in buffers:
        buffer.copy_(before)
    best = best or made(winner)
    if best is None:
        raise UnsupportedError("; ".join(notes.values()))
    rows = tuple(Row(name, round(measured.get(name, 0.0), 1), notes.get(name, "")) for name in ways)
    return Plan(winner, rows), best


def _measured(
    step: Callable[[], object], budget_s: float, device: torch.device, clock: Callable[[], float]
) -> list[float]:
    """Seconds of each step, at least one."""
    step()  # touches memory for the first time and is no measure of those after
    _finish(device)
    seconds: list[float] = []
    started_s = clock()
    while not seconds or clock() - started_s < budget_s:
        before_s = clock()
        step()
        _finish(device)
        seconds.append(clock() - before_s)
    return seconds


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
    parts = (
        fingerprint(),
        store.sources(),
        *gpu,
        str(module),
        tuple(batch[0].shape),
        precision,
        lanes.num_lanes,
        threads,
    )
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
