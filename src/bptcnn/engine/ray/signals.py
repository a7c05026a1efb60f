"""Ctrl-C and SIGTERM: the first asks for an orderly end, the second ends at once, and none disturbs the clearing up."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

from typing_extensions import Self

_HEARD = (signal.SIGINT, signal.SIGTERM)


class StopSignals:
    """Notes the first signal and lets the second interrupt; outside the main thread it hears nothing.

    Attributes:
        received: whether the user asked for an end.

    Example:
        >>> with StopSignals() as signals:
        ...     signal.raise_signal(signal.SIGINT)
        >>> signals.received
        True
    """

    def __init__(self) -> None:
        self.received = False
        self._ending = False
        self._before: dict[signal.Signals, Any] = {}

    def listen(self) -> None:
        """Take the signals over; again after somebody else took one, as Ray does with SIGTERM when it connects."""
        if threading.current_thread() is not threading.main_thread():
            return
        for number in _HEARD:
            if signal.getsignal(number) is not signal.SIG_IGN:  # nohup and the like
                self._before.setdefault(number, signal.signal(number, self._note))

    def interrupt_if_received(self) -> None:
        """Interrupt now, where nothing has begun that needs an orderly end."""
        if self.received and not self._ending:
            self.end()
            signal.default_int_handler(signal.SIGINT, None)

    def end(self) -> None:
        """Interrupt no more: what is being cleared up now would stay behind."""
        self._ending = True

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.interrupt_if_received()
        self.received = True

    def __enter__(self) -> Self:
        """Begin to listen."""
        self.listen()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give the signals back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
