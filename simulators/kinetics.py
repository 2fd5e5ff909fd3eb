"""Rates of oxidation, reduction and smoothing on copper: Arrhenius in temperature, power laws in pressure.

The defaults, with what is known of their origin, stand in ``kinetics.yaml`` beside this file; a file of the same form
replaces them.
"""

from __future__ import annotations

import math
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

from pydantic import Field, field_validator

from drivers import document
from drivers.errors import InputError
from drivers.units import (
    Angle,
    Dimension,
    Length,
    Pressure,
    Q,
    Temperature,
    TemperatureDifference,
    format_quantity,
    si,
)

GAS_CONSTANT = 8.31446261815324
"""J/(mol K), exact (SI 2019)."""

MolarEnergy: TypeAlias = Annotated[Q, Dimension("J/mol")]
Frequency: TypeAlias = Annotated[Q, Dimension("1/s")]
Speed: TypeAlias = Annotated[Q, Dimension("m/s")]
ParabolicRate: TypeAlias = Annotated[Q, Dimension("m**2/s")]
Density: TypeAlias = Annotated[Q, Dimension("1/m**2")]

ORIENTATIONS = ("100", "110", "111")
"""The low-index poles by which a grain's kinetics are looked up."""


class Conditions(document.Strict):
    """The temperature and partial pressure at which a law takes its stated value."""

    temperature: Temperature
    pressure: Pressure


class Law(document.Strict):
    """A rate: value at the reference, activation energy, exponent of the partial pressure, and where they come from.

    Attributes
    ----------
    value : quantity
        In the unit of the rate.
    activation_energy : quantity, J/mol
    pressure_exponent : float
    source : str
    """

    value: Q
    activation_energy: MolarEnergy
    pressure_exponent: float = Field(default=0.0, ge=0, le=3, allow_inf_nan=False)
    source: str = ""

    @field_validator("value", check_fields=False)
    @classmethod
    def _not_negative(cls, value: Q) -> Q:
        if not (math.isfinite(value.magnitude) and value.magnitude >= 0):
            raise ValueError(f"expected a value of 0 or more; got {format_quantity(value)}")
        return value

    @cached_property
    def at_reference(self) -> float:
        """Value at the reference, SI."""
        return si(self.value)

    @cached_property
    def energy(self) -> float:
        """Activation energy, J/mol."""
        return si(self.activation_energy)

    def at(self, temperature: float, pressure: float, reference: tuple[float, float]) -> float:
        """Return the rate in SI units.

        Parameters
        ----------
        temperature : float, K
        pressure : float, Pa
            Partial pressure of the reacting gas.
        reference : (float, float), K and Pa
        """
        if pressure <= 0 and self.pressure_exponent > 0:
            return 0.0
        boltzmann = math.exp(-self.energy / GAS_CONSTANT * (1 / temperature - 1 / reference[0]))
        power: float = (pressure / reference[1]) ** self.pressure_exponent if self.pressure_exponent else 1.0
        return self.at_reference * boltzmann * power


class _Frequency(Law):
    value: Frequency


class _Speed(Law):
    value: Speed


class _Parabolic(Law):
    value: ParabolicRate


class _Density(Law):
    value: Density


Share = Field(ge=0, lt=1, allow_inf_nan=False)
Factor = Field(gt=0, le=100, allow_inf_nan=False)


class Oxidation(document.Strict):
    """Nucleation and growth of Cu2O islands in O2."""

    induction: _Frequency
    nucleation: _Frequency
    saturation_density: _Density
    largest_density: Density
    lateral_growth: _Speed
    thickening: _Parabolic
    spread: float = Field(ge=0, le=0.2)
    thickness_spread: float = Field(ge=0, le=0.3)


class Reduction(document.Strict):
    """Nucleation and spreading of copper on the oxide in H2."""

    induction: _Frequency
    nucleation: _Frequency
    saturation_density: Density
    front: _Speed
    depth_share: float = Factor
    porosity: float = Share
    front_roughness: Length


class Orientation(document.Strict):
    """How islands differ on grains of one orientation; factors multiply the laws."""

    shape: Literal["square", "elongated", "triangle"]
    density: float = Factor
    nucleation: float = Factor
    lateral: float = Factor
    thickness: float = Factor
    facet_angle: Angle


class Elongation(document.Strict):
    """Aspect ratio of edge speeds of elongated islands, and the temperature about which it sets in."""

    aspect: float = Field(ge=1, le=10)
    above: Temperature
    width: TemperatureDifference


class Film(document.Strict):
    """Volume and relief of the oxide."""

    pilling_bedworth: float = Field(gt=1, le=3)
    groove: float = Share
    groove_width: Length


class Copper(document.Strict):
    """Relief of the annealed metal."""

    grain_size: Length
    level: Length
    step_height: Length
    terrace_width: Length
    undulation: Length
    groove_depth: Length
    groove_width: Length
    pore_length: Length


class Rates:
    """All rates at one temperature and one gas; SI.

    Where both gases are present, the faster of the two fronts acts, slowed by the share of the slower one.

    Attributes
    ----------
    oxidising, reducing : float
        Share of the oxidation's and the reduction's rates that act, 0…1; one of them is 0.
    oxide_induction, oxide_nucleation, metal_induction, metal_nucleation : float, 1/s
    density : float, 1/m²
        Saturation density of oxide nuclei.
    growth, elongated, front : float, m/s
        Speed of an island's edge, of the fast edges of elongated islands, of the reduction's front.
    thickening : float, m²/s
    smoothing : float, 1/s
    """

    def __init__(self, kinetics: Kinetics, temperature: float, oxygen: float, hydrogen: float) -> None:
        reference = kinetics.reference_point
        oxidation, reduction = kinetics.oxidation, kinetics.reduction
        growth = oxidation.lateral_growth.at(temperature, oxygen, reference)
        front = reduction.front.at(temperature, hydrogen, reference)
        self.oxidising = max(0.0, 1 - front / growth) if growth > 0 else 0.0
        self.reducing = max(0.0, 1 - growth / front) if front > 0 else 0.0
        self.oxide_induction = oxidation.induction.at(temperature, oxygen, reference) * self.oxidising
        self.oxide_nucleation = oxidation.nucleation.at(temperature, oxygen, reference) * self.oxidising
        self.density = oxidation.saturation_density.at(temperature, oxygen, reference)
        self.growth = growth * self.oxidising
        self.elongated = self.growth * kinetics.aspect(temperature)
        self.thickening = oxidation.thickening.at(temperature, oxygen, reference) * self.oxidising
        self.metal_induction = reduction.induction.at(temperature, hydrogen, reference) * self.reducing
        self.metal_nucleation = reduction.nucleation.at(temperature, hydrogen, reference) * self.reducing
        self.front = front * self.reducing
        self.smoothing = kinetics.smoothing.at(temperature, 1.0, reference)


class Kinetics(document.Strict):
    """Everything that decides how the specimen changes."""

    reference: Conditions
    oxidation: Oxidation
    reduction: Reduction
    smoothing: _Frequency
    orientations: dict[str, Orientation]
    elongation: Elongation
    film: Film
    copper: Copper

    @field_validator("orientations")
    @classmethod
    def _all_orientations(cls, value: dict[str, Orientation]) -> dict[str, Orientation]:
        if set(value) != set(ORIENTATIONS):
            raise ValueError(f"expected the orientations {', '.join(ORIENTATIONS)}; got {', '.join(value) or 'none'}")
        return value

    @cached_property
    def reference_point(self) -> tuple[float, float]:
        """Temperature and pressure of the laws' stated values, K and Pa."""
        return si(self.reference.temperature), si(self.reference.pressure)

    @cached_property
    def _threshold(self) -> tuple[float, float]:
        """Temperature about which islands elongate, and its width, K."""
        return si(self.elongation.above), max(si(self.elongation.width), 1e-9)

    def aspect(self, temperature: float) -> float:
        """Return the aspect ratio of edge speeds on (110) at a temperature (K): 1 well below its threshold."""
        above, width = self._threshold
        offset = (temperature - above) / width
        return 1 + (self.elongation.aspect - 1) / (1 + math.exp(-max(-50.0, min(50.0, offset))))

    def rates(self, temperature: float, oxygen: float, hydrogen: float) -> Rates:
        """Return all rates.

        Parameters
        ----------
        temperature : float, K
        oxygen, hydrogen : float, Pa
            Partial pressures.

        Raises
        ------
        InputError
            For a temperature that is not above 0 K or a pressure below 0 Pa, or not finite.
        """
        if not (math.isfinite(temperature) and temperature > 0):
            raise InputError(f"expected a temperature above 0 K; got {temperature:g} K")
        for species, pressure in (("O2", oxygen), ("H2", hydrogen)):
            if not (math.isfinite(pressure) and pressure >= 0):
                raise InputError(f"expected a partial pressure of {species} of 0 Pa or more; got {pressure:g} Pa")
        return Rates(self, temperature, oxygen, hydrogen)

    @classmethod
    def read(cls, path: Path) -> Kinetics:
        """Return the kinetics of a YAML file in the form of ``kinetics.yaml``.

        Raises
        ------
        DocumentError, InputError
            With every problem of the file and its place.
        """
        return document.read(path).validate(cls)

    @classmethod
    def default(cls) -> Kinetics:
        """Return the kinetics that come with the program."""
        return _default()

    def describe(self) -> str:
        """Return one line about the reference, for logs."""
        return (
            f"copper redox kinetics, stated at {format_quantity(self.reference.temperature)} and "
            f"{format_quantity(self.reference.pressure)}"
        )


@lru_cache(maxsize=1)
def _default() -> Kinetics:
    return Kinetics.read(Path(__file__).with_name("kinetics.yaml"))
