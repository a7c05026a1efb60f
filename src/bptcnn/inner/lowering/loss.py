"""From the scores to the loss and their gradient, where the loss is one that kernels know."""

from __future__ import annotations

from bptcnn.inner.graph.layers import Layer
from bptcnn.inner.kernels import loss
from bptcnn.inner.lowering.program import Call
from bptcnn.inner.lowering.writer import Writer
from bptcnn.inner.tasks.dag import Kind


def lower_loss(writer: Writer, last: Layer) -> int:
    """Write cross-entropy between the forward and the backward pass of each block.

    Args:
        writer: of the step, its forward pass written.
        last: the layer that makes the scores.

    Returns:
        The task that knows the loss of the batch.
    """
    buffers, use = writer.buffers, writer.library.use
    rows, scores, gradient = buffers.loss, buffers.values[last.out], buffers.scores_gradient
    part = rows.part.ctypes.data
    writer.chains.turn(Kind.LOSS)
    writer.layer = "loss"
    kernel, _ = use(loss.cross_entropy, last.shape.size)
    writer.each(
        kernel,
        lambda b: (
            *(scores.row(b), rows.labels_address.ctypes.data, b * buffers.width, buffers.present.row(b)),
            *(part, gradient.row(b), rows.parts.row(b)),
        ),
        2 * last.shape.size,
    )
    before = writer.chains.turn(Kind.BACKWARD_DATA)
    kernel, _ = use(loss.mean_loss)
    flags = (array.ctypes.data for array in (rows.mean_address, rows.guard, rows.stay))
    call = Call(kernel, (rows.parts.address, buffers.blocks.ctypes.data, part, *flags))
    return writer.chains.task(Kind.REDUCE, writer.layer, 0, before, [call], 0.0, 0.0)
