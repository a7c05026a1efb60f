"""Prints ``README.md`` of this folder: the cards of the rules, and what was measured of them.

python docs/rules/table.py > docs/rules/README.md
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bptcnn.bench.contenders import CONTENDERS
from bptcnn.bench.protocol import LEVELS, UNIT_PER_S
from bptcnn.bench.table import markdown
from bptcnn.outer.rules import STRATEGIES

HERE = Path(__file__).parent
RECORDS = HERE.parents[1] / "benchmarks" / "records"

INTRODUCTION = f"""# Update rules

Made from the source and the records by `python docs/rules/table.py > docs/rules/README.md`.

Cards: {", ".join(f"[{name}]({name}.md)" for name in sorted(STRATEGIES))}.

## Time to accuracy on unequal workers

The time until test accuracy first reaches a target, over that of an ideal: one worker with the sum of all speeds, whose
batch and rate are tuned for it. 1.00 is the ideal, smaller is better; medians over seeds, fastest contender first.
*In italics*, where half of the runs or more miss the target in their budget: their final accuracy. Nothing, where it
was not measured. The rate falls linearly to 0 over the same epochs for all; what is measured is the average of the
latest weights, the ideal's too (`evaluation.average`). Records up to `rules-2026-11-21-201103.json` are from before
there was one, those up to `rules-2026-11-22-041649.json` from before `exchange.smallest_step`, which no worker here is
slower than: only leases that hold a few samples less are trained otherwise. Single seeds lie a tenth or two apart, as
the records show: smaller differences say little.

The levels share 48 units of 80 samples/s among four workers:
{", ".join(f"{level} {'/'.join(map(str, units))}" for level, units in LEVELS.items())}.
A contender is a rule with its settings (`src/bptcnn/bench/contenders.py`); `allreduce` has batches in proportion to
speed, `allreduce-equal` equal ones; `default` is the rule that `bptcnn train` takes without being told, here in rounds
of one step that do not overlap; `auto` finds cadence and overlap by itself.

    make bench-rules                                        # all of it, hours; writes a record
    bptcnn bench rules --level HL8 --rules agwu,local-sgd   # some of it; --help has the rest

Times are virtual, the arithmetic is real; repeated runs are equal to the last bit. Each contender runs with what served
it best (`src/bptcnn/bench/tuned.toml`, which says how that was found: the ideal and the default had thirteen pairs of
batch and rate to choose from, all others three or four rates).
"""


def page(records: Path = RECORDS) -> str:
    """The whole page.

    Args:
        records: folder of the records.
    """
    found = [(path.name, json.loads(path.read_text())) for path in sorted(records.glob("rules-*.json"))]
    parts = [INTRODUCTION, *map(section, united(found))]
    if not found:
        names = ", ".join(f"`{name}`" for name in CONTENDERS)
        parts.append(f"Contenders: {names}. There is no record of them yet.\n")
    return "\n".join(parts)


class Protocol(NamedTuple):
    """What was measured by one protocol: its settings, the rows that count, and the records that they are from."""

    settings: Mapping[str, Any]
    table: Sequence[Mapping[str, Any]]
    names: Sequence[str]


def united(found: Sequence[tuple[str, Mapping[str, Any]]]) -> list[Protocol]:
    """Of each contender at each level, the rows of the last record by that protocol that has any.

    Args:
        found: each file's name and its content, in order of time.
    """
    protocols: dict[str, dict[tuple[str, str], tuple[str, list[Mapping[str, Any]]]]] = {}
    for name, record in found:
        settings = {"unit_per_s": UNIT_PER_S, **record["settings"]}  # which early records leave out
        cells = protocols.setdefault(json.dumps(settings, sort_keys=True), {})
        by_cell: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
        for row in record["table"]:
            by_cell.setdefault((row["level"], row["rule"]), []).append(row)
        cells |= {cell: (name, rows) for cell, rows in by_cell.items()}
    return [
        Protocol(
            json.loads(settings),
            [row for _, rows in cells.values() for row in rows],
            sorted({name for name, _ in cells.values()}),
        )
        for settings, cells in protocols.items()
    ]


def section(measured: Protocol) -> str:
    """What is known of one protocol.

    Args:
        measured: its rows.
    """
    protocol = measured.settings
    cells = Counter((row["rule"], row["level"]) for row in measured.table)  # a row a seed
    fewest, most = min(cells.values()), max(cells.values())
    seeds = f"{fewest} to {most} seeds" if fewest < most else f"{most} seed{'s' * (most > 1)}"
    trace = "" if protocol["trace"] is None else f", speeds that change (trace {protocol['trace']})"
    unit = protocol["unit_per_s"]
    units = "" if unit == UNIT_PER_S else f", units of {unit:g} samples/s"
    names = ", ".join(f"`{name}`" for name in measured.names)
    records = "record" if len(measured.names) == 1 else "records"
    real = ", on real processes" if protocol["engine"] == "ray" else ""
    ends = ", no further than the target" if protocol["stop_at_target"] else ""
    title = f"### {protocol['model']} on {protocol['data']}, link {protocol['link']}{trace}{units}{real}{ends}"
    facts = (
        f"Target {protocol['target']:g}, {protocol['epochs']} epochs at most, {seeds}, "
        f"engine {protocol['engine']}; {records} {names}."
    )
    return f"{title}\n\n{facts}\n\n{markdown(measured.table)}\n"


if __name__ == "__main__":
    print(page(), end="")
