"""What the documents say exists, and what is generated is up to date."""

from __future__ import annotations

import json
import re
import runpy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from bptcnn.cli import app
from bptcnn.cli.options import parse_assignment
from bptcnn.config import compose
from bptcnn.outer.allocation import ALLOCATIONS
from bptcnn.outer.rules import STRATEGIES

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *ROOT.glob("*/README.md")])
RECIPES = sorted((ROOT / "recipes").glob("*.toml"))


def command_lines() -> Iterator[str]:
    """Every `bptcnn ...` in the documents, up to a comment or the end of the code."""
    for page in PAGES:
        yield from re.findall(r"(?:^ {4}|`)(bptcnn [a-z][^`#\n]*)", page.read_text(), re.MULTILINE)


def options(command: Any) -> set[str]:
    return {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}


def keys(tree: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for name, value in tree.items():
        yield from keys(value, f"{prefix}{name}.") if isinstance(value, dict) else [prefix + name]


def test_the_reference_of_settings_is_up_to_date() -> None:
    page = runpy.run_path(str(ROOT / "docs" / "configuration.py"))["page"]()
    remedy = "run: python docs/configuration.py > docs/configuration.md"
    assert (ROOT / "docs" / "configuration.md").read_text() == page, remedy


def test_the_reference_names_every_setting() -> None:
    page = (ROOT / "docs" / "configuration.md").read_text()
    settings = set(keys(compose(None, {}).model_dump())) - {"strategy.name", "allocation.name"}
    assert not [key for key in settings if f"| `{key}` |" not in page]


def test_every_command_and_flag_in_the_documents_exists() -> None:
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    found = list(command_lines())
    assert len(found) >= 6
    for line in found:
        _, name, *words = line.split()
        assert name in commands, line
        command = commands[name]
        if hasattr(command, "commands"):  # a group
            assert words[0] in command.commands, line
            command = command.commands[words[0]]
        flags = {word.split("=")[0] for word in words if word.startswith("--")}
        assert flags <= options(command), line


def test_every_setting_in_a_command_line_exists() -> None:
    for line in command_lines():
        compose(None, dict(map(parse_assignment, re.findall(r"--set ([\w.]+=\S+)", line))))


@pytest.mark.parametrize("path", RECIPES, ids=[path.name for path in RECIPES])
def test_every_recipe_is_valid_and_says_how_to_run_it(path: Path) -> None:
    compose(path, {})
    assert f"recipes/{path.name}" in path.read_text()


def test_every_link_leads_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_every_rule_and_allocation_is_documented() -> None:
    readme = (ROOT / "README.md").read_text()
    assert all(f"`{name}`" in readme for name in (*STRATEGIES, *ALLOCATIONS))
    assert {path.stem for path in (ROOT / "docs" / "rules").glob("*.md")} - {"README"} == set(STRATEGIES)


def test_the_table_of_the_rules_is_up_to_date() -> None:
    page = runpy.run_path(str(ROOT / "docs" / "rules" / "table.py"))["page"]()
    remedy = "run: python docs/rules/table.py > docs/rules/README.md"
    assert (ROOT / "docs" / "rules" / "README.md").read_text() == page, remedy


def test_the_table_shows_the_last_record_of_each_contender_level_and_protocol(tmp_path: Path) -> None:
    protocol = {
        "data": "d",
        "model": "m",
        "target": 0.9,
        "epochs": 5,
        "link": "free",
        "trace": None,
        "engine": "virtual",
        "stop_at_target": False,
    }
    known = (  # early records do not name the unit
        ("01", {}, "HL8", 1.5),
        ("02", {"unit_per_s": 80.0}, "HL8", 1.25),
        ("03", {"link": "5ms"}, "HL8", 2.0),
        ("04", {"unit_per_s": 20.0}, "HL8", 3.0),
        ("05", {}, "HL1", 1.75),
        ("06", {"stop_at_target": True}, "HL8", 4.0),
    )
    for date, own, level, ratio in known:
        row = {"rule": "agwu", "level": level, "seed": 1, "seconds_to_target": 1, "ratio": ratio, "final_accuracy": 0.9}
        record = {"settings": protocol | own, "table": [row]}
        (tmp_path / f"rules-{date}.json").write_text(json.dumps(record))
    page = runpy.run_path(str(ROOT / "docs" / "rules" / "table.py"))["page"](tmp_path)
    assert re.findall(r"\| `agwu` \| ([\d. |]+) \|", page) == ["1.75 | 1.25", "2.00", "3.00", "4.00"]
    assert "link free, no further than the target" in page
    assert "link free, units of 20 samples/s" in page
    assert "records `rules-02.json`, `rules-05.json`." in page
    assert "no record" not in page
