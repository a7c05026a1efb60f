"""``strategy = "auto"``: which rule, cadence and compression suit these workers and links, and why."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import ceil
from typing import NamedTuple, TypeAlias, get_args

from bptcnn.config import RunConfig
from bptcnn.engine.facts import Facts
from bptcnn.engine.forecast import throughput
from bptcnn.engine.virtual import Link
from bptcnn.outer.allocation import Dynamic
from bptcnn.outer.rules import Anytime, AsyncLocalSgd, Auto, LocalSgd
from bptcnn.outer.rules.auto import LAG_PRICE
from bptcnn.wire import Dtype, num_bytes

DTYPES: tuple[Dtype, ...] = get_args(Dtype)
"""How weights may travel, from most bytes to fewest."""

Rule: TypeAlias = LocalSgd | Anytime | AsyncLocalSgd


class Candidate(NamedTuple):
    """Settings that may be chosen.

    Attributes:
        rule: the update rule.
        every: local steps between exchanges.
        dtype: how weights travel.
        overlap: whether workers train on meanwhile.
    """

    rule: Rule
    every: int
    dtype: Dtype
    overlap: bool = True

    def span(self, facts: Facts) -> float:
        """Samples that all workers together train between two exchanges."""
        parts = [self.every * speed / max(facts.speeds) for speed in facts.speeds]
        return facts.batch_size * sum(parts if self.rule.synchronous else (max(1, round(part)) for part in parts))

    def lag(self, facts: Facts) -> float:
        """How many local steps old the weights of others are by which a step is made, on average.

        In a round its own steps, half of them; without rounds about as many as others made since the weights were
        sent. On top of both come the steps that are made while messages travel: answers are taken in between steps,
        so it is one at least, and none is made beyond the lease ahead.
        """
        own = (self.every - 1) / 2 if self.rule.synchronous else self.every
        step_s = facts.batch_size / max(facts.speeds)
        meanwhile = max(1, ceil(self._exchange_s(facts) / step_s))
        return own + min(self.every, meanwhile) * self.overlap

    def _exchange_s(self, facts: Facts) -> float:
        """How long an exchange takes: there and back, and at the server, who gets the pushes of a round at once."""
        way_s = facts.slowest.transfer_s(num_bytes(facts.num_weights, self.dtype))
        at_once = len(facts.speeds) if self.rule.synchronous else 1
        return 2 * way_s + at_once * facts.handling_s.get(self.dtype, 0.0)


class Choice(NamedTuple):
    """What was chosen, and the part of the sum of the speeds that it should leave."""

    candidate: Candidate
    kept: float


Predict: TypeAlias = Callable[[Candidate], float]
"""The part of the sum of the speeds that a candidate leaves, 0 to 1."""

LEARNED: Mapping[Dtype, float] = {"fp32": 1.0, "bf16": 1.0, "int8": 1.0, "int4": 1.0, "2bit": 0.99}
"""What is learned from a sample if weights travel so, against fp32: measured with ``benchmarks/lag.py``."""

CLEARLY = 1.01
"""What should be better by less than this is not worth a looser exchange, or a coarser one."""


def choose(
    facts: Facts,
    predict: Predict,
    lag_price: float = LAG_PRICE,
    dtypes: Sequence[Dtype] = DTYPES,
    *,
    overlap: bool = True,
) -> Choice:
    """The exchange with which most is learned a second.

    Maths: the greatest ``kept (1 + lag)^-lag_price LEARNED[dtype]``. What is learned from old weights is learned more
    slowly, whether it is the rounds that are long or that there are none, and so it is from weights of few bits; what
    is waited for is not learned at all. Where there is no clear difference, rounds, then what waits, then what is
    compressed least. (Compression is not always faster: packing takes the server's time.)

    Args:
        facts: of workers and links.
        predict: what a candidate would keep; not less at a longer cadence, but for rounds by the clock.
        lag_price: what lag costs, 0 or more.
        dtypes: how weights may travel, from most bytes to fewest.
        overlap: whether workers may train on while messages travel.

    Returns:
        The choice.

    Example:
        >>> facts = Facts((100.0, 100.0), (Link(),) * 2, num_weights=10, batch_size=10, num_samples=1000)
        >>> choose(facts, lambda candidate: min(1.0, candidate.every / 5), dtypes=["fp32"]).candidate.every
        6
    """

    def worth(candidate: Candidate, kept: float) -> float:
        return float(kept * LEARNED[candidate.dtype] * (1 + candidate.lag(facts)) ** -lag_price)

    best: _Judged | None = None
    for kind in (kind._replace(dtype=dtype) for kind in _kinds(facts, overlap=overlap) for dtype in dtypes):
        tried = [kind._replace(every=every) for every in _cadences(facts)]
        least = CLEARLY * best.worth if best else 0.0
        best = _best(tried, predict, worth, least) or best
    assert best is not None, "nothing is worth less than nothing"
    return best.choice


class _Judged(NamedTuple):
    worth: float
    choice: Choice


_Worth: TypeAlias = Callable[[Candidate, float], float]
"""What a candidate that keeps so much is worth."""


def _best(
    tried: Sequence[Candidate], predict: Predict, worth: _Worth, least: float, most: float = 1.0
) -> _Judged | None:
    """Of candidates that only differ in their cadence, in its order, the shortest of the greatest worth.

    What is kept grows with the cadence, but for rounds by the clock: what one keeps is a bound for all that are
    shorter. So few are asked for, as each is a simulation.

    Args:
        tried: the candidates.
        predict: what one would keep.
        worth: of a candidate, by what it keeps; less for longer ones that keep no more.
        least: what it has to be worth.
        most: what none keeps more than.
    """
    if not tried or worth(tried[0], most) < least:
        return None
    middle = len(tried) // 2
    choice = Choice(tried[middle], predict(tried[middle]))
    reached = worth(*choice)
    best = _Judged(reached, choice) if reached >= least else None
    bound = most if choice.candidate.rule.timed else choice.kept
    best = _best(tried[:middle], predict, worth, max(least, reached), bound) or best
    above = best.worth * (1 + 1e-9) if best else least  # a longer one has to be better
    return _best(tried[middle + 1 :], predict, worth, above, most) or best


def _kinds(facts: Facts, *, overlap: bool) -> list[Candidate]:
    """Rounds and none, with a lease ahead and without; each stands for all cadences.

    Rounds that wait for all are for steady speeds. Else a lease ahead makes up for who is slow just now; where there
    may be none, rounds end by the clock.
    """
    free = AsyncLocalSgd(momentum=0.0)
    waiting = Candidate(free, 1, DTYPES[0], overlap=False)
    if not overlap:
        return [waiting._replace(rule=Anytime() if facts.restless else LocalSgd()), waiting]
    ahead = [Candidate(rule, 1, DTYPES[0]) for rule in (LocalSgd(), free)]
    return [*([waiting._replace(rule=LocalSgd())] if facts.steady else []), ahead[0], waiting, ahead[1]]


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

    choice = choose(facts, predict, config.strategy.lag_price, overlap=config.exchange.overlap)
    return _with(config, choice.candidate), sentence(choice, facts)


def _with(config: RunConfig, candidate: Candidate) -> RunConfig:
    exchange = {"every": candidate.every, "dtype": candidate.dtype, "overlap": candidate.overlap}
    return config.model_copy(
        update={
            "strategy": candidate.rule,
            "allocation": Dynamic(),
            "exchange": config.exchange.model_copy(update=exchange),
        }
    )


def sentence(choice: Choice, facts: Facts) -> str:
    """What was chosen and why, in one sentence.

    Args:
        choice: the choice.
        facts: that it was made from.

    Example:
        >>> facts = Facts((300.0, 100.0), (Link(12.5e6, 0.005),) * 2, num_weights=10, batch_size=32, num_samples=1437)
        >>> sentence(Choice(Candidate(LocalSgd(), 4, "bf16"), 0.984), facts)  # doctest: +NORMALIZE_WHITESPACE
        'auto: local-sgd, an exchange every 4 steps in bf16, overlapped: should learn most a second, at 98 % of
        400 samples/s, on links of 12.5 MB/s and 5 ms'
    """
    rule, every, dtype, overlap = choice.candidate
    why = "" if rule.synchronous else ", as rounds keep less"
    if isinstance(rule, Anytime):
        why = f", as speeds vary by {100 * facts.spread:.0f} %"
    steps = "step" if every == 1 else f"{every} steps"
    packed = "" if dtype == "fp32" else f" in {dtype}"
    hidden = ", overlapped" if overlap else ""
    return (
        f"auto: {rule.name}{why}, an exchange every {steps}{packed}{hidden}: should learn most a second, "
        f"at {100 * choice.kept:.0f} % of {facts.total:,.0f} samples/s, on {_named(facts.slowest)}"
    )


def _named(link: Link) -> str:
    parts = []
    if link.bytes_per_s < float("inf"):
        parts.append(f"{link.bytes_per_s / 1e6:.3g} MB/s")
    if link.latency_s:
        parts.append(f"{1e3 * link.latency_s:.3g} ms")
    return f"links of {' and '.join(parts)}" if parts else "free links"
