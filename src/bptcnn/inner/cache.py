"""Measured plans, kept between runs: one JSON file each, named by what the plan depends on.

A plan can always be measured again. So a file that is damaged or of another format counts as absent, and a folder that
can't be written to stops nobody.

The folder is ``$BPTCNN_CACHE`` where that is set (empty: no caching), otherwise ``bptcnn/plans`` in ``$XDG_CACHE_HOME``
or ``~/.cache``.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

Part: TypeAlias = str | int | float | bool | Sequence["Part"] | None

FORMAT = 1


def folder() -> Path | None:
    """Where plans are kept; not made yet, perhaps.

    Returns:
        The folder; None when caching is off or there is no home to keep it in.

    Source: XDG Base Directory Specification; a relative ``$XDG_CACHE_HOME`` is to be ignored.
    """
    ours = os.environ.get("BPTCNN_CACHE")
    theirs = Path(os.environ.get("XDG_CACHE_HOME", ""))
    try:
        if ours is not None:
            return Path(ours).expanduser() if ours else None
        return (theirs if theirs.is_absolute() else Path.home() / ".cache") / "bptcnn" / "plans"
    except RuntimeError:  # no home
        return None


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
    home = folder()
    if home is None:
        return None
    try:
        content = json.loads((home / _name(*parts)).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
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
        >>> import tempfile
        >>> from unittest import mock
        >>> with tempfile.TemporaryDirectory() as home, mock.patch.dict(os.environ, BPTCNN_CACHE=home):
        ...     save({"lanes": 4}, "lenet5", (64, 1, 28, 28))
        ...     load("lenet5", (64, 1, 28, 28))
        ...     load("lenet5", (32, 1, 28, 28))
        True
        {'lanes': 4}
    """
    home = folder()
    if home is None:
        return False
    # The parts are for people who look into the file.
    content = json.dumps({"format": FORMAT, "parts": parts, "plan": dict(plan)}, indent=1)
    try:
        home.mkdir(parents=True, exist_ok=True)
        _replace(home / _name(*parts), content)
    except (OSError, ValueError):  # a ValueError: the folder's name holds a null byte
        return False
    return True


def _name(*parts: Part) -> str:
    return f"{key(*parts)}.json"


def _replace(path: Path, text: str) -> None:
    """Write aside under a name of its own, as several workers may measure the same plan at once, then rename."""
    number, name = tempfile.mkstemp(dir=path.parent, prefix=f"{path.stem[:12]}-", suffix=".part")
    part = Path(name)
    try:
        with os.fdopen(number, "w", encoding="utf-8") as stream:
            stream.write(text)
        part.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            part.unlink()
        raise
