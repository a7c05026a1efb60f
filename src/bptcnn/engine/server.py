"""The parameter server, whatever carries its messages: coordinator, journal and checkpoints as one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from bptcnn import checkpoint
from bptcnn.engine.journal import Journal
from bptcnn.outer import coordination
from bptcnn.outer.coordinator import Coordinator, Setup
from bptcnn.outer.messages import Command, Evaluated, Event, SaveCheckpoint, StopRequested, Vector
from bptcnn.outer.status import Status

Save = Callable[[dict[str, Any]], None]


class Server:
    """Journals each event, lets the coordinator decide, saves when told to, and hands the other commands out.

    An evaluation that reaches the target is followed by the request to stop.

    Args:
        coordinator: decides.
        journal: remembers.
        save: writes a checkpoint, now or in the background.
    """

    def __init__(self, coordinator: Coordinator, journal: Journal, save: Save) -> None:
        self.coordinator = coordinator
        self._journal = journal
        self._save = save

    def handle(self, event: Event, now: float) -> list[Command]:
        """One atomic step.

        Args:
            event: what happened.
            now: the run's clock, seconds, rounded as the journal rounds it so that a replay hears the same.

        Returns:
            Commands for the engine, in order.
        """
        now = round(now, 6)
        self._journal.event(event, now)
        commands = self.coordinator.handle(event, now)
        supply = self.coordinator.supply
        self._journal.curves(event, now, supply.ledger.committed, supply.plan.total)
        for command in commands:
            self._journal.command(command, now)
            if isinstance(command, SaveCheckpoint):
                self._journal.flush()  # the journal on disk reaches at least as far as any checkpoint
                self._save(self.coordinator.snapshot(now))
        commands = [command for command in commands if not isinstance(command, SaveCheckpoint)]
        if isinstance(event, Evaluated) and self._ends_with(event):
            commands += self.handle(StopRequested("finished", "the target accuracy is reached"), now)
        return commands

    def _ends_with(self, event: Evaluated) -> bool:
        target = self.coordinator.setup.evaluation.target
        return target is not None and event.accuracy >= target and self.coordinator.outcome is None

    def status(self, now: float) -> Status:
        """The whole job at this moment."""
        coordinator, ledger = self.coordinator, self.coordinator.supply.ledger
        elapsed_s, total = coordinator.tally.elapsed_s(now), coordinator.setup.plan.total
        speed = ledger.committed / elapsed_s if elapsed_s > 0 else 0.0
        history = coordinator.tally.history
        started, over = coordinator.tally.started_s is not None, coordinator.outcome is not None
        rows = (
            member.status(
                member.state(holds=bool(ledger.outstanding(worker)), started=started, over=over),
                elapsed_s=elapsed_s,
                committed=ledger.committed,
            )
            for worker, member in coordinator.members.items()
        )
        return Status(
            elapsed_s=elapsed_s,
            committed=ledger.committed,
            total=total,
            version=coordinator.model.version,
            samples_per_s=speed,
            eta_s=(total - ledger.committed) / speed if speed else None,
            test_accuracy=history[-1][2] if history else None,
            workers=tuple(rows),
        )


def start_or_restore(setup: Setup, checkpoints: Path, weights: Vector | None, now: float) -> Coordinator:
    """A coordinator from the newest checkpoint, or a new one if there is none.

    Args:
        setup: what is fixed.
        checkpoints: the run's checkpoint folder.
        weights: W(0) for a new one.
        now: the run's clock, seconds.

    Returns:
        The coordinator.

    Raises:
        CheckpointError: the newest checkpoint is damaged.
    """
    newest = checkpoint.newest(checkpoints)
    if newest is None:
        return coordination.begin(setup, weights)
    return coordination.restore(setup, checkpoint.load(newest), round(now, 6))


def write_checkpoint(checkpoints: Path, keep: int, tree: dict[str, Any]) -> None:
    """Save a coordinator's state under the next number and drop old ones.

    Args:
        checkpoints: the run's checkpoint folder.
        keep: how many stay.
        tree: the state.
    """
    taken = checkpoint.names(checkpoints)
    checkpoint.save(checkpoints, f"{int(taken[-1]) + 1 if taken else 1:06d}", tree)
    checkpoint.prune(checkpoints, keep)
