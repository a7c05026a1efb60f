"""How fast this process trains: a few timed steps on a copy of the network that is thrown away."""

from __future__ import annotations

import time
from contextlib import nullcontext, suppress

import numpy as np
import torch

from bptcnn.engine.job import Job
from bptcnn.errors import DivergedError
from bptcnn.inner import Throttle


def throttle(samples_per_s: float | None) -> Throttle | None:
    """What makes a worker as slow as it should be; None for one that is as fast as it can."""
    return Throttle(samples_per_s, clock=time.perf_counter, sleep=time.sleep) if samples_per_s else None


def step_speeds(
    job: Job, threads: int, device: torch.device, slowed: Throttle | None, num_steps: int, budget_s: float = 0.0
) -> list[float]:
    """Time local steps, after one that warms up.

    Args:
        job: what is trained.
        threads: to train with.
        device: to train on.
        slowed: of an emulated speed; None for none.
        num_steps: to time, at least.
        budget_s: go on for as long, but time no more than four times as many.

    Returns:
        Samples/s of each step.
    """
    learner = job.learner(job.network(), threads, device)
    indices = np.arange(min(job.config.batch_size, len(job.train)))
    speeds: list[float] = []
    begun_s = time.perf_counter()
    for step in range(1 + 4 * num_steps):
        if step == 1:
            begun_s = time.perf_counter()
        if step > num_steps and time.perf_counter() - begun_s > budget_s:
            break
        started_s = time.perf_counter()
        with slowed.step(len(indices)) if slowed else nullcontext(), suppress(DivergedError):  # training will say so
            learner.step(indices, epoch=0, lr=1e-6)
        if step:
            speeds.append(len(indices) / (time.perf_counter() - started_s))
    return speeds
