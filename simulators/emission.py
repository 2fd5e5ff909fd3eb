"""Which electrons a tilted surface sends where, and how much of it each segment collects.

A law tells the energy that a surface radiates into each direction. :func:`segment_table` integrates it over the real
segments by quadrature, once for each geometry, on a grid of surface normals from which the renderer interpolates.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from drivers.geometry import DetectorGeometry
from drivers.units import KEV

Floats = NDArray[np.float64]

SPAN = 0.92
"""Edge of the table: tan(θ/2) of the steepest normal, θ = 85.2°."""
NODES = 97
"""Normals along each side of the table, 2.2° apart."""


class EmissionLaw(Hashable, Protocol):
    """How a material radiates backscattered electrons at one beam energy; Monte Carlo made :mod:`simulators.tables`."""

    def radiance(self, tilt: Floats, directions: Floats, threshold: float) -> Floats:
        """Return the energy above the diode's threshold that leaves the surface.

        Parameters
        ----------
        tilt : (n, 1) array, rad
            Between the surface's normal and the beam; the normal leans towards +x.
        directions : (n, q, 3) array
            Unit vectors of flight.
        threshold : float, keV

        Returns
        -------
        (n, q) array, keV/sr
            For each electron of the probe.
        """

    def deposit(self, threshold: float) -> tuple[float, float]:
        """Return mean and mean square of the energy above ``threshold`` (keV) of electrons from a flat surface."""


@dataclass(frozen=True)
class SegmentTable:
    """What each segment collects from each normal.

    Attributes
    ----------
    values : (NODES, NODES, S, 3) float32 array, keV and keV/m
        Axes: v, u, segment, and (energy for an electron of the probe, its derivatives along the pixel's x and y).
        (u, v) = tan(θ/2)·(direction in which the normal leans), from −SPAN to SPAN.
    flat : (S,) array, keV
        Of a flat surface on the axis.
    """

    values: NDArray[np.float32]
    flat: Floats


def quadrature(geometry: DetectorGeometry, position: tuple[float, float], order: int = 8) -> tuple[Floats, Floats]:
    """Return directions (S·q, 3) from a pixel to the segments' nodes, and solid angles (S, q) in sr.

    Gauss–Legendre in r² and azimuth; ``position`` (m) of the pixel from the optical axis.
    """
    nodes, weights = np.polynomial.legendre.leggauss(order)
    directions, angles = [], []
    distance = geometry.working_distance
    for segment in geometry.segments:
        mean = (segment.outer_radius**2 + segment.inner_radius**2) / 2
        half = (segment.outer_radius**2 - segment.inner_radius**2) / 2
        radius = np.sqrt(mean + half * nodes)[:, None]
        azimuth = (segment.azimuth + geometry.rotation + segment.span / 2 * nodes)[None, :]
        x = radius * np.cos(azimuth) + geometry.centre_offset[0] - position[0]
        y = radius * np.sin(azimuth) + geometry.centre_offset[1] - position[1]
        length = np.sqrt(x**2 + y**2 + distance**2)
        area = np.outer(weights * half / 2, weights * segment.span / 2)  # r dr = d(r²)/2
        angles.append((area * distance / length**3).ravel())
        directions.append(np.stack([x / length, y / length, distance / length], axis=-1).reshape(-1, 3))
    return np.concatenate(directions), np.array(angles)


def collect(
    law: EmissionLaw, geometry: DetectorGeometry, u: Floats, v: Floats, position: tuple[float, float] = (0.0, 0.0)
) -> Floats:
    """Return what the segments collect from normals (u, v), each (n,), in keV for each electron. Shape (n, S)."""
    directions, angles = quadrature(geometry, position)
    length = np.hypot(u, v)
    tilt = 2.0 * np.arctan(length)
    cosine, sine = np.where(length > 0, (u, v), ((1.0,), (0.0,))) / np.where(length > 0, length, 1.0)
    # Turn the directions, not the surface, so that its normal leans towards +x.
    turned = np.empty((u.size, len(directions), 3))
    turned[..., 0] = np.outer(cosine, directions[:, 0]) + np.outer(sine, directions[:, 1])
    turned[..., 1] = np.outer(cosine, directions[:, 1]) - np.outer(sine, directions[:, 0])
    turned[..., 2] = directions[:, 2]
    radiance = law.radiance(tilt[:, None], turned, geometry.threshold / KEV)
    return np.asarray(np.einsum("nsq,sq->ns", radiance.reshape(u.size, len(geometry.segments), -1), angles))


@lru_cache(maxsize=16)
def segment_table(law: EmissionLaw, geometry: DetectorGeometry) -> SegmentTable:
    """Return the table of a law and a geometry; takes some tenths of a second the first time."""
    side = np.linspace(-SPAN, SPAN, NODES)
    shift = 1e-4  # m: small against the detector, large against rounding
    values = np.empty((NODES, NODES, len(geometry.segments), 3), dtype=np.float32)
    for row, v in enumerate(side):
        line = np.full(NODES, v)
        centre = collect(law, geometry, side, line)
        values[row, :, :, 0] = centre
        values[row, :, :, 1] = (collect(law, geometry, side, line, (shift, 0.0)) - centre) / shift
        values[row, :, :, 2] = (collect(law, geometry, side, line, (0.0, shift)) - centre) / shift
    flat = collect(law, geometry, np.zeros(1), np.zeros(1))[0]
    return SegmentTable(np.ascontiguousarray(values), flat)
