"""Alerts: somebody outside is told what nobody is awake to see.

There is one mechanism: **alerts derive from the events in the log.** Whoever wants something told enters an event
(:meth:`acquisition.log.Log.event`), and need not know of alerts. A thread of its own follows the events, puts those
that :func:`kind_of` finds worth it into an outbox in the same database, and delivers them on the ways of
``alerts.yaml``. What was to be told survives a kill; neither a slow mail server nor a broken one touches the run.

Delivery is at least once, and a repetition carries the same key (:mod:`acquisition.ways`). One process at a time
delivers for a data folder, and has the heartbeat; another takes over when it ends.
"""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from pathlib import Path
from types import MappingProxyType
from typing import Self

from acquisition.alert_settings import KINDS, AlertSettings, load_settings
from acquisition.courier import Courier, Result
from acquisition.heartbeat import Heartbeat, Well
from acquisition.log import Log
from acquisition.message import Message
from acquisition.outbox import Alert, Outbox, summed_up
from acquisition.ownership import Owned, Ownership
from acquisition.records import Event
from acquisition.ways import ways_of
from drivers.clock import Clock, Deadline, RealClock
from drivers.errors import DocumentError, RilievoError
from drivers.units import si

POLL = 1.0
"""Seconds between two looks at the events."""
TAKE_OVER = 5.0
"""Seconds between two attempts to become the one who delivers."""
FALLBACK = 2
"""Attempts after which a warning or an error is told on the other ways, too."""
DATABASE_PATIENCE = 60.0
"""Seconds without an answer of the database after which that is told, past the outbox, which lies in it."""

STARTED = "alerts"
"""Kind of the event that every start enters."""
ABOUT_ALERTS = "alert"
"""Kind of the events about alerts themselves, which make none."""

RESUMED = "resume"
"""Kind of the event that says what was decided about a run that was interrupted."""

_STATES: Mapping[str, str] = MappingProxyType(
    {"failed": "failure", "safe": "safe", "suspended": "suspension", "finished": "finished", "stopped": "stopped"}
)
_EVENTS: Mapping[str, str] = MappingProxyType(
    {"stall": "stall", "watchdog": "stall", "guard": "safe", "disk": "disk", "missed": "missed"}
)


def kind_of(event: Event) -> str | None:
    """Return what kind of alert an event is; None where it is none.

    A run's way into failed, safe, suspended, finished or stopped; its being taken up after an interruption; warnings
    and errors of the watchdog, the guard, the disk, the calendar; and every other error.
    """
    if event.kind in (STARTED, ABOUT_ALERTS):
        return None
    if event.kind == "state":
        return _STATES.get(event.message.partition(":")[0])
    if event.kind == RESUMED:
        return "resumed"
    if event.level in ("warning", "error") and event.kind in _EVENTS:
        return _EVENTS[event.kind]
    return "error" if event.level == "error" else None


class Alerts:
    """Follows the events and tells them; :meth:`of` makes it from a data folder's settings.

    Parameters
    ----------
    settings : AlertSettings
    folder : Path
        The data folder.
    log : Log
    clock : Clock, optional
        Real time unless given, also beside a run on virtual time: people live in real time.
    poll : float, s
        Between two looks at the events.
    """

    def __init__(
        self, settings: AlertSettings, folder: Path, log: Log, clock: Clock | None = None, poll: float = POLL
    ) -> None:
        self.settings = settings
        self._folder = folder
        self._log = log
        self._clock = clock or RealClock()
        self._poll = poll
        self._outbox = Outbox(log)
        self._wake = self._clock.signal()
        self._end = threading.Event()
        self._grace = 0.0
        deadline = si(settings.deadline)
        self._couriers = {
            name: Courier(name, way, deadline, self._clock, self._wake.set)
            for name, way in ways_of(settings, folder).items()
        }
        beat = settings.heartbeat
        self._heartbeat = None if beat is None else Heartbeat(beat, folder, self._clock, deadline)
        self._well: Well = _well
        self._flying: dict[str, list[Alert]] = {}
        self._ownership: Ownership | None = None
        self._take_at = 0.0
        self._cursor = 0
        self._trouble: tuple[float, str] | None = None
        self._told_of_trouble: set[str] = set()
        self._thread = threading.Thread(target=self._run, name="alerts", daemon=True)

    @classmethod
    def of(cls, folder: Path, log: Log, clock: Clock | None = None, *, forgiving: bool = False) -> Self | None:
        """Return the alerts of a data folder; None where it has no ``alerts.yaml``.

        Parameters
        ----------
        folder : Path
        log : Log
        clock : Clock, optional
        forgiving : bool
            Do without settings that cannot be understood, and tell the log: a run that was interrupted goes on.

        Raises
        ------
        DocumentError
            With everything that is wrong with the settings.
        """
        try:
            settings = load_settings(folder)
        except DocumentError as error:
            if not forgiving:
                raise
            message = f"the alerts' settings cannot be understood, and nobody is told of anything: {error}"
            with suppress(RilievoError):
                log.event(None, (clock or RealClock()).now(), "error", ABOUT_ALERTS, message)
            return None
        return None if settings is None else cls(settings, folder, log, clock)

    @property
    def wrong(self) -> str | None:
        """What keeps the alerts from working; None while nothing does."""
        return None if self._trouble is None else self._trouble[1]

    def start(self, well: Well | None = None) -> None:
        """Begin to follow and to deliver; tests every way where the settings want it.

        What is entered after this returns is told, also by a later start where this process is killed.

        Parameters
        ----------
        well : callable, optional
            Answers with what is wrong with the run or the server, None while nothing is; the heart beats only then.
        """
        self._well = well or _well
        with suppress(RilievoError):  # a database that does not answer is told by the thread
            self._owns()
            if self.settings.test_at_start:
                self._ask_for_test()
        self._thread.start()

    def close(self, timeout: float = 10.0) -> None:
        """Tell what happened until now, for ``timeout`` seconds at the most; the rest waits for the next start."""
        self._grace = timeout
        self._end.set()
        self._wake.set()
        if self._thread.ident is not None:
            self._thread.join(timeout + 5.0)

    def test(self, timeout: float = 60.0) -> list[Alert]:
        """Send a test on every way; return what became of each within ``timeout`` seconds. Needs a start before."""
        ids = self._ask_for_test()
        until = Deadline.after(self._clock, timeout)
        while True:
            found = self._outbox.pick(ids)
            if until.expired or all(alert.state != "waiting" or alert.error is not None for alert in found):
                return found
            self._wake.set()
            self._clock.sleep(0.05)

    def _ask_for_test(self) -> list[int]:
        now = self._clock.now()
        text = "This is a test: alerts arrive here. Nothing happened."
        return self._outbox.put(self._couriers, now, kind="test", level="info", title="Test of the alerts", text=text)

    # -- the thread

    def _run(self) -> None:
        try:
            while not self._end.is_set():
                self._round()
                self._wake.wait(0.1 if self._flying else self._poll)
                self._wake.clear()
            until = Deadline.after(self._clock, self._grace)
            while self._round() and not until.expired:
                self._wake.wait(min(0.1, until.remaining))
                self._wake.clear()
        finally:
            if self._ownership is not None:
                self._ownership.release()

    def _round(self) -> bool:
        """Look, deliver, beat; return whether something is on its way. Nothing that goes wrong ends the thread."""
        try:
            if self._owns():
                self._collect()
                self._follow()
                self._deliver()
                self._trouble = None
                self._told_of_trouble.clear()
                self._beat()
        except Exception as error:  # noqa: BLE001  whoever tells of failures must survive them
            began = self._trouble[0] if self._trouble is not None else self._clock.monotonic()
            self._trouble = began, str(error) or type(error).__name__
            self._tell_past_the_outbox()
        return bool(self._flying)

    def _owns(self) -> bool:
        """Return whether this process delivers; take over where nobody does."""
        if self._ownership is not None and self._ownership.held:
            return True
        now = self._clock.monotonic()
        if now < self._take_at:
            return False
        self._take_at = now + TAKE_OVER
        if self._ownership is not None:
            self._ownership.release()
            self._ownership = None
        try:
            owned = Ownership.take(self._folder, "alerts", self._log.engine, self._clock)
        except Owned:
            return False
        try:
            followed = self._outbox.followed(STARTED)
            names = ", ".join(self._couriers) or "nobody"
            number = self._log.event(None, self._clock.now(), "info", STARTED, f"alerts go to {names}")
        except BaseException:
            owned.release()
            self._take_at = 0.0
            raise
        self._cursor = number if followed is None else followed
        self._ownership = owned
        return True

    def _follow(self) -> None:
        """Put what is new and worth it into the outbox."""
        events, through = self._outbox.news(self._cursor, ["state", RESUMED])
        for event in events:
            kind = kind_of(event)
            if kind is None:
                continue
            ways = [name for name, way in self.settings.ways.items() if way.takes(kind, event.level)]
            if ways:
                title, text = _wording(kind, event)
                self._outbox.put(
                    ways,
                    self._clock.now(),
                    kind=kind,
                    level=event.level,
                    title=title,
                    text=text,
                    time=event.time,
                    run_id=event.run_id,
                    event=event.number,
                )
        self._cursor = through

    def _deliver(self) -> None:
        for way, courier in self._couriers.items():
            if not courier.ready:
                continue
            now = self._clock.now()
            alerts = self._outbox.due(way, now, self.settings.limit_of(way))
            if alerts:
                self._outbox.trying(alerts, self._again(alerts[0].attempts + 1, now) or now)
                self._flying[way] = alerts
                courier.send(summed_up(alerts))

    def _collect(self) -> None:
        for way, courier in self._couriers.items():
            result = courier.result()
            if result is None:
                continue
            alerts = self._flying.pop(way, None)
            if alerts is not None:  # else it went past the outbox
                self._note(way, alerts, result)

    def _note(self, way: str, alerts: Sequence[Alert], result: Result) -> None:
        """Enter what became of a delivery, and tell a person where that is new."""
        now, ids, attempt = self._clock.now(), [alert.id for alert in alerts], alerts[0].attempts + 1
        what = alerts[0].title if len(alerts) == 1 else f"{len(alerts)} alerts"
        if result.error is None:
            self._outbox.sent(ids, now, result.note)
            if result.note is not None:
                self._tell("warning", f"{way}: {what}: {result.note}")
            elif attempt > 1:
                self._tell("info", f"{way}: {what}: delivered with attempt {attempt}")
            return
        # A test is to say how it is now; whoever wants to know later asks again.
        again = None if alerts[0].kind == "test" else self._again(attempt, now)
        self._outbox.not_sent(ids, result.error, again)
        if again is None:
            self._tell(
                "error",
                f"{way}: {what}: given up after {attempt} {'attempt' if attempt == 1 else 'attempts'}: {result.error}",
            )
        elif attempt == 1:
            self._tell("warning", f"{way}: {what}: not delivered: {result.error}; tried again")
        if attempt == FALLBACK or again is None:
            self._tell_elsewhere(way, alerts, result.error)

    def _again(self, attempt: int, now: datetime) -> datetime | None:
        """Return when to try again after so many attempts; None where it is time to give up."""
        retry = self.settings.retry
        first, longest = si(retry.first), si(retry.longest)
        pauses = [min(longest, first * 2.0 ** min(count, 40)) for count in range(attempt)]
        return None if sum(pauses) > si(retry.give_up) else now + timedelta(seconds=pauses[-1])

    def _tell_elsewhere(self, way: str, alerts: Sequence[Alert], error: str) -> None:
        """Tell on the other ways what one cannot deliver; only what is grave, and an event only once on each."""
        others = [other for other in self._couriers if other != way]
        for alert in alerts:
            if alert.event is not None and alert.level != "info":
                self._outbox.put(
                    others,
                    self._clock.now(),
                    kind=alert.kind,
                    level=alert.level,
                    title=alert.title,
                    text=f"{alert.text}\n\nThis way was chosen because {way} does not deliver: {error}",
                    time=alert.time,
                    run_id=alert.run_id,
                    event=alert.event,
                )

    def _tell(self, level: str, message: str) -> None:
        self._log.event(None, self._clock.now(), level, ABOUT_ALERTS, message)

    def _tell_past_the_outbox(self) -> None:
        """Tell on every way that the alerts do not work, once, when that has lasted."""
        if self._trouble is None or self._clock.monotonic() - self._trouble[0] < DATABASE_PATIENCE:
            return
        for way, courier in self._couriers.items():
            result = courier.result()
            if result is not None and result.error is not None and way not in self._flying:
                self._told_of_trouble.discard(way)
            if courier.ready and way not in self._told_of_trouble:
                self._told_of_trouble.add(way)
                text = f"For {DATABASE_PATIENCE:g} s and longer: {self._trouble[1]}"
                title = "Alerts cannot be read from the database"
                courier.send(Message(uuid.uuid4().hex, "error", "error", title, text, self._clock.now()))

    def _beat(self) -> None:
        if self._heartbeat is None:
            return
        news = self._heartbeat.beat(self._well())
        if news is not None:
            self._tell("warning", news)


@contextmanager
def telling(
    folder: Path, log: Log, well: Well | None = None, grace: float = 10.0, *, forgiving: bool = False
) -> Iterator[Alerts | None]:
    """Tell what happens meanwhile, as a data folder's settings say; yields None where it has none.

    Parameters
    ----------
    folder : Path
    log : Log
    well : callable, optional
        See :meth:`Alerts.start`.
    grace : float, s
        For what is still to be delivered in the end; the rest waits for the next start.
    forgiving : bool

    Raises
    ------
    DocumentError
        As :meth:`Alerts.of`, before anything begins.
    """
    alerts = Alerts.of(folder, log, forgiving=forgiving)
    if alerts is None:
        yield None
        return
    alerts.start(well)
    try:
        yield alerts
    finally:
        alerts.close(grace)


def _wording(kind: str, event: Event) -> tuple[str, str]:
    """Return title and text of an alert about an event."""
    phrase = KINDS[kind] if kind != "error" else "an error"
    brief = " ".join(event.message.split())
    brief = brief if len(brief) <= 120 else f"{brief[:119]}…"
    text = f"{event.message}\n\n{event.time:%Y-%m-%d %H:%M:%S} UTC"
    return f"{phrase[0].upper()}{phrase[1:]}: {brief}", text if event.run_id is None else f"{text}, run {event.run_id}"


def _well() -> str | None:
    return None
