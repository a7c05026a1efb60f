"""The table of a benchmark: medians over seeds, for the terminal and for the documents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any, NamedTuple

from rich.table import Table

from bptcnn.bench.crossing import in_order, median_s
from bptcnn.report.columns import fitted
from bptcnn.report.format import duration, number, percent

SPREAD = "by seed"
HEADINGS = ("level", "rule", "to target", "of ideal", SPREAD, "reached", "final accuracy")
EXPENDABLE = ("final accuracy", "reached", SPREAD)


class Line(NamedTuple):
    """A contender at a level.

    Attributes:
        level: of heterogeneity.
        rule: the contender.
        seconds: median time to target; None if half of the runs or more never reach it.
        ratio: median of the ratios, likewise.
        spread: the best and the worst ratio of a seed; None for never.
        reached: runs that reach the target.
        num_runs: all runs.
        final_accuracy: median; None if no run was evaluated.
    """

    level: str
    rule: str
    seconds: float | None
    ratio: float | None
    spread: tuple[float | None, float | None]
    reached: int
    num_runs: int
    final_accuracy: float | None


def lines(rows: Sequence[Mapping[str, Any]]) -> list[Line]:
    """Medians over seeds.

    Args:
        rows: of ``table.json``.

    Returns:
        A line for each level and contender: levels in their order, in each the fastest contender first.
    """
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["level"], row["rule"]), []).append(row)
    levels = list(dict.fromkeys(level for level, _ in groups))
    found = [_line(level, rule, group) for (level, rule), group in groups.items()]
    return sorted(found, key=lambda line: (levels.index(line.level), line.seconds is None, line.seconds or 0.0))


def _line(level: str, rule: str, rows: Sequence[Mapping[str, Any]]) -> Line:
    accuracies = [row["final_accuracy"] for row in rows if row["final_accuracy"] is not None]
    ratios: list[float | None] = [row["ratio"] for row in rows]
    ranked = [ratios[index] for index in in_order(ratios)]
    return Line(
        level=level,
        rule=rule,
        seconds=median_s(row["seconds_to_target"] for row in rows),
        ratio=median_s(ratios),
        spread=(ranked[0], ranked[-1]),
        reached=sum(row["seconds_to_target"] is not None for row in rows),
        num_runs=len(rows),
        final_accuracy=median(accuracies) if accuracies else None,
    )


def printed(rows: Sequence[Mapping[str, Any]], width: int = 80) -> Table:
    """The table as the terminal shows it, the ideal first at each level.

    Args:
        rows: of ``table.json``.
        width: of the terminal, in characters.

    Returns:
        A table as wide as that at most, if leaving out what is expendable suffices.
    """
    ideal = {row["level"]: row["ideal_seconds"] for row in rows}
    cells: list[tuple[str, ...]] = []
    for line in lines(rows):
        if not cells or cells[-1][0] != line.level:
            cells.append((line.level, "ideal", duration(ideal[line.level]), number(1.0, digits=2), "", "", ""))
        cells.append(
            (
                line.level,
                line.rule,
                duration(line.seconds),
                number(line.ratio, digits=2),
                _spread(line),
                f"{line.reached}/{line.num_runs}",
                percent(line.final_accuracy),
            )
        )
    shown = [place for place, heading in enumerate(HEADINGS) if heading != SPREAD or any(row[place] for row in cells)]
    headings = [HEADINGS[place] for place in shown]
    rows_shown = [[row[place] for place in shown] for row in cells]
    return fitted(headings, rows_shown, width, [h for h in EXPENDABLE if h in headings], left=("level", "rule"))


def _spread(line: Line) -> str:
    """How far the seeds are apart: a difference between contenders that is smaller says little."""
    best, worst = line.spread
    if line.num_runs == 1 or best is None:
        return ""
    return f"{best:.2f}-{'never' if worst is None else format(worst, '.2f')}"


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """Median ratios as a table of Markdown: a row a contender, a column a level.

    Args:
        rows: of ``table.json``, of one link and one protocol.

    Returns:
        Lines of text. Where half of the runs or more miss the target it is the median of their final accuracies, and
        nothing where there are no runs.

    Example:
        >>> row = {"rule": "agwu", "level": "HL1", "seconds_to_target": 9.0, "ratio": 1.5, "final_accuracy": 0.9}
        >>> missed = {"rule": "none", "level": "HL1", "seconds_to_target": None, "ratio": None, "final_accuracy": 0.8}
        >>> print(markdown([row, missed]))
        | contender | HL1 |
        |---|---|
        | `agwu` | 1.50 |
        | `none` | *80.0 %* |
    """
    found = {(line.rule, line.level): line for line in lines(rows)}
    levels = sorted({level for _, level in found})
    rules = sorted({rule for rule, _ in found}, key=lambda rule: _overall(found, rule, levels))
    head = [f"| contender | {' | '.join(levels)} |", f"|---|{'---|' * len(levels)}"]
    cells = ((rule, (_cell(found.get((rule, level))) for level in levels)) for rule in rules)
    return "\n".join(head + [f"| `{rule}` | {' | '.join(row)} |" for rule, row in cells])


def _cell(line: Line | None) -> str:
    if line is None:
        return ""
    return f"*{percent(line.final_accuracy)}*" if line.ratio is None else number(line.ratio, digits=2)


def _overall(
    found: Mapping[tuple[str, str], Line], rule: str, levels: Sequence[str]
) -> tuple[int, int, float, float, str]:
    """Sorts contenders: who ran at most levels, who misses fewest targets, who takes least time, who comes closest."""
    known = [found[rule, level] for level in levels if (rule, level) in found]
    missed = [line.final_accuracy or 0.0 for line in known if line.ratio is None]
    return -len(known), len(missed), sum(line.ratio or 0.0 for line in known), -sum(missed), rule
