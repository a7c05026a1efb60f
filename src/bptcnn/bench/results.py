"""What a benchmark leaves: ``table.json``, ``runs.json``, ``rates.json`` after a search, and ``figure.svg``."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bptcnn import durable
from bptcnn.bench.crossing import in_order, median_s
from bptcnn.bench.figure import Curve, Panel, figure_svg
from bptcnn.bench.protocol import IDEAL
from bptcnn.bench.study import Run, Study, run_rows, table_rows
from bptcnn.engine.summary import versions
from bptcnn.errors import RunFolderError


class Results:
    """The folder of a benchmark's results. Make it with :meth:`create`.

    Args:
        path: the folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def create(cls, path: Path | None) -> Results:
        """Make the folder, before hours are spent on what goes into it.

        Args:
            path: where; results that are there already are replaced. None for the next free one under ``runs/``.

        Raises:
            RunFolderError: it cannot be made.
        """
        path = _next_free() if path is None else path
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunFolderError(
                f"--out {str(path)!r} cannot be made ({error.strerror}): name a folder that can be written to"
            ) from error
        return cls(path)

    def write_trials(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write ``rates.json``: what a search tried."""
        self._write("rates.json", _json(rows))

    def write(self, study: Study, runs: Sequence[Run]) -> list[dict[str, Any]]:
        """Write the table, the raw samples and the figure.

        Args:
            study: what was played.
            runs: what came of it.

        Returns:
            The rows of ``table.json``.
        """
        rows = table_rows(runs, study.protocol.link)
        self._write("table.json", _json(rows))
        raw = {"protocol": asdict(study.protocol), "versions": versions(), "runs": run_rows(runs)}
        self._write("runs.json", _json(raw))
        self._write("figure.svg", figure_svg(panels(study, runs), study.protocol.target))
        return rows

    def _write(self, name: str, text: str) -> None:
        try:
            durable.replace(self.path / name, text.encode())
        except OSError as error:
            raise RunFolderError(
                f"{str(self.path / name)!r} cannot be written ({error.strerror}): make room or choose another --out"
            ) from error


def panels(study: Study, runs: Sequence[Run]) -> list[Panel]:
    """The figure's panels: a level each, of each contender the run that is in the middle of its seeds.

    Args:
        study: what was played.
        runs: what came of it.

    Returns:
        One panel a level, the ideal first, then whoever is fastest.
    """
    protocol, found = study.protocol, []
    for level in study.levels:
        groups = {
            rule: [run for run in runs if (run.case.rule, run.case.level) == (rule, level)]
            for rule in (IDEAL, *study.rules)
        }
        medians = {rule: median_s(run.seconds_to_target for run in group) for rule, group in groups.items()}
        rules = list(study.rules)
        ranked = [rules[index] for index in in_order([medians[rule] for rule in rules])]
        title = f"{level}: {protocol.model} on {protocol.data}, link {protocol.link}"
        title += "" if protocol.trace is None else f", changing speeds (seed {protocol.trace})"
        curves = [_curve(rule, groups[rule], medians[rule], medians[IDEAL]) for rule in (IDEAL, *ranked)]
        found.append(Panel(title, curves))
    return found


def _curve(rule: str, runs: Sequence[Run], median: float | None, ideal: float | None) -> Curve:
    order = in_order([run.seconds_to_target for run in runs])
    middle = runs[order[(len(order) - 1) // 2]]
    points = [(at_s, accuracy) for at_s, _, accuracy in middle.played.time_to_accuracy]
    ratio = None if median is None or not ideal else median / ideal
    return Curve(rule, points, middle.seconds_to_target, ratio, ideal=rule == IDEAL)


def _next_free() -> Path:
    number = 1
    while (path := Path("runs") / f"bench-rules-{number}").exists():
        number += 1
    return path


def _json(tree: object) -> str:
    """Strict JSON, each list of numbers on one line."""
    text = json.dumps(tree, indent=1, allow_nan=False)
    return re.sub(r"\[[^\[\]{}\"]*\]", lambda found: re.sub(r"\s+", " ", found[0]), text) + "\n"
