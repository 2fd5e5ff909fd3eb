from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from drivers.errors import InputError
from drivers.geometry import DetectorGeometry, Segment, annular, meets
from reconstruction.basis import emission_basis
from reconstruction.response import check_reach, segment_response

BASIS = emission_basis()
OFFSET = replace(annular(3, 2e-3, 8e-3, 8e-3, first_azimuth=0.4), centre_offset=(0.7e-3, -0.4e-3), rotation=0.3)
CASES = {
    "four": annular(4, 2e-3, 8e-3, 8e-3),
    "six, near": annular(6, 1.5e-3, 10e-3, 5e-3, first_azimuth=0.2),
    "offset and turned": OFFSET,
    "half rings": annular(2, 3e-3, 6e-3, 10e-3, first_azimuth=1.0),
    "unlike": DetectorGeometry(
        (Segment("disc", 0.0, 1e-3, 0.0, 2 * math.pi), Segment("arc", 4e-3, 9e-3, 2.0, math.radians(200))), 6e-3
    ),
}


def lattice(count):
    """Evenly spread directions over the cap: a Fibonacci lattice, shifted at random. Arrays and their solid angle."""
    rng = np.random.default_rng(1)
    index = np.arange(count) + rng.random()
    z = 1 - (1 - BASIS.lowest) * index / count
    azimuth = index * np.pi * (3 - np.sqrt(5)) + rng.random()
    ring = np.sqrt(1 - np.minimum(z, 1) ** 2)
    return ring * np.cos(azimuth), ring * np.sin(azimuth), z, 2 * np.pi * (1 - BASIS.lowest) / count


@pytest.mark.parametrize("name", CASES)
def test_responses_are_what_directions_that_meet_segments_add_up_to(name):
    geometry = CASES[name]
    x, y, z, solid = lattice(400_000)
    at_x = geometry.working_distance * x / z - geometry.centre_offset[0]
    at_y = geometry.working_distance * y / z - geometry.centre_offset[1]
    functions = np.stack([np.broadcast_to(f, z.shape) for f in BASIS(x, y, z)])
    counted = np.stack([functions[:, meets(at_x, at_y, *row)].sum(axis=1) * solid for row in geometry.table()])
    found = segment_response(geometry, BASIS).numpy()
    assert found.shape == (len(geometry.segments), len(BASIS))
    np.testing.assert_allclose(found, counted, atol=1.5e-3 * np.abs(counted).max())


def lambert_coefficients():
    c = np.zeros(len(BASIS))
    functions = np.stack(BASIS(np.zeros(2), np.zeros(2), np.array([BASIS.lowest, 1.0])))
    # d_z is a sum of the first two functions: solve for them at two directions on the axis.
    c[:2] = np.linalg.solve(functions[:2].T, np.array([BASIS.lowest, 1.0]) / np.pi)
    return c


@pytest.mark.parametrize(("inner", "outer", "distance"), [(0.0, 4e-3, 8e-3), (2e-3, 8e-3, 8e-3), (1.5e-3, 10e-3, 5e-3)])
@pytest.mark.parametrize("count", [1, 4])
def test_a_ring_under_a_lambert_emitter_gets_the_difference_of_sine_squares(inner, outer, distance, count):
    response = segment_response(annular(count, inner, outer, distance), BASIS).numpy()
    sines = [radius**2 / (radius**2 + distance**2) for radius in (inner, outer)]
    signals = response @ lambert_coefficients()
    np.testing.assert_allclose(signals, (sines[1] - sines[0]) / count, rtol=2e-6)


def test_a_closed_ring_on_the_axis_sees_no_azimuth():
    response = segment_response(annular(4, 2e-3, 8e-3, 8e-3), BASIS).sum(dim=0).numpy()
    # Of m = 4 the four quadrants cancel as well; what is left is m = 0.
    np.testing.assert_allclose(response[BASIS.order > 0], 0, atol=1e-10)
    assert response[0] > 0


@pytest.mark.parametrize("name", ["four", "offset and turned", "half rings"])
def test_derivatives_by_the_hardware_are_exact(name):
    geometry = CASES[name]
    start = torch.tensor([geometry.working_distance, *geometry.centre_offset, geometry.rotation], dtype=torch.float64)

    def respond(values):
        return segment_response(geometry, BASIS, values[0], values[1:3], values[3])

    np.testing.assert_allclose(respond(start).numpy(), segment_response(geometry, BASIS).numpy(), atol=1e-15)
    slopes = torch.autograd.functional.jacobian(respond, start).numpy()
    for index, step in enumerate((1e-6, 1e-6, 1e-6, 1e-5)):
        move = torch.zeros(4, dtype=torch.float64)
        move[index] = step
        numeric = ((respond(start + move) - respond(start - move)) / (2 * step)).numpy()
        np.testing.assert_allclose(slopes[..., index], numeric, atol=1e-6 * np.abs(numeric).max())
    assert np.abs(slopes).max(axis=(0, 1)).min() > 0


def test_a_shifted_centre_is_the_geometry_with_that_offset():
    shift = torch.tensor([0.3e-3, 0.1e-3], dtype=torch.float64)
    geometry = CASES["four"]
    moved = replace(geometry, centre_offset=(0.3e-3, 0.1e-3), rotation=0.05)
    np.testing.assert_allclose(
        segment_response(geometry, BASIS, centre=shift, rotation=0.05).numpy(), segment_response(moved, BASIS).numpy()
    )


def test_turning_the_detector_a_quarter_turns_the_emission():
    turned = segment_response(replace(OFFSET, centre_offset=(0.4e-3, 0.7e-3), rotation=0.3 + math.pi / 2), BASIS)
    coefficients = np.random.default_rng(2).normal(size=len(BASIS))
    source, sign = BASIS.turned(1, False)
    np.testing.assert_allclose(
        turned.numpy() @ (sign * coefficients[source]), segment_response(OFFSET, BASIS).numpy() @ coefficients
    )


def test_a_detector_beyond_the_cap_is_refused():
    check_reach(annular(4, 1.5e-3, 10e-3, 5e-3))
    with pytest.raises(InputError, match=r"segment A reaches 68 deg.*ends at 67 deg.*working distance"):
        check_reach(annular(4, 2e-3, 10e-3, 4e-3))
    check_reach(annular(4, 2e-3, 11e-3, 5e-3))
    with pytest.raises(InputError, match="reaches"):
        check_reach(replace(annular(4, 2e-3, 11e-3, 5e-3), centre_offset=(0.6e-3, 0.0)))
