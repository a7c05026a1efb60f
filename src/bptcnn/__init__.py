"""bptcnn trains convolutional networks across machines that are not alike.

>>> import bptcnn
>>> config = bptcnn.RunConfig(strategy="agwu", allocation="idpa", workers={"count": 4})
>>> config.strategy.name
'agwu'
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bptcnn.api import simulate, train
    from bptcnn.config import RunConfig
    from bptcnn.errors import BptcnnError
    from bptcnn.launch import Run

__version__ = "0.1.0"
"""The version of this package."""

__all__ = ["BptcnnError", "Run", "RunConfig", "__version__", "simulate", "train"]

_HOMES = {
    "BptcnnError": "errors",
    "Run": "launch",
    "RunConfig": "config",
    "simulate": "api",
    "train": "api",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: PyTorch takes a second, which ``bptcnn --help`` need not."""
    if name not in _HOMES:
        raise AttributeError(f"module 'bptcnn' has no attribute {name!r}")
    return getattr(import_module(f"bptcnn.{_HOMES[name]}"), name)
