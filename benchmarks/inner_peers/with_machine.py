"""The machine itself: what a core reaches at the moment, in the task that shows its peak.

Cores that other systems share may lose half their arithmetic from one second to the next, without a sign of it in the
times that this one keeps. Hence each round asks them, one process a core, all at once.
"""

from __future__ import annotations

import torch

from bptcnn.inner.machine.memory import keep_memory
from inner_peers.case import Setup
from inner_peers.peak import TASKS


class Runner:
    """A task on one thread, again and again.

    Args:
        setup: names the task behind ``machine``.
    """

    version = torch.__version__

    def __init__(self, setup: Setup) -> None:
        keep_memory()
        torch.set_num_threads(1)
        self._task = TASKS[setup.contender.split()[1]](setup.case.precision)

    def run(self, num_steps: int) -> float:
        """Do it so many times; their floating-point operations."""
        with torch.no_grad():
            for _ in range(num_steps):
                self._task.run()
        return float(num_steps * self._task.flop)
