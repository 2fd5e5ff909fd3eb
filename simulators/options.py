"""What an instrument's file may say about the twin, with the defaults."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from drivers.document import Strict
from drivers.registry import SegmentFile
from drivers.units import (
    Angle,
    Current,
    Dimension,
    Duration,
    Energy,
    Flow,
    Length,
    Pressure,
    Q,
    RampRate,
    Temperature,
    TemperatureDifference,
    parse_quantity,
)
from simulators.faults import Fault

Volume = Annotated[Q, Dimension("m**3")]
PumpingSpeed = Annotated[Q, Dimension("m**3/s")]
Speed = Annotated[Q, Dimension("m/s")]
Expansion = Annotated[Q, Dimension("m/K")]
Share = Annotated[Q, Dimension("")]


def _q(text: str) -> Q:
    return parse_quantity(text)


class SpecimenOptions(Strict):
    """The specimen: its own seed (the world's unless given) and the edge of its periodic square."""

    seed: int | None = Field(default=None, ge=0)
    extent: Length = _q("30 um")


class ChamberOptions(Strict):
    """The chamber: its volume, the throttled pump, and the probe's way through gas."""

    volume: Volume = _q("10 l")
    pumping_speed: PumpingSpeed = _q("0.542 l/s")
    gas_path: Length = _q("5 mm")


class DriftOptions(Strict):
    """Drift of the sample under the beam: how fast it wanders, and how far it moves as the stage warms."""

    speed: Speed = _q("3 nm/min")
    expansion: tuple[Expansion, Expansion, Expansion] = (_q("5 nm/K"), _q("-3 nm/K"), _q("2 nm/K"))


class WorldOptions(Strict):
    """``settings`` of the instrument's file: the simulated world as a whole, and what goes wrong with its devices.

    ``faults`` is a list as :mod:`simulators.faults` explains it; those of the disk are left to whoever writes.
    """

    seed: int = Field(default=1, ge=0)
    specimen: SpecimenOptions = SpecimenOptions()
    chamber: ChamberOptions = ChamberOptions()
    drift: DriftOptions = DriftOptions()
    faults: tuple[Fault, ...] = ()


class ColumnOptions(Strict):
    """The column: where it stands at first, its limits, and its probe."""

    beam_energy: Energy = _q("5 keV")
    lowest_energy: Energy = _q("1 keV")
    highest_energy: Energy = _q("30 keV")
    probe_current: Current = _q("1 nA")
    highest_current: Current = _q("100 nA")
    working_distance: Length = _q("8 mm")
    shortest_distance: Length = _q("4 mm")
    longest_distance: Length = _q("20 mm")
    probe_diameter: Length = _q("3 nm")
    convergence: Angle = _q("5 mrad")
    beam_shift: Length = _q("15 um")
    astigmatism: tuple[float, float] = (0.0, 0.0)


class DetectorOptions(Strict):
    """The segmented detector: its electrodes, its electronics, and how far the two differ from what is said here."""

    segments: tuple[SegmentFile, ...] = Field(min_length=1, max_length=64)
    threshold: Energy = _q("1 keV")
    rotation: Angle | None = None
    centre_offset: tuple[Length, Length] | None = None
    contrast: Share = _q("50 %")
    brightness: Share = _q("50 %")
    gain: float = Field(default=4.0, gt=0, description="ADU/keV at half contrast")
    offset: float = Field(default=2000.0, ge=0, description="ADU at full brightness")
    read_noise: float = Field(default=12.0, gt=0, description="ADU")
    gain_spread: Share = _q("3 %")
    offset_spread: float = Field(default=60.0, ge=0, description="ADU")
    glow: float = Field(default=1.2e7, ge=0, description="keV/s that a stage at 1000 K shines into each segment")
    line: Duration = _q("0.1 ms")
    frame: Duration = _q("0.2 s")
    distortion: Share = _q("0.1 %")


class StageOptions(Strict):
    """The stage: its limits."""

    travel: Length = _q("25 mm")
    lift: Length = _q("4 mm")
    tilt: Angle = _q("10 deg")


class HeaterOptions(Strict):
    """The heater: its limits, where it stands at first, and its lag."""

    highest: Temperature = _q("1273 K")
    lowest: Temperature = _q("273 K")
    rate: RampRate = _q("20 K/min")
    highest_rate: RampRate = _q("100 K/min")
    start: Temperature = _q("25 degC")
    idle: Temperature = _q("25 degC")
    time_constant: Duration = _q("20 s")
    sample_time_constant: Duration = _q("5 s")
    noise: TemperatureDifference = _q("0.05 delta_degC")
    tolerance: TemperatureDifference = _q("1 delta_degC")


class GasOptions(Strict):
    """A gas line."""

    full_scale: Flow
    reactive: bool = True
    reading_error: Share = _q("0.5 %")
    full_scale_error: Share = _q("0.1 %")
    turndown: float = Field(default=50.0, gt=1)


class GaugeOptions(Strict):
    """The chamber's gauge."""

    reading_noise: Share = _q("0.25 %")
    floor_noise: Pressure = _q("5 mPa")
