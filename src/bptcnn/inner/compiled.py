"""Loss and gradients of a network in machine code."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from bptcnn.errors import UnsupportedError
from bptcnn.inner.eager import Loss, Precision
from bptcnn.inner.graph.layers import Dropout, Norm
from bptcnn.inner.graph.reader import graph
from bptcnn.inner.kernels.library import Library
from bptcnn.inner.kernels.shape import Plane, Vectors
from bptcnn.inner.lanes import Lanes, Table
from bptcnn.inner.lowering.backward import Backward
from bptcnn.inner.lowering.buffers import Buffers, Rows
from bptcnn.inner.lowering.filters import Filters
from bptcnn.inner.lowering.forward import lower_forward
from bptcnn.inner.lowering.program import Program
from bptcnn.inner.machine.hardware import host_simd
from bptcnn.inner.machine.threads import one_thread
from bptcnn.inner.tasks.dag import seconds_of

FLOPS_PER_S, BYTES_PER_S = 1e11, 1e10
"""A core's speed as far as it decides which task comes first."""


class Compiled:
    """A network's forward and backward pass, compiled for batches up to some size.

    Exact: batch normalisation sees the whole batch, and each sum has one order, so that two steps from the same weights
    are equal to the bit whichever lane did what. Weights are read where they lie, gradients are written to ``grad``.

    Args:
        module: the network, its weights contiguous float32 on the CPU.
        images: shape of an image: channels, rows, columns.
        batch: samples of a step at most; rounded up to full blocks.
        lanes: who does the work.
        vectors: what blocks look like; None for float32 in the machine's registers. With bfloat16, the weights, their
            gradients and all that is summed up are still float32.

    Raises:
        UnsupportedError: the network holds something that can't be compiled.

    Attributes:
        capacity: samples of a step at most: full blocks.
        num_lanes: who does the work.
        programs: forward and backward, as tasks.
        tables: the same as lanes work them off, with the times of the last step.

    Example:
        >>> net = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
        >>> compiled = Compiled(net, (1, 2, 2), 8, Lanes(1))
        >>> loss, scores = compiled(torch.ones(3, 1, 2, 2), torch.tensor([0, 1, 1]), nn.functional.cross_entropy)
        >>> torch.allclose(scores, net(torch.ones(3, 1, 2, 2)), atol=1e-6)
        True
    """

    def __init__(
        self, module: nn.Module, images: tuple[int, int, int], batch: int, lanes: Lanes, vectors: Vectors | None = None
    ) -> None:
        self._vectors, self._shape = vectors or host_vectors("fp32"), Plane(*images)
        self._width = self._vectors.width
        self._layers, self._lanes, self.num_lanes = graph(module, self._shape), lanes, lanes.num_lanes
        self.capacity = -(-batch // self._width) * self._width
        self._parameters = list(module.parameters())
        foreign = [p for p in self._parameters if p.dtype != torch.float32 or p.device.type != "cpu"]
        if foreign or not all(p.is_contiguous() for p in self._parameters):
            raise UnsupportedError("its weights are not contiguous float32 in the CPU's memory")
        self._gradients = [p.grad if p.grad is not None else torch.zeros_like(p) for p in self._parameters]
        self._counters = [layer.module.num_batches_tracked for layer in self._layers if isinstance(layer, Norm)]
        self._random = any(isinstance(layer, Dropout) for layer in self._layers)
        buffers = Buffers(self._layers, self._shape, self.capacity // self._width, self._vectors)
        self._filters = Filters(self._layers, self._vectors)
        self._buffers, scores = buffers, self._layers[-1]
        self._images = torch.from_numpy(buffers.images.array).view(self.capacity, self._shape.size)
        self._scores, self._scores_gradient = (
            _tensor(rows).view(-1, scores.shape.size, self._width)
            for rows in (buffers.values[scores.out], buffers.scores_gradient)
        )
        self._lower()

    def _lower(self) -> None:
        """Write the programs, in which the weights' addresses stand."""
        self._addresses = [parameter.data_ptr() for parameter in self._parameters]
        gradients = {id(p): gradient for p, gradient in zip(self._parameters, self._gradients, strict=True)}
        library, num_lanes = Library(self._vectors), self.num_lanes
        self._backward = Backward(
            self._layers, self._buffers, self._filters, library, num_lanes, lambda parameter: gradients[id(parameter)]
        )
        self.programs = (
            lower_forward(self._layers, self._shape, self._buffers, self._filters, library, num_lanes),
            self._backward.write(),
        )
        kernels = library.compile()
        self.tables = tuple(
            Table(program, kernels, _seconds(program), self._buffers.blocks, num_lanes) for program in self.programs
        )

    def __call__(self, images: torch.Tensor, labels: torch.Tensor, loss: Loss) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute loss and gradients.

        Args:
            images: float32 [B, channels, rows, columns], at most as many as it was compiled for.
            labels: whatever ``loss`` takes.
            loss: of scores and labels.

        Returns:
            The loss, and the scores [B, classes].
        """
        with one_thread():
            return self._compute(images, labels, loss)

    def _compute(self, images: torch.Tensor, labels: torch.Tensor, loss: Loss) -> tuple[torch.Tensor, torch.Tensor]:
        count = len(images)
        if self._addresses != [parameter.data_ptr() for parameter in self._parameters]:
            self._lower()
        self._buffers.announce(count)
        if count % self._width or not images.is_contiguous() or images.dtype != torch.float32:
            self._images[:count].copy_(images.reshape(count, -1))
            images = self._images
        self._buffers.images_address[0] = images.data_ptr()
        if self._random:
            keys = torch.randint(-(2**31), 2**31, (self.capacity,), dtype=torch.int32)
            self._buffers.keys.array.reshape(-1)[:] = keys.numpy().view(np.float32)
        self._lanes.run(self.tables[0])
        for counter in self._counters:
            if counter is not None:
                counter.add_(1)
        blocks = int(self._buffers.blocks[0])
        scores = self._scores[:blocks].transpose(1, 2).reshape(-1, self._scores.shape[1])[:count].float()
        value = loss(scores.requires_grad_(), labels)
        (gradient,) = torch.autograd.grad(value, scores)
        if count < blocks * self._scores.shape[2]:
            gradient = nn.functional.pad(gradient, (0, 0, 0, blocks * self._scores.shape[2] - count))
        self._scores_gradient[:blocks].copy_(gradient.view(blocks, -1, gradient.shape[1]).transpose(1, 2))
        self._lanes.run(self.tables[1])
        for parameter, own in zip(self._parameters, self._gradients, strict=True):
            if parameter.requires_grad:  # an optimizer moves whatever has a gradient
                parameter.grad = own
        return value.detach(), scores.detach()


def host_vectors(precision: Precision) -> Vectors:
    """What blocks look like in this machine's registers.

    Args:
        precision: of the numbers between the layers.

    Raises:
        UnsupportedError: its cores can't multiply such numbers.
    """
    simd = host_simd()
    if precision == "bf16" and not simd.bf16:
        raise UnsupportedError("the cores of this machine have no products of bfloat16 (AVX512-BF16)")
    return Vectors(simd.width, simd.registers, bf16=precision == "bf16")


def _tensor(rows: Rows) -> torch.Tensor:
    """Rows as PyTorch sees them, in the same memory."""
    tensor = torch.from_numpy(rows.array)
    return tensor.view(torch.bfloat16) if tensor.dtype == torch.uint16 else tensor


def _seconds(program: Program) -> list[float]:
    return [seconds_of(task, FLOPS_PER_S, BYTES_PER_S) for task in program.tasks]
