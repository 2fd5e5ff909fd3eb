"""The curves of a run as JSON for the page's charts, in the units that people read."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np

from acquisition.chronicle import shown
from acquisition.facts import UNTOLD
from acquisition.page.curves import Estimate
from acquisition.page.run_watch import RunWatch
from acquisition.page.sight import ENDED
from acquisition.wording import unit_sign

_PANELS = (("K", "Temperature"), ("Pa", "Pressure"), ("mol/s", "Gas flows"))
_GASES = {"O2": "c1", "H2": "c4", "N2": "c2", "Ar": "c3"}
_DASHES = ("solid", "dashdot", "longdash", "longdashdot")
_CLOSED = 0.005


def traces_json(night: RunWatch) -> bytes:
    """Return all charts of a run: panels with lines, and figures with their σ; times in s since the start."""
    body = {
        "run": night.run.id,
        "start": night.run.started.timestamp(),
        "now": round(night.elapsed, 1),
        "panels": [panel for unit, title in _PANELS if (panel := _panel(night, unit, title)) is not None],
        "figures": [figure for name in night.estimates if (figure := _figure(night, name)) is not None],
    }
    return json.dumps(body, allow_nan=False, separators=(",", ":")).encode()


def label_of(channel: str, unit: str) -> str:
    """Return what people call a channel: the gas of a flow, else the device."""
    parts = channel.split(".")
    return parts[1] if unit == "mol/s" and len(parts) > 1 else parts[0]


def _panel(night: RunWatch, unit: str, title: str) -> dict[str, Any] | None:
    names = [name for name, own in night.units.items() if own == unit]
    lines = [line for index, name in enumerate(names) if (line := _line(night, name, unit, index)) is not None]
    if not lines:
        return None
    values = [value for line in lines for value in line["y"] if value is not None and value > 0]
    logarithmic = unit == "Pa" and bool(values) and max(values) > 100 * min(values)
    return {"title": title, "unit": unit_sign(lines[0].pop("unit")), "log": logarithmic, "lines": lines}


def _line(night: RunWatch, name: str, unit: str, index: int) -> dict[str, Any] | None:
    times, raw = night.curves[name].points()
    if not times:
        return None
    values, readable = shown(np.array(raw), unit)
    if unit == "mol/s" and float(np.abs(values).max()) <= 0.05:
        return None  # a gas that was not used
    label = label_of(name, unit)
    style = _GASES.get(label, f"c{(index + 5) % 7}") if unit == "mol/s" else f"c{(0, 5, 3, 6)[index % 4]}"
    if unit == "Pa":
        style = f"c{(2, 5, 3)[index % 3]}"
    kept: list[float | None] = [float(f"{value:.5g}") for value in values]
    if unit == "mol/s":
        closed = _CLOSED * float(np.abs(values).max())
        kept = [None if value is not None and abs(value) < closed else value for value in kept]
    line = {
        "label": label,
        "style": style,
        "dash": _DASHES[index % len(_DASHES)],
        "x": [round(time, 1) for time in times],
        "y": kept,
        "unit": readable,
    }
    return line | {"asked": _asked(night, name, unit)}


def _asked(night: RunWatch, name: str, unit: str) -> dict[str, Any] | None:
    points = night.asked.get(name)
    if not points:
        return None
    values = shown(np.array([value for _, value in points]), unit)[0]
    x = [round(time, 1) for time, _ in points]
    y: list[float | None] = [float(f"{value:.5g}") for value in values]
    if unit == "mol/s":
        y = [value or None for value in y]
    if night.run.state not in ENDED or night.elapsed > x[-1]:
        x, y = [*x, round(night.elapsed, 1)], [*y, y[-1]]
    return {"x": x, "y": y}


def _figure(night: RunWatch, name: str) -> dict[str, Any] | None:
    estimates = night.estimates[name].all()
    if not estimates:
        return None
    unit = night.figure_units[name]
    factor, sign = (100.0, "%") if name == "coverage" else (1e9, "nm") if unit == "m" else (1.0, unit_sign(unit))
    told = [estimate for estimate in estimates if not (name == "coverage" and _untold(estimate))]
    untold = [estimate for estimate in estimates if name == "coverage" and _untold(estimate)]
    title = {"coverage": "Oxide coverage", "roughness": "Roughness Sq"}[name]
    return {"title": title, "unit": sign, "told": _points(told, factor), "untold": _points(untold, factor)}


def _untold(estimate: Estimate) -> bool:
    return estimate.sigma is not None and estimate.sigma > UNTOLD


def _points(estimates: list[Estimate], factor: float) -> dict[str, Any]:
    known = [estimate for estimate in estimates if math.isfinite(estimate.value)]
    return {
        "x": [round(estimate.time, 1) for estimate in known],
        "y": [float(f"{estimate.value * factor:.5g}") for estimate in known],
        "sigma": [_finite(estimate.sigma, factor) for estimate in known],
        "frame": [estimate.frame for estimate in known],
    }


def _finite(sigma: float | None, factor: float) -> float | None:
    return None if sigma is None or not math.isfinite(sigma) else float(f"{sigma * factor:.3g}")
