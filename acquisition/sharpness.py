"""How sharp frames are, and at which setting of a lens they would be sharpest: a fit to the spectra of a search.

All frames of a search show the same place, so that blur alone tells them apart. A ray at the angle α lands at M·α,
where M = [[Δ + s_x, s_y], [s_y, Δ − s_x]] holds defocus and astigmatism, and the probe's covariance goes as M·Mᵀ. Along
any one of the three, u, the image's power at the spatial frequency k in the direction φ therefore falls as

    P(k, φ; u) = N + A(k, φ) · exp(−κ · k² · (u − u₀ + e_x cos 2φ + e_y sin 2φ)²).

N is noise, which blur leaves alone; A is the sample; and e is what is wrong in the other two: astigmatism, in a search
for the focus. For each (u₀, κ, e) the best N and A are a linear least-squares fit, so four numbers are searched for and
every ring and sector of the spectrum contributes with the weight of its own noise. Unlike the height of one curve, this
takes neither noise for sharpness nor a sample that is drawn out in one direction for astigmatism.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from drivers.frame import Frame

Floats = NDArray[np.float64]

RINGS = 10
"""Rings of spatial frequency, of equal width in log k."""
SECTORS = 8
"""Sectors of direction in half a turn."""
LOWEST = 3.0
"""Periods across the field from which on structure counts; slower changes are shading."""
WINDOWED = 0.265
"""Independent modes over all modes, after a Hann window on both axes: ⟨w²⟩⁴/⟨w⁴⟩² of one axis."""
MODEL_ERROR = 0.05
"""Share of the sample's power by which the law itself may be wrong: windows leak, and no probe is quite Gaussian."""


@dataclass(frozen=True, eq=False)
class Spectrum:
    """Power of a frame's image in rings and sectors of spatial frequency, all segments together.

    Attributes
    ----------
    power : (B,) array
        Mean over the modes of each ring and sector, of counts over their mean.
    square : (B,) array
        Mean square of the frequency, in radians per pixel, squared.
    angle : (B,) array, rad
        Of its middle, counter-clockwise from +x.
    modes : (B,) array
        Independent numbers in each.
    saturated : float
        Largest share of clipped pixels in a segment.
    """

    power: Floats
    square: Floats
    angle: Floats
    modes: Floats
    saturated: float


@dataclass(frozen=True, eq=False)
class Peak:
    """Where a search found the sharpest setting.

    Attributes
    ----------
    setting, sigma : float
        In the unit of the settings.
    skew : (float, float)
        e_x and e_y, in the same unit.
    evidence : float
        Drop of χ² against frames that are all equally sharp, less two for each number that was fitted (Akaike's
        criterion): below 0 where there is nothing but noise.
    sharpness : tuple of float
        Of each frame, as :meth:`of` tells it.
    noise : float
        Standard uncertainty of one frame's sharpness.
    weights, floor : (B,) arrays
        With which the spectrum's parts tell it.
    """

    setting: float
    sigma: float
    skew: tuple[float, float]
    evidence: float
    sharpness: tuple[float, ...]
    noise: float
    weights: Floats
    floor: Floats

    def of(self, spectrum: Spectrum) -> float:
        """Return the sharpness of a frame of the same place: 1 at the peak, 0 where blur has left nothing."""
        return float(self.weights @ (spectrum.power - self.floor))


def saturated_share(frame: Frame) -> float:
    """Return the largest share of clipped pixels in a segment."""
    pairs = zip(frame.counts, frame.channels, strict=True)
    return max(float(np.mean(image >= channel.saturation)) for image, channel in pairs)


def spectrum(frame: Frame) -> Spectrum:
    """Return the power of a frame's image in rings and sectors of spatial frequency."""
    counts = np.asarray(frame.counts, dtype=np.float64)
    rows, columns = frame.shape
    window = np.hanning(rows + 2)[1:-1, None] * np.hanning(columns + 2)[None, 1:-1]
    images = (counts - counts.mean(axis=(1, 2), keepdims=True)) * (window / max(float(counts.mean()), 1.0))
    power = (np.abs(np.fft.rfft2(images, axes=(1, 2))) ** 2).sum(axis=0)
    ky, kx = -np.fft.fftfreq(rows)[:, None], np.fft.rfftfreq(columns)[None, :]
    radius, angle = np.hypot(ky, kx), np.arctan2(ky, kx) % np.pi
    edges = np.geomspace(LOWEST / min(rows, columns), 0.5, RINGS + 1)
    ring = np.digitize(radius, edges) - 1
    sector = np.floor(angle * (SECTORS / np.pi) + 0.5).astype(int) % SECTORS
    inside = (ring >= 0) & (ring < RINGS)
    label = (ring * SECTORS + sector)[inside]
    bins = RINGS * SECTORS
    modes = np.bincount(label, minlength=bins).astype(np.float64)
    total = np.bincount(label, power[inside], bins)
    square = np.bincount(label, (2.0 * np.pi * radius[inside]) ** 2, bins)
    kept = modes > 0
    return Spectrum(
        total[kept] / modes[kept],
        square[kept] / modes[kept],
        np.asarray((np.arange(bins) % SECTORS * (np.pi / SECTORS))[kept], dtype=np.float64),
        np.maximum(modes[kept] * WINDOWED, 1.0) * len(counts),
        saturated_share(frame),
    )


@dataclass(frozen=True, eq=False)
class _Search:
    """The data of a search and the law that is fitted to them; settings scaled to half their range."""

    u: Floats
    power: Floats
    square: Floats
    cosine: Floats
    sine: Floats
    variance: Floats

    @classmethod
    def of(cls, u: Floats, spectra: Sequence[Spectrum]) -> _Search:
        power, first = np.stack([each.power for each in spectra]), spectra[0]
        floor = float(power.min())
        signal = np.maximum(power.mean(axis=0) - floor, 0.0)
        # A mode's power is |signal + noise|²: its variance is N² + 2·N·S.
        variance = (floor**2 + 2.0 * floor * signal) / first.modes + (MODEL_ERROR * signal) ** 2
        return cls(
            u, power, first.square / first.square.max(), np.cos(2 * first.angle), np.sin(2 * first.angle), variance
        )

    def law(self, centre: Floats, kappa: float, skew: tuple[float, float]) -> Floats:
        """Return the exponential for each of some u₀: (C, F, B)."""
        at = skew[0] * self.cosine + skew[1] * self.sine
        off = self.u[None, :, None] - centre[:, None, None] + at[None, None, :]
        return np.asarray(np.exp(-kappa * self.square * off**2))

    def amplitudes(self, law: Floats) -> tuple[Floats, Floats]:
        """Return A, none of it below 0, and the law less its mean over the frames: (C, B), (C, F, B)."""
        varied = law - law.mean(axis=1, keepdims=True)
        norm = (varied**2).sum(axis=1)
        inner = np.maximum((varied * (self.power - self.power.mean(axis=0))).sum(axis=1), 0.0)
        return np.where(norm > 1e-9, inner / np.maximum(norm, 1e-9), 0.0), varied

    def residuals(self, centre: Floats, kappa: float, skew: tuple[float, float]) -> Floats:
        """Return what the best fit leaves, over its standard deviation: (C, F, B)."""
        amplitude, varied = self.amplitudes(self.law(centre, kappa, skew))
        left = self.power - self.power.mean(axis=0) - amplitude[:, None, :] * varied
        return np.asarray(left / np.sqrt(self.variance))


def find_peak(settings: Sequence[float], spectra: Sequence[Spectrum]) -> Peak:
    """Fit the law above to a search.

    Parameters
    ----------
    settings : sequence of float
        u of each frame, in any unit; four different ones at least.
    spectra : sequence of Spectrum
        Of the frames.
    """
    from scipy.optimize import least_squares

    middle, half = (max(settings) + min(settings)) / 2.0, (max(settings) - min(settings)) / 2.0
    search = _Search.of((np.asarray(settings, dtype=np.float64) - middle) / half, spectra)
    start = _start(search)
    # What lies beyond the searched range is not bracketed: it counts as at the edge, and is searched for there.
    bounds = ([-1.1, np.log(0.02), -2.0, -2.0], [1.1, np.log(2000.0), 2.0, 2.0])

    def left(x: Floats) -> Floats:
        return search.residuals(x[:1], float(np.exp(x[1])), (float(x[2]), float(x[3]))).ravel()

    fit = least_squares(left, start, bounds=bounds, x_scale=(0.1, 0.3, 0.1, 0.1), max_nfev=60)
    flat = float((((search.power - search.power.mean(axis=0)) ** 2) / search.variance).sum())
    chi, (frames, bins) = 2.0 * float(fit.cost), search.power.shape
    scale = max(chi / max(frames * bins - 2 * bins - 4, 1), 1.0)
    jacobian = np.asarray(fit.jac, dtype=np.float64)
    information = jacobian.T @ jacobian + 1e-9 * np.eye(4)
    spread = np.sqrt(np.diag(np.linalg.pinv(information)) * scale)
    law = search.law(fit.x[:1], float(np.exp(fit.x[1])), (float(fit.x[2]), float(fit.x[3])))
    amplitude, _ = search.amplitudes(law)
    floor = search.power.mean(axis=0) - amplitude[0] * law[0].mean(axis=0)
    best = amplitude[0] * np.exp(-np.exp(fit.x[1]) * search.square * (fit.x[2] ** 2 + fit.x[3] ** 2))
    weights = best / search.variance
    total = float(weights @ best)
    weights = weights / total if total > 0 else np.zeros_like(weights)
    return Peak(
        middle + half * float(fit.x[0]),
        half * float(min(spread[0], 2.0)),
        (half * float(fit.x[2]), half * float(fit.x[3])),
        (flat - chi) / scale - 2.0 * (bins + 4),
        tuple(float(weights @ (row - floor)) for row in search.power),
        float(np.sqrt((weights**2 * search.variance).sum() * scale)),
        weights,
        floor,
    )


def _start(search: _Search) -> Floats:
    """Return (u₀, log κ, e_x, e_y) of the least χ² on a coarse grid."""
    centres = np.linspace(-1.0, 1.0, 33)
    skews = [(0.0, 0.0)]
    skews += [(r * np.cos(a), r * np.sin(a)) for r in (0.2, 0.5) for a in np.arange(8) * (np.pi / 4)]
    best, found = np.inf, np.zeros(4)
    for skew in skews:
        for kappa in np.geomspace(0.05, 500.0, 13):
            chi = (search.residuals(centres, float(kappa), skew) ** 2).sum(axis=(1, 2))
            index = int(chi.argmin())
            if chi[index] < best:
                best, found = float(chi[index]), np.array([centres[index], np.log(kappa), *skew])
    return found
