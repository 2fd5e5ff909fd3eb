"""Heights against surfaces whose signals are known in closed form (see conftest)."""

import dataclasses

import numpy as np
import pytest

from drivers.errors import ImageError, InputError
from drivers.geometry import annular
from reconstruction.detector import segment_law, segment_signals
from reconstruction.emission import EmissionLaw, Material, material
from reconstruction.metrology import relative_error, root_mean_square_height
from reconstruction.photometric import SATURATED, SHADOW, reconstruct

BRIGHT = 1e9
ALMOST_LAMBERT = EmissionLaw(0.0, 0.0)


def pyramid(slope=0.4, size=96, depth=1.0):
    """Slopes and heights (in pixels) of a four-sided pyramid, or pit, on a flat ground."""
    rows, columns = np.mgrid[0:size, 0:size].astype(float)
    x, y = columns - size / 2 + 0.5, size / 2 - rows - 0.5
    far = np.maximum(np.abs(x), np.abs(y))
    on = far < size / 4
    east = np.abs(x) >= np.abs(y)
    p = np.where(on & east, -np.sign(x) * slope * depth, 0.0)
    q = np.where(on & ~east, -np.sign(y) * slope * depth, 0.0)
    return p, q, depth * slope * np.maximum(size / 4 - far, 0)


@pytest.mark.parametrize(("inner", "outer", "distance"), [(2e-3, 8e-3, 8e-3), (1.5e-3, 6e-3, 5e-3)])
def test_a_flat_lambert_emitter_fills_a_ring_with_the_closed_form(inner, outer, distance):
    geometry = annular(5, inner, outer, distance)
    signals = segment_signals(geometry, EmissionLaw.of(material("Cu")), np.zeros(1), np.zeros(1))
    low, high = np.arctan([inner / distance, outer / distance])
    assert signals.sum() == pytest.approx(np.sin(high) ** 2 - np.sin(low) ** 2, rel=1e-9)


@pytest.mark.parametrize("slope", [(0.3, 0.0), (-0.5, 0.7), (0.0, -1.2)])
def test_quadrature_agrees_with_brute_force_at_any_tilt(lambert, slope):
    geometry = annular(3, 2e-3, 8e-3, 8e-3, first_azimuth=0.4)
    brute = lambert(geometry, [slope[0]], [slope[1]], rays=2_000_000)
    quick = segment_signals(geometry, ALMOST_LAMBERT, *(np.array([each]) for each in slope))
    np.testing.assert_allclose(quick, brute, rtol=3e-3)


def test_emission_into_the_hemisphere_is_the_yield():
    law = EmissionLaw.of(material("Cu"))
    x, weights = np.polynomial.legendre.leggauss(200)
    upward = (x + 1) / 2
    azimuth = (np.arange(400) + 0.5) / 400 * 2 * np.pi
    # Directions about the normal, which is tilted by 50°; those below the horizon of the beam's frame count too.
    tilt = np.radians(50)
    emission = np.sqrt(1 - upward[:, None] ** 2) * np.cos(azimuth)
    dz = upward[:, None] * np.cos(tilt) + emission * np.sin(tilt)
    intensity = law.intensity(np.full(dz.shape, np.cos(tilt)), np.broadcast_to(upward[:, None], dz.shape), dz)
    total = (intensity * weights[:, None] / 2).sum() * 2 * np.pi / 400
    assert total == pytest.approx(law.relative_yield(np.array(np.cos(tilt))), rel=1e-3)


def test_arnal_with_a_diode():
    law = EmissionLaw.of(Material("Cu", 29))
    assert law.relative_yield(np.array(np.cos(np.pi / 3))) == pytest.approx(1.685, rel=0.02)


@pytest.mark.parametrize("segments", [3, 4, 5, 6])
@pytest.mark.parametrize("depth", [1.0, -1.0])
def test_pyramids_and_pits_of_any_detector(expose, segments, depth):
    p, q, z = pyramid(depth=depth)
    result = reconstruct(expose(p, q, segments=segments, electrons=BRIGHT))
    assert relative_error(result.z / 20e-9, z) < 0.01
    middle = result.z[48, 48] - result.z[4, 4]
    assert middle == pytest.approx(depth * 0.4 * 24 * 20e-9, rel=0.05)


def test_a_pit_is_bright_on_the_side_opposite_to_the_segment(expose):
    p, q, _ = pyramid(depth=-1.0)
    frame = expose(p, q, electrons=BRIGHT, geometry=annular(4, 2e-3, 8e-3, 8e-3))
    east = frame.counts[0].astype(int)
    assert east[48, 30] > east[48, 66]
    assert reconstruct(frame).z[48, 48] < 0


def test_gains_are_found_and_do_not_reach_the_heights(expose):
    p, q, z = pyramid()
    gains = [1.2, 0.9, 1.0, 0.9]
    result = reconstruct(expose(p, q, electrons=BRIGHT, gains=gains))
    np.testing.assert_allclose([segment.gain for segment in result.segments], gains, rtol=5e-3)
    assert relative_error(result.z / 20e-9, z) < 0.01
    assert any("estimated" in sentence for sentence in result.assumptions)


def test_composition_cancels(expose):
    p, q, z = pyramid()
    factor = np.where(np.mgrid[0:96, 0:96][1] < 40, 0.92, 1.0)
    result = reconstruct(expose(p, q, electrons=BRIGHT, factor=factor))
    assert relative_error(result.z / 20e-9, z) < 0.01


@pytest.mark.parametrize("segments", [3, 4])
def test_sigma_is_the_error_that_noise_makes(expose, segments):
    p, q, _ = pyramid(slope=0.2)
    clean = reconstruct(expose(p, q, segments=segments, electrons=BRIGHT)).z
    errors, sigmas = [], []
    for seed in range(6):
        result = reconstruct(expose(p, q, segments=segments, electrons=3000, seed=seed))
        errors.append(result.z - clean)
        sigmas.append(result.sigma)
    assert np.std(errors) / np.mean(sigmas) == pytest.approx(1, abs=0.15)
    assert result.figures["mean_sigma"].value == pytest.approx(np.mean(sigmas) * 1e9, rel=0.2)


def test_noise_follows_the_electrons(expose):
    flat = np.zeros((64, 64))
    few, many = (reconstruct(expose(flat, flat, electrons=n)).figures["mean_sigma"].value for n in (2000, 8000))
    assert few / many == pytest.approx(2, rel=0.1)


def test_place_of_the_pixel_counts(lambert):
    geometry = annular(4, 2e-3, 8e-3, 8e-3)
    law = segment_law(geometry, EmissionLaw.of(material("Cu")))
    # A pixel 5 µm east of the axis sees what one on the axis sees of a detector 5 µm west of it.
    west = dataclasses.replace(geometry, centre_offset=(-500e-6, 0.0))
    ratios = lambert(west, [0.0], [0.0], rays=4_000_000)[:, 0]
    u = law.weights @ (ratios / ratios.sum() - law.flat)
    assert u[0] == pytest.approx(law.shift[0, 0] * 500e-6, rel=0.03)
    tilt = np.degrees(np.arctan(abs(law.shift[0, 0]) * 5e-6))
    assert 0.04 < tilt < 0.11


def test_an_unknown_offset_is_said_plainly(expose):
    p, q, _ = pyramid()
    said = reconstruct(expose(p, q, offset_known=False)).assumptions
    assert any("SCALE IS NOT KNOWN" in sentence for sentence in said)
    assert not any("SCALE IS NOT KNOWN" in sentence for sentence in reconstruct(expose(p, q)).assumptions)


def test_a_dark_frame_measures_the_offset(expose):
    p, q, z = pyramid()
    frame = expose(p, q, electrons=BRIGHT, offset=3000.0, offset_known=False)
    dark = dataclasses.replace(frame, counts=np.full(frame.counts.shape, 3000, np.uint16), dark=True)
    result = reconstruct(frame, dark=dark)
    assert relative_error(result.z / 20e-9, z) < 0.01
    assert root_mean_square_height(reconstruct(frame).z) < 0.95 * root_mean_square_height(result.z)
    with pytest.raises(InputError, match="blanked"):
        reconstruct(frame, dark=frame)


def with_counts(frame, index, value):
    counts = frame.counts.copy()
    counts[index] = value
    return dataclasses.replace(frame, counts=counts)


def test_four_segments_do_without_one(expose):
    p, q, z = pyramid()
    result = reconstruct(with_counts(expose(p, q, electrons=BRIGHT), 2, 500))
    assert relative_error(result.z / 20e-9, z) < 0.02
    assert [segment.state for segment in result.segments] == ["live", "live", "dead", "live"]
    assert any("C has no signal" in sentence for sentence in result.assumptions)


@pytest.mark.parametrize(("value", "reason"), [(500, "B has no signal"), (65535, "B is saturated")])
def test_three_segments_cannot_do_without_one(expose, value, reason):
    p, q, _ = pyramid()
    with pytest.raises(ImageError, match=reason):
        reconstruct(with_counts(expose(p, q, segments=3), 1, value))


def test_black_and_dark_frames_are_refused(expose):
    p, q, _ = pyramid()
    frame = expose(p, q)
    with pytest.raises(ImageError, match="every segment is black"):
        reconstruct(dataclasses.replace(frame, counts=np.full(frame.counts.shape, 400, np.uint16)))
    with pytest.raises(ImageError, match="every segment is saturated"):
        reconstruct(dataclasses.replace(frame, counts=np.full(frame.counts.shape, 65535, np.uint16)))
    with pytest.raises(ImageError, match="blanked"):
        reconstruct(dataclasses.replace(frame, dark=True))


def test_an_offset_that_nobody_measured_is_read_off_the_noise(expose):
    p, q, z = pyramid(slope=0.6, size=256)
    frame = expose(p, q, electrons=3000, offset=900.0, offset_known=False)
    result = reconstruct(frame)
    assert [segment.offset_source for segment in result.segments] == ["estimated"] * 4
    low, high = result.segments[0].offset_interval
    assert low < 900 < high
    assert result.figures["scale"].sigma < 0.1
    assert relative_error(result.z / 20e-9, z) < 0.05


def test_what_was_not_seen_is_flagged_and_doubted(expose):
    flat = np.zeros((96, 96))
    frame = expose(flat, flat)
    counts = frame.counts.copy()
    counts[:, 40:52, 40:52] = 600
    counts[1, 10:14, 10:14] = 65535
    result = reconstruct(dataclasses.replace(frame, counts=counts))
    assert (result.flags[42:50, 42:50] & SHADOW).all()
    assert (result.flags[10:14, 10:14] & SATURATED).all()
    assert not result.flags[70:, 70:].any()
    assert result.sigma[46, 46] > 2 * result.sigma[80, 80]


def test_the_same_frame_gives_the_same_heights(expose):
    p, q, _ = pyramid(size=288)
    frame = expose(p, q)
    first, second = reconstruct(frame), reconstruct(frame)
    np.testing.assert_array_equal(first.z, second.z)
    np.testing.assert_array_equal(first.sigma, second.sigma)


def test_unknown_materials_are_refused_with_those_that_are_known(expose):
    with pytest.raises(InputError, match="known are C, Al"):
        material("unobtainium")


def test_coverage_is_found_on_flat_and_rough_ground(expose):
    p, q, _ = pyramid(slope=0.3, size=128)
    rows, columns = np.mgrid[0:128, 0:128]
    oxide = ((rows // 16 + columns // 16) % 4) == 0
    frame = expose(p, q, electrons=40_000, factor=np.where(oxide, 0.92, 1.0))
    clean = reconstruct(expose(p, q, electrons=40_000)).flattened().mean()
    found = reconstruct(frame).coverage(reference_level=float(clean)).figure
    assert found.value == pytest.approx(oxide.mean(), abs=3 * found.sigma)
    # Copper's law leaves facets of a cosine emitter uneven by 1.3 %; what then lies between the levels counts half.
    assert found.value == pytest.approx(oxide.mean(), abs=0.08)
    assert found.sigma < 0.08


def test_roughness_and_height_range_hold_the_laws_own_doubt(expose):
    p, q, z = pyramid(slope=0.3, size=128)
    result = reconstruct(expose(p, q, electrons=40_000))
    for name in ("roughness", "height_range"):
        figure = result.figures[name]
        assert 0.12 < figure.sigma / figure.value < 0.15
    truth = root_mean_square_height(z) * result.frame.beam.pixel_size * 1e9
    roughness = result.figures["roughness"]
    assert abs(roughness.value - truth) < 2 * roughness.sigma
    assert any("roughness and height range" in sentence for sentence in result.assumptions)
