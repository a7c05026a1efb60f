"""How much a kernel holds in registers at a time. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

from bptcnn.inner.kernels.shape import Plane, Taps, Vectors, Window, alike, tiles

MANY_WEIGHTS = 1 << 14
"""Of a layer: they fill the first cache of a core."""

FIRST_CACHE = 40_000
"""Bytes that a core's first cache holds, about, on machines of these years: 32 to 48 kB."""

LEAST_AREAS = 48
"""Areas over which a sum goes at least, where it could: to end it costs as much as some of them."""

LATENCY = 9
"""Independent multiply-adds that keep the units of a core busy: two of them, at four cycles, and one to spare."""

FEW_REGISTERS = 16
"""With so few, what one place of the filter sees is loaded again for the next one."""

SPARE = 1.25
"""Columns that are made for each that there is, at most, where they share registers: some are made twice."""


@dataclass(frozen=True, slots=True)
class OutputTile:
    """Outputs whose sums stay in registers.

    Attributes:
        channels: of them, or groups.
        columns: of a row.
        again: whether inputs are loaded anew for each place of the filter's row, not kept for the next one.
    """

    channels: int
    columns: int
    again: bool = False


def shared_by(vectors: Vectors, across: tuple[Taps, ...], out: Plane) -> int:
    """Neighbouring outputs whose sums share a register, where samples alone do not fill it.

    Args:
        vectors: the registers and what they hold.
        across: the filter's columns.
        out: what is made.

    Returns:
        One where maps have too few columns.

    Example:
        >>> from bptcnn.inner.kernels.shape import forward_taps
        >>> [shared_by(Vectors(16, 32, channels=4), forward_taps(3, 1, 1), Plane(8, side, side)) for side in (3, 5, 7)]
        [1, 1, 4]
    """
    count = 1 if vectors.bf16 else vectors.channels
    columns = (taps.count(out.columns) for taps in across)
    return count if all(count <= each and tiles(each, count) * count <= SPARE * each for each in columns) else 1


def grouped(vectors: Vectors, across: tuple[Taps, ...], out: Plane) -> bool:
    """Whether a kernel makes the sums of several channels at once, and reads a table of weights for it.

    Args:
        vectors: the registers and what they hold.
        across: the filter's columns.
        out: what it makes.
    """
    return 1 < vectors.channels <= out.channels and shared_by(vectors, across, out) == 1


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
    return not vectors.bf16 and size > 1 and outs * ins * size >= MANY_WEIGHTS


def output_tile(across: tuple[Taps, ...], inputs: int, out: Plane, vectors: Vectors) -> OutputTile:
    """The tile of channels (or groups) and columns that costs least: few are done twice, registers are used well.

    Cost of a tile and a place of the filter: its multiply-adds, none for outputs that see the padding there; at least
    its loads; at least what hides their latency. Its sums, the inputs that one row of the filter sees, and a weight fit
    into the registers; where these are few, what one place of it sees.

    Args:
        across: the filter's columns.
        inputs: columns of what is seen.
        out: the outputs.
        vectors: the registers and what they hold.

    Example:
        >>> from bptcnn.inner.kernels.shape import forward_taps
        >>> output_tile(forward_taps(5, 1, 0), 14, Plane(128, 10, 10), Vectors(16, 32))
        OutputTile(channels=4, columns=5, again=False)
        >>> output_tile(forward_taps(5, 1, 0), 13, Plane(128, 9, 9), Vectors(8, 16))
        OutputTile(channels=4, columns=3, again=True)
    """
    count, shared = max(taps.count(out.columns) for taps in across), shared_by(vectors, across, out)
    group = vectors.channels if grouped(vectors, across, out) else 1
    of_sum, of_input, of_weight = _registers(vectors, grouped=group > 1)
    phases = [taps for taps in across if taps.count(out.columns)]

    def fits(tile: OutputTile) -> bool:
        x = tile.columns // shared
        seen = max(len({t.step * shared * i + offset for i in range(x) for offset in t.offsets}) for t in phases)
        return of_sum * tile.channels * x + of_input * (x if tile.again else seen) + of_weight <= vectors.registers

    def of_place(c: int, x: int) -> float:
        loads = of_weight * c + of_input * x
        # A quarter of the loads is not hidden behind the multiply-adds.
        return max(of_sum * c * x, loads, LATENCY) + loads / 4 if x else 0.0

    def cost(tile: OutputTile) -> float:
        of_row = 0.0
        for taps in phases:
            for _, _, repeats, seen in alike(taps, taps.count(out.columns), inputs, tile.columns):
                registers = [{t for each in seen[x : x + shared] for t in each} for x in range(0, len(seen), shared)]
                meeting = (sum(t in each for each in registers) for t in range(len(taps.places)))
                of_row += repeats * sum(of_place(tile.channels, x) for x in meeting)
        return tiles(out.channels, tile.channels * group) * of_row

    channels, columns = range(1, min(out.channels // group, 16) + 1), range(1, min(count // shared, 16) + 1)
    ways = (False, True) if vectors.registers <= FEW_REGISTERS else (False,)
    every = [OutputTile(c, x * shared, again) for c, x, again in product(channels, columns, ways)]
    return min((tile for tile in every if fits(tile)), key=cost, default=every[0])


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
