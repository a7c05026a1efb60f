"""Which coordinator a rule asks for."""

from __future__ import annotations

from typing import Any

from bptcnn.outer.central import CentralCoordinator
from bptcnn.outer.collective import CollectiveCoordinator
from bptcnn.outer.coordinator import Coordinator, Setup
from bptcnn.outer.gossip import GossipCoordinator
from bptcnn.outer.messages import Vector


def begin(setup: Setup, weights: Vector | None) -> Coordinator:
    """The coordinator of a new run.

    Args:
        setup: what is fixed.
        weights: W(0), float32 [num_weights]; None to simulate timing only.
    """
    return _kind(setup)(setup, weights)


def restore(setup: Setup, tree: dict[str, Any], now: float) -> Coordinator:
    """The coordinator that ``Coordinator.snapshot`` described; all workers have yet to join again.

    Args:
        setup: what is fixed, with a new session number.
        tree: the snapshot.
        now: the engine's clock, seconds.
    """
    return _kind(setup).restore(setup, tree, now)


def _kind(setup: Setup) -> type[CentralCoordinator] | type[GossipCoordinator]:
    match setup.strategy.meets:
        case "server":
            return CentralCoordinator
        case "team":
            return CollectiveCoordinator
        case "peers":
            return GossipCoordinator
