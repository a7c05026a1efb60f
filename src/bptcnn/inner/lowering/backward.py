"""From layers to the program of the backward pass: gradients of the data along the chains, of the weights beside them.

The gradient of a value is the sum of what the layers that saw it give it; if ReLU made the value, the last of them cuts
it off where the value is zero. For the gradients of weights see :mod:`~bptcnn.inner.lowering.gradients`.

What is frozen costs nothing: a value has a gradient only if something in front of it trains.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from bptcnn.inner.descent import Descent
from bptcnn.inner.graph.layers import (
    Add,
    Conv,
    Dropout,
    GlobalMean,
    Layer,
    MaxPool,
    Norm,
    Relu,
    Subsample,
    trained_values,
    trains,
)
from bptcnn.inner.kernels import conv, norm, pointwise, pool
from bptcnn.inner.kernels.shape import Plane
from bptcnn.inner.kernels.sums import Epilogue
from bptcnn.inner.lowering.buffers import Rows
from bptcnn.inner.lowering.division import meet
from bptcnn.inner.lowering.filters import Filters
from bptcnn.inner.lowering.gradients import WeightGradients
from bptcnn.inner.lowering.program import Call
from bptcnn.inner.lowering.writer import Writer, flops, label

LONG_FLOPS = 4e6
"""What takes a lane a twentieth of a millisecond: others have something to do while the last block is at it."""


class Backward:
    """Writes the backward pass.

    Args:
        writer: of the step, or of this pass alone.
        layers: the network.
        filters: where weights are read.
        gradient_of: where a parameter's gradient is written, contiguous.
        move: moves the weights as soon as their gradient is there, and nobody reads them any more.
        loss: the task that knows whether they may move.
    """

    def __init__(
        self,
        writer: Writer,
        layers: Sequence[Layer],
        filters: Filters,
        gradient_of: Callable[[torch.Tensor], torch.Tensor],
        move: Descent | None = None,
        loss: Sequence[int] = (),
    ) -> None:
        buffers = writer.buffers
        self._writer, self._layers, self._buffers, self._use = writer, layers, buffers, writer.library.use
        self._filters, self._gradient_of, self._descent, self._loss = filters, gradient_of, move, tuple(loss)
        self._new_room = buffers.rooms()
        self._producer = {layer.out: layer for layer in layers}
        self._uses = {value: sum(layer.inputs.count(value) for layer in layers) for value in buffers.values}
        self._left = dict(self._uses)
        self._trained = trained_values(layers)
        # Norms that need all blocks cut the chains often enough.
        uncut = not meet(layers)
        self._cuts = uncut and writer.num_lanes > 1
        self._weights = WeightGradients(writer, gradient_of, move, loss, by_blocks=uncut)
        self._gradients: dict[int, Rows] = {layers[-1].out: buffers.scores_gradient}
        self._rooms: list[Rows] = []
        self._free: list[Rows] = []

    def write(self) -> None:
        """Write the pass."""
        for place, layer in reversed(list(enumerate(self._layers))):
            if layer.out not in self._trained:
                continue
            self._writer.layer = label(place, layer)
            gradient = self._gradients.pop(layer.out)
            if isinstance(layer, Conv):
                self._conv(layer, gradient)
            elif isinstance(layer, Norm):
                self._norm(layer, gradient)
            elif isinstance(layer, Add | Relu):  # handed on as it is: ReLU's was cut off where it was summed up
                for value in layer.inputs:
                    self._give(value, gradient)
            else:
                self._simple(layer, gradient)
            self._recycle()
        self._weights.finish(self._writer.chains.close())

    def _conv(self, layer: Conv, gradient: Rows) -> None:
        goes_on, within_chains = layer.inputs[0] in self._trained, self._weights.within_chains(layer)
        # The task that makes a weight's gradient moves it, too: not before the data's gradient is made with it.
        still_read = goes_on and not self._filters.copied(layer)
        later = trains(layer) and not within_chains
        if later and not still_read:
            self._weights.add_later(layer, gradient)
        if self._cuts and self._weights.waiting and flops(layer) * self._buffers.width > LONG_FLOPS:
            self._weights.write(self._writer.chains.close())
        if trains(layer) and within_chains:
            self._weights.add_here(layer, gradient)
        if goes_on:
            self._data_gradient(layer, gradient)
        if later and still_read:
            self._weights.add_later(layer, gradient)

    def _data_gradient(self, layer: Conv, gradient: Rows) -> None:
        """Of a convolution."""
        (value,) = layer.inputs
        before, data, target = self._gradients.get(value), self._buffers.values[value], self._room(layer.data)
        last = self._left[value] == 1
        then = Epilogue(add=before is not None, mask=last and self._rectified(value))
        kernel, tiles = self._use(conv.backward_data, layer.window, layer.shape, layer.data, then)
        weight = self._filters.backward(layer)

        def arguments(block: int) -> tuple[int, ...]:
            added = 0 if before is None else before.row(block)
            return gradient.row(block), weight, target.row(block), 0, added, data.row(block)

        self._writer.divided(kernel, arguments, tiles, layer)
        self._left[value] -= 1
        self._gradients[value] = target

    def _norm(self, layer: Norm, gradient: Rows) -> None:
        value, *shortcut = layer.inputs
        assert not (layer.fixed and trains(layer)), "a norm that keeps its statistics was frozen when it was compiled"
        if layer.fixed and value in self._trained:
            self._give(value, self._through_table(layer, gradient))
        elif value in self._trained or trains(layer):
            self._through_statistics(layer, gradient)
        for other in shortcut:
            self._give(other, gradient)

    def _through_table(self, layer: Norm, gradient: Rows) -> Rows:
        """The gradient of what a norm saw that keeps its statistics."""
        (parts, small, step), table = self._writer.part_of(layer.data), self._buffers.norms[layer.out].backward_table
        value = layer.inputs[0]
        target = self._buffers.values[value] if self._spent(value) else self._room(layer.data)
        kernel, _ = self._use(norm.normalize, small, add=False, relu=False)

        def arguments(block: int, part: int) -> tuple[int, ...]:
            return gradient.row(block, part * step), table.row(part * small.channels), target.row(block, part * step), 0

        self._writer.each_part(kernel, arguments, 2 * layer.data.size, parts)
        return target

    def _through_statistics(self, layer: Norm, gradient: Rows) -> None:
        """Gradients of a norm's weights, and of what it saw, which all samples had a part in."""
        writer, buffers, module, data = self._writer, self._buffers, layer.module, layer.data
        source, rows, counts = buffers.values[layer.inputs[0]], buffers.norms[layer.out], buffers.counts[data.area]
        parts, small, step = writer.part_of(data)
        kernel, _ = self._use(norm.backward_sums, small)

        def for_sums(block: int, part: int) -> tuple[int, ...]:
            table, sums = rows.table.row(part * small.channels), rows.sums.row(block, part * small.channels * norm.SUMS)
            return gradient.row(block, part * step), source.row(block, part * step), table, sums

        writer.each_part(kernel, for_sums, 2 * data.size, parts)
        kernel, _ = self._use(norm.backward_combine, data.channels)
        parameters = module.weight, module.bias
        results = (self._gradient_of(parameter).data_ptr() for parameter in parameters)
        blocks = buffers.blocks.ctypes.data
        call = Call(
            kernel, (rows.sums.address, counts.address, rows.table.address, *results, rows.coefficients.address, blocks)
        )
        moves = [move for parameter in parameters for move in self._weights.moves(parameter, 0, data.channels)]
        # Who makes the gradients of weights may be one barrier late, not two: then what they read is free again.
        before = writer.chains.barrier(writer.layer, [call, *moves], (*self._weights.tasks, *self._loss))
        self._weights.begin()
        self._weights.write(before)
        if layer.inputs[0] not in self._trained:
            return
        kernel, _ = self._use(norm.backward_data, small)
        target = source if self._spent(layer.inputs[0]) else self._room(layer.data)

        def for_data(block: int, part: int) -> tuple[int, ...]:
            given = gradient.row(block, part * step), source.row(block, part * step)
            coefficients = rows.coefficients.row(part * small.channels)
            return *given, coefficients, buffers.present.row(block), target.row(block, part * step)

        writer.each_part(kernel, for_data, 3 * data.size, parts)
        self._give(layer.inputs[0], target)

    def _simple(self, layer: Layer, gradient: Rows) -> None:
        buffers, each, (value,), size = self._buffers, self._writer.each, layer.inputs, layer.data.size
        data, mask = buffers.values[value], self._rectified(value) and self._uses[value] == 1
        in_place = isinstance(layer, MaxPool) and pool.side_by_side(layer.window) and self._spent(value)
        target = data if in_place else self._room(layer.data)
        if isinstance(layer, MaxPool):
            # What is passed on went to the largest of a window: it is positive if and only if that is.
            parts, small, step = self._writer.part_of(layer.data)
            kernel, _ = self._use(pool.max_pool_backward, small, layer.window, relu=layer.relu or mask)
            made = step // layer.data.area * layer.shape.area

            def arguments(block: int, part: int) -> tuple[int, ...]:
                return data.row(block, part * step), gradient.row(block, part * made), target.row(block, part * step)

            self._writer.each_part(kernel, arguments, 2 * size, parts)
        elif isinstance(layer, Subsample):
            mask = False
            kernel, _ = self._use(pointwise.subsample_backward, layer.data, layer.shape, layer.stride)
            each(kernel, lambda b: (gradient.row(b), target.row(b)), size + layer.shape.size)
        elif isinstance(layer, Dropout):
            kernel, _ = self._use(pointwise.dropout, size, layer.p, mask=mask)
            each(kernel, lambda b: (gradient.row(b), target.row(b), buffers.keys.row(b), data.row(b)), 3 * size)
        else:
            assert isinstance(layer, GlobalMean)
            kernel, _ = self._use(pool.global_mean_backward, layer.data, mask=mask)
            each(kernel, lambda b: (gradient.row(b), target.row(b), data.row(b)), 2 * size)
        self._give(value, target, masked=mask)

    def _give(self, value: int, part: Rows, *, masked: bool = False) -> None:
        """Add one layer's part to the gradient of what it saw."""
        if value not in self._trained:
            return
        producer, before, data = self._producer[value], self._gradients.get(value), self._buffers.values[value]
        self._left[value] -= 1
        mask = self._left[value] == 0 and self._rectified(value) and not masked
        writer, (parts, small, step), total = self._writer, self._writer.part_of(producer.shape), part
        if before is not None:
            total = self._room(producer.shape)
            kernel, _ = self._use(pointwise.add, small.size, relu=False, mask=mask)
            used = before, part, total, data
            writer.each_part(
                kernel, lambda b, p: tuple(rows.row(b, p * step) for rows in used), 3 * producer.shape.size, parts
            )
        elif mask:
            total = self._room(producer.shape)
            kernel, _ = self._use(pointwise.rectify, small.size)
            writer.each_part(
                kernel,
                lambda b, p: tuple(rows.row(b, p * step) for rows in (part, total, data)),
                3 * producer.shape.size,
                parts,
            )
        self._gradients[value] = total

    def _spent(self, value: int) -> bool:
        """Whether nothing else needs a value, not even as a mask: its gradient may lie where it lay."""
        return self._uses[value] == 1 and not self._rectified(value)

    def _rectified(self, value: int) -> bool:
        """Whether a value's gradient is to be cut off where the value is not positive; pooling does so itself."""
        producer = self._producer.get(value)
        return producer is not None and producer.relu and not isinstance(producer, MaxPool)

    def _room(self, plane: Plane) -> Rows:
        """Room for a gradient: that of one which nobody reads any more, if there is one of this size."""
        size = plane.size * self._buffers.width
        for rows in self._free:
            if rows.array.shape[1] == size:
                self._free.remove(rows)
                return rows
        self._rooms.append(self._new_room(plane))
        return self._rooms[-1]

    def _recycle(self) -> None:
        """Find the room that is free after this layer: the next calls come later in the same chains."""
        in_use = {id(rows) for rows in (*self._gradients.values(), *self._weights.in_use())}
        self._free = [rows for rows in self._rooms if id(rows) not in in_use]
