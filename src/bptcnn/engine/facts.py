"""What ``auto`` decides from: how fast workers and links are, however that is known."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import mean, quantiles

from bptcnn.engine.job import Job
from bptcnn.engine.virtual import Link, Speeds
from bptcnn.models import FlatModel
from bptcnn.wire import Dtype

RESTLESS = 0.2
"""Speeds change if the middle half of repeated timings is wider than this part of their mean."""

STEADY = 0.03
"""Speeds are steady if it is narrower than this part: rounds that wait for all lose about as much as that."""

LOOKS = 32
"""Moments at which the speeds of a simulation are looked at beforehand."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What a choice is made from.

    Attributes:
        speeds: of each worker, samples/s.
        links: of each worker, to the server.
        num_weights: length of the vectors that are exchanged.
        batch_size: samples of a local step.
        num_samples: of one epoch; no exchange is rarer than once in an epoch.
        spread: how much speeds change, see ``spread_of``.
        handling_s: how long the server is busy with one exchange, by how weights travel; no time where nothing is said.

    Example:
        >>> facts = Facts((300.0, 100.0), (Link(), Link(12.5e6, 0.005)), num_weights=9, batch_size=32, num_samples=999)
        >>> facts.total, facts.slowest
        (400.0, Link(bytes_per_s=12500000.0, latency_s=0.005))
    """

    speeds: tuple[float, ...]
    links: tuple[Link, ...]
    num_weights: int
    batch_size: int
    num_samples: int
    spread: float = 0.0
    handling_s: Mapping[Dtype, float] = field(default_factory=dict)

    @property
    def total(self) -> float:
        """The sum of the speeds, samples/s."""
        return sum(self.speeds)

    @property
    def steady(self) -> bool:
        """Whether speeds change too little to wait for anybody."""
        return self.spread <= STEADY

    @property
    def restless(self) -> bool:
        """Whether speeds change so much that rounds should end by the clock, unless something makes up for it."""
        return self.spread > RESTLESS

    @property
    def slowest(self) -> Link:
        """The link that takes longest for the weights: a round waits for it, and asynchronous workers are few."""
        return max(self.links, key=lambda link: link.transfer_s(4 * self.num_weights))


def foreseen(job: Job, speeds: Sequence[float], link: Link, traces: Speeds, horizon_s: float) -> Facts:
    """The facts of a simulation, which need not be measured.

    Args:
        job: what is trained.
        speeds: nominal, of each worker, samples/s.
        link: of each worker.
        traces: how speeds change.
        horizon_s: expected length of the run, virtual seconds.
    """
    moments = [horizon_s * number / LOOKS for number in range(LOOKS)]
    seen = [
        [trace.samples_per_s(at_s) for at_s in moments]
        for trace in (traces(worker, speed) for worker, speed in enumerate(speeds))
    ]
    return Facts(
        speeds=tuple(map(mean, seen)),
        links=(link,) * len(seen),
        num_weights=FlatModel(job.network()).num_weights,
        batch_size=job.config.batch_size,
        num_samples=len(job.train),
        spread=spread_of(seen),
    )


def spread_of(timings: Iterable[Sequence[float]]) -> float:
    """How much speeds change: the middle half of a worker's repeated timings over their mean, the worst worker's.

    Args:
        timings: repeated speeds or times of each worker, > 0, in any unit.

    Example:
        >>> round(spread_of([[1.0, 1.0, 1.0, 1.0, 9.0], [90.0, 100.0, 110.0]]), 2)
        0.1
    """
    worst = 0.0
    for values in timings:
        if len(values) > 1:
            low, _, high = quantiles(values, n=4, method="inclusive")
            worst = max(worst, (high - low) / mean(values))
    return worst
