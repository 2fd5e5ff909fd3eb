from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from drivers.geometry import annular, pixel_positions
from reconstruction.features import blur
from reconstruction.fidelity import PROBE_FWHM, Forward, Nuisances, Observation
from reconstruction.local_law import Condition
from reconstruction.response import segment_response
from reconstruction.weights import load_model

CONDITION = Condition(0.2, 5.0, 0.2)
GEOMETRY = replace(annular(4, 2e-3, 8e-3, 8e-3, 0.3), centre_offset=(0.2e-3, -0.1e-3), rotation=0.1)


@pytest.fixture(scope="module")
def model():
    return load_model()


@pytest.fixture(scope="module")
def forward(model):
    return Forward(model, CONDITION, GEOMETRY, (0, 1, 2, 3), 20e-9)


def relief(shape, seed=0, size=0.5):
    z = torch.from_numpy(np.random.default_rng(seed).normal(size=(1, *shape))).float()
    z = blur(z, (2.0,))[0]
    return size * z / z.std()


def test_a_pixel_s_place_is_a_detector_moved_the_other_way(model):
    """A field of 0.24 × 0.16 mm: far larger than any, so that what bows is plain to see."""
    shape, pixel = (8, 12), 20e-6
    wide = Forward(model, CONDITION, GEOMETRY, (0, 1, 2, 3), pixel)
    coefficients = torch.from_numpy(np.random.default_rng(1).normal(size=len(model.basis)))
    coefficients[0] = 4
    emitted = coefficients[:, None, None].expand(-1, *shape).contiguous()
    found = wide.collect(emitted, wide.responses(), (0, 0), shape).numpy()
    x, y = pixel_positions(shape, pixel)
    middle = found.mean(axis=(1, 2))
    bow = found - middle[:, None, None]
    for row, column in ((0, 0), (0, 11), (7, 0), (7, 11), (2, 6)):
        centre = torch.tensor(GEOMETRY.centre_offset) - torch.tensor([x[column], y[row]])
        exact = (segment_response(GEOMETRY, model.basis, centre=centre) @ coefficients).numpy() - middle
        # First order in the place: the rest is of the second.
        np.testing.assert_allclose(bow[:, row, column], exact, atol=0.03 * np.abs(bow).max())
    assert np.abs(bow).max() > 1e-3 * np.abs(middle).max()
    # Row 0 is at the top, +y.
    assert y[0] > 0


def test_a_part_of_a_frame_is_collected_as_within_the_frame(forward):
    shape = (10, 14)
    emitted = torch.from_numpy(np.random.default_rng(2).normal(size=(len(forward.model.basis), *shape))).float()
    responses = 1 * forward.responses().float()
    responses[1:] *= 1e4
    whole = forward.collect(emitted, responses, (0, 0), shape)
    part = forward.collect(emitted[:, 3:8, 5:12], responses, (3, 5), shape)
    np.testing.assert_allclose(part.numpy(), whole[:, 3:8, 5:12].numpy(), atol=1e-6)


def test_responses_follow_the_nuisances(forward):
    none = Nuisances.none(4)
    plain = forward.responses()
    assert torch.equal(plain, forward.responses(none))
    np.testing.assert_allclose(plain[0].numpy(), segment_response(GEOMETRY, forward.model.basis).numpy())
    moved = replace(none, shift=torch.tensor([0.3e-3, -0.2e-3], dtype=torch.float64), rotation=torch.tensor(0.02))
    other = replace(GEOMETRY, centre_offset=(0.5e-3, -0.3e-3), rotation=0.12)
    expected = segment_response(other, forward.model.basis)
    np.testing.assert_allclose(forward.responses(moved)[0].numpy(), expected.numpy(), atol=1e-8)
    # A quarter's turn puts each segment where the next one was.
    turned = forward.responses(replace(none, rotation=torch.tensor(math.pi / 2, dtype=torch.float64)))
    np.testing.assert_allclose(turned[0, :3].numpy(), plain[0, 1:].numpy(), atol=1e-10)


def test_only_live_segments_take_part(forward):
    two = replace(forward, live=(0, 2))
    np.testing.assert_allclose(two.responses().numpy(), forward.responses()[:, [0, 2]].numpy())


def test_the_probe_blurs_what_is_emitted(forward):
    z, none = relief((40, 36)), torch.zeros(40, 36)
    sharp = forward.emission(z, none)
    blurred = replace(forward, probe=1.3).emission(z, none)
    np.testing.assert_allclose(blurred.numpy(), blur(sharp, (1.3,)).numpy(), atol=1e-6)
    np.testing.assert_allclose(blurred.mean(dim=(1, 2)).numpy(), sharp.mean(dim=(1, 2)).numpy(), atol=1e-6)
    assert float(blurred[0].std()) < 0.9 * float(sharp[0].std())
    assert torch.equal(replace(forward, probe=0.04).emission(z, none), sharp)
    # A Gaussian of this width has the half height at half its full width.
    assert math.exp(-((PROBE_FWHM / 2) ** 2) / 2) == pytest.approx(0.5)


@pytest.mark.parametrize("oxide", [False, True])
def test_a_tilt_changes_the_emission_as_a_ramp_does(forward, oxide):
    condition = replace(CONDITION, oxide=oxide)
    tilted = replace(forward, condition=condition).tilt_emission()
    rows, columns = np.indices((32, 32))
    step = 0.02
    share = torch.full((1, 32, 32), float(oxide))
    for axis, ramp in enumerate((columns, -rows)):
        z = torch.from_numpy(step * ramp).float()[None]
        local, whole = (
            ((law(z) - law(-z)) / (2 * step))[0, :, 14:18, 14:18].mean(dim=(1, 2))
            for law in (
                lambda z: forward.model.local(z, share, condition),
                lambda z: forward.model(z, share, condition),
            )
        )
        size = float(tilted[:, axis].norm())
        assert float((local - tilted[:, axis]).norm()) < 0.01 * size
        # What the network adds on a plane is its error: it has nothing to add there.
        assert float((whole - tilted[:, axis]).norm()) < 0.25 * size


def test_levels_are_offsets_and_what_the_tilt_adds(forward):
    none = Nuisances.none(4)
    responses = forward.responses()
    assert float(forward.levels(responses, none).abs().max()) == 0
    offsets, gains = torch.tensor([1e-3, 0.0, -1e-3, 2e-3]), torch.tensor([1.0, 1.1, 0.9, 1.2])
    tilt = torch.tensor([0.05, -0.02])
    slopes = responses[0].float() @ forward.tilt_emission()
    found = forward.levels(responses, replace(none, offsets=offsets, gains=gains, tilt=tilt))
    np.testing.assert_allclose(found.numpy(), (offsets + gains * (slopes @ tilt)).numpy(), rtol=1e-5)
    # A sample that rises to the right turns away from the segment on the right.
    assert float(slopes[0, 0]) < 0 < float(slopes[2, 0])
    assert float(slopes[1, 1]) < 0 < float(slopes[3, 1])


def test_variance_grows_with_the_signal_and_never_vanishes():
    signals = torch.ones(2, 3, 4) * torch.tensor([1.0, 2.0])[:, None, None]
    observed = Observation(
        signals, torch.tensor([0.1, 0.2]), torch.tensor([0.01, 0.03]), torch.ones(3, 4), torch.ones(2)
    )
    np.testing.assert_allclose(observed.mean_variances().numpy(), [0.11, 0.43], rtol=1e-6)
    np.testing.assert_allclose(observed.variances(3 * signals)[:, 0, 0].numpy(), [0.31, 1.23], rtol=1e-6)
    for dark in (0.0, -5.0):
        least = observed.variances(torch.full_like(signals, dark))[:, 1, 1]
        np.testing.assert_allclose(least.numpy(), [0.015, 0.05], rtol=1e-6)
