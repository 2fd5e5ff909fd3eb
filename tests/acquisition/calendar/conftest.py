"""A server whose runs are played on paper: real calendar, real queue, real database."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from acquisition.bookings import Booking, Bookings
from acquisition.log import Log
from acquisition.ownership import Owned
from acquisition.progress import Outcome
from acquisition.serve import Server, ServerSettings
from acquisition.states import State
from acquisition.triggers import At
from drivers.clock import RealClock
from drivers.errors import LimitError

QUICK = ServerSettings(tick=0.005, reserve=1.0)


class Run:
    """A run on paper: it lasts until somebody ends it, and writes down what was asked of it."""

    def __init__(self, run_id: str, log: Log, clock: RealClock) -> None:
        self.run_id = run_id
        self.asked: list[str] = []
        self.engine = self
        self.finished = False
        self._log, self._clock = log, clock
        self._outcome: Outcome | None = None
        self._over = threading.Event()
        log.set_state(run_id, "running", clock.now())

    def end(self, state: str = "finished", reason: str = "") -> None:
        self._outcome = Outcome(State(state), reason)
        self._log.set_state(self.run_id, "stopping", self._clock.now())
        self._log.set_state(self.run_id, state, self._clock.now(), reason)
        self._over.set()

    def pause(self) -> None:
        self.asked.append("pause")

    def resume(self) -> None:
        self.asked.append("resume")

    def stop(self, reason: str = "") -> None:
        self.asked.append(f"stop {reason}")
        self.end("stopped", reason)

    def abort(self, reason: str = "") -> None:
        self.asked.append(f"abort {reason}")
        self.end("stopped", reason)

    def make_safe(self, reason: str) -> None:
        self.asked.append(f"safe {reason}")
        self.end("safe", reason)

    def wait(self, seconds: float) -> bool:
        return self._over.wait(seconds)

    def finish(self) -> Outcome:
        assert self._over.wait(10)
        assert not self.finished, "a run is finished once"
        assert self._outcome is not None
        self.finished = True
        return self._outcome


def enter_run(log: Log, now: datetime, name: str = "paper", recipe: str = "") -> str:
    return log.create_run(
        name=name,
        recipe_text=recipe,
        recipe_name="paper.yaml",
        actions=[],
        instrument_name="paper",
        instrument_description={},
        limits={},
        started=now,
        version="0",
    )


@dataclass
class Theatre:
    """The server's surroundings: what it plays, and what was played."""

    folder: Path
    log: Log
    clock: RealClock = field(default_factory=RealClock)
    runs: list[Run] = field(default_factory=list)
    played: list[int] = field(default_factory=list)
    settled: list[str] = field(default_factory=list)
    instant: bool = False
    refuse: dict[int, Exception] = field(default_factory=dict)
    _names: Any = field(default_factory=count)
    servers: list[Server] = field(default_factory=list)

    @contextmanager
    def play(self, booking: Booking) -> Iterator[Run]:
        self.played.append(booking.id)
        if booking.id in self.refuse:
            error = self.refuse[booking.id]
            if isinstance(error, Owned):
                del self.refuse[booking.id]
            raise error
        run = Run(enter_run(self.log, self.clock.now(), f"night {booking.id}"), self.log, self.clock)
        self.runs.append(run)
        if self.instant:
            run.end()
        yield run
        self.settled.append(run.run_id)

    def enter(self, name: str = "paper", recipe: str = "") -> str:
        """Enter a run that nothing plays."""
        return enter_run(self.log, self.clock.now(), name, recipe)

    @contextmanager
    def resumed(self, run_id: str) -> Iterator[Run]:
        """Play a run that was interrupted to its end."""
        run = Run(run_id, self.log, self.clock)
        self.runs.append(run)
        yield run
        self.settled.append(run_id)

    @property
    def bookings(self) -> Bookings:
        return Bookings(self.log)

    def book(self, seconds: float = 0.0, **more: Any) -> Booking:
        now = self.clock.now()
        given = {
            "recipe_name": "paper.yaml",
            "recipe_text": "",
            "instrument": "paper",
            "instrument_text": None,
            "options": {},
            "trigger": At(now + timedelta(seconds=seconds), "UTC"),
            "priority": 0,
            "missed": "within 1 h",
            "now": min(now, now + timedelta(seconds=seconds)) - timedelta(seconds=1),
        }
        return self.bookings.add(**{**given, **more})

    def server(self, **more: Any) -> Server:
        made = Server(self.folder, self.log, self.play, settings=more.pop("settings", QUICK), clock=self.clock, **more)
        self.servers.append(made)
        made.start()
        return made

    def until(self, server: Server, condition: Any, seconds: float = 5.0) -> None:
        end = self.clock.monotonic() + seconds
        while not condition():
            server.look()
            assert server.wrong() is None
            assert self.clock.monotonic() < end, "waited in vain"
            self.clock.sleep(0.003)

    def state(self, booking: Booking) -> str:
        return self.bookings.get(booking.id).state

    def told(self, kind: str) -> list[str]:
        return [event.message for event in self.log.events(None) if event.kind == kind]


@pytest.fixture
def theatre(tmp_path: Path) -> Iterator[Theatre]:
    with Log.open(tmp_path / "rilievo.db") as log:
        made = Theatre(tmp_path, log)
        yield made
        for server in made.servers:
            server.close()


@pytest.fixture
def too_hot() -> LimitError:
    return LimitError("1500 K is above the heater's limit of 1273 K")
