"""The contract of an update rule, with the smallest example inside.

>>> import numpy as np
>>> class Mean(UpdateRule):
...     name: str = "mean"
...     def scales(self, contributions, peers, version):
...         return [1 / len(contributions)] * len(contributions)
>>> ones = np.ones(2, np.float32)
>>> pushes = [Contribution(worker, 2 * ones, base_version=0, num_samples=64, accuracy=0.5) for worker in (0, 1)]
>>> Mean().merge(ones, pushes, peers={}, version=0).weights
array([3., 3.], dtype=float32)
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar, Literal, NamedTuple, TypeAlias

from typing_extensions import Self

from bptcnn.outer.messages import Vector
from bptcnn.outer.rules.combine import combine
from bptcnn.section import Section

Memory: TypeAlias = Mapping[str, Vector]
"""What a rule remembers from merge to merge, float32 [num_weights] each; saved in checkpoints."""

AccuracySource = Literal["training", "validation"]
AccuracyWeight = Literal["raw", "relative", "none"]


@dataclass(frozen=True, slots=True)
class Contribution:
    """What a rule sees of one push.

    Attributes:
        worker: who pushed.
        delta: what the rule lets workers push, as a rule local minus base weights, float32 [num_weights]; None when
            only timing is simulated.
        base_version: k, the global version it was trained from.
        num_samples: samples trained.
        accuracy: Q, 0 to 1.
        mass: what the weights count for, where workers exchange them among themselves.
    """

    worker: int
    delta: Vector | None
    base_version: int
    num_samples: int
    accuracy: float
    mass: float = 1.0


NOTHING: Memory = MappingProxyType({})


class Peer(NamedTuple):
    """What a rule knows of a worker that takes part.

    Attributes:
        base_version: the version it trains from.
        accuracy: its latest, if it has pushed.
        share: its part of the sum of the speeds; None where nobody measured.
    """

    base_version: int
    accuracy: float | None
    share: float | None = None


class Merged(NamedTuple):
    """What a merge makes: W(i), the factor of each contribution, and what is remembered for the next."""

    weights: Vector | None
    scales: list[float]
    memory: Memory


class UpdateRule(Section, ABC):
    """Settings and pure functions of one update rule.

    A subclass sets ``name`` and implements ``scales``, and ``move`` if there is more to it than a sum; it is
    synchronous if a merge waits for all workers. What workers do differently from others is in ``outgoing`` and
    ``correction``.
    """

    synchronous: ClassVar[bool] = False
    meets: ClassVar[Literal["server", "team", "peers"]] = "server"
    """Where what workers have learned comes together: at the server; in a sum that a team makes of a round, and hands
    to the server; or among workers only, each of which has weights of its own."""

    pushes_differences: ClassVar[bool] = True
    """Whether what a worker pushes is what it learned since the last push; else it is its weights as such."""

    timed: ClassVar[bool] = False
    """Whether a lease ends by the clock, after the time that it should take."""

    accuracy_from: AccuracySource = "training"
    """Where Q is measured: over the training batches of the lease, or on a held-out subset shared by all workers."""

    @abstractmethod
    def scales(self, contributions: Sequence[Contribution], peers: Mapping[int, Peer], version: int) -> list[float]:
        """The factor of each difference in ``W(i) = W(i-1) + sum scale * delta``.

        Args:
            contributions: one push, or all pushes of a round when synchronous; never empty.
            peers: every worker that takes part, the pushing ones included.
            version: i - 1, the merges done before this one.

        Returns:
            One factor a contribution.
        """

    def merge(
        self,
        weights: Vector | None,
        contributions: Sequence[Contribution],
        peers: Mapping[int, Peer],
        version: int,
        memory: Memory = NOTHING,
    ) -> Merged:
        """Make the next global weights; the old ones are left as they are.

        Args:
            weights: W(i-1), float32 [num_weights]; None when only timing is simulated.
            contributions: as for ``scales``.
            peers: as for ``scales``.
            version: as for ``scales``.
            memory: of the last merge; empty at first.

        Returns:
            W(i), the factors used, and what to remember.
        """
        scales = self.scales(contributions, peers, version)
        deltas = [push.delta for push in contributions if push.delta is not None]
        if weights is None or len(deltas) < len(scales):
            return Merged(weights, scales, memory)
        moved, remembered = self.move(weights, scales, deltas, version, memory)
        return Merged(moved, scales, remembered)

    def move(
        self, weights: Vector, scales: Sequence[float], deltas: Sequence[Vector], version: int, memory: Memory
    ) -> tuple[Vector, Memory]:
        """The arithmetic of a merge: ``W + sum_j scale_j delta_j``, unless a rule does more.

        Args:
            weights: W(i-1), float32 [num_weights]; not to be written to.
            scales: one factor a difference, at least one.
            deltas: float32 [num_weights] each; not to be written to.
            version: as for ``scales``.
            memory: of the last merge; its vectors are not to be written to either.

        Returns:
            W(i) in memory of its own, and what to remember.
        """
        return combine(weights, scales, deltas), memory

    # ------------------------------------------------------------------------------- the worker's half

    def settled(self, num_workers: int) -> Self:
        """The rule with what it leaves to the number of workers filled in.

        Args:
            num_workers: m, at least 1.

        Returns:
            Itself, if there is no such setting.
        """
        return self

    def cadence(self, every: int | Literal["epoch"]) -> int | Literal["epoch"]:
        """How many local steps a lease holds, if the rule has a say in it.

        Args:
            every: as configured in ``exchange.every``.
        """
        return every

    @property
    def keeps_local(self) -> bool:
        """Whether a worker's weights stay its own, rather than become the global ones with each answer."""
        return False

    @property
    def alone_until(self) -> float:
        """The part of the run that one worker trains before the others begin, 0 to 1."""
        return 0.0

    @property
    def local_momentum(self) -> float | None:
        """The momentum that the rule prescribes to the workers' optimizer; None to leave it as it is configured."""
        return None

    def outgoing(self, local: Vector, base: Vector) -> Vector:
        """What a worker pushes: by default the difference that it made, ``W_j - W(k)``.

        Args:
            local: W_j, float32 [num_weights]; not to be written to.
            base: W(k), the global weights that it received last; not to be written to.

        Returns:
            float32 [num_weights], in memory of its own.
        """
        return local - base

    def correction(self, base: Vector, pushed: Vector, weights: Vector) -> Vector:
        """What the answer to a push adds to the local weights, which may have moved on since.

        Maths: ``W(i) - W(k) - pushed`` by default, so that the worker goes on from W(i), keeping what it has learned
        since the push.

        Args:
            base: W(k), float32 [num_weights]; none of the three is to be written to.
            pushed: what ``outgoing`` returned.
            weights: W(i), the global weights in the answer.

        Returns:
            float32 [num_weights], in memory of its own.
        """
        added: Vector = weights - base
        added -= pushed
        return added
