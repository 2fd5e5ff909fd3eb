"""The calendar: brings booked recipes to the queue when their time has come, and has regular chores done.

APScheduler fires; its jobs lie in the same database. The table of bookings is the truth, though: people add and remove
bookings from other processes, and the one that owns the calendar makes the jobs agree. A start that the scheduler
fired while the database did not answer, or twice because the process was killed in between, therefore happens once.

Starts that were missed while nobody owned the calendar are told (an event of kind ``missed``), and made or left out as
the booking says.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

from apscheduler.executors.base import BaseExecutor
from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.jobstores.memory import MemoryJobStore
from apscheduler.jobstores.sqlalchemy import SQLAlchemyJobStore
from apscheduler.schedulers.base import BaseScheduler
from apscheduler.triggers.date import DateTrigger
from apscheduler.triggers.interval import IntervalTrigger

from acquisition import database
from acquisition.bookings import OPEN, Booking, Bookings
from acquisition.log import Log
from acquisition.states import State
from acquisition.triggers import GRACE, After, At, lateness, local_zone, starts_between, wall
from acquisition.wording import duration_text
from drivers.clock import Clock
from drivers.errors import RunError

_BOOKED, _CHORES = "default", "chores"
_STATES_OF_AFTER = {"done": "finished"}


def booking_number(number: int) -> int:
    """Return the number of the booking that a job is for; jobs are kept as the name of a function and its arguments."""
    return number


class _Announcer(BaseExecutor):  # type: ignore[misc]
    """Notes which bookings are due; they are looked after one by one, in the thread that asks."""

    def __init__(self) -> None:
        super().__init__()
        self.due: list[tuple[int, datetime]] = []

    def _do_submit_job(self, job: Any, run_times: list[datetime]) -> None:
        self.due.append((job.func(*job.args), run_times[-1]))
        self._run_job_success(job.id, [])


class _JobStore(SQLAlchemyJobStore):  # type: ignore[misc]
    """Jobs in the log's database."""

    def shutdown(self) -> None:
        """Let go of nothing: the connections are the log's."""


class _Scheduler(BaseScheduler):  # type: ignore[misc]
    """APScheduler without a thread of its own, which an error of the database would end in silence."""

    def wakeup(self) -> None:
        """Do nothing: the owner asks often enough."""

    def shutdown(self, wait: bool = True) -> None:
        """End."""
        super().shutdown(wait)

    def look(self) -> None:
        """Fire what is due."""
        self._process_jobs()


class Calendar:
    """Owns APScheduler. One process at a time may have one on a database; its owner calls :meth:`tick`.

    Parameters
    ----------
    log : Log
    clock : Clock
    tell : callable
        Takes level, kind and message of what happened; and data.
    """

    def __init__(self, log: Log, clock: Clock, tell: Callable[..., None]) -> None:
        self._log = log
        self._clock = clock
        self._tell = tell
        self._bookings = Bookings(log)
        self._announcer = _Announcer()
        self._agreed: object = None
        logging.getLogger("apscheduler").addHandler(logging.NullHandler())  # what goes wrong is told by us
        # Every statement of the job store is a transaction of its own, so that readers need not wait for writers.
        self._store = _JobStore(engine=log.engine.execution_options(writes=False))
        self._scheduler = _Scheduler(
            jobstores={_BOOKED: self._store, _CHORES: MemoryJobStore()},
            executors={_BOOKED: self._announcer, _CHORES: ThreadPoolExecutor(1)},
            job_defaults={"misfire_grace_time": None, "coalesce": True},
            timezone="UTC",
        )

    def start(self) -> None:
        """Open the job store."""
        with database.explained(self._log.engine.url):
            # Looks, and then writes: as a transaction that says so from its beginning.
            self._store.jobs_t.create(self._log.engine, checkfirst=True)
            self._scheduler.start()

    def stop(self) -> None:
        """End; a chore that is being done is waited for."""
        if self._scheduler.running:
            self._scheduler.shutdown()

    def every(self, seconds: float, chore: Callable[[], None], name: str) -> None:
        """Have a chore done now and every so many seconds, in a thread of the calendar's own."""
        trigger = IntervalTrigger(seconds=max(1, round(seconds)), timezone="UTC")
        self._scheduler.add_job(
            chore, trigger, id=name, jobstore=_CHORES, executor=_CHORES, next_run_time=self._clock.now()
        )

    def tick(self) -> None:
        """Let bookings and jobs agree, and queue what is due. After an error, the next call does what was left."""
        self._agree()
        self._scheduler.look()
        while self._announcer.due:
            number, scheduled = self._announcer.due[0]
            self._due(number, scheduled)
            self._announcer.due.pop(0)
        for booking in self._bookings.all(["waiting"]):
            if isinstance(booking.trigger, After):
                self._look_after(booking, booking.trigger)

    def _agree(self) -> None:
        """Make the jobs what the bookings say."""
        bookings = {
            f"booking-{booking.id}": booking
            for booking in self._bookings.all(OPEN)
            if not isinstance(booking.trigger, After) and (booking.state == "waiting" or booking.repeats)
        }
        present = [(name, booking.state, booking.due) for name, booking in sorted(bookings.items())]
        if present == self._agreed:
            return
        jobs = {job.id: job for job in self._scheduler.get_jobs(_BOOKED)}
        for name in jobs.keys() - bookings.keys():
            self._scheduler.remove_job(name, _BOOKED)
        for name, booking in bookings.items():
            job = jobs.get(name)
            if job is None:
                self._add_job(name, booking)
            elif booking.state == "waiting" and booking.due is not None and job.next_run_time > booking.due:
                # It fired, and the database could not be told.
                self._scheduler.modify_job(name, _BOOKED, next_run_time=booking.due)
        self._agreed = present

    def _add_job(self, name: str, booking: Booking) -> None:
        trigger = booking.trigger
        if isinstance(trigger, After):
            return
        rule = DateTrigger(trigger.moment) if isinstance(trigger, At) else trigger.rule()
        # A start that lies in the past was missed; the scheduler alone would look for the next one.
        first = {"next_run_time": booking.due} if booking.state == "waiting" and booking.due is not None else {}
        self._scheduler.add_job(
            booking_number, rule, args=[booking.id], id=name, name=booking.title, jobstore=_BOOKED, **first
        )

    # -- starts

    def _due(self, number: int, scheduled: datetime) -> None:
        """Queue a booking whose time has come, unless it came too late, or has come before."""
        try:
            booking = self._bookings.get(number)
        except RunError:
            return
        first, trigger = booking.due, booking.trigger
        if first is None or isinstance(trigger, After) or booking.state not in OPEN:
            return
        at = wall(scheduled, trigger.zone)
        if booking.state != "waiting":
            if scheduled > first:
                doing = "waits in the queue" if booking.state == "queued" else f"is being played ({booking.run_id})"
                self._tell(
                    "warning", "missed", f"{booking.title}: the start at {at} was left out: the one before {doing}"
                )
            return
        if scheduled < first:
            return
        late = (self._clock.now() - scheduled) / timedelta(seconds=1)
        before = starts_between(trigger, first, scheduled) - 1
        also = f"; so were {before} before it" if before else ""
        if late <= GRACE and not also:
            self.queue(booking, scheduled)
        elif late <= lateness(booking.missed):
            what = f"is made now, {duration_text(late)} late" if late > GRACE else "is made in time"
            missed = "was missed and " if late > GRACE else ""
            others = f"; {before} before it {'was' if before == 1 else 'were'} missed" if before else ""
            self.queue(booking, scheduled)
            self._tell("warning", "missed", f"{booking.title}: the start at {at} {missed}{what}{others}")
        else:
            self._leave_out(booking, f"the start at {at} was missed by {duration_text(late)}{also}; {booking.missed}")

    def queue(self, booking: Booking, due: datetime) -> None:
        """Put a waiting booking into the queue."""
        if self._bookings.change(booking.id, ["waiting"], state="queued", due=due, reason=""):
            self._tell("info", "calendar", f"{booking.title} is due")

    def _leave_out(self, booking: Booking, reason: str) -> None:
        """Note that a start is not made: one that repeats waits for the next."""
        following = booking.trigger.next(self._clock.now())
        state = "missed" if following is None else "waiting"
        if self._bookings.change(booking.id, ["waiting"], state=state, due=following, reason=reason):
            waits = "" if following is None else f"; the next is at {wall(following, local_zone())}"
            self._tell("warning", "missed", f"{booking.title} was not started: {reason}{waits}")

    def _look_after(self, booking: Booking, trigger: After) -> None:
        """Queue a booking whose run before it has ended as it should."""
        ended = self._end_of(trigger)
        if ended is None:
            return
        if ended == State.FINISHED or trigger.any_end:
            self.queue(booking, self._clock.now())
        else:
            what = trigger.run_id or f"booking {trigger.booking}"
            self._leave_out(booking, f"{what} ended {ended}, and it was to start after one that finished")

    def _end_of(self, trigger: After) -> str | None:
        """Return how what a trigger waits for ended; None while it has not."""
        if trigger.run_id is not None:
            run = self._log.run(trigger.run_id)
            return run.state if run.ended is not None else None
        if trigger.booking is None:
            return None
        before = self._bookings.get(trigger.booking)
        return None if before.state in OPEN else _STATES_OF_AFTER.get(before.state, before.state)
