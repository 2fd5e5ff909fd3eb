"""Transfer functions of the segments, measured on a surface of gentle slopes.

On a flat, isotropic sample a ring's segment at azimuth α answers to the wave z(k) exp(i k·r) of direction ψ with

    T(k) = Σ_m i^(m mod 2) τ_m(|k|) cos(m (ψ − α)),      m = 0 … 4,  τ_m real:

the beam falls along the axis, so nothing but α distinguishes a direction, and both sides of α are alike; a real kernel
makes the even harmonics real and the odd ones imaginary. Equal segments share the τ_m, which are cubic splines
in |k| that vanish at k = 0, where a shift of the whole surface changes nothing. All segments and modes are fitted
together by least squares, each mode weighted by its noise.

A relief z and its mirror −z, seen one after the other: half the difference of their signals holds odd orders of z
alone, so that what slopes do to the signals in second order drops out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import fft
from scipy.interpolate import BSpline

from drivers.errors import InputError
from reconstruction.bounds import Border, wave_vectors

Floats: TypeAlias = NDArray[np.float64]
Complexes: TypeAlias = NDArray[np.complex128]
_DEGREE = 3


@dataclass(frozen=True, slots=True, eq=False)
class Transfer:
    """Transfer functions of equal segments (formula: module text).

    Attributes
    ----------
    azimuths : (S,) array, rad
        Of the segments' middles.
    knots : (n + 4,) array, rad/m
    coefficients : (M, n − 1) array, signal per metre
        Of the splines; the first one, which does not vanish at 0, has none.
    covariance : (M · (n − 1), M · (n − 1)) array
        Of the coefficients, row by row, from the noise.
    chi_squared : float
        Of the fit, over its degrees of freedom: 1 where nothing but noise is left.
    """

    azimuths: Floats
    knots: Floats
    coefficients: Floats
    covariance: Floats
    chi_squared: float

    def radial(self, k: ArrayLike) -> Floats:
        """Return τ_m at lengths of k (rad/m). Shape (M, *k.shape)."""
        lengths = np.asarray(k, dtype=np.float64)
        splines = _splines(self.knots, lengths.ravel())
        return (self.coefficients @ splines.T).reshape(-1, *lengths.shape)

    def radial_error(self, k: ArrayLike) -> Floats:
        """Return the standard error of :meth:`radial`, of the same shape."""
        lengths = np.asarray(k, dtype=np.float64)
        splines = _splines(self.knots, lengths.ravel())
        count = splines.shape[1]
        errors = [
            np.einsum("ki,ij,kj->k", splines, self.covariance[part, part], splines)
            for part in (slice(m * count, (m + 1) * count) for m in range(len(self.coefficients)))
        ]
        return np.sqrt(np.maximum(errors, 0.0)).reshape(-1, *lengths.shape)

    def __call__(self, kx: Floats, ky: Floats) -> Complexes:
        """Return the transfer functions at k_x, k_y (rad/m), in signal per metre. Shape (S, *kx.shape)."""
        radial, azimuth = self.radial(np.hypot(kx, ky)), np.arctan2(ky, kx)
        result = np.zeros((len(self.azimuths), *radial.shape[1:]), dtype=np.complex128)
        for order, values in enumerate(radial):
            phase = 1j if order % 2 else 1.0
            for segment, middle in enumerate(self.azimuths):
                result[segment] += phase * values * np.cos(order * (azimuth - middle))
        return result

    def response(self, z: Floats, pixel_size: float, border: Border = "reflecting") -> Floats:
        """Return what a gentle relief (H, W), m, adds to each segment's signal, to first order. Shape (S, H, W)."""
        rows, columns = z.shape
        field = np.pad(z, ((0, rows), (0, columns)), mode="symmetric") if border == "reflecting" else z
        waves = self(*wave_vectors(field.shape, pixel_size)) * fft.fft2(field)
        return np.asarray(fft.ifft2(waves).real[:, :rows, :columns])


def _splines(knots: Floats, k: Floats) -> Floats:
    """Return the splines that vanish at 0, at lengths of k; beyond the last knot, its values. Shape (len(k), n − 1)."""
    inside = np.clip(k, knots[0], knots[-1])
    return np.asarray(BSpline.design_matrix(inside, knots, _DEGREE).toarray()[:, 1:])


def _knots(lowest: float, longest: float, pieces: int) -> Floats:
    """Return knots up to the longest k that lie closer where k is small, though no closer than the lowest modes.

    The transfer changes over the inverse of the electron range, which is many pixels.
    """
    place = np.linspace(0, 1, pieces + 1)
    even = min(lowest * pieces / longest, 1.0)
    inner = longest * (even * place + (1 - even) * place**2)
    return np.concatenate([np.zeros(_DEGREE), inner, np.full(_DEGREE, longest)])


def estimate_transfer(
    height: ArrayLike,
    signals: ArrayLike,
    variances: ArrayLike,
    azimuths: ArrayLike,
    pixel_size: float,
    harmonics: int = 5,
    pieces: int = 14,
) -> Transfer:
    """Return the transfer functions that explain the signals of gentle periodic surfaces.

    Parameters
    ----------
    height : (H, W) or (F, H, W) array, m
        One or more surfaces that go on periodically, of slopes up to about 0.1 rms, with waves of all lengths.
    signals : (S, H, W) or (F, S, H, W) array
        In any unit; better half the difference between a relief and its mirror (module text).
    variances : (S,) or (F, S) array, signal²
        Of the noise of one pixel.
    azimuths : (S,) array, rad
        Of the segments' middles; the segments are equal otherwise.
    pixel_size : float, m
    harmonics : int
        M.
    pieces : int
        Of each spline.

    Raises
    ------
    InputError
        For shapes that do not fit together, or surfaces that do not tell all coefficients.
    """
    z, seen = np.asarray(height, dtype=np.float64), np.asarray(signals, dtype=np.float64)
    middles = np.asarray(azimuths, dtype=np.float64)
    if z.ndim == 2:
        z, seen = z[None], seen[None]
    noise = np.asarray(variances, dtype=np.float64)
    fits = seen.shape == (z.shape[0], len(middles), *z.shape[1:]) and noise.shape in (seen.shape[:2], seen.shape[1:2])
    if not (fits and (noise > 0).all()):
        raise InputError(
            f"expected signals (frame, segment, row, column) that fit heights {z.shape} and {len(middles)} segments, "
            f"and noise above 0 of each; got {seen.shape} and {noise}"
        )
    knots = _knots(2 * np.pi / (max(z.shape[1:]) * pixel_size), np.sqrt(2) * np.pi / pixel_size, pieces)
    size = harmonics * (len(knots) - _DEGREE - 2)
    normal, projected, power, count = np.zeros((size, size)), np.zeros(size), 0.0, 0
    for design, data in _equations(
        z, seen, np.broadcast_to(noise, seen.shape[:2]), middles, knots, pixel_size, harmonics
    ):
        normal += (design.conj().T @ design).real
        projected += (design.conj().T @ data).real
        power += float(np.sum(np.abs(data) ** 2))
        count += data.size
    scale = 1 / np.sqrt(np.maximum(np.diag(normal), 1e-300))
    values, vectors = np.linalg.eigh(normal * scale[:, None] * scale)
    if values[-1] <= 0 or values[0] < 1e-9 * values[-1]:
        raise InputError("the surfaces hold too few waves to tell all coefficients; take fewer pieces or harmonics")
    covariance = (vectors / values) @ vectors.T * scale[:, None] * scale
    coefficients = covariance @ projected
    left = power - float(coefficients @ projected)
    return Transfer(middles, knots, coefficients.reshape(harmonics, -1), covariance, left / (count - len(coefficients)))


def _equations(
    z: Floats, seen: Floats, noise: Floats, azimuths: Floats, knots: Floats, pixel_size: float, harmonics: int
) -> Iterator[tuple[Complexes, Complexes]]:
    """Yield design matrix and data of each frame and segment, in units of the noise of one mode.

    Left out are the mean, and waves of two pixels along an axis, of which k and −k are the same. Every other wave comes
    twice, as k and as −k: the real part of the sum over both has the weight of one complex number.
    """
    rows, columns = z.shape[1:]
    kx, ky = wave_vectors((rows, columns), pixel_size)
    used = np.hypot(kx, ky) > 0
    if rows % 2 == 0:
        used[rows // 2] = False
    if columns % 2 == 0:
        used[:, columns // 2] = False
    splines, azimuth = _splines(knots, np.hypot(kx, ky)[used]), np.arctan2(ky, kx)[used]
    for surface, frame, variance in zip(z, seen, noise, strict=True):
        waves = fft.fft2(surface)[used]
        for index, middle in enumerate(azimuths):
            size = np.sqrt(variance[index] * surface.size)
            factors = [
                (1j if order % 2 else 1.0) * np.cos(order * (azimuth - middle)) * waves / size
                for order in range(harmonics)
            ]
            design = np.concatenate([splines * factor[:, None] for factor in factors], axis=1)
            yield design, fft.fft2(frame[index])[used] / size
