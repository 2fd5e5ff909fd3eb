"""An instrument of plain backends that can be read, pushed about, and made to fail or hang, on either clock."""

import threading
from dataclasses import dataclass, field
from datetime import timedelta

import pytest

from drivers.clock import RealClock, VirtualClock
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
from drivers.document import parse
from drivers.errors import DeviceTimeout
from drivers.frame import Channel
from drivers.geometry import annular


class Backend:
    """Goes where it is sent, at once or at a speed (unit/s); answers late, wrongly or never where told to."""

    def __init__(self, clock, value=0.0, speed=None):
        self.clock, self.speed = clock, speed
        self.start, self.target, self.since = value, value, clock.monotonic()
        self.sent = []
        self.fails = 0
        """How many calls fail from now on."""
        self.reads_wrong = None
        """A function that is asked for the readback instead."""
        self.hang = None
        """A function that is called before anything else happens."""
        self.stuck = False
        self.lag = 0.0
        self.reads = 0

    def _before(self):
        if self.hang is not None:
            self.hang()
        if self.fails:
            self.fails -= 1
            raise DeviceTimeout("no answer", "bench")

    def put(self, value):
        self._before()
        self.sent.append(value)
        if not self.stuck:
            self.start, self.since = self.now(), self.clock.monotonic()
            self.target = value

    def now(self):
        if self.speed is None:
            return self.target
        reach = self.speed * (self.clock.monotonic() - self.since)
        return self.start + max(-reach, min(reach, self.target - self.start))

    def get(self):
        self._before()
        self.reads += 1
        value = self.now() if self.reads_wrong is None else self.reads_wrong()
        return value, self.clock.now() - timedelta(seconds=self.lag)

    def jump(self, value):
        self.start = self.target = value


class Blanker:
    def __init__(self):
        self.on, self.stuck, self.hang, self.sent = False, False, None, []

    def put(self, on):
        if self.hang is not None:
            self.hang()
        self.sent.append(on)
        if not self.stuck:
            self.on = on

    def get(self):
        return self.on


class NoScanner:
    def arm(self, scan): ...

    def acquire(self):
        raise AssertionError("no frame is taken here")

    def stop(self): ...


@dataclass
class Bench:
    """An instrument, its backends by channel, and its clock."""

    clock: object
    text: str = "name: bench\n"
    backends: dict = field(default_factory=dict)
    blanker: Blanker = field(default_factory=Blanker)

    def __post_init__(self):
        make = self.parameter
        column = Column(
            make("column.beam_energy", "keV", 5.0),
            make("column.probe_current", "nA", 1.0),
            make("column.working_distance", "mm", 8.0),
            make("column.focus", "mm", 8.0),
            *(make(f"column.{name}", "percent") for name in ("stigmator_x", "stigmator_y")),
            *(make(f"column.{name}", "um") for name in ("beam_shift_x", "beam_shift_y")),
            self.blanker,
        )
        geometry = annular(4, 2e-3, 8e-3, 8e-3)
        detector = SegmentedDetector(
            geometry,
            {name: Channel(name) for name in geometry.names},
            {name: make(f"detector.{name}.contrast", "percent") for name in geometry.names},
            {name: make(f"detector.{name}.brightness", "percent") for name in geometry.names},
            NoScanner(),
            column,
            ScanTiming(),
        )
        stage = Stage(
            *(make(f"stage.{axis}", "mm") for axis in "xyz"), make("stage.rotation", "deg"),
            make("stage.tilt", "deg"), lambda: None,
        )  # fmt: skip
        heater = Heater(
            make("heater.temperature", "K", 298.15, speed=1.0, limits=Limits(273, 1273), tolerance=1.0),
            make("heater.rate", "K/min", 20.0, limits=Limits(0.1, 100)),
        )
        gases = {
            species: GasLine(
                species, make(f"gases.{species}.flow", "sccm", limits=Limits(0, 100), tolerance=1.0), reactive
            )
            for species, reactive in (("H2", True), ("O2", True), ("N2", False), ("Ar", False))
        }
        gauge = PressureGauge(self.readable("gauge.pressure", "Pa", 20.0))
        source = parse(self.text, "bench.yaml")
        self.instrument = Instrument(
            "bench", self.clock, column, detector, stage, heater, gases, gauge, source.data, source=source
        )

    def parameter(self, name, unit, value=0.0, *, speed=None, limits=None, tolerance=1e-3):
        self.backends[name] = Backend(self.clock, value, speed)
        return Parameter(name, unit, self.backends[name], self.clock, limits=limits, tolerance=tolerance)

    def readable(self, name, unit, value):
        self.backends[name] = Backend(self.clock, value)
        return Readable(name, unit, self.backends[name], self.clock)

    @property
    def heater(self):
        return self.backends["heater.temperature"]

    @property
    def pressure(self):
        return self.backends["gauge.pressure"]

    def flow(self, species):
        return self.backends[f"gases.{species}.flow"]


@pytest.fixture
def virtual():
    return lambda text="name: bench\n": Bench(VirtualClock(), text)


@pytest.fixture
def real():
    return lambda text="name: bench\n": Bench(RealClock(), text)


@pytest.fixture
def on_clock():
    """Runs a function in a thread that is registered on a clock, and returns what it returned."""

    def run(clock, work, *, wait=20):
        got = []
        place = clock.register("test")

        def inside():
            with place:
                got.append(work())

        thread = threading.Thread(target=inside, name="test", daemon=True)
        thread.start()
        thread.join(wait)
        assert not thread.is_alive(), "it does not end"
        assert got, "it raised"
        return got[0]

    return run
