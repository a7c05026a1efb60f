"""What was measured of a case: rates, ratios, a table and series for the record."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from record import Series

from inner_peers.case import CONTENDERS, Case, Ready, Turn
from inner_peers.layers import Dropout, Network

IDLE_CORES = 0.05
"""A contender that uses more while it should sleep may slow the others down."""

LOSS_TOLERANCE = 0.1
"""Relative: above it, contenders do not seem to do the same."""


@dataclass
class Results:
    """A case's turns.

    Attributes:
        case: what was trained.
        network: its layers, and what an image costs.
        peak: GFLOP/s of a core.
        cores: that each contender may use.
        capacity: GFLOP/s that cores reached together, by their number, round by round.
        ready: what each contender told.
        turns: of each, round by round; a label with a comma is a contender under other circumstances.
        skipped: why one did not take part.
    """

    case: Case
    network: Network
    peak: float
    cores: dict[str, int] = field(default_factory=dict)
    capacity: dict[int, list[float]] = field(default_factory=dict)
    ready: dict[str, Ready] = field(default_factory=dict)
    turns: dict[str, list[Turn]] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)

    def rates(self, label: str) -> Series:
        """Images/s in each round."""
        return Series("1/s", [self.case.batch_size * turn.num_steps / turn.seconds for turn in self.turns[label]])

    def ratio(self, label: str, other: str) -> Series:
        """Rate of one / rate of another, round by round."""
        pairs = zip(self.rates(label).samples, self.rates(other).samples, strict=True)
        return Series("1", [rate / against for rate, against in pairs])

    @property
    def peers(self) -> list[str]:
        """Those that took part, ours left out."""
        return [label for label in self.turns if label in CONTENDERS and label != "ours"]

    @property
    def best_peer(self) -> str | None:
        """The fastest by its median."""
        return max(self.peers, key=lambda label: self.rates(label).median, default=None)

    def share(self, label: str) -> float:
        """Of its cores' peak."""
        return 1e-9 * self.rates(label).median * self.network.flop / (self.peak * self.cores[label])

    def shares_of_capacity(self, label: str) -> Series:
        """Of what its cores reached in the same round."""
        pairs = zip(self.rates(label).samples, self.capacity[self.cores[label]], strict=True)
        return Series("1", [1e-9 * rate * self.network.flop / capacity for rate, capacity in pairs])

    def advantages(self) -> Iterator[tuple[str, str]]:
        """Contenders that ours is compared with, with a name for the comparison."""
        if "ours" in self.turns:
            yield from ((f"ours / {label}", label) for label in self.peers)
            if self.best_peer:
                yield "ours / best peer", self.best_peer

    def circumstances(self) -> Iterator[tuple[str, Series]]:
        """What other circumstances come to."""
        if "ours, 1 core" in self.turns and "ours, 2 cores" in self.turns:
            yield "ours, 2 cores / 1 core", self.ratio("ours, 2 cores", "ours, 1 core")
            pairs = zip(self.capacity[2], self.capacity[1], strict=True)
            yield "machine, 2 cores / 1 core", Series("1", [two / one for two, one in pairs])
        for label in ("ours", "pytorch"):
            if disturbed := self.turns.get(f"{label}, disturbed"):
                kept, lost = self.ratio(f"{label}, disturbed", label), [turn.lost_cores for turn in disturbed]
                own = self.cores[label]
                pairs = [(share * own, own - cores) for share, cores in zip(kept.samples, lost, strict=True)]
                yield f"{label}, disturbed / undisturbed", kept
                yield f"{label}, disturbed: cores that the other process had", Series("1", lost)
                yield f"{label}, disturbed / capacity left", Series("1", [used / left for used, left in pairs])
                fair = Series("1", [used / (own - 0.5) for used, _ in pairs])
                yield f"{label}, disturbed / all but half a core", fair

    def series(self) -> dict[str, Series]:
        """All of it, for the record."""
        found: dict[str, Series] = {}
        for label, turns in self.turns.items():
            found[label] = self.rates(label)
            found[f"{label}: page faults"] = Series("1/step", [turn.minor_faults / turn.num_steps for turn in turns])
            found[f"{label}: peak memory"] = Series("MB", [turns[-1].peak_bytes / 1e6])
            found[f"{label}: cores used while idle"] = Series("1", [turn.idle_cores for turn in turns])
            found[f"{label}: share of peak"] = Series("1", [self.share(label)])
            found[f"{label}: share of capacity"] = self.shares_of_capacity(label)
        found |= {f"machine, {num} cores": Series("GFLOP/s", values) for num, values in self.capacity.items()}
        found |= {name: self.ratio("ours", other) for name, other in self.advantages()}
        found |= dict(self.circumstances())
        return {f"{self.case.label}: {name}": one for name, one in found.items()}

    def show(self) -> None:
        """Print a row a contender, and what is odd."""
        width = 30
        titles = ("images/s", "p10", "p90", "n", "ours/it", "faults/step", "MB", "of peak", "of capacity")
        print(f"\n{self.case.label}\n{'':{width}}", *(f"{title:>11}" for title in titles))
        for label, turns in self.turns.items():
            rates = self.rates(label)
            low, high = rates.spread
            compared = "ours" in self.turns and label in self.peers
            ratio = f"{self.ratio('ours', label).median:11.3f}" if compared else f"{'':11}"
            faults = statistics.median(turn.minor_faults / turn.num_steps for turn in turns)
            memory = turns[-1].peak_bytes / 1e6
            figures = f"{rates.median:11.4g} {low:11.4g} {high:11.4g} {len(turns):11} {ratio} {faults:11.4g}"
            shares = f"{self.share(label):11.1%} {self.shares_of_capacity(label).median:11.1%}"
            print(f"{label:{width}} {figures} {memory:11.0f} {shares}")
        for name, one in self.circumstances():
            print(f"{name:{width + 24}} {one.median:.3f}")
        if self.best_peer:
            print(f"best peer: {self.best_peer}")
        for label, reason in self.skipped.items():
            print(f"{label} skipped: {reason}")
        for warning in self.warnings():
            print(f"NOTE: {warning}")

    def warnings(self) -> Iterator[str]:
        """What makes this case's figures doubtful."""
        for label, turns in self.turns.items():
            idle = statistics.median(turn.idle_cores for turn in turns)
            if idle > IDLE_CORES:
                yield f"{label} used {idle:.2f} cores while it should have slept"
            if not math.isfinite(turns[-1].loss):
                yield f"{label} came to a loss of {turns[-1].loss}"
        if not any(isinstance(layer, Dropout) for layer in self.network.layers):
            yield from self._disagreements()

    def _disagreements(self) -> Iterator[str]:
        losses = {label: ready.losses for label, ready in self.ready.items()}
        middle = [statistics.median(values) for values in zip(*losses.values(), strict=True)]
        expected = losses.get("pytorch", middle)
        for label, values in losses.items():
            off = max(abs(value / usual - 1) for value, usual in zip(values, expected, strict=True))
            if not off <= LOSS_TOLERANCE:  # true of nan, too
                yield f"first losses of {label} are {values}, not {expected}"


def summary(results: list[Results]) -> dict[str, Series]:
    """Over all cases: geometric means, and the least, of ours / pytorch and ours / best peer."""
    found: dict[str, Series] = {}
    measures: tuple[tuple[str, Callable[[list[float]], float]], ...] = (
        ("geometric mean", statistics.geometric_mean),
        ("minimum", min),
    )
    for name in ("ours / pytorch", "ours / best peer"):
        ratios = [
            one.ratio("ours", other).median for one in results for this, other in one.advantages() if this == name
        ]
        if ratios:
            found |= {f"{name}, {kind}": Series("1", [measure(ratios)]) for kind, measure in measures}
    return found
