"""What went wrong in the user's own code, in a few words."""

from __future__ import annotations

import sys
import traceback
from pathlib import Path

from bptcnn.errors import BptcnnError

_OURS = Path(__file__).parents[2]
_LONGEST = 300


def described(error: BaseException) -> str:
    """An exception's kind, message and the place in the user's code.

    Args:
        error: as caught.

    Returns:
        Part of a sentence.

    Example:
        >>> described(ValueError("the image is empty"))
        'ValueError: the image is empty'
    """
    text = " ".join(str(error).split())[:_LONGEST].rstrip(".")
    if isinstance(error, BptcnnError):
        return text
    kind = type(error).__name__
    return (f"{kind}: {text}" if text else kind) + _place(error)


def _place(error: BaseException) -> str:
    """The innermost line that is neither ours nor of an installed package."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        path = Path(frame.filename)
        if path.is_file() and _OURS not in path.parents and not str(path).startswith((sys.prefix, sys.base_prefix)):
            return f" ({path.name}, line {frame.lineno})"
    return ""
