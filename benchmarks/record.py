"""Dated records: what was measured, on what, with every raw sample. A figure without a record is not quoted."""

from __future__ import annotations

import json
import os
import platform
import re
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from bptcnn.engine.summary import versions

RECORDS = Path(__file__).parent / "records"


@dataclass(frozen=True)
class Series:
    """One measured quantity.

    Attributes:
        unit: of the samples.
        samples: in the order they were taken, warm-up left out.
        target: what the median should reach, as text; empty for none.
    """

    unit: str
    samples: list[float]
    target: str = ""

    @property
    def median(self) -> float:
        """The middle of the samples."""
        return statistics.median(self.samples)

    @property
    def spread(self) -> tuple[float, float]:
        """10th and 90th percentile."""
        if len(self.samples) < 2:
            return self.median, self.median
        deciles = statistics.quantiles(self.samples, n=10, method="inclusive")
        return deciles[0], deciles[-1]


def show(series: Mapping[str, Series]) -> None:
    """Print one row a series."""
    width = max(map(len, series))
    print(f"{'':{width}}  {'median':>10}  {'p10':>10}  {'p90':>10}  {'n':>5}  unit  target")
    for name, one in series.items():
        low, high = one.spread
        figures = f"{one.median:10.4g}  {low:10.4g}  {high:10.4g}  {len(one.samples):5}"
        print(f"{name:{width}}  {figures}  {one.unit}  {one.target}".rstrip())


def write(
    folder: Path, name: str, settings: Mapping[str, Any], series: Mapping[str, Series], load_before: float
) -> Path:
    """Write a record, under a name that no other one has.

    Args:
        folder: is made if need be.
        name: of the benchmark.
        settings: all that another run needs to repeat it.
        series: what was measured.
        load_before: the machine's load average before the run; above about 0.5 others were using it.

    Returns:
        The file.
    """
    content = {
        "settings": dict(settings),
        "versions": versions(),
        "machine": machine() | {"load_before": round(load_before, 2)},
        "series": {key: _plain(one) for key, one in series.items()},
    }
    return file(folder, name, content)


def file(folder: Path, name: str, content: Mapping[str, Any]) -> Path:
    """Date a record and put it into a file of its own.

    Args:
        folder: is made if need be.
        name: of the benchmark.
        content: JSON values, all but name and date.

    Returns:
        The file.
    """
    now = datetime.now(timezone.utc)
    record = {"benchmark": name, "date": now.isoformat(timespec="seconds"), **content}
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}-{now:%Y-%m-%d-%H%M%S}.json"
    part = path.with_suffix(".part")
    part.write_text(_short_lists(json.dumps(record, indent=1)) + "\n")
    part.replace(path)
    return path


def machine() -> dict[str, Any]:
    """What it was measured on; nothing that names the machine."""
    models = re.findall(r"^model name\s*: (.*)$", _read("/proc/cpuinfo"), re.MULTILINE)
    memory = re.search(r"MemTotal:\s*(\d+) kB", _read("/proc/meminfo"))
    return {
        "cpu": models[0] if models else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": int(memory[1]) * 1024 if memory else None,
        "kernel": platform.release(),
    }


def load() -> float:
    """The load average of the last minute."""
    return os.getloadavg()[0]


def _plain(one: Series) -> dict[str, Any]:
    low, high = one.spread
    return {
        "unit": one.unit,
        "target": one.target,
        "n": len(one.samples),
        "median": _rounded(one.median),
        "p10": _rounded(low),
        "p90": _rounded(high),
        "samples": [_rounded(sample) for sample in one.samples],
    }


def _rounded(value: float) -> float:
    return float(f"{value:.5g}")


def _short_lists(text: str) -> str:
    """Put each list of numbers on one line."""
    return re.sub(r"\[[^\[\]{}\"]*\]", lambda found: re.sub(r"\s+", " ", found[0]), text)


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""
