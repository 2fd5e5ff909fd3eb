"""The chamber as a dry run sees it: the pressure that flows and pumping settle at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from drivers.contract import Instrument
from drivers.errors import InputError
from drivers.units import Q, parse_quantity, si

GAS_CONSTANT = 8.31446261815324
"""J/(mol K), exact (SI 2019)."""


@dataclass(frozen=True, slots=True)
class Chamber:
    """A volume that is pumped at one speed, whatever the pressure.

    Attributes
    ----------
    pumping_speed : float, m³/s
        Effective, at the chamber.
    base_pressure : float, Pa
        Without flow.
    volume : float, m³
        0 where it is not known.
    temperature : float, K
        Of the gas at the walls.
    """

    pumping_speed: float
    base_pressure: float = 0.0
    volume: float = 0.0
    temperature: float = 298.15

    def __post_init__(self) -> None:
        if not self.pumping_speed > 0:
            raise InputError(f"expected a pumping speed above 0 m**3/s; got {self.pumping_speed:g} m**3/s")

    @property
    def exchange(self) -> float:
        """Time constant with which the gas in the chamber is exchanged, V/S, s."""
        return self.volume / self.pumping_speed

    def pressure(self, flows: Mapping[str, Q]) -> float:
        """Return the pressure (Pa) at which the pump takes away what flows in: p = p₀ + ṅ·R·T/S."""
        amount = sum(si(flow) for flow in flows.values())
        return self.base_pressure + amount * GAS_CONSTANT * self.temperature / self.pumping_speed


def chamber_of(instrument: Instrument) -> Chamber | None:
    """Return the chamber that the instrument's file describes, or None where it names no pumping speed.

    The file says it under ``settings``: ``chamber: {pumping_speed: 0.5 l/s, volume: 10 l, base_pressure: 1 mPa}``.

    Raises
    ------
    InputError
        For a figure that cannot be read.
    """
    settings = instrument.description.get("settings")
    given = settings.get("chamber") if isinstance(settings, Mapping) else None
    if not isinstance(given, Mapping) or "pumping_speed" not in given:
        return None
    speed, base, volume = (
        si(parse_quantity(given.get(key, f"0 {unit}"), unit))
        for key, unit in (("pumping_speed", "m**3/s"), ("base_pressure", "Pa"), ("volume", "m**3"))
    )
    return Chamber(speed, base, volume)
