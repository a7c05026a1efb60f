"""The arithmetic of one worker: local SGD steps on a flat weight vector."""

from __future__ import annotations

from math import isfinite
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional
from torch.optim.sgd import sgd

from bptcnn.data import Batch, Samples
from bptcnn.errors import DataError, DivergedError, ModelError
from bptcnn.inner.account import LastStep
from bptcnn.inner.compiled import Compiled
from bptcnn.inner.descent import Descent
from bptcnn.inner.eager import Eager, Precision
from bptcnn.inner.machine.devices import device_of
from bptcnn.inner.optimizer import OptimizerConfig
from bptcnn.inner.plan import Gradients
from bptcnn.inner.step import gradients, on_gpu
from bptcnn.models import FlatModel

CPU = torch.device("cpu")


class StepResult(NamedTuple):
    """What a local step showed: summed loss and right answers over its samples."""

    loss: float
    correct: int


class Learner:
    """A network, its data and its optimizer.

    Args:
        module: the network.
        samples: the training set.
        optimizer: the local optimizer's settings.
        precision: ``bf16`` lets the numbers between the layers be bfloat16; weights stay float32.
        validation: a held-out subset on which Q is measured; None to use the training batches.
        batch_size: usual samples of a step.
        num_lanes: cores to use; of no meaning on a GPU.
        device: where to train; the network is moved there.

    Example:
        >>> from bptcnn.data import DataConfig, load
        >>> train = load(DataConfig(name="digits"), seed=0).train
        >>> learner = Learner(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), train, OptimizerConfig())
        >>> learner.step(np.arange(64), epoch=1, lr=0.1).correct <= 64
        True
    """

    def __init__(
        self,
        module: nn.Module,
        samples: Samples,
        optimizer: OptimizerConfig,
        precision: Precision = "fp32",
        validation: Samples | None = None,
        *,
        batch_size: int = 32,
        num_lanes: int = 1,
        device: torch.device = CPU,
    ) -> None:
        self.flat = FlatModel(module.to(device))
        self.flat.train()  # which decides what is compiled
        self._compiled: Compiled | None = None
        self._last: Compiled | None = None
        self._on_gpu: Gradients | None = None
        if device.type == "cuda":
            self._num_outputs = _num_outputs(module, samples.shape, device)
            self.flat.train()
            self._on_gpu = on_gpu(module, samples.shape, batch_size, precision)
        else:
            self._compiled = gradients(module, samples.shape, batch_size, precision, num_lanes)
        self._eager = Eager(module, precision, channels_last=True, gradients_stay=True)
        self._samples = samples
        self._validation = validation
        self._optimizer = optimizer
        self._velocity = torch.zeros_like(self.flat.parameters_vector)
        velocities = self.flat.pieces(self._velocity) if optimizer.momentum else []
        self._descent = Descent([(self.flat.trained, velocities, optimizer.nesterov)], guard=True)

    def step(self, indices: npt.NDArray[np.int64], epoch: int, lr: float) -> StepResult:
        """One step of SGD.

        Args:
            indices: int64 [B], the samples.
            epoch: seeds their augmentation.
            lr: learning rate of this step.

        Returns:
            Summed loss and the number of right answers, before the update.

        Raises:
            DivergedError: the loss is not finite; the weights are left as they were.
            DataError: ... because an image is not.
            ModelError: a label lies beyond the network's outputs.
        """
        batch = self._samples.batch(indices, epoch)
        if not self.flat.module.training:  # asked here, as to say it again costs as much as a small layer
            self.flat.train()
        compiled = self._compiled if self._compiled and len(indices) <= self._compiled.capacity else None
        self._last = compiled
        if self._on_gpu is not None:
            _check_labels(batch.labels, self._num_outputs)  # here, as they would end every later call to the GPU
            loss, scores = self._on_gpu(batch.images, batch.labels, functional.cross_entropy)
            value = _finite(loss, batch, indices, lr)
            self._descend(lr)
        elif compiled is not None and compiled.knows(functional.cross_entropy, batch.labels, len(indices)):
            numbers = self._optimizer
            self._descent.set(0, lr=lr, momentum=numbers.momentum, weight_decay=numbers.weight_decay)
            loss, scores = compiled(batch.images, batch.labels, functional.cross_entropy, self._descent)
            value = _finite(loss, batch, indices, lr)
        else:
            loss, scores = (compiled or self._eager)(batch.images, batch.labels, _cross_entropy)
            value = _finite(loss, batch, indices, lr)
            self._descend(lr)
        correct = int((scores.argmax(1).cpu() == batch.labels).sum())
        return StepResult(value * len(indices), correct)

    @torch.no_grad()
    def _descend(self, lr: float) -> None:
        """PyTorch's SGD as a function: its class imports a compiler, a second in the start of every worker."""
        optimizer = self._optimizer
        sgd(
            [self.flat.parameters_vector],
            [self.flat.gradient],
            [self._velocity if optimizer.momentum else None],
            fused=True,
            lr=lr,
            momentum=optimizer.momentum,
            dampening=0.0,
            nesterov=optimizer.nesterov and optimizer.momentum > 0,
            weight_decay=optimizer.weight_decay,
            maximize=False,
        )

    def last_step(self) -> LastStep | None:
        """The account of the last step; None if there was none, or PyTorch computed it."""
        return None if self._last is None else LastStep.of(self._last)

    def validate(self) -> float | None:
        """Accuracy on the held-out subset, 0 to 1; None without one."""
        if self._validation is None:
            return None
        return accuracy_of(self.flat.module, self._validation)


def _cross_entropy(scores: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    _check_labels(labels, scores.shape[1])
    return functional.cross_entropy(scores, labels)


def _check_labels(labels: torch.Tensor, num_outputs: int) -> None:
    highest = int(labels.max())
    if highest >= num_outputs:
        raise ModelError(
            f"label {highest} lies beyond the model's {num_outputs} outputs: give the model an output per class"
        )


def _num_outputs(module: nn.Module, images: tuple[int, int, int], device: torch.device) -> int:
    with torch.inference_mode():
        scores: torch.Tensor = module.eval()(torch.zeros(1, *images, device=device))
    return scores.shape[1]


def _finite(loss: torch.Tensor, batch: Batch, indices: npt.NDArray[np.int64], lr: float) -> float:
    """The loss, if it is finite; else blame the data where it is to blame."""
    value = loss.item()
    if isfinite(value):
        return value
    sound = torch.isfinite(batch.images).flatten(1).all(1)
    if not sound.all():
        sample = int(indices[int((~sound).nonzero()[0])])
        raise DataError(f"image {sample} of the training set holds nan or inf: repair it or leave it out")
    raise DivergedError(f"the loss became {value} at learning rate {lr:.4g}")


def accuracy_of(module: nn.Module, samples: Samples, batch_size: int = 500) -> float:
    """Measure accuracy, in evaluation mode.

    Args:
        module: the network.
        samples: what to measure on; not empty.
        batch_size: samples per forward pass.

    Returns:
        The fraction of right answers, 0 to 1.
    """
    module.eval()
    device, correct = device_of(module), 0
    eager = Eager(module, channels_last=True)
    with torch.inference_mode():
        for start in range(0, len(samples), batch_size):
            batch = samples.batch(np.arange(start, min(start + batch_size, len(samples))), 0)
            scores = module(eager.laid_out(batch.images.to(device)))
            correct += int((scores.argmax(1).cpu() == batch.labels).sum())
    return correct / len(samples)
