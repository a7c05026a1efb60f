"""The figure of a benchmark: accuracy against time, a panel a level, a line a contender, the ideal and the target."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import ceil, floor, log10
from typing import NamedTuple
from xml.sax.saxutils import escape

from bptcnn.report.format import number, percent

INK, PALE, PAPER, GRID = "#1f2933", "#7b8794", "#ffffff", "#e4e7eb"
COLOURS = ("#0969da", "#bc4c00", "#1a7f37", "#8250df", "#bf3989", "#9a6700", "#0e7490", "#cf222e")
DASHES = ("", "7 3", "2 3", "9 3 2 3")
"""Where there are more contenders than colours, these tell them apart."""

WIDTH, PANEL, LEFT, RIGHT, TOP, BOTTOM = 900, 330, 58, 250, 40, 44  # pixels
CLIP = 'clip-path="url(#within)"'
BELOW = 0.12
"""How far below the target the accuracies that are shown begin."""


class Curve(NamedTuple):
    """A line of the figure.

    Attributes:
        name: the contender, or the ideal.
        points: (seconds, accuracy) of each evaluation.
        crossing_s: when it reaches the target; None if it does not.
        ratio: that time over the ideal's, the median over seeds; None likewise.
        ideal: whether it is the ideal.
    """

    name: str
    points: Sequence[tuple[float, float]]
    crossing_s: float | None
    ratio: float | None
    ideal: bool = False


class Panel(NamedTuple):
    """A part of the figure: a level's title and curves."""

    title: str
    curves: Sequence[Curve]


def figure_svg(panels: Sequence[Panel], target: float) -> str:
    """Draw a benchmark.

    Args:
        panels: one a level, drawn below each other; a contender has the same colour in all.
        target: test accuracy to reach.

    Returns:
        An SVG document that refers to nothing outside it; what a pointer rests on is explained.

    Example:
        >>> curve = Curve("agwu", [(1.0, 0.85), (2.0, 0.92)], 1.7, 1.2)
        >>> figure_svg([Panel("HL8", [curve])], 0.9).count("<polyline")
        1
    """
    height = len(panels) * PANEL
    names = dict.fromkeys(curve.name for panel in panels for curve in panel.curves if not curve.ideal)
    styles = {name: _style(index) for index, name in enumerate(names)}
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}"'
        f' font-family="system-ui, sans-serif" font-size="11" fill="{INK}" role="img">',
        "<title>Test accuracy against time</title>",
        f'<clipPath id="within"><rect x="{LEFT}" y="{TOP}" width="{WIDTH - LEFT - RIGHT}"'
        f' height="{PANEL - TOP - BOTTOM}"/></clipPath>',
        f'<rect width="{WIDTH}" height="{height}" fill="{PAPER}"/>',
    ]
    for index, panel in enumerate(panels):
        parts.append(f'<g transform="translate(0 {index * PANEL})">')
        parts += _panel(panel, target, styles)
        parts.append("</g>")
    return "\n".join([*parts, "</svg>", ""])


def _style(index: int) -> str:
    dash = DASHES[index // len(COLOURS) % len(DASHES)]
    return f'stroke="{COLOURS[index % len(COLOURS)]}" stroke-width="1.6"' + (f' stroke-dasharray="{dash}"' * bool(dash))


IDEAL_STYLE = f'stroke="{INK}" stroke-width="2.2" stroke-dasharray="5 3"'


class _Scale(NamedTuple):
    """From seconds and accuracy to pixels."""

    last_s: float
    low: float
    high: float

    def x(self, at_s: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * at_s / self.last_s

    def y(self, accuracy: float) -> float:
        return TOP + (PANEL - TOP - BOTTOM) * (self.high - accuracy) / (self.high - self.low)


def _panel(panel: Panel, target: float, styles: dict[str, str]) -> Iterator[str]:
    scale = _fit(panel.curves, target)
    yield f'<text x="12" y="22" font-size="14" font-weight="600">{escape(panel.title)}</text>'
    yield from _axes(scale)
    y = scale.y(target)
    yield f'<line x1="{LEFT}" y1="{y:.1f}" x2="{scale.x(scale.last_s):.1f}" y2="{y:.1f}" stroke="{INK}"/>'
    yield f'<text x="{LEFT + 4}" y="{y - 4:.1f}">target {percent(target)}</text>'
    for curve in panel.curves:
        style = IDEAL_STYLE if curve.ideal else styles[curve.name]
        note = f"<title>{escape(_note(curve))}</title>"
        points = " ".join(f"{scale.x(at_s):.1f},{scale.y(value):.1f}" for at_s, value in curve.points)
        yield f'<polyline points="{points}" fill="none" stroke-linejoin="round" {CLIP} {style}>{note}</polyline>'
        if curve.crossing_s is not None:
            x = scale.x(curve.crossing_s)
            yield f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.2" fill="{PAPER}" {style}>{note}</circle>'
    yield from _legend(panel.curves, styles)


def _fit(curves: Sequence[Curve], target: float) -> _Scale:
    """Times up to just after the last crossing, accuracies from just below the target to the best."""
    crossings = [curve.crossing_s for curve in curves if curve.crossing_s is not None]
    ends = [curve.points[-1][0] for curve in curves if curve.points]
    best = max((value for curve in curves for _, value in curve.points), default=target)
    last_s = min(1.15 * max(crossings), max(ends)) if crossings else max(ends, default=1.0)
    return _Scale(last_s or 1.0, max(0.0, target - BELOW), min(1.0, max(best, target) + 0.01))


def _note(curve: Curve) -> str:
    if curve.crossing_s is None:
        return f"{curve.name}: the target is not reached"
    ratio = "" if curve.ratio is None or curve.ideal else f", {number(curve.ratio, digits=2)} of the ideal"
    return f"{curve.name}: target after {number(curve.crossing_s, digits=1)} s{ratio}"


def _legend(curves: Sequence[Curve], styles: dict[str, str]) -> Iterator[str]:
    x = WIDTH - RIGHT + 16
    for index, curve in enumerate(curves):
        y = TOP + 8 + 17 * index
        style = IDEAL_STYLE if curve.ideal else styles[curve.name]
        yield f'<line x1="{x}" y1="{y}" x2="{x + 24}" y2="{y}" {style}/>'
        yield f'<text x="{x + 32}" y="{y + 4}">{escape(curve.name)}</text>'
        figure = f"{number(curve.crossing_s, digits=1)} s" if curve.ideal else number(curve.ratio, digits=2)
        yield f'<text x="{WIDTH - 16}" y="{y + 4}" text-anchor="end">{figure}</text>'


def _axes(scale: _Scale) -> Iterator[str]:
    right, bottom = scale.x(scale.last_s), scale.y(scale.low)
    for value, label in _ticks(scale.low, scale.high, percent=True):
        y = scale.y(value)
        yield f'<line x1="{LEFT}" y1="{y:.1f}" x2="{right:.1f}" y2="{y:.1f}" stroke="{GRID}"/>'
        yield f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{label}</text>'
    for at_s, label in _ticks(0.0, scale.last_s):
        x = scale.x(at_s)
        yield f'<line x1="{x:.1f}" y1="{TOP}" x2="{x:.1f}" y2="{bottom + 4:.1f}" stroke="{GRID}"/>'
        yield f'<text x="{x:.1f}" y="{bottom + 17:.1f}" text-anchor="middle">{label}</text>'
    yield f'<text x="{right:.1f}" y="{bottom + 33:.1f}" text-anchor="end" fill="{PALE}">seconds</text>'


def _ticks(low: float, high: float, *, percent: bool = False) -> list[tuple[float, str]]:
    """Round numbers from ``low`` to ``high``, 4 to 10 of them, and how to write them."""
    factor = 100.0 if percent else 1.0
    span = (high - low) * factor
    power = floor(log10(span / 4))
    step = next(nice * 10.0**power for nice in (5, 2, 1) if nice * 10.0**power * 4 <= span * (1 + 1e-9))
    first = ceil(low * factor / step - 1e-9)
    last = int(high * factor / step + 1e-9)
    numbers = [index * step for index in range(first, last + 1)]
    return [(value / factor, f"{value:.{max(0, -power)}f}{' %' * percent}") for value in numbers]
