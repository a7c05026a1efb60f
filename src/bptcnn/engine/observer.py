"""Who watches a run."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

from bptcnn.outer.messages import Vector
from bptcnn.outer.status import Status


class Observer(Protocol):
    """Is told how a run goes; both engines call it."""

    def status(self, status: Status) -> None:
        """The job as it stands, a few times a second."""

    def notice(self, text: str) -> None:
        """One sentence that a user should read."""


class Result(NamedTuple):
    """What an engine gives back: the summary, the final weights (None if only timing was simulated), the notices."""

    summary: dict[str, Any]
    weights: Vector | None
    notices: tuple[str, ...]
