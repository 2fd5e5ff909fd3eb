"""What looks wrong and stops nothing: told once when it begins, so that no fault passes in silence.

Old readbacks, a time of day that jumps, a segment that sends one value or only saturated ones, a probe current that is
not there. Interlocks act; this only tells.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping

import numpy as np

from drivers.clock import Clock
from drivers.frame import Frame, Reading

JUMP = 5.0
"""s by which the time of day may leave the monotonic time between two looks; a time server moves it by less."""
SATURATED = 0.5
"""Share of a segment's pixels at the end of the range from which on it tells nothing of the surface."""
FULL = 65_535
CURRENT = 0.5
"""Share of the probe current that was asked for, below which a frame counts as taken without a beam."""

Tell = Callable[[str, str, str], None]
"""Tells the log: level, kind, message."""


class Oddities:
    """Notes what is odd, and tells each thing when it begins. May be used from several threads.

    Parameters
    ----------
    clock : Clock
    tell : callable
    """

    def __init__(self, clock: Clock, tell: Tell) -> None:
        self._clock = clock
        self._tell = tell
        self._lock = threading.Lock()
        self._present: set[str] = set()
        self._away = self._offset()

    def _offset(self) -> float:
        """Return the time of day less the monotonic time, s."""
        return self._clock.now().timestamp() - self._clock.monotonic()

    def readings(self, readings: Mapping[str, Reading]) -> None:
        """Look at what the channels say, and at the time."""
        for name, reading in readings.items():
            old = f"{name} repeats an old value, of {reading.time:%H:%M:%S} UTC"
            self._note(f"old {name}", None if reading.fresh else old, "readback")
        with self._lock:
            jumped, self._away = self._offset() - self._away, self._offset()
        if abs(jumped) > JUMP:
            self._tell(
                "warning", "clock", f"the time of day has jumped by {jumped:+.0f} s; frames carry it from now on"
            )

    def frame(self, frame: Frame, current: float | None) -> None:
        """Look at a frame; ``current`` (A) is what the probe was asked for."""
        for channel, counts in zip(frame.channels, frame.counts, strict=True):
            low, high = int(counts.min()), int(counts.max())
            same = f"segment {channel.name} sends {low} everywhere; its amplifier or cable may be dead"
            self._note(f"dead {channel.name}", same if low == high < FULL else None, "frame")
            share = float(np.mean(counts >= FULL)) if high >= FULL else 0.0
            full = f"segment {channel.name} is saturated in {share:.0%} of its pixels; turn its contrast down"
            self._note(f"saturated {channel.name}", full if share >= SATURATED else None, "frame")
        had = frame.beam.probe_current
        if not frame.dark and current is not None and had is not None:
            lost = f"the probe current is {had * 1e9:.3g} nA, where {current * 1e9:.3g} nA were asked for"
            self._note("current", lost if had < CURRENT * current else None, "frame")

    def _note(self, key: str, message: str | None, kind: str) -> None:
        with self._lock:
            new = message is not None and key not in self._present
            if message is None:
                self._present.discard(key)
            else:
                self._present.add(key)
        if new and message is not None:
            self._tell("warning", kind, message)
