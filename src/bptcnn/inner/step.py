"""The training step of one worker: what replaces the body of a plain PyTorch loop."""

from __future__ import annotations

from contextlib import nullcontext

import torch
from torch import nn
from torch.nn import functional

from bptcnn.errors import UnsupportedError
from bptcnn.inner.compiled import Compiled
from bptcnn.inner.cuda import Graphed
from bptcnn.inner.descent import SgdOptimizer
from bptcnn.inner.eager import Eager, Loss, Precision
from bptcnn.inner.fused import fuse
from bptcnn.inner.graph.layers import products
from bptcnn.inner.graph.reader import graph
from bptcnn.inner.kernels.shape import Plane
from bptcnn.inner.lanes import Lanes
from bptcnn.inner.layout import vectors_for
from bptcnn.inner.machine.devices import device_of
from bptcnn.inner.machine.hardware import num_cores
from bptcnn.inner.machine.memory import keep_memory
from bptcnn.inner.machine.processor import host_simd
from bptcnn.inner.machine.threads import one_thread
from bptcnn.inner.plan import Gradients, Plan, remembered

MATRICES, FULL = 1 << 26, 16
"""On cores that multiply matrices of bfloat16, PyTorch makes up for what its calls cost with so many products a step,
if ours are none of matrices; beyond so many samples, more of them help it no further."""

SPARE_ROOM = 1.5
"""Batches may be so much larger than their usual size and still be trained by compiled code."""


class TrainStep:
    """Forward, backward and update of one batch, in the fastest way that this machine knows.

    The network's layers are compiled to machine code for this machine's vectors, and run on all its cores; where that
    is not possible, or not faster, PyTorch does it. The result is the same up to float32 rounding.

    A network on a GPU is trained by PyTorch's kernels, recorded as a CUDA graph where that is faster, and batches are
    moved there. SGD, Adam and AdamW get ``fused=True`` unless their options say otherwise.

    Args:
        model: the network, where it is to train, weights float32.
        loss: of scores and labels, averaged over the batch.
        optimizer: of ``torch.optim``, on the model's parameters.
        example_batch: images [B, channels, rows, columns] and labels; later batches may be smaller, and larger
            ones, or those of images of another shape, are left to PyTorch.
        precision: ``bf16`` lets the numbers between the layers be bfloat16, as autocast does, where that is faster than
            float32; weights stay float32.
        num_lanes: cores to use; None for all that this process may use. Of no meaning on a GPU.

    Attributes:
        plan: what was measured, and what is used.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2))
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> images, labels = torch.zeros(32, 1, 8, 8), torch.zeros(32, dtype=torch.int64)
        >>> step = TrainStep(model, nn.functional.cross_entropy, optimizer, (images, labels))
        >>> step(images, labels).item() > step(images, labels).item()
        True
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Loss,
        optimizer: torch.optim.Optimizer,
        example_batch: tuple[torch.Tensor, torch.Tensor],
        *,
        precision: Precision = "fp32",
        num_lanes: int | None = None,
    ) -> None:
        keep_memory()
        self._loss, self._optimizer = loss, optimizer
        self._batch, *self._shape = example_batch[0].shape
        on_gpu = device_of(model).type == "cuda"
        self._others = Eager(model, precision, channels_last=on_gpu)
        lanes = Lanes(1 if on_gpu else num_lanes or num_cores())
        model.train()
        self.plan: Plan
        self._gradients: Gradients
        self.plan, self._gradients = remembered(model, example_batch, loss, precision, lanes)
        fuse(optimizer)
        self._sgd = SgdOptimizer(optimizer, model)
        self._scores: torch.Tensor | None = torch.empty(0)

    def __call__(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Train on one batch.

        Args:
            images: [B, channels, rows, columns].
            labels: whatever the loss takes.

        Returns:
            The loss before the update, detached.
        """
        count, *shape = images.shape
        way = self._gradients if 0 < count <= self._batch and shape == self._shape else self._others
        if isinstance(way, Compiled) and way.knows(self._loss, labels, count) and (move := self._sgd.descent()):
            self._scores = None
            return way.step(images, labels, self._loss, move)
        with one_thread() if isinstance(way, Compiled) else nullcontext():
            loss, self._scores = way(images, labels, self._loss)
            self._optimizer.step()
        return loss

    @property
    def scores(self) -> torch.Tensor:
        """What the network made of the last batch, [B, classes]."""
        if self._scores is None:  # of a compiled step, made when asked for
            assert isinstance(self._gradients, Compiled)
            self._scores = self._gradients.scores
        return self._scores


def gradients(
    module: nn.Module, images: tuple[int, int, int], batch_size: int, precision: Precision, num_lanes: int
) -> Compiled | None:
    """Compile a network where that pays, by rule and not by measurement: so that a run can be repeated to the bit.

    Args:
        module: the network.
        images: shape of an image.
        batch_size: usual samples of a step.
        precision: of the arithmetic.
        num_lanes: cores to use.

    Returns:
        Its step; None where PyTorch had better do it.
    """
    try:
        layers = graph(module, Plane(*images))
        vectors = vectors_for(layers, precision, batch_size)
        wide = products(layers) * min(batch_size, FULL) >= MATRICES
        if precision == "bf16" and host_simd().tiles and wide and not vectors.matrices:
            return None
        return Compiled(module, images, round(SPARE_ROOM * batch_size), Lanes(num_lanes), vectors)
    except UnsupportedError:
        return None


def on_gpu(module: nn.Module, images: tuple[int, int, int], batch_size: int, precision: Precision) -> Graphed | Eager:
    """A network's step on a GPU, by rule and not by measurement: recorded where it can be.

    Args:
        module: the network, on a GPU, in training mode.
        images: shape of an image.
        batch_size: usual samples of a step.
        precision: of the arithmetic.

    Returns:
        Its step, fastest for ``torch.nn.functional.cross_entropy`` and batches of the usual size.
    """
    example = torch.zeros(batch_size, *images), torch.zeros(batch_size, dtype=torch.int64)
    try:
        return Graphed(module, example, functional.cross_entropy, precision)
    except UnsupportedError:
        return Eager(module, precision, channels_last=True, gradients_stay=True)
