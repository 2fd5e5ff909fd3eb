"""A server with a desk: real calendar, log and store; runs and instrument on paper."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from acquisition.access import Person, Role
from acquisition.bookings import Booking
from acquisition.control import Control
from acquisition.desk import Desk
from acquisition.gate import Gate
from acquisition.idle import IdleWatch
from acquisition.instruments import Instruments
from acquisition.log import Log
from acquisition.progress import Outcome
from acquisition.remote import Remote, connect
from acquisition.seat import Seat
from acquisition.serve import Server, ServerSettings
from acquisition.states import State
from acquisition.store import Store
from drivers.clock import RealClock
from drivers.contract import Instrument
from drivers.frame import BeamSettings, Channel, Frame, Reading
from drivers.geometry import annular
from drivers.units import KEV, quantity

QUICK = ServerSettings(tick=0.005, reserve=1.0)
DESCRIPTION = {
    "settings": {"chamber": {"volume": "10 l", "pumping_speed": "0.542 l/s"}},
    "heater": {"driver": "paper", "time_constant": "20 s"},
    "safe_state": [{"blank": "beam", "within": "1 s"}],
    "interlocks": [{"when": "heater above 900 K for 60 s", "then": "safe"}],
}
RECIPE = """\
name: short
imaging: {beam_energy: 5 keV, probe_current: 1 nA, field_of_view: 10 um, pixels: 64, dwell_time: 1 us}
steps:
  - series: {every: 10 s, for: 20 s}
"""


class PaperRun:
    """A run on paper: it lasts until somebody ends it, and writes down what was asked of it."""

    def __init__(self, run_id: str, log: Log, clock: RealClock) -> None:
        self.run_id = run_id
        self.asked: list[str] = []
        self.engine = self
        now = datetime.now(UTC)
        self.telemetry = SimpleNamespace(latest={"heater.temperature": Reading(quantity(873.15, "K"), now)})
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
        self.asked.append(f"stop: {reason}")
        self.end("stopped", reason)

    def abort(self, reason: str = "") -> None:
        self.asked.append(f"abort: {reason}")
        self.end("stopped", reason)

    def make_safe(self, reason: str) -> None:
        self.asked.append(f"safe: {reason}")
        self.end("safe", reason)

    def wait(self, seconds: float) -> bool:
        return self._over.wait(seconds)

    def finish(self) -> Outcome:
        self._over.wait(10)
        assert self._outcome is not None
        return self._outcome


def a_frame(size: int = 64, value: int = 1000) -> Frame:
    geometry = annular(4, 2e-3, 8e-3, 8e-3, threshold=KEV)
    counts = np.arange(4 * size * size, dtype=np.uint16).reshape(4, size, size) + np.uint16(value)
    beam = BeamSettings(beam_energy=5 * KEV, pixel_size=1e-8, probe_current=1e-9, dwell_time=1e-6)
    channels = tuple(Channel(name) for name in geometry.names)
    return Frame(counts, geometry, beam, channels, datetime(2026, 1, 1, tzinfo=UTC))


@dataclass
class House:
    """A server with its desk, and what is played on it."""

    folder: Path
    log: Log
    store: Store
    instrument: Instrument
    clock: RealClock = field(default_factory=RealClock)
    runs: list[PaperRun] = field(default_factory=list)
    hold: bool = False
    lease: float = 15.0

    def __post_init__(self) -> None:
        name, root = self.instrument.name, self.store.root
        idle = IdleWatch(name, self._open, self.log, root, self.clock, 60.0) if self.hold else None
        self.server = Server(self.folder, self.log, self.play, idle=idle, settings=QUICK, clock=self.clock)
        instruments = Instruments(lambda _: self._open())
        self.desk = Desk(self, self.server, instruments, clock=self.clock, control=Control(self.clock, self.lease))  # type: ignore[arg-type]
        self.server.start()
        self.desk.start()
        self._end = threading.Event()
        self._thread = threading.Thread(
            target=self.server.run, args=(lambda: "over" if self._end.is_set() else None,), kwargs={"stop_runs": True}
        )
        self._thread.start()

    @contextmanager
    def _open(self) -> Iterator[Instrument]:
        yield self.instrument

    @contextmanager
    def play(self, booking: Booking) -> Iterator[PaperRun]:
        run = PaperRun(self.enter(f"night {booking.id}"), self.log, self.clock)
        self.runs.append(run)
        yield run

    def enter(self, name: str = "paper") -> str:
        return self.log.create_run(
            name=name,
            recipe_text=RECIPE,
            recipe_name="short.yaml",
            actions=[],
            instrument_name="paper microscope",
            instrument_description={},
            limits={},
            started=self.clock.now(),
            version="0",
        )

    def add_frame(self, run_id: str, number: int, frame: Frame | None = None) -> None:
        frame = a_frame() if frame is None else frame
        self.log.frame(run_id, number, None, frame, self.store.append(run_id, number, frame))

    def person(self, role: Role = Role.OPERATOR, name: str = "maria") -> Person:
        return Person(name, role, "here", "test", f"session of {name}")

    def seat(self, role: Role = Role.OPERATOR, name: str = "maria") -> Seat:
        return self.desk.seat(self.person(role, name))

    def audited(self) -> list[Mapping[str, Any]]:
        return [event.data or {} for event in self.log.events(None) if event.kind == "audit"]

    def until(self, condition: Callable[[], object], seconds: float = 10.0) -> None:
        end = self.clock.now() + timedelta(seconds=seconds)
        while not condition():
            assert self.clock.now() < end, "it did not come"
            self.clock.sleep(0.002)

    def playing(self) -> PaperRun:
        """Start a run and return it once it plays."""
        seat = self.seat(name="starter")
        seat.take_control()
        seat.start(RECIPE)
        seat.release_control()
        self.until(lambda: self.server.playing)
        return self.runs[-1]

    def close(self) -> None:
        self._end.set()
        self.server.look_soon()
        self.desk.close()
        self._thread.join(10)
        self.server.close()


@pytest.fixture
def make_house(tmp_path: Path, make_paper_instrument: Callable[..., Instrument]) -> Iterator[Callable[..., House]]:
    """Makes a server with a desk; ``hold`` the instrument between runs, a ``lease`` of so many seconds."""
    houses: list[House] = []

    def make(**more: Any) -> House:
        folder = tmp_path / f"house{len(houses)}"
        folder.mkdir()
        log, store = Log.open(folder / "rilievo.db"), Store(folder / "runs")
        houses.append(House(folder, log, store, make_paper_instrument(DESCRIPTION), **more))
        return houses[-1]

    yield make
    for house in houses:
        house.close()
        house.store.close()
        house.log.close()


@pytest.fixture
def house(make_house: Callable[..., House]) -> House:
    return make_house()


@pytest.fixture
def make_gate(house: House) -> Iterator[Callable[..., Gate]]:
    """Opens a gate of the house on a free port of loopback; ``bounds`` and ``authority`` as the gate's."""
    gates: list[Gate] = []

    def make(**more: Any) -> Gate:
        gates.append(Gate(house.desk, "127.0.0.1", 0, **more))
        gates[-1].start()
        return gates[-1]

    yield make
    house.desk.close()
    for gate in gates:
        gate.close()


@pytest.fixture
def gate(make_gate: Callable[..., Gate]) -> Gate:
    return make_gate()


@pytest.fixture
def make_remote(house: House) -> Iterator[Callable[..., Remote]]:
    """Connects to the house's gate; ``role`` and ``name``, and what else :func:`connect` takes."""
    made: list[Remote] = []

    def make(**more: Any) -> Remote:
        given = {"data": house.folder, "timeout": 10.0, "patience": 5.0, "name": "maria", **more}
        made.append(connect(given.pop("address", None), **given))
        return made[-1]

    yield make
    for remote in made:
        remote.close()
