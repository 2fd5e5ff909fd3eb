"""Hands without an engine: on the twin for the physics, on devices that obey at once for the logic."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from acquisition.actions import Imaging
from acquisition.hands import Latest
from drivers import document
from drivers.clock import VirtualClock
from drivers.contract import Column, Instrument, Limits, Parameter, Scan, ScanTiming, SegmentedDetector, Stage
from drivers.errors import DeviceTimeout
from drivers.frame import BeamSettings, Channel, Frame
from drivers.geometry import annular
from drivers.registry import Registry
from drivers.units import quantity, si

TWIN = Path(__file__).parents[3] / "simulators" / "twin.yaml"


@dataclass
class TestHands:
    """Hands whose acts are written down; frames come from ``picture`` where there is one, else from the instrument."""

    __test__ = False

    instrument: Any
    clock: Any
    scan: Scan | None = None
    picture: Callable[[Scan, bool], np.ndarray] | None = None
    sent: list[tuple[str, float]] = field(default_factory=list)
    told: list[tuple[str, str, str]] = field(default_factory=list)
    corrected: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    figures: dict[str, Latest] = field(default_factory=dict)
    results: dict[str, Any] = field(default_factory=dict)
    frames: dict[int, Frame] = field(default_factory=dict)
    addresses: dict[str, int] = field(default_factory=dict)
    exposed: int = 0
    stuck: set[str] = field(default_factory=set)
    meanwhile: Callable[[], None] = lambda: None
    away: set[str] = field(default_factory=set)

    def send(self, parameter: Parameter, value: Any) -> None:
        self.sent.append((parameter.name, si(value)))
        if parameter.name not in self.stuck:
            parameter.set(value)

    def wait(self, seconds: float) -> None:
        self.clock.sleep(seconds)
        self.meanwhile()

    def wait_arrived(self, parameters: Any, seconds: float) -> None:
        for parameter in parameters:
            if parameter.name in self.stuck:
                raise DeviceTimeout("it does not move", parameter.name)
        waited = 0.0
        while not all(parameter.arrived() for parameter in parameters):
            assert waited < seconds
            self.clock.sleep(0.1)
            waited += 0.1

    def expose(self, scan: Scan | None = None, *, beam: bool = True) -> Frame:
        self.exposed += 1
        raster = scan or self.scan
        assert raster is not None
        if self.picture is not None:
            counts = self.picture(raster, beam)
            geometry = annular(4, 2e-3, 8e-3, 8e-3)
            settings = BeamSettings(8e-16, raster.pixel_size, 1e-9, raster.dwell_time)
            channels = tuple(Channel(name) for name in geometry.names)
            return Frame(counts, geometry, settings, channels, self.clock.now(), not beam)
        column = self.instrument.column
        if beam:
            column.unblank()
        else:
            column.blank()
        try:
            return self.instrument.detector.acquire(raster)
        finally:
            column.blank()

    def keep(self, frame: Frame) -> None:
        self.frames[len(self.frames)] = frame

    def take(self, address: str) -> int:
        """Take and keep a frame, as an action with this address."""
        number = len(self.frames)
        self.keep(self.expose())
        self.addresses[address] = number
        return number

    def tell(self, level: str, kind: str, message: str, data: Any = None) -> None:
        self.told.append((level, kind, message))

    def correct(self, kind: str, data: Any) -> None:
        self.corrected.append((kind, dict(data)))

    def leave(self, *parameters: Parameter) -> None:
        self.away |= {parameter.name for parameter in parameters}

    def settled(self, *parameters: Parameter) -> None:
        self.away -= {parameter.name for parameter in parameters}

    def latest(self, figure: str) -> Latest | None:
        return self.figures.get(figure)

    def result(self, address: str) -> Any:
        return self.results.get(address)

    def taken(self, address: str) -> tuple[int, Frame] | None:
        number = self.addresses.get(address)
        return None if number is None else (number, self.frames[number])

    def frame(self, number: int) -> Frame:
        return self.frames[number]


@pytest.fixture
def make_twin() -> Iterator[Callable[..., TestHands]]:
    """Makes hands on a twin; ``change`` replaces pieces of its file's text."""
    opened: list[tuple[Instrument, Any]] = []

    def make(change: dict[str, str] | None = None, scan: Scan | None = None) -> TestHands:
        text = TWIN.read_text("utf-8")
        for old, new in (change or {}).items():
            assert old in text
            text = text.replace(old, new)
        clock = VirtualClock(datetime(2026, 1, 1, tzinfo=UTC))
        instrument = Registry.discover().instrument(document.parse(text, "twin.yaml"), clock)
        place = clock.register("test")
        place.__enter__()
        opened.append((instrument, place))
        instrument.column.blank()
        return TestHands(instrument, clock, scan)

    yield make
    for instrument, place in opened:
        place.__exit__(None, None, None)
        instrument.close()


class Obedient:
    """A figure that is at once what it was told to be; ``sees`` turns the setting into what is read."""

    def __init__(self, clock: VirtualClock, value: float) -> None:
        self.clock, self.value = clock, value
        self.sees: Callable[[float], float] = lambda value: value

    def get(self) -> tuple[float, datetime]:
        return self.sees(self.value), self.clock.now()

    def put(self, value: float) -> None:
        self.value = value


class Shutter:
    closed = True

    def put(self, on: bool) -> None:
        self.closed = on

    def get(self) -> bool:
        return self.closed


@pytest.fixture
def obedient() -> Iterator[TestHands]:
    """Hands on devices that obey at once; a test gives them a picture."""
    clock = VirtualClock(datetime(2026, 1, 1, tzinfo=UTC))
    backends: dict[str, Obedient] = {}

    def make(name: str, unit: str, value: float, low: float, high: float) -> Parameter:
        backends[name] = Obedient(clock, value)
        return Parameter(name, unit, backends[name], clock, limits=Limits(low, high), tolerance=1e-6)

    column = Column(
        make("column.beam_energy", "keV", 5.0, 0.5, 30.0),
        make("column.probe_current", "nA", 1.0, 0.001, 100.0),
        make("column.working_distance", "mm", 8.0, 4.0, 20.0),
        make("column.focus", "mm", 8.0, 4.0, 20.0),
        *(make(f"column.stigmator_{axis}", "percent", 0.0, -100.0, 100.0) for axis in "xy"),
        *(make(f"column.beam_shift_{axis}", "um", 0.0, -15.0, 15.0) for axis in "xy"),
        Shutter(),
    )
    geometry = annular(4, 2e-3, 8e-3, 8e-3)
    detector = SegmentedDetector(
        geometry,
        {name: Channel(name) for name in geometry.names},
        {name: make(f"detector.{name}.contrast", "percent", 50.0, 0.0, 100.0) for name in geometry.names},
        {name: make(f"detector.{name}.brightness", "percent", 50.0, 0.0, 100.0) for name in geometry.names},
        None,  # type: ignore[arg-type]  pictures come from the test
        column,
        ScanTiming(),
    )
    stage = Stage(
        *(make(f"stage.{axis}", "mm", 0.0, -25.0, 25.0) for axis in "xyz"),
        *(make(f"stage.{axis}", "deg", 0.0, -10.0, 10.0) for axis in ("rotation", "tilt")),
        lambda: None,
    )
    instrument = Instrument("obedient", clock, column, detector, stage, None, {}, None)  # type: ignore[arg-type]
    with clock.register("test"):
        hands = TestHands(instrument, clock)
        hands.backends = backends  # type: ignore[attr-defined]
        yield hands


@pytest.fixture
def look() -> Imaging:
    """Frames of adjustments: 128² over 5 µm, 82 ms."""
    return Imaging(
        beam_energy="5 keV", probe_current="1 nA", field_of_view="5 um", rows=128, columns=128, dwell_time="5 us"
    )


@pytest.fixture
def nm() -> Callable[[float], Any]:
    return lambda value: quantity(value, "nm")
