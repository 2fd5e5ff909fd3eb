"""What others ask of a running engine, from their own threads: pause, resume, stop, abort."""

from __future__ import annotations

import threading

from drivers.clock import Clock


class StopRequest(Exception):
    """Somebody asked the run to end."""


class Requests:
    """Flags that are raised by others and followed by the engine.

    Parameters
    ----------
    clock : Clock
        Of the engine, which waits on ``wake`` and thereby learns at once that something was asked.
    """

    def __init__(self, clock: Clock) -> None:
        self.wake = clock.signal()
        self._decision = clock.decision()
        self._lock = threading.Lock()
        self._reason: str | None = None
        self._at_once = False
        self._pause = False

    def pause(self) -> None:
        """Ask for a pause; a run that is to stop is not paused any more."""
        with self._lock:
            self._pause = self._reason is None
            if self._pause:
                self._decision.clear()
        self.wake.set()

    def resume(self) -> None:
        """Ask to go on."""
        with self._lock:
            self._pause = False
            self._decision.set()

    def stop(self, reason: str, *, at_once: bool = False) -> None:
        """Ask for the end; the first reason counts. ``at_once``: without the frame that is being taken."""
        with self._lock:
            self._reason = self._reason or reason
            self._at_once = self._at_once or at_once
            self._pause = False
            self._decision.set()
        self.wake.set()

    @property
    def pausing(self) -> bool:
        """Whether a pause was asked for and not taken back."""
        return self._pause

    def wait_while_pausing(self) -> None:
        """Return when somebody has decided to go on, or to stop."""
        while self.pausing:
            self._decision.wait()

    def raise_if_stopped(self) -> None:
        """Raise :class:`StopRequest` when the end was asked for."""
        if self._reason is not None:
            raise StopRequest(self._reason)

    def raise_if_aborted(self) -> None:
        """Raise :class:`StopRequest` when the end was asked for at once."""
        if self._at_once:
            raise StopRequest(self._reason)
