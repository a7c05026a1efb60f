"""Loss and gradients of a network in machine code."""

from __future__ import annotations

import ctypes
import time
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from bptcnn.errors import UnsupportedError
from bptcnn.inner.descent import Descent
from bptcnn.inner.eager import Loss
from bptcnn.inner.graph.layers import Dropout, Norm
from bptcnn.inner.graph.reader import graph
from bptcnn.inner.kernels.library import Library, arguments, function
from bptcnn.inner.kernels.loss import are_classes
from bptcnn.inner.kernels.shape import Plane, Vectors
from bptcnn.inner.lanes import Lanes, Table
from bptcnn.inner.layout import host_vectors
from bptcnn.inner.lowering.backward import Backward
from bptcnn.inner.lowering.buffers import Buffers, Rows
from bptcnn.inner.lowering.division import Division, meet
from bptcnn.inner.lowering.filters import Filters
from bptcnn.inner.lowering.forward import lower_forward
from bptcnn.inner.lowering.loss import lower_loss
from bptcnn.inner.lowering.program import Program
from bptcnn.inner.lowering.writer import Writer
from bptcnn.inner.machine.threads import one_thread
from bptcnn.inner.tasks.active import ActiveLanes
from bptcnn.inner.tasks.dag import Kind, seconds_of

FLOPS_PER_S, BYTES_PER_S = 1e11, 1e10
"""A core's speed as far as it decides which task comes first."""


class Compiled:
    """A network's forward and backward pass, compiled for batches up to some size.

    Exact: batch normalisation sees the whole batch, and each sum has one order, so that two steps from the same weights
    are equal to the bit whichever lane did what. Weights are read where they lie, gradients are written to ``grad``;
    those of frozen weights are left out, and nothing goes back beyond the first layer that trains.

    Args:
        module: the network, its weights contiguous float32 on the CPU, in the mode in which it is to train: batch
            normalisation in evaluation mode, all frozen, keeps its statistics.
        images: shape of an image: channels, rows, columns.
        batch: samples of a step at most; rounded up to full blocks.
        lanes: who does the work.
        vectors: what blocks look like; None for float32 in the machine's registers. With bfloat16, the weights, their
            gradients and all that is summed up are still float32.

    Raises:
        UnsupportedError: the network holds something that can't be compiled.

    Attributes:
        capacity: samples of a step at most: full blocks.
        num_lanes: who does the work, if nobody sits out.
        passes: of the last step: one, or forward and backward with a loss between them that PyTorch computed.

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
        self._vectors, self._shape = vectors or host_vectors("fp32", batch), Plane(*images)
        self._width = self._vectors.width
        self._layers, self._lanes, self.num_lanes = graph(module, self._shape), lanes, lanes.num_lanes
        self.capacity = -(-batch // self._width) * self._width
        self._parameters = list(module.parameters())
        foreign = [p for p in self._parameters if p.dtype != torch.float32 or p.device.type != "cpu"]
        if foreign or not all(p.is_contiguous() for p in self._parameters):
            raise UnsupportedError("its weights are not contiguous float32 in the CPU's memory")
        self._gradients = [p.grad if p.grad is not None else torch.zeros_like(p) for p in self._parameters]
        norms = [layer for layer in self._layers if isinstance(layer, Norm) and not layer.fixed]
        self._counters = [layer.module.num_batches_tracked for layer in norms]
        self._random = any(isinstance(layer, Dropout) for layer in self._layers)
        buffers = Buffers(self._layers, self._shape, self.capacity // self._width, self._vectors)
        self._filters = Filters(self._layers, self._vectors)
        self._buffers, scores = buffers, self._layers[-1]
        self._images = torch.from_numpy(buffers.images.array).view(self.capacity, self._shape.size)
        self._scores, self._scores_gradient = (
            _tensor(rows).view(-1, scores.shape.size, self._width)
            for rows in (buffers.values[scores.out], buffers.scores_gradient)
        )
        self._next_mean = _number()
        self._answer = ctypes.c_int64()
        self._question = arguments([0, 0, scores.shape.size, ctypes.addressof(self._answer)])
        self._active, self._blocks_before = ActiveLanes(lanes.num_lanes), 0
        self._known: dict[tuple[bool, Descent | None, int], tuple[Pass, ...]] = {}
        self._facts: list[tuple[int, bool]] = []
        self.passes = self._lowered(joined=True, move=None)

    def knows(self, loss: Loss, labels: torch.Tensor, count: int) -> bool:
        """Whether a loss can be a part of the compiled step: cross-entropy of labels that are all classes.

        Args:
            loss: of scores and labels.
            labels: of a batch.
            count: samples of the batch.
        """
        if not count or labels.shape != (count,) or labels.dtype != torch.int64 or not labels.is_cpu:
            return False
        if not _is_cross_entropy(loss):
            return False
        labels = labels.contiguous()
        self._question[0], self._question[1] = labels.data_ptr(), count
        function(are_classes)(self._question)
        return bool(self._answer.value)

    def __call__(
        self, images: torch.Tensor, labels: torch.Tensor, loss: Loss, move: Descent | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute loss and gradients.

        Args:
            images: float32 [B, channels, rows, columns], at most as many as it was compiled for, and of its shape.
            labels: whatever ``loss`` takes.
            loss: of scores and labels.
            move: moves the weights in the same pass; only with a loss that it :meth:`knows`.

        Returns:
            The loss, and the scores [B, classes].
        """
        return self.step(images, labels, loss, move), self.scores

    def step(self, images: torch.Tensor, labels: torch.Tensor, loss: Loss, move: Descent | None = None) -> torch.Tensor:
        """Compute loss and gradients; see :meth:`__call__`.

        Args:
            images: a batch.
            labels: whatever ``loss`` takes.
            loss: of scores and labels.
            move: moves the weights in the same pass.

        Returns:
            The loss.
        """
        joined = move is not None or self.knows(loss, labels, len(images))
        self.passes = self._lowered(joined=joined, move=move)
        self._take(images)
        started_s = time.perf_counter()
        mean = self._together(labels, move) if joined else self._apart(labels, loss)
        self._note(time.perf_counter() - started_s)
        return mean

    @property
    def scores(self) -> torch.Tensor:
        """What the network made of the last batch, float32 [B, classes]."""
        with one_thread():
            count = self._buffers.num_samples
            blocks = self._scores[: -(-count // self._width)]
            return blocks.transpose(1, 2).reshape(-1, blocks.shape[1])[:count].float()

    def _lowered(self, *, joined: bool, move: Descent | None) -> tuple[Pass, ...]:
        """The programs of a step, in which the weights' addresses stand, and which of them train."""
        facts = [(parameter.data_ptr(), parameter.requires_grad) for parameter in self._parameters]
        if facts != self._facts:
            self._facts = facts
            self._known.clear()
        key = joined, move, self._active.count  # keeps it, so that no other one can get its place in memory
        if key not in self._known:
            # An optimizer that begins anew brings a new one; there is no use for the old one any more.
            self._known = {known: passes for known, passes in self._known.items() if known[1] in (None, move)}
            self._known[key] = self._lower(joined=joined, move=move, num_lanes=self._active.count)
        return self._known[key]

    def _lower(self, *, joined: bool, move: Descent | None, num_lanes: int) -> tuple[Pass, ...]:
        gradients = {id(p): gradient for p, gradient in zip(self._parameters, self._gradients, strict=True)}
        library = Library(self._vectors)
        division = Division(self._buffers.num_blocks, num_lanes, self._vectors, meet(self._layers))
        writers = [Writer(self._buffers, library, division, Kind.FORWARD)]
        lower_forward(writers[0], self._layers, self._shape, self._filters)
        loss: list[int] = []
        if joined:
            loss = [lower_loss(writers[0], self._layers[-1])]
            self._filters.join(writers[0])
        else:
            writers.append(Writer(self._buffers, library, division, Kind.BACKWARD_DATA))
        backward = Backward(writers[-1], self._layers, self._filters, lambda p: gradients[id(p)], move, loss)
        backward.write()
        kernels = library.compile()
        programs = [writer.chains.program for writer in writers]
        return tuple(
            Pass(program, Table(program, kernels, _seconds(program), self._buffers.blocks, num_lanes))
            for program in programs
        )

    def _take(self, images: torch.Tensor) -> None:
        """Say where the images are; copied where they are not as kernels read them."""
        count = len(images)
        self._buffers.announce(count)
        if count % self._width or not (images.is_contiguous() and images.dtype == torch.float32 and images.is_cpu):
            with one_thread():
                self._images[:count].copy_(images.reshape(count, -1))
            images = self._images
        self._buffers.images_address[0] = images.data_ptr()
        if self._random:
            keys = torch.randint(-(2**31), 2**31, (self.capacity,), dtype=torch.int32)
            self._buffers.keys.array.reshape(-1)[:] = keys.numpy().view(np.float32)

    def _together(self, labels: torch.Tensor, move: Descent | None) -> torch.Tensor:
        rows, count = self._buffers.loss, len(labels)
        if count % self._width or not labels.is_contiguous():
            rows.labels[:count] = labels.numpy()
            rows.labels_address[0] = rows.labels.ctypes.data
        else:
            rows.labels_address[0] = labels.data_ptr()
        rows.guard[0] = move is not None and move.guard
        mean = self._next_mean
        rows.mean_address[0] = mean.data_ptr()
        self._lanes.run(self.passes[0].table, self._keep_books)
        return mean

    def _apart(self, labels: torch.Tensor, loss: Loss) -> torch.Tensor:
        forward, backward = self.passes
        with one_thread():
            self._lanes.run(forward.table, self._keep_books)
            scores = self.scores.requires_grad_()
            value = loss(scores, labels)
            (gradient,) = torch.autograd.grad(value, scores)
            blocks = int(self._buffers.blocks[0])
            missing = blocks * self._width - len(gradient)
            if missing:
                gradient = functional.pad(gradient, (0, 0, 0, missing))
            self._scores_gradient[:blocks].copy_(gradient.view(blocks, -1, gradient.shape[1]).transpose(1, 2))
            self._lanes.run(backward.table)
            return value.detach()

    def _note(self, seconds: float) -> None:
        """How long a step took counts for who sits out, if it had as much to do as the one before."""
        blocks = int(self._buffers.blocks[0])
        if blocks == self._blocks_before:
            self._active.note(seconds)
        self._blocks_before = blocks

    def _keep_books(self) -> None:
        """What PyTorch does beside the arithmetic, while other lanes begin with it."""
        self._next_mean = _number()
        for counter in self._counters:
            if counter is not None:
                counter.add_(1)
        for parameter, own in zip(self._parameters, self._gradients, strict=True):
            if parameter.requires_grad:  # an optimizer moves whatever has a gradient
                parameter.grad = own


@dataclass(frozen=True, slots=True)
class Pass:
    """What lanes work off in one go: as tasks, and as the table that they share."""

    program: Program
    table: Table


def _is_cross_entropy(loss: Loss) -> bool:
    """Whether a loss is the mean of cross-entropy, with nothing weighted or smoothed."""
    if type(loss) is not nn.CrossEntropyLoss:
        return loss is functional.cross_entropy
    hooks = loss._forward_hooks or loss._forward_pre_hooks or loss._backward_hooks
    plain = loss.weight is None and loss.reduction == "mean" and loss.label_smoothing == 0 and loss.ignore_index < 0
    return plain and not hooks


def _number() -> torch.Tensor:
    """Room for a loss."""
    return torch.empty((), dtype=torch.float32, device="cpu")


def _tensor(rows: Rows) -> torch.Tensor:
    """Rows as PyTorch sees them, in the same memory."""
    tensor = torch.from_numpy(rows.array)
    return tensor.view(torch.bfloat16) if tensor.dtype == torch.uint16 else tensor


def _seconds(program: Program) -> list[float]:
    return [seconds_of(task, FLOPS_PER_S, BYTES_PER_S) for task in program.tasks]
