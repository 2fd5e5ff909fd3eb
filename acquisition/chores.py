"""What the server does beside playing: copies of the database, and a look ahead at the disk."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

from acquisition.bookings import Booking, Bookings
from acquisition.log import Log
from acquisition.triggers import After
from acquisition.wording import bytes_text
from drivers.clock import Clock
from drivers.errors import DatabaseError, RilievoError

Tell = Callable[[str, str, str], None]
"""Takes level, kind and message of what happened."""

AHEAD = timedelta(hours=48)
"""How far the forecast of the disk looks."""


class Backups:
    """Copies the embedded database into ``backups/``, and keeps the newest.

    Parameters
    ----------
    log : Log
    folder : Path
        The data folder.
    clock : Clock
    tell : callable
    every : float, s
    keep : int
        How many copies.
    """

    def __init__(self, log: Log, folder: Path, clock: Clock, tell: Tell, *, every: float, keep: int) -> None:
        self._log = log
        self._folder = folder / "backups"
        self._clock = clock
        self._tell = tell
        self._every = timedelta(seconds=every)
        self._keep = keep
        self._advised = False

    def copies(self) -> list[Path]:
        """Return the copies, oldest first."""
        return sorted(self._folder.glob("rilievo-*.db"))

    def make(self) -> None:
        """Make a copy where the newest is older than it should be; a copy that cannot be read back replaces none."""
        if self._log.engine.dialect.name != "sqlite":
            if not self._advised:
                self._advised = True
                self._tell(
                    "info", "backup", "a PostgreSQL database is backed up by its own tool: pg_dump --format=custom"
                )
            return
        now = self._clock.now()
        newest = max((_time_of(path) for path in self.copies()), default=None)
        if newest is not None and now - newest < self._every:
            return
        path = self._folder / f"rilievo-{now:%Y%m%d-%H%M%S}.db"
        try:
            self._folder.mkdir(exist_ok=True)
            self._log.backup(path)
            _verify(path)
            for old in self.copies()[: -self._keep]:
                old.unlink(missing_ok=True)
        except (RilievoError, OSError) as error:
            self._tell("error", "backup", f"the database could not be copied: {error}")
            return
        self._tell("info", "backup", f"the database was copied to {path.name} ({bytes_text(path.stat().st_size)})")


def _time_of(path: Path) -> datetime:
    return datetime.strptime(f"{path.stem.removeprefix('rilievo-')}+0000", "%Y%m%d-%H%M%S%z")


def _verify(path: Path) -> None:
    """Read a copy back; one that is damaged is put aside."""
    try:
        with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
            told = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    except sqlite3.Error as error:
        told = str(error)
    if told != "ok":
        path.rename(path.with_suffix(".damaged"))
        raise DatabaseError(f"the copy is damaged ({told}); check the disk", str(path))


class DiskForecast:
    """Compares the room on the disk with what the calendar's plans will take; tells when it will not do.

    Parameters
    ----------
    log : Log
    folder : Path
        Where frames are kept.
    clock : Clock
    tell : callable
    reserve : float, bytes
        That is to stay free.
    """

    def __init__(self, log: Log, folder: Path, clock: Clock, tell: Tell, *, reserve: float) -> None:
        self._bookings = Bookings(log)
        self._folder = folder
        self._clock = clock
        self._tell = tell
        self._reserve = reserve
        self._short = False

    def needed(self) -> tuple[float, int]:
        """Return the bytes that the starts within the next two days will take, and how many starts these are.

        A run that is being played counts whole: what it has written is gone from the free room already.
        """
        until = self._clock.now() + AHEAD
        starts = [
            (booking, self._starts(booking, until)) for booking in self._bookings.all(("waiting", "queued", "running"))
        ]
        room = sum(count * float(booking.options.get("disk") or 0.0) for booking, count in starts)
        return room, sum(count for _, count in starts)

    def _starts(self, booking: Booking, until: datetime) -> int:
        if isinstance(booking.trigger, After) or not booking.repeats:
            return 1 if booking.due is None or booking.due <= until else 0
        count, moment = int(booking.state != "waiting"), self._clock.now()
        while count < 1000 and (following := booking.trigger.next(moment)) is not None and following <= until:
            count, moment = count + 1, following
        return count

    def look(self) -> None:
        """Look, and tell what is new."""
        free = shutil.disk_usage(self._folder).free
        room, starts = self.needed()
        short = free < room + self._reserve
        if short and not self._short:
            runs = f"{starts} booked {'run' if starts == 1 else 'runs'} within two days will take {bytes_text(room)}"
            self._tell(
                "warning",
                "disk",
                f"{bytes_text(free)} are free; {runs}, and {bytes_text(self._reserve)} are to stay free: make room",
            )
        elif self._short and not short:
            self._tell("info", "disk", f"there is room again: {bytes_text(free)} are free")
        self._short = short
