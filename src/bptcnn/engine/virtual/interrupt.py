"""Ctrl-C between two steps: a coordinator that is cut off in the middle of one could neither go on nor be saved."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def held_back() -> Iterator[Callable[[], bool]]:
    """Hold Ctrl-C back until somebody asks; a second one before that is raised at once.

    Only Python's own handling of Ctrl-C is replaced, and only where signals arrive, in the main thread.

    Yields:
        A function that tells whether Ctrl-C was pressed since it was last asked.
    """
    pressed = False

    def hold(number: int, frame: FrameType | None) -> None:
        nonlocal pressed
        if pressed:
            signal.default_int_handler(number, frame)
        pressed = True

    def ask() -> bool:
        nonlocal pressed
        answer, pressed = pressed, False
        return answer

    ours = _install(hold)
    try:
        yield ask
    finally:
        if ours:
            signal.signal(signal.SIGINT, signal.default_int_handler)


def _install(handler: Callable[[int, FrameType | None], None]) -> bool:
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        return False
    try:
        signal.signal(signal.SIGINT, handler)
    except ValueError:  # not the main thread
        return False
    return True
