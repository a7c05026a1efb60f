"""A clock that jumps from one appointment to the next."""

from __future__ import annotations

import heapq
from collections.abc import Callable


class VirtualClock:
    """Appointments in order of time, first come first served at one moment: the same calls give the same order.

    Example:
        >>> clock = VirtualClock()
        >>> clock.at(2.0, lambda: print("later")); clock.at(1.0, lambda: print("sooner"))
        >>> while clock.step(): pass
        sooner
        later
        >>> clock.now
        2.0
    """

    def __init__(self, now: float = 0.0) -> None:
        self.now = now
        self._count = 0
        self._agenda: list[tuple[float, int, Callable[[], None]]] = []

    def at(self, when: float, call: Callable[[], None]) -> None:
        """Make an appointment.

        Args:
            when: virtual seconds; not before now.
            call: what happens then.
        """
        self._count += 1
        heapq.heappush(self._agenda, (max(when, self.now), self._count, call))

    def after(self, delay_s: float, call: Callable[[], None]) -> None:
        """Make an appointment ``delay_s`` from now.

        Args:
            delay_s: virtual seconds, >= 0.
            call: what happens then.
        """
        self.at(self.now + delay_s, call)

    def step(self) -> bool:
        """Jump to the next appointment and keep it; False if there is none."""
        if not self._agenda:
            return False
        self.now, _, call = heapq.heappop(self._agenda)
        call()
        return True
