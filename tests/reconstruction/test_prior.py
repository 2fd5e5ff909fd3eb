from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from reconstruction.fidelity import Observation
from reconstruction.linear import Linear, wiener_modes
from reconstruction.prior import FALL, SHORT, evidence_power, first_guess, rings, whittle
from reconstruction.solve import first_state
from reconstruction.spectral import inverse_cosine_transform

SHAPES = [(8, 8), (13, 40), (64, 64), (96, 33), (300, 128)]


def wave_numbers(shape):
    rows, columns = (np.pi * np.arange(size) / size for size in shape)
    return np.hypot(rows[:, None], columns[None, :])


@pytest.mark.parametrize("shape", SHAPES)
def test_rings_hold_every_mode_once(shape):
    ring, k = rings(shape), wave_numbers(shape)
    assert ring.index.shape == shape
    assert ring.counts.sum() == k.size - 1
    assert set(np.unique(ring.index)) == set(range(len(ring.k)))
    assert ring.counts.min() >= 1
    assert (np.diff(ring.k) > 0).all()
    for index, (middle, count) in enumerate(zip(ring.k, ring.counts, strict=True)):
        inside = (ring.index == index) & (k > 0)
        assert inside.sum() == count
        assert k[inside].min() <= middle * (1 + 1e-12)
        assert middle * (1 - 1e-12) <= k[inside].max()
        width = max(np.pi / max(shape), 0.05 * middle)
        assert np.ptp(k[inside]) <= width * (1 + 1e-9)


def test_means_over_rings_leave_the_field_s_mean_out():
    ring = rings((16, 20))
    values = np.ones((16, 20))
    values[0, 0] = 1e9
    np.testing.assert_allclose(ring.mean(values, np.ones_like(values)), 1)
    weights = np.random.default_rng(0).random((16, 20))
    expected = [
        np.average(wave_numbers((16, 20))[inside], weights=weights[inside])
        for inside in ((ring.index == index) & (wave_numbers((16, 20)) > 0) for index in range(len(ring.k)))
    ]
    np.testing.assert_allclose(ring.mean(wave_numbers((16, 20)), weights), expected)


def law(k, exponent, size=2e-3):
    return size * np.maximum(k, 0.02) ** exponent


def simulated(shape, exponent, noise, seed):
    rng, k = np.random.default_rng(seed), wave_numbers(shape)
    return rng.normal(size=shape) * np.sqrt(law(k, exponent) + noise), k


@pytest.mark.parametrize("exponent", [-3.5, -4.5, -6.0])
def test_evidence_finds_a_power_law_again(exponent):
    shape, noise, ratios = (128, 128), 1e-3, []
    ring = rings(shape)
    for seed in range(6):
        found, _ = simulated(shape, exponent, noise, seed)
        squares = ring.mean(found**2, np.ones(shape))
        power = whittle(ring.k, squares, np.full(len(ring.k), noise), ring.counts)
        ratios.append(np.log(power / law(ring.k, exponent)))
    ratios = np.array(ratios)
    told = law(ring.k, exponent) > noise
    many = told & (np.cumsum(ring.counts) > 200)
    assert many.sum() > 5
    # Without a bias, and from frame to frame no more apart than the number of modes allows.
    assert np.abs(ratios[:, many].mean(axis=0)).max() < 0.15
    assert ratios[:, many].std(axis=0).max() < 0.35
    assert np.abs(ratios[:, told]).max() < 2.5


def test_estimate_and_prior_settle_on_the_truth_from_a_first_guess_far_off():
    shape, seeds, noise = (96, 96), range(4), 2e-3
    information = torch.full(shape, 1 / noise)
    k = wave_numbers(shape)
    band = (k > 0.2) & (law(k, -4.0) > noise)
    for seed in seeds:
        seen = torch.from_numpy(simulated(shape, -4.0, noise, seed)[0])
        settled = []
        for start in (1.0, 100.0):
            power = start * first_guess(shape, 0.1)
            for _ in range(4):
                power = evidence_power(seen / (1 + noise / power), power, information)
            settled.append(power.numpy())
        ratio = np.log(settled[0][band] / law(k[band], -4.0))
        assert abs(ratio.mean()) < 0.2
        np.testing.assert_allclose(np.log(settled[0][band]), np.log(settled[1][band]), atol=0.1)
        assert settled[0].min() > 0


@pytest.mark.parametrize("missed", [0.3, 1.0])
def test_short_waves_fall_although_the_rest_is_white(missed):
    """White noise beyond what is known, up to as much again, is not taken for relief."""
    shape, noise = (128, 128), 1e-4
    rng, k, ring = np.random.default_rng(3), wave_numbers(shape), rings(shape)
    found = rng.normal(size=shape) * np.sqrt(law(k, -4.0) + (1 + missed) * noise)
    power = whittle(ring.k, ring.mean(found**2, np.ones(shape)), np.full(len(ring.k), noise), ring.counts)
    short = ring.k > 1.3 * SHORT
    assert np.polyfit(np.log(ring.k[short]), np.log(power[short]), 1)[0] < FALL + 0.25
    assert power[-1] < 0.6 * missed * noise


def test_what_falls_steeply_is_left_as_steep():
    shape, noise = (128, 128), 1e-4
    rng, k, ring = np.random.default_rng(3), wave_numbers(shape), rings(shape)
    found = rng.normal(size=shape) * np.sqrt(law(k, -4.0) + noise)
    power = whittle(ring.k, ring.mean(found**2, np.ones(shape)), np.full(len(ring.k), noise), ring.counts)
    told = (ring.k > SHORT) & (law(ring.k, -4.0) > noise)
    assert np.polyfit(np.log(ring.k[told]), np.log(power[told]), 1)[0] == pytest.approx(-4, abs=0.4)


def flat_frame(shape, seed, noise=1e-3):
    """A flat surface seen by two segments that answer to slopes in x and in y."""
    kernels = torch.zeros(2, 16, 16)
    kernels[0, 8, 7], kernels[0, 8, 9] = 0.004, -0.004
    kernels[1, 7, 8], kernels[1, 9, 8] = 0.004, -0.004
    grid = (shape[0] + 24, shape[1] + 24)
    placed = torch.zeros(2, *grid)
    place = torch.arange(-8, 8)
    placed[:, (place % grid[0])[:, None], (place % grid[1])[None, :]] = kernels
    flat = torch.tensor([0.02, 0.02])
    linear = Linear(kernels, flat, torch.fft.rfft2(placed), shape)
    signals = flat[:, None, None] + torch.from_numpy(np.random.default_rng(seed).normal(size=(2, *shape))) * noise
    ones = torch.ones(2)
    return linear, Observation(signals.float(), 0 * ones, noise**2 * ones, torch.ones(shape), ones)


@pytest.mark.parametrize("seed", range(4))
def test_noise_alone_makes_no_relief(seed, monkeypatch):
    shape = (80, 80)
    linear, observed = flat_frame(shape, seed)
    monkeypatch.setattr(Linear, "_grid", lambda self: (shape[0] + 24, shape[1] + 24))
    information = linear.information(observed)
    forward = SimpleNamespace(condition=SimpleNamespace(pixel=0.1, oxide=False), live=(0, 1))
    state = first_state(forward, observed, linear, information)
    before = inverse_cosine_transform(wiener_modes(linear, observed, first_guess(shape, 0.1), information))
    left = 1 / (information + 1 / state.power)
    left[0, 0] = left[0, 1] = left[1, 0] = 0
    sigma = math.sqrt(float(left.mean()))
    assert float(state.z.std()) < max(sigma, 0.3 * float(before.std()))
    assert float(state.z.std()) < 0.6 * float(before.std())
    assert float(state.power[1:, 1:].max()) < 1e3 * float((1 / information)[1:, 1:].median())


def test_the_first_guess_falls_with_the_wave_number():
    for pixel in (0.03, 0.1, 0.45):
        guess, k = first_guess((48, 64), pixel).numpy(), wave_numbers((48, 64))
        assert (guess > 0).all()
        order = np.argsort(k.ravel())
        assert (np.diff(guess.ravel()[order]) <= 1e-7).all()
    # Finer pixels see longer relief, in pixels.
    rough = [float(first_guess((48, 64), pixel)[1:, 1:].sum()) for pixel in (0.03, 0.1, 0.45)]
    assert rough == sorted(rough) or rough == sorted(rough, reverse=True)
