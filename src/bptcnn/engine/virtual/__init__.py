"""The virtual engine: the same coordinator and the same local steps, on a virtual clock, with faults on demand."""

from bptcnn.engine.virtual.faults import FaultPlan
from bptcnn.engine.virtual.link import Link
from bptcnn.engine.virtual.simulation import Simulation
from bptcnn.engine.virtual.trace import Speeds, SpeedTrace, changing, steady

__all__ = ["FaultPlan", "Link", "Simulation", "SpeedTrace", "Speeds", "changing", "steady"]
"""The public names of the virtual engine."""
