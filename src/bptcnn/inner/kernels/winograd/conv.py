"""Convolution by minimal filtering: ``y = A^T ((G g) * (B^T d))``, tile by tile."""

from __future__ import annotations

from bptcnn.inner.kernels.emit import I64, Value
from bptcnn.inner.kernels.shape import Window
from bptcnn.inner.kernels.sums import Pointers, Sum, finish
from bptcnn.inner.kernels.vectors import Kernel
from bptcnn.inner.kernels.winograd.forms import OUTPUTS, form_of, transposed
from bptcnn.inner.kernels.winograd.products import products
from bptcnn.inner.kernels.winograd.tiling import Shape
from bptcnn.inner.kernels.winograd.transform import Transform, combined


class Convolution:
    """Emits one convolution; it falls into parts: bands of the outputs, and of each some groups of channels.

    Args:
        kernel: on places that fill registers.
        window: of the convolution.
        spec: the sums.
        shape: of the tiles.
    """

    def __init__(self, kernel: Kernel, window: Window, spec: Sum, shape: Shape) -> None:
        self._kernel, self._spec, self._shape = kernel, spec, shape
        self._form = form_of(window.rows)
        self._pointers = Pointers(*(kernel.argument(place) for place in range(6)))
        self._data = Transform(kernel, shape, spec.data, transposed(self._form.data), window.padding)
        self._sums = kernel.room(shape.sums, kernel.vector)

    def emit(self) -> int:
        """Emit it; returns the parts."""
        kernel, shape, builder = self._kernel, self._shape, self._kernel.builder
        channels, first = self._spec.data.channels, kernel.number(6)
        many = self._spec.out.channels // shape.several
        with kernel.loop(kernel.number(7), first) as part:
            band, group = builder.udiv(part, I64(many)), builder.urem(part, I64(many))
            is_new = builder.or_(builder.icmp_signed("==", part, first), builder.icmp_signed("==", group, I64(0)))
            with builder.if_then(is_new):
                self._data.emit(self._pointers.data, band)
            weights = kernel.at(self._pointers.weights, (group, shape.points * channels * shape.several))
            products(kernel, shape, channels, weights, self._data.memory, self._sums)
            with kernel.loop(shape.several) as near, kernel.loop(shape.band) as row:
                channel = builder.add(builder.mul(group, I64(shape.several)), near)
                tile = builder.add(builder.mul(band, I64(shape.band)), row)
                sums = kernel.place(self._sums, (near, shape.points * shape.tiles), (row, shape.across))
                self._outputs(channel, tile, sums)
        kernel.finish()
        return shape.down // shape.band * many

    def _outputs(self, channel: Value, tile: Value, sums: Value) -> None:
        """Of a row of tiles."""
        kernel, out = self._kernel, self._spec.out
        whole, rest = divmod(out.columns, OUTPUTS)
        bias = kernel.by_channel(kernel.at(self._pointers.bias, channel)) if self._spec.bias else None
        for first, last, columns in ((0, whole, OUTPUTS), (whole, whole + 1, rest)):
            if first < last and columns:
                with kernel.loop(last, I64(first)) as x:
                    self._tile(channel, tile, x, kernel.place(sums, x), columns, bias)

    def _tile(self, channel: Value, tile: Value, x: Value, sums: Value, columns: int, bias: Value | None) -> None:
        kernel, out, points = self._kernel, self._spec.out, self._form.points
        back = transposed(self._form.outputs)
        halves = []
        for b in range(points):
            places = [kernel.place(sums, (a * points + b) * self._shape.tiles) for a in range(points)]
            halves.append(combined(kernel, back, [kernel.load(place) for place in places]))
        for near, along in enumerate(zip(*halves, strict=True)):
            row = kernel.builder.add(kernel.builder.mul(tile, I64(OUTPUTS)), I64(near))
            values = combined(kernel, back[:columns], along)
            if near and out.rows % OUTPUTS:
                with kernel.builder.if_then(kernel.builder.icmp_signed("<", row, I64(out.rows))):
                    self._store(values, bias, (channel, row, x))
            else:
                self._store(values, bias, (channel, row, x))

    def _store(self, values: list[Value], bias: Value | None, place: tuple[Value, Value, Value]) -> None:
        kernel, spec, (channel, row, x) = self._kernel, self._spec, place
        for near, value in enumerate(values):
            total = value if bias is None else kernel.builder.fadd(value, bias)
            places = (channel, spec.out.area), (row, spec.out.columns), (x, OUTPUTS), I64(near)
            finish(kernel, spec, self._pointers, total, *places)
