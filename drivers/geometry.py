"""Frames of reference, and the one place where a direction from a pixel meets a segment.

The convention, in one picture (right-handed; the image as it is displayed)::

        column 0   1   2  …            y
      row 0  ┌───┬───┬───┬──            ▲
             │ ● │   │   │              │   azimuth: counter-clockwise from +x
      row 1  ├───┼───┼───┼──            │
             │   │   │   │              └─────► x   along the fast scan
      row 2  └───┴───┴───┴──           z towards the column, out of the screen

The centre ● of pixel (row r, column c) lies at x = (c + ½)·p, y = −(r + ½)·p from the image's top left corner;
a height map's nodes are its pixel centres. The optical axis passes through the middle of the field.

Signs, worked out once. A face whose upward normal leans towards a segment is bright in it::

       segment W (azimuth 180°)                    segment E (azimuth 0°)
             ▁▁▁▁▁▁▁▁▁▁▁▁          ║          ▁▁▁▁▁▁▁▁▁▁▁▁
                                  beam
          bump:  normal ↖  ╱▔▔▔╲  ↗ normal      the east face is bright in E
          pit:       ▔▔▔╲       ╱▔▔▔
                    normal ↗ ╲▁╱ ↖ normal       the WEST face is bright in E

A surface z(x, y) has the upward normal (−∂z/∂x, −∂z/∂y, 1): brightness in the segment at azimuth α grows with
−(∂z/∂x·cos α + ∂z/∂y·sin α).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from drivers.errors import InputError
from drivers.units import KEV

Floats = NDArray[np.float64]

TABLE_COLUMNS = (
    "inner_radius_squared",
    "outer_radius_squared",
    "cos_azimuth",
    "sin_azimuth",
    "cos_half_span",
)


@dataclass(frozen=True, slots=True)
class Segment:
    """One electrode of an annular diode.

    Attributes
    ----------
    name : str
    inner_radius, outer_radius : float, m
    azimuth : float, rad
        Of the segment's middle, counter-clockwise from +x as displayed, before the detector's rotation.
    span : float, rad
        Of azimuth that the segment covers; 2π is a full ring.
    """

    name: str
    inner_radius: float
    outer_radius: float
    azimuth: float
    span: float

    def __post_init__(self) -> None:
        if not 0 <= self.inner_radius < self.outer_radius or not math.isfinite(self.outer_radius):
            raise InputError(
                f"segment {self.name}: expected 0 ≤ inner radius < outer radius; got "
                f"{self.inner_radius * 1e3:g} mm and {self.outer_radius * 1e3:g} mm"
            )
        if not 0 < self.span <= 2 * math.pi + 1e-9:
            raise InputError(
                f"segment {self.name}: expected a span above 0 and up to 360 deg; got {math.degrees(self.span):g} deg"
            )

    def overlaps(self, other: Segment) -> bool:
        """Return whether the two electrodes would cover a common area."""
        rings = self.inner_radius < other.outer_radius and other.inner_radius < self.outer_radius
        apart = abs(wrap_angle(self.azimuth - other.azimuth))
        return rings and apart < (self.span + other.span) / 2 - 1e-9


@dataclass(frozen=True, slots=True)
class DetectorGeometry:
    """An annular, segmented backscatter detector above the sample.

    Attributes
    ----------
    segments : tuple of Segment
    working_distance : float, m
        From the sample's reference plane z = 0 to the plane of the diode.
    centre_offset : (float, float), m
        Of the diode's centre from the optical axis, in x and y.
    rotation : float, rad
        Of the diode about its centre, counter-clockwise as displayed.
    threshold : float, J
        Energy below which the diode gives no signal; above it the signal grows as E − threshold.
    """

    segments: tuple[Segment, ...]
    working_distance: float
    centre_offset: tuple[float, float] = (0.0, 0.0)
    rotation: float = 0.0
    threshold: float = 0.0

    def __post_init__(self) -> None:
        if not self.segments:
            raise InputError("a detector needs one segment at least; got none")
        if not (math.isfinite(self.working_distance) and self.working_distance > 0):
            raise InputError(f"expected a working distance above 0 mm; got {self.working_distance * 1e3:g} mm")
        if not (math.isfinite(self.threshold) and self.threshold >= 0):
            raise InputError(f"expected a diode threshold of 0 keV or more; got {self.threshold / KEV:g} keV")
        names = [segment.name for segment in self.segments]
        if len(set(names)) != len(names):
            raise InputError(f"segments need different names; got {', '.join(names)}")
        for one, other in combinations(self.segments, 2):
            if one.overlaps(other):
                raise InputError(
                    f"segments {one.name} and {other.name} overlap; change the azimuth, span or radii of one"
                )

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the segments, in the order of the signal's first axis."""
        return tuple(segment.name for segment in self.segments)

    @property
    def azimuths(self) -> Floats:
        """Azimuths of the segments' middles as displayed, rotation included. Shape (S,), rad."""
        return np.array([segment.azimuth + self.rotation for segment in self.segments])

    def at(self, working_distance: float) -> DetectorGeometry:
        """Return the same detector at another working distance (m)."""
        return replace(self, working_distance=working_distance)

    def table(self) -> Floats:
        """Return what :func:`meets` needs of each segment: shape (S, 5), columns ``TABLE_COLUMNS``, SI.

        The columns are r_in², r_out² (m²), cos and sin of the displayed azimuth, and cos(span / 2).
        """
        return np.array(
            [
                (
                    segment.inner_radius**2,
                    segment.outer_radius**2,
                    math.cos(segment.azimuth + self.rotation),
                    math.sin(segment.azimuth + self.rotation),
                    # A full ring has no seam, whatever rounding does to cos π.
                    math.cos(segment.span / 2) if segment.span < 2 * math.pi - 1e-9 else -2.0,
                )
                for segment in self.segments
            ]
        )

    def segment_of(self, positions: Floats, directions: Floats) -> NDArray[np.int64]:
        """Return which segment a straight flight meets.

        Parameters
        ----------
        positions : (..., 2) array, m
            x and y of the point of exit, from the optical axis.
        directions : (..., 3) array
            Unit vectors of the flight; z towards the column.

        Returns
        -------
        (...) array of int
            Index of the segment, or −1 where the electron flies past all of them.
        """
        upward = directions[..., 2] > 0
        rise = np.where(upward, directions[..., 2], 1.0)
        x = positions[..., 0] + self.working_distance * directions[..., 0] / rise - self.centre_offset[0]
        y = positions[..., 1] + self.working_distance * directions[..., 1] / rise - self.centre_offset[1]
        found = np.full(x.shape, -1, dtype=np.int64)
        for index, row in enumerate(self.table()):
            found[upward & meets(x, y, *row)] = index
        return found


def meets(
    x: Any,
    y: Any,
    inner_radius_squared: float,
    outer_radius_squared: float,
    cos_azimuth: float,
    sin_azimuth: float,
    cos_half_span: float,
) -> Any:
    """Return whether the point (x, y) of the diode's plane lies on a segment.

    Lengths in m from the diode's centre; the other arguments are one row of :meth:`DetectorGeometry.table`.
    Plain arithmetic without branches, so that it takes floats and arrays, and compiles with numba.

    The azimuth test needs no arctangent: |φ − α| ≤ span/2 ⇔ x·cos α + y·sin α ≥ r·cos(span/2).
    """
    radius_squared = x * x + y * y
    along = x * cos_azimuth + y * sin_azimuth
    return (
        (radius_squared >= inner_radius_squared)
        & (radius_squared < outer_radius_squared)
        & (along >= radius_squared**0.5 * cos_half_span)
    )


def annular(
    count: int,
    inner_radius: float,
    outer_radius: float,
    working_distance: float,
    first_azimuth: float = 0.0,
    threshold: float = 0.0,
    names: Iterable[str] | None = None,
) -> DetectorGeometry:
    """Return a ring cut into ``count`` equal segments.

    Parameters
    ----------
    count : int
    inner_radius, outer_radius, working_distance : float, m
    first_azimuth : float, rad
        Of the first segment's middle; the others follow counter-clockwise.
    threshold : float, J
    names : iterable of str, optional
        A, B, C, … unless given.
    """
    if count < 1:
        raise InputError(f"a detector needs one segment at least; got {count}")
    span = 2 * math.pi / count
    labels = list(names) if names is not None else [chr(ord("A") + index) for index in range(count)]
    if len(labels) != count:
        raise InputError(f"expected {count} segment names; got {len(labels)}")
    segments = tuple(
        Segment(label, inner_radius, outer_radius, first_azimuth + index * span, span)
        for index, label in enumerate(labels)
    )
    return DetectorGeometry(segments, working_distance, threshold=threshold)


def wrap_angle(angle: float) -> float:
    """Return the angle (rad) in [−π, π)."""
    return (angle + math.pi) % (2 * math.pi) - math.pi


def pixel_positions(shape: tuple[int, int], pixel_size: float) -> tuple[Floats, Floats]:
    """Return x (columns,) and y (rows,) of the pixel centres from the optical axis, in the unit of ``pixel_size``.

    The axis passes through the middle of the field: x = (c + ½ − W/2)·p, y = (H/2 − r − ½)·p.
    """
    rows, columns = shape
    x = (np.arange(columns) + 0.5 - columns / 2) * pixel_size
    y = (rows / 2 - np.arange(rows) - 0.5) * pixel_size
    return np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)


def gradient(z: NDArray[np.floating], pixel_size: float) -> tuple[Floats, Floats]:
    """Return ∂z/∂x and ∂z/∂y of a height map by central differences, y against the rows. Shapes (H, W)."""
    down, along = np.gradient(np.asarray(z, dtype=np.float64), pixel_size)
    return np.asarray(along), -np.asarray(down)
