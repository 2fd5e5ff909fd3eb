"""How a run leaves the instrument at its normal end: beam off the sample, heater on its way down, gas closed."""

from __future__ import annotations

from acquisition.safe_parts import Blank, Part, Send, closing, sending_down
from drivers.contract import Instrument

ATTEMPTS = 3
"""How often each part is tried: one lost answer on a serial line must not leave a heater on."""
PAUSE = 1.0
"""Seconds between two rounds."""


def clean_up(instrument: Instrument, send: Send) -> list[str]:
    """Do every part, and those that failed again; return what could not be done.

    Parameters
    ----------
    instrument : Instrument
    send : callable
        Sends a setpoint to a parameter, and logs it where the log still works.
    """
    waiting: list[Part] = [Blank(instrument), *sending_down(instrument), *closing(instrument)]
    failures: list[str] = []
    for attempt in range(ATTEMPTS):
        if attempt:
            instrument.clock.sleep(PAUSE)
        failed: list[Part] = []
        failures = []
        for part in waiting:
            try:
                part.do(send)
            except Exception as error:  # noqa: BLE001  the other parts must still be attempted
                failed.append(part)
                failures.append(f"could not {part.what}: {error}")
        waiting = failed
        if not waiting:
            break
    return failures
