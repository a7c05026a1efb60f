"""Shapes of blocked data and of the convolutions between them. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

SIDE = 16
"""Rows of a register that holds a matrix, and columns of a sum of products of matrices."""

ROW_BYTES = 64
"""Of such a register."""

SUMS, FACTORS = 4, 2
"""Such registers for sums, and for each kind of factor: all eight."""


@dataclass(frozen=True, slots=True)
class Vectors:
    """Vector registers, and what a block of samples looks like in them.

    Attributes:
        lanes: float32 numbers of a register.
        registers: how many there are.
        bf16: blocks hold bfloat16 numbers, whose products are summed up in float32.
        channels: where a batch has fewer samples than a register lanes, so many channels, or columns, share one.
        matrices: whether cores multiply whole matrices of bfloat16 numbers, too.

    Example:
        >>> Vectors(16, 32).width, Vectors(16, 32, bf16=True).width, Vectors(16, 32, channels=4).width
        (16, 32, 4)
        >>> Vectors(16, 32, bf16=True, channels=8).width
        4
    """

    lanes: int
    registers: int
    bf16: bool = False
    channels: int = 1
    matrices: bool = False

    @property
    def parts(self) -> int:
        """Registers that the float32 numbers of all samples fill."""
        return 2 if self.bf16 else 1

    @property
    def width(self) -> int:
        """Samples of a block: numbers that a register holds as they lie in memory."""
        return self.lanes * self.parts // self.channels

    @property
    def num_bytes(self) -> int:
        """Bytes of a number in memory."""
        return 4 // self.parts


@dataclass(frozen=True, slots=True)
class Plane:
    """Blocked data of one block of samples: [channels, rows, columns, width].

    Attributes:
        channels: feature maps.
        rows: of each.
        columns: of each.

    Example:
        >>> plane = Plane(3, 32, 30)
        >>> plane.area, plane.size
        (960, 2880)
    """

    channels: int
    rows: int = 1
    columns: int = 1

    @property
    def area(self) -> int:
        """Numbers of one map and sample."""
        return self.rows * self.columns

    @property
    def size(self) -> int:
        """Numbers of one sample, vectors of a block."""
        return self.channels * self.area


@dataclass(frozen=True, slots=True)
class Window:
    """What a convolution sees of each map.

    Attributes:
        rows: of the filter.
        columns: of the filter.
        stride: between areas.
        padding: zeros around the maps.
    """

    rows: int
    columns: int
    stride: int = 1
    padding: int = 0

    def outputs(self, plane: Plane, channels: int) -> Plane:
        """The maps that it makes: ``H_a = (H_x - H_f + 2P) / S + 1`` rows, rounded down.

        Args:
            plane: what it sees.
            channels: filters.

        Example:
            >>> Window(5, 5, padding=2).outputs(Plane(3, 32, 32), 6)
            Plane(channels=6, rows=32, columns=32)
        """
        rows = (plane.rows + 2 * self.padding - self.rows) // self.stride + 1
        columns = (plane.columns + 2 * self.padding - self.columns) // self.stride + 1
        return Plane(channels, rows, columns)


@dataclass(frozen=True, slots=True)
class Taps:
    """The filter's rows (or columns) that meet one phase of the outputs.

    An output at place i of its phase sees the inputs at ``step i + offsets[t]`` through the filter's ``places[t]``.

    Attributes:
        phase: first output of the phase.
        every: outputs of a phase lie so far apart.
        step: inputs from one output to the next of the phase.
        places: in the filter.
        offsets: of the inputs.
    """

    phase: int
    every: int
    step: int
    places: tuple[int, ...]
    offsets: tuple[int, ...]

    def count(self, total: int) -> int:
        """Outputs of the phase among so many."""
        return max(0, -(-(total - self.phase) // self.every))

    def seen(self, output: int, inputs: int) -> tuple[int, ...]:
        """Which taps meet an input, not the padding around them.

        Args:
            output: its place in the phase.
            inputs: how many there are.

        Returns:
            Indices into ``places`` and ``offsets``.

        Example:
            >>> forward_taps(3, 1, 1)[0].seen(0, 32)
            (1, 2)
        """
        return tuple(t for t, offset in enumerate(self.offsets) if 0 <= self.step * output + offset < inputs)


def forward_taps(size: int, stride: int, padding: int) -> tuple[Taps, ...]:
    """Forward: every output sees the whole filter.

    Args:
        size: of the filter.
        stride: of the window.
        padding: zeros around the maps.

    Example:
        >>> forward_taps(3, 1, 1)
        (Taps(phase=0, every=1, step=1, places=(0, 1, 2), offsets=(-1, 0, 1)),)
    """
    places = tuple(range(size))
    return (Taps(0, 1, stride, places, tuple(place - padding for place in places)),)


def backward_taps(size: int, stride: int, padding: int) -> tuple[Taps, ...]:
    """Backward: input i got something of output (i + padding - k) / stride from each k where that is whole.

    So the inputs fall into ``stride`` phases, each with filter rows of its own, and within a phase it is a plain
    convolution.

    Args:
        size: of the filter.
        stride: of the window.
        padding: zeros around the maps.

    Example:
        >>> for taps in backward_taps(3, 2, 1):
        ...     print(taps.phase, taps.places, taps.offsets)
        0 (1,) (0,)
        1 (0, 2) (1, 0)
    """
    phases = []
    for phase in range(stride):
        places = tuple(range((phase + padding) % stride, size, stride))
        offsets = tuple((phase + padding - place) // stride for place in places)
        phases.append(Taps(phase, stride, 1, places, offsets))
    return tuple(phases)


def alike(
    across: Taps, count: int, inputs: int, size: int
) -> Iterator[tuple[int, int, int, tuple[tuple[int, ...], ...]]]:
    """Tiles of columns; those in a row whose columns see the same taps as one.

    Args:
        across: the filter's columns.
        count: columns of the outputs.
        inputs: columns of the data.
        size: of a tile.

    Yields:
        First column, columns to the next tile, how many tiles, and the taps that each of a tile's columns sees.
    """
    size = min(size, count)
    starts = [min(tile * size, count - size) for tile in range(tiles(count, size))]
    seen = [tuple(across.seen(start + x, inputs) for x in range(size)) for start in starts]
    begin = 0
    for end in range(1, len(starts) + 1):
        if end == len(starts) or seen[end] != seen[begin] or starts[end] != starts[begin] + (end - begin) * size:
            yield starts[begin], size, end - begin, seen[begin]
            begin = end


def tiles(total: int, size: int) -> int:
    """How many tiles cover a whole.

    Args:
        total: what is covered.
        size: of a tile.

    Example:
        >>> tiles(10, 4)
        3
    """
    return -(-total // size)
