"""What a core can do at most, as far as PyTorch gets it to."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch.nn import functional

from bptcnn.inner.machine.memory import keep_memory

SIDE = 2048
IMAGES, CHANNELS, PIXELS = 32, 256, 16
TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def peak(precision: str, repeats: int) -> dict[str, list[float]]:
    """Rates of a matrix product and of a convolution, on one thread.

    Args:
        precision: of the numbers.
        repeats: of both in turns, after one that is not kept.

    Returns:
        GFLOP/s of each.
    """
    keep_memory()  # no page faults in what the convolution returns
    torch.set_num_threads(1)
    dtype = TYPES[precision]
    left, right = torch.randn(2, SIDE, SIDE).to(dtype)
    product = torch.empty(SIDE, SIDE, dtype=dtype)
    images = torch.randn(IMAGES, CHANNELS, PIXELS, PIXELS).to(dtype, memory_format=torch.channels_last)
    kernel = torch.randn(CHANNELS, CHANNELS, 3, 3).to(dtype, memory_format=torch.channels_last)
    tasks: dict[str, tuple[Callable[[], object], int]] = {
        "product": (lambda: torch.mm(left, right, out=product), 2 * SIDE**3),
        "convolution": (
            lambda: functional.conv2d(images, kernel, padding=1),
            2 * IMAGES * (CHANNELS * PIXELS) ** 2 * 9,
        ),
    }
    rates: dict[str, list[float]] = {name: [] for name in tasks}
    with torch.no_grad():
        for repeat in range(repeats + 1):
            for name, (task, flop) in tasks.items():
                began_s = time.perf_counter()
                task()
                if repeat:
                    rates[name].append(1e-9 * flop / (time.perf_counter() - began_s))
    return rates
