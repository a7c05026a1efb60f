"""Rows of narrow blocks, brought into lines; see :mod:`~bptcnn.inner.kernels.matrices.lines`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import product

from llvmlite import ir

from bptcnn.inner.kernels.bf16 import I16, Bf16Kernel
from bptcnn.inner.kernels.emit import I64, Value
from bptcnn.inner.kernels.matrices.lines import Lines, lines_of, runs, span_of
from bptcnn.inner.kernels.matrices.registers import LINE
from bptcnn.inner.kernels.shape import ROW_BYTES, Plane, Vectors, Window, forward_taps, tiles
from bptcnn.inner.kernels.shuffles import shuffled


class Reader:
    """Reads the entries of lines where the data lies.

    Args:
        kernel: on narrow blocks.
        vectors: what they look like.
        lines: of the data.
        columns: of the data.
    """

    def __init__(self, kernel: Bf16Kernel, vectors: Vectors, lines: Lines, columns: int) -> None:
        self._kernel, self._lines, self._columns, self._width = kernel, lines, columns, vectors.width

    def outside(self, number: int) -> list[int]:
        """Entries that are no columns: zeros.

        Args:
            number: of the phase.
        """
        low, high = self._lines.inside(self._lines.phases[number], self._columns)
        return [*range(low), *range(high, self._lines.count)]

    def runs(self, number: int, size: int) -> Iterator[tuple[int, int, int]]:
        """All others, so many at a time where the columns between them are there, too.

        Args:
            number: of the phase.
            size: entries of a run, at most.

        Yields:
            The first entry, how many runs follow each other from there on, and their size.
        """
        lines = self._lines
        low, high = lines.inside(lines.phases[number], self._columns)
        whole = max(low, min(high, self._columns // lines.step - lines.first))
        yield from runs(low, whole, size)
        yield from runs(whole, high, 1)

    def words(self, row: Value, number: int, entry: Value, size: int) -> Value:
        """Some entries side by side.

        Args:
            row: where it begins.
            number: of the phase.
            entry: the first.
            size: how many, as :meth:`runs` says.
        """
        kernel, lines, width = self._kernel, self._lines, self._width
        phase, step = lines.phases[number], lines.step
        if size == 1 or step == 1:
            return kernel.words(kernel.place(row, phase + step * lines.first, (entry, step)), size * width)
        whole = kernel.words(kernel.place(row, step * lines.first, (entry, step)), step * size * width)
        order = [(step * each + phase) * width + sample for each, sample in product(range(size), range(width))]
        return shuffled(kernel.builder, whole, whole, order)


def each_run(kernel: Bf16Kernel, pieces: Iterable[tuple[int, int, int]]) -> Iterator[tuple[Value, int]]:
    """Loops over runs of entries.

    Args:
        kernel: in which they are.
        pieces: as of :func:`~bptcnn.inner.kernels.matrices.lines.runs`.

    Yields:
        The first entry of each run, and its size.
    """
    for start, repeats, size in pieces:
        with kernel.loop(repeats) as repeat:
            yield kernel.builder.add(I64(start), kernel.builder.mul(repeat, I64(size))), size


class Copy:
    """Some rows of the data as lines of their own: [rows, phases, channels, entries].

    Args:
        kernel: on narrow blocks.
        vectors: what they look like.
        data: whose rows.
        lines: what becomes of a row.
        rows: that there is room for.
    """

    def __init__(self, kernel: Bf16Kernel, vectors: Vectors, data: Plane, lines: Lines, rows: int) -> None:
        self._kernel, self._data, self._lines = kernel, data, lines
        self._reader = Reader(kernel, vectors, lines, data.columns)
        self._size = 2 * span_of(vectors)
        self._nothing = ir.Constant(ir.VectorType(I16, vectors.width), [0] * vectors.width)
        self._row_places = lines.size * data.channels
        self._memory = kernel.room(tiles(rows * self._row_places * vectors.width * vectors.num_bytes, ROW_BYTES), LINE)
        self._first: Value = None

    def bring(self, source: Value, first: Value, last: Value) -> None:
        """Copy rows; those that are not there become zeros.

        Args:
            source: the first place of a block.
            first: row.
            last: one past the last row.
        """
        kernel, builder, data = self._kernel, self._kernel.builder, self._data
        self.begin(first)
        with kernel.loop_if_any(last, first) as row, kernel.loop(data.channels) as channel:
            there = builder.icmp_unsigned("<", row, I64(data.rows))
            with builder.if_else(there) as (then, otherwise):
                with then:
                    place = kernel.place(source, (channel, data.area), (row, data.columns))
                    for number in range(len(self._lines.phases)):
                        self._copy(place, number, self.line(row, number, channel))
                with otherwise:
                    for number in range(len(self._lines.phases)):
                        line = self.line(row, number, channel)
                        with kernel.loop(self._lines.count) as entry:
                            kernel.write(self._nothing, kernel.place(line, entry))

    def begin(self, first: Value) -> None:
        """Turn to other rows.

        Args:
            first: of them.
        """
        self._first = first

    def line(self, row: Value, number: int, channel: Value) -> Value:
        """Where a line begins.

        Args:
            row: of the data.
            number: of the phase.
            channel: of the data.
        """
        kernel, lines = self._kernel, self._lines
        near = (kernel.builder.sub(row, self._first), self._row_places), (channel, lines.count)
        return kernel.place(self._memory, *near, number * self._data.channels * lines.count)

    def _copy(self, row: Value, number: int, target: Value) -> None:
        kernel = self._kernel
        for entry in self._reader.outside(number):
            kernel.write(self._nothing, kernel.place(target, entry))
        for entry, size in each_run(kernel, self._reader.runs(number, self._size)):
            kernel.write(self._reader.words(row, number, entry, size), kernel.place(target, entry))


class NarrowUnfolding:
    """What the filter sees of one block at some places, as channels: each area of the filter in each channel.

    Args:
        kernel: on narrow blocks.
        vectors: what they look like.
        window: of the convolution.
        data: what it sees.
        outputs: columns that it makes.
        rows: of the outputs at a time.

    Attributes:
        count: channels of the unfolded data.
    """

    def __init__(
        self, kernel: Bf16Kernel, vectors: Vectors, window: Window, data: Plane, outputs: int, rows: int
    ) -> None:
        self._kernel, self._window, self._channels = kernel, window, data.channels
        (across,) = forward_taps(window.columns, window.stride, window.padding)
        self._lines = lines_of(across, outputs)
        self._copy = Copy(kernel, vectors, data, self._lines, window.stride * (rows - 1) + window.rows)
        self.count = data.channels * window.rows * window.columns

    def bring(self, source: Value, first: Value, last: Value) -> None:
        """Copy what some rows of the outputs see.

        Args:
            source: the first place of a block.
            first: row of the outputs.
            last: one past the last.
        """
        builder, window = self._kernel.builder, self._window
        end = self._seen(builder.sub(last, I64(1)), window.rows)
        self._copy.bring(source, self._seen(first, 0), end)

    def lines(self, row: Value) -> list[Value]:
        """For each channel, where what the outputs of a row see begins.

        Args:
            row: of the outputs.
        """
        window, copy, kernel = self._window, self._copy, self._kernel
        rows = [self._seen(row, tap) for tap in range(window.rows)]
        return [
            kernel.place(copy.line(seen, number, I64(channel)), shift)
            for channel, seen, (number, shift) in product(range(self._channels), rows, self._lines.places)
        ]

    def _seen(self, row: Value, tap: int) -> Value:
        """Row of the data that a row of the outputs sees."""
        builder, window = self._kernel.builder, self._window
        return builder.add(builder.mul(row, I64(window.stride)), I64(tap - window.padding))
