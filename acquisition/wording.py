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
    "A": "nA",
    "C/m**2": "kC/m**2",
}
_NO_BREAK = "\u00a0"
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
    r"""Return a figure with its unit, which no line break parts from it.

    >>> value_text(673.15, "K"), value_text(17.0, "Pa")
    ('673.15\xa0K', '17\xa0Pa')
    """
    sign = unit_sign(unit)
    space = "" if sign in ("", "°") else _NO_BREAK
    text = f"{value:.6g}"
    return f"{text.replace('-', '−', 1) if value < 0 else text}{space}{sign}"


def unbroken(text: str) -> str:
    """Return text that no line break parts."""
    return text.replace(" ", _NO_BREAK)


def with_spread(value: float, sigma: float | None, unit: str) -> str:
    r"""Return a figure with its standard uncertainty, rounded where that begins.

    >>> [text.replace("\xa0", " ") for text in (with_spread(28.412, 4.51, "%"), with_spread(38.6, None, "nm"))]
    ['28.4 ± 4.5 %', '38.6 nm']
    """
    if sigma is None or not math.isfinite(sigma) or sigma <= 0:
        return value_text(float(f"{value:.3g}"), unit)
    digits = min(3, max(0, 1 - math.floor(math.log10(sigma))))
    spread = f"{value:.{digits}f} ± {sigma:.{digits}f} {unit_sign(unit)}"
    return unbroken(spread.replace("-", "−", 1 if value < 0 else 0))


def quantity_text(value: Q, digits: int = 4) -> str:
    r"""Return a quantity as people read it: °C for kelvin, sccm for mol/s, lengths and times by their size.

    >>> [quantity_text(quantity(*given)).replace("\xa0", " ") for given in ((900, "s"), (1e-5, "m"), (4e4, "B"))]
    ['15 min', '10 µm', '40 kB']
    """
    unit = unit_text(value.units)
    if unit in ("s", "min", "h"):
        return unbroken(duration_text(float(value.to("s").magnitude)))
    if unit == "B":
        return unbroken(bytes_text(float(value.magnitude)))
    readable = _length_unit(float(value.magnitude)) if unit == "m" else _READABLE.get(unit)
    if readable is not None:
        value, unit = value.to(readable), readable
    return value_text(float(f"{float(value.magnitude):.{digits}g}"), unit)


def _length_unit(metres: float) -> str:
    size = abs(metres) * (1 + 1e-9)
    return "mm" if size >= 1e-3 or size == 0 else "um" if size >= 1e-6 else "nm"


def figure_text(name: str, value: Q) -> str:
    """Return a readback in words: ``heater.temperature`` becomes ``heater 800 °C``."""
    return f"{name.split('.', maxsplit=1)[0]}{_NO_BREAK}{quantity_text(value, 3)}"


def length_text(nanometres: float) -> str:
    r"""Return a length.

    >>> length_text(2000.0), length_text(500.0)
    ('2\xa0µm', '500\xa0nm')
    """
    return value_text(nanometres / 1e3, "um") if nanometres >= 1e3 else value_text(nanometres, "nm")


def clock_time(time: datetime) -> str:
    """Return the time of day, UTC."""
    return f"{time.astimezone(UTC):%H:%M:%S}"


def date_time(time: datetime) -> str:
    """Return date and time of day, UTC."""
    return f"{time.astimezone(UTC):%-d %B %Y, %H:%M}"


def duration_text(seconds: float) -> str:
    """Return a duration, to the second below an hour, to the minute above.

    >>> duration_text(8.2), duration_text(750), duration_text(5025), duration_text(59.97)
    ('8.2 s', '12 min 30 s', '1 h 24 min', '1 min')
    """
    if float(f"{seconds:.3g}") < 60:
        return f"{seconds:.3g} s"
    if round(seconds) < 3600:
        minutes, rest = divmod(round(seconds), 60)
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if minutes else f"{hours} h"


def bytes_text(count: float) -> str:
    """Return how much room something takes.

    >>> bytes_text(0), bytes_text(40_100), bytes_text(999_700), bytes_text(1.44e9)
    ('0 B', '40.1 kB', '1 MB', '1.44 GB')
    """
    for unit in ("B", "kB", "MB", "GB"):
        text = f"{count:.3g}"
        if float(text) < 1000:
            return f"{text} {unit}"
        count /= 1000
    return f"{count:.3g} TB"


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
                    quantity_text(quantity(value["value"], value["unit"]), 6)
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
            return [(prefix, discreet(", ".join(_plain(part) for part in value)))]
        return [row for index, part in enumerate(value) for row in flat(part, f"{prefix}[{index}]")]
    return [(prefix, discreet(_plain(value)))]


def _plain(value: object) -> str:
    """Return what is neither mapping nor sequence in words."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    return "" if value is None else str(value)


def _known(unit: object) -> bool:
    try:
        quantity(1.0, str(unit))
    except Exception:  # noqa: BLE001  pint raises whatever its tokenizer meets
        return False
    return True
