"""An instrument on paper: the contract with limits and timing, and nothing behind it that moves."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from drivers.clock import RealClock
from drivers.contract import (
    Column,
    GasLine,
    Heater,
    Instrument,
    Limits,
    Parameter,
    PressureGauge,
    Readable,
    Scan,
    ScanTiming,
    SegmentedDetector,
    Stage,
)
from drivers.frame import Channel
from drivers.geometry import annular
from drivers.units import KEV

DESCRIPTION: Mapping[str, Any] = {
    "settings": {"chamber": {"volume": "10 l", "pumping_speed": "0.542 l/s"}},
    "heater": {"driver": "paper", "time_constant": "20 s"},
}
GASES: Mapping[str, tuple[float, bool]] = {"H2": (50.0, True), "O2": (20.0, True), "N2": (100.0, False)}


class Paper:
    """A figure that is what it was told to be."""

    def __init__(self, value: float) -> None:
        self.value = value

    def get(self) -> tuple[float, datetime]:
        return self.value, datetime.now(UTC)

    def put(self, value: float) -> None:
        self.value = value


class Switch:
    def __init__(self) -> None:
        self.on = True

    def get(self) -> bool:
        return self.on

    def put(self, on: bool) -> None:
        self.on = on


class NoScanner:
    """Nothing on paper takes a frame."""

    def arm(self, scan: Scan) -> None:
        raise AssertionError("a dry run must not touch the scanner")

    def acquire(self) -> tuple[NDArray[np.uint16], datetime]:
        raise AssertionError("a dry run must not touch the scanner")

    def stop(self) -> None:
        raise AssertionError("a dry run must not touch the scanner")


def _instrument(
    description: Mapping[str, Any] = DESCRIPTION,
    gases: Mapping[str, tuple[float, bool]] = GASES,
    timing: ScanTiming | None = None,
    segments: int = 4,
) -> Instrument:
    clock = RealClock()

    def make(name: str, unit: str, value: float, low: float = -math.inf, high: float = math.inf) -> Parameter:
        return Parameter(name, unit, Paper(value), clock, limits=Limits(low, high))

    column = Column(
        make("column.beam_energy", "keV", 5.0, 0.5, 30.0),
        make("column.probe_current", "nA", 1.0, 0.001, 100.0),
        make("column.working_distance", "mm", 8.0, 4.0, 20.0),
        make("column.focus", "mm", 8.0, 4.0, 20.0),
        *(make(f"column.stigmator_{axis}", "percent", 0.0, -100.0, 100.0) for axis in "xy"),
        *(make(f"column.beam_shift_{axis}", "um", 0.0, -15.0, 15.0) for axis in "xy"),
        Switch(),
    )
    geometry = annular(segments, 2e-3, 8e-3, 8e-3, threshold=KEV)
    detector = SegmentedDetector(
        geometry,
        {name: Channel(name) for name in geometry.names},
        {name: make(f"detector.{name}.contrast", "percent", 50.0, 0.0, 100.0) for name in geometry.names},
        {name: make(f"detector.{name}.brightness", "percent", 50.0, 0.0, 100.0) for name in geometry.names},
        NoScanner(),
        column,
        ScanTiming(line=1e-4, frame=0.2) if timing is None else timing,
    )
    stage = Stage(
        *(make(f"stage.{axis}", "mm", 0.0, -25.0, 25.0) for axis in "xyz"),
        make("stage.rotation", "deg", 0.0),
        make("stage.tilt", "deg", 0.0, -10.0, 10.0),
        lambda: None,
    )
    heater = Heater(
        make("heater.temperature", "K", 298.15, 273.0, 1273.0), make("heater.rate", "K/min", 20.0, 0.1, 100.0), 298.15
    )
    lines = {
        species: GasLine(species, make(f"gas.{species}.flow", "sccm", 0.0, 0.0, full_scale), reactive)
        for species, (full_scale, reactive) in gases.items()
    }
    gauge = PressureGauge(Readable("gauge.pressure", "Pa", Paper(0.0), clock))
    return Instrument("paper microscope", clock, column, detector, stage, heater, lines, gauge, description)


@pytest.fixture(scope="session")
def paper_instrument() -> Instrument:
    """Heater 273-1273 K at 0.1-100 K/min; H2, O2 and inert N2; four segments; 5 sccm settle at 17 Pa."""
    return _instrument()


@pytest.fixture(scope="session")
def make_paper_instrument() -> Callable[..., Instrument]:
    """Makes an instrument on paper with another description, other gases (full scale, reactive), timing or segments."""
    return _instrument
