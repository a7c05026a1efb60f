"""INNER LAYER: one worker. Leases come in, local steps run, differences go out."""

from bptcnn.inner.learner import Learner, accuracy_of
from bptcnn.inner.local import LocalWorker
from bptcnn.inner.optimizer import OptimizerConfig, ScheduleConfig
from bptcnn.inner.throttle import Throttle

__all__ = ["Learner", "LocalWorker", "OptimizerConfig", "ScheduleConfig", "Throttle", "accuracy_of"]
"""The public names of the inner layer."""
