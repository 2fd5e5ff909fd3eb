"""What an adjustment takes at most: frames that are not kept, and seconds."""

from __future__ import annotations

from acquisition.actions import Action, Autofocus, Balance, BeamCheck, Decide, Stigmation
from drivers.units import si

PASSES = 3
"""Passes of a search at most: two where the peak lies at the end of the searched range, one closer to it."""
VERIFYING = 2
"""Frames at the setting that was found and at the old one, to tell which is sharper."""
SETTLING = 0.5
"""Seconds that a lens, a shift or an amplifier is left alone before the frame that looks at what it did."""
BETWEEN_READINGS = 1.0
"""Seconds between two readings of the probe current."""


def lit_frames(action: Action) -> int:
    """Return how many frames with the beam on an adjustment takes at most, none of them kept."""
    match action:
        case Autofocus():
            return PASSES * action.frames + VERIFYING
        case Stigmation():
            return 2 * (PASSES * action.frames + VERIFYING)
        case Balance():
            return action.rounds
        case _:
            return 0


def seconds(action: Action, frame: float) -> float:
    """Return how long an adjustment takes at most, s, where each of its frames takes ``frame`` seconds."""
    match action:
        case Autofocus() | Stigmation():
            return lit_frames(action) * (frame + SETTLING) + (4 * SETTLING if action.at is not None else 0.0)
        case Balance():
            return action.rounds * (2 * frame + 2 * SETTLING)
        case BeamCheck():
            return (action.readings - 1) * BETWEEN_READINGS
        case Decide():
            return si(action.at_most) if action.at_most is not None else 0.0
        case _:
            return 0.0
