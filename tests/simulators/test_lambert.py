from __future__ import annotations

import math

import numpy as np
import pytest

from drivers.geometry import DetectorGeometry, Segment, annular
from drivers.sample import HeightMap
from simulators.lambert import counted, lambert_directions, ring_fraction, tilted_fraction
from simulators.scene import Stage

FLAT = HeightMap(np.zeros((4, 4)), 1e-7)
N = 60_000


def within_three_sigma(found: np.ndarray, expected: np.ndarray) -> None:
    sigma = np.sqrt(N * expected * (1 - expected))
    assert (np.abs(found - N * expected) < 3 * sigma + 1).all()


@pytest.mark.parametrize(
    "geometry",
    [
        annular(1, 1e-3, 8e-3, 8e-3),
        annular(3, 2e-3, 8e-3, 5e-3, first_azimuth=0.3),
        annular(4, 2e-3, 8e-3, 8e-3),
        annular(6, 1.5e-3, 10e-3, 10e-3),
        DetectorGeometry((Segment("inner", 0, 2e-3, 0, 2 * math.pi), Segment("arc", 3e-3, 6e-3, 1.0, 0.7)), 6e-3),
    ],
)
def test_rings_and_segments_of_a_level_emitter(geometry: DetectorGeometry) -> None:
    expected = ring_fraction(geometry)
    np.testing.assert_allclose(tilted_fraction(geometry, 0.0, 0.0), expected, rtol=1e-4)
    directions = lambert_directions(np.random.default_rng(1), N)
    within_three_sigma(counted(geometry, Stage(), FLAT, (2, 1), directions), expected)


@pytest.mark.parametrize(("tilt", "azimuth"), [(20, 0), (35, 130), (60, 250)])
def test_tilted_emitters_by_quadrature(tilt: float, azimuth: float) -> None:
    four = annular(4, 2e-3, 8e-3, 8e-3)
    detector = DetectorGeometry(four.segments, 8e-3, centre_offset=(0.4e-3, -0.2e-3), rotation=0.2)
    stage = Stage(math.radians(tilt), math.radians(azimuth))
    expected = tilted_fraction(detector, stage.tilt, stage.azimuth)
    directions = lambert_directions(np.random.default_rng(2), N)
    within_three_sigma(counted(detector, stage, FLAT, (1, 3), directions), expected)
    brightest = int(np.argmax(expected))
    assert math.cos(detector.azimuths[brightest] - stage.azimuth) > 0.6


def test_a_pixel_far_from_the_axis() -> None:
    four = annular(4, 2e-3, 8e-3, 8e-3)
    field = HeightMap(np.zeros((3, 3)), 1.5e-3)  # the outer pixels lie 1.5 mm from the axis
    expected = tilted_fraction(four, 0.0, 0.0, (-1.5e-3, 1.5e-3))
    directions = lambert_directions(np.random.default_rng(3), N)
    within_three_sigma(counted(four, Stage(), field, (0, 0), directions), expected)


def test_the_kernel_and_the_shared_geometry_agree_one_by_one() -> None:
    detector = annular(5, 1e-3, 9e-3, 7e-3, first_azimuth=0.5)
    directions = lambert_directions(np.random.default_rng(4), 5000)
    shared = np.bincount(detector.segment_of(np.zeros((5000, 2)), directions) + 1, minlength=6)[1:]
    even = HeightMap(np.zeros((1, 1)), 1e-9)
    assert np.abs(counted(detector, Stage(), even, (0, 0), directions) - shared).max() <= 1
