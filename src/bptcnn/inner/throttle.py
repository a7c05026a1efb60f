"""Emulated speeds: one machine plays several slower ones by waiting, not by burning its cores."""

from __future__ import annotations

from collections.abc import Callable


class Throttle:
    """Stretch each local step of B samples to at least B / speed seconds.

    A timer wakes late, the more so the busier the machine is. That lateness is the emulation's, not the emulated
    machine's: the next step's time counts from when the wait should have ended. So n steps in a row never end before
    n B / speed seconds.

    Args:
        samples_per_s: the speed to emulate.
        clock: returns seconds, never runs backwards.
        sleep: waits for so many seconds.

    Example:
        >>> now = [0.0]
        >>> throttle = Throttle(100.0, clock=lambda: now[0], sleep=lambda s: now.__setitem__(0, now[0] + s))
        >>> throttle.pace(50, started_s=0.0)
        >>> now[0]
        0.5
    """

    def __init__(self, samples_per_s: float, *, clock: Callable[[], float], sleep: Callable[[float], None]) -> None:
        self._samples_per_s = samples_per_s
        self._clock = clock
        self._sleep = sleep
        self._overslept_s = 0.0

    def pace(self, num_samples: int, started_s: float) -> None:
        """Wait until a step that began at ``started_s`` has lasted as long as it should.

        Args:
            num_samples: samples of the step.
            started_s: when it began, on the clock.
        """
        span_s = num_samples / self._samples_per_s
        end_s = started_s + span_s - self._overslept_s
        self._overslept_s = 0.0
        while (left_s := end_s - self._clock()) > 0:
            self._sleep(left_s)
            self._overslept_s = min(max(0.0, self._clock() - end_s), span_s)
