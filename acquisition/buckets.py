"""How much may happen a second, and how much at once."""

from __future__ import annotations

import threading
from collections.abc import Hashable

from drivers.clock import Clock


class Bucket:
    """Fills at a rate, and gives out one at a time.

    Parameters
    ----------
    rate : float, 1/s
    burst : float
        What it holds when it is full.
    clock : Clock
    """

    def __init__(self, rate: float, burst: float, clock: Clock) -> None:
        self._rate, self._burst, self._clock = rate, burst, clock
        self._lock = threading.Lock()
        self._left, self._at = burst, clock.monotonic()

    def _fill(self) -> None:
        now = self._clock.monotonic()
        self._left = min(self._burst, self._left + (now - self._at) * self._rate)
        self._at = now

    def try_take(self) -> bool:
        """Take one where there is one."""
        with self._lock:
            self._fill()
            if self._left < 1.0:
                return False
            self._left -= 1.0
            return True

    def take(self) -> float:
        """Take one in any case; return the seconds to wait for it."""
        with self._lock:
            self._fill()
            self._left -= 1.0
            return max(0.0, -self._left / self._rate)


class Buckets:
    """A bucket for each of many, of whom those who did not come for longest are forgotten.

    Parameters
    ----------
    rate, burst, clock
        As :class:`Bucket`.
    most : int
    """

    def __init__(self, rate: float, burst: float, clock: Clock, most: int = 1024) -> None:
        self._rate, self._burst, self._clock, self._most = rate, burst, clock, most
        self._lock = threading.Lock()
        self._buckets: dict[Hashable, Bucket] = {}

    def try_take(self, whose: Hashable) -> bool:
        """Take one from somebody's bucket where there is one."""
        with self._lock:
            bucket = self._buckets.pop(whose, None) or Bucket(self._rate, self._burst, self._clock)
            self._buckets[whose] = bucket
            if len(self._buckets) > self._most:
                del self._buckets[next(iter(self._buckets))]
        return bucket.try_take()
