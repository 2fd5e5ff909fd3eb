"""Frames of reference and their signs; where a direction meets a segment."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivers.errors import InputError
from drivers.geometry import (
    DetectorGeometry,
    Segment,
    annular,
    gradient,
    meets,
    pixel_positions,
    wrap_angle,
)
from drivers.sample import HeightMap

EAST, NORTH, WEST, SOUTH = range(4)


def four() -> DetectorGeometry:
    return annular(4, 2e-3, 8e-3, 8e-3, names=["E", "N", "W", "S"])


def normal_of(slope_x: float, slope_y: float) -> np.ndarray:
    normal = np.array([-slope_x, -slope_y, 1.0])
    return normal / np.linalg.norm(normal)


def test_pixel_zero_is_top_left_and_y_points_up():
    x, y = pixel_positions((4, 6), 10.0)
    assert x[0] == -25.0
    assert y[0] == 15.0
    assert np.all(np.diff(x) > 0)
    assert np.all(np.diff(y) < 0)
    origin = HeightMap(np.zeros((4, 6)), 10.0).origin
    assert (origin[0] + 5.0, origin[1] - 5.0) == (x[0], y[0])


def test_gradient_is_against_the_rows():
    x, y = pixel_positions((8, 9), 0.5)
    slope_x, slope_y = gradient(0.3 * x[None, :] - 0.2 * y[:, None], 0.5)
    assert slope_x == pytest.approx(0.3)
    assert slope_y == pytest.approx(-0.2)


@pytest.mark.parametrize(
    ("direction", "segment"),
    [((1, 0), EAST), ((0, 1), NORTH), ((-1, 0), WEST), ((0, -1), SOUTH)],
)
def test_a_direction_that_leans_meets_the_segment_it_leans_to(direction, segment):
    flight = np.array([*direction, 2.0])
    flight /= np.linalg.norm(flight)
    assert four().segment_of(np.zeros(2), flight) == segment


def test_faces_of_pit_and_bump_lean_to_opposite_segments():
    """The east face of a bump falls towards +x and leans east; the east face of a pit rises and leans west."""
    bump_east_face, pit_east_face = normal_of(-0.5, 0.0), normal_of(0.5, 0.0)
    detector = four()
    assert detector.segment_of(np.zeros(2), bump_east_face) == EAST
    assert detector.segment_of(np.zeros(2), pit_east_face) == WEST


@given(st.floats(0, 2 * math.pi), st.floats(0.0, 1.5), st.integers(3, 6))
def test_vectors_and_angles_agree(azimuth, take_off, count):
    """The branch-free test of a segment against the plain one with arctangent and wrap."""
    detector = annular(count, 2e-3, 8e-3, 8e-3, first_azimuth=0.3)
    flight = np.array(
        [math.sin(take_off) * math.cos(azimuth), math.sin(take_off) * math.sin(azimuth), math.cos(take_off)]
    )
    radius = 8e-3 * math.tan(take_off)
    expected = -1
    for index, segment in enumerate(detector.segments):
        inside = segment.inner_radius <= radius < segment.outer_radius
        edge = abs(abs(wrap_angle(azimuth - segment.azimuth)) - segment.span / 2)
        if edge < 1e-9 or abs(radius - segment.inner_radius) < 1e-12 or abs(radius - segment.outer_radius) < 1e-12:
            return
        if inside and abs(wrap_angle(azimuth - segment.azimuth)) <= segment.span / 2:
            expected = index
    assert detector.segment_of(np.zeros(2), flight) == expected


def test_downward_flight_meets_nothing():
    assert four().segment_of(np.zeros(2), np.array([0.6, 0.0, -0.8])) == -1


@pytest.mark.parametrize("count", [1, 3, 4, 5, 6])
def test_flat_lambert_emitter_closed_form(count):
    """A flat Lambert emitter sends sin²θ₂ − sin²θ₁ into a ring: exact stratified sampling of its directions."""
    detector = annular(count, 2e-3, 8e-3, 8e-3)
    strata, turns = 4000, 720
    sine = np.sqrt((np.arange(strata) + 0.5) / strata)
    azimuth = (np.arange(turns) + 0.5) * 2 * math.pi / turns
    directions = np.empty((strata, turns, 3))
    directions[..., 0] = sine[:, None] * np.cos(azimuth)
    directions[..., 1] = sine[:, None] * np.sin(azimuth)
    directions[..., 2] = np.sqrt(1 - sine**2)[:, None]
    hit = detector.segment_of(np.zeros(2), directions)
    ring = math.sin(math.atan(1.0)) ** 2 - math.sin(math.atan(0.25)) ** 2
    for index in range(count):
        assert np.mean(hit == index) == pytest.approx(ring / count, rel=3e-3)


def test_position_counts_like_a_shift_of_the_detector():
    detector, shift = four(), 3e-4
    moved = DetectorGeometry(detector.segments, detector.working_distance, centre_offset=(-shift, 0.0))
    generator = np.random.default_rng(1)
    flights = generator.normal(size=(2000, 3))
    flights[:, 2] = np.abs(flights[:, 2])
    flights /= np.linalg.norm(flights, axis=1, keepdims=True)
    at_pixel = detector.segment_of(np.array([shift, 0.0]), flights)
    assert np.array_equal(at_pixel, moved.segment_of(np.zeros(2), flights))


def test_rotation_turns_the_segments_counter_clockwise():
    detector = four()
    turned = DetectorGeometry(detector.segments, detector.working_distance, rotation=math.pi / 2)
    east = np.array([1.0, 0.0, 2.0]) / math.sqrt(5)
    assert turned.segment_of(np.zeros(2), east) == SOUTH
    assert turned.azimuths[EAST] == pytest.approx(math.pi / 2)


def test_meets_takes_numbers_and_arrays():
    row = four().table()[EAST]
    assert meets(4e-3, 0.0, *row)
    assert list(meets(np.array([4e-3, -4e-3]), np.zeros(2), *row)) == [True, False]


BAD = {
    "overlap": lambda: DetectorGeometry((Segment("A", 1e-3, 2e-3, 0, 2.0), Segment("B", 1e-3, 2e-3, 0.5, 2.0)), 8e-3),
    "same name": lambda: DetectorGeometry((Segment("A", 1e-3, 2e-3, 0, 1), Segment("A", 1e-3, 2e-3, 3, 1)), 8e-3),
    "radii": lambda: Segment("A", 2e-3, 1e-3, 0, 1),
    "span": lambda: Segment("A", 1e-3, 2e-3, 0, 7),
    "distance": lambda: annular(4, 1e-3, 2e-3, 0.0),
    "none": lambda: annular(0, 1e-3, 2e-3, 8e-3),
    "threshold": lambda: annular(4, 1e-3, 2e-3, 8e-3, threshold=-1.0),
}


@pytest.mark.parametrize("make", BAD.values(), ids=BAD.keys())
def test_impossible_geometry_is_refused(make):
    with pytest.raises(InputError):
        make()
