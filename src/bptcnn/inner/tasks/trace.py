"""A step as a picture: for trace viewers, and as a drawing that stands alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import floor, log10
from typing import Any
from xml.sax.saxutils import escape

from bptcnn.inner.tasks.dag import Kind, Task
from bptcnn.inner.tasks.schedule import Schedule

# One of the colours that trace viewers know by name; all others are left to the viewer.
CRITICAL_CNAME = "terrible"
PROCESS = 1  # viewers take process 0 and thread 0 for the operating system's idle task

COLOURS = {
    Kind.FORWARD: "#8ab6e1",
    Kind.LOSS: "#c9b18d",
    Kind.BACKWARD_DATA: "#f2a65a",
    Kind.BACKWARD_WEIGHT: "#f4d35e",
    Kind.REDUCE: "#c3a1d1",
}
INK, PALE, PAPER, BAND, CRITICAL = "#1f2933", "#7b8794", "#ffffff", "#f3f5f7", "#b00020"
LEFT, RIGHT, TOP, ROW, GAP = 64, 20, 62, 26, 4  # margins and rows, in pixels
LETTER = 6.2  # width of a letter of size 11, in pixels, about


def chrome_trace(tasks: Sequence[Task], schedule: Schedule) -> dict[str, Any]:
    """Write a step as trace events: a row for each lane, a bar for each task.

    Tasks of the critical path have ``critical: true`` among their arguments, and a colour of their own in viewers that
    heed it (Chrome's does, Perfetto's does not).

    Args:
        tasks: in order.
        schedule: of these tasks.

    Returns:
        An object for ``json.dump``; times in microseconds.

    Source: "Trace Event Format", Google, of the Chromium project; complete (X) and metadata (M) events.

    Example:
        >>> from bptcnn.inner.tasks.schedule import schedule
        >>> from bptcnn.inner.tasks.dag import diamond
        >>> events = chrome_trace(diamond(), schedule(diamond(), 2, (1e-3, 5e-3, 2e-3, 1e-3)))["traceEvents"]
        >>> [(event["name"], event["ts"], event["dur"]) for event in events if event["ph"] == "X"][-1]
        ('norm 1 reduce', 6000.0, 1000.0)
    """
    _check_match(tasks, schedule)
    critical, ready = set(schedule.critical_path), schedule.ready_s
    events = [_named("process_name", 0, "local step")]
    for lane in range(schedule.num_lanes):
        events.append(_named("thread_name", lane, f"lane {lane}"))
        events.append(
            {
                "name": "thread_sort_index",
                "ph": "M",
                "pid": PROCESS,
                "tid": 1 + lane,
                "args": {"sort_index": lane},
            }
        )
    for task in tasks:
        # Whole nanoseconds, as viewers count: start and length rounded apart could overlap the next bar.
        start, finish, waited = (
            round(1e9 * time)
            for time in (
                schedule.start_s[task.id],
                schedule.finish_s[task.id],
                schedule.start_s[task.id] - ready[task.id],
            )
        )
        event = {
            "name": f"{task.layer} {task.kind}",
            "cat": str(task.kind),
            "ph": "X",
            "pid": PROCESS,
            "tid": 1 + schedule.lane[task.id],
            "ts": start / 1e3,
            "dur": (finish - start) / 1e3,
            "args": {
                "task": task.id,
                "part": task.part,
                "after": list(task.after),
                "flops": task.flops,
                "bytes": task.num_bytes,
                "waited_us": waited / 1e3,
                "critical": task.id in critical,
            },
        }
        events.append(event | {"cname": CRITICAL_CNAME} if task.id in critical else event)
    return {"traceEvents": events, "displayTimeUnit": "ms"}


def timeline_svg(tasks: Sequence[Task], schedule: Schedule, width: int = 960, most: int | None = None) -> str:
    """Draw a step: a row for each lane, a bar for each task, the critical path outlined.

    Args:
        tasks: in order.
        schedule: of these tasks.
        width: of the drawing, in pixels; 480 or more.
        most: bars at most, those of the critical path first, then the longest; the drawing says so. None for all.

    Returns:
        An SVG document that refers to nothing outside it; what a pointer rests on is explained.

    Example:
        >>> from bptcnn.inner.tasks.schedule import schedule
        >>> from bptcnn.inner.tasks.dag import diamond
        >>> timeline_svg(diamond(), schedule(diamond(), 2, (1e-3, 5e-3, 2e-3, 1e-3))).count("<title>lane ")
        4
    """
    _check_match(tasks, schedule)
    assert width >= 480, f"a timeline {width} pixels wide"
    bottom = TOP + schedule.num_lanes * (ROW + GAP)
    height = bottom + 44
    lanes = "1 lane" if schedule.num_lanes == 1 else f"{schedule.num_lanes} lanes"
    title = (
        f"{lanes}, {_ms(schedule.makespan_s)} ms, balance {schedule.balance:.2f}, "
        f"{_ms(schedule.critical_waiting_s)} ms of waiting on the critical path"
    )
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}"'
        f' font-family="system-ui, sans-serif" font-size="11" fill="{INK}" role="img">',
        _rect(0, 0, width, height, PAPER),
        f'<text x="12" y="22" font-size="14" font-weight="600">{escape(title)}</text>',
        *_legend(tasks),
    ]
    for lane in range(schedule.num_lanes):
        y = TOP + lane * (ROW + GAP)
        parts.append(_rect(LEFT, y, width - LEFT - RIGHT, ROW, BAND))
        parts.append(f'<text x="{LEFT - 8}" y="{y + 17}" text-anchor="end">lane {lane}</text>')
    scale = (width - LEFT - RIGHT) / (schedule.makespan_s or 1.0)
    parts += _axis(schedule.makespan_s, scale, bottom)
    critical, ready = set(schedule.critical_path), schedule.ready_s
    shown = _foremost(tasks, schedule, critical, len(tasks) if most is None else most)
    if len(shown) < len(tasks):
        note = f"{len(shown)} of {len(tasks)} tasks: the critical path's, then the longest"
        parts.append(f'<text x="12" y="{bottom + 34}" fill="{PALE}">{escape(note)}</text>')
    # The outlined ones last, so that no neighbour covers an outline.
    for task in sorted(shown, key=lambda task: (task.id in critical, task.id)):
        parts += _bar(task, schedule, ready[task.id], scale, critical=task.id in critical)
    return "\n".join([*parts, "</svg>", ""])


def _check_match(tasks: Sequence[Task], schedule: Schedule) -> None:
    assert tuple(task.after for task in tasks) == schedule.after, "the schedule is not of these tasks"


def _named(event: str, lane: int, name: str) -> dict[str, Any]:
    return {"name": event, "ph": "M", "pid": PROCESS, "tid": 1 + lane, "args": {"name": name}}


def _foremost(tasks: Sequence[Task], schedule: Schedule, critical: set[int], most: int) -> list[Task]:
    """The tasks that a drawing without room for all of them shows."""

    def weight(task: Task) -> tuple[bool, float]:
        return task.id in critical, schedule.finish_s[task.id] - schedule.start_s[task.id]

    return sorted(tasks, key=weight, reverse=True)[:most]


def _bar(task: Task, schedule: Schedule, ready_s: float, scale: float, *, critical: bool) -> Iterator[str]:
    start, finish = schedule.start_s[task.id], schedule.finish_s[task.id]
    x, y = LEFT + start * scale, TOP + schedule.lane[task.id] * (ROW + GAP)
    length = max((finish - start) * scale, 0.5)  # the shortest are still to be seen
    note = (
        f"lane {schedule.lane[task.id]}: {task.layer} {task.kind}, part {task.part}, "
        f"{_ms(start)} to {_ms(finish)} ms, waited {_ms(start - ready_s)} ms"
        f"{', on the critical path' if critical else ''}"
    )
    outline = f'stroke="{CRITICAL}" stroke-width="2"' if critical else f'stroke="{PAPER}" stroke-width="0.5"'
    yield f'<g data-task="{task.id}"><title>{escape(note)}</title>'
    yield _rect(x, y, length, ROW, COLOURS[task.kind], f'rx="2" {outline}')
    if len(task.layer) * LETTER + 8 < length:
        yield f'<text x="{x + length / 2:.2f}" y="{y + 17}" text-anchor="middle">{escape(task.layer)}</text>'
    yield "</g>"


def _legend(tasks: Sequence[Task]) -> Iterator[str]:
    x, y = 12.0, 36
    present = {task.kind for task in tasks}
    rows = [(str(kind), COLOURS[kind], "") for kind in Kind if kind in present]
    for name, colour, outline in [*rows, ("critical path", PAPER, f'stroke="{CRITICAL}" stroke-width="2"')]:
        yield _rect(x, y, 11, 11, colour, f'rx="2" {outline}')
        yield f'<text x="{x + 16:.1f}" y="{y + 10}">{name}</text>'
        x += 16 + LETTER * len(name) + 14


def _axis(makespan_s: float, scale: float, y: int) -> Iterator[str]:
    end = LEFT + makespan_s * scale
    yield f'<line x1="{LEFT}" y1="{y}" x2="{end:.2f}" y2="{y}" stroke="{PALE}"/>'
    for time_ms, label in _ticks(1e3 * makespan_s):
        x = LEFT + time_ms / 1e3 * scale
        yield f'<line x1="{x:.2f}" y1="{TOP}" x2="{x:.2f}" y2="{y + 4}" stroke="{PALE}" stroke-opacity="0.4"/>'
        yield f'<text x="{x:.2f}" y="{y + 17}" text-anchor="middle">{label}</text>'
    yield f'<text x="{end:.2f}" y="{y + 34}" text-anchor="end" fill="{PALE}">milliseconds</text>'


def _ticks(last: float) -> list[tuple[float, str]]:
    """Round numbers from 0 to ``last``, 5 to 11 of them, and how to write them."""
    if last <= 0:
        return [(0.0, "0")]
    power = floor(log10(last / 5))
    step = next(nice * 10.0**power for nice in (5, 2, 1) if nice * 10.0**power * 5 <= last * (1 + 1e-9))
    decimals = max(0, -power)
    return [(number * step, f"{number * step:.{decimals}f}") for number in range(int(last / step * (1 + 1e-9)) + 1)]


def _rect(x: float, y: float, width: float, height: float, fill: str, more: str = "") -> str:
    place = f'x="{_px(x)}" y="{_px(y)}" width="{_px(width)}" height="{_px(height)}"'
    return f'<rect {place} fill="{fill}" {more}/>'


def _px(pixels: float) -> str:
    """A length in hundredths of a pixel, as short as can be: a drawing holds thousands."""
    return f"{pixels:.2f}".rstrip("0").rstrip(".")


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:.4g}"
