"""Where convolutions read their weights: in PyTorch's own memory, or in tables made of it at the start of a step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bptcnn.inner.graph.layers import Conv, Layer, products, trained_values
from bptcnn.inner.kernels import group_tables, tables
from bptcnn.inner.kernels.matrices import tables as matrix_tables
from bptcnn.inner.kernels.matrices.tiling import tile_of, unfolded
from bptcnn.inner.kernels.shape import SIDE, Vectors, backward_taps, forward_taps, tiles
from bptcnn.inner.kernels.tiling import grouped, is_turned
from bptcnn.inner.kernels.winograd import tables as winograd_tables
from bptcnn.inner.kernels.winograd.tiling import gradient_shape_of, shape_of, turned
from bptcnn.inner.lowering.buffers import Rows
from bptcnn.inner.lowering.program import Call, ranges
from bptcnn.inner.lowering.writer import Writer
from bptcnn.inner.tasks.dag import Kind


class Filters:
    """The weights of each convolution, as its kernels read them.

    Args:
        layers: the network.
        vectors: what kernels work on: with bfloat16, in groups of channels or by minimal filtering they read tables.
    """

    def __init__(self, layers: Sequence[Layer], vectors: Vectors) -> None:
        self._late: list[int] = []
        self._layers = layers
        self._convs = [layer for layer in layers if isinstance(layer, Conv)]
        self._forward: dict[int, _Way] = {}
        self._backward: dict[int, _Way] = {}
        for layer in self._convs:
            if forward := _forward(layer, vectors):
                self._forward[layer.out] = forward
            if backward := _backward(layer, vectors):
                self._backward[layer.out] = backward

    def forward(self, layer: Conv) -> int:
        """Where the forward kernel finds a layer's weights."""
        return self._address(self._forward, layer)

    def backward(self, layer: Conv) -> int:
        """Where the backward kernel finds them."""
        return self._address(self._backward, layer)

    def copied(self, layer: Conv) -> bool:
        """Whether the backward kernel reads a table, not the weights themselves."""
        return layer.out in self._backward

    def write(self, writer: Writer) -> None:
        """Write the tasks that fill the tables: those of the forward pass in front of all chains, the others for gaps.

        Nobody reads those of layers in front of which nothing trains.

        Args:
            writer: of the forward pass, nothing written yet.
        """
        writer.layer = "weights"
        writer.chains.after(self._tasks(writer, self._forward))
        trained = trained_values(self._layers)
        read = {layer.out for layer in self._convs if layer.inputs[0] in trained}
        self._late = self._tasks(writer, {out: way for out, way in self._backward.items() if out in read})

    def join(self, writer: Writer) -> None:
        """Let chains go on when the tables of the backward pass are there, for it is to follow in the same program.

        Args:
            writer: as in :meth:`write`.
        """
        if self._late:
            writer.chains.after(self._late)

    def _tasks(self, writer: Writer, ways: dict[int, _Way]) -> list[int]:
        """One task a lane, each with a part of every table."""
        shares: list[list[Call]] = [[] for _ in range(writer.num_lanes)]
        numbers = 0
        for layer in self._convs:
            if way := ways.get(layer.out):
                kernel, _ = writer.library.use(way.emit, *way.shape)
                fixed = layer.module.weight.data_ptr(), way.table.address
                count = layer.module.weight.numel()
                # A small table is the work of one lane, each time of another one.
                for part in ranges(way.parts, writer.num_lanes if count > SMALL else 1):
                    min(shares, key=len).append(Call(kernel, (*fixed, *part)))
                numbers += count
        num_bytes = 6.0 * numbers / writer.num_lanes
        return [
            writer.chains.task(Kind.FORWARD, writer.layer, part, (), calls, 0.0, num_bytes)
            for part, calls in enumerate(shares)
            if calls
        ]

    @staticmethod
    def _address(ways: dict[int, _Way], layer: Conv) -> int:
        return ways[layer.out].table.address if layer.out in ways else layer.module.weight.data_ptr()


@dataclass(frozen=True, slots=True)
class _Way:
    """A table: what makes it, given which shape; into how many parts that work falls; and where it is."""

    emit: Callable[..., None]
    shape: tuple[int, ...]
    parts: int
    table: Rows


SMALL = 1 << 12
"""Weights that one task makes a table of in no time."""


def _forward(layer: Conv, vectors: Vectors) -> _Way | None:
    """The table that the forward kernel reads, if it reads one."""
    (outs, ins, size), window = _shape(layer), layer.window
    if plane := unfolded(vectors, window, layer.data, layer.shape):
        depth, table = 2 * SIDE, Rows(1, outs * plane.channels // 2)
        return _Way(matrix_tables.forward, (outs, ins * size, 1, depth), outs // SIDE, table)
    down, across = (forward_taps(size, window.stride, window.padding) for size in (window.rows, window.columns))
    if tile := tile_of(vectors, down, across, layer.data, layer.shape):
        table = Rows(1, outs * ins * size // 2)
        return _Way(matrix_tables.forward, (outs, ins, size, tile.depth), outs // SIDE, table)
    if filtering := shape_of(vectors, window, layer.data, layer.shape):
        groups, table = outs // filtering.channels, Rows(1, outs * ins * filtering.points)
        return _Way(winograd_tables.forward, (outs, ins, window.rows, filtering.channels), groups, table)
    pairs = tiles(ins, vectors.parts)
    table, shape = Rows(1, outs * pairs * size), (outs, ins, size)
    if grouped(vectors, across, layer.shape):
        return _Way(group_tables.forward, shape, group_tables.num_parts(vectors, outs, ins), table)
    return _Way(tables.by_inputs, shape, outs, table) if vectors.bf16 and vectors.channels == 1 else None


def _backward(layer: Conv, vectors: Vectors) -> _Way | None:
    """The table that the backward kernel reads, if it reads one."""
    (outs, ins, size), window = _shape(layer), layer.window
    down, across = (backward_taps(size, window.stride, window.padding) for size in (window.rows, window.columns))
    if tile := tile_of(vectors, down, across, layer.shape, layer.data):
        table = Rows(1, outs * ins * size // 2)
        return _Way(matrix_tables.backward, (outs, ins, size, tile.depth), ins // SIDE, table)
    if filtering := gradient_shape_of(vectors, window, layer.data, layer.shape):
        emit = winograd_tables.turned if turned(window, layer.data, layer.shape) else winograd_tables.backward
        groups, table = ins // filtering.channels, Rows(1, outs * ins * filtering.points)
        return _Way(emit, (outs, ins, window.rows, filtering.channels), groups, table)
    pairs = tiles(outs, vectors.parts)
    table, shape = Rows(1, pairs * ins * size), (outs, ins, size)
    if grouped(vectors, across, layer.data):
        return _Way(group_tables.backward, shape, group_tables.num_parts(vectors, ins, outs), table)
    if is_turned(vectors, outs, ins, size):
        return _Way(tables.turned, shape, tiles(ins, tables.STREAMS), Rows(1, outs * ins * size))
    return _Way(tables.by_outputs, shape, pairs, table) if vectors.bf16 and vectors.channels == 1 else None


def _shape(layer: Conv) -> tuple[int, int, int]:
    """Output channels, input channels, and size of the filter."""
    return layer.shape.channels, layer.data.channels, layer.window.rows * layer.window.columns


BESIDE = 0.25
"""Part of all products that may be none of matrices: so many take as long as all others do."""


def by_matrices(layers: Sequence[Layer], vectors: Vectors) -> bool:
    """Whether most multiplications of a forward pass are products of matrices.

    Args:
        layers: the network.
        vectors: what kernels work on.
    """
    convs = [layer for layer in layers if isinstance(layer, Conv)]
    others = [layer for layer in convs if not _fills(layer, vectors)]
    return products(others) <= BESIDE * products(convs)


def _fills(layer: Conv, vectors: Vectors) -> bool:
    """Whether a layer's channels fill matrices."""
    way = _forward(layer, vectors)
    return way is not None and way.emit is matrix_tables.forward
