"""Brightness and contrast of each segment: the dark level and the bright end of the signal within the digitiser.

How strongly brightness and contrast act is learned from what they did: the dark level moves with brightness in
proportion, the logarithm of the signal with contrast. Every round takes a dark frame and a lit one.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite, log
from typing import Any

import numpy as np

from acquisition.actions import Balance
from acquisition.effort import SETTLING
from acquisition.hands import Hands, Result, in_unit, move, size, standing
from drivers.contract import Parameter
from drivers.units import quantity_json, si

CLIPPED = 1e-3
"""Share of clipped pixels above which a segment counts as saturated."""
FIRST_STEP = 0.02
"""Share of its range that a knob is moved by before anything is known of what it does."""
LONGEST_STEP = 0.15
"""Share of its range that a knob is moved by at most in one round."""
LEAST_SIGNAL = 1e-3
"""Share of the digitiser's range below which a signal is taken for none."""


@dataclass
class _Knob:
    """One parameter, and what it was seen to do: ``effect`` per SI unit."""

    parameter: Parameter
    setting: float
    effect: float | None = None
    last: tuple[float, float] | None = None

    @property
    def range(self) -> float:
        limits = self.parameter.limits
        whole = (limits.high - limits.low) * size(self.parameter)
        return whole if isfinite(whole) else 1.0

    def learn(self, seen: float) -> None:
        """Note what is seen at the present setting."""
        if self.last is not None and abs(self.setting - self.last[0]) > 1e-4 * self.range:
            effect = (seen - self.last[1]) / (self.setting - self.last[0])
            if effect > 0:
                self.effect = effect
        self.last = (self.setting, seen)

    def turn(self, wanted: float, blind: float = FIRST_STEP) -> bool:
        """Move towards where ``wanted`` more should be seen, by ``blind`` of the range while nothing is known.

        Returns False at the end of the range.
        """
        step = blind * self.range if self.effect is None else abs(wanted) / self.effect
        step = min(step, LONGEST_STEP * self.range) * (1.0 if wanted > 0 else -1.0)
        one, limits = size(self.parameter), self.parameter.limits
        target = min(max(self.setting + step, limits.low * one), limits.high * one)
        moved = abs(target - self.setting) > 1e-6 * self.range
        self.setting = target
        return moved


def _knob(parameter: Parameter) -> _Knob:
    return _Knob(parameter, standing(parameter))


@dataclass
class _Segment:
    """A segment's knobs, and its last levels: shares of the digitiser's range."""

    name: str
    brightness: _Knob
    contrast: _Knob
    dark: float = 0.0
    bright: float = 0.0
    clipped: float = 0.0
    stuck: bool = False

    def json(self) -> dict[str, Any]:
        knobs = {"brightness": self.brightness, "contrast": self.contrast}
        return {
            **{word: quantity_json(in_unit(knob.parameter, knob.setting)) for word, knob in knobs.items()},
            "dark": self.dark,
            "bright": self.bright,
            "clipped": self.clipped,
        }


def balance(hands: Hands, action: Balance) -> Result:
    """Adjust every segment until its levels are within tolerance, or the rounds are used up.

    Returns
    -------
    mapping
        ``outcome``: balanced, unchanged, no signal, out of range, or unfinished; by segment, the settings and levels at
        the end and the settings before; ``rounds`` used. Dark frames taken before hold no longer where anything was
        changed.
    """
    detector = hands.instrument.detector
    segments = [
        _Segment(name, _knob(detector.brightness[name]), _knob(detector.contrast[name]))
        for name in detector.geometry.names
    ]
    before = {segment.name: segment.json() for segment in segments}
    outcome, changed, used = "unfinished", False, 0
    for used in range(1, action.rounds + 1):
        _look(hands, action, segments)
        waiting = [segment for segment in segments if not _within(action, segment)]
        if not waiting:
            outcome = "balanced" if changed else "unchanged"
            break
        if used < action.rounds:
            changed |= _turn(hands, action, waiting)
        if all(segment.stuck for segment in waiting):
            none = all(segment.bright - segment.dark <= LEAST_SIGNAL for segment in waiting)
            outcome = "no signal" if none else "out of range"
            break
    data = {
        "outcome": outcome,
        "rounds": used,
        "changed": changed,
        "segments": {segment.name: segment.json() for segment in segments},
        "before": {name: {word: told[word] for word in ("brightness", "contrast")} for name, told in before.items()},
    }
    _say(hands, data)
    return data


def _look(hands: Hands, action: Balance, segments: list[_Segment]) -> None:
    """Take a dark frame and a lit one, and note each segment's levels."""
    scan = action.imaging.scan()
    dark, lit = hands.expose(scan, beam=False), hands.expose(scan)
    for index, (segment, channel) in enumerate(zip(segments, lit.channels, strict=True)):
        full = float(channel.saturation)
        segment.dark = float(np.mean(dark.counts[index])) / full
        segment.bright = float(np.quantile(lit.counts[index], si(action.percentile))) / full
        segment.clipped = float(np.mean(lit.counts[index] >= channel.saturation))
        segment.brightness.learn(segment.dark)
        signal = segment.bright - segment.dark
        if segment.clipped <= CLIPPED and signal > LEAST_SIGNAL:
            segment.contrast.learn(log(signal))


def _within(action: Balance, segment: _Segment) -> bool:
    tolerance = si(action.tolerance)
    return (
        abs(segment.dark - si(action.dark)) <= tolerance / 4
        and abs(segment.bright - si(action.bright)) <= tolerance
        and segment.clipped <= CLIPPED
    )


def _turn(hands: Hands, action: Balance, segments: list[_Segment]) -> bool:
    """Turn the knobs of the segments that are off; return whether any moved."""
    targets: dict[Parameter, float] = {}
    dark, tolerance = si(action.dark), si(action.tolerance)
    for segment in segments:
        moved = False
        if abs(segment.dark - dark) > tolerance / 8:
            moved |= segment.brightness.turn(dark - segment.dark)
        signal, wanted = segment.bright - segment.dark, si(action.bright) - dark
        if segment.clipped > CLIPPED:
            # A clipped level says only that the signal is too large.
            moved |= segment.contrast.turn(-1.0, LONGEST_STEP)
        elif abs(segment.bright - si(action.bright)) > tolerance / 2:
            moved |= segment.contrast.turn(log(wanted / max(signal, LEAST_SIGNAL / 10)))
        segment.stuck = not moved
        for knob in (segment.brightness, segment.contrast):
            targets[knob.parameter] = knob.setting
    targets = {knob: value for knob, value in targets.items() if abs(standing(knob) - value) > 0}
    if not targets:
        return False
    move(hands, targets)
    hands.wait(SETTLING)
    return True


def _say(hands: Hands, data: dict[str, Any]) -> None:
    outcome, rounds = data["outcome"], data["rounds"]
    if data["changed"]:
        hands.correct("balance", data)
    if outcome in ("balanced", "unchanged"):
        hands.tell("info", "balance", f"brightness and contrast {outcome}, after {rounds} looks", data)
        return
    off = ", ".join(f"{name} at {told['dark']:.1%} to {told['bright']:.1%}" for name, told in data["segments"].items())
    reasons = {
        "no signal": "there is no signal; check the beam and the detector",
        "out of range": "brightness or contrast is at the end of its range; change current, dwell time or the levels",
        "unfinished": f"not within tolerance after {rounds} looks",
    }
    reason = reasons[outcome]
    hands.tell("warning", "balance", f"brightness and contrast: {reason}; the levels are {off}", data)
