"""Emulated speeds: one machine plays several slower ones by waiting, not by burning its cores."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

REMEMBERED = 64
"""Steps whose work tells how long the next one's may take."""


class Throttle:
    """Stretch each local step of B samples to at least B / speed seconds.

    The work is done at the end of that time. At its beginning all workers of a round would want a core of the machine
    that plays them, just when the server has answers to send.

    A timer wakes late, the more so the busier the machine is, and work may take longer than it did before. Such
    lateness is the emulation's, not the emulated machine's: the next step's time counts from when this one should have
    ended. So n steps in a row never end before n B / speed seconds.

    Args:
        samples_per_s: the speed to emulate.
        clock: returns seconds, never runs backwards.
        sleep: waits for so many seconds.

    Example:
        >>> now = [0.0]
        >>> throttle = Throttle(100.0, clock=lambda: now[0], sleep=lambda s: now.__setitem__(0, now[0] + s))
        >>> with throttle.step(50):
        ...     now[0] += 0.2
        >>> now[0]
        0.5
    """

    def __init__(self, samples_per_s: float, *, clock: Callable[[], float], sleep: Callable[[float], None]) -> None:
        self._samples_per_s = samples_per_s
        self._clock = clock
        self._sleep = sleep
        self._late_s = 0.0
        self._worked_s: deque[float] = deque(maxlen=REMEMBERED)

    @contextmanager
    def step(self, num_samples: int) -> Iterator[None]:
        """Around the work of a step: wait, and afterwards until the step has lasted as long as it should.

        Args:
            num_samples: samples of the step.
        """
        span_s = num_samples / self._samples_per_s
        end_s = self._clock() + span_s - self._late_s
        if self._worked_s:
            self._wait(end_s - max(self._worked_s))
        begun_s = self._clock()
        yield
        worked_s = self._clock() - begun_s
        self._worked_s.append(worked_s)
        self._wait(end_s)
        own_s = max(0.0, worked_s - span_s)  # the machine itself is slower than what it plays
        self._late_s = min(max(0.0, self._clock() - end_s - own_s), span_s)

    def _wait(self, until_s: float) -> None:
        while (left_s := until_s - self._clock()) > 0:
            self._sleep(left_s)
