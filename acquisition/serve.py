"""The server: owns the calendar and plays the queue, one run at a time on each instrument.

It knows nothing of twins and reconstructions: what plays a booking is handed to it. Everything that a person may ask
of it is a method of :class:`Server`; remote control and a dashboard call these, and nothing listens here.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from acquisition.alerts import Alerts
from acquisition.bookings import OPEN, Booking, Bookings
from acquisition.calendar import Calendar
from acquisition.chores import Backups, DiskForecast
from acquisition.idle import IdleWatch
from acquisition.log import Log
from acquisition.ownership import Owned, Ownership
from acquisition.queue import Queue
from acquisition.records import Run
from acquisition.states import State
from drivers.clock import Clock, RealClock
from drivers.errors import RilievoError, RunError

if TYPE_CHECKING:
    from acquisition.engine import Outcome

TICK = 0.5
"""Seconds between two looks at the calendar and the queue."""
SLOW = 60.0
"""Seconds without a look after which the server counts as standing still."""
OWNED = "calendar"
"""What a server owns."""


class Controls(Protocol):
    """What others ask of a run that is being played."""

    def pause(self) -> None:
        """Pause."""

    def resume(self) -> None:
        """Go on."""

    def stop(self, reason: str = ...) -> None:
        """End after the frame that is being taken, through the cleanup."""

    def abort(self, reason: str = ...) -> None:
        """End at once, through the cleanup."""


class Playing(Protocol):
    """A run that is being played: :class:`acquisition.night.Night`, already started."""

    @property
    def run_id(self) -> str:
        """Of the run."""

    @property
    def engine(self) -> Controls:
        """What takes requests."""

    def wait(self, seconds: float) -> bool:
        """Wait up to ``seconds`` of real time; return whether the run has ended."""

    def finish(self) -> Outcome:
        """Return how the run ended."""


Play = Callable[[Booking], AbstractContextManager[Playing]]
"""Checks a booking's recipe once more, begins its run, and gives it; leaving the context settles and lets go.

Raises what a person can act on where the run cannot begin, :class:`Owned` where another process has the instrument.
"""


class Interrupted(Protocol):
    """A run that was interrupted, and can be resumed."""

    @property
    def run_id(self) -> str:
        """Of the run."""

    @property
    def instrument(self) -> str:
        """Name of the instrument that it is played on."""

    def play(self) -> AbstractContextManager[Playing]:
        """Resume it, as :data:`Play` begins a run."""


Resume = Callable[[], Iterable[Interrupted]]
"""Finds what was interrupted and goes on by itself; touches no instrument before ``play``."""


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """How a server looks after things.

    Attributes
    ----------
    backup_every : float, s
    keep_backups : int
    forecast_every : float, s
        Between two looks at the disk.
    reserve : float, bytes
        That the forecast wants to stay free.
    tick : float, s
    """

    backup_every: float = 86_400.0
    keep_backups: int = 7
    forecast_every: float = 600.0
    reserve: float = 2e9
    tick: float = TICK


@dataclass
class _Stage:
    """An instrument that is being played on, and the thread that looks after the run."""

    instrument: str
    thread: threading.Thread
    playing: Playing | None = None
    booking: Booking | None = None
    asked: list[str] = field(default_factory=list)


class Server:
    """Plays what the calendar holds.

    Parameters
    ----------
    folder : Path
        The data folder.
    log : Log
    play : callable
        See :data:`Play`.
    resume : callable, optional
        See :data:`Resume`; without it, what was interrupted stays as it is.
    alerts : Alerts, optional
        Started and ended with the server.
    idle : IdleWatch, optional
        Of the instrument that is watched between runs.
    settings : ServerSettings
    clock : Clock, optional
        Real.
    """

    def __init__(
        self,
        folder: Path,
        log: Log,
        play: Play,
        *,
        resume: Resume | None = None,
        alerts: Alerts | None = None,
        idle: IdleWatch | None = None,
        settings: ServerSettings | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._folder = folder
        self._log = log
        self._play = play
        self._resume = resume
        self._alerts = alerts
        self._idle = idle
        self._settings = settings or ServerSettings()
        self._clock = clock or RealClock()
        self._bookings = Bookings(log)
        self._queue = Queue(log, self._clock)
        self._calendar = Calendar(log, self._clock, self._tell)
        self._wake = self._clock.signal()
        self._lock = threading.Lock()
        self._stages: dict[str, _Stage] = {}
        self._interrupted: list[tuple[Interrupted, Booking | None]] = []
        self._unsettled: list[tuple[Booking, bool, str]] = []
        self._ownership: Ownership | None = None
        self._closing = False
        self._closed = False
        self._trouble: str | None = None
        self._looked: float | None = None
        self._began: datetime | None = None

    # -- its life

    def start(self) -> None:
        """Become the owner of the calendar, resume what was interrupted, and open the calendar.

        Raises
        ------
        Owned
            Where another server is; says which, and since when.
        """
        self._ownership = Ownership.take(self._folder, OWNED, self._log.engine, self._clock)
        try:
            self._began = self._clock.now()
            self._tell("info", "server", "the server has started")
            if self._alerts is not None:
                self._alerts.start(self.wrong)
            self._take_up()
            self._calendar.start()
            self._set_chores()
        except BaseException:
            self.close()
            raise

    def run(self, stop_asked: Callable[[], str | None], *, stop_runs: bool = False) -> None:
        """Look after everything until somebody asks for the end.

        Parameters
        ----------
        stop_asked : callable
            Answers with a reason once the server is to end. It starts nothing more then, and ends when what is being
            played has ended.
        stop_runs : bool
            End what is being played at once, through its cleanup.
        """
        while (reason := stop_asked()) is None:
            self.look()
            self._wake.wait(self._settings.tick)
            self._wake.clear()
        self._tell("info", "server", f"the server ends: {reason}")
        self._closing = True
        if stop_runs:
            self.stop_runs(reason)
        while self._stages:
            self.look()
            self._wake.wait(self._settings.tick)
            self._wake.clear()

    def stop_runs(self, reason: str) -> None:
        """End every run that is being played, through its cleanup; begin none after it."""
        self._closing = True
        with self._lock:
            stages = list(self._stages.values())
            for stage in stages:
                stage.asked.append(reason)
        for stage in stages:
            if stage.playing is not None:
                stage.playing.engine.abort(reason)

    def close(self) -> None:
        """End, once: runs through their cleanup, then chores, alerts, and the ownership of the calendar."""
        if self._closed:
            return
        self._closed = True
        self.stop_runs("the server ends")
        for stage in list(self._stages.values()):
            stage.thread.join()
        self._settle()
        self._calendar.stop()
        if self._idle is not None:
            self._idle.stop()
        self._tell("info", "server", "the server has ended")
        if self._alerts is not None:
            self._alerts.close()
        if self._ownership is not None:
            self._ownership.release()
            self._ownership = None

    def look(self) -> None:
        """Look once at the calendar and the queue; what goes wrong is told, and tried again with the next look."""
        try:
            self._keep_ownership()
            self._settle()
            if not self._closing:
                self._calendar.tick()
                self._play_on()
            self._watch_idle()
        except Exception as error:  # noqa: BLE001  a server that ends because of one booking plays none of the others
            self._note(str(error) or type(error).__name__)
        else:
            self._note(None)
        self._looked = self._clock.monotonic()

    def _note(self, trouble: str | None) -> None:
        before, self._trouble = self._trouble, trouble
        if trouble is not None and trouble != before:
            self._tell("error", "server", f"the calendar cannot be looked after: {trouble}")
        if trouble is None and before is not None:
            self._tell("info", "server", "the calendar is looked after again")

    def wrong(self) -> str | None:
        """Return what is wrong with the server; None while nothing is. The heart beats only then."""
        if self._trouble is not None:
            return self._trouble
        if self._looked is not None and self._clock.monotonic() - self._looked > SLOW:
            return "the server stands still"
        return None

    def _keep_ownership(self) -> None:
        """Own the calendar again where the connection that held it was lost.

        Raises
        ------
        Owned
            Where another server was quicker; nothing is started meanwhile.
        """
        if self._ownership is not None and self._ownership.held:
            return
        if self._ownership is not None:
            self._ownership.release()
            self._ownership = None
        self._ownership = Ownership.take(self._folder, OWNED, self._log.engine, self._clock)

    def _set_chores(self) -> None:
        settings = self._settings
        backups = Backups(
            self._log,
            self._folder,
            self._clock,
            self._tell,
            every=settings.backup_every,
            keep=settings.keep_backups,
        )
        forecast = DiskForecast(self._log, self._folder, self._clock, self._tell, reserve=settings.reserve)
        self._calendar.every(min(3600.0, settings.backup_every), self._chore(backups.make, "backup"), "backup")
        self._calendar.every(settings.forecast_every, self._chore(forecast.look, "disk"), "disk")

    def _chore(self, work: Callable[[], None], kind: str) -> Callable[[], None]:
        """Return a chore whose failure is told."""

        def done() -> None:
            try:
                work()
            except Exception as error:  # noqa: BLE001  it is done again next time
                self._tell("error", kind, f"the chore failed: {error or type(error).__name__}")

        return done

    # -- runs

    def _take_up(self) -> None:
        """Resume what was interrupted, and see what became of bookings that were being played."""
        interrupted = list(self._resume()) if self._resume is not None else []
        resumed = {found.run_id for found in interrupted}
        running = self._bookings.all(["running"])
        for booking in running:
            if booking.run_id is None:
                self._queue.back(booking, "interrupted before its run began")
                self._tell("warning", "calendar", f"{booking.title} was interrupted before its run began; queued again")
            elif booking.run_id not in resumed:
                run = self._log.run(booking.run_id)
                ended = run.state if run.ended is not None else f"interrupted while {run.state}"
                self._queue.ended(booking, well=run.state == State.FINISHED, reason=_how(run.id, ended, run.reason))
        of_run = {booking.run_id: booking for booking in running}
        self._interrupted = [(found, of_run.get(found.run_id)) for found in interrupted]

    def _play_on(self) -> None:
        """Play what comes next on every instrument that is free: what was interrupted before what is queued."""
        for found, booking in list(self._interrupted):
            if found.instrument not in self._stages:
                self._interrupted.remove((found, booking))
                self._open_stage(found.instrument, found.play, booking, f"resume {found.run_id}")
        waiting = [found.instrument for found, _ in self._interrupted]
        while (booking := self._queue.take([*self._stages, *waiting])) is not None:
            self._open_stage(booking.instrument, self._beginning(booking), booking, f"play {booking.instrument}")

    def _beginning(self, booking: Booking) -> Callable[[], AbstractContextManager[Playing]]:
        return lambda: self._play(booking)

    def _open_stage(
        self,
        instrument: str,
        begin: Callable[[], AbstractContextManager[Playing]],
        booking: Booking | None,
        name: str,
    ) -> None:
        stage = _Stage(instrument, threading.Thread(target=lambda: self._perform(stage, begin), name=name))
        stage.booking = booking
        self._stages[instrument] = stage
        stage.thread.start()

    def _perform(self, stage: _Stage, begin: Callable[[], AbstractContextManager[Playing]]) -> None:
        """Play one run to its end; the thread of a stage. What happens to it is told, and never raised."""
        booking, well, reason = stage.booking, False, ""
        try:
            if self._idle is not None and self._idle.name == stage.instrument and not self._idle.stop():
                raise RunError(f"{stage.instrument} is not let go of by the watch while idle; see its devices")
            with begin() as playing:
                outcome = self._attend(stage, playing)
                well, reason = outcome.state is State.FINISHED, _how(playing.run_id, outcome.state, outcome.reason)
        except Owned as error:
            if booking is not None and self._put_back(booking, str(error)):
                booking = None
        except Exception as error:  # noqa: BLE001  one run that cannot begin must not end the server
            reason = f"{reason}; {error}".removeprefix("; ") or type(error).__name__
            what = booking.title if booking is not None else stage.instrument
            self._tell("error", "calendar", f"{what}: {error or type(error).__name__}")
        finally:
            with self._lock:
                if booking is not None:
                    self._unsettled.append((booking, well, reason))
                self._stages.pop(stage.instrument, None)
            self._wake.set()

    def _attend(self, stage: _Stage, playing: Playing) -> Outcome:
        """Wait for a run's end."""
        with self._lock:
            stage.playing = playing
        if stage.asked:
            playing.engine.abort(stage.asked[0])
        noted = stage.booking is None
        while not playing.wait(self._settings.tick):
            noted = noted or self._note_began(stage.booking, playing.run_id)
        if not noted:
            self._note_began(stage.booking, playing.run_id)
        return playing.finish()

    def _note_began(self, booking: Booking | None, run_id: str) -> bool:
        with suppress(RilievoError):  # the run does not wait for the database; the note is made when it answers
            if booking is not None:
                self._queue.began(booking, run_id)
            return True
        return False

    def _put_back(self, booking: Booking, reason: str) -> bool:
        """Queue a booking again whose instrument another process has; a little later, so as not to ask at once."""
        self._clock.sleep(min(5.0, 4 * self._settings.tick))
        with suppress(RilievoError):
            self._queue.back(booking, reason)
            return True
        return False

    def _settle(self) -> None:
        """Enter what became of bookings; after an error of the database, with the next look."""
        while self._unsettled:
            booking, well, reason = self._unsettled[0]
            self._queue.ended(booking, well=well, reason="" if well else reason)
            self._unsettled.pop(0)

    def _watch_idle(self) -> None:
        if self._idle is not None and self._idle.name not in self._stages and not self._closing:
            self._idle.start()

    def _tell(self, level: str, kind: str, message: str) -> None:
        with suppress(RilievoError):  # a database that does not answer is told by the alerts
            self._log.event(None, self._clock.now(), level, kind, message)

    # -- what others ask

    @property
    def state(self) -> dict[str, Any]:
        """What the server does, as JSON data."""
        with self._lock:
            playing = [
                {
                    "instrument": stage.instrument,
                    "run": None if stage.playing is None else stage.playing.run_id,
                    "booking": None if stage.booking is None else stage.booking.id,
                }
                for stage in self._stages.values()
            ]
        return {
            "since": None if self._began is None else self._began.isoformat(),
            "closing": self._closing,
            "wrong": self.wrong(),
            "playing": playing,
            "idle": self._idle.name if self._idle is not None and self._idle.watching else None,
        }

    def bookings(self) -> list[Booking]:
        """Return what is booked: the next start first."""
        return self._bookings.all(OPEN)

    def queue(self) -> list[Booking]:
        """Return whose time has come, in the order in which they are played."""
        return self._queue.waiting()

    def runs(self) -> list[Run]:
        """Return all runs, the newest first."""
        return self._log.runs()

    def remove(self, booking_id: int) -> Booking:
        """Take a booking out of the calendar; errors as :meth:`acquisition.bookings.Bookings.remove`."""
        removed = self._bookings.remove(booking_id)
        self._wake.set()
        return removed

    def pause(self, run_id: str) -> None:
        """Pause a run."""
        self._controls(run_id).pause()

    def resume(self, run_id: str) -> None:
        """Let a run go on."""
        self._controls(run_id).resume()

    def stop(self, run_id: str, reason: str = "stopped on request") -> None:
        """End a run after the frame that is being taken, through the cleanup."""
        self._controls(run_id).stop(reason)

    def abort(self, run_id: str, reason: str = "aborted on request") -> None:
        """End a run at once, through the cleanup."""
        self._controls(run_id).abort(reason)

    def _controls(self, run_id: str) -> Controls:
        with self._lock:
            playing = {stage.playing.run_id: stage.playing for stage in self._stages.values() if stage.playing}
        if run_id not in playing:
            raise RunError(f"run {run_id} is not being played; what is: {', '.join(playing) or 'nothing'}")
        return playing[run_id].engine


def _how(run_id: str, state: str, reason: str) -> str:
    return f"run {run_id} ended {state}{f': {reason}' if reason else ''}"
