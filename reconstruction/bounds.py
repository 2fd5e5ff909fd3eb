"""What a frame could tell at best: the Wiener bound, its ingredients, and the measure of error that stands beside it.

One definition of each, for every comparison of heights with a truth.

Error. ``found − truth``, ``crop`` pixels of border left out, then its least-squares plane taken away: mean height and
tilt are what one frame does not tell. The range is max − min of the truth over the same pixels, its own plane taken
away.

Spectra. A height map of variance v has the power P(k) in each mode of its grid, normalised so that the mean of P over
all modes is v; white noise of variance σ² has P = σ² everywhere. The modes are those of the discrete Fourier transform
for a surface that goes on periodically, and of the cosine transform for one that goes on mirrored. P times the area of
a pixel is the spectral density in m⁴.

Bound. Near a flat surface segment s answers to z with S_s(k) = T_s(k) z(k) + noise of variance N_s. The best linear
estimate (N. Wiener 1949; here with several signals of one unknown) leaves in each mode

    E(k) = 1 / (Σ_s |T_s(k)|²/N_s + 1/P(k)).

On a mirrored field a cosine mode is the sum of four waves (±k_x, ±k_y), and what it adds to the signals has the mean
of their |T|² as its square; that other modes add something alike is neglected, by a few per cent at most. The
mean of the map is left out, and the error is taken over the same window as :func:`height_error` takes it, less what
the plane takes away.

Signs and axes are those of :mod:`drivers.geometry`: y runs up against the rows, waves are exp(i(k_x x + k_y y)).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import fft

from drivers.errors import InputError
from reconstruction.metrology import FloatArray, without_plane

Floats: TypeAlias = NDArray[np.float64]
Complexes: TypeAlias = NDArray[np.complex128]
Border = Literal["reflecting", "periodic"]
TransferFunction: TypeAlias = "Callable[[Floats, Floats], Complexes]"
"""Of k_x and k_y (rad/m, one shape); answers (S, *shape), signal per metre."""


@dataclass(frozen=True, slots=True)
class HeightError:
    """How far heights are from a truth (definition: module text), in the unit of both.

    Attributes
    ----------
    rms : float
    p95 : float
        95th percentile of the modulus.
    range : float
        Of the truth.
    share : float
        ``rms`` over ``range``.
    """

    rms: float
    p95: float
    range: float

    @property
    def share(self) -> float:
        """Rms error over the truth's range."""
        return self.rms / self.range


def _window(shape: tuple[int, ...], crop: int) -> tuple[slice, slice]:
    if len(shape) != 2 or crop < 0 or min(shape) - 2 * crop < 3:
        raise InputError(
            f"expected a map of which 3 × 3 pixels are left within a border of {crop}; got the shape {shape}"
        )
    return slice(crop, shape[0] - crop), slice(crop, shape[1] - crop)


def _pair(found: ArrayLike, truth: ArrayLike, crop: int) -> tuple[Floats, Floats]:
    """Return both maps within the crop, checked."""
    one, other = np.asarray(found, dtype=np.float64), np.asarray(truth, dtype=np.float64)
    if one.shape != other.shape:
        raise InputError(f"expected heights and truth of one shape; got {one.shape} and {other.shape}")
    window = _window(one.shape, crop)
    one, other = one[window], other[window]
    if not (np.isfinite(one).all() and np.isfinite(other).all()):
        raise InputError("heights and truth must be numbers in every pixel that is compared; some are NaN or infinite")
    return one, other


def height_error(found: ArrayLike, truth: ArrayLike, crop: int = 4) -> HeightError:
    """Return the error of heights (definition: module text).

    Parameters
    ----------
    found, truth : (H, W) arrays, in one unit
    crop : int
        Pixels left out along each border.

    Raises
    ------
    InputError
        For maps of different shapes or smaller than the crop, or that are not finite within it.
    """
    one, other = _pair(found, truth, crop)
    error = np.abs(without_plane(one - other))
    return HeightError(
        rms=float(np.sqrt(np.mean(error**2))),
        p95=float(np.quantile(error, 0.95)),
        range=float(np.ptp(without_plane(other))),
    )


def best_scaled(found: ArrayLike, truth: ArrayLike, crop: int = 4) -> tuple[Floats, float]:
    """Return the map times the factor that makes its :func:`height_error` least, and the factor.

    An oracle's: it needs the truth. Parameters and errors are those of :func:`height_error`.
    """
    one, other = (without_plane(each) for each in _pair(found, truth, crop))
    power = float(np.sum(one**2))
    factor = float(np.sum(one * other)) / power if power > 0 else 0.0
    return np.asarray(found, dtype=np.float64) * factor, factor


def frankot_chellappa(p: FloatArray, q: FloatArray, pixel_size: float) -> Floats:
    """Return heights from gradients by the Fourier transform of the mirrored field, as a baseline.

    R. T. Frankot and R. Chellappa, IEEE Trans. PAMI 10 (1988) 439: z(k) = −i (k_x p + k_y q)/k². The heights go on
    evenly beyond the borders, so ∂z/∂x changes its sign in the images to the sides, and ∂z/∂y in those above and below.

    Parameters
    ----------
    p, q : (H, W) float arrays
        ∂z/∂x along the columns and ∂z/∂y against the rows.
    pixel_size : float, m

    Returns
    -------
    (H, W) array, m
        Mean zero.

    Raises
    ------
    InputError
        For arrays of different shapes, or that are not finite.
    """
    if p.ndim != 2 or p.shape != q.shape or not (np.isfinite(p).all() and np.isfinite(q).all()):
        raise InputError(f"expected two finite gradient maps of one shape; got {p.shape} and {q.shape}")
    rows, columns = p.shape
    along = np.hstack([p, -p[:, ::-1]])
    up = np.hstack([q, q[:, ::-1]])
    kx, ky = wave_vectors((2 * rows, 2 * columns), pixel_size)
    # The sign of a wave of two pixels is nobody's: its derivative vanishes.
    kx[:, columns], ky[rows, :] = 0.0, 0.0
    squared = kx**2 + ky**2
    squared[squared == 0] = np.inf
    spectrum = kx * fft.fft2(np.vstack([along, along[::-1]])) + ky * fft.fft2(np.vstack([up, -up[::-1]]))
    z = fft.ifft2(-1j * spectrum / squared).real[:rows, :columns]
    return np.asarray(z - z.mean())


def wave_vectors(shape: tuple[int, int], pixel_size: float) -> tuple[Floats, Floats]:
    """Return k_x and k_y (rad/m) of the modes of ``numpy.fft.fft2``; y runs against the rows. Shapes (H, W)."""
    kx = 2 * np.pi * fft.fftfreq(shape[1], pixel_size)
    ky = -2 * np.pi * fft.fftfreq(shape[0], pixel_size)
    return np.broadcast_to(kx, shape).copy(), np.broadcast_to(ky[:, None], shape).copy()


def mode_lengths(shape: tuple[int, int], pixel_size: float, border: Border) -> Floats:
    """Return |k| (rad/m) of each mode of a field. Shape (H, W)."""
    if border == "periodic":
        kx, ky = wave_vectors(shape, pixel_size)
        return np.hypot(kx, ky)
    rows, columns = (np.pi * np.arange(count) / (count * pixel_size) for count in shape)
    return np.asarray(np.hypot(rows[:, None], columns[None, :]))


def _power(field: FloatArray, border: Border) -> Floats:
    """Return the power of a field in each mode. Shape (H, W)."""
    if border == "periodic":
        return np.asarray(np.abs(fft.fft2(field)) ** 2 / field.size)
    return np.asarray(fft.dctn(field, norm="ortho") ** 2)


@dataclass(frozen=True, slots=True, eq=False)
class RadialSpectrum:
    """Power in rings of |k| (normalisation: module text).

    Attributes
    ----------
    step : float, rad/m
        Ring n holds what lies nearest to n · step.
    power : (n,) array
        Mean over the ring's modes, in the map's unit squared.
    modes : (n,) array
        How many there are.
    """

    step: float
    power: Floats
    modes: NDArray[np.int64]

    @property
    def k(self) -> Floats:
        """Middles of the rings, rad/m."""
        return np.asarray(self.step * np.arange(len(self.power)))

    def __call__(self, k: Floats) -> Floats:
        """Return the power of the nearest ring; beyond the last one, its."""
        ring = np.rint(np.asarray(k) / self.step).astype(np.int64)
        return np.asarray(self.power[np.minimum(ring, len(self.power) - 1)])


def radial_spectrum(z: FloatArray, pixel_size: float, border: Border = "reflecting") -> RadialSpectrum:
    """Return the power of a map in rings as wide as its lowest mode.

    Parameters
    ----------
    z : (H, W) array
    pixel_size : float, m
    border : {"reflecting", "periodic"}
        A mirrored map is taken less its plane, a periodic one less its mean.

    Returns
    -------
    RadialSpectrum
    """
    heights = np.asarray(z, dtype=np.float64)
    power = _power(heights - heights.mean() if border == "periodic" else without_plane(heights), border)
    step = (2 if border == "periodic" else 1) * np.pi / (max(heights.shape) * pixel_size)
    shape = (heights.shape[0], heights.shape[1])
    ring = np.rint(mode_lengths(shape, pixel_size, border) / step).astype(np.int64).ravel()
    modes, total = np.bincount(ring), np.bincount(ring, power.ravel())
    full = np.flatnonzero(modes)
    return RadialSpectrum(step, np.interp(np.arange(len(modes)), full, total[full] / modes[full]), modes)


def posterior_spectrum(
    transfer: TransferFunction | Complexes,
    noise: ArrayLike,
    spectrum: Callable[[Floats], Floats] | Floats,
    shape: tuple[int, int],
    pixel_size: float,
    border: Border = "reflecting",
) -> Floats:
    """Return E(k), the variance of the best linear estimate in each mode (formula: module text).

    Parameters
    ----------
    transfer : callable, or complex array, signal per metre
        A function of k_x and k_y (rad/m) that answers (S, …), such as a
        :class:`reconstruction.measured_transfer.Transfer`; or its values in the modes of ``numpy.fft.fft2``,
        (S, H, W), or (S, 2H, 2W) where the border is reflecting.
    noise : (S,) array, signal²
        Variance of each segment's noise in one pixel.
    spectrum : callable, or (H, W) array, m²
        P as a function of |k| (rad/m), or in each mode.
    shape : (H, W)
    pixel_size : float, m
    border : {"reflecting", "periodic"}

    Returns
    -------
    (H, W) array, m²
        In the modes of the Fourier or the cosine transform; 0 for the mean.

    Raises
    ------
    InputError
        For a noise that is not above 0, or arrays that do not fit.
    """
    variances = np.asarray(noise, dtype=np.float64)
    if variances.ndim != 1 or not (variances > 0).all():
        raise InputError(f"expected a noise variance above 0 for each segment; got {variances}")
    times = 2 if border == "reflecting" else 1
    grid = (times * shape[0], times * shape[1])
    values = transfer if isinstance(transfer, np.ndarray) else transfer(*wave_vectors(grid, pixel_size))
    if values.shape != (len(variances), *grid):
        raise InputError(f"expected transfer functions of shape {(len(variances), *grid)}; got {values.shape}")
    told = np.tensordot(1 / variances, np.abs(values) ** 2, axes=1)
    if border == "reflecting":
        # The index −l of the doubled grid is the wave of −k.
        down, along = (np.stack([np.arange(count), -np.arange(count)]) for count in shape)
        told = np.mean([told[np.ix_(rows, columns)] for rows in down for columns in along], axis=0)
    power = spectrum(mode_lengths(shape, pixel_size, border)) if callable(spectrum) else np.asarray(spectrum)
    if power.shape != shape or (power < 0).any():
        raise InputError(f"expected a spectrum of 0 or more of shape {shape}; got shape {power.shape}")
    left = power / (1 + power * told)
    left[0, 0] = 0.0
    return np.asarray(left)


def wiener_bound(
    transfer: TransferFunction | Complexes,
    noise: ArrayLike,
    spectrum: Callable[[Floats], Floats] | Floats,
    shape: tuple[int, int],
    pixel_size: float,
    border: Border = "reflecting",
    crop: int = 4,
) -> float:
    """Return the rms error (m) of the best linear estimate, as :func:`height_error` would measure it.

    Parameters
    ----------
    transfer, noise, spectrum, shape, pixel_size, border
        As for :func:`posterior_spectrum`.
    crop : int
        Pixels left out along each border.

    Raises
    ------
    InputError
    """
    left = posterior_spectrum(transfer, noise, spectrum, shape, pixel_size, border)
    return expected_error(left, border, crop)


def expected_error(modes: Floats, border: Border = "reflecting", crop: int = 4) -> float:
    """Return the rms that :func:`height_error` gives an error with independent modes of these variances.

    Parameters
    ----------
    modes : (H, W) array, m²
    border : {"reflecting", "periodic"}
        Which transform they are modes of.
    crop : int
    """
    rows, columns = modes.shape
    window = _window(modes.shape, crop)
    if border == "periodic":
        total = float(modes.mean())
    else:
        # Squares of the orthonormal cosines, mean over the window.
        along, down = (
            fft.idct(np.eye(count), axis=0, norm="ortho")[part] ** 2
            for count, part in zip((columns, rows), (window[1], window[0]), strict=True)
        )
        total = float(down.mean(axis=0) @ modes @ along.mean(axis=0))
    y, x = np.mgrid[window]
    pixels = x.size
    for shape in (np.ones(x.shape), x - x.mean(), y - y.mean()):
        # On a grid these three are orthogonal; each takes its own variance out of the window's.
        field = np.zeros((rows, columns))
        field[window] = shape / np.linalg.norm(shape)
        seen = _power(field, border)
        total -= float(np.sum(seen * modes)) / pixels
    return float(np.sqrt(max(total, 0.0)))
