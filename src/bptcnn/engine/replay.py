"""Playing a journal again: a run's events, without their vectors, lead a fresh coordinator to the same commands."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, NamedTuple, get_args

from bptcnn import telemetry
from bptcnn.engine.journal import name_of, plain
from bptcnn.outer import coordination
from bptcnn.outer.coordinator import Setup
from bptcnn.outer.messages import Command, Event, SaveCheckpoint

_EVENTS: dict[str, type[Any]] = {name_of(kind): kind for kind in get_args(Event)}
_COMMANDS: set[str] = {name_of(kind) for kind in get_args(Command)}


class Step(NamedTuple):
    """One event of a journal.

    Attributes:
        at_s: the run's clock.
        event: what happened, without vectors.
        recorded: the commands that followed, as the journal has them.
        ordered: the commands that a coordinator gives now, written likewise.
    """

    at_s: float
    event: Event
    recorded: list[dict[str, Any]]
    ordered: list[dict[str, Any]]


def replay(events_path: Path, setup: Setup) -> Iterator[Step]:
    """Lead a coordinator through a run, restarts of the server included.

    A server that was killed may not have written down what followed from its very last event.

    Args:
        events_path: ``events.jsonl`` of the run.
        setup: the run's fixed facts; the session numbers are those of the journal.

    Yields:
        Every event with both lists of commands; in a journal of this version they are equal.

    Raises:
        RunFolderError: the journal cannot be read.
    """
    player = _Player(setup)
    for record, commands in _turns(telemetry.read(events_path)):
        if record["event"] == "session_started":
            player.begin(record["session"], record["checkpoint"], record["t"])
        else:
            yield player.play(record, commands)


class _Player:
    """A coordinator and the checkpoints that it would have on disk."""

    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        self._saved: dict[int, Any] = {}
        self._number = 0

    def begin(self, session: int, restored: str | None, at_s: float) -> None:
        """Start a server anew, from the checkpoint it named."""
        setup = replace(self._setup, session=session)
        self._number = int(restored or 0)
        if restored is None:
            self._coordinator = coordination.begin(setup, None)
        else:
            self._coordinator = coordination.restore(setup, copy.deepcopy(self._saved[self._number]), at_s)

    def play(self, record: dict[str, Any], recorded: list[dict[str, Any]]) -> Step:
        """Hand one event to the coordinator."""
        kind, at_s = _EVENTS[record["event"]], record["t"]
        event = kind(**{field.name: record.get(field.name) for field in fields(kind)})
        commands = self._coordinator.handle(event, at_s)
        if any(isinstance(command, SaveCheckpoint) for command in commands):
            self._number += 1
            self._saved[self._number] = self._coordinator.snapshot(at_s)
        return Step(at_s, event, recorded, [{"event": name_of(type(c)), **plain(c)} for c in commands])


def _turns(records: Iterable[dict[str, Any]]) -> Iterator[tuple[dict[str, Any], list[dict[str, Any]]]]:
    """Each event or start of a session, with the commands that stand below it."""
    first: dict[str, Any] | None = None
    commands: list[dict[str, Any]] = []
    for record in records:
        if record["event"] in _COMMANDS:
            commands.append({key: value for key, value in record.items() if key != "t"})
            continue
        if first is not None:
            yield first, commands
        first, commands = record, []
    if first is not None:
        yield first, commands
