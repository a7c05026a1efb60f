"""UDPA and IDPA: every worker keeps the samples it was given.

Chen et al., TPDS 2019, section on incremental data partitioning and allocation (formulas reconstructed). Data is
released in A batches, batch a in the a-th iteration, and nothing is taken back; an iteration is one pass of a worker
over what it holds. UDPA is the case of one batch, split equally.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from math import ceil
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic import Field

from bptcnn.errors import ConfigError
from bptcnn.outer.allocation.apportion import apportion, water_fill
from bptcnn.outer.allocation.base import Allocator, Grant, Plan
from bptcnn.outer.ledger import SHARED, Ledger
from bptcnn.section import Section

Positions = npt.NDArray[np.int64]

MOST_BATCHES = 4
"""A by default: enough to correct a misleading first measurement, few enough that late data is still seen often."""


class Uniform(Section):
    """Settings of UDPA, the baseline: N/m samples to every worker, once."""

    name: Literal["uniform"] = "uniform"
    """Selects this allocation."""

    def start(self, plan: Plan) -> Allocator:
        """Begin an allocation."""
        return PartitionAllocator(plan, batches=1, form="equal")


class Idpa(Section):
    """Settings of IDPA: shares by measured speed, released batch by batch."""

    name: Literal["idpa"] = "idpa"
    """Selects this allocation."""

    batches: int | None = Field(default=None, ge=1)
    """A, the number of batches; at most 2 epochs - 1, or some data would never be released. None: as many, up to 4."""

    form: Literal["cumulative", "per_batch"] = "cumulative"
    """Whether a batch also corrects the batches before it, or is split by speed alone."""

    def check(self, epochs: int) -> None:
        """Refuse more batches than the epochs can release.

        Raises:
            ConfigError: A > 2 epochs - 1.
        """
        most = 2 * epochs - 1
        if self.batches is not None and self.batches > most:
            raise ConfigError(
                f"allocation.batches = {self.batches} needs at least {(self.batches + 2) // 2} epochs: "
                f"with epochs = {epochs} use {most} or fewer"
            )

    def start(self, plan: Plan) -> Allocator:
        """Begin an allocation."""
        batches = self.batches or min(MOST_BATCHES, 2 * plan.epochs - 1)
        return PartitionAllocator(plan, batches=batches, form=self.form)


class Block(NamedTuple):
    """Samples that a worker holds, as positions in the release order, trained from iteration ``start`` on."""

    start: int
    positions: Positions


class PartitionAllocator(Allocator):
    """Holdings, iterations and the release of batches.

    Args:
        plan: the fixed facts.
        batches: A, the number of batches that the data is released in.
        form: how a batch is split: equally, by speed, or by speed so that all that was released so far ends together.
    """

    def __init__(self, plan: Plan, *, batches: int, form: Literal["equal", "cumulative", "per_batch"]) -> None:
        super().__init__(plan)
        self._form = form
        self._order = np.random.default_rng((plan.seed, 0)).permutation(plan.num_samples)
        self._released = released_up_to(plan.num_samples, batches)
        self._sizes = iteration_sizes(plan.total, self._released[1:])
        self._num_released = 0
        self._rounds: dict[int, int] = {}
        self._holdings: dict[int, list[Block]] = {}
        self._iteration: dict[int, int] = {}
        self._pieces: dict[tuple[int, int], int] = {}
        self._measured: set[int] = set()

    def join(self, worker: int) -> None:
        """Take part in the batches that are not released yet; without any, serve what others leave."""
        self._holdings[worker] = []
        self._iteration[worker] = self._num_released

    def leave(self, worker: int, ledger: Ledger, speeds: Mapping[int, float]) -> None:
        """Deal the holdings to the others by speed (see ``Allocator.leave``)."""
        ledger.share_out(worker)
        done = self._iteration.pop(worker)
        self._pieces = {key: count for key, count in self._pieces.items() if key[0] != worker}
        heirs = {heir: speeds[heir] for heir in sorted(self._holdings) if heir in speeds and heir != worker}
        for block in self._holdings.pop(worker):
            sizes = list(apportion(len(block.positions), heirs).values())
            parts = np.split(block.positions, np.cumsum(sizes)[:-1]) if heirs else [block.positions]
            for heir, part in zip(heirs or [SHARED], parts, strict=True):
                self._inherit(heir, part, max(done + 1, block.start), ledger)

    def next(self, ready: Sequence[int], ledger: Ledger, speeds: Mapping[int, float]) -> dict[int, Grant]:
        """Lease a piece of each worker's own data (see ``Allocator.next``)."""
        grants = {worker: self._own(worker, ledger, speeds) for worker in ready}
        idle = [worker for worker, grant in grants.items() if grant is None]
        helping = self._orphans(idle, ledger, speeds)
        return {worker: grant for worker, grant in (grants | helping).items() if grant is not None}

    def returned(self, worker: int, epoch: int) -> None:
        """A returned lease is one more piece to train in its iteration, which need not be the latest."""
        self._pieces[worker, epoch] = self._pieces.get((worker, epoch), 0) + 1

    def measured(self, worker: int) -> None:
        """Its speed may enter the next batch."""
        self._measured.add(worker)

    def snapshot(self) -> dict[str, Any]:
        """The state as a tree for a checkpoint."""
        blocks = [(worker, block) for worker, held in self._holdings.items() for block in held]
        return {
            "num_released": self._num_released,
            "measured": sorted(self._measured),
            "rounds": [list(item) for item in self._rounds.items()],
            "workers": [[worker, self._iteration[worker]] for worker in self._holdings],
            "pieces": [[*key, count] for key, count in self._pieces.items()],
            "blocks": [[worker, block.start, len(block.positions)] for worker, block in blocks],
            "positions": np.concatenate([block.positions for _, block in blocks] or [np.zeros(0, np.int64)]),
        }

    def resume(self, tree: dict[str, Any]) -> None:
        """Take over the state that ``snapshot`` described."""
        self._num_released = tree["num_released"]
        self._measured = set(tree["measured"])
        self._rounds = dict(map(tuple, tree["rounds"]))
        self._holdings = {worker: [] for worker, _ in tree["workers"]}
        self._iteration = dict(map(tuple, tree["workers"]))
        self._pieces = {(worker, epoch): count for worker, epoch, count in tree["pieces"]}
        ends = np.cumsum([0, *(size for _, _, size in tree["blocks"])])
        for (worker, start, _), (first, last) in zip(tree["blocks"], pairwise(ends), strict=True):
            self._holdings[worker].append(Block(start, tree["positions"][first:last]))

    # ------------------------------------------------------------------------------------ one worker

    def _own(self, worker: int, ledger: Ledger, speeds: Mapping[int, float]) -> Grant | None:
        """The next piece of the worker's own data, beginning iterations as needed."""
        epoch = ledger.earliest(worker)
        while epoch is None:
            if self._iteration[worker] == len(self._sizes) or self._must_wait(worker):
                return None
            self._begin(worker, ledger, speeds)
            epoch = ledger.earliest(worker)
        pieces = self._pieces.pop((worker, epoch), 1)
        if pieces > 1:
            self._pieces[worker, epoch] = pieces - 1
        return Grant(epoch, worker, ceil(ledger.available(epoch, worker) / pieces))

    def _must_wait(self, worker: int) -> bool:
        """Whether the next iteration needs a batch that cannot be split yet.

        A batch follows the speeds measured since the one before: everybody who trains in that iteration has to finish a
        lease first. A worker that has nothing in it leaves the release to the others.
        """
        a = self._num_released
        if self._iteration[worker] < a or a == len(self._released) - 1 or self._released[a] == 0:
            return False
        training = {w for w in self._holdings if len(self._blocks(w, a))}
        return bool(training) and (worker not in training or not training <= self._measured)

    def _held(self, worker: int) -> int:
        return sum(len(block.positions) for block in self._holdings[worker])

    def _begin(self, worker: int, ledger: Ledger, speeds: Mapping[int, float]) -> None:
        """Start the worker's next iteration over all that it holds."""
        self._iteration[worker] += 1
        a = self._iteration[worker]
        if a > self._num_released and a < len(self._released):
            self._release(a, speeds)
        due = self._due(self._blocks(worker, a), a)
        if len(due):
            rng = np.random.default_rng((self.plan.seed, a, worker))
            ledger.deal(epoch=a, owner=worker, indices=rng.permutation(self._order[due]))
            self._pieces[worker, a] = min(self._num_rounds(a, ledger.committed), len(due))

    def _blocks(self, worker: int, iteration: int) -> Positions:
        held = [block.positions for block in self._holdings[worker] if block.start <= iteration]
        return np.concatenate(held) if held else np.zeros(0, np.int64)

    def _due(self, positions: Positions, iteration: int) -> Positions:
        """The positions that the iteration trains: all, or an even part of them in a partial last iteration."""
        size, whole = self._sizes[iteration - 1], self._released[min(iteration, len(self._released) - 1)]
        if size == whole:
            return positions
        return positions[(positions + 1) * size // whole > positions * size // whole]

    def _num_rounds(self, iteration: int, committed: int) -> int:
        """Exchanges per iteration, the same for all workers: the largest holding sets it."""
        if iteration not in self._rounds:
            largest = max(len(self._due(self._blocks(w, iteration), iteration)) for w in self._holdings)
            self._rounds[iteration] = max(1, ceil(largest / self.plan.lease_size(committed)))
        return self._rounds[iteration]

    # ----------------------------------------------------------------------------------- all workers

    def _release(self, a: int, speeds: Mapping[int, float]) -> None:
        """Hand out batch ``a`` for good."""
        first, last = self._released[a - 1], self._released[a]
        split = self._split(last - first, {w: speeds[w] for w in sorted(self._holdings) if w in speeds})
        ends = first + np.cumsum([0, *split.values()])
        for worker, (start, end) in zip(split, pairwise(ends), strict=True):
            self._holdings[worker].append(Block(a, np.arange(start, end)))
        self._num_released = a
        self._measured = set()

    def _split(self, size: int, speeds: Mapping[int, float]) -> dict[int, int]:
        if self._form == "equal":
            return apportion(size, dict.fromkeys(speeds, 1.0))
        if self._form == "per_batch":
            return apportion(size, speeds)
        return water_fill(size, speeds, {worker: self._held(worker) for worker in speeds})

    def _inherit(self, heir: int, positions: Positions, start: int, ledger: Ledger) -> None:
        """Give ``heir`` positions due from iteration ``start`` on; iterations it has passed go to the shared pool."""
        own = len(self._sizes) + 1 if heir == SHARED else max(start, self._iteration[heir] + 1)
        for iteration in range(start, own):
            due = self._due(positions, iteration)
            if len(due):
                ledger.deal(epoch=iteration, owner=SHARED, indices=self._order[due])
        if heir != SHARED:
            self._holdings[heir].append(Block(own, positions))

    def _orphans(self, idle: Sequence[int], ledger: Ledger, speeds: Mapping[int, float]) -> dict[int, Grant | None]:
        """Split the earliest shared pool among workers that have nothing of their own left."""
        whole = self.orphan(ledger, float("inf")) if idle else None
        if whole is None:
            return {}
        most = min(self.plan.lease_size(ledger.committed) * len(idle), whole.count)
        parts = apportion(int(most), {worker: speeds[worker] for worker in idle})
        return {worker: Grant(whole.epoch, SHARED, count) for worker, count in parts.items() if count}


def released_up_to(num_samples: int, batches: int) -> list[int]:
    """Samples released up to batch 0, 1, ..., A.

    Rounded down in the first half and up in the second, so that the iterations of an odd A add up to exactly
    ``N (A + 1) / 2`` and no stray samples are left for an iteration of their own.

    Args:
        num_samples: N.
        batches: A.

    Returns:
        A + 1 numbers from 0 to N.

    Example:
        >>> released_up_to(100, 3)
        [0, 33, 67, 100]
    """
    half = [num_samples * a // batches for a in range(batches // 2 + 1)]
    return half + [num_samples - count for count in reversed(half[: (batches + 1) // 2])]


def iteration_sizes(total: int, released: Sequence[int]) -> list[int]:
    """Samples trained in each iteration until the budget is spent: K epochs take K + (A - 1)/2 iterations.

    Args:
        total: K N, the budget.
        released: samples released up to iteration 1, 2, ..., A; the last is N.

    Returns:
        Sizes that sum to ``total``; the last may be a part of an iteration.

    Example:
        >>> iteration_sizes(200, [50, 100])
        [50, 100, 50]
    """
    sizes: list[int] = []
    while total > 0:
        size = min(total, released[min(len(sizes), len(released) - 1)])
        sizes.append(size)
        total -= size
    return sizes
