"""What every allocation answers: which samples do these workers train next?"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field, field_validator

from bptcnn.outer.ledger import SHARED, Ledger
from bptcnn.section import Section
from bptcnn.wire import Dtype


class ExchangeConfig(Section):
    """How often workers exchange weights."""

    every: int | Literal["epoch"] = Field(default=4)
    """Local steps between two exchanges of the worker with the largest share (the others' are in proportion), or
    ``"epoch"``: one exchange per pass of a worker over its data."""

    post: float = Field(default=0.0, ge=0, le=1)
    """Post-local SGD: so great a part of the run passes with an exchange after every step, before ``every`` holds."""

    batches: Literal["proportional", "equal"] = "proportional"
    """Samples of a local step. ``proportional``: ``batch_size`` for the fastest worker and less for others, so that all
    make the same number of steps (but see ``smallest_step``); ``equal``: ``batch_size`` for all, so that slower ones
    make fewer. Where all workers hold as much (``uniform``), their steps are equal anyway."""

    smallest_step: float = Field(default=0.125, ge=0, le=1)
    """Samples of a local step at least, as a part of ``batch_size``: a worker so slow that its part of a step is less
    makes fewer steps between two exchanges instead, and where all that it trains in between is less than one such step,
    its learning rate is less in proportion. A rate that suits whole batches is too much for a few samples: they would
    lead the worker astray. 0 for no such limit."""

    overlap: bool = True
    """Train on while push and pull travel, and, in a round, while others are still at it; what an answer changes is
    then folded in one lease later."""

    dtype: Dtype = "fp32"
    """How weights travel: ``fp32`` as they are, ``bf16`` in half of the bytes, ``int8`` in about a quarter, ``int4`` in
    an eighth, ``2bit`` in a 14th. Rounded are differences only, and what is lost is added to the next. Elastic
    averaging can't do that: ``int8`` is the least there. Gossip has no differences: there it is ``bf16``."""

    @field_validator("every", mode="before")
    @classmethod
    def _cadence(cls, value: Any) -> Any:
        if value == "epoch" or (isinstance(value, int) and value >= 1):
            return value
        raise ValueError("give a number of local steps, 1 or more, or 'epoch'")


@dataclass(frozen=True, slots=True)
class Plan:
    """The fixed facts that an allocation works from.

    Attributes:
        num_samples: N, size of the training set.
        epochs: K, how often each sample is to be trained on average.
        batch_size: samples of one local step.
        every: local steps between exchanges, or ``"epoch"``.
        seed: of all orders.
        proportional: whether slower workers make smaller steps, rather than fewer.
        smallest_step: samples of a local step at least.
        post: part of the run in which workers exchange after every step.
    """

    num_samples: int
    epochs: int
    batch_size: int
    every: int | Literal["epoch"]
    seed: int
    proportional: bool = False
    smallest_step: int = 1
    post: float = 0.0

    def cadence(self, committed: int) -> int | Literal["epoch"]:
        """Local steps between exchanges, when so many samples of the run are committed."""
        return 1 if committed < self.post * self.total else self.every

    def step_size(self, worker: int, speeds: Mapping[int, float]) -> int:
        """Samples of one local step of a worker.

        Args:
            worker: whose.
            speeds: samples/s of every worker that takes part.

        Returns:
            ``batch_size`` for the fastest; ``smallest_step`` at least.
        """
        if not self.proportional:
            return self.batch_size
        return max(self.smallest_step, round(self.batch_size * speeds[worker] / max(speeds.values())))

    @property
    def total(self) -> int:
        """Samples to commit in the whole run."""
        return self.num_samples * self.epochs

    def lease_size(self, committed: int) -> float:
        """Samples between exchanges of the largest worker; infinite for one exchange per epoch."""
        every = self.cadence(committed)
        return float("inf") if every == "epoch" else float(every * self.batch_size)


@dataclass(frozen=True, slots=True)
class Grant:
    """Take ``count`` samples from the pool (epoch, owner)."""

    epoch: int
    owner: int
    count: int


class Allocator(ABC):
    """The running state of an allocation; it deals samples into the ledger's pools and says who draws what.

    Args:
        plan: the fixed facts.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan

    @abstractmethod
    def join(self, worker: int) -> None:
        """A worker that was never seen before takes part from now."""

    @abstractmethod
    def leave(self, worker: int, ledger: Ledger, speeds: Mapping[int, float]) -> None:
        """A worker will not come back: deal what it holds to the others.

        Args:
            worker: who left.
            ledger: the pools.
            speeds: samples/s of the workers that remain.
        """

    @abstractmethod
    def next(self, ready: Sequence[int], ledger: Ledger, speeds: Mapping[int, float]) -> dict[int, Grant]:
        """Decide what each of these workers trains next.

        Args:
            ready: workers that take a lease now, together (all of a round, or one).
            ledger: the pools; new samples may be dealt into them.
            speeds: measured samples/s of every worker that takes part.

        Returns:
            A grant for each worker that has something to do. Grants must be drawn before the next call.
        """

    @abstractmethod
    def snapshot(self) -> dict[str, Any]:
        """The state as a tree for a checkpoint."""

    @abstractmethod
    def resume(self, tree: dict[str, Any]) -> None:
        """Take over the state that ``snapshot`` described."""

    @abstractmethod
    def returned(self, worker: int, epoch: int) -> None:
        """A lease of a worker's own samples came back to their pool.

        Args:
            worker: whose samples.
            epoch: the epoch they count for.
        """

    @abstractmethod
    def measured(self, worker: int) -> None:
        """A worker finished a lease, so that its speed is known better than before."""

    def orphan(self, ledger: Ledger, wanted: float) -> Grant | None:
        """A grant from the shared pools, earliest epoch first; None if they are empty.

        Args:
            ledger: the pools.
            wanted: samples the worker would take.
        """
        epoch = ledger.earliest(SHARED)
        if epoch is None:
            return None
        available = ledger.available(epoch, SHARED)
        return Grant(epoch, SHARED, int(min(available, max(1, wanted))))
