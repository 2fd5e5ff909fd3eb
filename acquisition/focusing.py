"""Autofocus and stigmation: a search over a lens with few frames, believed only where the evidence is strong."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from acquisition.actions import Autofocus, Search, Stigmation
from acquisition.effort import PASSES, SETTLING
from acquisition.hands import Away, Hands, Result, in_unit, move, size, standing
from acquisition.sharpness import Peak, Spectrum, find_peak, spectrum
from drivers.contract import Parameter
from drivers.errors import RilievoError
from drivers.units import format_quantity, quantity_json, si

EVIDENCE = 12.0
"""Akaike's criterion below which a search has seen nothing; pure noise stays below 0."""
SATURATED = 0.01
"""Share of clipped pixels in a segment from which on its sharpness says nothing."""
CLOSER = 0.35
"""Width of a second look over that of the first."""
EDGE = 0.12
"""Share of the searched range from its ends within which a peak is not bracketed."""
WORSE = 3.0
"""Standard deviations by which the new setting must be less sharp than the old one to be taken back."""


@dataclass
class _Lens:
    """One search over one parameter: what was looked at, and what it brought."""

    hands: Hands
    action: Search
    parameter: Parameter
    looks: int = 0
    dose: float = 0.0
    history: list[tuple[float, float]] = field(default_factory=list)

    def look(self, setting: float) -> Spectrum:
        """Return the spectrum of a frame at a setting (SI)."""
        move(self.hands, {self.parameter: setting})
        self.hands.wait(SETTLING)
        frame = self.hands.expose(self.action.imaging.scan())
        self.looks += 1
        self.dose += self.action.imaging.dose_per_frame()
        return spectrum(frame)

    def allowed(self, low: float, high: float) -> tuple[float, float]:
        """Return the part of a range that the parameter takes."""
        limits, one = self.parameter.limits, size(self.parameter)
        return max(low, limits.low * one), min(high, limits.high * one)


def autofocus(hands: Hands, action: Autofocus) -> Result:
    """Search for the focus; see :func:`_search` for what is returned."""
    with Away(hands, action.at):
        found = _search(hands, action, hands.instrument.column.focus, si(action.range), si(action.tolerance))
    hands.correct("focus", found)
    return found


def stigmation(hands: Hands, action: Stigmation) -> Result:
    """Search for the stigmator x, then for y; returns both results, by axis."""
    column = hands.instrument.column
    results: dict[str, Any] = {}
    with Away(hands, action.at):
        for axis, parameter in (("x", column.stigmator_x), ("y", column.stigmator_y)):
            results[axis] = _search(hands, action, parameter, si(action.range), si(action.tolerance))
            hands.correct("stigmator", {"axis": axis, **results[axis]})
    return {**results, "frames": sum(each["frames"] for each in results.values())}


def _search(hands: Hands, action: Search, parameter: Parameter, width: float, tolerance: float) -> dict[str, Any]:
    """Find the sharpest setting of a parameter and leave it there, or at the old one.

    Returns
    -------
    dict
        ``outcome``: found, weak, saturated, edge or worse; ``old`` and ``new`` setting, ``sigma``, ``evidence``,
        ``sharpness`` before and after, ``frames`` taken and their ``dose`` on the area; quantities with units.
    """
    lens = _Lens(hands, action, parameter)
    old = standing(parameter)
    hands.leave(parameter)
    try:
        outcome, setting, facts = _passes(lens, old, width, tolerance)
    except BaseException:
        with suppress(RilievoError):  # the reason why the search ended is the one to be told
            hands.send(parameter, in_unit(parameter, old))
            hands.settled(parameter)
        raise
    if outcome != "found":
        move(hands, {parameter: old})
    hands.settled(parameter)
    data = {
        "parameter": parameter.name,
        "outcome": outcome,
        "old": quantity_json(in_unit(parameter, old)),
        "new": quantity_json(in_unit(parameter, setting)),
        "frames": lens.looks,
        "dose": {"value": lens.dose, "unit": "C/m**2"},
        "looks": [[at / size(parameter), sharp] for at, sharp in lens.history],
        **facts,
    }
    _say(hands, parameter, outcome, old, setting, data)
    return data


def _passes(lens: _Lens, old: float, width: float, tolerance: float) -> tuple[str, float, dict[str, Any]]:
    """Return outcome, setting and the facts of a search in up to ``PASSES`` passes."""
    centre = old
    peak: Peak | None = None
    bracketed = False
    for _ in range(PASSES):
        low, high = lens.allowed(centre - width / 2, centre + width / 2)
        settings = [float(value) for value in np.linspace(low, high, lens.action.frames)]
        # From one side, as a lens with hysteresis wants it.
        spectra = [lens.look(setting) for setting in settings]
        clipped = max(each.saturated for each in spectra)
        if clipped > SATURATED:
            return "saturated", old, {"saturated": clipped}
        peak = find_peak(settings, spectra)
        lens.history += zip(settings, peak.sharpness, strict=True)
        if peak.evidence < EVIDENCE:
            return "weak", old, {"evidence": peak.evidence}
        margin = EDGE * (high - low)
        bracketed = low + margin < peak.setting < high - margin
        if bracketed and peak.sigma <= tolerance:
            break
        centre, width = peak.setting, width * CLOSER if bracketed else width
    assert peak is not None  # noqa: S101  there is one pass at least
    one = size(lens.parameter)
    facts: dict[str, Any] = {
        "sigma": {"value": peak.sigma / one, "unit": lens.parameter.unit},
        "evidence": peak.evidence,
        "skew": [part / one for part in peak.skew],
    }
    if not bracketed:
        return "edge", old, facts
    return _verified(lens, peak, old, facts)


def _verified(lens: _Lens, peak: Peak, old: float, facts: dict[str, Any]) -> tuple[str, float, dict[str, Any]]:
    """Compare a frame at the old setting with one at the new one, at which the lens is left."""
    before = peak.of(lens.look(old))
    after = peak.of(lens.look(peak.setting))
    facts |= {"sharpness": {"before": before, "after": after, "sigma": peak.noise}}
    worse = before - after > WORSE * np.sqrt(2.0) * peak.noise
    return ("worse", old, facts) if worse else ("found", peak.setting, facts)


_REASONS: Mapping[str, str] = {
    "weak": "the frames are all equally sharp, as far as the noise tells; take more pixels, a longer dwell time or a "
    "place with structure",
    "saturated": "the frames are clipped, and their sharpness says nothing; balance the detector first",
    "edge": "it is sharpest at the end of what was searched; search a wider range",
    "worse": "the frame at the new setting was less sharp than that at the old one",
}


def _say(hands: Hands, parameter: Parameter, outcome: str, old: float, new: float, data: dict[str, Any]) -> None:
    before, after = (format_quantity(in_unit(parameter, value)) for value in (old, new))
    if outcome == "found":
        hands.tell("info", "focus", f"{parameter.name} from {before} to {after} with {data['frames']} frames", data)
    else:
        hands.tell("warning", "focus", f"{parameter.name} stays at {before}: {_REASONS[outcome]}", data)
