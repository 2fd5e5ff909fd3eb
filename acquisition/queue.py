"""The queue: which booking an instrument plays next, and what becomes of it."""

from __future__ import annotations

from collections.abc import Collection

from acquisition.bookings import Booking, Bookings
from acquisition.log import Log
from drivers.clock import Clock


class Queue:
    """Bookings whose time has come; the highest priority first, then who was due first.

    Parameters
    ----------
    log : Log
    clock : Clock
    """

    def __init__(self, log: Log, clock: Clock) -> None:
        self._bookings = Bookings(log)
        self._clock = clock

    def waiting(self) -> list[Booking]:
        """Return what is queued, in the order in which it is played."""
        queued = self._bookings.all(["queued"])
        return sorted(queued, key=lambda booking: (-booking.priority, booking.due or booking.created, booking.id))

    def take(self, busy: Collection[str]) -> Booking | None:
        """Take the next booking whose instrument is not busy; None where there is none."""
        for booking in self.waiting():
            if booking.instrument not in busy and self._bookings.change(
                booking.id, ["queued"], state="running", run_id=None
            ):
                return self._bookings.get(booking.id)
        return None

    def began(self, booking: Booking, run_id: str) -> None:
        """Note which run a booking became; also of one that was removed meanwhile, whose run goes on."""
        self._bookings.change(booking.id, ["running", "removed"], run_id=run_id)

    def back(self, booking: Booking, reason: str) -> None:
        """Put a booking back that could not be begun yet."""
        self._bookings.change(booking.id, ["running"], state="queued", reason=reason)

    def ended(self, booking: Booking, *, well: bool, reason: str = "") -> None:
        """Note how a booking ended; one that repeats waits for its next start."""
        following = booking.trigger.next(self._clock.now()) if booking.repeats else None
        state = "waiting" if following is not None else "done" if well else "failed"
        due = {} if following is None else {"due": following}
        self._bookings.change(booking.id, ["running"], state=state, reason=reason, **due)
