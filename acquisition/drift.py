"""Drift correction: the field of a series is kept where its anchor frame saw it.

What is known between two corrections is what the one before returned, so that a resumed run goes on with the same
anchor. Displacements are those of the sample under the field, in the image's axes, in m.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import hypot
from typing import Any

from acquisition.actions import CorrectDrift
from acquisition.effort import SETTLING
from acquisition.hands import Hands, Result, in_unit, move, size, standing, turned
from acquisition.registration import displacement
from drivers.contract import Parameter
from drivers.errors import DoseError, LimitError
from drivers.frame import Frame
from drivers.units import si

RECOGNISED = 10.0
"""Confidence below which an anchor is not recognised; that of unrelated frames stays below 8."""
SURE = 3.0
"""Standard uncertainties by which a frame right after a step must show that it went the wrong way."""
VAGUE = 1.0
"""Standard uncertainty (px) above which a displacement is not acted upon."""
RENEWED = 0.5
"""Share of the first confidence below which a frame that is still recognised takes the anchor's place."""
FARTHEST = 0.3
"""Share of the field beyond which a displacement is not believed: the windows leave too little in common."""
LOST = 3
"""Corrections in a row without recognition after which the present frame becomes the anchor."""
LEAST = 2.0
"""Pixels by which a step must move the field to prove that it went the right way."""


@dataclass(frozen=True)
class _Standing:
    """What the correction before left behind.

    Attributes
    ----------
    anchor : int
        Number of the frame that is compared with.
    origin : (float, float), m
        Where that frame lay from where the first one did.
    confidence : float
        Of the first comparison with this anchor; 0 before there was one.
    total : (float, float), m
        How far the sample has drifted since the first frame, corrected or not.
    moved : (float, float), m
        What has been corrected so far.
    missed : int
        Corrections in a row in which the anchor was not recognised.
    verified : bool
        Whether a frame right after a correction has shown that it went the right way.
    off : bool
        Whether corrections were given up.
    """

    anchor: int
    origin: tuple[float, float] = (0.0, 0.0)
    confidence: float = 0.0
    total: tuple[float, float] = (0.0, 0.0)
    moved: tuple[float, float] = (0.0, 0.0)
    missed: int = 0
    verified: bool = False
    off: bool = False

    @classmethod
    def of(cls, result: Mapping[str, Any]) -> _Standing:
        known = result["standing"]
        pairs = {name: tuple(known[name]) for name in ("origin", "total", "moved")}
        return cls(**{**known, **pairs})

    def json(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__dataclass_fields__}


def correct_drift(hands: Hands, action: CorrectDrift) -> Result | None:
    """Compare the series' last frame with the anchor and move the field after the sample.

    Returns
    -------
    mapping or None
        What was seen and done, with the anchor for the correction that follows; that of the correction before where
        the frame was skipped.
    """
    taken = hands.taken(f"{action.group}[{action.number}]")
    before = hands.result(action.previous) if action.previous is not None else None
    if taken is None:
        return before  # what was known is handed on
    number, frame = taken
    if before is None:
        known = _Standing(number)
        return _told(hands, action, number, "anchored", known, {})
    known = _Standing.of(before)
    if known.off:
        return _told(hands, action, number, "off", known, {})
    seen, facts = _seen(hands, known, frame)
    if seen is None:
        return _unrecognised(hands, action, number, known, facts)
    return _followed(hands, action, number, frame, known, seen, facts)


def _seen(hands: Hands, known: _Standing, frame: Frame) -> tuple[tuple[float, float] | None, dict[str, Any]]:
    """Return the sample's displacement from the first frame (m), None where the anchor is not recognised."""
    anchor = hands.frame(known.anchor)
    if anchor.shape != frame.shape or anchor.geometry.names != frame.geometry.names:
        return None, {"why": "the frames have another raster than the anchor"}
    found = displacement(anchor, frame)
    pixel = frame.beam.pixel_size
    facts = {
        "pixels": [found.x, found.y], "sigma": min(found.sigma, 1e9), "confidence": found.confidence,
        "pixel_size": pixel,
    }  # fmt: skip
    rows, columns = frame.shape
    if found.confidence < RECOGNISED or found.sigma > VAGUE:
        return None, facts | {"why": "the correlation has no clear peak"}
    if abs(found.x) > FARTHEST * columns or abs(found.y) > FARTHEST * rows:
        return None, facts | {"why": "the displacement is too large to be believed"}
    return (known.origin[0] + found.x * pixel, known.origin[1] + found.y * pixel), facts


def _unrecognised(hands: Hands, action: CorrectDrift, number: int, known: _Standing, facts: dict[str, Any]) -> Result:
    """Leave the field where it is; after some times, begin anew with the present frame, the drift so far kept."""
    missed = known.missed + 1
    if missed < LOST:
        return _told(hands, action, number, "unrecognised", replace(known, missed=missed), facts)
    fresh = replace(known, anchor=number, origin=(0.0, 0.0), confidence=0.0, missed=0)
    return _told(hands, action, number, "lost", fresh, facts)


def _followed(
    hands: Hands,
    action: CorrectDrift,
    number: int,
    frame: Frame,
    known: _Standing,
    seen: tuple[float, float],
    facts: dict[str, Any],
) -> Result:
    """Move the field by what the sample is displaced, and choose the anchor of the next correction."""
    back = {axis: _stood(axis, frame) for axis in _axes(hands)}
    by = _move(hands, action, seen, back)
    left = (0.0, 0.0)
    if by == "stage" or (by and not known.verified and hypot(*seen) > LEAST * frame.beam.pixel_size):
        # A stage has backlash, and the first step of all proves that the axes are as thought.
        control, after = _control(hands, known)
        facts["control"] = after
        doubt = SURE * frame.beam.pixel_size * hypot(facts["sigma"], after.get("sigma", 0.0))
        if control is not None and hypot(*control) > hypot(*seen) + doubt:
            move(hands, back)
            return _told(hands, action, number, "wrong way", replace(known, off=True), facts)
        left = control or left
        if control is not None and by == "stage":
            left = (0.0, 0.0) if _shift(hands, control) else control
        known = replace(known, verified=control is not None or known.verified)
    step = (seen[0] - left[0], seen[1] - left[1]) if by else (0.0, 0.0)
    confidence = facts["confidence"]
    following = replace(
        known,
        confidence=known.confidence or confidence,
        total=(known.moved[0] + seen[0], known.moved[1] + seen[1]),
        moved=(known.moved[0] + step[0], known.moved[1] + step[1]),
        missed=0,
    )
    renewed = action.anchor == "previous" or confidence < RENEWED * (known.confidence or confidence)
    if renewed:
        # The new anchor lies where the sample was when it was taken: what was not corrected then stays to be.
        following = replace(following, anchor=number, origin=seen, confidence=0.0)
    facts |= {"step": list(step), "by": by, "renewed": renewed}
    return _told(hands, action, number, "corrected" if by else "beyond reach", following, facts)


def _control(hands: Hands, known: _Standing) -> tuple[tuple[float, float] | None, dict[str, Any]]:
    """Return what a frame right after a step shows; nothing where the area has had its dose."""
    try:
        return _seen(hands, known, hands.expose())
    except DoseError as error:
        return None, {"why": str(error)}


def _stood(axis: Parameter, frame: Frame) -> float:
    """Return where an axis stood when a frame was taken, SI.

    That is where it was sent, unless the readback tells that it has been sent elsewhere since: a correction that was
    interrupted before its outcome is done again, and must not add up.
    """
    now, reading = standing(axis), frame.readbacks.get(axis.name)
    if reading is None:
        return now
    then = si(reading.value)
    return now if abs(then - now) <= max(axis.tolerance * size(axis), 1e-12) else then


def _axes(hands: Hands) -> tuple[Parameter, ...]:
    column, stage = hands.instrument.column, hands.instrument.stage
    return (column.beam_shift_x, column.beam_shift_y, stage.x, stage.y)


def _shift(hands: Hands, step: tuple[float, float]) -> bool:
    """Move the field by beam shift; return whether it reaches."""
    return _try(hands, {axis: standing(axis) + part for axis, part in zip(_axes(hands)[:2], step, strict=True)})


def _move(hands: Hands, action: CorrectDrift, step: tuple[float, float], stood: Mapping[Parameter, float]) -> str:
    """Move the field by ``step`` (m) from where it stood; return by what: empty where nothing reaches."""
    stage = hands.instrument.stage
    shift = _axes(hands)[:2]
    targets = {axis: stood[axis] + part for axis, part in zip(shift, step, strict=True)}
    within = all(abs(target) <= si(action.limit) for target in targets.values())
    if action.by == "beam_shift" and within and _try(hands, targets):
        return "beam_shift"
    # The stage takes over what the beam had shifted, too, and the beam returns to its axis.
    whole = tuple(targets.values()) if action.by == "beam_shift" else step
    parts = turned(hands, whole[0], whole[1])
    axes = {axis: stood[axis] + part for axis, part in zip((stage.x, stage.y), parts, strict=True)}
    if action.by == "beam_shift":
        axes |= dict.fromkeys(shift, 0.0)
    if not _try(hands, axes):
        return ""
    hands.wait(SETTLING)
    return "stage"


def _try(hands: Hands, targets: Mapping[Parameter, float]) -> bool:
    """Move; return False where a target lies beyond its axis."""
    try:
        for axis, target in targets.items():
            axis.check(in_unit(axis, target))
    except LimitError:
        return False
    move(hands, targets)
    return True


_WARNINGS = {
    "unrecognised": "the anchor frame is not recognised; the field stays",
    "lost": "the anchor frame was not recognised for some time; the present frame takes its place, and what the sample "
    "drifted meanwhile is not known",
    "wrong way": "a correction took the sample farther away; check the axes of beam shift and stage. Drift is not "
    "corrected any more",
    "beyond reach": "neither beam shift nor stage reaches as far as the sample has drifted",
}


def _told(
    hands: Hands, action: CorrectDrift, number: int, outcome: str, known: _Standing, facts: dict[str, Any]
) -> Result:
    data = {"outcome": outcome, "frame": number, **facts, "standing": known.json()}
    if outcome != "off":
        hands.correct("drift", data)
    if outcome in _WARNINGS:
        hands.tell("warning", "drift", f"{action.group}: {_WARNINGS[outcome]}", data)
    return data
