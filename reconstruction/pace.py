"""Which quality a live process can afford: the best that keeps up with the frames.

Nothing is known beforehand of the computer or of how fast frames come, so both are measured: the interval between
frames as they are handed over, and the seconds per pixel of each quality. The fast quality begins where it would fill
less than half of the interval and ends where it fills more than four fifths, or where frames wait for longer than
an interval; each time it ends, more frames go by before the next try. The full quality is never chosen: it takes
seconds, and loses nothing by waiting for the end of the run.
"""

from __future__ import annotations

from collections import deque
from itertools import pairwise
from statistics import median
from typing import Literal

ENOUGH, TOO_MUCH = 0.5, 0.8
"""Share of the interval between frames below which the fast quality begins, and above which it ends."""
FACTOR = 20.0
"""How much longer than the preview the fast quality is taken to be, before it was tried."""
REST, LONGEST_REST = 4, 64
"""Frames that go by before the fast quality is tried again; doubled each time, up to the second."""
_INTERVALS = 5


class Pace:
    """Chooses between preview and fast, frame by frame."""

    def __init__(self) -> None:
        self._level: Literal["preview", "fast"] = "preview"
        self._handed: deque[float] = deque(maxlen=_INTERVALS + 1)
        self._cost: dict[str, float] = {}
        self._warm = self._given_up = False
        self._rest, self._next_rest = 0, REST

    def choose(self, handed: float, begun: float, pixels: int) -> Literal["preview", "fast"]:
        """Return the quality of the next frame.

        Parameters
        ----------
        handed, begun : float, s
            When it was handed over, and when work on it can begin, on one clock.
        pixels : int
        """
        self._handed.append(handed)
        interval = self._interval()
        if interval is None or self._given_up:
            return self._level
        late = begun - handed > interval
        if self._level == "fast":
            if late or self._seconds("fast", pixels) > TOO_MUCH * interval:
                self._level, self._rest = "preview", self._next_rest
                self._next_rest = min(2 * self._next_rest, LONGEST_REST)
        elif self._rest > 0:
            self._rest -= 1
        elif not late and self._expected(pixels) < ENOUGH * interval:
            self._level = "fast"
        return self._level

    def _interval(self) -> float | None:
        if len(self._handed) < 3:
            return None
        return median(after - before for before, after in pairwise(self._handed))

    def _seconds(self, level: str, pixels: int) -> float:
        return self._cost.get(level, 0.0) * pixels

    def _expected(self, pixels: int) -> float:
        if "fast" in self._cost:
            return self._seconds("fast", pixels)
        return FACTOR * self._seconds("preview", pixels)

    def took(self, level: str, seconds: float, pixels: int) -> None:
        """Take note of what a frame has cost."""
        if level == "fast" and not self._warm:
            # The first one loads the weights.
            self._warm = True
            return
        cost = seconds / pixels
        self._cost[level] = 0.5 * (self._cost.get(level, cost) + cost)

    def give_up(self) -> None:
        """Stay with the preview from now on: the other quality cannot be had."""
        self._level, self._given_up = "preview", True
