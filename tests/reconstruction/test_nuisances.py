from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from drivers.geometry import annular
from reconstruction.features import blur
from reconstruction.fidelity import Forward, Nuisances, Observation
from reconstruction.local_law import Condition
from reconstruction.nuisances import Beliefs, estimate_nuisances
from reconstruction.weights import load_model

SHAPE = (64, 64)
ELECTRONS = 20_000
WIDE = Beliefs(gain=0.1, offset=0.02, shift=0.5e-3, rotation=math.radians(5), tilt=0.1, contrast=0.3)


@pytest.fixture(scope="module")
def forward():
    return Forward(load_model(), Condition(0.2, 5.0, 0.2), annular(4, 2e-3, 8e-3, 8e-3, 0.3), (0, 1, 2, 3), 20e-9)


def emission(forward, size):
    z = torch.from_numpy(np.random.default_rng(0).normal(size=(1, *SHAPE))).float()
    z = blur(z, (3.0,))[0]
    with torch.no_grad():
        return forward.emission(size * z / z.std(), torch.zeros(SHAPE))


@pytest.fixture(scope="module")
def emitted(forward):
    return emission(forward, 1.5)


@pytest.fixture(scope="module")
def gentle(forward):
    return emission(forward, 0.05)


def observe(forward, emitted, nuisances, seed=0):
    """A frame of the forward model, with the noise of counts."""
    responses = forward.responses(nuisances)
    levels = forward.levels(responses, nuisances)[:, None, None]
    clean = nuisances.gains[:, None, None] * forward.collect(emitted, responses.float(), (0, 0), SHAPE) + levels
    ones = torch.ones(len(clean))
    observed = Observation(clean, 0.6 / ELECTRONS * ones, 0 * ones, torch.ones(SHAPE), ones)
    noise = torch.from_numpy(np.random.default_rng(1000 + seed).normal(size=clean.shape)).float()
    return replace(observed, signals=clean + noise * observed.variances(clean).sqrt())


def truths(forward, emitted):
    none = Nuisances.none(4)
    mean = forward.collect(emitted, forward.responses().float(), (0, 0), SHAPE).mean(dim=(1, 2))
    double = torch.float64
    return {
        "none": none,
        "gain": replace(none, gains=torch.tensor([1.0, 1.05, 1.0, 1.0])),
        "offset": replace(none, offsets=0.01 * mean * torch.tensor([0.0, 0.0, 1.0, 0.0])),
        "shift": replace(none, shift=torch.tensor([0.3e-3, 0.0], dtype=double)),
        "rotation": replace(none, rotation=torch.tensor(math.radians(2), dtype=double)),
        "tilt": replace(none, tilt=torch.tensor([0.03, -0.02])),
        "all": Nuisances(
            torch.tensor([0.97, 1.05, 1.0, 1.0]),
            0.01 * mean * torch.tensor([0.0, -0.5, 1.0, 0.0]),
            torch.tensor([0.2e-3, -0.3e-3], dtype=double),
            torch.tensor(math.radians(-2), dtype=double),
            torch.tensor([0.01, 0.02]),
        ),
    }


def vector(nuisances):
    parts = (nuisances.gains, nuisances.offsets, nuisances.shift, nuisances.rotation[None], nuisances.tilt)
    return torch.cat([part.double().flatten() for part in parts]).numpy()


@pytest.mark.parametrize("name", ["none", "gain", "offset", "shift", "rotation", "tilt", "all"])
def test_estimates_lie_within_their_errors(forward, emitted, name):
    truth = truths(forward, emitted)[name]
    found = estimate_nuisances(forward, observe(forward, emitted, truth), emitted, WIDE)
    errors = vector(found.errors)
    assert (errors > 0).all()
    deviation = (vector(found.nuisances) - vector(truth)) / errors
    assert np.abs(deviation).max() < 3
    # What the relief tells well is told well.
    assert float(found.errors.rotation) < math.radians(1.0)
    assert abs(float(found.nuisances.rotation - truth.rotation)) < math.radians(1.5)


def test_errors_are_not_larger_than_what_was_believed(forward, emitted):
    found = estimate_nuisances(forward, observe(forward, emitted, Nuisances.none(4)), emitted, WIDE).errors
    assert float(found.shift.max()) <= WIDE.shift * 1.001
    assert float(found.rotation) <= WIDE.rotation
    assert float(found.tilt.max()) <= WIDE.tilt * 1.001
    mean = observe(forward, emitted, Nuisances.none(4)).signals.mean(dim=(1, 2))
    assert float((found.offsets / mean).max()) <= WIDE.offset * 1.001


def test_the_combination_is_told_where_its_parts_are_not(forward, gentle):
    """On gentle ground a shift of 0.3 mm looks like a tilt: a frame tells their sum alone."""
    shift = truths(forward, gentle)["shift"]
    found = estimate_nuisances(forward, observe(forward, gentle, shift), gentle, WIDE)
    # As a slope: what a flat surface's signals would need, to look as with the shift.
    flat = gentle.mean(dim=(1, 2))
    plain, moved = (forward.responses(each)[0].float() @ flat for each in (Nuisances.none(4), shift))
    slopes = forward.responses()[0].float() @ forward.tilt_emission()
    looks = torch.linalg.lstsq(slopes.double(), (moved - plain).double()[:, None]).solution[:, 0]
    assert math.degrees(math.atan(float(looks.abs().max()))) > 2
    # The combination is told well, the shift in it hardly better than it was believed.
    assert float(found.errors.tilt.min()) > 5 * float(found.combination_error.max())
    assert float(found.errors.shift.min()) > 0.4 * WIDE.shift
    assert float((found.combination - looks).abs().max()) < 0.1 * float(looks.abs().max())
    tilt = truths(forward, gentle)["tilt"]
    found = estimate_nuisances(forward, observe(forward, gentle, tilt), gentle, WIDE)
    np.testing.assert_allclose(found.combination.numpy(), tilt.tilt.numpy(), atol=3e-3)


def test_rough_ground_tells_the_shift(forward, emitted, gentle):
    rough, flat = (
        estimate_nuisances(forward, observe(forward, each, Nuisances.none(4)), each, WIDE).errors.shift
        for each in (emitted, gentle)
    )
    assert float(rough.max()) < 0.2 * float(flat.min())


def test_the_gains_common_factor_is_free(forward, emitted):
    narrow = replace(WIDE, gain=0.01)
    common = replace(Nuisances.none(4), gains=torch.full((4,), 1.3))
    found = estimate_nuisances(forward, observe(forward, emitted, common), emitted, narrow)
    assert float(found.nuisances.gains.mean()) == pytest.approx(1.3, abs=0.02)
    spread = found.nuisances.gains / found.nuisances.gains.mean() - 1
    assert float(spread.abs().max()) < 0.02


def test_contrast_too_low_is_not_taken_for_gains(forward, emitted):
    """Heights that a prior made too flat by a tenth must not turn into unequal gains."""
    flattened = emitted.mean(dim=(1, 2), keepdim=True) + 0.9 * (emitted - emitted.mean(dim=(1, 2), keepdim=True))
    observed = observe(forward, emitted, truths(forward, emitted)["gain"])
    found = estimate_nuisances(forward, observed, flattened, WIDE)
    ratios = found.nuisances.gains / found.nuisances.gains.mean()
    expected = torch.tensor([1.0, 1.05, 1.0, 1.0]) / 1.0125
    deviation = (ratios - expected).abs() / found.errors.gains
    assert float(deviation.max()) < 3
    assert float((ratios - expected).abs().max()) < 0.04


def test_weightless_pixels_are_left_out(forward, emitted):
    observed = observe(forward, emitted, truths(forward, emitted)["all"])
    weight = torch.ones(SHAPE)
    weight[10:30, 10:30] = 0
    masked = replace(observed, weight=weight)
    spoilt = observed.signals.clone()
    # Nothing moves the means, on which offsets rest.
    spoilt[:, 10:20, 10:30] += 0.01
    spoilt[:, 20:30, 10:30] -= 0.01
    one = estimate_nuisances(forward, masked, emitted, WIDE)
    other = estimate_nuisances(forward, replace(masked, signals=spoilt), emitted, WIDE)
    np.testing.assert_allclose(vector(other.nuisances), vector(one.nuisances), rtol=1e-3, atol=1e-6)


def test_dirt_does_not_pass_for_a_gain(forward, emitted, monkeypatch):
    observed = observe(forward, emitted, Nuisances.none(4))
    spoilt = observed.signals.clone()
    spoilt[1, 10:20, 10:26] *= 3.0
    dirty = replace(observed, signals=spoilt)
    clean = estimate_nuisances(forward, observed, emitted, WIDE)

    def moved():
        found = estimate_nuisances(forward, dirty, emitted, WIDE)
        one, other = (each.nuisances.gains / each.nuisances.gains.mean() for each in (found, clean))
        return float(((one - other).abs() / clean.errors.gains).max())

    robust = moved()
    assert robust < 1.0
    monkeypatch.setattr("reconstruction.nuisances.KNEE", 1e9)
    assert moved() > 2 * robust


def test_three_live_segments_do_as_well(forward, emitted):
    three = replace(forward, live=(0, 1, 3))
    none = Nuisances.none(3)
    truth = replace(none, gains=torch.tensor([1.0, 1.05, 1.0]))
    found = estimate_nuisances(three, observe(three, emitted, truth), emitted, WIDE)
    assert found.nuisances.gains.shape == (3,)
    assert np.abs((vector(found.nuisances) - vector(truth)) / vector(found.errors)).max() < 3
