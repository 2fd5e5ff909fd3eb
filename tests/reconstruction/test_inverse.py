"""The inverse on frames that its own forward model makes: what it finds, what it flags, and what it refuses.

How well the model itself knows nature is no matter here; the benchmarks ask Monte Carlo.
"""

import dataclasses
import functools
import json
import math
import re
from datetime import UTC, datetime

import numpy as np
import pytest
import tifffile

from drivers.errors import ImageError, InputError
from drivers.frame import BeamSettings, Channel, Frame
from drivers.geometry import DetectorGeometry, Segment, annular
from drivers.units import KEV
from reconstruction.emission import electron_range
from reconstruction.files import reconstruct_files, summary, write_results
from reconstruction.heights_file import read_heights
from reconstruction.inverse import reconstruct
from reconstruction.metrology import without_plane
from reconstruction.photometric import SATURATED
from reconstruction.quality import reconstruct_frame, why_not_full
from reconstruction.solve import Effort

SIDE, PIXEL, ENERGY, OFFSET = 48, 20e-9, 5.0, 500.0
DETECTOR = annular(4, 2e-3, 8e-3, 8e-3, first_azimuth=0.2, threshold=1 * KEV)
QUICK = Effort(rounds=(2,))


def relief(shape=(SIDE, SIDE), seed=0):
    """Smooth random heights (m), 30 nm rms; waves of 100 nm and more."""
    from scipy.ndimage import gaussian_filter

    z = gaussian_filter(np.random.default_rng(seed).normal(size=shape), 4)
    return without_plane(z) * (30e-9 / z.std())


@functools.cache
def signals(shape=(SIDE, SIDE), shift=(0.0, 0.0), rotation=0.0, tilt=(0.0, 0.0), energy=ENERGY):
    """Signals of the relief (4, H, W), by the model, as a displaced, turned detector sees them."""
    import torch

    from reconstruction.fidelity import Forward, Nuisances
    from reconstruction.local_law import Condition
    from reconstruction.weights import load_model

    condition = Condition(PIXEL / electron_range("Cu", energy), energy, DETECTOR.threshold / KEV / energy)
    forward = Forward(load_model(), condition, DETECTOR, (0, 1, 2, 3), PIXEL)
    at = dataclasses.replace(
        Nuisances.none(4), shift=torch.tensor(shift), rotation=torch.tensor(rotation), tilt=torch.tensor(tilt)
    )
    with torch.no_grad():
        emitted = forward.emission(torch.from_numpy(relief(shape) / PIXEL).float(), torch.zeros(shape))
        responses = forward.responses(at)
        seen = forward.collect(emitted, responses.float(), (0, 0), shape)
        return (seen + forward.levels(responses, at)[:, None, None]).numpy()


@pytest.fixture(scope="module")
def make():
    """Return a function that makes a frame of the relief, by default of a detector that is as it is described."""

    def frame(
        shape=(SIDE, SIDE), *, gains=(1, 1, 1, 1), offsets=(0, 0, 0, 0), dose=60_000, seed=1, known=True, **moved
    ):
        expected = np.maximum(signals(shape, **moved), 0) * dose
        rng = np.random.default_rng(seed)
        factors = np.asarray(gains)[:, None, None]
        told = rng.poisson(expected) * factors + OFFSET
        told += np.asarray(offsets)[:, None, None] * expected.mean(axis=(1, 2), keepdims=True)
        counts = np.clip(np.rint(told), 0, 65535).astype(np.uint16)
        channels = tuple(
            Channel(name, offset=OFFSET, gain=1.0 if known else None, read_noise=0.0) for name in DETECTOR.names
        )
        beam = BeamSettings(moved.get("energy", ENERGY) * KEV, PIXEL, 1e-9, 1e-5)
        return Frame(counts, DETECTOR, beam, channels, datetime(2024, 5, 1, tzinfo=UTC))

    return frame


@pytest.fixture(scope="module")
def frame(make):
    return make()


@pytest.fixture(scope="module")
def full(frame):
    return reconstruct(frame)


def errors(result, shape=(SIDE, SIDE), crop=4):
    """Height errors (m), plane removed, border cropped, and σ of the same pixels."""
    inner = (slice(crop, -crop), slice(crop, -crop))
    return without_plane(np.asarray(result.z)[inner] - relief(shape)[inner]), result.sigma[inner]


def with_counts(frame, change):
    counts = np.array(frame.counts)
    change(counts)
    return dataclasses.replace(frame, counts=counts)


# -- what it finds


def test_heights_come_back_within_their_uncertainty(full, frame):
    error, sigma = errors(full)
    assert error.std() < 1e-9
    assert np.mean(np.abs(error) < 1.96 * sigma) > 0.9
    preview = errors(reconstruct(frame, quality="preview"))[0]
    assert error.std() < 0.4 * preview.std()
    assert full.quality == "full"
    assert 0.7 < full.figures["misfit"].value < 1.3
    assert {"bound", "resolution"} <= set(full.figures)
    assert not full.flags.any()


def test_an_undisturbed_detector_is_found_undisturbed(full):
    at, off = full.nuisances.nuisances, full.nuisances.errors
    gains, doubt = at.gains.numpy(), off.gains.numpy()
    assert np.all(np.abs(gains / gains.mean() - 1) < 2.6 * doubt)
    assert np.all(np.abs(at.shift.numpy()) < 2.6 * off.shift.numpy())
    assert abs(float(at.rotation)) < 2.6 * float(off.rotation)


DISTURBED = {
    "gain": {"gains": (1.05, 1, 1, 1)},
    "offset": {"offsets": (0, 0.01, 0, 0)},
    "shift": {"shift": (0.3e-3, 0.0)},
    "rotation": {"rotation": math.radians(2)},
    "tilt": {"tilt": (0.03, -0.02)},
}


@pytest.fixture(scope="module", params=DISTURBED)
def disturbed(request, make):
    return DISTURBED[request.param], reconstruct(make(**DISTURBED[request.param]))


def test_heights_survive_what_the_hardware_does(disturbed, full):
    result = disturbed[1]
    error, sigma = errors(result)
    assert error.std() < 1.35 * errors(full)[0].std()
    assert np.mean(np.abs(error) < 1.96 * sigma) > 0.9
    assert any("cannot be told apart in one frame" in sentence for sentence in result.assumptions)


def test_nuisances_lie_within_their_intervals(disturbed):
    wanted, result = disturbed
    at, off = result.nuisances.nuisances, result.nuisances.errors
    gains, doubt = at.gains.double().numpy(), off.gains.double().numpy()
    true = np.asarray(wanted.get("gains", (1, 1, 1, 1)), dtype=float)
    assert np.all(np.abs(gains / gains.mean() - true / true.mean()) < 2.5 * doubt)
    assert np.all(np.abs(np.subtract(at.shift.numpy(), wanted.get("shift", (0.0, 0.0)))) < 2.5 * off.shift.numpy())
    assert abs(float(at.rotation) - wanted.get("rotation", 0.0)) < 2.5 * float(off.rotation)


def test_the_same_frame_gives_the_same_heights_to_the_bit(make):
    small = make((24, 32))
    one, other = (reconstruct(small, effort=QUICK) for _ in range(2))
    assert np.array_equal(one.z, other.z)
    assert np.array_equal(one.sigma, other.sigma)
    assert one.figures == other.figures


@pytest.mark.parametrize("shape", [(37, 61), (16, 50)])
def test_odd_sizes(make, shape):
    for quality in ("fast", "full"):
        result = reconstruct(make(shape), quality=quality, effort=QUICK)
        assert result.z.shape == result.sigma.shape == result.flags.shape == shape
        assert np.isfinite(result.z).all()
        assert errors(result, shape)[0].std() < 0.3 * relief(shape).std()


def test_an_oxide_map_is_written_with_the_heights(frame, tmp_path):
    result = reconstruct(frame, material="Cu2O on Cu", effort=QUICK)
    assert result.oxide.shape == frame.shape
    assert result.oxide.min() >= 0
    assert result.oxide.max() <= 1
    write_results(tmp_path / "z.tif", result)
    with tifffile.TiffFile(tmp_path / "z.tif") as tiff:
        assert len(tiff.pages) == 3
        np.testing.assert_array_equal(tiff.pages[2].asarray(), result.oxide)
        assert tiff.pages[2].description == "share of oxide"
    np.testing.assert_allclose(read_heights(tmp_path / "z.tif")[0].z, result.z, atol=1e-14)


@pytest.mark.parametrize("quality", ["fast", "full"])
def test_the_scale_of_the_physics_stands_beside_sigma(frame, full, quality):
    result = full if quality == "full" else reconstruct(frame, quality="fast")
    assert result.scale_sigma == result.figures["scale"].sigma == pytest.approx(math.hypot(0.19, 0.03), rel=0.01)
    # Figures that depend on the scale hold it; the map of σ, which tells one pixel from the next, does not.
    for name in ("roughness", "height_range"):
        assert result.figures[name].sigma > 0.19 * result.figures[name].value
    assert np.median(result.sigma) < 0.05 * np.ptp(result.z)
    assert any("share a scale that one frame does not tell: 19%" in each for each in result.assumptions)


def test_what_defocus_would_do_is_said(frame, full):
    sentence = next(each for each in full.assumptions if "cannot tell defocus from a smoother surface" in each)
    assert "none was told" in sentence
    finest = 2 * full.figures["resolution"].value
    assert f"waves of {finest:.0f} nm" in sentence
    told = dataclasses.replace(frame, beam=dataclasses.replace(frame.beam, probe_diameter=3e-9))
    assert any("3 nm were told" in each for each in reconstruct(told, quality="fast").assumptions)


def test_an_offset_that_is_not_known_widens_the_scale(frame, full):
    channels = tuple(dataclasses.replace(each, offset=None) for each in frame.channels)
    lost = reconstruct(dataclasses.replace(frame, channels=channels), quality="fast")
    assert lost.scale_sigma > full.scale_sigma
    # Where zero was assumed nothing tells the scale; what depends on it still has a number.
    told = lost.figures["scale"].sigma
    assert lost.scale_sigma == (math.inf if told is None else told)
    assert math.isfinite(lost.figures["roughness"].sigma)
    json.dumps(summary(lost), allow_nan=False)


def test_fast_is_almost_as_good_as_full_and_never_worse_than_the_preview(make, frame, full):
    for given, best in ((frame, full), (make(seed=2), None)):
        fast, preview = (errors(reconstruct(given, quality=quality))[0].std() for quality in ("fast", "preview"))
        assert fast < preview
        if best is not None:
            assert fast < 1.3 * errors(best)[0].std()


# -- segments that say nothing


def dead(*which):
    def change(counts):
        counts[list(which)] = int(OFFSET)

    return change


def test_three_of_four_do(frame):
    result = reconstruct(with_counts(frame, dead(2)))
    error, sigma = errors(result)
    assert error.std() < 2e-9
    assert np.mean(np.abs(error) < 1.96 * sigma) > 0.85
    assert result.segments[2].state == "dead"
    assert any(re.search(r"C .*the heights come from the other segments", each) for each in result.assumptions)


def test_an_opposite_pair_tells_slopes_along_its_line_and_says_that(frame):
    lost = with_counts(frame, dead(1, 3))
    for result in (reconstruct(lost, quality="fast"), reconstruct(lost, effort=QUICK)):
        assert np.isfinite(result.z).all()
        assert np.isfinite(result.flattened()).all()
        # What the two see: the slope towards A, at 0.2 rad.
        z, truth = np.asarray(result.z), relief()
        along, true = (np.cos(0.2) * np.gradient(h, axis=1) - np.sin(0.2) * np.gradient(h, axis=0) for h in (z, truth))
        assert np.corrcoef(along[4:-4, 4:-4].ravel(), true[4:-4, 4:-4].ravel())[0, 1] > 0.9
        assert any("TWO SEGMENTS ARE ALIVE" in each for each in result.assumptions)
    with pytest.raises(ImageError, match="three live segments"):
        reconstruct(lost, quality="preview")


def test_an_adjacent_pair_gives_heights_and_says_what_it_cannot(frame):
    lost = with_counts(frame, dead(2, 3))
    for result in (reconstruct(lost, quality="fast"), reconstruct(lost, effort=QUICK)):
        assert np.corrcoef(np.ravel(result.z), relief().ravel())[0, 1] > 0.8
        assert any("TWO SEGMENTS" in each for each in result.assumptions)


def test_one_of_four_is_refused(frame):
    with pytest.raises(ImageError, match="two live segments are needed"):
        reconstruct(with_counts(frame, dead(0, 1, 2)), quality="fast")
    saturated = with_counts(frame, lambda counts: counts.__setitem__(slice(None), 65535))
    with pytest.raises(ImageError, match="every segment is saturated"):
        reconstruct(saturated, quality="fast")


def test_a_saturated_patch_is_flagged_and_its_uncertainty_grown(frame, full):
    def change(counts):
        counts[1, 20:28, 20:28] = 65535

    for quality in ("fast", "full"):
        result = reconstruct(with_counts(frame, change), quality=quality)
        flagged = (result.flags & SATURATED) > 0
        assert flagged[20:28, 20:28].all()
        assert flagged.sum() == 64
        assert result.sigma[22:26, 22:26].min() > 3 * np.median(result.sigma)
        far = np.s_[4:12, 4:44]
        assert np.abs(without_plane(result.z - relief()))[far].max() < 30e-9
        if quality == "full":
            assert np.median(result.sigma[far]) < 2 * np.median(full.sigma[far])


# -- what it refuses, and what it says


def test_segments_that_overlap_are_refused():
    one, other = Segment("A", 2e-3, 8e-3, 0.0, 2.0), Segment("B", 2e-3, 8e-3, 1.0, 2.0)
    with pytest.raises(InputError, match=r"segments A and B overlap; change the azimuth"):
        DetectorGeometry((one, other), 8e-3)


def test_a_detector_beyond_the_cap_is_refused(frame):
    near = dataclasses.replace(frame, geometry=DETECTOR.at(1e-3))
    with pytest.raises(InputError, match=r"segment A reaches 83 deg from the axis"):
        reconstruct(near, quality="fast")
    assert "reaches 83 deg" in why_not_full(near, "Cu")


def test_a_threshold_above_the_beam_energy_is_refused(frame):
    high = dataclasses.replace(frame, geometry=dataclasses.replace(DETECTOR, threshold=6 * KEV))
    for make_heights in (reconstruct, reconstruct_frame):
        with pytest.raises(InputError, match="no backscattered electron gives a signal"):
            make_heights(high, quality="fast")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"beam_energy": 2 * KEV, "pixel_size": 4e-9}, "THE BEAM ENERGY OF 2 keV LIES OUTSIDE"),
        ({"beam_energy": 30 * KEV, "pixel_size": 300e-9}, "THE BEAM ENERGY OF 30 keV LIES OUTSIDE"),
        ({"pixel_size": 200e-9}, "THE PIXEL SIZE OF 1.39 electron ranges LIES OUTSIDE"),
    ],
)
def test_what_lies_outside_the_card_is_said(frame, change, words):
    outside = dataclasses.replace(frame, beam=dataclasses.replace(frame.beam, **change))
    result = reconstruct(outside, quality="fast")
    assert any(each.startswith(words) and "not to be trusted" in each for each in result.assumptions)
    chosen = reconstruct_frame(outside, material="Cu")
    assert chosen.quality == "preview"
    assert any(words in each and "preview was taken" in each for each in chosen.assumptions)


def test_materials_that_the_model_does_not_know(frame):
    for quality in ("fast", "full"):
        with pytest.raises(InputError, match="trained on Cu and Cu2O, not on Fe: use --quality preview"):
            reconstruct_frame(frame, quality=quality, material="fe")
    chosen = reconstruct_frame(frame, material="Fe")
    assert chosen.quality == "preview"
    assert "not on Fe" in chosen.assumptions[0]
    with pytest.raises(InputError, match="'Unobtainium' is not known"):
        reconstruct_frame(frame, material="Unobtainium")
    with pytest.raises(InputError, match="expected the quality"):
        reconstruct(frame, quality="best")


@pytest.mark.parametrize("content", [None, b"", b"no weights at all"])
def test_weights_that_are_missing_or_damaged(frame, tmp_path, monkeypatch, content):
    path = tmp_path / "copper.safetensors"
    if content is not None:
        path.write_bytes(content)
    monkeypatch.setattr("reconstruction.weights.SHIPPED", path)
    words = "there are no weights" if content is None else "does not hold weights"
    with pytest.raises(InputError, match=words):
        reconstruct(frame, quality="fast")
    chosen = reconstruct_frame(frame, material="Cu")
    assert chosen.quality == "preview"
    assert words in chosen.assumptions[0]


def test_weights_for_another_material(frame):
    from reconstruction.weights import load_model

    model = load_model()
    card = {**model.card, "limits": {**model.card["limits"], "materials": ["W"]}}
    with pytest.raises(InputError, match="trained on W, not on Cu"):
        reconstruct(frame, quality="fast", model=dataclasses.replace(model, card=card))


def test_what_is_not_a_number_in_a_file_is_refused(frame, tmp_path):
    paths = [tmp_path / f"{name}.tif" for name in DETECTOR.names]
    for path, counts in zip(paths, frame.counts, strict=True):
        values = counts.astype(np.float32)
        values[3, 3] = np.nan if path is paths[1] else values[3, 3]
        tifffile.imwrite(path, values)
    with pytest.raises(ImageError, match="NaN or infinity") as caught:
        reconstruct_files(paths, detector=DETECTOR, pixel_size=PIXEL, beam_energy=5 * KEV, material="Cu")
    assert caught.value.where == str(paths[1])


# -- faces and edges


def test_heights_with_creases_say_so(frame, full, monkeypatch):
    from reconstruction import solve
    from reconstruction.creases import Creases

    waves, creases = "strength at each wavelength comes from this frame", "faces that meet in edges"
    assert any(waves in each for each in full.assumptions)
    assert not any(creases in each for each in full.assumptions)
    monkeypatch.setattr(solve, "choose_creases", lambda *_: Creases(0.2, 0.03, 42.0))
    for given in (frame, with_counts(frame, dead(2, 3))):
        result = reconstruct(given, effort=QUICK)
        assert any(creases in each and "by 42 in" in each for each in result.assumptions)
        assert not any(waves in each for each in result.assumptions)
        assert not any("knows no directions" in each for each in result.assumptions)
        assert np.isfinite(result.sigma).all()
        assert result.sigma.min() > 0
