"""Columns of the data side by side, as products of matrices see them where a block has few samples. Pure.

A block of fewer samples than a matrix has columns is *narrow*: neighbouring columns of a map, with all samples of
each, fill a matrix together. So what outputs side by side see through one place of the filter must lie side by side,
too: with zeros for the padding, and, where the filter moves by several columns at once, phase by phase.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from bptcnn.inner.kernels.shape import SIDE, Plane, Taps, Vectors, tiles


@dataclass(frozen=True, slots=True)
class Lines:
    """A row of the data: entry ``j`` of a phase is column ``step (j + first) + phase``, or zero where there is none.

    The output in column x of its phase sees, through tap t, entry ``x + places[t][1]`` of ``phases[places[t][0]]``.

    Attributes:
        step: columns of the data from one output to the next.
        first: of the entries.
        count: entries of a phase.
        phases: those of the data's columns that the filter meets.
        places: of each tap.
    """

    step: int
    first: int
    count: int
    phases: tuple[int, ...]
    places: tuple[tuple[int, int], ...]

    @property
    def size(self) -> int:
        """Entries of all phases."""
        return len(self.phases) * self.count

    def inside(self, phase: int, columns: int) -> tuple[int, int]:
        """The entries of a phase that are columns of the data.

        Args:
            phase: of them.
            columns: of the data.

        Returns:
            The first, and one past the last.
        """
        low = min(max(-self.first, 0), self.count)
        return low, min(max(tiles(columns - phase, self.step) - self.first, low), self.count)


def lines_of(across: Taps, outputs: int) -> Lines:
    """What so many outputs side by side see of a row.

    Args:
        across: the filter's columns.
        outputs: columns of one phase.

    Example:
        >>> from bptcnn.inner.kernels.shape import forward_taps
        >>> lines_of(forward_taps(3, 1, 1)[0], 8)
        Lines(step=1, first=-1, count=10, phases=(0,), places=((0, 0), (0, 1), (0, 2)))
        >>> lines_of(forward_taps(3, 2, 1)[0], 8)
        Lines(step=2, first=-1, count=9, phases=(0, 1), places=((1, 0), (0, 1), (1, 1)))
    """
    seen = [divmod(offset, across.step) for offset in across.offsets]
    shifts, phases = [shift for shift, _ in seen] or [0], tuple(sorted({phase for _, phase in seen}))
    first = min(shifts)
    places = tuple((phases.index(phase), shift - first) for shift, phase in seen)
    return Lines(across.step, first, outputs + max(shifts) - first, phases, places)


def side_by_side(count: int, span: int, most: int) -> Iterator[tuple[int, int, tuple[int, ...]]]:
    """Columns of the outputs, matrix by matrix; the last one is moved back to end with them.

    Args:
        count: columns.
        span: of a matrix.
        most: matrices at once.

    Yields:
        The first column, how many times ``span most`` columns follow each other from there on, and where, from the
        first of these, each matrix begins.

    Example:
        >>> list(side_by_side(14, 4, 2))
        [(0, 1, (0, 4)), (8, 1, (0, 2))]
        >>> list(side_by_side(3, 4, 2))
        [(0, 1, (0,))]
    """
    whole = span * most
    if count >= whole:
        yield 0, count // whole, tuple(range(0, whole, span))
    begin = count // whole * whole
    if begin < count:
        starts = [max(0, min(start, count - span)) for start in range(begin, count, span)]
        yield starts[0], 1, tuple(start - starts[0] for start in starts)


def runs(low: int, high: int, size: int) -> Iterator[tuple[int, int, int]]:
    """Entries in runs; the last one is moved back to end with them, and entries fewer than a run come one by one.

    Args:
        low: the first entry.
        high: one past the last.
        size: entries of a run.

    Yields:
        The first entry, how many runs follow each other from there on, and their size.

    Example:
        >>> list(runs(1, 15, 4))
        [(1, 3, 4), (11, 1, 4)]
    """
    size = size if high - low >= size else 1
    if high > low:
        yield low, (high - low) // size, size
    if (high - low) % size:
        yield high - size, 1, size


def span_of(vectors: Vectors) -> int:
    """Columns that a matrix holds, with all samples of each.

    Args:
        vectors: what a narrow block looks like.

    Example:
        >>> span_of(Vectors(16, 32, bf16=True, channels=8, matrices=True))
        4
    """
    return SIDE // vectors.width


def narrow(vectors: Vectors) -> bool:
    """Whether a block has fewer samples than a matrix columns, or just as many.

    Args:
        vectors: what it looks like.
    """
    return vectors.channels > 1


def line_bytes(vectors: Vectors, across: Taps, data: Plane, out: Plane) -> int:
    """Of a row of the data, brought together.

    Args:
        vectors: what a narrow block looks like.
        across: the filter's columns, of one phase.
        data: what it sees.
        out: what it makes.
    """
    outputs = max(across.count(out.columns), span_of(vectors))
    return lines_of(across, outputs).size * data.channels * vectors.width * vectors.num_bytes
