"""Convolution by minimal filtering: ``y = A^T ((G g) * (B^T d))``, tile by tile."""

from __future__ import annotations

from bptcnn.inner.kernels.emit import I64, Term, Value
from bptcnn.inner.kernels.shape import Window
from bptcnn.inner.kernels.shuffles import part
from bptcnn.inner.kernels.sums import Pointers, Sum, finish
from bptcnn.inner.kernels.winograd.combine import combined
from bptcnn.inner.kernels.winograd.forms import OUTPUTS, form_of, transposed
from bptcnn.inner.kernels.winograd.kernel import TileKernel
from bptcnn.inner.kernels.winograd.products import products
from bptcnn.inner.kernels.winograd.strip import alternating
from bptcnn.inner.kernels.winograd.tiling import Shape
from bptcnn.inner.kernels.winograd.transform import Transform


class Convolution:
    """Emits one convolution; it falls into parts: bands of the outputs, or shares of their channels.

    Args:
        kernel: on places that fill registers.
        window: of the convolution.
        spec: the sums.
        shape: of the tiles.
    """

    def __init__(self, kernel: TileKernel, window: Window, spec: Sum, shape: Shape) -> None:
        self._kernel, self._spec, self._shape = kernel, spec, shape
        self._form = form_of(window.rows)
        self._pointers = Pointers(*(kernel.argument(place) for place in range(6)))
        self._data = Transform(kernel, shape, spec.data, transposed(self._form.data), window.padding)
        self._sums = kernel.room(shape.sums, kernel.vector)

    def emit(self) -> int:
        """Emit it; returns the parts."""
        kernel, shape, builder = self._kernel, self._shape, self._kernel.builder
        first, shares = kernel.number(6), shape.shares(self._spec.out.channels)
        groups = self._spec.out.channels // shape.several // shares
        with kernel.loop(kernel.number(7), first) as part:
            band, share = builder.udiv(part, I64(shares)), builder.urem(part, I64(shares))
            is_new = builder.or_(builder.icmp_signed("==", part, first), builder.icmp_signed("==", share, I64(0)))
            with builder.if_then(is_new):
                self._data.emit(self._pointers.data, band)
            with kernel.loop(groups) as near:
                self._group(band, builder.add(builder.mul(share, I64(groups)), near))
        kernel.finish()
        return shape.down // shape.band * shares

    def _group(self, band: Value, group: Value) -> None:
        """Of channels, in a band."""
        kernel, shape, builder, summed = self._kernel, self._shape, self._kernel.builder, self._spec.data.channels
        weights = kernel.at(self._pointers.weights, (group, shape.points * summed * shape.several))
        products(kernel, shape, summed, weights, self._data.memory, self._sums)
        with kernel.loop(shape.several) as near, kernel.loop(shape.band) as row:
            channel = builder.add(builder.mul(group, I64(shape.several)), near)
            tile = builder.add(builder.mul(band, I64(shape.band)), row)
            sums = kernel.place(self._sums, (near, shape.points * shape.tiles), (row, shape.across))
            self._outputs(channel, tile, sums)

    def _outputs(self, channel: Value, tile: Value, sums: Value) -> None:
        """Of a row of tiles."""
        kernel, spec = self._kernel, self._spec
        bias = kernel.scalar(kernel.at(self._pointers.bias, channel)) if spec.bias else None
        columns = OUTPUTS * kernel.several
        whole = spec.out.columns // columns
        if whole:
            with kernel.loop(whole) as x:
                self._tiles(channel, tile, x, kernel.place(sums, x), columns, bias)
        if rest := spec.out.columns % columns:
            self._tiles(channel, tile, I64(whole), kernel.place(sums, whole), rest, bias)

    def _tiles(self, channel: Value, tile: Value, x: Value, sums: Value, columns: int, bias: Value | None) -> None:
        """Of a register of tiles: so many of its columns."""
        kernel, out, points = self._kernel, self._spec.out, self._form.points
        back = transposed(self._form.outputs)
        halves = []
        for b in range(points):
            places = [kernel.place(sums, (a * points + b) * self._shape.tiles) for a in range(points)]
            halves.append(combined(kernel, back, [kernel.load(place) for place in places]))
        for near, along in enumerate(zip(*halves, strict=True)):
            row = kernel.builder.add(kernel.builder.mul(tile, I64(OUTPUTS)), I64(near))
            value = alternating(kernel, combined(kernel, back, along))
            place = (channel, out.area), (row, out.columns), (x, OUTPUTS * kernel.several)
            if near and out.rows % OUTPUTS:
                with kernel.builder.if_then(kernel.builder.icmp_signed("<", row, I64(out.rows))):
                    self._store(value, bias, columns, place)
            else:
                self._store(value, bias, columns, place)

    def _store(self, value: Value, bias: Value | None, columns: int, place: tuple[Term, ...]) -> None:
        kernel, all_columns = self._kernel, OUTPUTS * self._kernel.several
        size, count = (columns, 1) if columns == all_columns else (1, columns)
        with kernel.on_maps(size):
            for near in range(count):
                total = part(kernel.builder, value, near, size * kernel.width)
                if bias is not None:
                    total = kernel.builder.fadd(total, kernel.spread(bias))
                finish(kernel, self._spec, self._pointers, total, *place, I64(near))
