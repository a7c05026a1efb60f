"""What a core can do at most, as far as PyTorch gets it to."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch.nn import functional

from bptcnn.inner.machine.memory import keep_memory

SIDE = 2048
IMAGES, CHANNELS, PIXELS = 32, 256, 16
TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


class Task(NamedTuple):
    """Something that keeps a core's arithmetic busy.

    Attributes:
        run: it, once.
        flop: floating-point operations of that.
    """

    run: Callable[[], object]
    flop: int


def product(precision: str) -> Task:
    """A matrix product."""
    left, right = torch.randn(2, SIDE, SIDE).to(TYPES[precision])
    out = torch.empty(SIDE, SIDE, dtype=TYPES[precision])
    return Task(lambda: torch.mm(left, right, out=out), 2 * SIDE**3)


def convolution(precision: str) -> Task:
    """A convolution of 3x3, channels_last."""
    dtype = TYPES[precision]
    images = torch.randn(IMAGES, CHANNELS, PIXELS, PIXELS).to(dtype, memory_format=torch.channels_last)
    kernel = torch.randn(CHANNELS, CHANNELS, 3, 3).to(dtype, memory_format=torch.channels_last)
    return Task(lambda: functional.conv2d(images, kernel, padding=1), 2 * IMAGES * (CHANNELS * PIXELS) ** 2 * 9)


TASKS: dict[str, Callable[[str], Task]] = {"product": product, "convolution": convolution}


def peak(precision: str, repeats: int) -> dict[str, list[float]]:
    """Rates of every task, on one thread.

    Args:
        precision: of the numbers.
        repeats: of all in turns, after one that is not kept.

    Returns:
        GFLOP/s of each.
    """
    keep_memory()  # no page faults in what the convolution returns
    torch.set_num_threads(1)
    tasks = {name: make(precision) for name, make in TASKS.items()}
    rates: dict[str, list[float]] = {name: [] for name in tasks}
    with torch.no_grad():
        for repeat in range(repeats + 1):
            for name, task in tasks.items():
                began_s = time.perf_counter()
                task.run()
                if repeat:
                    rates[name].append(1e-9 * task.flop / (time.perf_counter() - began_s))
    return rates
