from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reconstruction import creases as module
from reconstruction.creases import (
    Creases,
    Quadratic,
    Touching,
    bends,
    choose_creases,
    posed,
    reweighted,
    sampled_variance,
    stiffness,
)
from reconstruction.spectral import cosine_transform, inverse_cosine_transform

SHAPE = (48, 56)
CASE = Creases(0.4, 0.01)


def wave_numbers(shape=SHAPE):
    rows, columns = (torch.pi * torch.arange(size) / size for size in shape)
    return torch.hypot(rows[:, None], columns[None, :]).clamp(min=0.02)


K = wave_numbers()
POWER = 0.02 * K**-4
INFORMATION = 60 * K**2 * torch.exp(-0.3 * K**2)
"""As a detector's: slopes are told, fine ones less."""


def field(seed, *shape):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape)).float()


def pyramids(shape=SHAPE):
    """Plane faces on flat ground."""
    rows, columns = np.indices(shape)
    z = np.zeros(shape)
    for row, column, half, slope in ((15, 16, 11, 0.6), (33, 38, 12, 0.8), (14, 43, 9, 0.5)):
        z = np.maximum(z, np.minimum(slope * (half - np.maximum(abs(rows - row), abs(columns - column))), 4.0))
    return torch.from_numpy(z - z.mean()).float()


def waves(seed, shape=SHAPE, power=POWER):
    modes = field(seed, *shape) * power.sqrt()
    modes[0, 0] = 0
    return inverse_cosine_transform(modes)


def wiener(z, seed, power=POWER, information=INFORMATION):
    """What linear Gaussian data make of a surface with the prior of waves, and the misfit's gradient there."""
    seen = cosine_transform(z) + field(seed, *z.shape) / information.sqrt()
    modes = seen * information / (information + 1 / power)
    modes[0, 0] = 0
    return inverse_cosine_transform(modes), inverse_cosine_transform(information * (modes - seen))


def off(found, truth):
    """The error without its plane."""
    rows, columns = np.indices(truth.shape)
    left = (found - truth).double().numpy()
    terms = np.stack([np.ones(left.size), rows.ravel(), columns.ravel()], axis=1)
    return (left.ravel() - terms @ np.linalg.lstsq(terms, left.ravel(), rcond=None)[0]).reshape(left.shape)


# -- curvature


def test_the_bends_of_surfaces_that_are_known():
    rows, columns = (torch.from_numpy(each).float() for each in np.indices(SHAPE))
    inside = (slice(1, -1), slice(1, -1))
    for z, wanted in (
        (0.3 * rows - 0.7 * columns + 2, (0.0, 0.0, 0.0)),
        (0.5 * columns**2, (1.0, 0.0, 0.0)),
        (0.5 * rows**2, (0.0, 1.0, 0.0)),
        (rows * columns, (0.0, 0.0, 1.0)),
    ):
        for bent, value in zip(bends(z), wanted, strict=True):
            torch.testing.assert_close(bent[inside], torch.full_like(bent[inside], value), atol=1e-3, rtol=0)


def test_each_wave_bends_as_its_length_says():
    for mode in ((0, 3), (5, 0), (4, 7), (47, 55)):
        modes = torch.zeros(SHAPE)
        modes[mode] = 1.0
        strength = float(module._strength(bends(inverse_cosine_transform(modes))).sum())
        assert strength == pytest.approx(float(module._bending(SHAPE)[mode]), rel=1e-4)


@settings(max_examples=20, deadline=None)
@given(st.integers(2, 9), st.integers(2, 9), st.integers(0, 99))
def test_stiffness_is_the_slope_of_what_bending_costs(h, w, seed):
    z, weights = field(seed, h, w).requires_grad_(True), field(seed + 1, h, w).exp()
    (0.5 * (weights * module._strength(bends(z))).sum()).backward()
    torch.testing.assert_close(stiffness(z.detach(), weights), z.grad, rtol=1e-4, atol=1e-5)


def test_nothing_prefers_a_direction():
    z = field(1, *SHAPE)
    plain = CASE.weights(z)
    for turn in (lambda x: x.flip(-1), lambda x: x.flip(-2), lambda x: x.mT, lambda x: torch.rot90(x, 1, (-2, -1))):
        torch.testing.assert_close(CASE.weights(turn(z)), turn(plain), rtol=1e-4, atol=1e-3)


# -- the linear problem


def test_the_solution_pulls_as_it_should():
    weights = field(3, 2, *SHAPE).exp()
    cost = Quadratic(INFORMATION + module.WAVES_SHARE / POWER, weights)
    pull = field(4, 2, *SHAPE)
    pull -= pull.mean(dim=(-2, -1), keepdim=True)
    found = cost.solve(pull, steps=300, accuracy=1e-5)
    left = cost.apply(found) - pull
    assert float((left - left.mean(dim=(-2, -1), keepdim=True)).square().mean().sqrt()) < 1e-3
    # Fields of a batch do not feel each other.
    alone = Quadratic(cost.stiff, weights[1]).solve(pull[1], steps=300, accuracy=1e-5)
    torch.testing.assert_close(found[1], alone, rtol=1e-3, atol=1e-4)
    assert not Quadratic(cost.stiff, weights[0]).solve(torch.zeros(SHAPE)).any()


def test_the_parabola_touches_and_never_undercuts():
    z = pyramids()
    touching = Touching(POWER, INFORMATION, CASE.weights(z))

    def exact(x):
        bent = module._strength(bends(x))
        modes = cosine_transform(x)
        tails = 0.5 * CASE.tail * torch.log(1 + bent / CASE.width**2).double().sum()
        return float(tails) + 0.5 * module.WAVES_SHARE * float((modes**2 / POWER).double().sum())

    value, slope = touching.value(z)
    for seed, size in ((5, 0.003), (6, 0.1), (7, 2.0)):
        other = z + size * field(seed, *SHAPE)
        assert touching.value(other)[0] - value >= exact(other) - exact(z) - 1e-2
    step = 1e-3 * field(8, *SHAPE)
    ahead, behind = exact(z + step), exact(z - step)
    assert float((slope * step).sum()) == pytest.approx((ahead - behind) / 2, rel=0.02, abs=0.02)


def test_data_alone_lie_where_the_gradient_says():
    truth = pyramids()
    z, gradient = wiener(truth, 9)
    told, pull = posed(z, gradient, INFORMATION)
    seen = cosine_transform(truth) + field(9, *SHAPE) / INFORMATION.sqrt()
    seen[0, 0] = 0
    torch.testing.assert_close(pull / told, seen, rtol=1e-3, atol=1e-3)


# -- the choice


@pytest.mark.parametrize("seed", range(3))
def test_faces_are_told_from_waves(seed):
    truth = pyramids()
    power = _spectrum(truth)
    found = choose_creases(*wiener(truth, seed, power), INFORMATION, power)
    assert found is not None
    assert found.gain > 30
    rough = waves(seed + 50)
    assert choose_creases(*wiener(rough, seed), INFORMATION, POWER) is None


def _spectrum(z):
    """The power law nearest to a surface's own."""
    squares = cosine_transform(z) ** 2
    return K**-4 * float((squares * K**4).flatten()[1:].mean())


def test_the_choice_is_the_same_each_time():
    z, gradient = wiener(pyramids(), 1)
    assert choose_creases(z, gradient, INFORMATION, POWER) == choose_creases(z, gradient, INFORMATION, POWER)


def test_the_other_half_is_foretold_as_well_as_theory_says():
    """Of waves with the right prior, the expected loss has a closed form."""
    losses = []
    for seed in range(8):
        told, pull = posed(*wiener(waves(seed), seed + 100), INFORMATION)
        losses.append(module._foretelling(told[None], pull[None], POWER)(None))
    kept, seen = INFORMATION * module.SPLIT / (1 + module.SPLIT), INFORMATION / (1 + module.SPLIT)
    wanted = 0.5 * (1 + kept / (seen + 1 / POWER)).flatten()[1:].sum()
    assert np.mean(losses) == pytest.approx(float(wanted), rel=0.02)


@pytest.mark.parametrize("shape", [(20, 300), (96, 96), (150, 191), (192, 512), (2000, 1000)])
def test_a_large_field_is_asked_in_parts(shape):
    tiles = module._tiles(shape)
    assert len({(rows.stop - rows.start, columns.stop - columns.start) for rows, columns in tiles}) == 1
    for rows, columns in tiles:
        assert 0 <= rows.start < rows.stop <= shape[0]
        assert 0 <= columns.start < columns.stop <= shape[1]
        assert max(rows.stop - rows.start, columns.stop - columns.start) <= module.TILE
    assert len(set(map(str, tiles))) == len(tiles) <= module.TILES**2


def test_a_part_has_the_spectrum_of_the_whole():
    small = (24, 28)
    torch.testing.assert_close(module._coarser(POWER, small)[3:, 5:], 0.02 * wave_numbers(small)[3:, 5:] ** -4)


# -- what comes of it


def test_faces_come_out_plain_and_their_doubt_is_right():
    truth, inside, errors, before = pyramids(), [], [], []
    power = _spectrum(truth)
    sigmas = []
    for seed in range(8):
        z, gradient = wiener(truth, seed, power)
        found = reweighted(CASE, z, *posed(z, gradient, INFORMATION), power)
        error = off(found, truth)
        sigma = sampled_variance(CASE, found, INFORMATION, power).sqrt().numpy()
        inside.append(np.abs(error) < 1.96 * sigma)
        errors.append(error**2)
        sigmas.append(sigma**2)
        before.append(off(z, truth) ** 2)
    assert math.sqrt(np.mean(errors) / np.mean(before)) < 0.75
    assert 0.92 < np.mean(inside) < 0.99
    assert math.sqrt(np.mean(errors) / np.mean(sigmas)) == pytest.approx(1.0, abs=0.25)


def exact_variance(shape, stiff, weights):
    """Of the posterior, its plane removed, from dense matrices."""
    unit = torch.eye(shape[0] * shape[1]).reshape(-1, *shape)
    dense = Quadratic(stiff, weights).apply(unit).reshape(len(unit), -1).double().numpy()
    rows, columns = np.indices(shape).reshape(2, -1)
    q, _ = np.linalg.qr(np.stack([np.ones(rows.size), rows, columns], axis=1).astype(float))
    cut = np.eye(len(dense)) - q @ q.T
    # The mean is nobody's knowledge.
    mean = np.full_like(dense, 1 / len(dense))
    covariance = np.linalg.pinv((np.eye(len(dense)) - mean) @ dense @ (np.eye(len(dense)) - mean), rcond=1e-9)
    return np.diag(cut @ covariance @ cut).reshape(shape)


def test_the_variance_is_that_of_the_posterior(monkeypatch):
    shape = (11, 13)
    k = wave_numbers(shape)
    information, power = 60 * k**2, 0.02 * k**-4
    rows, columns = np.indices(shape)
    z = torch.from_numpy(np.maximum(0.0, 4.0 - 0.8 * np.maximum(abs(rows - 5), abs(columns - 6)))).float()
    monkeypatch.setattr(module, "SAMPLES", 600)
    drawn = sampled_variance(CASE, z, information, power).numpy()
    exact = exact_variance(shape, information + module.WAVES_SHARE / power, CASE.weights(z))
    assert drawn.mean() == pytest.approx(exact.mean(), rel=0.05)
    assert np.abs(drawn / exact - 1).max() < 0.3


def test_long_creases_are_solved_for_to_the_end():
    weights = Creases(0.8, 0.003).weights(pyramids())
    cost, pull = Quadratic(INFORMATION + module.WAVES_SHARE / POWER, weights), field(11, *SHAPE)
    found = cost.solve(pull, module.SAMPLE_STEPS, module.SAMPLE_ACCURACY)
    exact = cost.solve(pull, 2000, 1e-6)
    assert float((found - exact).square().mean().sqrt()) < 0.1 * float(exact.std())


def test_a_large_field_is_drawn_in_parts(monkeypatch):
    z, sizes, solve = pyramids(), [], Quadratic.solve

    def counted(self, pull, *how):
        sizes.append(len(pull))
        return solve(self, pull, *how)

    monkeypatch.setattr(Quadratic, "solve", counted)
    monkeypatch.setattr(module, "AT_ONCE", 5 * z.numel())
    assert sampled_variance(CASE, z, INFORMATION, POWER).shape == SHAPE
    assert sizes == [5, 5, 2]


def test_the_borders_of_tiles_are_no_creases():
    """Long waves cut by a mirror look like creases; the whole field knows better."""
    shape = (200, 210)
    k = wave_numbers(shape)
    power, information = 2e-4 * k**-5, 3 * k**2 * torch.exp(-0.3 * k**2)
    assert choose_creases(*wiener(waves(1, shape, power), 2, power, information), information, power) is None
