"""Who watches a run."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

from bptcnn.errors import BptcnnError
from bptcnn.inner.account import LastStep
from bptcnn.outer.messages import Vector
from bptcnn.outer.status import Status


class Observer(Protocol):
    """Is told how a run goes; both engines call it."""

    def status(self, status: Status) -> None:
        """The job as it stands, a few times a second."""

    def notice(self, text: str) -> None:
        """One sentence that a user should read."""


class Silent:
    """An observer that shows nothing."""

    def status(self, status: Status) -> None:
        """Ignore it."""

    def notice(self, text: str) -> None:
        """Ignore it."""


class Result(NamedTuple):
    """What an engine gives back.

    Attributes:
        summary: what the run came to.
        weights: the final ones; None if only timing was simulated.
        notices: what the user was told.
        error: what went wrong in the user's own code, to be raised once the rest is written.
        last_steps: what workers told of theirs; nothing where time is virtual.
    """

    summary: dict[str, Any]
    weights: Vector | None
    notices: tuple[str, ...]
    error: BptcnnError | None = None
    last_steps: Mapping[int, LastStep] = MappingProxyType({})
