"""``strategy = "auto"``: which rule, cadence and compression suit these workers and links, and why."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import mean, quantiles
from typing import NamedTuple, TypeAlias, get_args

from bptcnn.config import RunConfig
from bptcnn.engine.forecast import throughput
from bptcnn.engine.job import Job
from bptcnn.engine.virtual import Link, Speeds
from bptcnn.models import FlatModel
from bptcnn.outer.allocation import Dynamic
from bptcnn.outer.rules import Anytime, AsyncLocalSgd, Auto, LocalSgd
from bptcnn.wire import Dtype

RESTLESS = 0.2
"""Speeds change if the middle half of repeated timings is wider than this part of their mean."""

LOOKS = 32
"""Moments at which the speeds of a simulation are looked at beforehand."""

DTYPES: tuple[Dtype, ...] = get_args(Dtype)
"""How weights may travel, from most bytes to fewest."""

Rule: TypeAlias = LocalSgd | Anytime | AsyncLocalSgd


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
    def slowest(self) -> Link:
        """The link that takes longest for the weights: a round waits for it, and asynchronous workers are few."""
        return max(self.links, key=lambda link: link.transfer_s(4 * self.num_weights))


class Candidate(NamedTuple):
    """Settings that may be chosen: update rule, local steps between exchanges, and how weights travel."""

    rule: Rule
    every: int
    dtype: Dtype

    def span(self, facts: Facts) -> float:
        """Samples that all workers together train between two exchanges."""
        parts = [self.every * speed / max(facts.speeds) for speed in facts.speeds]
        return facts.batch_size * sum(parts if self.rule.synchronous else (max(1, round(part)) for part in parts))

    def lag(self, *, overlap: bool) -> float:
        """How many local steps old the weights of others are by which a step is made, on average.

        In a round its own steps, half of them; without rounds about as many as others made since the weights were
        sent. A lease that is trained while messages travel comes on top of both.

        Args:
            overlap: whether there is such a lease.
        """
        own = (self.every - 1) / 2 if self.rule.synchronous else self.every
        return own + self.every * overlap


class Choice(NamedTuple):
    """What was chosen, and the part of the sum of the speeds that it should leave."""

    candidate: Candidate
    kept: float


Predict: TypeAlias = Callable[[Candidate], float]
"""The part of the sum of the speeds that a candidate leaves, 0 to 1."""


def choose(
    facts: Facts, predict: Predict, keep: float = 0.97, dtypes: Sequence[Dtype] = DTYPES, *, overlap: bool = True
) -> Choice:
    """The tightest exchange that keeps enough of the best attainable throughput.

    What is learned from old weights is learned more slowly, whether it is the rounds that are long or that there are
    none. So the candidate of least lag is taken, rounds where there is no difference, and of its kind the one that is
    compressed least. Throughput grows with compression and, but for rounds by the clock, with the cadence, which is
    then found by bisection.

    Args:
        facts: of workers and links.
        predict: what a candidate would keep.
        keep: part of the best throughput that is kept at least.
        dtypes: how weights may travel, from most bytes to fewest.
        overlap: whether workers train on while messages travel.

    Returns:
        The choice.

    Example:
        >>> facts = Facts((100.0, 100.0), (Link(),) * 2, num_weights=10, batch_size=10, num_samples=1000)
        >>> choose(facts, lambda candidate: min(1.0, candidate.every / 5), dtypes=["fp32"]).candidate.every
        6
    """
    cadences, dense = _cadences(facts), dtypes[-1]
    longest = {rule: predict(Candidate(rule, cadences[-1], dense)) for rule in _rules(facts, overlap=overlap)}
    floor = keep * max(longest.values())
    shortest = ((rule, _shortest(rule, cadences, lambda one: predict(one) >= floor, dense)) for rule in longest)
    enough = (Candidate(rule, every, dense) for rule, every in shortest if every is not None)
    chosen = min(enough, key=lambda one: one.lag(overlap=overlap))
    tightest = (chosen._replace(dtype=dtype) for dtype in dtypes)
    return next(Choice(one, kept) for one in tightest if (kept := predict(one)) >= floor)


def _shortest(rule: Rule, cadences: Sequence[int], enough: Callable[[Candidate], bool], dtype: Dtype) -> int | None:
    """The shortest cadence at which a rule keeps enough; None if there is none."""
    if rule.timed:  # longer rounds do not always keep more: steps may fit them better or worse
        return next((every for every in cadences if enough(Candidate(rule, every, dtype))), None)
    if not enough(Candidate(rule, cadences[-1], dtype)):
        return None
    low, high = -1, len(cadences) - 1
    while high - low > 1:
        middle = (low + high) // 2
        if enough(Candidate(rule, cadences[middle], dtype)):
            high = middle
        else:
            low = middle
    return cadences[high]


def _rules(facts: Facts, *, overlap: bool) -> tuple[Rule, ...]:
    """Rounds, and none: a lease ahead makes up for who is slow just now, without one rounds end by the clock."""
    by_the_clock = facts.spread > RESTLESS and not overlap
    return (Anytime() if by_the_clock else LocalSgd(), AsyncLocalSgd(momentum=0.0))


def _cadences(facts: Facts) -> list[int]:
    """1, 2, 3, 4, 6, 8, 12, 16 and so on, up to one exchange an epoch."""
    most = facts.num_samples / facts.batch_size * max(facts.speeds) / facts.total
    powers = [2**power for power in range(max(1, int(most)).bit_length())]
    return sorted(every for every in {*powers, *(3 * power for power in powers)} if every <= max(1, most))


def settle(config: RunConfig, facts: Facts) -> tuple[RunConfig, str]:
    """Choose by simulation.

    Args:
        config: a recipe that asks for it.
        facts: of workers and links.

    Returns:
        The recipe with the choice in it, and one sentence that says what was chosen and why.
    """
    assert isinstance(config.strategy, Auto)
    known: dict[Candidate, float] = {}

    def predict(candidate: Candidate) -> float:
        if candidate not in known:
            speeds = {"count": len(facts.speeds), "speeds": facts.speeds}
            # As a mapping, since what was measured need not be all workers.
            tried = RunConfig(**{**dict(_with(config, candidate)), "workers": speeds})
            handling_s = facts.handling_s.get(candidate.dtype, 0.0)
            reached = throughput(tried, facts.num_weights, facts.slowest, candidate.span(facts), handling_s)
            known[candidate] = min(1.0, reached / facts.total)  # leases that end together may seem to do better
        return known[candidate]

    choice = choose(facts, predict, config.strategy.keep, overlap=config.exchange.overlap)
    return _with(config, choice.candidate), sentence(choice, facts)


def _with(config: RunConfig, candidate: Candidate) -> RunConfig:
    exchange = {"every": candidate.every, "dtype": candidate.dtype}
    return config.model_copy(
        update={
            "strategy": candidate.rule,
            "allocation": Dynamic(),
            "exchange": config.exchange.model_copy(update=exchange),
        }
    )


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


def sentence(choice: Choice, facts: Facts) -> str:
    """What was chosen and why, in one sentence.

    Args:
        choice: the choice.
        facts: that it was made from.

    Example:
        >>> facts = Facts((300.0, 100.0), (Link(12.5e6, 0.005),) * 2, num_weights=10, batch_size=32, num_samples=1437)
        >>> sentence(Choice(Candidate(LocalSgd(), 4, "bf16"), 0.984), facts)  # doctest: +NORMALIZE_WHITESPACE
        'auto: local-sgd, an exchange every 4 steps in bf16: the tightest that keeps 98 % of 400 samples/s on links of
        12.5 MB/s and 5 ms'
    """
    rule, every, dtype = choice.candidate
    why = "" if rule.synchronous else ", as rounds so short keep less"
    if isinstance(rule, Anytime):
        why = f", as speeds vary by {100 * facts.spread:.0f} %"
    steps = "step" if every == 1 else f"{every} steps"
    packed = "" if dtype == "fp32" else f" in {dtype}"
    return (
        f"auto: {rule.name}{why}, an exchange every {steps}{packed}: "
        f"the tightest that keeps {100 * choice.kept:.0f} % of {facts.total:,.0f} samples/s on {_named(facts.slowest)}"
    )


def _named(link: Link) -> str:
    parts = []
    if link.bytes_per_s < float("inf"):
        parts.append(f"{link.bytes_per_s / 1e6:.3g} MB/s")
    if link.latency_s:
        parts.append(f"{1e3 * link.latency_s:.3g} ms")
    return f"links of {' and '.join(parts)}" if parts else "free links"


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
