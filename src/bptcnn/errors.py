"""Every error a user can meet.

::

    BptcnnError                 one sentence: what is wrong, the value, what to do; exit code 2
    ├── ConfigError             a recipe, flag or argument (also a ValueError)
    ├── DataError               a data set: missing, damaged, not what it says
    ├── ModelError              a network: unknown, or it does not fit the data
    │   └── UnsupportedError    a network that can't be compiled; PyTorch computes it then
    ├── RunFolderError          a run folder: in use, of another configuration, not a run
    │   └── CheckpointError     a checkpoint: damaged or incomplete
    ├── ClusterError            a Ray cluster that cannot be reached or lacks room
    │   └── ServerLostError     the connection of a worker to the server broke
    └── TrainingError           training had to stop
        ├── DivergedError       the loss is no longer a number
        ├── WorkerError         the user's own code failed inside a worker
        └── WorkersLostError    no worker is left

Our own bugs are ``assert`` failures and keep their traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class BptcnnError(Exception):
    """Base of all errors meant for users; the message is one sentence."""


class ConfigError(BptcnnError, ValueError):
    """A recipe, flag or argument is wrong."""


class DataError(BptcnnError):
    """A data set is missing, damaged or not what it says."""


class ModelError(BptcnnError):
    """A network is unknown or does not fit the data."""


class UnsupportedError(ModelError):
    """A network can't be compiled; the message says which part of it, and PyTorch computes it then."""


class RunFolderError(BptcnnError):
    """A run folder is in use, belongs to another configuration, or is no run."""


class CheckpointError(RunFolderError):
    """A checkpoint is damaged or incomplete."""


class ClusterError(BptcnnError):
    """A Ray cluster cannot be reached or lacks room."""


class ServerLostError(ClusterError):
    """The connection of a worker to the server broke."""


class TrainingError(BptcnnError):
    """Training had to stop."""


class DivergedError(TrainingError):
    """The loss is no longer a number."""


class WorkerError(TrainingError):
    """The user's model or data set failed inside a worker."""


class WorkersLostError(TrainingError):
    """No worker is left to train."""


def unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """Say that a name is unknown, with the nearest known one.

    Args:
        kind: what is named, such as ``"model"``.
        name: what the user wrote.
        known: the names that exist.

    Returns:
        One sentence for an error message.

    Example:
        >>> unknown("model", "lenet", ["lenet5", "resnet8"])
        "unknown model 'lenet': did you mean 'lenet5'? (known: lenet5, resnet8)"
    """
    names = sorted(known)
    near = difflib.get_close_matches(str(name), names, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}? (known: {', '.join(names)})" if near else f"use one of {', '.join(names)}"
    return f"unknown {kind} {name!r}: {hint}"
