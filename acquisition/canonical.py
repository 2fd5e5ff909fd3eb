"""One unit for each dimension, so that SQL can compare a setpoint with a readback."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from drivers.units import Q, unit_text, ureg

_CANONICAL = ("", "K", "Pa", "mol/s", "m", "s", "J", "A", "C/m**2", "V", "K/s", "W", "N", "Hz", "m**2", "m**3", "C")
# An angle has no dimension, and still it is not a share.
_ANGLES = (ureg.Unit("rad"), ureg.Unit("mrad"), ureg.Unit("deg"))


@lru_cache(maxsize=4096)
def conversion(unit: Any) -> tuple[float, float, str]:
    """Return factor and offset from a unit to the canonical one of its dimension, and that one's text."""
    wanted = ureg.get_dimensionality(unit)
    target = next((name for name in _CANONICAL if ureg.get_dimensionality(ureg.Unit(name)) == wanted), None)
    if unit in _ANGLES:
        target = "rad"
    if str(unit).startswith("delta_"):
        return float(ureg.Quantity(1.0, unit).to("delta_degC").magnitude), 0.0, "K"
    if target is None:
        target = unit_text(ureg.Quantity(1.0, unit).to_base_units().units)
    offset, end = (float(ureg.Quantity(value, unit).to(target).magnitude) for value in (0.0, 1.0))
    return end - offset, offset, target


def canonical(value: Q) -> tuple[float, str]:
    """Return magnitude and unit as the database holds them.

    >>> from drivers.units import quantity
    >>> canonical(quantity(400.0, "degC"))
    (673.15, 'K')
    """
    factor, offset, unit = conversion(value.units)
    return float(value.magnitude) * factor + offset, unit
