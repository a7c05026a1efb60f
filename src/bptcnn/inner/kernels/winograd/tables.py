"""Tables of filters at the points of a product: ``G g G^T``, made once a step."""

from __future__ import annotations

from llvmlite import ir

from bptcnn.inner.kernels.emit import F32, I32, Function
from bptcnn.inner.kernels.shape import Vectors
from bptcnn.inner.kernels.winograd.combine import combined
from bptcnn.inner.kernels.winograd.forms import form_of


def forward(module: ir.Module, name: str, _: Vectors, outs: int, ins: int, size: int, channels: int) -> None:
    """Emit ``table[group, point, i, o] = (G w G^T)[point]`` of the o-th output of a group and each input.

    Arguments of the kernel: weights [outs, ins, size, size], table, first group, one past the last.

    Args:
        module: gets the kernel.
        name: of the kernel.
        outs: output channels.
        ins: input channels.
        size: of the filter.
        channels: outputs of a group; they divide all.
    """
    _filters(Function(module, name), ins, size, channels, (ins * size * size, size * size))


def backward(module: ir.Module, name: str, _: Vectors, outs: int, ins: int, size: int, channels: int) -> None:
    """Emit ``table[group, point, o, i] = (G w G^T)[point]`` of the i-th input of a group and each output.

    Arguments of the kernel: as of :func:`forward`.

    Args:
        module: gets the kernel.
        name: of the kernel.
        outs: output channels.
        ins: input channels.
        size: of the filter.
        channels: inputs of a group; they divide all.
    """
    _filters(Function(module, name), outs, size, channels, (size * size, ins * size * size))


def turned(module: ir.Module, name: str, _: Vectors, outs: int, ins: int, size: int, channels: int) -> None:
    """Emit the same of filters turned by half a circle: what the errors' convolution that makes the gradient reads.

    Arguments of the kernel: as of :func:`forward`.

    Args:
        module: gets the kernel.
        name: of the kernel.
        outs: output channels.
        ins: input channels.
        size: of the filter.
        channels: inputs of a group; they divide all.
    """
    apart = size * size, ins * size * size
    _filters(Function(module, name), outs, size, channels, apart, turn=True)


def _filters(
    function: Function, summed: int, size: int, channels: int, apart: tuple[int, int], *, turn: bool = False
) -> None:
    """The same, given how far apart weights lie that are made, and that are summed up."""
    form, (of_made, of_summed) = form_of(size), apart
    builder, taps, points = function.builder, size * size, form.points**2
    several = ir.VectorType(F32, channels)
    with function.loop(function.number(3), function.number(2)) as group, function.loop(summed) as s:
        source = function.at(function.argument(0), (group, channels * of_made), (s, of_summed))
        target = function.at(function.argument(1), (group, points * summed * channels), (s, channels))
        weights = [ir.Constant(several, ir.Undefined)] * taps
        for channel in range(channels):
            for tap in range(taps):
                weight = function.scalar(function.at(source, channel * of_made + tap))
                weights[tap] = builder.insert_element(weights[tap], weight, I32(channel))
        if turn:
            weights.reverse()
        rows = [combined(function, form.filters, weights[start : start + size]) for start in range(0, taps, size)]
        for column, along in enumerate(zip(*rows, strict=True)):
            for row, value in enumerate(combined(function, form.filters, along)):
                place = row * form.points + column
                builder.store(value, function.at(target, place * summed * channels), align=4)
    function.finish()
