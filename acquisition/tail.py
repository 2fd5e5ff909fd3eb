"""The newest events, read from the database once for everybody who follows them.

Readers ask for what came after the event they saw last, at most so many, and may wait for it: nobody is pushed, and a
reader who never comes back costs nothing. Events are numbered by the database; a number that is missing (another
process is just writing it) is waited for before those after it are given out, so that nobody misses one.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from itertools import takewhile

from sqlalchemy import func, select

from acquisition import tables
from acquisition.log import Log
from acquisition.records import Event
from drivers.clock import Clock
from drivers.errors import RilievoError

EVERY = 0.1
"""s between two looks at the database."""
HOLE = 2.0
"""s after which a number that is still missing counts as never written."""
MOST = 1000
"""Events that one question brings at most."""


class Tail:
    """Follows the events of the database.

    Parameters
    ----------
    log : Log
    clock : Clock
        Real.
    every : float, s
    kept : int
        Events that are remembered; older ones are read from the database.
    """

    def __init__(self, log: Log, clock: Clock, every: float = EVERY, kept: int = 4 * MOST) -> None:
        self._log = log
        self._clock = clock
        self._every = every
        self._events: deque[Event] = deque(maxlen=kept)
        self._news = threading.Condition()
        self._last = 0
        self._hole_since: float | None = None
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="events: tail", daemon=True)

    def start(self) -> None:
        """Begin with what happens from now on; what happened before is read when somebody asks."""
        with self._log.query() as session:
            self._last = session.scalar(select(func.max(tables.EventRow.number))) or 0
        self._thread.start()

    def close(self) -> None:
        """End, and let whoever waits go."""
        self._end.set()
        with self._news:
            self._news.notify_all()
        if self._thread.ident is not None:
            self._thread.join(10.0)

    @property
    def last(self) -> int:
        """Number of the newest event that is given out."""
        return self._last

    def after(self, number: int, most: int = MOST, wait: float = 0.0, run_id: str | None = None) -> list[Event]:
        """Return events after one of a number, oldest first, waiting up to ``wait`` real seconds for the first.

        Parameters
        ----------
        number : int
        most : int
            At most :data:`MOST`.
        wait : float, s
        run_id : str, optional
            Only of one run.
        """
        most = max(1, min(most, MOST))
        until = self._clock.monotonic() + wait
        while True:
            with self._news:
                seen = self._last
            found = self._found(number, most, run_id)
            left = until - self._clock.monotonic()
            if found or left <= 0 or self._end.is_set():
                return found
            with self._news:
                self._news.wait_for(lambda seen=seen: self._last > seen or self._end.is_set(), left)  # type: ignore[misc]

    def _found(self, number: int, most: int, run_id: str | None) -> list[Event]:
        with self._news:
            last = self._last
            if number >= last:
                return []
            remembered = bool(self._events) and self._events[0].number <= number + 1
            fresh = list(takewhile(lambda event: event.number > number, reversed(self._events))) if remembered else []
        if not remembered:
            return self._read(number, most, last, run_id)
        return [event for event in reversed(fresh) if run_id in (None, event.run_id)][:most]

    def _read(self, after: int, most: int, last: int | None = None, run_id: str | None = None) -> list[Event]:
        row = tables.EventRow
        query = select(row).where(row.number > after).order_by(row.number).limit(most)
        if last is not None:
            query = query.where(row.number <= last)
        if run_id is not None:
            query = query.where(row.run_id == run_id)
        with self._log.query() as session:
            return [
                Event(found.number, found.run_id, found.time, found.level, found.kind, found.message, found.data)
                for found in session.scalars(query)
            ]

    def _run(self) -> None:
        while not self._end.wait(self._every):
            with suppress(RilievoError):  # a database that does not answer is told by others, and asked again
                self._take(self._read(self._last, MOST))

    def _take(self, events: Sequence[Event]) -> None:
        """Give out events up to the first number that is missing, unless it has been missing for long."""
        whole: list[Event] = []
        expected = self._last + 1
        for event in events:
            if event.number != expected and not self._waited():
                break
            whole.append(event)
            expected = event.number + 1
        if not whole:
            return
        if len(whole) == len(events):
            self._hole_since = None
        with self._news:
            self._events.extend(whole)
            self._last = whole[-1].number
            self._news.notify_all()

    def _waited(self) -> bool:
        now = self._clock.monotonic()
        if self._hole_since is None:
            self._hole_since = now
        return now - self._hole_since >= HOLE
