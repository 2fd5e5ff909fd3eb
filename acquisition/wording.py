"""How a report puts figures, times and messages into words."""

from __future__ import annotations

import math
import re
import socket
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from drivers.units import Q, quantity, unit_text

_SIGNS = (
    ("delta_degC", "K"),
    ("degC", "°C"),
    ("deg", "°"),
    ("um", "µm"),
    ("us", "µs"),
    ("uA", "µA"),
    ("percent", "%"),
)
_READABLE = {
    "K": "degC",
    "mol/s": "sccm",
    "rad": "deg",
    "J": "keV",
    "m": "mm",
    "A": "nA",
    "B": "MB",
    "C/m**2": "kC/m**2",
}
_PRIVATE = {"host", "hostname", "address", "port", "url", "user", "username", "password", "token"}
_PATH = re.compile(r"(?<![\w/.])/(?:[^\s/:;,'\"<>]+/)+([^\s/:;,'\"<>]+)")


def unit_sign(unit: str) -> str:
    """Return a unit as people print it.

    >>> unit_sign("kC/m**2"), unit_sign("degC")
    ('kC/m²', '°C')
    """
    unit = unit.replace("**2", "²").replace("**3", "³").replace("*", "·")
    for plain, sign in _SIGNS:
        unit = re.sub(rf"(?<![A-Za-z]){re.escape(plain)}(?![A-Za-z_])", sign, unit)
    return unit


def value_text(value: float, unit: str) -> str:
    """Return a figure with its unit.

    >>> value_text(673.15, "K"), value_text(17.0, "Pa")
    ('673.15 K', '17 Pa')
    """
    sign = unit_sign(unit)
    space = "" if sign in ("", "°") else " "
    return f"{value:.6g}{space}{sign}".replace("-", "−", 1) if value < 0 else f"{value:.6g}{space}{sign}"


def with_spread(value: float, sigma: float | None, unit: str) -> str:
    """Return a figure with its standard uncertainty, rounded where that begins.

    >>> with_spread(28.412, 4.51, "%"), with_spread(1.7e-6, 0.17, "%"), with_spread(38.6, None, "nm")
    ('28.4 ± 4.5 %', '0.00 ± 0.17 %', '38.6 nm')
    """
    if sigma is None or not math.isfinite(sigma) or sigma <= 0:
        return value_text(float(f"{value:.3g}"), unit)
    digits = min(3, max(0, 1 - math.floor(math.log10(sigma))))
    return f"{value:.{digits}f} ± {sigma:.{digits}f} {unit_sign(unit)}".replace("-", "−", 1 if value < 0 else 0)


def quantity_text(value: Q, digits: int = 4) -> str:
    """Return a quantity as people read it: degrees Celsius for kelvin, sccm for mol/s."""
    unit = unit_text(value.units)
    if unit in _READABLE:
        value = value.to(_READABLE[unit])
        unit = _READABLE[unit]
    return value_text(float(f"{float(value.magnitude):.{digits}g}"), unit)


def figure_text(name: str, value: Q) -> str:
    """Return a readback in words: ``heater.temperature`` becomes ``heater 800 °C``."""
    return f"{name.split('.', maxsplit=1)[0]} {quantity_text(value, 3)}"


def length_text(nanometres: float) -> str:
    """Return a length.

    >>> length_text(2000.0), length_text(500.0)
    ('2 µm', '500 nm')
    """
    return f"{nanometres / 1e3:g} µm" if nanometres >= 1e3 else f"{nanometres:g} nm"


def clock_time(time: datetime) -> str:
    """Return the time of day, UTC."""
    return f"{time.astimezone(UTC):%H:%M:%S}"


def date_time(time: datetime) -> str:
    """Return date and time of day, UTC."""
    return f"{time.astimezone(UTC):%-d %B %Y, %H:%M}"


def elapsed(seconds: float) -> str:
    """Return a duration.

    >>> elapsed(59.6), elapsed(5025), elapsed(12)
    ('1 min', '1 h 24 min', '12 s')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 10 and rest:
        return f"{minutes} min {rest} s"
    minutes = round(whole / 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours and minutes else f"{hours} h" if hours else f"{minutes} min"


def discreet(text: str) -> str:
    """Return a message without where it came from: paths shortened to their last part, this computer's name left out.

    >>> discreet("see /data/runs/7/frame.tif: it is short")
    'see …/frame.tif: it is short'
    """
    text = text.replace(str(Path.home()) + "/", "/home/x/")
    text = _PATH.sub(lambda match: f"…/{match.group(1)}", text)
    host = socket.gethostname()
    return re.sub(rf"\b{re.escape(host)}\b", "…", text) if len(host) > 3 else text


def flat(value: Any, prefix: str = "") -> list[tuple[str, str]]:
    """Return nested JSON as rows of name and text; ``{"value", "unit"}`` becomes a figure, addresses are left out."""
    if isinstance(value, Mapping):
        if set(value) == {"value", "unit"} and isinstance(value["value"], int | float):
            return [
                (
                    prefix,
                    quantity_text(quantity(value["value"], value["unit"]))
                    if _known(value["unit"])
                    else value_text(value["value"], value["unit"]),
                )
            ]
        rows: list[tuple[str, str]] = []
        for key, part in value.items():
            name = f"{prefix}.{key}" if prefix else str(key)
            rows += [(name, "…")] if _PRIVATE & set(str(key).lower().split("_")) else flat(part, name)
        return rows
    if isinstance(value, Sequence) and not isinstance(value, str):
        if all(isinstance(part, str | int | float) for part in value):
            return [(prefix, discreet(", ".join(str(part) for part in value)))]
        return [row for index, part in enumerate(value) for row in flat(part, f"{prefix}[{index}]")]
    return [(prefix, "" if value is None else discreet(str(value)))]


def _known(unit: object) -> bool:
    try:
        quantity(1.0, str(unit))
    except Exception:  # noqa: BLE001  pint raises whatever its tokenizer meets
        return False
    return True
