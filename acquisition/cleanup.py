"""How a run leaves the instrument, whatever happened: beam off the sample, heater on its way down, gas closed."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from drivers.contract import Instrument, Parameter
from drivers.units import Q, quantity

ATTEMPTS = 3
"""How often each part is tried: one lost answer on a serial line must not leave a heater on."""
PAUSE = 1.0
"""Seconds between two rounds."""

Part = tuple[str, Callable[[], None]]


def clean_up(instrument: Instrument, send: Callable[[Parameter, Q], None]) -> list[str]:
    """Do every part, and those that failed again; return what could not be done.

    Parameters
    ----------
    instrument : Instrument
    send : callable
        Sends a setpoint to a parameter, and logs it where the log still works.
    """
    waiting = _parts(instrument, send)
    failures: list[str] = []
    for attempt in range(ATTEMPTS):
        if attempt:
            instrument.clock.sleep(PAUSE)
        failed: list[Part] = []
        failures = []
        for what, part in waiting:
            try:
                part()
            except Exception as error:  # noqa: BLE001  the other parts must still be attempted
                failed.append((what, part))
                failures.append(f"could not {what}: {error}")
        waiting = failed
        if not waiting:
            break
    return failures


def _parts(instrument: Instrument, send: Callable[[Parameter, Q], None]) -> list[Part]:
    """Return the parts in their order: reactive gas closes before the gas that purges."""
    heater = instrument.heater
    parts: list[Part] = [("blank the beam", instrument.column.blank)]
    rate = heater.rate.setpoint
    if rate is not None:  # as fast as the recipe itself last moved, which the sample has been seen to bear
        parts.append(("set the heater's rate", partial(send, heater.rate, rate)))
    parts.append(("send the heater down", partial(send, heater.temperature, quantity(heater.idle, "K"))))
    closed = quantity(0.0, "sccm")
    lines = sorted(instrument.gases.values(), key=lambda line: not line.reactive)
    return [*parts, *((f"close {line.species}", partial(send, line.flow, closed)) for line in lines)]
