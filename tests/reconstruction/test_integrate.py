"""Integration against surfaces whose gradients are known in closed form."""

import numpy as np
import pytest
from scipy import fft
from scipy.special import erf

from drivers.errors import InputError
from reconstruction.integrate import BLOCK, blocks, from_blocks, height_sigma, integrate, noise_amplification

N = 512


def grid():
    rows, columns = np.mgrid[0:N, 0:N].astype(float)
    return columns, -rows


def error_over_range(z, p, q):
    """Rms error after removal of a plane, over the range (max − min)."""
    x, y = grid()
    error = (integrate(p, q, 1.0) - z).ravel()
    plane = np.c_[np.ones(error.size), x.ravel(), y.ravel()]
    error -= plane @ np.linalg.lstsq(plane, error, rcond=None)[0]
    return error.std() / np.ptp(z)


def wave(period):
    x, y = grid()
    k, m = 2 * np.pi / period, 1.4 * np.pi / period
    z = np.sin(k * x + 0.3) * np.sin(m * y + 1)
    return z, k * np.cos(k * x + 0.3) * np.sin(m * y + 1), m * np.sin(k * x + 0.3) * np.cos(m * y + 1)


def pyramid(angle):
    """A four-sided pyramid of slope 0.4 on a flat ground."""
    x, y = grid()
    azimuths = np.radians(angle) + np.arange(4) * np.pi / 2
    faces = np.stack([100 - 0.4 * ((x - 256.4) * np.cos(a) + (y + 255.8) * np.sin(a)) for a in azimuths])
    steepest = np.argmin(faces, axis=0)
    on = faces.min(axis=0) > 10
    z = np.where(on, faces.min(axis=0), 10)
    return z, np.where(on, -0.4 * np.cos(azimuths[steepest]), 0), np.where(on, -0.4 * np.sin(azimuths[steepest]), 0)


def terrace(angle, places):
    """Steps whose 10 to 90 % width is 2 px, as a Gaussian probe leaves them."""
    x, y = grid()
    a, sigma = np.radians(angle), 2 / 2.563
    z, slope = np.zeros((N, N)), np.zeros((N, N))
    for place in places:
        d = (x - N / 2) * np.cos(a) + (y + N / 2) * np.sin(a) - place
        z += 0.5 * erf(d / sigma / np.sqrt(2))
        slope += np.exp(-0.5 * (d / sigma) ** 2) / sigma / np.sqrt(2 * np.pi)
    return z, slope * np.cos(a), slope * np.sin(a)


SURFACES = {
    "wave of 16 px": wave(16),
    "wave of 64 px": wave(64),
    "pyramid, 17°": pyramid(17),
    "pyramid, 80°": pyramid(80),
    "one step": terrace(0, [20.3]),
    "four steps, 10°": terrace(10, [-80.3, -30.7, 20.2, 65.9]),
    "four steps, 45°": terrace(45, [-80.3, -30.7, 20.2, 65.9]),
}


@pytest.mark.parametrize("name", SURFACES)
def test_error_is_below_a_thousandth_of_the_range(name):
    assert error_over_range(*SURFACES[name]) < 1e-3


def test_height_of_a_step_is_the_integral_of_its_slope():
    _, p, q = terrace(0, [20.3])
    heights = integrate(p, q, 5e-9)
    assert heights[:, -20].mean() - heights[:, 20].mean() == pytest.approx(5e-9, rel=2e-3)


def test_upward_in_y_is_against_the_rows():
    heights = integrate(np.zeros((8, 8)), np.full((8, 8), 0.5), 2.0)
    np.testing.assert_allclose(np.diff(heights, axis=0), -1.0)
    np.testing.assert_allclose(np.diff(heights, axis=1), 0.0, atol=1e-12)


def test_single_precision_is_kept_and_good():
    _, p, q = wave(32)
    heights = integrate(p.astype(np.float32), q.astype(np.float32), 1.0)
    assert heights.dtype == np.float32
    np.testing.assert_allclose(heights, integrate(p, q, 1.0), atol=2e-4)


@pytest.mark.parametrize(("p", "q"), [(np.zeros((8, 8)), np.zeros((8, 9))), (np.zeros((5, 8)), np.zeros((5, 8)))])
def test_shapes_that_do_not_fit_are_refused(p, q):
    with pytest.raises(InputError, match="6 × 6"):
        integrate(p, q, 1.0)


def test_gradients_that_are_not_finite_are_refused():
    with pytest.raises(InputError, match="not finite"):
        integrate(np.full((8, 8), np.nan), np.zeros((8, 8)), 1.0)


def test_noise_of_each_frequency_follows_the_closed_form():
    rng = np.random.default_rng(1)
    power = np.zeros((32, 32))
    for _ in range(400):
        noise = rng.normal(size=(2, 32, 32))
        power += fft.dctn(integrate(noise[0], noise[1], 1.0), norm="ortho") ** 2
    k = np.pi * np.arange(32) / 32
    expected = noise_amplification(k[None, :], k[:, None])
    ratio = power[2:24, 2:24] / 400 / expected[2:24, 2:24]
    assert ratio.mean() == pytest.approx(1, abs=0.02)
    assert np.abs(ratio - 1).max() < 0.35


@pytest.mark.parametrize(
    ("low", "high", "mean", "largest"), [(0.1, 0.1, 0.01, 0.05), (0.1, 0.2, 0.03, 0.12), (0.02, 0.12, 0.12, 0.28)]
)
def test_sigma_is_the_scatter_of_integrated_noise(low, high, mean, largest):
    rng = np.random.default_rng(2)
    rows, columns = np.mgrid[-24:24, -32:32]
    sigma = np.where(np.hypot(rows, columns) < 12, high, low)
    scatter = np.zeros(sigma.shape)
    for _ in range(1500):
        noise = rng.normal(size=(2, *sigma.shape)) * sigma
        # As a reconstruction does: its mean tilt is zero.
        noise -= noise.mean(axis=(1, 2))[:, None, None]
        scatter += integrate(noise[0], noise[1], 3.0) ** 2
    variance = blocks(sigma**2)
    ratio = np.sqrt(blocks(scatter / 1500)) / height_sigma(variance, variance, 3.0)
    assert ratio.mean() == pytest.approx(1, abs=mean)
    assert np.abs(ratio - 1).max() < largest
    assert ratio[[0, 0, -1, -1], [0, -1, 0, -1]].mean() == pytest.approx(1, abs=largest)


def test_blocks_average_and_spread_again():
    image = np.arange(7 * 9, dtype=np.float32).reshape(7, 9)
    mean = blocks(image)
    assert mean.shape == (2, 3)
    assert mean[0, 0] == pytest.approx(image[:BLOCK, :BLOCK].mean())
    assert from_blocks(mean, image.shape).shape == image.shape
