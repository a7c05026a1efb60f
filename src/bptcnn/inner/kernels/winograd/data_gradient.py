"""The gradient of the data by minimal filtering: ``B ((G g) * (A dy))``, summed up where tiles overlap."""

from __future__ import annotations

from functools import reduce

from llvmlite import ir

from bptcnn.inner.kernels.emit import F32, I64, Term, Value
from bptcnn.inner.kernels.shape import Window
from bptcnn.inner.kernels.sums import Pointers, Sum, finish
from bptcnn.inner.kernels.winograd.combine import combined
from bptcnn.inner.kernels.winograd.forms import OUTPUTS, form_of
from bptcnn.inner.kernels.winograd.kernel import TileKernel
from bptcnn.inner.kernels.winograd.products import products
from bptcnn.inner.kernels.winograd.strip import alternating
from bptcnn.inner.kernels.winograd.tiling import Shape
from bptcnn.inner.kernels.winograd.transform import Transform


class DataGradient:
    """Emits one gradient; it falls into groups of channels, each of which transforms the outputs' gradient anew.

    Args:
        kernel: on places that fill registers.
        window: of the convolution.
        spec: the sums: its data is the outputs' gradient, its outputs are the data's.
        shape: of the tiles.
    """

    def __init__(self, kernel: TileKernel, window: Window, spec: Sum, shape: Shape) -> None:
        self._kernel, self._spec, self._shape, self._padding = kernel, spec, shape, window.padding
        self._form = form_of(window.rows)
        self._pointers = Pointers(*(kernel.argument(place) for place in range(6)))
        self._errors = Transform(kernel, shape, spec.data, self._form.outputs, 0)
        self._sums = kernel.room(shape.sums, kernel.vector)
        # Of one channel, all that a row of tiles touches: what each gives its n rows and n columns lies by itself, with
        # zeros around it.
        self._margin = self._form.points // OUTPUTS
        reached = (spec.out.columns + window.padding) // OUTPUTS + kernel.several
        self._length = self._margin + max(shape.across * kernel.several, reached) + 1
        self._patch = kernel.room(self._form.points**2 * self._length, ir.VectorType(F32, kernel.width))
        with kernel.on_maps(1), kernel.loop(self._form.points**2 * self._length) as place:
            kernel.store(kernel.constant(0.0), kernel.place(self._patch, place))

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
        """Transform a row of tiles back."""
        kernel, points = self._kernel, self._form.points
        with kernel.loop(self._shape.across) as x:
            corner = kernel.place(sums, x)
            columns = []
            for b in range(points):
                places = [kernel.place(corner, (a * points + b) * self._shape.tiles) for a in range(points)]
                columns.append(combined(kernel, self._form.data, [kernel.load(place) for place in places]))
            for a, along in enumerate(zip(*columns, strict=True)):
                for b, value in enumerate(combined(kernel, self._form.data, along)):
                    with kernel.on_maps(kernel.several):
                        near = (a * points + b) * self._length + self._margin
                        kernel.store(value, kernel.place(self._patch, (x, kernel.several), near))

    def _add(self, channel: Value, tile: Value) -> None:
        """Add it to what other rows of tiles gave; what no later one adds to is complete."""
        builder, out, last = self._kernel.builder, self._spec.out, self._shape.down - 1
        is_first = builder.icmp_signed("==", tile, I64(0))
        is_last = builder.icmp_signed("==", tile, I64(last))
        for a in range(self._form.points):
            row = builder.add(builder.mul(tile, I64(OUTPUTS)), I64(a - self._padding))
            inside = builder.icmp_unsigned("<", row, I64(out.rows))
            before = is_first if a < self._form.points - OUTPUTS else None
            with builder.if_then(inside):
                near = (channel, out.area), (row, out.columns)
                if a < OUTPUTS:
                    self._row(a, near, before, complete=True)
                else:
                    with builder.if_else(is_last) as (then, otherwise):
                        with then:
                            self._row(a, near, before, complete=True)
                        with otherwise:
                            self._row(a, near, before, complete=False)

    def _row(self, a: int, near: tuple[Term, Term], is_first: Value | None, *, complete: bool) -> None:
        """The a-th row; nothing was there if no earlier one reached it."""
        kernel, columns = self._kernel, OUTPUTS * self._kernel.several
        whole = self._spec.out.columns // columns * columns
        if whole:
            with kernel.loop(whole, step=columns) as x, kernel.on_maps(kernel.several):
                value = alternating(kernel, [self._column(a, x, each) for each in range(OUTPUTS)])
                self._store(value, (*near, x), columns, is_first, complete=complete)
        for column in range(whole, self._spec.out.columns):
            with kernel.on_maps(1):
                value = self._column(a, I64(column // OUTPUTS * OUTPUTS), column % OUTPUTS)
                self._store(value, (*near, I64(column)), 1, is_first, complete=complete)

    def _column(self, a: int, x: Value, near: int) -> Value:
        """What all tiles give a column, and every second one behind it: as many as a vector takes.

        Args:
            a: row.
            x: an even column.
            near: how far behind it.
        """
        kernel, points = self._kernel, self._form.points
        half, parity = divmod(near + self._padding, OUTPUTS)
        tile = kernel.builder.lshr(x, I64(1))
        values = []
        for b in range(parity, points, OUTPUTS):
            start = (a * points + b) * self._length + self._margin + half - b // OUTPUTS
            values.append(kernel.load(kernel.place(self._patch, tile, start)))
        return reduce(kernel.builder.fadd, values)

    def _store(
        self, value: Value, near: tuple[Term | Value, ...], columns: int, is_first: Value | None, *, complete: bool
    ) -> None:
        kernel = self._kernel
        with kernel.on_maps(columns):
            target = kernel.place(self._pointers.out, *near)
            if is_first is not None:
                before = kernel.builder.select(is_first, kernel.constant(0.0), kernel.load(target))
                value = kernel.builder.fadd(before, value)
            if complete:
                finish(kernel, self._spec, self._pointers, value, *near)
            else:
                kernel.store(value, target)
