"""Gas: mass-flow controllers that settle, a chamber that fills and is pumped, a gauge."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from simulators.furnace import ROOM
from simulators.randomness import Stream

GAS_CONSTANT = 8.31446261815324
"""J/(mol K)."""
BOLTZMANN = 1.380649e-23
"""J/K."""


@dataclass
class FlowController:
    """A mass-flow controller.

    Attributes
    ----------
    full_scale : float, mol/s
    setpoint, flow : float, mol/s
        What was asked for, and what the sensor shows.
    gain, offset : float, float (mol/s)
        Error of calibration: what really flows is ``gain * flow + offset``, nothing where the valve is shut.
    time_constant : float, s
        First order: within ±2 % after 3.9 time constants.
    turndown : float
        Full scale over the smallest flow that can be controlled.
    """

    full_scale: float
    setpoint: float = 0.0
    flow: float = 0.0
    gain: float = 1.0
    offset: float = 0.0
    time_constant: float = 0.55
    turndown: float = 50.0
    noise: float = 2e-4
    """Of the readback, as a share of full scale."""

    @property
    def smallest(self) -> float:
        """Smallest flow above none, mol/s."""
        return self.full_scale / self.turndown

    def readback(self, stream: Stream, index: int) -> float:
        """Return what the controller shows at a moment of the grid, mol/s."""
        return self.flow + self.noise * self.full_scale * stream.normal(index) if self.flow > 0.0 else 0.0

    def step(self, seconds: float) -> float:
        """Go on by ``seconds`` and return the moles that really flowed."""
        if self.setpoint == 0.0 and self.flow == 0.0:
            return 0.0
        decay = math.exp(-seconds / self.time_constant)
        passed = self.setpoint * seconds + (self.flow - self.setpoint) * self.time_constant * (1.0 - decay)
        self.flow = self.setpoint + (self.flow - self.setpoint) * decay
        if self.setpoint == 0.0 and self.flow < 1e-4 * self.full_scale:
            self.flow = 0.0
        if passed <= 0.0:
            return 0.0
        opened = self.setpoint > 0.0
        return max(0.0, self.gain * passed + (self.offset * seconds if opened else 0.0))


@dataclass
class Chamber:
    """A pumped volume: V dp/dt = q R T − S (p − p_base), for each species.

    The pump is throttled so that 5 sccm of any gas settle at 17 Pa: S = 5 sccm · R · 298 K / 17 Pa = 0.54 L/s; with
    10 L that takes V/S = 18 s.

    Attributes
    ----------
    volume : float, m³
    pumping_speed : float, m³/s
    pressures : dict of species to float, Pa
    residual : mapping of species to float, Pa
        What outgassing leaves without any flow.
    """

    volume: float = 10e-3
    pumping_speed: float = 0.542e-3
    residual: Mapping[str, float] = field(default_factory=lambda: {"H2O": 5e-3})
    pressures: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for species, pressure in self.residual.items():
            self.pressures.setdefault(species, pressure)

    @property
    def pressure(self) -> float:
        """Total pressure, Pa."""
        return math.fsum(self.pressures.values())

    def step(self, seconds: float, moles: Mapping[str, float]) -> None:
        """Go on by ``seconds`` in which ``moles`` of each species came in, evenly; exact for a constant flow."""
        decay = math.exp(-seconds * self.pumping_speed / self.volume)
        for species in sorted(moles.keys() - self.pressures.keys()):
            self.pressures[species] = 0.0
        for species, pressure in self.pressures.items():
            flow = moles.get(species, 0.0) / seconds * GAS_CONSTANT * ROOM
            settled = self.residual.get(species, 0.0) + flow / self.pumping_speed
            self.pressures[species] = settled + (pressure - settled) * decay


SCATTERING = {"H2": 3.5e-22, "He": 3.0e-22, "N2": 3.1e-21, "O2": 3.4e-21, "H2O": 2.6e-21, "Ar": 4.2e-21}
"""Cross-section (m²) for an electron of 10 keV to leave the probe; taken as proportional to 1/E. Order of magnitude
after G. D. Danilatos, Adv. Electron. Electron Phys. 71 (1988) 109."""


def unscattered_share(pressures: Mapping[str, float], energy_kev: float, path: float) -> float:
    """Return the share of the probe that reaches the sample without meeting gas, exp(−Σ σ p L / kT).

    Parameters
    ----------
    pressures : mapping of species to float, Pa
    energy_kev : float, keV
    path : float, m
        Through gas: from the last aperture to the sample.
    """
    optical = sum(SCATTERING.get(species, 3e-21) * pressure for species, pressure in pressures.items())
    return math.exp(-optical * (10.0 / energy_kev) * path / (BOLTZMANN * ROOM))


def skirt_radius(number: float, energy_kev: float, pressure: float, path: float) -> float:
    """Return the radius (m) of the skirt of scattered electrons, 364 (Z/E)(p/T)^½ L^1.5 (m, eV, Pa, K; Danilatos).

    Examples
    --------
    >>> round(skirt_radius(8, 5.0, 17.0, 8e-3) * 1e6)
    100
    """
    return float(364.0 * number / (energy_kev * 1e3) * math.sqrt(pressure / ROOM) * path**1.5)
