"""Vectors made of numbers and of parts of other vectors."""

from __future__ import annotations

from collections.abc import Sequence

from llvmlite import ir

from bptcnn.inner.kernels.emit import F32, I32, Function, Value


def filled(kind: Value, number: float) -> Value:
    """A vector of equal numbers.

    Args:
        kind: its type.
        number: known now.
    """
    return ir.Constant(kind, [ir.Constant(F32, number)] * kind.count)


def splat(builder: ir.IRBuilder, number: Value, count: int) -> Value:
    """A vector of equal numbers.

    Args:
        builder: writes the instructions.
        number: the number.
        count: how many.
    """
    undefined = ir.Constant(ir.VectorType(number.type, count), ir.Undefined)
    return shuffled(builder, builder.insert_element(undefined, number, I32(0)), undefined, [0] * count)


def part(builder: ir.IRBuilder, vector: Value, index: int, count: int) -> Value:
    """A part of a vector.

    Args:
        builder: writes the instructions.
        vector: the whole.
        index: which of its equal parts.
        count: numbers of a part.
    """
    return shuffled(builder, vector, vector, range(index * count, (index + 1) * count))


def shuffled(builder: ir.IRBuilder, one: Value, other: Value, order: Sequence[int]) -> Value:
    """Numbers of two vectors in some order.

    Args:
        builder: writes the instructions.
        one: the vector whose numbers are counted from 0 on.
        other: the vector whose numbers follow.
        order: which number comes at each place.
    """
    return builder.shuffle_vector(one, other, ir.Constant(ir.VectorType(I32, len(order)), list(order)))


def joined(builder: ir.IRBuilder, parts: Sequence[Value]) -> Value:
    """One vector of several.

    Args:
        builder: writes the instructions.
        parts: equally long, a power of 2 of them.
    """
    while len(parts) > 1:
        count = 2 * parts[0].type.count
        pairs = zip(parts[::2], parts[1::2], strict=True)
        parts = [shuffled(builder, one, other, range(count)) for one, other in pairs]
    return parts[0]


def interleaved(builder: ir.IRBuilder, rows: Sequence[Value]) -> Value:
    """The first numbers of all rows, then the second ones, and so on, in one vector.

    Args:
        builder: writes the instructions.
        rows: equally long, a power of 2 of them.
    """
    while len(rows) > 1:
        count, half = rows[0].type.count, len(rows) // 2
        order = [place for each in range(count) for place in (each, count + each)]
        rows = [shuffled(builder, rows[row], rows[row + half], order) for row in range(half)]
    return rows[0]


def square(function: Function, corner: Value, span: int, count: int, there: int | None = None) -> list[Value]:
    """The columns of a square of float32 numbers in memory.

    Args:
        function: in which they are loaded.
        corner: the first number.
        span: numbers from one row to the next.
        count: rows and columns, a power of 2.
        there: so many columns are there, the others are zeros; None if all are.
    """
    return transposed(
        function, [loaded(function, function.at(corner, row * span), count, there or count) for row in range(count)]
    )


def transposed(function: Function, rows: Sequence[Value]) -> list[Value]:
    """The columns of a square of numbers: halves change places, then quarters, and so on.

    Args:
        function: in which they are shuffled.
        rows: as many as a row has numbers, a power of 2.
    """
    rows, count = list(rows), len(rows)
    half = count // 2
    while half >= QUAD or (half > 0 and count < QUAD):
        low, high = (
            [index if not index & half else index - half + count for index in range(count)],
            [index + half if not index & half else index + count for index in range(count)],
        )
        for row in range(count):
            if not row & half:
                pair = rows[row], rows[row + half]
                rows[row], rows[row + half] = (shuffled(function.builder, *pair, order) for order in (low, high))
        half //= 2
    return (
        rows
        if count < QUAD
        else [column for first in range(0, count, QUAD) for column in _quads(function, rows[first : first + QUAD])]
    )


QUAD = 4
"""Numbers among which processors shuffle in any order at once: more of them take two steps, or a table."""


def _quads(function: Function, rows: Sequence[Value]) -> list[Value]:
    """The columns of each square of four rows and four numbers."""
    count = rows[0].type.count

    def woven(one: Value, other: Value, size: int) -> tuple[Value, Value]:
        """The first halves of both's quads, and the second ones, alternating after so many numbers."""
        orders = (
            [
                base + quad + half + near
                for quad in range(0, count, QUAD)
                for half in range(start, start + QUAD // 2, size)
                for base in (0, count)
                for near in range(size)
            ]
            for start in (0, QUAD // 2)
        )
        first, second = (shuffled(function.builder, one, other, order) for order in orders)
        return first, second

    pairs = woven(rows[0], rows[1], 1), woven(rows[2], rows[3], 1)
    return [column for one, other in zip(*pairs, strict=True) for column in woven(one, other, 2)]


def lane_sums(builder: ir.IRBuilder, vectors: Sequence[Value]) -> list[Value]:
    """The sum over the lanes of each of some vectors, side by side: halves are added, then quarters, and so on.

    What one vector has no use for is another's, so many sums cost little more than two.

    Args:
        builder: writes the instructions.
        vectors: equally long.

    Returns:
        Vectors of the sums, in order, as long as those that were given; a shorter one for the rest.
    """
    width = vectors[0].type.count
    return [_sums(builder, list(vectors[first : first + width])) for first in range(0, len(vectors), width)]


def _sums(builder: ir.IRBuilder, vectors: list[Value]) -> Value:
    """Of at most as many vectors as each has lanes; what comes behind their sums is of no meaning."""
    while (half := vectors[0].type.count // 2) >= len(vectors):
        vectors = [builder.fadd(*(part(builder, vector, each, half) for each in (0, 1))) for vector in vectors]
    while half:
        # Lanes that have this bit become those of the vectors that have it, and take what the others hold there.
        rows = range(min(half, len(vectors)))
        pairs = [(vectors[row], vectors[row + half] if row + half < len(vectors) else vectors[row]) for row in rows]
        count = vectors[0].type.count
        low = [lane if not lane & half else lane - half + count for lane in range(count)]
        high = [lane + half if not lane & half else lane + count for lane in range(count)]
        vectors = [builder.fadd(*(shuffled(builder, *pair, order) for order in (low, high))) for pair in pairs]
        half //= 2
    return vectors[0]


def loaded(function: Function, pointer: Value, count: int, there: int) -> Value:
    """A vector of float32 numbers, zeros for those that are not there.

    Args:
        function: in which they are loaded.
        pointer: of the first.
        count: numbers of the vector.
        there: so many are read.
    """
    kind = ir.VectorType(F32, count)
    if there <= 0:
        return filled(kind, 0.0)
    if there == count:
        return function.builder.load(pointer, typ=kind, align=4)
    lanes = ir.Constant(ir.VectorType(ir.IntType(1), count), [int(lane < there) for lane in range(count)])
    name = f"llvm.masked.load.v{count}f32.p0"
    return function.instruction(name, kind, pointer, I32(4), lanes, filled(kind, 0.0))
