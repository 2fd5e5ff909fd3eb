"""Closed forms to hold the geometry against: a surface that emits by Lambert's cosine law.

They share no code with the transport, nor with the test of where a direction meets a segment, so that an error of sign
or geometry cannot cancel.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from drivers.geometry import DetectorGeometry
from drivers.sample import HeightMap
from simulators.scene import Stage, build_diode

Floats = NDArray[np.float64]


def ring_fraction(geometry: DetectorGeometry) -> Floats:
    """Return the share of a level Lambert emitter, on the axis of a centred detector, that each segment gets.

    sin²θ2 − sin²θ1 between the angles of its radii, times its share of the turn. Shape (S,).
    """
    d2 = geometry.working_distance**2
    return np.array(
        [
            (s.outer_radius**2 / (s.outer_radius**2 + d2) - s.inner_radius**2 / (s.inner_radius**2 + d2))
            * s.span
            / (2.0 * math.pi)
            for s in geometry.segments
        ]
    )


def tilted_fraction(
    geometry: DetectorGeometry,
    tilt: float,
    azimuth: float,
    position: tuple[float, float] = (0.0, 0.0),
    steps: int = 400,
) -> Floats:
    """Return the share of a tilted Lambert plane that each segment gets, by the midpoint rule over its area.

    A patch dA of the diode at the vector q from the pixel gets cos(exit) cos(arrival) dA / (π q²).

    Parameters
    ----------
    geometry : DetectorGeometry
    tilt, azimuth : float, rad
        By how much the surface's normal leans, and towards which azimuth as displayed.
    position : (float, float), m
        Of the pixel from the optical axis.
    steps : int
        In radius and in azimuth.

    Returns
    -------
    (S,) array
    """
    normal = (math.sin(tilt) * math.cos(azimuth), math.sin(tilt) * math.sin(azimuth), math.cos(tilt))
    middle = (np.arange(steps) + 0.5) / steps
    result = []
    for s in geometry.segments:
        r = (s.inner_radius + (s.outer_radius - s.inner_radius) * middle)[:, None]
        phi = (s.azimuth + geometry.rotation + s.span * (middle - 0.5))[None, :]
        x = geometry.centre_offset[0] + r * np.cos(phi) - position[0]
        y = geometry.centre_offset[1] + r * np.sin(phi) - position[1]
        z = geometry.working_distance
        squared = x * x + y * y + z * z
        leaving = np.maximum(normal[0] * x + normal[1] * y + normal[2] * z, 0.0)
        area = r * (s.outer_radius - s.inner_radius) / steps * s.span / steps
        result.append(float((leaving * z * area / (math.pi * squared**2)).sum()))
    return np.array(result)


def lambert_directions(rng: np.random.Generator, count: int) -> Floats:
    """Return directions that leave a level plane by the cosine law. Shape (count, 3)."""
    radius, angle = np.sqrt(rng.random(count)), rng.uniform(0, 2 * math.pi, count)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle), np.sqrt(1.0 - radius**2)], axis=-1)


def counted(
    geometry: DetectorGeometry, stage: Stage, height: HeightMap, pixel: tuple[int, int], directions: Floats
) -> NDArray[np.int64]:
    """Send directions of the sample's frame through the kernel's own test of the segments.

    Parameters
    ----------
    geometry : DetectorGeometry
    stage : Stage
    height : HeightMap
    pixel : (row, column)
        Where they start, on the surface.
    directions : (n, 3) array

    Returns
    -------
    (S,) int array
        How many met each segment.
    """
    from simulators.kernels import segment_met

    diode: Any = build_diode(geometry, stage, height)
    row, column = pixel
    w = float(height.z[row, column]) / height.pixel_size
    counts = np.zeros(len(geometry.segments), dtype=np.int64)
    for x, y, z in directions.astype(np.float32):
        index = segment_met(diode, np.float32(column), np.float32(row), np.float32(w), x, -y, z)
        if index >= 0:
            counts[index] += 1
    return counts
