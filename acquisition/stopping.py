"""What asks a long verb to stop: Ctrl-C, a polite kill, a closed terminal. Noted, so that the verb ends in order."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from drivers.clock import RealClock

TOGETHER = 0.5
"""Seconds within which several signals are one request."""


@contextmanager
def stop_requests(*, second_breaks: bool = False) -> Iterator[Callable[[], str | None]]:
    """Note requests to stop instead of breaking off; yields what answers the first one's reason, or None.

    Parameters
    ----------
    second_breaks : bool
        Whether a second request breaks off like Ctrl-C: not where a cleanup keeps the sample safe. What comes within
        :data:`TOGETHER` is the same request: a supervisor may signal a process and its group.
    """
    clock = RealClock()
    reasons = {
        signal.SIGINT: "stopped by Ctrl-C",
        signal.SIGTERM: "stopped by a request to end the process",
        signal.SIGHUP: "stopped because the terminal was closed",
    }
    asked: list[str] = []
    moments: list[float] = []

    def note(number: int, _: object) -> None:
        if asked and second_breaks and clock.monotonic() - moments[0] > TOGETHER:
            raise KeyboardInterrupt
        asked.append(reasons[signal.Signals(number)])
        moments.append(clock.monotonic())

    before = {number: signal.signal(number, note) for number in reasons}
    try:
        yield lambda: asked[0] if asked else None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
