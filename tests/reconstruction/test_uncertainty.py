from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from reconstruction.features import blur
from reconstruction.prior import rings
from reconstruction.spectral import cosine_transform, inverse_cosine_transform
from reconstruction.uncertainty import MODEL_SHARE, MOST_SHARE, _around, _bands, model_share, posterior
from reconstruction.weights import load_model

SHAPE = (64, 72)


def wave_numbers(shape=SHAPE):
    rows, columns = (torch.pi * torch.arange(size) / size for size in shape)
    return torch.hypot(rows[:, None], columns[None, :]).clamp(min=0.02)


def drawn(power, information, seed):
    """A surface of the prior, without its plane, and the posterior mean of linear Gaussian data of it."""
    rng = np.random.default_rng(seed)
    modes = torch.from_numpy(rng.normal(size=power.shape)).float() * power.sqrt()
    modes[0, 0] = modes[0, 1] = modes[1, 0] = 0
    seen = modes + torch.from_numpy(rng.normal(size=power.shape)).float() / information.sqrt()
    seen[0, 0] = seen[0, 1] = seen[1, 0] = 0
    mean = seen / (1 + 1 / (information * power))
    return inverse_cosine_transform(modes), inverse_cosine_transform(mean)


K = wave_numbers()
CASES = {
    "steep": (0.02 * K**-4, 20 * K**2),
    "shallow, noisy": (0.05 * K**-3, 3 * K**2),
    "blurred": (0.02 * K**-4, 100 * K**2 * torch.exp(-2 * K**2)),
}


@pytest.mark.parametrize("name", CASES)
def test_intervals_cover_as_often_as_they_say(name):
    power, information = CASES[name]
    inside, errors, sigmas = [], [], []
    for seed in range(10):
        truth, mean = drawn(power, information, seed)
        doubt = posterior(mean, information, power, share=0.0)
        error = (mean - truth).numpy()
        inside.append(np.abs(error) < 1.96 * doubt.sigma)
        errors.append(error**2)
        sigmas.append(doubt.sigma**2)
        assert doubt.sigma.dtype == np.float32
        assert doubt.sigma.shape == SHAPE
    assert 0.93 < np.mean(inside) < 0.97
    assert np.mean(sigmas) == pytest.approx(np.mean(errors), rel=0.12)
    assert doubt.bound == pytest.approx(math.sqrt(np.mean(errors)), rel=0.06)


def test_rough_ground_is_less_certain_than_flat_ground():
    """The prior holds for the field as a whole; what stands around a pixel tells how it is there."""
    power, information = CASES["shallow, noisy"]
    _, mean = drawn(power, information, 1)
    half = torch.sigmoid((torch.arange(SHAPE[1]) - 36) / 2.0)
    sigma = posterior(mean * half, information, power).sigma
    assert sigma[:, 44:].mean() > 1.08 * sigma[:, :28].mean()
    even = posterior(mean, information, power).sigma
    assert even[:, 44:].mean() == pytest.approx(sigma[:, 44:].mean(), rel=0.1)


def test_where_nothing_was_measured_stands_the_prior():
    power, information = CASES["steep"]
    _, mean = drawn(power, information, 2)
    blind = torch.zeros(SHAPE, dtype=torch.bool)
    blind[24:40, 30:46] = True
    plain, grown = posterior(mean, information, power), posterior(mean, information, power, blind)
    assert np.array_equal(posterior(mean, information, power, torch.zeros_like(blind)).sigma, plain.sigma)
    prior = math.sqrt(float(power.flatten()[1:].sum()) / power.numel())
    middle = grown.sigma[30:34, 36:40]
    np.testing.assert_allclose(middle, np.hypot(plain.sigma[30:34, 36:40], prior), rtol=0.01)
    assert middle.min() > 2 * plain.sigma.mean()
    away = np.ones(SHAPE, bool)
    away[14:50, 20:56] = False
    np.testing.assert_allclose(grown.sigma[away], plain.sigma[away])
    assert (grown.sigma >= plain.sigma).all()


def test_the_plane_takes_no_part():
    power, information = CASES["steep"]
    _, mean = drawn(power, information, 3)
    modes = cosine_transform(mean)
    modes[0, 0], modes[0, 1], modes[1, 0] = 1e3, 50.0, -80.0
    tilted = posterior(inverse_cosine_transform(modes), information, power)
    plain = posterior(mean, information, power)
    np.testing.assert_allclose(tilted.sigma, plain.sigma, rtol=2e-3)
    assert tilted.bound == plain.bound
    # Nor does what is believed of it.
    wide = power.clone()
    wide[0, 0], wide[0, 1], wide[1, 0] = 1e6, 1e6, 1e6
    doubt = posterior(mean, information, wide)
    np.testing.assert_allclose(doubt.sigma, plain.sigma, rtol=1e-5)


def test_the_surrogate_s_error_is_a_share_of_the_relief():
    power, information = CASES["steep"]
    _, mean = drawn(power, information, 4)
    exact, off = (posterior(mean, information, power, share=share).sigma.astype(float) for share in (0.0, 0.1))
    added = math.sqrt(np.mean(off**2 - exact**2))
    assert added == pytest.approx(0.1 * float(mean.std()), rel=0.05)


def test_bands_share_each_mode_out():
    ring = rings((40, 56))
    bands = _bands(ring)
    total = sum(weight**2 for weight, _ in bands)
    np.testing.assert_allclose(np.asarray(total), 1, atol=1e-12)
    wavelengths = [wavelength for _, wavelength in bands]
    np.testing.assert_allclose(np.array(wavelengths[:-1]) / wavelengths[1:], 2)


def test_resolution_is_where_the_frame_stops_to_tell():
    power = 0.02 * K**-4
    # I · P = 1 at k = 1.
    information = 50 * K**4 * torch.exp(-3 * (K - 1))
    _, mean = drawn(power, information, 5)
    assert posterior(mean, information, power).resolution == pytest.approx(math.pi, rel=0.06)
    everything = posterior(mean, 1e6 * information, power)
    assert everything.resolution == pytest.approx(math.pi / rings(SHAPE).k[-1])
    more = posterior(mean, 30 * information, power)
    assert everything.resolution < more.resolution < math.pi
    assert everything.bound < more.bound


def card(*figures):
    """A model card that tells (pixel size from, model error, samples)."""
    return {
        "figures": {
            "by_pixel_size": [
                {"pixel_size": [start, None], "model_error": error, "samples": samples}
                for start, error, samples in figures
            ]
        }
    }


def test_the_surrogate_is_trusted_as_far_as_its_card_goes():
    told = card((0.0, 0.4, 10), (0.05, 0.2, 10), (0.1, 0.2, 20))
    assert model_share(told, 0.2) == model_share(told, 0.07) == MODEL_SHARE
    assert model_share(told, 0.03) == pytest.approx(2 * MODEL_SHARE)
    # What does not fall towards coarse pixels is noise of few samples: pooled, negative squares among them.
    noisy = card((0.0, 0.1, 10), (0.05, -0.1, 10), (0.1, 0.2, 20))
    assert {model_share(noisy, pixel) for pixel in (0.03, 0.07, 0.3)} == {MODEL_SHARE}
    # It never grows beyond all measure, and a card that says nothing changes nothing.
    assert model_share(card((0.0, 2.0, 10), (0.1, 0.1, 10)), 0.03) == MOST_SHARE
    # A coarse class that few samples tell to be perfect is taken for as good as they can tell.
    assert model_share(card((0.0, 0.3, 10), (0.1, -0.1, 10)), 0.03) == pytest.approx(3 * MODEL_SHARE)
    for silent in ({}, {"figures": None}, card((0.0, 0.5, 10))):
        assert model_share(silent, 0.03) == MODEL_SHARE
    shipped = load_model().card
    assert model_share(shipped, 0.14) == MODEL_SHARE < model_share(shipped, 0.033) <= MOST_SHARE


@pytest.mark.parametrize("shape", [(64, 64), (101, 77)])
def test_wide_windows_on_a_coarser_grid_are_the_same_windows(shape):
    squares = torch.from_numpy(np.random.default_rng(0).normal(size=shape)).float() ** 2
    for sigma in (3.0, 9.0, 17.0):
        exact = blur(squares[None], (sigma,))[0]
        assert float(((_around(squares, sigma) - exact) / exact).abs().max()) < 0.06


def test_a_variance_that_was_drawn_takes_the_bands_place():
    power, information = CASES["steep"]
    _, mean = drawn(power, information, 3)
    given = torch.full(SHAPE, 0.04)
    given[:, 36:] = 0.16
    doubt, bare = (posterior(mean, information, power, share=share, drawn=given) for share in (0.1, 0.0))
    assert bare.sigma[:, :20] == pytest.approx(0.2, rel=1e-3)
    assert bare.sigma[:, 52:] == pytest.approx(0.4, rel=1e-3)
    assert (doubt.sigma > bare.sigma).all()
    assert doubt.bound == posterior(mean, information, power).bound


def test_the_resolution_is_that_of_the_shortest_wave_told():
    power, information = CASES["steep"]
    whole = posterior(torch.zeros(SHAPE), information, power).resolution
    # Where there are no long waves, short ones are told all the same.
    hollow = torch.where(K < 0.15, torch.full_like(power, 1e-9), power)
    assert posterior(torch.zeros(SHAPE), information, hollow).resolution == whole
