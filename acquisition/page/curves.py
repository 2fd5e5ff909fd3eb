"""Curves that grow all night and stay small: for each stretch of time the lowest and the highest reading remain."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

MOST = 300
"""Stretches of one curve; it is drawn from twice as many points at most."""


@dataclass(slots=True)
class _Stretch:
    low: float
    low_time: float
    high: float
    high_time: float


class GrowingCurve:
    """Readings of one channel, thinned evenly over time while they come.

    Parameters
    ----------
    most : int
        Stretches that are kept; with more, neighbours become one, and stretches are twice as long from then on.
    """

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._length = 1.0
        self._stretches: dict[int, _Stretch] = {}

    def add(self, readings: Iterable[tuple[float, float]]) -> None:
        """Take readings (s since the start, value); what is not finite is left out."""
        for time, value in readings:
            if math.isfinite(value) and math.isfinite(time):
                self._join(math.floor(time / self._length), _Stretch(value, time, value, time))
        while len(self._stretches) > self._most:
            self._length *= 2
            before, self._stretches = self._stretches, {}
            for place, stretch in before.items():
                self._join(place // 2, stretch)

    def _join(self, place: int, new: _Stretch) -> None:
        old = self._stretches.setdefault(place, new)
        if new.low < old.low:
            old.low, old.low_time = new.low, new.low_time
        if new.high > old.high:
            old.high, old.high_time = new.high, new.high_time

    def points(self) -> tuple[list[float], list[float]]:
        """Return times and values, in the order of time."""
        found = {
            (time, value)
            for stretch in self._stretches.values()
            for time, value in ((stretch.low_time, stretch.low), (stretch.high_time, stretch.high))
        }
        ordered = sorted(found)
        return [time for time, _ in ordered], [value for _, value in ordered]


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure of one frame with its standard uncertainty; s since the start of the run."""

    time: float
    value: float
    sigma: float | None
    frame: int


class Estimates:
    """A figure over time, with every ``stride``-th frame kept once there are many, and the last always.

    Parameters
    ----------
    most : int
    """

    def __init__(self, most: int = 400) -> None:
        self._most = most
        self._stride = 1
        self._count = 0
        self._kept: list[Estimate] = []
        self.last: Estimate | None = None

    def add(self, estimate: Estimate) -> None:
        """Take the figure of one more frame."""
        if self._count % self._stride == 0:
            self._kept.append(estimate)
        self._count += 1
        self.last = estimate
        if len(self._kept) > self._most:
            self._kept = self._kept[::2]
            self._stride *= 2

    def all(self) -> list[Estimate]:
        """Return what is kept, in the order of time."""
        last = self.last
        kept = self._kept if last is None or (self._kept and self._kept[-1] is last) else [*self._kept, last]
        return sorted(kept, key=lambda estimate: estimate.time)
