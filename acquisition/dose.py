"""The charge that each area of the sample has really had: counted frame by frame, and found again after a resume.

Areas are rectangles in the plane of the sample. Where the field stands is told by where stage and beam shift stood when
the run began and by their setpoints since: both are in the log, so that the sum can be made again from it, together
with the frames, and with those frames that were not kept.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from acquisition.records import Correction, FrameEntry, Setpoint
from drivers.contract import Instrument, Scan
from drivers.frame import Frame
from drivers.units import si

EXPOSURE = "exposure"
"""Kind of the log's corrections that tell of a frame which was not kept."""
PLACE = "place"
"""Kind of the one that tells where the axes stood when the run began."""

AXES = ("stage.x", "stage.y", "column.beam_shift_x", "column.beam_shift_y")
"""Parameters that choose the field."""


@dataclass(frozen=True)
class Field:
    """A scanned rectangle.

    Attributes
    ----------
    x, y : (float, float), m
        Its lowest and highest coordinates.
    dose : float, C/m²
    """

    x: tuple[float, float]
    y: tuple[float, float]
    dose: float


def axes_of(instrument: Instrument) -> dict[str, float]:
    """Return where the axes that choose the field stand, m."""
    column, stage = instrument.column, instrument.stage
    axes = (stage.x, stage.y, column.beam_shift_x, column.beam_shift_y)
    return {name: si(axis.read().value) for name, axis in zip(AXES, axes, strict=True)}


def field_of(scan: Scan, current: float, axes: Mapping[str, float]) -> Field:
    """Return what one frame brings, and where.

    Parameters
    ----------
    scan : Scan
    current : float, A
    axes : mapping of str to float, m
        As :func:`axes_of` returns it.
    """
    dose = current * scan.dwell_time / scan.pixel_size**2
    # To a tenth of a pixel: a place that was returned to is the same place.
    grain = scan.pixel_size / 10.0
    spans = []
    for stage, shift, length in (
        ("stage.x", "column.beam_shift_x", scan.field_of_view),
        ("stage.y", "column.beam_shift_y", scan.pixel_size * scan.rows),
    ):
        middle = round((axes.get(stage, 0.0) + axes.get(shift, 0.0)) / grain) * grain
        spans.append((middle - length / 2.0, middle + length / 2.0))
    return Field(spans[0], spans[1], dose)


@dataclass
class DoseLedger:
    """What every area has had.

    Attributes
    ----------
    limit : float or None, C/m²
        What an area may have; None for as much as comes.
    axes : dict of str to float, m
        Where stage and beam shift stand.
    """

    limit: float | None = None
    axes: dict[str, float] = field(default_factory=dict)
    _brought: dict[tuple[float, float, float, float], float] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        frames: Iterable[FrameEntry],
        setpoints: Iterable[Setpoint],
        corrections: Iterable[Correction],
        limit: float | None = None,
    ) -> DoseLedger:
        """Return the ledger of a run that is resumed, from what its log holds, in the order of time."""
        ledger = cls(limit)
        told = list(corrections)
        for correction in told:
            if correction.kind == PLACE:
                ledger.axes |= dict(correction.data)
        moves = deque(point for point in setpoints if point.channel in AXES)
        for frame in frames:
            while moves and moves[0].time <= frame.time:
                point = moves.popleft()
                ledger.moved(point.channel, point.value)
            if not frame.dark and frame.probe_current is not None and frame.dwell_time is not None:
                scan = Scan(frame.rows, frame.columns, frame.pixel_size * frame.columns, frame.dwell_time)
                ledger.add(ledger.coming(scan, frame.probe_current))
        for point in moves:
            ledger.moved(point.channel, point.value)
        for correction in told:
            if correction.kind == EXPOSURE:
                ledger.add(field_from_json(correction.data))
        return ledger

    def moved(self, channel: str, value: float) -> None:
        """Note where a parameter was sent, SI; of those that do not choose the field nothing is noted."""
        if channel in AXES:
            self.axes[channel] = value

    def took(self, frame: Frame, otherwise: float) -> None:
        """Note what a kept frame brought: by the probe current that was read, or ``otherwise`` (A)."""
        beam, (rows, columns) = frame.beam, frame.shape
        if frame.dark or beam.dwell_time is None:
            return
        scan = Scan(rows, columns, beam.pixel_size * columns, beam.dwell_time)
        self.add(self.coming(scan, otherwise if beam.probe_current is None else beam.probe_current))

    def coming(self, scan: Scan, current: float) -> Field:
        """Return what a frame would bring where the field stands; ``current`` in A."""
        return field_of(scan, current, self.axes)

    def add(self, brought: Field) -> None:
        """Note what a frame brought."""
        key = (*brought.x, *brought.y)
        self._brought[key] = self._brought.get(key, 0.0) + brought.dose

    def after(self, coming: Field) -> float:
        """Return the highest dose (C/m²) of any point of a field, once it has had one frame more."""
        inside = [
            (low_x, high_x, low_y, high_y, dose)
            for (low_x, high_x, low_y, high_y), dose in self._brought.items()
            if low_x < coming.x[1] and high_x > coming.x[0] and low_y < coming.y[1] and high_y > coming.y[0]
        ]
        return coming.dose + _highest(inside, coming)

    def allows(self, coming: Field) -> bool:
        """Return whether a frame keeps every point within the limit."""
        return self.limit is None or self.after(coming) <= self.limit * (1.0 + 1e-9)

    @property
    def highest(self) -> float:
        """The highest dose that any point has had, C/m²."""
        everywhere = Field((-math.inf, math.inf), (-math.inf, math.inf), 0.0)
        return _highest([(*key, dose) for key, dose in self._brought.items()], everywhere)


def _highest(fields: list[tuple[float, float, float, float, float]], within: Field) -> float:
    """Return the highest sum of the doses of overlapping fields, inside a window: by their edges, a grid."""
    if not fields:
        return 0.0
    rows = np.array(fields, dtype=np.float64)
    x_low, x_high = np.maximum(rows[:, 0], within.x[0]), np.minimum(rows[:, 1], within.x[1])
    y_low, y_high = np.maximum(rows[:, 2], within.y[0]), np.minimum(rows[:, 3], within.y[1])
    xs, ys = np.unique(np.concatenate([x_low, x_high])), np.unique(np.concatenate([y_low, y_high]))
    grid = np.zeros((len(ys), len(xs)))
    for sign_x, x in ((1.0, x_low), (-1.0, x_high)):
        for sign_y, y in ((1.0, y_low), (-1.0, y_high)):
            np.add.at(grid, (np.searchsorted(ys, y), np.searchsorted(xs, x)), sign_x * sign_y * rows[:, 4])
    return float(grid.cumsum(axis=0).cumsum(axis=1).max(initial=0.0))


def field_to_json(brought: Field) -> dict[str, Any]:
    """Return a field as JSON data, m and C/m²."""
    return {"x": list(brought.x), "y": list(brought.y), "dose": {"value": brought.dose, "unit": "C/m**2"}}


def field_from_json(data: Mapping[str, Any]) -> Field:
    """Return the field that :func:`field_to_json` wrote."""
    return Field((data["x"][0], data["x"][1]), (data["y"][0], data["y"][1]), data["dose"]["value"])
