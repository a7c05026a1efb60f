"""Synchronous SGD, summed among the workers: every step an all-reduce."""

from __future__ import annotations

from typing import Literal

from bptcnn.outer.rules.local_sgd import Averaging


class AllReduce(Averaging):
    """After each step all workers take the mean of what they learned in it, by samples, and hand it to the server.

    Maths: ``W(i) = W(i-1) + sum_j (n_j / sum n) (W_j - W(i-1))``, where W_j is one step from W(i-1). Momentum is
    linear, so while shares stay as they are this is SGD on the batch of all workers together.

    As ``torch.nn.parallel.DistributedDataParallel`` trains, and the yardstick for all others: with uniform allocation
    batches are equal and everybody waits for the slowest, with dynamic allocation they are in proportion to speed.

    Example:
        >>> AllReduce().cadence(16)
        1
    """

    meets = "team"

    name: Literal["allreduce"] = "allreduce"
    """Selects this rule."""

    def cadence(self, every: int | Literal["epoch"]) -> int | Literal["epoch"]:
        """One step (see ``UpdateRule.cadence``)."""
        return 1
