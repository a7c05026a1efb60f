"""Data allocation: how many samples each worker gets, and when.

``uniform`` and ``idpa`` give a worker a part of the data to keep (Chen et al., TPDS 2019, section on data
partitioning); ``dynamic`` leases small chunks of a common pool on demand.
"""

from typing import Annotated, TypeAlias

from pydantic import Field

from bptcnn.outer.allocation.apportion import apportion, water_fill
from bptcnn.outer.allocation.base import Allocator, ExchangeConfig, Grant, Plan
from bptcnn.outer.allocation.dynamic import Dynamic
from bptcnn.outer.allocation.partition import Idpa, Uniform

Allocation: TypeAlias = Annotated[Uniform | Idpa | Dynamic, Field(discriminator="name")]
"""Any allocation section; its ``name`` says which."""

ALLOCATIONS: dict[str, type[Uniform | Idpa | Dynamic]] = {"uniform": Uniform, "idpa": Idpa, "dynamic": Dynamic}
"""Known allocations by name."""

__all__ = [
    "ALLOCATIONS",
    "Allocation",
    "Allocator",
    "Dynamic",
    "ExchangeConfig",
    "Grant",
    "Idpa",
    "Plan",
    "Uniform",
    "apportion",
    "water_fill",
]
