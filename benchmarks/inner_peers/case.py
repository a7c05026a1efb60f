"""What is trained, and the messages between ``benchmarks/inner.py`` and a contender's process.

Imports neither PyTorch nor bptcnn: the other frameworks' processes must not carry them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from inner_peers.layers import Network

CONTENDERS = (
    "ours",
    "pytorch",
    "pytorch channels_last",
    "pytorch channels_last alloc",
    "compile",
    "compile channels_last",
    "compile channels_last alloc",
    "tensorflow",
    "jax",
)
"""``alloc``: with the allocator set as for ours; ``compile``: ``torch.compile``."""

NUM_CLASSES = 10
SEED = 0
LR = 0.01
MOMENTUM = 0.9
WEIGHT_DECAY = 1e-4
"""SGD with Nesterov's momentum, in the form of ``torch.optim.SGD``."""

NUM_BATCHES = 4
"""That the steps go through in turns; of random images and labels."""


@dataclass(frozen=True)
class Case:
    """What is trained.

    Attributes:
        model: of the zoo.
        shape: of an image: channels, height, width.
        batch_size: images in a step.
        precision: ``fp32``, or ``bf16`` by each framework's usual way.
    """

    model: str
    shape: tuple[int, int, int]
    batch_size: int
    precision: str

    @property
    def label(self) -> str:
        """As it is shown."""
        return f"{self.model} {'x'.join(map(str, self.shape))}, batch {self.batch_size}, {self.precision}"

    def batches(self) -> list[tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]]:
        """The same images, float32 [B, C, H, W], and labels, int64 [B], in every process."""
        random = np.random.default_rng(SEED)
        return [
            (
                random.standard_normal((self.batch_size, *self.shape), np.float32),
                random.integers(0, NUM_CLASSES, self.batch_size),
            )
            for _ in range(NUM_BATCHES)
        ]


@dataclass(frozen=True)
class Setup:
    """All that a contender's process needs.

    Attributes:
        contender: its name.
        case: what it trains.
        cores: that it may use.
        seconds: about how long one timed repeat takes.
        network: layers and first weights, for those that do not build it themselves.
    """

    contender: str
    case: Case
    cores: tuple[int, ...]
    seconds: float
    network: Network | None


@dataclass(frozen=True)
class Ready:
    """A contender is set up and warm.

    Attributes:
        version: of its framework.
        losses: of its first steps, which all contenders should agree on.
        num_steps: in each timed repeat.
    """

    version: str
    losses: list[float]
    num_steps: int


@dataclass(frozen=True)
class Turn:
    """One timed repeat.

    Attributes:
        seconds: that the steps took.
        num_steps: that were timed.
        minor_faults: page faults meanwhile that needed no disk.
        peak_bytes: most memory that the process ever held.
        loss: of the last step; where the machine itself is asked, the floating-point operations of all of them.
        idle_cores: cores that it kept busy since its last turn, while it should have slept.
        lost_cores: cores that the process which disturbed it had meanwhile.
    """

    seconds: float
    num_steps: int
    minor_faults: int
    peak_bytes: int
    loss: float
    idle_cores: float
    lost_cores: float


@dataclass(frozen=True)
class Skipped:
    """A contender that cannot run here.

    Attributes:
        reason: one line.
    """

    reason: str


class CannotRunError(Exception):
    """Something that a contender needs is not there; the message says what."""
