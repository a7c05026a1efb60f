"""A clock that jumps from one appointment to the next."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from math import inf


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


class Alarm:
    """Rings when a deadline has passed, which may move until then.

    Args:
        clock: the virtual clock.
        deadline_s: when it is, at this moment; None for never.
        ring: what to do.
    """

    def __init__(self, clock: VirtualClock, deadline_s: Callable[[], float | None], ring: Callable[[], None]) -> None:
        self._clock, self._deadline_s, self._ring = clock, deadline_s, ring
        self._wakes_s = inf

    def set(self) -> None:
        """See to it that the deadline is looked at in time."""
        due = self._deadline_s()
        if due is not None and due < self._wakes_s:
            self._wakes_s = due
            self._clock.at(due, self._wake)

    def _wake(self) -> None:
        self._wakes_s = inf
        due = self._deadline_s()
        if due is not None and due <= self._clock.now:
            self._clock.after(1e-6, self._ring)  # the journal's rounding must not put it a hair before the deadline
        else:
            self.set()
