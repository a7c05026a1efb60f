"""How much a kernel holds in registers at a time. Pure."""

from __future__ import annotations

from itertools import product

from bptcnn.inner.kernels.shape import Plane, Taps, Vectors, Window, tiles

MANY_WEIGHTS = 1 << 14
"""Of a layer: they fill the first cache of a core."""

FIRST_CACHE = 40_000
"""Bytes that a core's first cache holds, about, on machines of these years: 32 to 48 kB."""

LEAST_AREAS = 48
"""Areas over which a sum goes at least, where it could: to end it costs as much as some of them."""

LATENCY = 8
"""Independent multiply-adds that keep the units of a core busy."""


def grouped(vectors: Vectors, out: Plane) -> bool:
    """Whether a kernel makes the sums of several channels at once, and reads a table of weights for it.

    Args:
        vectors: the registers and what they hold.
        out: what it makes.
    """
    return 1 < vectors.channels <= out.channels


def side_by_side(vectors: Vectors, count: int) -> int:
    """Channels whose weights lie side by side in such a table: as many as share a register, if groups come out even.

    What a kernel reads of some channels is then one stream of memory for each group of them.

    Args:
        vectors: the registers and what they hold.
        count: channels that are made.
    """
    return vectors.channels if count % vectors.channels == 0 else count


def is_turned(vectors: Vectors, outs: int, ins: int, size: int) -> bool:
    """Whether a gradient of data is made from a table of the weights, not where PyTorch keeps them.

    There, those of one input channel lie far apart: if they are many, the first cache holds few of them at a time.

    Args:
        vectors: the registers and what they hold.
        outs: output channels.
        ins: input channels.
        size: of the filter.
    """
    return not vectors.bf16 and vectors.channels == 1 and size > 1 and outs * ins * size >= MANY_WEIGHTS


def output_tile(across: tuple[Taps, ...], out: Plane, vectors: Vectors) -> tuple[int, int]:
    """The tile of channels (or groups) and columns that costs least: few are done twice, registers are used well.

    Cost of a tile: its multiply-adds; at least its loads; at least what hides their latency. Its sums, the inputs that
    one row of the filter sees, and a weight fit into the registers.

    Args:
        across: the filter's columns.
        out: the outputs.
        vectors: the registers and what they hold.

    Example:
        >>> from bptcnn.inner.kernels.shape import forward_taps
        >>> output_tile(forward_taps(5, 1, 0), Plane(128, 10, 10), Vectors(16, 32))
        (4, 5)
    """
    count = max(taps.count(out.columns) for taps in across)
    group = vectors.channels if grouped(vectors, out) else 1
    of_sum, of_input, of_weight = _registers(vectors, grouped=group > 1)

    def cost(tile: tuple[int, int]) -> float:
        c, x = tile
        loads = of_weight * c + of_input * x
        # A quarter of the loads is not hidden behind the multiply-adds.
        return tiles(out.channels, c * group) * tiles(count, x) * (max(of_sum * c * x, loads, LATENCY) + loads / 4)

    def registers(tile: tuple[int, int]) -> int:
        c, x = tile
        seen = max(len({taps.step * i + offset for i in range(x) for offset in taps.offsets}) for taps in across)
        return of_sum * c * x + of_input * seen + of_weight

    every = product(range(1, min(out.channels // group, 16) + 1), range(1, min(count, 16) + 1))
    return min((tile for tile in every if registers(tile) <= vectors.registers or tile == (1, 1)), key=cost)


def _registers(vectors: Vectors, *, grouped: bool) -> tuple[int, int, int]:
    """How many registers a sum, an input and a weight take."""
    if not vectors.bf16:
        return 1, 1, 1
    if grouped:
        return 2, 1, 2
    return (2, 2, 1) if vectors.channels == 1 else (1, 1, 1)


def weight_tile(window: Window, data: Plane, gradient: Plane, vectors: Vectors) -> tuple[int, int]:
    """Output channels (or groups) and input channels of a tile; the first divides its whole: none is written twice.

    Args:
        window: of the convolution.
        data: what it saw.
        gradient: of what it made.
        vectors: the registers and what they hold.

    Example:
        >>> weight_tile(Window(5, 5), Plane(3, 32, 32), Plane(64, 28, 28), Vectors(16, 32))
        (4, 1)
    """
    total = gradient.channels // weight_group(vectors, gradient)

    def registers(tile: tuple[int, int]) -> int:
        outs, ins = tile
        return outs * ins * window.columns + ins * window.columns + 1

    def cost(tile: tuple[int, int]) -> float:
        outs, ins = tile
        one = max(outs * ins * window.columns, outs + ins * window.columns, LATENCY) + 2
        return total // outs * tiles(data.channels, ins) * one

    candidates = [
        (outs, ins)
        for outs, ins in product(range(1, 13), range(1, min(data.channels, 12) + 1))
        if total % outs == 0 and (registers((outs, ins)) <= vectors.registers or (outs, ins) == (1, 1))
    ]
    return min(candidates, key=cost)


def weight_rows(window: Window, data: Plane, gradient: Plane, vectors: Vectors) -> int:
    """Rows of the outputs over which a tile of sums goes: what it reads stays in the first cache meanwhile.

    Args:
        window: of the convolution.
        data: what it saw.
        gradient: of what it made.
        vectors: the registers and what they hold.

    Example:
        >>> weight_rows(Window(3, 3, padding=1), Plane(64, 32, 32), Plane(64, 32, 32), Vectors(16, 32))
        2
    """
    outs, ins = weight_tile(window, data, gradient, vectors)
    place = vectors.width * vectors.num_bytes
    row = place * (outs * gradient.columns + ins * data.columns * window.stride)
    more = place * ins * data.columns * (window.rows - window.stride)  # that a band's filters see beyond its own rows
    return max(tiles(LEAST_AREAS, gradient.columns), (FIRST_CACHE - more) // row)


def weight_group(vectors: Vectors, gradient: Plane) -> int:
    """Output channels whose sums a register holds: so many only if they divide the whole.

    Args:
        vectors: the registers and what they hold.
        gradient: of what a convolution made.
    """
    return vectors.channels if gradient.channels % vectors.channels == 0 else 1
