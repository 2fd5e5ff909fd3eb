"""The latest readback of each channel that somebody watches, its age, and how fast it moves."""

from __future__ import annotations

import math
import threading
from collections import deque
from datetime import datetime

from drivers.contract import Readable
from drivers.frame import Reading

WINDOW = 10.0
"""s over which a rate is taken: a thermocouple's noise of 0.05 K then makes about 1 K/min of it."""
KEPT = 1000
"""Readbacks that are kept at most for a rate."""


class Track:
    """What one channel has said.

    Parameters
    ----------
    channel : Readable
    now : float, s
        On the clock's monotonic scale; a channel that never answers is as old as this.
    rates : bool
        Whether its rate will be asked for.

    Attributes
    ----------
    value : float
        In the channel's unit; NaN before it first answered.
    at : float, s
        When the value was measured, on the clock's monotonic scale.
    arrived : float, s
        When somebody last brought one, old or new; before all times where nobody has.
    """

    def __init__(self, channel: Readable, now: float, *, rates: bool = False) -> None:
        self.channel = channel
        self.value = math.nan
        self.at = now
        self.arrived = -math.inf
        self._history: deque[tuple[float, float]] | None = deque(maxlen=KEPT) if rates else None
        self._lock = threading.Lock()

    def take(self, reading: Reading, now: float, utc: datetime) -> None:
        """Take a readback; one that is no number counts as no answer, one from the past as old as it is."""
        value = float(reading.value.to(self.channel.unit).magnitude)
        if not math.isfinite(value):
            return
        at = now - max(0.0, (utc - reading.time).total_seconds())
        self.arrived = now
        if at < self.at and not math.isnan(self.value):
            return
        new = at > self.at or math.isnan(self.value)
        self.value, self.at = value, at
        if new and self._history is not None:
            with self._lock:
                self._history.append((at, value))

    def age(self, now: float) -> float:
        """Return how long ago the value was measured, s."""
        return max(0.0, now - self.at)

    @property
    def known(self) -> bool:
        """Whether it ever answered."""
        return not math.isnan(self.value)

    def rate(self, now: float) -> float | None:
        """Return how fast it rises, unit per s: a straight line through the last :data:`WINDOW` seconds.

        None until there are three readbacks over half of that.
        """
        with self._lock:
            points = [point for point in self._history or () if point[0] >= now - WINDOW]
        if len(points) < 3 or points[-1][0] - points[0][0] < WINDOW / 2:
            return None
        middle = sum(time for time, _ in points) / len(points)
        mean = sum(value for _, value in points) / len(points)
        spread = sum((time - middle) ** 2 for time, _ in points)
        return sum((time - middle) * (value - mean) for time, value in points) / spread
