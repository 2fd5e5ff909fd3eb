"""The probe current against what was asked for, and what follows where it is off."""

from __future__ import annotations

import numpy as np

from acquisition.actions import BeamCheck
from acquisition.effort import BETWEEN_READINGS
from acquisition.hands import Hands, Result
from drivers.errors import BeamError, BeamLost
from drivers.units import format_quantity, quantity, quantity_json, si


def check_beam(hands: Hands, action: BeamCheck) -> Result:
    """Average some readings of the probe current and compare.

    Returns
    -------
    mapping
        ``current`` and ``spread`` of the readings, ``expected``, ``off`` (a share) and whether that is ``within``.

    Raises
    ------
    BeamLost
        Off, where the recipe says suspend: what is waited for is that the current comes back.
    BeamError
        Off, where it says safe.
    """
    parameter = hands.instrument.column.probe_current
    readings = []
    for number in range(action.readings):
        if number:
            hands.wait(BETWEEN_READINGS)
        readings.append(si(parameter.read().value))
    mean, expected = float(np.mean(readings)), si(action.current)
    off = mean / expected - 1.0
    told = quantity(mean, "A").to(action.current.units)
    data = {
        "current": quantity_json(told),
        "spread": quantity_json(quantity(float(np.std(readings)), "A").to(action.current.units)),
        "expected": quantity_json(action.current),
        "off": off,
        "within": abs(off) <= si(action.within),
    }
    if data["within"]:
        hands.tell("info", "beam", f"the probe current is {format_quantity(told, 4)}, {off:+.1%} off", data)
        return data
    message = (
        f"expected a probe current of {format_quantity(action.current)} within {format_quantity(action.within)}; the "
        f"readback is {format_quantity(told, 4)}, {off:+.1%} off; check emission, aperture and the column's valves"
    )
    hands.tell("warning" if action.otherwise == "warn" else "error", "beam", message, data)
    if action.otherwise == "suspend":
        raise BeamLost(message, parameter.name)
    if action.otherwise == "safe":
        raise BeamError(message, parameter.name)
    return data


def beam_is_back(hands: Hands, action: BeamCheck) -> bool:
    """Return whether one reading of the probe current is what was asked for; waits for nothing."""
    now = si(hands.instrument.column.probe_current.read().value)
    return abs(now / si(action.current) - 1.0) <= si(action.within)
