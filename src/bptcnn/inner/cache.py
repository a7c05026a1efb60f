"""Measured plans, kept between runs: one JSON file each, named by what the plan depends on.

A file that is damaged or of another format counts as absent.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from bptcnn.inner import kept

Part: TypeAlias = str | int | float | bool | Sequence["Part"] | None

KIND = "plans"
FORMAT = 1


def key(*parts: Part) -> str:
    """Name a plan by what it depends on.

    Args:
        parts: machine, model, batch shape, precision and whatever else; a tuple counts as a list.

    Returns:
        64 hexadecimal digits; other parts, or the same in another order, have others.

    Example:
        >>> key("lenet5", (64, 1, 28, 28))[:12], key("lenet5", (64, 1, 28, 28), "bf16")[:12]
        ('e0767825f5a1', '6e740913abb5')
    """
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def load(*parts: Part) -> dict[str, Any] | None:
    """Find a plan.

    Args:
        parts: what it depends on, as given to ``save``.

    Returns:
        The plan as it was saved; None if there is none that can be read and is of this format.
    """
    try:
        content = json.loads(kept.read(KIND, _name(*parts)) or b"null")
    except (ValueError, RecursionError):
        return None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        return None
    plan = content.get("plan")
    return plan if isinstance(plan, dict) else None


def save(plan: Mapping[str, Any], *parts: Part) -> bool:
    """Keep a plan in place of an earlier one; a reader at any moment finds the one or the other, whole.

    Args:
        plan: JSON values under string keys.
        parts: what it depends on.

    Returns:
        Whether it is kept; False when caching is off or the folder can't be written to.

    Example:
        >>> import os, tempfile
        >>> from unittest import mock
        >>> with tempfile.TemporaryDirectory() as home, mock.patch.dict(os.environ, BPTCNN_CACHE=home):
        ...     save({"lanes": 4}, "lenet5", (64, 1, 28, 28))
        ...     load("lenet5", (64, 1, 28, 28))
        ...     load("lenet5", (32, 1, 28, 28))
        True
        {'lanes': 4}
    """
    # The parts are for people who look into the file.
    content = json.dumps({"format": FORMAT, "parts": parts, "plan": dict(plan)}, indent=1)
    return kept.write(KIND, _name(*parts), content.encode())


def _name(*parts: Part) -> str:
    return f"{key(*parts)}.json"
