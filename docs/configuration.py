"""Prints ``configuration.md`` from the sections and the docstrings of their fields.

python docs/configuration.py > docs/configuration.md
"""

from __future__ import annotations

import json
from typing import Any, get_args, get_origin

from pydantic_core import PydanticUndefined

from bptcnn.config import RunConfig
from bptcnn.models.zoo import MODELS
from bptcnn.outer.allocation import ALLOCATIONS
from bptcnn.outer.rules import STRATEGIES
from bptcnn.section import Section

INTRODUCTION = f"""# Configuration

Made from the source by `python docs/configuration.py > docs/configuration.md`.

A recipe is a TOML file of these keys; what it leaves out has the default. On the command line the common ones are
flags, and `--set KEY=VALUE` sets any; in Python they are arguments of `bptcnn.RunConfig`. `data`, `model`, `strategy`
and `allocation` may also be given by name alone, as in `strategy = "sgwu"`. The complete recipe of a run is its
`config.toml`.

```toml
epochs = 10

[optimizer]
lr = 0.1

[strategy]
name = "agwu"
accuracy_weight = "relative"
```

Networks by name: {", ".join(f"`{name}`" for name in MODELS)}.
"""


def page() -> str:
    """The whole page."""
    parts = [INTRODUCTION, section("The run", "", RunConfig)]
    for name, field in RunConfig.model_fields.items():
        if name in ("strategy", "allocation"):
            kinds = STRATEGIES if name == "strategy" else ALLOCATIONS
            parts += [section(f'{name} = "{kind}"', f"{name}.", kinds[kind]) for kind in kinds]
        elif is_section(field.annotation):
            parts.append(section(name, f"{name}.", field.annotation))
    return "\n".join(parts)


def section(title: str, prefix: str, owner: type[Section]) -> str:
    """One section as a heading, its summary and a table of its fields."""
    hidden = {"strategy", "allocation"} | ({"name"} if is_choice(owner) else set())
    rows = [
        f"| `{prefix}{name}` | {default(field)} | {kind(field)} | {one_line(field.description)} |"
        for name, field in owner.model_fields.items()
        if not is_section(field.annotation) and name not in hidden
    ]
    summary = one_line((owner.__doc__ or "").split("\n\n")[0].split("Raises:")[0])
    table = ["", "| key | default | values | meaning |", "|---|---|---|---|", *rows] if rows else []
    return "\n".join([f"## {title}", "", summary, *table, ""])


def is_section(annotation: Any) -> bool:
    """Whether a field is a section of its own."""
    return isinstance(annotation, type) and issubclass(annotation, Section)


def is_choice(owner: type[Section]) -> bool:
    """Whether a section is selected by its name."""
    return owner in (*STRATEGIES.values(), *ALLOCATIONS.values())


def default(field: Any) -> str:
    """A field's default as TOML would have it."""
    if field.default is None or field.default is PydanticUndefined:
        return "none"
    return f"`{json.dumps(field.default)}`"


def kind(field: Any) -> str:
    """A field's type and bounds in a few words."""
    if get_origin(field.annotation) is tuple:
        return "list of texts" if str in get_args(field.annotation) else "list of numbers"
    words = [f"`{json.dumps(choice)}`" for choice in literals(field.annotation)]
    for python, plain in ((bool, "true, false"), (int, "whole number"), (float, "number"), (str, "text")):
        if python in (field.annotation, *get_args(field.annotation)):
            words.append(plain)
    signs = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}
    bounds = [
        f"{sign} {getattr(bound, name)}"
        for bound in field.metadata
        for name, sign in signs.items()
        if getattr(bound, name, None) is not None
    ]
    return " ".join([", ".join(words), ", ".join(bounds)]).strip()


def literals(annotation: Any) -> list[Any]:
    """The values that an annotation names."""
    found: list[Any] = []
    for part in get_args(annotation):
        found += literals(part) if get_args(part) else [part] if isinstance(part, str) else []
    return found


def one_line(text: str | None) -> str:
    """Text without line breaks, safe in a table."""
    return " ".join((text or "").split()).replace("``", "`").replace("|", "\\|")


if __name__ == "__main__":
    print(page(), end="")
