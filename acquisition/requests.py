"""What others ask of a running engine, from their own threads: pause, resume, suspend, release, stop, abort, safe."""

from __future__ import annotations

import threading
from dataclasses import dataclass

from acquisition.states import State
from drivers.clock import Clock


class StopRequest(Exception):
    """Somebody asked the run to end."""


class SafeRequest(Exception):
    """Something asks for the safe state: an interlock, the watchdog, a suspension that lasts too long."""


@dataclass(frozen=True, slots=True)
class Standstill:
    """Why the run does not go on: paused by a person, or suspended by a cause."""

    state: State
    reason: str = ""


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
        self._safe: str | None = None
        self._at_once = False
        self._pause = False
        self._pause_at_once = False
        self._causes: dict[str, str] = {}

    def pause(self, *, at_once: bool = False) -> None:
        """Ask for a pause; a run that is to end is not paused any more. ``at_once``: in the middle of a frame."""
        with self._lock:
            self._pause = not self._ending
            self._pause_at_once = self._pause and at_once
            if self._pause:
                self._decision.clear()
        self.wake.set()

    def resume(self) -> None:
        """Ask to go on."""
        with self._lock:
            self._pause = self._pause_at_once = False
            self._decision.set()
        self.wake.set()

    def suspend(self, cause: str, reason: str) -> None:
        """Ask to wait until ``cause`` is released."""
        with self._lock:
            self._causes[cause] = reason
        self.wake.set()

    def release(self, cause: str) -> None:
        """Take a suspension back; the run goes on when none is left."""
        with self._lock:
            self._causes.pop(cause, None)
        self.wake.set()

    def stop(self, reason: str, *, at_once: bool = False) -> None:
        """Ask for the end; the first reason counts. ``at_once``: without the frame that is being taken."""
        with self._lock:
            self._reason = self._reason or reason
            self._at_once = self._at_once or at_once
            self._pause = self._pause_at_once = False
            self._decision.set()
        self.wake.set()

    def safe(self, reason: str) -> None:
        """Ask for the safe state, at once; it goes before every other request."""
        with self._lock:
            self._safe = self._safe or reason
            self._at_once = True
            self._pause = self._pause_at_once = False
            self._decision.set()
        self.wake.set()

    @property
    def _ending(self) -> bool:
        return self._reason is not None or self._safe is not None

    @property
    def standstill(self) -> Standstill | None:
        """Why the run has to wait, or None. A person's pause comes first: only that person ends it."""
        with self._lock:
            if self._pause:
                return Standstill(State.PAUSED)
            if self._causes:
                return Standstill(State.SUSPENDED, "; ".join(self._causes.values()))
            return None

    def wait_for_change(self, standstill: Standstill, timeout: float | None = None) -> None:
        """Wait until something else is asked than ``standstill``, or for ``timeout`` (s on the clock)."""
        if standstill.state is State.PAUSED:
            self._decision.wait()
        else:
            self.wake.wait(timeout)

    def raise_if_ended(self) -> None:
        """Raise :class:`SafeRequest` or :class:`StopRequest` when the end was asked for."""
        if self._safe is not None:
            raise SafeRequest(self._safe)
        if self._reason is not None:
            raise StopRequest(self._reason)

    @property
    def safe_request(self) -> SafeRequest | None:
        """Why the safe state was asked for, or None: whatever else went wrong meanwhile was a consequence."""
        return None if self._safe is None else SafeRequest(self._safe)

    @property
    def interrupts_frame(self) -> bool:
        """Whether the frame that is being taken is not wanted any more, or not now."""
        return self._at_once or self._pause_at_once or bool(self._causes)
