"""The server: owns the calendar and plays the queue, one run at a time on each instrument.

It knows nothing of twins and reconstructions: what plays a booking is handed to it. Everything that a person may ask
of it is a method of :class:`Server`; remote control and a dashboard call these, and nothing listens here.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from acquisition.alerts import Alerts
from acquisition.bookings import OPEN, Booking, Bookings
from acquisition.calendar import Calendar
from acquisition.chores import Backups, DiskForecast
from acquisition.idle import IdleWatch
from acquisition.log import Log
from acquisition.ownership import Ownership
from acquisition.queue import Queue
from acquisition.records import Run
from acquisition.stages import Play, Resume, Stages
from drivers.clock import Clock, RealClock
from drivers.errors import RilievoError

TICK = 0.5
"""Seconds between two looks at the calendar and the queue."""
SLOW = 60.0
"""Seconds without a look after which the server counts as standing still."""
OWNED = "calendar"
"""What a server owns."""


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


class Server:
    """Plays what the calendar holds.

    Parameters
    ----------
    folder : Path
        The data folder.
    log : Log
    play : callable
        See :data:`acquisition.stages.Play`.
    resume : callable, optional
        See :data:`acquisition.stages.Resume`; without it, what was interrupted stays as it is.
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
        self._resume = resume
        self._alerts = alerts
        self._idle = idle
        self._settings = settings or ServerSettings()
        self._clock = clock or RealClock()
        self._bookings = Bookings(log)
        self._queue = Queue(log, self._clock)
        self._calendar = Calendar(log, self._clock, self._tell)
        self._wake = self._clock.signal()
        self._stages = Stages(log, self._clock, play, self._tell, self._wake.set, tick=self._settings.tick, idle=idle)
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
            self._stages.take_up(self._resume() if self._resume is not None else ())
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
        while self._stages.busy:
            self.look()
            self._wake.wait(self._settings.tick)
            self._wake.clear()

    def stop_runs(self, reason: str) -> None:
        """End every run that is being played, through its cleanup; begin none after it."""
        self._closing = True
        self._stages.stop(reason)

    def close(self) -> None:
        """End, once: runs through their cleanup, then chores, alerts, and the ownership of the calendar."""
        if self._closed:
            return
        self._closed = True
        self.stop_runs("the server ends")
        self._stages.join()
        with suppress(RilievoError):  # else the next server sees what became of them
            self._stages.settle()
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
            self._stages.settle()
            if not self._closing:
                self._calendar.tick()
                self._stages.play_on()
                self._stages.watch_idle()
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

    def _tell(self, level: str, kind: str, message: str) -> None:
        with suppress(RilievoError):  # a database that does not answer is told by the alerts
            self._log.event(None, self._clock.now(), level, kind, message)

    # -- what others ask

    @property
    def state(self) -> dict[str, Any]:
        """What the server does, as JSON data."""
        return {
            "since": None if self._began is None else self._began.isoformat(),
            "closing": self._closing,
            "wrong": self.wrong(),
            "playing": self._stages.to_json(),
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
        self._stages.controls(run_id).pause()

    def resume(self, run_id: str) -> None:
        """Let a run go on."""
        self._stages.controls(run_id).resume()

    def stop(self, run_id: str, reason: str = "stopped on request") -> None:
        """End a run after the frame that is being taken, through the cleanup."""
        self._stages.controls(run_id).stop(reason)

    def abort(self, run_id: str, reason: str = "aborted on request") -> None:
        """End a run at once, through the cleanup."""
        self._stages.controls(run_id).abort(reason)
