"""The tasks that make the gradients of weights, beside the chains or within them.

Those of many weights wait for the chains of all blocks, and whoever has nothing to do on the critical path works on
them. They are divided by output channels, and nothing is left to be reduced; where minimal filtering makes them, by
points and tiles, and a second row of tasks brings them back. Each sum has one order. Those of few weights are made
block by block within the chains, where what they are made of still is in the core's cache, and are summed up in the
order of the blocks; unless norms cut the chains, and leave gaps that want to be filled.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from bptcnn.inner.descent import Descent
from bptcnn.inner.graph.layers import Conv
from bptcnn.inner.kernels import descent, parts, weights
from bptcnn.inner.kernels.winograd.weight_gradient import weight_products, weight_sums
from bptcnn.inner.kernels.winograd.weight_tiling import WeightShape, weight_shape_of
from bptcnn.inner.lowering.buffers import Rows
from bptcnn.inner.lowering.division import chunks_of_sums
from bptcnn.inner.lowering.program import Call, ranges
from bptcnn.inner.lowering.writer import Writer, flops
from bptcnn.inner.tasks.dag import Kind

WEIGHT_TASKS = 3
"""Tasks for the gradient of one layer's weights, for each lane: so many that a slow lane can take fewer."""

FEW_WEIGHTS = 1 << 12
"""Of a layer, whose sum over the blocks costs next to nothing."""


class WeightGradients:
    """Writes these tasks.

    Args:
        writer: of the backward pass.
        gradient_of: where a parameter's gradient is written, contiguous.
        move: moves the weights as soon as their gradient is there, and nobody reads them any more.
        loss: the task that knows whether they may move.
        by_blocks: whether those of few weights are made within the chains.

    Attributes:
        tasks: written since the last barrier.
    """

    def __init__(
        self,
        writer: Writer,
        gradient_of: Callable[[torch.Tensor], torch.Tensor],
        move: Descent | None,
        loss: Sequence[int],
        *,
        by_blocks: bool,
    ) -> None:
        self._writer, self._buffers, self._use = writer, writer.buffers, writer.library.use
        self._gradient_of, self._descent, self._loss = gradient_of, move, tuple(loss)
        self._by_blocks = by_blocks and writer.buffers.num_blocks > 1
        self._later: list[tuple[str, Conv, Rows]] = []
        self._parts: list[tuple[str, torch.Tensor, Rows]] = []
        self._read: list[Rows] = []
        self._readers: tuple[int, ...] = ()
        self.tasks: list[int] = []

    def within_chains(self, layer: Conv) -> bool:
        """Whether the gradient of a layer's weights is made block by block.

        Args:
            layer: a convolution.
        """
        return self._by_blocks and layer.module.weight.numel() <= FEW_WEIGHTS

    def add_later(self, layer: Conv, gradient: Rows) -> None:
        """Have the gradient of a layer's weights made beside the chains.

        Args:
            layer: whose outputs' gradient the chains have just made.
            gradient: of its outputs.
        """
        self._later.append((self._writer.layer, layer, gradient))

    def add_here(self, layer: Conv, gradient: Rows) -> None:
        """Have it made within the chains.

        Args:
            layer: whose outputs' gradient they have just made.
            gradient: of its outputs.
        """
        buffers, writer, module = self._buffers, self._writer, layer.module
        (kernel, tiles), data = self._kernel(layer), buffers.values[layer.inputs[0]]
        parameters = [parameter for parameter in (module.weight, module.bias) if parameter is not None]
        made = [buffers.parts(layer.out, place, parameter.numel()) for place, parameter in enumerate(parameters)]
        one, num_bytes = buffers.one.ctypes.data, self._num_bytes(buffers.width, layer.data.size + layer.shape.size)
        for block in range(buffers.num_blocks):
            weight, bias, *_ = (*(rows.row(block) for rows in made), 0)
            call = Call(kernel, (data.row(block), gradient.row(block), weight, 0, tiles, one, bias))
            writer.chains.call(block, writer.layer, call, flops(layer) * buffers.width, num_bytes)
        self._parts += [(writer.layer, parameter, rows) for parameter, rows in zip(parameters, made, strict=True)]

    @property
    def waiting(self) -> bool:
        """Whether there are tasks to write."""
        return bool(self._later)

    def in_use(self) -> list[Rows]:
        """What tasks read, or will read."""
        return [*(gradient for _, _, gradient in self._later), *self._read]

    def begin(self) -> None:
        """Behind a barrier that waited for all tasks: what they read is free."""
        self.tasks, self._read = [], []

    def write(self, after: tuple[int, ...]) -> None:
        """Write the tasks of all layers that wait for the chains.

        Args:
            after: tasks with which their outputs' gradient is complete.
        """
        vectors = self._buffers.vectors
        for name, layer, gradient in self._later:
            if shape := weight_shape_of(vectors, layer.window, layer.data, layer.shape):
                self._by_points(name, layer, gradient, shape, after)
            else:
                self._by_channels(name, layer, gradient, after)
            self._read.append(gradient)
        self._later = []

    def _by_channels(self, name: str, layer: Conv, gradient: Rows, after: tuple[int, ...]) -> None:
        """Tasks that make the gradient of some output channels."""
        kernel, tiles = self._kernel(layer)
        fixed, of_bias = self._addresses(layer, gradient)
        for part, (first, last) in enumerate(ranges(tiles, WEIGHT_TASKS * self._writer.num_lanes)):
            share = (last - first) / tiles
            calls = [Call(kernel, (*fixed, first, last, self._buffers.blocks.ctypes.data, of_bias))]
            calls += self._all_moves(layer, tiles, first, last)
            num_bytes = self._num_bytes(self._samples, layer.data.size + share * layer.shape.size)
            self._task(name, part, after, calls, share * flops(layer) * self._samples, num_bytes)

    def _by_points(self, name: str, layer: Conv, gradient: Rows, shape: WeightShape, after: tuple[int, ...]) -> None:
        """Tasks that make the products at some points for some tiles, then those that bring their sums back."""
        buffers, lanes = self._buffers, self._writer.num_lanes
        size = shape.points * layer.data.channels * layer.shape.channels
        moved = self._num_bytes(self._samples, layer.data.size + layer.shape.size)
        wanted = WEIGHT_TASKS * lanes if lanes > 1 else 1
        rows = buffers.num_blocks * shape.down
        parts, panels = chunks_of_sums(shape.parts, -(-rows // shape.rows), wanted, moved, 4.0 * size)
        starts = range(0, rows, panels * shape.rows)
        # All layers have the same room for sums, each as soon as those of the one before are read.
        sums, free = buffers.scratch(len(starts) * size), (*after, *self._readers)
        (data, errors, weight), of_bias = self._addresses(layer, gradient)
        kernel, every = self._use(weight_products, shape, layer.window.padding, layer.data, layer.shape)
        blocks, made = buffers.blocks.ctypes.data, list[int]()
        for chunk, start in enumerate(starts):
            end = min(start + starts.step, rows)
            for first, last in ranges(every, parts):
                share = (last - first) / every * (end - start) / rows
                call = Call(kernel, (data, errors, sums.row(0, chunk * size), first, last, blocks, start, end))
                work = share * flops(layer) * self._samples
                made.append(self._task(name, len(made), free, [call], work, share * parts * moved))
        bias, readers = layer.module.bias is not None, list[int]()
        kernel, groups = self._use(weight_sums, shape, starts.step, layer.data, layer.shape, bias=bias)
        for part, (first, last) in enumerate(ranges(groups, lanes), len(made)):
            calls = [Call(kernel, (sums.address, errors, weight, first, last, blocks, of_bias))]
            calls += self._all_moves(layer, groups, first, last)
            num_bytes = 4.0 * size * len(starts) * (last - first) / groups
            readers.append(self._task(name, part, tuple(made), calls, 0.0, num_bytes))
        self._readers = tuple(readers)

    def finish(self, after: tuple[int, ...]) -> None:
        """Write the last tasks.

        Args:
            after: those with which the chains end.
        """
        self.write(after)
        for part, (name, parameter, rows) in enumerate(self._parts):
            kernel, _ = self._use(parts.added, parameter.numel())
            target, blocks = self._gradient_of(parameter).data_ptr(), self._buffers.blocks.ctypes.data
            calls = [Call(kernel, (rows.address, target, blocks)), *self.moves(parameter, 0, parameter.numel())]
            self._task(name, part, after, calls, 0.0, float(rows.array.nbytes))

    def _addresses(self, layer: Conv, gradient: Rows) -> tuple[tuple[int, int, int], int]:
        """Of data, the outputs' gradient and that of the weights; and of that of the bias."""
        weight, bias = layer.module.weight, layer.module.bias
        fixed = self._buffers.values[layer.inputs[0]].address, gradient.address, self._gradient_of(weight).data_ptr()
        return fixed, 0 if bias is None else self._gradient_of(bias).data_ptr()

    def _all_moves(self, layer: Conv, tiles: int, first: int, last: int) -> list[Call]:
        """The update of some tiles of a layer's weights and bias."""
        calls = []
        for parameter in (layer.module.weight, layer.module.bias):
            size = 0 if parameter is None else parameter.numel() // tiles
            calls += self.moves(parameter, first * size, last * size)
        return calls

    @property
    def _samples(self) -> int:
        return self._buffers.num_blocks * self._buffers.width

    def moves(self, parameter: torch.Tensor | None, first: int, last: int) -> list[Call]:
        """The update of some numbers of a parameter, if it moves.

        Args:
            parameter: the weights, or None.
            first: number.
            last: one past the last.
        """
        rule = None if self._descent is None or parameter is None else self._descent.rule(parameter)
        if rule is None or parameter is None:
            return []
        kernel, _ = self._use(descent.sgd, momentum=rule.momentum, nesterov=rule.nesterov)
        gradient, stay = self._gradient_of(parameter).data_ptr(), self._buffers.loss.stay.ctypes.data
        arguments = parameter.data_ptr(), gradient, rule.velocity, rule.numbers, stay, first, last
        return [Call(kernel, arguments)]

    def _kernel(self, layer: Conv) -> tuple[str, int]:
        bias = layer.module.bias is not None
        return self._use(weights.backward_weight, layer.window, layer.data, layer.shape, bias=bias)

    def _num_bytes(self, samples: int, numbers: float) -> float:
        return self._buffers.vectors.num_bytes * samples * numbers

    def _task(
        self, name: str, part: int, after: tuple[int, ...], calls: list[Call], work: float, num_bytes: float
    ) -> int:
        before = (*after, *self._loss)
        self.tasks.append(self._writer.chains.task(Kind.BACKWARD_WEIGHT, name, part, before, calls, work, num_bytes))
        return self.tasks[-1]
