"""Conditions on figures of the live reconstruction, and what hangs on them: when a series ends, and how fast it goes.

A figure's rate is its change per time over the last frames: ``coverage_rate`` of ``coverage``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, TypeAlias

from drivers.document import Strict
from drivers.units import AnyQuantity, Duration, Q, quantity, si

FIGURES: Mapping[str, str] = {
    "coverage": "",
    "roughness": "nm",
    "height_range": "nm",
    "mean_sigma": "nm",
    "flagged": "",
}
"""What the live reconstruction tells of each frame and a recipe can hang on, with its unit."""
RATE = "_rate"
"""Ends the name of a figure's change per time."""
MEASURED: Mapping[str, str] = {**FIGURES, **{f"{name}{RATE}": f"{unit or 1}/s" for name, unit in FIGURES.items()}}
"""The figures and their rates."""

Comparison: TypeAlias = Literal["above", "below"]


class Condition(Strict):
    """When a figure says enough: ``coverage`` ``above`` 0.95.

    Attributes
    ----------
    figure : str
        One of ``MEASURED``.
    comparison : "above" or "below"
    threshold : pint.Quantity
    within : pint.Quantity or None
        Age of the frame up to which its figure counts; any where there is none.
    """

    figure: str
    comparison: Comparison
    threshold: AnyQuantity
    within: Duration | None = None

    def met(self, value: Q, sigma: float | None = None) -> bool:
        """Return whether ``value`` lies beyond the threshold.

        Parameters
        ----------
        value : pint.Quantity
        sigma : float, optional
            Standard uncertainty in the value's unit; the value must lie beyond the threshold by more than that, so
            that an estimate which cannot tell does not decide.
        """
        number, threshold = si(value), si(self.threshold)
        margin = 0.0 if sigma is None else sigma * si(quantity(1.0, str(value.units)))
        beyond = number - threshold if self.comparison == "above" else threshold - number
        return beyond > margin

    def fresh(self, age: float) -> bool:
        """Return whether a figure of a frame that is ``age`` seconds old still counts."""
        return self.within is None or age <= si(self.within)


class Pace(Strict):
    """How the time between the frames of a series shortens while the surface changes fast.

    Attributes
    ----------
    at_least : pint.Quantity
        Shortest time between frames; the longest one is the series' ``every``.
    faster_when : Condition
        While it is met, frames come faster: by a rate, as often as it passes the threshold, so that the figure changes
        by the same amount from frame to frame; by another figure, as fast as allowed.
    otherwise : "at_most" or "at_least"
        The time between frames while there is no figure that counts.
    """

    at_least: Duration
    faster_when: Condition
    otherwise: Literal["at_most", "at_least"] = "at_most"
