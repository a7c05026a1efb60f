"""Time to accuracy of all update rules on unequal workers: a dated record of what ``bptcnn bench rules`` found.

What is timed, and against which ideal, is said in docs/rules/README.md. Folders of several benchmarks of one protocol,
such as one a level, make one record; of those whose search for rates came before, only what each rate came to is kept.

    bptcnn bench rules --level HL1,HL2,HL4,HL8 --rules all --out runs/rules
    python benchmarks/rules.py runs/rules
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import record

from bptcnn.bench.protocol import UNIT_PER_S
from bptcnn.engine.summary import versions

PLACES = ("data_dir",)
"""Of a protocol, what says nothing of the result."""


def main() -> None:
    """Read the folders and write a record."""
    parser = argparse.ArgumentParser(description="a record of benchmarks of update rules")
    parser.add_argument("results", nargs="+", type=Path, help="folder of a finished benchmark")
    parser.add_argument("--search", nargs="*", default=[], type=Path, help="folders of the search for rates before")
    parser.add_argument("--out", type=Path, default=record.RECORDS, help="folder of the record")
    options = parser.parse_args()
    print(record.file(options.out, "rules", gathered(options.results) | {"rates": searched(options.search)}))


def gathered(folders: Sequence[Path]) -> dict[str, Any]:
    """What the folders hold together.

    Args:
        folders: of benchmarks.

    Returns:
        The record's own parts: the protocol, and the rows of all tables.
    """
    raw = [json.loads((folder / "runs.json").read_text()) for folder in folders]
    usual = {"unit_per_s": UNIT_PER_S}  # which early folders do not name
    protocols = [usual | {key: value for key, value in one["protocol"].items() if key not in PLACES} for one in raw]
    if any(protocol != protocols[0] for protocol in protocols):
        sys.exit("the folders are of different protocols: make a record of each")
    rows = [row for folder in folders for row in json.loads((folder / "table.json").read_text())]
    tuned = [settings(run) for one in raw for run in one["runs"]]
    return {
        "settings": protocols[0],
        "versions": raw[0].get("versions", versions()),
        "contenders": dict(tuned),
        "table": rows,
    }


def searched(folders: Sequence[Path]) -> list[dict[str, Any]]:
    """What each learning rate came to.

    Args:
        folders: of benchmarks that tried some.
    """
    return [row for folder in folders for row in json.loads((folder / "rates.json").read_text())]


def settings(run: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Who ran, and with what that is its own.

    Args:
        run: a row of ``runs.json``.
    """
    own = ("strategy.", "allocation.", "exchange.", "optimizer.", "batch_size")
    return f"{run['level']}: {run['rule']}", {k: v for k, v in run["settings"].items() if k.startswith(own)}


if __name__ == "__main__":
    main()
