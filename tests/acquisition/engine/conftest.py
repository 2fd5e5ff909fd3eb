"""A bench: an instrument whose devices obey at once, on a virtual clock, with a log and a store."""

import threading
from dataclasses import dataclass, field
from datetime import timedelta
from types import SimpleNamespace

import numpy as np
import pytest

from acquisition.actions import Configure, Imaging
from acquisition.feed import LiveFeed
from acquisition.log import Log
from acquisition.night import Night
from acquisition.resumption import enter_resumption, plan_resumption
from acquisition.store import Store
from drivers.clock import VirtualClock
from drivers.contract import (
    Column,
    GasLine,
    Heater,
    Instrument,
    Limits,
    Parameter,
    PressureGauge,
    Readable,
    ScanTiming,
    SegmentedDetector,
    Stage,
)
from drivers.errors import DeviceError
from drivers.frame import Channel
from drivers.geometry import annular
from drivers.units import quantity

SAFE_STATE = [
    {"blank": "beam", "within": "5 s"},
    {"heater": "25 degC", "within": "3 min"},
    {"close": "reactive", "within": "30 s"},
    {"close": "all", "within": "30 s"},
]


class Follows:
    """Goes where it is sent, at once or at a speed per second; can be made to fail."""

    def __init__(self, clock, value=0.0, speed=None, journal=None, name=""):
        self.clock, self.value, self.speed, self.name = clock, value, speed, name
        self.target, self.since = value, 0.0
        self.journal = journal if journal is not None else []
        self.fails = None

    def put(self, value):
        if self.fails is not None:
            raise self.fails
        self.value = self.get()[0]
        self.target, self.since = value, self.clock.monotonic()
        self.journal.append((self.clock.monotonic(), self.name, value))

    def get(self):
        if self.speed is None:
            return self.target, self.clock.now()
        reach = self.speed * (self.clock.monotonic() - self.since)
        return self.value + max(-reach, min(reach, self.target - self.value)), self.clock.now()


@dataclass
class Blanker:
    journal: list
    clock: VirtualClock
    closed: bool = False
    stuck: bool = False

    def put(self, on):
        if not self.stuck:
            self.closed = on
        self.journal.append((self.clock.monotonic(), "blank", on))

    def get(self):
        return self.closed


@dataclass
class Scanner:
    """Takes as long as the raster, and returns the number of the exposure in every pixel."""

    clock: VirtualClock
    blanker: Blanker
    taken: int = 0
    error: Exception | None = None
    sigma: float = 0.01
    scan: object = None
    stopped: bool = False
    during: object = None

    def arm(self, scan):
        self.scan, self.stopped = scan, False

    def acquire(self):
        began = self.clock.now()
        if self.during is not None:
            self.during(self.taken)
        self.clock.sleep(self.scan.rows * self.scan.columns * self.scan.dwell_time)
        if self.error is not None:
            raise self.error
        if self.stopped:
            raise DeviceError("the raster was stopped", "detector")
        self.taken += 1
        level = 100 if self.blanker.closed else 1000 + self.taken
        return np.full((4, self.scan.rows, self.scan.columns), level, np.uint16), began

    def stop(self):
        self.stopped = True


@dataclass
class FakeLive:
    """A reconstruction that answers when it is asked, with a coverage that grows from frame to frame."""

    capacity: int = 100
    offered: list = field(default_factory=list)
    waiting: list = field(default_factory=list)
    coverage: object = lambda frame_id: 0.1 * frame_id
    dead: bool = False
    error: Exception | None = None
    sigma: float = 0.01

    def offer(self, frame_id, frame, output):
        if len(self.waiting) >= self.capacity:
            return False
        self.offered.append(frame_id)
        self.waiting.append((frame_id, output))
        return True

    def collect(self, wait=0.0):
        if self.error is not None:
            raise self.error
        if self.dead:
            return []
        results = [
            SimpleNamespace(
                frame_id=frame_id,
                path=output,
                figures={"coverage": SimpleNamespace(value=self.coverage(frame_id), sigma=self.sigma, unit="")},
                error=None,
                seconds=0.1,
            )
            for frame_id, output in self.waiting
        ]
        self.waiting.clear()
        return results

    def close(self):
        self.waiting.clear()


class Bench:
    """What a test of the engine needs in one hand."""

    def __init__(self, log, store, clock=None, **description):
        self.log, self.store = log, store
        self.description = {"safe_state": SAFE_STATE, **description}
        self.clock = clock or VirtualClock()
        self.journal = []
        self.blanker = Blanker(self.journal, self.clock)
        self.scanner = Scanner(self.clock, self.blanker)
        self.backends = {}
        self.instrument = self._build()

    def parameter(self, name, unit, value=0.0, *, speed=None, limits=None, tolerance=1e-3):
        backend = Follows(self.clock, value, speed, self.journal, name)
        self.backends[name] = backend
        return Parameter(name, unit, backend, self.clock, limits=limits, tolerance=tolerance)

    def _build(self):
        make = self.parameter
        column = Column(
            make("column.beam_energy", "keV", 20.0),
            make("column.probe_current", "nA", 1.0),
            make("column.working_distance", "mm", 8.0),
            make("column.focus", "mm", 8.0),
            *(make(f"column.{name}", "percent") for name in ("stigmator_x", "stigmator_y")),
            *(make(f"column.{name}", "um") for name in ("beam_shift_x", "beam_shift_y")),
            self.blanker,
        )
        geometry = annular(4, 2e-3, 8e-3, 8e-3)
        names = geometry.names
        detector = SegmentedDetector(
            geometry,
            {name: Channel(name, gain=1.0) for name in names},
            {name: make(f"detector.{name}.contrast", "percent") for name in names},
            {name: make(f"detector.{name}.brightness", "percent") for name in names},
            self.scanner,
            column,
            ScanTiming(),
        )
        stage = Stage(
            *(make(f"stage.{axis}", "mm") for axis in "xyz"),
            make("stage.rotation", "deg"),
            make("stage.tilt", "deg"),
            lambda: None,
        )
        heater = Heater(
            make("heater.temperature", "K", 298.15, speed=10.0, limits=Limits(0, 1273.0), tolerance=2.0),
            make("heater.rate", "K/min", 10.0, limits=Limits(0, 1000.0)),
        )
        gases = {
            species: GasLine(species, make(f"gas.{species}.flow", "sccm", limits=Limits(0, 100)), reactive)
            for species, reactive in (("H2", True), ("N2", False), ("O2", True))
        }
        pressure = Readable("gauge.pressure", "Pa", Follows(self.clock, 1.0), self.clock)
        return Instrument(
            "bench", self.clock, column, detector, stage, heater, gases, PressureGauge(pressure),
            truth=lambda: {"coverage": quantity(0.5, "")}, description=self.description,
        )  # fmt: skip

    def night(self, actions, live=None, *, latency=2.0, capacity=8, period=10.0):
        run_id = self.log.create_run(
            name="bench", recipe_text="name: bench", recipe_name="bench.yaml",
            actions=[action.model_dump(mode="json") for action in actions], instrument_name="bench",
            instrument_description={}, limits={}, started=self.clock.now(), version="0",
        )  # fmt: skip
        feed = None if live is None else LiveFeed(live, self.clock, latency=latency, capacity=capacity, patience=3.0)
        return Night(self.instrument, self.log, self.store, run_id, actions, feed=feed, period=period)

    def resumed(self, run_id, actions, live=None, *, longest_outage=3600.0):
        """Return the night that goes on where a run was interrupted; the instrument is as that left it."""
        resumption = plan_resumption(self.log, run_id, actions, self.instrument, longest_outage)
        enter_resumption(self.log, run_id, resumption)
        feed = None if live is None else LiveFeed(live, self.clock, latency=2.0, capacity=8, patience=3.0)
        return Night(self.instrument, self.log, self.store, run_id, actions, feed=feed, resumption=resumption)

    def play(self, actions, live=None, *, while_running=None, **options):
        """Run to the end; return the outcome and the run's id."""
        night = self.night(actions, live, **options)
        night.start()
        if while_running is not None:
            while_running(night)
        assert night.wait(60), "the run does not end"
        return night.finish(), night.run_id

    def sent(self, name):
        """Return what was sent to a backend, in order."""
        return [value for _, channel, value in self.journal if channel == name]


@pytest.fixture
def bench(tmp_path):
    with Log.open(tmp_path / "rilievo.db") as log, Store(tmp_path / "runs") as store:
        yield Bench(log, store)
    stray = [thread.name for thread in threading.enumerate() if thread.name.startswith(("engine", "telemetry"))]
    assert stray == [], "a run left threads behind"


@pytest.fixture
def live():
    return FakeLive()


@pytest.fixture
def make_live():
    return FakeLive


@pytest.fixture
def configure():
    imaging = Imaging(
        beam_energy="5 keV", probe_current="1 nA", field_of_view="1 um", rows=8, columns=8, dwell_time="10 ms"
    )
    return Configure(address="imaging", imaging=imaging)


@pytest.fixture
def seconds():
    return lambda value: timedelta(seconds=value)
