"""How many lanes of a step work, decided from how long steps take. Pure."""

from __future__ import annotations

from statistics import median

STEPS, SECONDS = 5, 0.1
"""A window has so many steps at least, and lasts so long: its median decides, not what happened by chance in one."""

SLOWER = 1.1
"""Steps that take so much longer than they did at best are a reason to look for a better number of lanes."""

CLEARLY = 1.03
"""How much better another number has to be."""

SHORTEST, LONGEST = 2, 32
"""Windows between two trials: the fewest after one that brought something, twice as many after each that did not."""


class ActiveLanes:
    """Lets a lane sit out while another process keeps its core busy, if the others are faster without it.

    A lane that the system takes off its core is gone for some milliseconds, and so long waits whatever comes after its
    task. Without that lane the others have their cores for themselves.

    All lanes work until steps take ``SLOWER`` times what they did at best. Then one lane less is tried for a window,
    and the better number is kept. From then on one less and one more are tried by turns, ever more rarely, until all
    lanes are at work again and as fast as ever. Half of the lanes work at least, and two: half of a disturbed core is
    more than nothing.

    Args:
        num_lanes: all of them.

    Attributes:
        count: lanes that work in the next step.

    Example:
        >>> lanes = ActiveLanes(4)
        >>> for step in range(40):  # disturbed from the tenth step on
        ...     lanes.note(0.1 if step < 10 else {4: 0.2, 3: 0.14, 2: 0.19}[lanes.count])
        >>> lanes.count
        3
    """

    def __init__(self, num_lanes: int) -> None:
        self.count = self._kept = self._num_lanes = num_lanes
        self._least = min(num_lanes, max(2, num_lanes // 2))
        self._down = True
        self._steps_s: list[float] = []
        self._best_s = self._kept_s = float("inf")
        self._windows, self._pause = 0, SHORTEST

    def note(self, seconds: float) -> None:
        """Take a step in.

        Args:
            seconds: that it took; of steps that take equally long where nothing is in their way.
        """
        self._steps_s.append(seconds)
        if len(self._steps_s) < STEPS or sum(self._steps_s) < SECONDS:
            return
        found_s, self._steps_s = median(self._steps_s), []
        if self.count != self._kept:
            self._end_trial(found_s)
            return
        self._kept_s, self._windows = found_s, self._windows + 1
        short = self.count < self._num_lanes
        if not short:
            self._best_s = min(self._best_s, found_s)
        if self._windows >= self._pause and (short or found_s > SLOWER * self._best_s):
            self._begin_trial()

    def _begin_trial(self) -> None:
        if self._kept == self._num_lanes or self._kept == self._least:
            self._down = self._kept == self._num_lanes
        if self._least < self._num_lanes:
            self.count = self._kept - 1 if self._down else self._kept + 1

    def _end_trial(self, found_s: float) -> None:
        if CLEARLY * found_s < self._kept_s:
            self._kept, self._kept_s, self._pause = self.count, found_s, SHORTEST
        else:
            self._down, self._pause = not self._down, min(2 * self._pause, LONGEST)
        self.count, self._windows = self._kept, 0
