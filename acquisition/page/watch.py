"""The look-out: one thread that looks at the database a few times a second, for everybody who watches.

However many people watch, the database is asked the same few questions, most of them "anything above this number?".
It is opened to read; nothing here can write to it.
"""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import replace
from datetime import datetime, timedelta

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from acquisition import tables
from acquisition.bookings import OPEN, Booking, Bookings
from acquisition.log import Log
from acquisition.ownership import holder
from acquisition.page.run_watch import RunWatch
from acquisition.page.sight import ENDED, Alarm, Sight
from acquisition.records import Event, Run
from acquisition.store import Store
from drivers.clock import Clock, RealClock
from drivers.errors import RilievoError

TICK = 0.2
"""Seconds between two looks."""
SLOWLY = 2.0
"""Seconds between two looks at the calendar, the alerts, and whether a process plays the run."""
KEPT = 200
"""Events that the page holds; the archive has all of them."""
PLAYED = "run"
"""Name of the lock in a run's folder that the process which plays it holds."""
_DAY = timedelta(days=1)
_TOLD_OTHERWISE = ("interlock", "stall", "state")
"""Kinds of events whose errors stand in the run's state, or in an alarm of their own."""


class Watch:
    """Looks at the database, and keeps what was seen.

    Parameters
    ----------
    log : Log
    store : Store
    clock : Clock, optional
        Real.
    """

    def __init__(self, log: Log, store: Store, clock: Clock | None = None) -> None:
        self._log, self._store = log, store
        self._clock = clock or RealClock()
        self._bookings = Bookings(log)
        self._end = self._clock.signal()
        self._events: deque[Event] = deque(maxlen=KEPT)
        self._last_event = 0
        self._looked_slowly = float("-inf")
        self._open: tuple[Booking, ...] = ()
        self._undelivered = 0
        self._played = False
        self._unplayed: float | None = None
        self._looked = self._clock.monotonic()
        self._segments: tuple[str, tuple[str, ...]] = ("", ())
        self._traces: tuple[tuple[str, int, float], bytes] = (("", 0, 0.0), b"")
        self._turn = threading.Lock()
        self.night: RunWatch | None = None
        self.sight = Sight(self._clock.now())
        self._thread = threading.Thread(target=self._look_on, name="page watch", daemon=True)

    def start(self) -> None:
        """Begin to look; what there is already is seen when this returns."""
        self.look()
        self._thread.start()

    def close(self) -> None:
        """End."""
        self._end.set()
        if self._thread.is_alive():
            self._thread.join()

    @property
    def behind(self) -> float:
        """Seconds since the last look."""
        return self._clock.monotonic() - self._looked

    def _look_on(self) -> None:
        while not self._end.wait(TICK):
            self.look()

    def look(self) -> None:
        """Look once; a database that does not answer is told, and what was seen before stays."""
        try:
            with self._turn, self._log.query() as session:
                seen = self._seen(session)
            if replace(seen, time=self.sight.time) != self.sight:  # who watches draws only what is new
                self.sight = seen
        except RilievoError as error:
            self.sight = self._not_seen(str(error))
        except Exception as error:  # noqa: BLE001  the next look may succeed; a look-out that ended would look alive
            self.sight = self._not_seen(f"{type(error).__name__}: {error}")
        self._looked = self._clock.monotonic()

    def _not_seen(self, trouble: str) -> Sight:
        before = self.sight
        told = Alarm("error", "The database does not answer", f"{trouble}. What stands here is older.")
        alarms = (told, *(alarm for alarm in before.alarms if alarm.title != told.title))
        return replace(before, alarms=alarms, trouble=trouble)

    def _seen(self, session: Session) -> Sight:
        run = self._chosen(session)
        self._take_events(session)
        night = self._followed(session, run)
        self._look_slowly(run)
        alarms = tuple(self._alarms(run))
        now = self._clock.now()
        if run is None or night is None:
            return Sight(now, events=tuple(self._events), bookings=self._open, alarms=alarms)
        return Sight(
            now,
            run,
            night.instrument,
            played=self._played,
            step=night.step,
            elapsed=night.elapsed,
            left=night.left if run.state not in ENDED else None,
            gauges=night.gauges,
            counts=night.counts,
            frame=night.frame,
            segments=self._segments_of(night),
            shape=night.shape,
            events=tuple(self._events),
            bookings=self._open,
            alarms=alarms,
            curves=night.version,
        )

    def _segments_of(self, night: RunWatch) -> tuple[str, ...]:
        """Return the names of the detector's segments, which stand in the frames; read once for each run."""
        if self._segments[0] != night.run.id and night.frame is not None:
            names = self._store.read(night.frame.stored.path).geometry.names
            self._segments = (night.run.id, tuple(names))
        return self._segments[1] if self._segments[0] == night.run.id else ()

    def traces(self) -> bytes | None:
        """Return the curves of the run that is watched as JSON, made once for everybody; None without a run."""
        from acquisition.page.traces import traces_json

        with self._turn:
            night = self.night
            if night is None:
                return None
            made = (night.run.id, night.version, round(night.elapsed, 1))
            if self._traces[0] != made:
                self._traces = (made, traces_json(night))
            return self._traces[1]

    def _chosen(self, session: Session) -> Run | None:
        """Return the newest run that has not ended, else the newest."""
        row = tables.Run
        open_first = select(row.id).order_by(row.ended.is_not(None), row.number.desc()).limit(1)
        name = session.scalar(open_first)
        return None if name is None else self._log.run(name)

    def _followed(self, session: Session, run: Run | None) -> RunWatch | None:
        if run is None:
            self.night = None
            return None
        if self.night is None or self.night.run.id != run.id:
            self._played, self._unplayed = False, None
            self._looked_slowly = float("-inf")
            night = RunWatch(self._log, run)
        else:
            night = self.night
        night.look(session, run)
        self.night = night
        return night

    def _take_events(self, session: Session) -> None:
        if self._last_event == 0:
            newest = session.scalar(select(func.max(tables.EventRow.number))) or 0
            self._last_event = max(0, newest - KEPT)
        row = tables.EventRow
        query = select(row).where(row.number > self._last_event).order_by(row.number).limit(10 * KEPT)
        for found in session.scalars(query):
            self._last_event = found.number
            self._events.append(
                Event(found.number, found.run_id, found.time, found.level, found.kind, found.message, found.data)
            )

    def _look_slowly(self, run: Run | None) -> None:
        now = self._clock.monotonic()
        if now - self._looked_slowly < SLOWLY:
            return
        self._looked_slowly = now
        self._open = tuple(self._bookings.all(OPEN))
        self._undelivered = self._count_undelivered(self._clock.now())
        self._played = run is not None and holder(self._store.folder(run.id), PLAYED) is not None
        self._unplayed = None if self._played else now if self._unplayed is None else self._unplayed

    def _count_undelivered(self, now: datetime) -> int:
        row = tables.AlertRow
        tried = (row.state == "waiting") & (row.attempts > 0) & row.error.is_not(None)
        query = select(func.count()).where(((row.state == "failed") & (row.time > now - _DAY)) | tried)
        with self._log.query() as session:
            return session.scalar(query) or 0

    def _alarms(self, run: Run | None) -> list[Alarm]:
        found: list[Alarm] = []
        if run is not None:
            found += self._of_run(run)
        if self._undelivered:
            many = "one alert" if self._undelivered == 1 else f"{self._undelivered} alerts"
            text = f"{many} could not be delivered yet: whoever relies on them does not know. See rilievo alerts list."
            found.append(Alarm("error", "Alerts do not arrive", text))
        found += [
            Alarm(event.level, f"Something went wrong: {event.kind}", event.message, event.number)
            for event in reversed(self._events)
            if event.level == "error"
            and event.kind not in _TOLD_OTHERWISE
            and (
                (run is not None and event.run_id == run.id)
                or (event.run_id is None and self._clock.now() - _DAY < event.time)
            )
        ][:3]
        return found

    def _of_run(self, run: Run) -> list[Alarm]:
        found = []
        reason = run.reason or "no reason was told"
        if run.state == "suspended":
            found.append(
                Alarm("warning", "The run is suspended", f"{reason}. It goes on by itself once this has passed.")
            )
        elif run.state == "safe":
            found.append(Alarm("error", "The run ended in the safe state", reason))
        elif run.state == "failed":
            found.append(Alarm("error", "The run failed", reason))
        if run.state not in ENDED:
            stall = next((e for e in reversed(self._events) if e.kind == "stall" and e.run_id == run.id), None)
            moved = None if stall is None else self._moved_since(run, stall.time)
            if stall is not None and not moved:
                found.append(Alarm("error", "The run stands still", stall.message))
            # A run is in the database a moment before its process has locked its folder.
            if self._unplayed is not None and self._clock.monotonic() - self._unplayed >= SLOWLY:
                text = f"no process plays this run any more. rilievo resume {run.id} goes on with it."
                found.append(Alarm("error", "The run was interrupted", text))
        return found

    def _moved_since(self, run: Run, moment: datetime) -> bool:
        row = tables.Action
        with self._log.query() as session:
            latest = session.scalar(select(func.max(row.outcome_time)).where(row.run_id == run.id))
        return latest is not None and latest > moment
