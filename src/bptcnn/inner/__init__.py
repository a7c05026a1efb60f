"""INNER LAYER: one worker. Leases come in, local steps run, differences go out.

A step is a network's layers (``graph``) written as kernel calls on blocks of samples (``lower``, ``backward``), divided
into tasks (``program``, ``tasks``) that threads work off, critical path first (``schedule``, ``lanes``); the kernels
themselves are machine code made for this machine's vectors (``kernels``). What can't be compiled runs in PyTorch
(``eager``). ``Learner`` does the arithmetic of one worker with it, ``LocalWorker`` keeps the leases.
"""

from bptcnn.inner.learner import Learner, accuracy_of
from bptcnn.inner.local import LocalWorker
from bptcnn.inner.optimizer import OptimizerConfig, ScheduleConfig
from bptcnn.inner.step import TrainStep
from bptcnn.inner.throttle import Throttle

__all__ = ["Learner", "LocalWorker", "OptimizerConfig", "ScheduleConfig", "Throttle", "TrainStep", "accuracy_of"]
"""The public names of the inner layer."""
