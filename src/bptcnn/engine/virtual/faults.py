"""Fault plans: what breaks, and when, in virtual seconds. The same text gives the same plan."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, cast, get_args

import numpy as np

from bptcnn.errors import ConfigError

Kind = Literal["kill", "freeze", "delay", "duplicate", "join", "crash"]

_FORM = re.compile(
    r"(?P<kind>[a-z]+)(?::(?P<number>\d+(?:\.\d+)?))?@(?P<at>\d+(?:\.\d+)?)(?:\+(?P<span>\d+(?:\.\d+)?))?"
)
_HELP = (
    "write kill:WORKER@S, freeze:WORKER@S+S, delay:WORKER@S+S, duplicate:WORKER@S, join:SPEED@S, crash@S or random:SEED"
)


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that goes wrong.

    Attributes:
        kind: ``kill`` a worker's process; ``freeze`` it for ``span_s``; ``delay`` its next push by ``span_s``;
            ``duplicate`` its next push; let a new worker ``join``; ``crash`` the server.
        at_s: when.
        number: the worker, or the speed of the one that joins, samples/s; 0 for a crash.
        span_s: for how long.
    """

    kind: Kind
    at_s: float
    number: float
    span_s: float = 0.0


@dataclass(frozen=True, slots=True)
class FaultPlan:
    """Faults in order of time.

    Example:
        >>> FaultPlan.parse("kill:1@5,freeze:2@8+3", num_workers=4, horizon_s=60).faults[1].span_s
        3.0
    """

    faults: tuple[Fault, ...] = ()

    @classmethod
    def parse(cls, text: str, *, num_workers: int, horizon_s: float) -> FaultPlan:
        """Read a comma-separated plan, or draw one from a seed.

        Args:
            text: see ``Fault``; empty for no faults.
            num_workers: workers that may be named.
            horizon_s: expected length of the run without faults; random plans spread over it.

        Returns:
            The plan.

        Raises:
            ConfigError: a part has another form or names a worker that does not exist.
        """
        if text.startswith("random:") and text[7:].isdecimal():
            return cls.random(int(text[7:]), num_workers=num_workers, horizon_s=horizon_s)
        faults = [_parse(part.strip(), num_workers) for part in text.split(",") if part.strip()]
        return cls(tuple(sorted(faults, key=lambda fault: fault.at_s)))

    @classmethod
    def random(cls, seed: int, *, num_workers: int, horizon_s: float) -> FaultPlan:
        """Draw three to nine faults of all kinds.

        Args:
            seed: of the plan.
            num_workers: workers that may be hit.
            horizon_s: they fall into the first nine tenths of it.

        Returns:
            The plan.
        """
        rng = np.random.default_rng((seed, 0xFA))
        kinds = rng.choice(get_args(Kind), size=rng.integers(3, 10), p=[0.3, 0.2, 0.15, 0.15, 0.1, 0.1])
        faults = []
        for kind in kinds:
            number = float(rng.integers(num_workers)) if kind != "join" else float(rng.uniform(100, 2000))
            at_s, span_s = rng.uniform(0, 0.9 * horizon_s), rng.uniform(0.01, 1.0) * horizon_s
            faults.append(Fault(cast(Kind, str(kind)), at_s, number, span_s))
        return cls(tuple(sorted(faults, key=lambda fault: fault.at_s)))


def _parse(part: str, num_workers: int) -> Fault:
    match = _FORM.fullmatch(part)
    if match is None or match["kind"] not in get_args(Kind):
        raise ConfigError(f"fault {part!r} is not understood: {_HELP}")
    kind, number, span = cast(Kind, match["kind"]), match["number"], match["span"]
    if (number is None) != (kind == "crash") or (span is None) == (kind in ("freeze", "delay")):
        raise ConfigError(f"fault {part!r} is not understood: {_HELP}")
    if kind == "join" and float(number) == 0:
        raise ConfigError(f"fault {part!r} has a speed of 0: give samples per second above 0")
    if kind not in ("join", "crash") and not (number.isdigit() and int(number) < num_workers):
        raise ConfigError(f"fault {part!r} names worker {number}: there are workers 0 to {num_workers - 1}")
    return Fault(kind, float(match["at"]), float(number or 0), float(span or 0))
