"""How many lanes of a step work, decided from how long steps take. Pure."""

from __future__ import annotations

from statistics import median

STEPS, SECONDS = 5, 0.1
"""A window has so many steps at least, and lasts so long: its median decides, not what happened by chance in one."""

SLOWER = 1.1
"""Steps that take so much longer than they did at best are a reason to look for a better number of lanes."""

CLEARLY = 1.03
"""How much better another number has to be."""

FIRST = 2
"""Windows before the first trial of one lane less."""

SHORTEST, LONGEST = {-1: 16, 1: 4}, {-1: 64, 1: 8}
"""Windows before one lane less, or one more, is tried after a trial that brought something; after each that did not it
is twice as many as before, up to a limit. A lane that is no longer disturbed should soon be back."""


class ActiveLanes:
    """Lets a lane sit out while another process keeps its core busy, if the others are faster without it.

    A lane that the system takes off its core is gone for some milliseconds, and so long waits whatever comes after its
    task. Without that lane the others have their cores for themselves.

    All lanes work until steps take ``SLOWER`` times what they did at best. Then one lane less is tried for a window, or
    until most of its steps are no better, and the better number is kept. From then on one more and one less are tried,
    ever more rarely, until all lanes are at work again and as fast as ever. Half of the lanes work at least, and two:
    half of a disturbed core is more than nothing.

    Args:
        num_lanes: all of them.

    Attributes:
        count: lanes that work in the next step.

    Example:
        >>> lanes = ActiveLanes(4)
        >>> for step in range(50):  # disturbed from the tenth step on
        ...     lanes.note(0.1 if step < 10 else {4: 0.2, 3: 0.14, 2: 0.19}[lanes.count])
        >>> lanes.count
        3
    """

    def __init__(self, num_lanes: int) -> None:
        self.count = self._kept = self._num_lanes = num_lanes
        self._least = min(num_lanes, max(2, num_lanes // 2))
        self._steps_s: list[float] = []
        self._best_s = self._kept_s = float("inf")
        self._waited, self._pause = {-1: 0, 1: 0}, {**SHORTEST, -1: FIRST}

    def note(self, seconds: float) -> None:
        """Take a step in.

        Args:
            seconds: that it took; of steps that take equally long where nothing is in their way.
        """
        self._steps_s.append(seconds)
        if not self._is_lost() and (len(self._steps_s) < STEPS or sum(self._steps_s) < SECONDS):
            return
        found_s, self._steps_s = median(self._steps_s), []
        if self.count != self._kept:
            self._end_trial(found_s)
            return
        self._kept_s = found_s
        if self.count == self._num_lanes:
            self._best_s = min(self._best_s, found_s)
        for way in (1, -1):
            self._waited[way] += 1
            if self.count == self._kept and self._worth_a_trial(way, found_s):
                self.count += way

    def _is_lost(self) -> bool:
        """Whether this is a trial in whose window more than half of the steps are no better: its end is known."""
        if self.count == self._kept:
            return False
        lost = sum(CLEARLY * step_s >= self._kept_s for step_s in self._steps_s)
        return lost > max(STEPS, SECONDS / self._kept_s) / 2

    def _worth_a_trial(self, way: int, found_s: float) -> bool:
        if not self._least <= self._kept + way <= self._num_lanes or self._waited[way] < self._pause[way]:
            return False
        return self._kept < self._num_lanes or found_s > SLOWER * self._best_s

    def _end_trial(self, found_s: float) -> None:
        way = self.count - self._kept
        if CLEARLY * found_s < self._kept_s:
            self._kept, self._kept_s = self.count, found_s
            self._waited, self._pause = {-1: 0, 1: 0}, dict(SHORTEST)
        else:
            self._waited[way], self._pause[way] = 0, min(2 * self._pause[way], LONGEST[way])
        self.count = self._kept
