"""The gradient of the data by minimal filtering: ``B ((G g) * (A dy))``, summed up where tiles overlap."""

from __future__ import annotations

from bptcnn.inner.kernels.emit import I64, Term, Value
from bptcnn.inner.kernels.shape import Window
from bptcnn.inner.kernels.sums import Pointers, Sum, finish
from bptcnn.inner.kernels.vectors import Kernel
from bptcnn.inner.kernels.winograd.forms import OUTPUTS, form_of
from bptcnn.inner.kernels.winograd.products import products
from bptcnn.inner.kernels.winograd.tiling import Shape
from bptcnn.inner.kernels.winograd.transform import Transform, combined


class DataGradient:
    """Emits one gradient; it falls into groups of channels, each of which transforms the outputs' gradient anew.

    Args:
        kernel: on places that fill registers.
        window: of the convolution.
        spec: the sums: its data is the outputs' gradient, its outputs are the data's.
        shape: of the tiles.
    """

    def __init__(self, kernel: Kernel, window: Window, spec: Sum, shape: Shape) -> None:
        self._kernel, self._spec, self._shape, self._padding = kernel, spec, shape, window.padding
        self._form = form_of(window.rows)
        self._pointers = Pointers(*(kernel.argument(place) for place in range(6)))
        self._errors = Transform(kernel, shape, spec.data, self._form.outputs, 0)
        self._sums = kernel.room(shape.sums, kernel.vector)
        # Of one channel, all that a row of tiles touches.
        self._columns = max(OUTPUTS * (shape.across - 1) + self._form.points, spec.out.columns + window.padding)
        self._patch = kernel.room(self._form.points * self._columns, kernel.vector)

    def emit(self) -> int:
        """Emit it; returns the parts."""
        kernel, shape, summed = self._kernel, self._shape, self._spec.data.channels
        with kernel.loop(shape.down // shape.band) as band:
            self._errors.emit(self._pointers.data, band)
            with kernel.loop(kernel.number(7), kernel.number(6)) as group:
                weights = kernel.at(self._pointers.weights, (group, shape.points * summed * shape.several))
                products(kernel, shape, summed, weights, self._errors.memory, self._sums)
                with kernel.loop(shape.several) as near, kernel.loop(shape.band) as row:
                    channel = kernel.builder.add(kernel.builder.mul(group, I64(shape.several)), near)
                    tile = kernel.builder.add(kernel.builder.mul(band, I64(shape.band)), row)
                    sums = kernel.place(self._sums, (near, shape.points * shape.tiles), (row, shape.across))
                    self._overlap(sums)
                    self._add(channel, tile)
        kernel.finish()
        return self._spec.out.channels // shape.several

    def _overlap(self, sums: Value) -> None:
        """Transform a row of tiles back, and add up what falls on the same columns."""
        kernel, points, width = self._kernel, self._form.points, self._columns
        with kernel.loop(points * width) as place:
            kernel.store(kernel.constant(0.0), kernel.place(self._patch, place))
        with kernel.loop(self._shape.across) as x:
            corner = kernel.place(sums, x)
            columns = []
            for b in range(points):
                places = [kernel.place(corner, (a * points + b) * self._shape.tiles) for a in range(points)]
                columns.append(combined(kernel, self._form.data, [kernel.load(place) for place in places]))
            for a, along in enumerate(zip(*columns, strict=True)):
                for b, value in enumerate(combined(kernel, self._form.data, along)):
                    place = kernel.place(self._patch, (x, OUTPUTS), a * width + b)
                    kernel.store(kernel.builder.fadd(kernel.load(place), value), place)

    def _add(self, channel: Value, tile: Value) -> None:
        """Add it to what other rows of tiles gave; what no later one adds to is complete."""
        kernel, builder, out, last = self._kernel, self._kernel.builder, self._spec.out, self._shape.down - 1
        is_first = builder.icmp_signed("==", tile, I64(0))
        is_last = builder.icmp_signed("==", tile, I64(last))
        for a in range(self._form.points):
            row = builder.add(builder.mul(tile, I64(OUTPUTS)), I64(a - self._padding))
            inside = builder.icmp_unsigned("<", row, I64(out.rows))
            is_new = a >= self._form.points - OUTPUTS
            with builder.if_then(inside):
                source = kernel.place(self._patch, a * self._columns + self._padding)
                near = (channel, out.area), (row, out.columns)
                if a < OUTPUTS:
                    self._row(source, near, is_new, is_first, complete=True)
                else:
                    with builder.if_else(is_last) as (then, otherwise):
                        with then:
                            self._row(source, near, is_new, is_first, complete=True)
                        with otherwise:
                            self._row(source, near, is_new, is_first, complete=False)

    def _row(self, source: Value, near: tuple[Term, Term], is_new: bool, is_first: Value, *, complete: bool) -> None:
        kernel, out = self._kernel, self._spec.out
        target = kernel.place(self._pointers.out, *near)
        with kernel.loop(out.columns) as x:
            value = kernel.load(kernel.place(source, x))
            if not is_new:
                before = kernel.load(kernel.place(target, x))
                before = kernel.builder.select(is_first, kernel.constant(0.0), before)
                value = kernel.builder.fadd(before, value)
            if complete:
                finish(kernel, self._spec, self._pointers, value, *near, x)
            else:
                kernel.store(value, kernel.place(target, x))
