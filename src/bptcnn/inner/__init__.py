"""INNER LAYER: one worker. Leases come in, local steps run, differences go out.

A step is a network's layers (``graph``), written as kernel calls on blocks of samples and divided into tasks
(``lowering``), which threads work off, critical path first (``tasks``, ``lanes``); the kernels are machine code made
for this machine's vectors (``machine``, ``kernels``). What can't be compiled runs in PyTorch (``eager``). ``Learner``
does a worker's arithmetic with it, on the CPU or a GPU (``cuda``), ``Exchange`` sends and takes in weights through a
server and ``Mixing`` from worker to worker, ``LocalWorker`` keeps the leases, ``TrainStep`` is for those without a
cluster.
"""

from bptcnn.inner.exchange import Exchange
from bptcnn.inner.learner import Learner, accuracy_of
from bptcnn.inner.local import LocalWorker
from bptcnn.inner.mixing import Mixing, Parcel, Recipient
from bptcnn.inner.optimizer import OptimizerConfig, ScheduleConfig
from bptcnn.inner.step import TrainStep
from bptcnn.inner.throttle import Throttle

__all__ = [
    "Exchange",
    "Learner",
    "LocalWorker",
    "Mixing",
    "OptimizerConfig",
    "Parcel",
    "Recipient",
    "ScheduleConfig",
    "Throttle",
    "TrainStep",
    "accuracy_of",
]
"""The public names of the inner layer."""
