"""A table that leaves out its least important columns where the terminal is narrow."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

Cell = str | Text
GAP = 2


def fitted(
    headings: Sequence[str],
    rows: Sequence[Sequence[Cell]],
    width: int,
    expendable: Sequence[str],
    left: Collection[str] = (),
) -> Table:
    """A table without frame whose columns are whole or absent.

    Args:
        headings: of all columns.
        rows: a cell for each heading.
        width: of the terminal, in characters.
        expendable: headings of columns that may be left out, the least important first.
        left: headings of columns that are aligned left, not right.

    Returns:
        The table, at most ``width`` wide if leaving out what is expendable suffices.

    Example:
        >>> fitted(["worker", "samples", "state"], [["0", "1,200", "lost"]], 16, ["samples"]).columns[1].header
        'state'
    """
    widths = {
        heading: GAP + max(cell_len(str(cell)) for cell in (heading, *cells))
        for heading, *cells in zip(headings, *rows, strict=True)
    }
    for heading in expendable:
        if sum(widths.values()) <= width:
            break
        del widths[heading]
    table = Table(box=None, padding=(0, GAP, 0, 0), header_style="dim")
    for heading in widths:
        table.add_column(heading, justify="left" if heading in left else "right", no_wrap=True)
    for row in rows:
        table.add_row(*(cell for heading, cell in zip(headings, row, strict=True) if heading in widths))
    return table
