"""Anytime rounds: local SGD whose rounds end by the clock (Ferdinand et al., "Anytime Minibatch", ICLR 2019)."""

from __future__ import annotations

from typing import ClassVar, Literal

from bptcnn.outer.rules.local_sgd import Averaging


class Anytime(Averaging):
    """A round lasts a fixed time; each worker makes as many local steps as fit, and what it has not trained goes back.

    Maths: that of local SGD, ``W(i) = W(i-1) + sum_j (n_j / sum n) (W_j - W(i-1))``, with n_j the samples that worker j
    came to. The time is what ``exchange.every`` steps of the fastest worker should take at the speeds measured so far,
    so a worker that is suddenly slower holds nobody up: it pushes fewer samples.

    Example:
        >>> Anytime().timed, Anytime().synchronous
        (True, True)
    """

    timed: ClassVar[bool] = True

    name: Literal["anytime"] = "anytime"
    """Selects this rule."""
