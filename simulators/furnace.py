"""The heated stage: a controller that moves its working setpoint, a sensor that lags, a cooler sample."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from simulators.randomness import Stream

ROOM = 298.15
"""K."""

CONDUCTIVITY = {"H2": 1.0, "He": 0.83, "O2": 0.15, "N2": 0.14, "H2O": 0.10, "Ar": 0.10, "CO": 0.14, "CO2": 0.09}
"""Thermal conductivity of a gas over that of hydrogen."""
_OTHER = 0.14


@dataclass
class Furnace:
    """A resistive stage.

    In gas the sample loses heat that the sensor, embedded in the heater, does not feel. The deficit is taken as
    proportional to the temperature above the room's, and to how well the gas conducts: fully above some 100 Pa, in
    proportion to the pressure below (transition to free molecules). Its scale is set by 60 K in 3 mbar of hydrogen
    at 900 °C.

    Attributes
    ----------
    time_constant : float, s
        Of the sensor behind the working setpoint.
    sample_time_constant : float, s
        Of the sample behind the sensor.
    target : float, K
        Where the working setpoint goes.
    rate : float, K/s
        How fast it goes.
    working, sensor, sample : float, K
    noise : float, K
        Standard deviation of the sensor's readback.
    """

    time_constant: float = 20.0
    sample_time_constant: float = 5.0
    target: float = ROOM
    rate: float = 20.0 / 60.0
    working: float = ROOM
    sensor: float = ROOM
    sample: float = ROOM
    noise: float = 0.05
    vacuum_deficit: float = 0.004
    gas_deficit: float = (60.0 / 875.0 - 0.004) / 0.75
    """So that 300 Pa of hydrogen, of which 300/(300 + 100) counts, make 60 K at 1173 K."""
    half_pressure: float = 100.0

    def deficit(self, sensor: float, pressures: Mapping[str, float]) -> float:
        """Return how much cooler (K) the sample becomes than a sensor at ``sensor`` (K) in gas (Pa by species)."""
        total = sum(pressures.values())
        conducting = sum(CONDUCTIVITY.get(species, _OTHER) * pressure for species, pressure in pressures.items())
        share = self.vacuum_deficit + self.gas_deficit * conducting / (total + self.half_pressure)
        return (sensor - ROOM) * share

    def step(self, seconds: float, pressures: Mapping[str, float]) -> None:
        """Go on by ``seconds`` with constant pressures (Pa by species); exact for a linear ramp."""
        move = min(self.rate * seconds, abs(self.target - self.working))
        slope = math.copysign(move, self.target - self.working) / seconds
        start, self.working = self.working, self.working + slope * seconds
        if abs(self.target - self.working) < 1e-9:
            self.working = self.target
        decay = math.exp(-seconds / self.time_constant)
        lag = slope * self.time_constant
        self.sensor = self.working - lag + (self.sensor - start + lag) * decay
        aim = self.sensor - self.deficit(self.sensor, pressures)
        self.sample = aim + (self.sample - aim) * math.exp(-seconds / self.sample_time_constant)

    def readback(self, stream: Stream, index: int) -> float:
        """Return what the sensor shows at a moment of the grid, K."""
        return self.sensor + self.noise * stream.normal(index)
