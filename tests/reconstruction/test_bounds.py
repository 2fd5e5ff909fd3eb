"""The bound against estimators that were really run, the transfer's fit against a known one, and the baselines."""

import numpy as np
import pytest
from scipy import fft

from drivers.errors import InputError
from drivers.geometry import gradient
from reconstruction.bounds import (
    best_scaled,
    expected_error,
    frankot_chellappa,
    height_error,
    mode_lengths,
    posterior_spectrum,
    radial_spectrum,
    wave_vectors,
    wiener_bound,
)
from reconstruction.integrate import integrate
from reconstruction.measured_transfer import Transfer, estimate_transfer
from reconstruction.metrology import relative_error

PIXEL = 20e-9
AZIMUTHS = np.radians([0, 90, 180, 270])


def roughness(k):
    """A self-affine spectrum of 10 nm rms on 32², m²."""
    return 2e-14 / (1 + (k * 100e-9) ** 2) ** 1.8


def slopes_seen_from_four_sides(kx, ky):
    """T of segments that answer to the slope towards them, blurred over 60 nm, and a little to the curvature."""
    k, psi = np.hypot(kx, ky), np.arctan2(ky, kx)
    blur = np.exp(-0.5 * (k * 60e-9) ** 2)
    even = 2e-8 * k**2 * blur * (1 + 0.3 * np.cos(2 * (psi - AZIMUTHS[:, None, None])))
    return -1j * k * np.cos(psi - AZIMUTHS[:, None, None]) * blur + even


NOISE = np.array([0.04, 0.03, 0.05, 0.04])


def draw(rng, shape, power):
    """A periodic Gaussian surface of a spectrum."""
    return fft.ifft2(fft.fft2(rng.normal(size=shape)) * np.sqrt(power)).real


def test_an_error_knows_no_plane_and_no_border():
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[0:40, 0:50]
    truth = rng.normal(size=(40, 50))
    noise = rng.normal(size=truth.shape) * 0.1
    found = truth + noise + 3 - 0.2 * rows + 0.07 * columns
    found[:4] += 100
    error = height_error(found, truth)
    assert error.rms == pytest.approx(0.1, rel=0.05)
    assert error.p95 == pytest.approx(0.196, rel=0.05)
    assert error.range == pytest.approx(np.ptp(truth[4:-4, 4:-4]), rel=0.05)
    assert error.share == pytest.approx(relative_error(found, truth, 4))
    assert height_error(found, truth, crop=3).rms > 1


def test_bad_maps_are_refused():
    with pytest.raises(InputError, match="one shape"):
        height_error(np.zeros((20, 20)), np.zeros((20, 21)))
    with pytest.raises(InputError, match="border of 4"):
        height_error(np.zeros((10, 20)), np.zeros((10, 20)))
    with pytest.raises(InputError, match="NaN"):
        height_error(np.full((20, 20), np.nan), np.zeros((20, 20)))
    with pytest.raises(InputError, match="gradient maps"):
        frankot_chellappa(np.zeros((8, 8)), np.zeros((8, 9)), 1.0)
    for noise in (0.0, -1.0):
        with pytest.raises(InputError, match="noise variance"):
            wiener_bound(slopes_seen_from_four_sides, np.full(4, noise), roughness, (16, 16), PIXEL)
    with pytest.raises(InputError, match="transfer functions"):
        wiener_bound(slopes_seen_from_four_sides, NOISE[:3], roughness, (16, 16), PIXEL)
    with pytest.raises(InputError, match="spectrum"):
        wiener_bound(slopes_seen_from_four_sides, NOISE, -np.ones((16, 16)), (16, 16), PIXEL)


def test_the_best_scale_is_the_best():
    rng = np.random.default_rng(1)
    truth = rng.normal(size=(40, 40))
    found = 0.4 * truth + 0.1 * rng.normal(size=truth.shape) + 7
    scaled, factor = best_scaled(found, truth)
    best = height_error(scaled, truth).rms
    assert factor == pytest.approx(0.4 / (0.4**2 + 0.1**2), rel=0.05)
    for other in (0.98 * factor, 1.02 * factor):
        assert height_error(other * found, truth).rms > best


@pytest.mark.parametrize("shape", [(32, 48), (31, 40)])
def test_frankot_chellappa_returns_mirrored_waves(shape):
    rows, columns = np.mgrid[0 : shape[0], 0 : shape[1]] + 0.5
    kx, ky = 3 * np.pi / shape[1], 4 * np.pi / shape[0]
    z = PIXEL * np.cos(kx * columns) * np.cos(ky * rows)
    p = -kx * np.sin(kx * columns) * np.cos(ky * rows)
    q = ky * np.cos(kx * columns) * np.sin(ky * rows)  # against the rows
    np.testing.assert_allclose(frankot_chellappa(p, q, PIXEL), z, atol=1e-9 * PIXEL)
    assert np.abs(integrate(p, q, PIXEL) - z).max() < 0.01 * PIXEL


@pytest.mark.parametrize("border", ["reflecting", "periodic"])
def test_the_powers_add_up_to_the_variance(border):
    z = np.random.default_rng(2).normal(size=(30, 48)) * 3.0
    spectrum = radial_spectrum(z, PIXEL, border)
    assert (spectrum.power * spectrum.modes).sum() / z.size == pytest.approx(z.var(), rel=0.02)
    assert spectrum.modes.sum() == z.size
    wide = spectrum.modes > 30
    np.testing.assert_allclose(spectrum.power[wide], 9.0, rtol=0.9)
    assert spectrum.power[wide].mean() == pytest.approx(9.0, rel=0.1)
    assert spectrum(spectrum.k[5] * np.ones(2)) == pytest.approx(spectrum.power[5])


def test_a_wave_lies_in_its_ring():
    columns = np.arange(64) + 0.5
    z = np.broadcast_to(np.cos(8 * np.pi * columns / 64), (64, 64))
    spectrum = radial_spectrum(z, PIXEL)
    assert spectrum.power.argmax() == 8
    assert spectrum.k[8] == pytest.approx(8 * np.pi / (64 * PIXEL))


@pytest.mark.parametrize("crop", [0, 5])
def test_the_wiener_estimate_errs_by_the_bound(crop):
    """Signals of random surfaces through known transfer functions, estimated mode by mode, measured as heights are."""
    rng, shape = np.random.default_rng(3), (32, 32)
    kx, ky = wave_vectors(shape, PIXEL)
    power = roughness(np.hypot(kx, ky))
    power[0, 0] = 0
    transfer = slopes_seen_from_four_sides(kx, ky)
    # A wave of two pixels has no odd part that could be seen.
    transfer[:, 16, :], transfer[:, :, 16] = transfer[:, 16, :].real, transfer[:, :, 16].real
    weights = transfer.conj() / NOISE[:, None, None]
    left = 1 / ((np.abs(transfer) ** 2 / NOISE[:, None, None]).sum(axis=0) + 1 / np.maximum(power, 1e-300))
    squares = []
    for _ in range(300):
        z = draw(rng, shape, power)
        signals = fft.ifft2(transfer * fft.fft2(z)).real
        signals += rng.normal(size=signals.shape) * np.sqrt(NOISE)[:, None, None]
        found = fft.ifft2(left * (weights * fft.fft2(signals)).sum(axis=0)).real
        squares.append(height_error(found, z, crop).rms ** 2)
    bound = wiener_bound(transfer, NOISE, power, shape, PIXEL, "periodic", crop)
    doubt = np.std(squares) / np.sqrt(len(squares))
    assert abs(np.mean(squares) - bound**2) < 3 * doubt
    assert doubt < 0.03 * bound**2


def test_on_a_mirrored_field_the_bound_is_that_of_the_whole_covariance():
    """Against the posterior of all pixels together, where cosine modes do mix: a dense matrix of a small field."""
    shape, count = (18, 18), 324
    power = roughness(mode_lengths(shape, PIXEL, "reflecting"))
    power[0, 0] = 0
    transfer = slopes_seen_from_four_sides(*wave_vectors((36, 36), PIXEL))
    basis = fft.idctn(np.eye(count).reshape(count, *shape), axes=(1, 2), norm="ortho")
    mirrored = np.pad(basis, ((0, 0), (0, 18), (0, 18)), mode="symmetric")
    seen = fft.ifft2(transfer[:, None] * fft.fft2(mirrored)).real[:, :, :18, :18].reshape(4, count, count)
    told = np.einsum("s,sip,sjp->ij", 1 / NOISE, seen, seen)[1:, 1:]
    covariance = np.linalg.inv(told + np.diag(1 / power.ravel()[1:]))
    inside = np.zeros(shape, dtype=bool)
    inside[3:-3, 3:-3] = True
    rows, columns = (each[inside] - 8.5 for each in np.indices(shape))
    plane = np.linalg.qr(np.stack([np.ones(rows.size), rows, columns], axis=1))[0]
    fields = basis[1:, inside]
    fields -= fields @ plane @ plane.T
    exact = np.sqrt(np.einsum("ip,ij,jp->", fields, covariance, fields) / rows.size)
    bound = wiener_bound(slopes_seen_from_four_sides, NOISE, roughness, shape, PIXEL, crop=3)
    assert bound == pytest.approx(exact, rel=0.03)


@pytest.mark.parametrize("border", ["reflecting", "periodic"])
def test_the_bound_lies_between_nothing_and_the_surface(border):
    shape = (24, 24)
    lengths = mode_lengths(shape, PIXEL, border)
    power = roughness(lengths)
    power[0, 0] = 0

    def bound(noise):
        return wiener_bound(slopes_seen_from_four_sides, np.full(4, noise), power, shape, PIXEL, border)

    assert bound(1e12) == pytest.approx(expected_error(power, border), rel=1e-6)
    assert bound(1e-12) < 0.3 * bound(1.0) < 0.3 * bound(10.0)
    left = posterior_spectrum(slopes_seen_from_four_sides, np.full(4, 1.0), power, shape, PIXEL, border)
    assert left[0, 0] == 0
    assert (left <= power).all()


def test_what_a_plane_takes_away_is_counted():
    """White noise in n pixels loses three degrees of freedom, whatever the crop."""
    for border in ("reflecting", "periodic"):
        white = np.ones((20, 24))
        assert expected_error(white, border, 4) == pytest.approx(np.sqrt(1 - 3 / (12 * 16)), rel=1e-9)


def known(kx, ky):
    """All five harmonics, of lengths that differ."""
    k, psi = np.hypot(kx, ky), np.arctan2(ky, kx)
    radial = [
        2e-8 * k**2 * np.exp(-((k * 60e-9) ** 2)),
        -k * np.exp(-0.5 * (k * 60e-9) ** 2),
        1e-8 * k**2 * np.exp(-((k * 50e-9) ** 2)),
        0.1 * k * np.exp(-((k * 40e-9) ** 2)) * (k * 40e-9) ** 2,
        -4e-9 * k**2 * np.exp(-((k * 50e-9) ** 2)),
    ]
    angles = psi - AZIMUTHS[:, None, None]
    return sum((1j if m % 2 else 1) * tau * np.cos(m * angles) for m, tau in enumerate(radial)), np.array(radial)


def exposed(rng, shape, noise):
    kx, ky = wave_vectors(shape, PIXEL)
    power = np.hypot(kx, ky)
    power[0, 0] = np.inf
    z = draw(rng, shape, power**-3.0)
    z *= 0.1 / np.hypot(*gradient(z, PIXEL)).std()
    signals = fft.ifft2(known(kx, ky)[0] * fft.fft2(z)).real
    return z, signals + rng.normal(size=signals.shape) * noise + 0.3


def test_a_transfer_is_found_again():
    rng, shape, noise = np.random.default_rng(4), (96, 96), 0.02
    z, signals = exposed(rng, shape, noise)
    transfer = estimate_transfer(z, signals, np.full(4, noise**2), AZIMUTHS, PIXEL)
    assert transfer.chi_squared == pytest.approx(1.0, abs=0.03)
    k = np.linspace(0.02, 0.7, 30) * np.pi / PIXEL
    right = known(k[None], np.zeros((1, 30)))[1].reshape(5, 30)
    pulls = (transfer.radial(k) - right) / transfer.radial_error(k)
    assert np.sqrt(np.mean(pulls**2)) < 1.3  # splines approximate too
    main = np.abs(right[1]) > 0.2 * np.abs(right[1]).max()
    np.testing.assert_allclose(transfer.radial(k)[1][main], right[1][main], rtol=0.05)
    other, again = exposed(rng, shape, noise)
    left = again - transfer.response(other, PIXEL, "periodic")
    for residual in left:
        spectrum = radial_spectrum(residual, PIXEL, "periodic")
        pull = (spectrum.power / noise**2 - 1)[1:] / np.sqrt(2 / spectrum.modes[1:])
        assert np.abs(pull).max() < 4.5
        assert residual.std() == pytest.approx(noise, rel=0.02)


def test_two_frames_tell_as_much_as_both():
    rng, noise = np.random.default_rng(5), 0.05
    frames = [exposed(rng, (48, 48), noise) for _ in range(2)]
    z, signals = (np.stack(each) for each in zip(*frames, strict=True))
    one = estimate_transfer(z[0], signals[0], np.full(4, noise**2), AZIMUTHS, PIXEL, pieces=6)
    both = estimate_transfer(z, signals, np.full(4, noise**2), AZIMUTHS, PIXEL, pieces=6)
    k = np.linspace(0.1, 0.6, 10) * np.pi / PIXEL
    np.testing.assert_allclose(both.radial_error(k)[1], one.radial_error(k)[1] / np.sqrt(2), rtol=0.2)


def test_a_face_that_leans_towards_a_segment_is_bright_in_it():
    """T = −i k cos(ψ − α) is the slope towards the segment, with the signs of the geometry."""
    knots = np.concatenate([np.zeros(4), np.full(4, np.sqrt(2) * np.pi / PIXEL)])
    straight = np.array([knots[-1] / 3, 2 * knots[-1] / 3, knots[-1]])  # the cubic Bézier of τ = k
    coefficients = np.stack([np.zeros(3), -straight])
    transfer = Transfer(AZIMUTHS, knots, coefficients, np.zeros((6, 6)), 1.0)
    rows, columns = np.mgrid[0:48, 0:64] + 0.5
    z = 20e-9 * np.cos(4 * np.pi * columns / 64) * np.cos(3 * np.pi * rows / 48)
    response = transfer.response(z, PIXEL)
    p, q = gradient(z, PIXEL)
    for found, azimuth in zip(response, AZIMUTHS, strict=True):
        expected = -(p * np.cos(azimuth) + q * np.sin(azimuth))
        np.testing.assert_allclose(found[2:-2, 2:-2], expected[2:-2, 2:-2], atol=0.02 * np.abs(p).max())


def test_what_tells_too_little_is_refused():
    z, signals = np.zeros((16, 16)), np.zeros((4, 16, 16))
    with pytest.raises(InputError, match="too few waves"):
        estimate_transfer(z, signals, np.ones(4), AZIMUTHS, PIXEL)
    with pytest.raises(InputError, match="that fit heights"):
        estimate_transfer(z, signals[:3], np.ones(4), AZIMUTHS, PIXEL)
    with pytest.raises(InputError, match="noise above 0 of each"):
        estimate_transfer(z, signals, np.zeros(4), AZIMUTHS, PIXEL)
