"""Products of data and filters at the points of minimal filtering, where most of the time goes."""

from __future__ import annotations

from bptcnn.inner.kernels.emit import I64, Value
from bptcnn.inner.kernels.winograd.kernel import TileKernel
from bptcnn.inner.kernels.winograd.tiling import Shape


def products(kernel: TileKernel, shape: Shape, summed: int, weights: Value, data: Value, sums: Value) -> None:
    """Multiply a band's data by the filters of some groups of channels, point by point.

    Args:
        kernel: in which that happens.
        shape: of the tiles.
        summed: channels that are summed up.
        weights: [groups, points, summed, channels].
        data: of a :class:`Transform`.
        sums: [groups, channels, points, tiles] places.
    """
    size, whole = summed * shape.channels, shape.tiles // shape.wide
    with kernel.loop(shape.points) as point:
        begin = kernel.place(data, (point, shape.apart(summed)))

        def of_tiles(index: Value, count: int) -> None:
            inputs = kernel.place(begin, (index, summed * shape.wide))
            with kernel.loop(shape.groups) as group:
                factors = kernel.at(weights, (group, shape.points * size), (point, size))
                of_group = kernel.place(sums, (group, shape.channels * shape.points * shape.tiles))
                target = kernel.place(of_group, (point, shape.tiles), (index, shape.wide))
                _sums(kernel, shape, (summed, count), factors, inputs, target)

        if whole:
            with kernel.loop(whole) as index:
                of_tiles(index, shape.wide)
        if rest := shape.tiles % shape.wide:
            of_tiles(I64(whole), rest)


def _sums(kernel: TileKernel, shape: Shape, size: tuple[int, int], weights: Value, data: Value, target: Value) -> None:
    summed, wide = size
    totals = [[kernel.variable(kernel.constant(0.0)) for _ in range(wide)] for _ in range(shape.channels)]
    with kernel.loop(summed) as s:
        inputs = kernel.place(data, (s, shape.wide))
        seen = [kernel.load(kernel.place(inputs, x)) for x in range(wide)]
        of_channel = kernel.at(weights, (s, shape.channels))
        for c, row in enumerate(totals):
            weight = kernel.by_channel(kernel.at(of_channel, c))
            for total, value in zip(row, seen, strict=True):
                total.set(kernel.fma(weight, value, total.get()))
    for c, row in enumerate(totals):
        for x, total in enumerate(row):
            kernel.store(total.get(), kernel.place(target, c * shape.points * shape.tiles + x))
