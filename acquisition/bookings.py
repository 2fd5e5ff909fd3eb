"""Bookings: recipes that are to be played, and what became of them, in a table."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import insert, select, update

from acquisition import tables
from acquisition.log import Log
from acquisition.triggers import At, Cron, Trigger, in_words, trigger_of
from drivers.errors import RunError

OPEN = ("waiting", "queued", "running")
"""States of bookings that something may still become of."""


@dataclass(frozen=True, slots=True)
class Booking:
    """A recipe that is to be played.

    Attributes
    ----------
    recipe_name, recipe_text : str
        As they were when it was booked; a file that is changed later changes nothing.
    instrument : str
        Its name; it plays one run at a time.
    instrument_text : str or None
        Its file; the simulated microscope without.
    options : mapping
        How it is played: speed, heights, live_quality; and what the plan foretold: duration (s), disk (bytes).
    due : datetime or None
        UTC, of the start that comes next, or of the one that is queued or being played.
    run_id : str or None
        Of the last run that it became.
    """

    id: int
    recipe_name: str
    recipe_text: str
    instrument: str
    instrument_text: str | None
    options: Mapping[str, Any]
    trigger: Trigger
    priority: int
    missed: str
    created: datetime
    due: datetime | None
    state: str
    reason: str
    run_id: str | None

    @property
    def title(self) -> str:
        """Return what people call it."""
        return f"booking {self.id} ({self.recipe_name})"

    @property
    def repeats(self) -> bool:
        """Whether it starts again and again."""
        return isinstance(self.trigger, Cron)

    def to_json(self) -> dict[str, Any]:
        """Return the booking as JSON data."""
        kept = self.trigger.to_json()
        return {
            "id": self.id,
            "recipe": self.recipe_name,
            "instrument": self.instrument,
            "state": self.state,
            "reason": self.reason,
            "start": in_words(self.trigger),
            "trigger": kept,
            "due": None if self.due is None else self.due.isoformat(),
            "priority": self.priority,
            "missed": self.missed,
            "created": self.created.isoformat(),
            "run": self.run_id,
            "duration": _quantity(self.options.get("duration"), "s"),
            "disk": _quantity(self.options.get("disk"), "B"),
        }


def _quantity(value: float | None, unit: str) -> dict[str, Any] | None:
    return None if value is None else {"value": float(value), "unit": unit}


class Bookings:
    """The table of bookings.

    Parameters
    ----------
    log : Log
    """

    def __init__(self, log: Log) -> None:
        self._log = log

    def add(
        self,
        *,
        recipe_name: str,
        recipe_text: str,
        instrument: str,
        instrument_text: str | None,
        options: Mapping[str, Any],
        trigger: Trigger,
        priority: int,
        missed: str,
        now: datetime,
    ) -> Booking:
        """Enter a booking."""
        row = {
            "recipe_name": recipe_name,
            "recipe_text": recipe_text,
            "instrument": instrument,
            "instrument_text": instrument_text,
            "options": dict(options),
            "trigger": trigger.to_json(),
            "priority": priority,
            "missed": missed,
            "created": now,
            "due": trigger.moment if isinstance(trigger, At) else trigger.next(now),
            "state": "waiting",
            "reason": "",
        }
        with self._log.transaction() as session:
            key = session.execute(insert(tables.BookingRow).values(**row).returning(tables.BookingRow.id)).scalar_one()
        return self.get(key)

    def get(self, booking_id: int) -> Booking:
        """Return a booking.

        Raises
        ------
        RunError
            Where there is none of that number; with those there are.
        """
        with self._log.query() as session:
            row = session.get(tables.BookingRow, booking_id)
            if row is not None:
                return _booking(row)
        numbers = ", ".join(str(booking.id) for booking in self.all(OPEN)) or "none"
        raise RunError(f"there is no booking {booking_id}; the open ones are: {numbers}")

    def all(self, states: Collection[str] = tables.BOOKING_STATES) -> list[Booking]:
        """Return bookings in some states: what starts first comes first, what waits for a run comes last."""
        row = tables.BookingRow
        query = select(row).where(row.state.in_(states)).order_by(row.due.is_(None), row.due, row.id)
        with self._log.query() as session:
            return [_booking(found) for found in session.scalars(query)]

    def change(self, booking_id: int, before: Collection[str], **values: Any) -> bool:
        """Change a booking that is in one of some states; return whether it was."""
        row = tables.BookingRow
        query = update(row).where(row.id == booking_id, row.state.in_(before)).values(**values)
        with self._log.transaction() as session:
            return bool(session.execute(query).rowcount)  # type: ignore[attr-defined]

    def remove(self, booking_id: int) -> Booking:
        """Take a booking out of the calendar. The run of one that repeats is played to its end.

        Raises
        ------
        RunError
            For one that is being played, or that nothing can become of any more.
        """
        booking = self.get(booking_id)
        states = OPEN if booking.repeats else ("waiting", "queued")
        if self.change(booking_id, states, state="removed", reason=""):
            return self.get(booking_id)
        booking = self.get(booking_id)
        if booking.state == "running":
            raise RunError(f"{booking.title} is being played as run {booking.run_id}; it cannot be removed any more")
        raise RunError(f"{booking.title} is {booking.state} already")


def _booking(row: tables.BookingRow) -> Booking:
    return Booking(
        row.id,
        row.recipe_name,
        row.recipe_text,
        row.instrument,
        row.instrument_text,
        row.options or {},
        trigger_of(row.trigger),
        row.priority,
        row.missed,
        row.created,
        row.due,
        row.state,
        row.reason,
        row.run_id,
    )
