"""From layers to a program: which kernels run on which blocks of samples.

A *block* of samples goes through the layers as one chain of kernel calls for as long as it needs nothing of the other
blocks: what a layer made is still in the core's cache when the next one wants it. A chain ends where batch
normalisation combines all blocks.

Source: Chen et al., TPDS 2019, inner-layer parallel training: tasks are blocks of convolution areas, and the local
weight training of each layer.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from bptcnn.inner.graph.layers import IMAGES, Add, Conv, Dropout, GlobalMean, Layer, MaxPool, Norm, Relu, Subsample
from bptcnn.inner.kernels import conv, frozen, norm, pointwise, pool
from bptcnn.inner.kernels.norm import SUMS
from bptcnn.inner.kernels.shape import Plane
from bptcnn.inner.kernels.sums import Epilogue
from bptcnn.inner.lowering.filters import Filters
from bptcnn.inner.lowering.program import Call
from bptcnn.inner.lowering.writer import Writer, label
from bptcnn.inner.tasks.dag import Kind


def lower_forward(writer: Writer, layers: Sequence[Layer], images: Plane, filters: Filters) -> None:
    """Write the way from images to scores.

    Args:
        writer: with nothing written yet.
        layers: the network.
        images: shape of an image.
        filters: where weights are read.
    """
    buffers = writer.buffers
    filters.write(writer)
    _fixed_tables(writer, [layer for layer in layers if isinstance(layer, Norm) and layer.fixed])
    writer.layer = "images"
    pack, _ = writer.library.use(pointwise.pack, images)
    address, size = buffers.images_address.ctypes.data, buffers.width * images.size
    writer.each(pack, lambda b: (address, b * size, buffers.values[IMAGES].row(b)), 2 * images.size)
    for place, layer in enumerate(layers):
        writer.layer = label(place, layer)
        if isinstance(layer, Conv):
            _conv(writer, layer, filters.forward(layer))
        elif isinstance(layer, Norm):
            _norm(writer, layer)
        else:
            _simple(writer, layer)
    writer.chains.close()


def _fixed_tables(writer: Writer, layers: Sequence[Norm]) -> None:
    """Write the task that makes the tables of norms which keep their statistics: these need no samples."""
    calls = []
    for layer in layers:
        module, rows = layer.module, writer.buffers.norms[layer.out]
        kernel, _ = writer.library.use(frozen.tables, layer.data.channels, eps=module.eps)
        calls.append(Call(kernel, (*_addresses(module), rows.table.address, rows.backward_table.address)))
    if calls:
        writer.chains.after([writer.chains.task(Kind.FORWARD, writer.layer, 0, (), calls, 0.0, 0.0)])


def _addresses(module: nn.BatchNorm2d) -> list[int]:
    """Where the weights and the statistics of a norm are."""
    tensors = (module.weight, module.bias, module.running_mean, module.running_var)
    return [tensor.data_ptr() for tensor in tensors if tensor is not None]


def _conv(writer: Writer, layer: Conv, weights: int) -> None:
    source, target = (writer.buffers.values[value] for value in (layer.inputs[0], layer.out))
    bias = layer.module.bias
    then = Epilogue(relu=layer.relu)
    shapes = layer.window, layer.data, layer.shape
    kernel, tiles = writer.library.use(conv.forward, *shapes, bias=bias is not None, then=then)
    of_bias = 0 if bias is None else bias.data_ptr()
    writer.divided(kernel, lambda b: (source.row(b), weights, target.row(b), of_bias, 0, 0), tiles, layer)


def _norm(writer: Writer, layer: Norm) -> None:
    buffers, data = writer.buffers, layer.data
    source, target = buffers.values[layer.inputs[0]], buffers.values[layer.out]
    table = buffers.norms[layer.out].table
    parts, small, step = writer.part_of(data)
    if not layer.fixed:
        _statistics(writer, layer)
    shortcut = buffers.values[layer.inputs[1]] if len(layer.inputs) > 1 else None
    kernel, _ = writer.library.use(norm.normalize, small, add=shortcut is not None, relu=layer.relu)

    def arguments(block: int, part: int) -> tuple[int, ...]:
        added = 0 if shortcut is None else shortcut.row(block, part * step)
        return source.row(block, part * step), table.row(part * small.channels), target.row(block, part * step), added

    writer.each_part(kernel, arguments, (2 if shortcut is None else 3) * data.size, parts)


def _statistics(writer: Writer, layer: Norm) -> None:
    """From all blocks to the table of the layer: here the chains meet."""
    buffers, use, module, data = writer.buffers, writer.library.use, layer.module, layer.data
    source, rows, counts = buffers.values[layer.inputs[0]], buffers.norms[layer.out], buffers.counts[data.area]
    parts, small, step = writer.part_of(data)
    kernel, _ = use(norm.statistics, small)
    sums = SUMS * small.channels
    writer.each_part(
        kernel,
        lambda b, p: (source.row(b, p * step), buffers.present.row(b), rows.sums.row(b, p * sums), counts.row(b)),
        2 * data.size,
        parts,
    )
    kernel, _ = use(norm.combine, data.channels, eps=module.eps, momentum=float(module.momentum or 0.0))
    blocks = buffers.blocks.ctypes.data
    call = Call(kernel, (rows.sums.address, counts.address, *_addresses(module), rows.table.address, blocks))
    writer.chains.barrier(writer.layer, [call])


def _simple(writer: Writer, layer: Layer) -> None:
    buffers, use, data = writer.buffers, writer.library.use, layer.data
    source, target = buffers.values[layer.inputs[0]], buffers.values[layer.out]
    parts, small, step = writer.part_of(data)
    if isinstance(layer, Add):
        other = buffers.values[layer.inputs[1]]
        kernel, _ = use(pointwise.add, small.size, relu=layer.relu, mask=False)
        writer.each_part(
            kernel, lambda b, p: (*(rows.row(b, p * step) for rows in (source, other, target)), 0), 3 * data.size, parts
        )
    elif isinstance(layer, Dropout):
        kernel, _ = use(pointwise.dropout, data.size, layer.p, mask=False)
        writer.each(kernel, lambda b: (source.row(b), target.row(b), buffers.keys.row(b), 0), 2 * data.size)
    elif isinstance(layer, Relu):
        kernel, _ = use(pointwise.rectify, small.size)
        writer.each_part(
            kernel, lambda b, p: tuple(rows.row(b, p * step) for rows in (source, target, source)), 2 * data.size, parts
        )
    elif isinstance(layer, MaxPool):
        kernel, _ = use(pool.max_pool, small, layer.window, relu=layer.relu)
        made = step // data.area * layer.shape.area
        writer.each_part(
            kernel,
            lambda b, p: (source.row(b, p * step), target.row(b, p * made)),
            data.size + layer.shape.size,
            parts,
        )
    else:
        if isinstance(layer, Subsample):
            kernel, _ = use(pointwise.subsample, data, layer.shape, layer.stride)
        else:
            assert isinstance(layer, GlobalMean)
            kernel, _ = use(pool.global_mean, data)
        writer.each(kernel, lambda b: (source.row(b), target.row(b)), data.size + layer.shape.size)
