"""By how much one frame is displaced from another: phase correlation, to a fraction of a pixel, with its uncertainty.

The cross-power spectra of all segments are added up, so that their independent noises average. Each frequency counts
with the weight of Hannan and Thomson, γ²/(1 − γ²), where γ is the share of signal in the power about it: the least
variance for a displacement, because what is noise says nothing of it however white it is made. Slow shading belongs to
the detector, stays where it is while the sample moves, and is left out. The peak of the correlation is found on a fine
grid by a discrete Fourier transform about it.

E. J. Hannan and P. J. Thomson, Biometrika 60, 469 (1973); C. H. Knapp and G. C. Carter, IEEE Transactions on
Acoustics, Speech, and Signal Processing 24, 320 (1976).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from drivers.frame import Frame

Floats = NDArray[np.float64]

LOWEST = 6.0
"""Periods across the field below which a structure counts as shading."""
NOISE_FROM = 0.42
"""Frequency (cycles per pixel) from which on the power is taken for noise."""
SURE = 0.95
"""Largest γ² that counts: the spectrum's neighbours do not tell it better."""
ABOUT = 5
"""Frequencies on each axis over which the power is averaged."""
AROUND = 4
"""Pixels about the peak that are left out of the correlation's noise."""
FINE = 41
"""Points of the fine grid, over one pixel and a half to each side."""
WINDOWED = 0.265
"""Independent modes over all modes, after a Hann window on both axes."""


@dataclass(frozen=True)
class Displacement:
    """How far the second frame's structures lie from the first one's.

    Attributes
    ----------
    x, y : float, px
        To the right and upwards.
    sigma : float, px
        Standard uncertainty along the worse direction, of noise alone.
    confidence : float
        Height of the correlation's peak over the standard deviation of the rest; below 8 for unrelated frames.
    """

    x: float
    y: float
    sigma: float
    confidence: float


def displacement(anchor: Frame, frame: Frame) -> Displacement:
    """Return by how much ``frame`` is displaced from ``anchor``; both of the same shape and segments."""
    rows, columns = anchor.shape
    ky = np.asarray(np.fft.fftfreq(rows)[:, None], dtype=np.float64)
    kx = np.asarray(np.fft.fftfreq(columns)[None, :], dtype=np.float64)
    radius = np.asarray(np.hypot(ky, kx), dtype=np.float64)
    cross, power = _spectra(anchor, frame)
    weight = _weights(power, radius) * (1.0 - np.exp(-((radius * min(rows, columns) / LOWEST) ** 4)))
    white = cross / np.maximum(np.abs(cross), 1e-300) * weight
    surface = np.fft.ifft2(white).real
    row, column = (int(index) for index in np.unravel_index(int(surface.argmax()), surface.shape))
    confidence = _confidence(surface, row, column)
    dy, dx = _refined(white, _signed(row, rows), _signed(column, columns), ky, kx)
    return Displacement(dx, -dy, _uncertainty(weight * len(anchor.counts), ky, kx), confidence)


def _spectra(anchor: Frame, frame: Frame) -> tuple[NDArray[np.complex128], Floats]:
    """Return the cross-power spectrum, and the mean power of both; summed over segments. Shapes (H, W)."""
    rows, columns = anchor.shape
    window = np.hanning(rows + 2)[1:-1, None] * np.hanning(columns + 2)[None, 1:-1]
    spectra = []
    for each in (anchor, frame):
        images = np.asarray(each.counts, dtype=np.float64)
        images = images - images.mean(axis=(1, 2), keepdims=True)
        spectra.append(np.fft.fft2(images * window, axes=(1, 2)))
    first, second = spectra
    cross = (second * np.conj(first)).sum(axis=0)
    power = 0.5 * ((np.abs(first) ** 2).sum(axis=0) + (np.abs(second) ** 2).sum(axis=0))
    return cross, power


def _weights(power: Floats, radius: Floats) -> Floats:
    """Return γ²/(1 − γ²) of each frequency."""
    from scipy.ndimage import uniform_filter

    noise = float(np.mean(power[radius > NOISE_FROM]))
    about = np.maximum(uniform_filter(power, ABOUT, mode="wrap"), 1e-300)
    squared = np.minimum(np.clip(1.0 - noise / about, 0.0, None) ** 2, SURE)
    return np.asarray(squared / (1.0 - squared), dtype=np.float64)


def _uncertainty(weight: Floats, ky: Floats, kx: Floats) -> float:
    """Return the bound of Cramér and Rao for the displacement along the worse direction, px."""
    # Each mode stands twice in the spectrum of a real image.
    modes = 4.0 * math.pi**2 * WINDOWED / 2.0 * weight
    xx, yy, xy = (float((modes * part).sum()) for part in (kx * kx, ky * ky, kx * ky))
    least = (xx + yy) / 2.0 - math.hypot((xx - yy) / 2.0, xy)
    return 1.0 / math.sqrt(least) if least > 1e-12 else math.inf


def _signed(index: int, length: int) -> int:
    return index - length if index > length // 2 else index


def _confidence(surface: Floats, row: int, column: int) -> float:
    rows, columns = surface.shape
    far_row = np.abs((np.arange(rows) - row + rows // 2) % rows - rows // 2) > AROUND
    far_column = np.abs((np.arange(columns) - column + columns // 2) % columns - columns // 2) > AROUND
    rest = surface[far_row[:, None] | far_column[None, :]]
    spread = float(rest.std())
    return float((surface[row, column] - rest.mean()) / spread) if spread > 0 else 0.0


def _refined(white: NDArray[np.complex128], row: int, column: int, ky: Floats, kx: Floats) -> tuple[float, float]:
    """Return the peak's place (rows downwards, columns) on a fine grid about a pixel, and on a parabola within it."""
    steps = np.linspace(-1.5, 1.5, FINE)
    down = np.exp(2j * np.pi * (row + steps)[:, None] * ky[:, 0][None, :])
    along = np.exp(2j * np.pi * kx[0][:, None] * (column + steps)[None, :])
    fine = (down @ white @ along).real
    i, j = (int(index) for index in np.unravel_index(int(fine.argmax()), fine.shape))
    pitch = float(steps[1] - steps[0])
    return (
        row + float(steps[i]) + pitch * _vertex(fine[:, j], i),
        column + float(steps[j]) + pitch * _vertex(fine[i, :], j),
    )


def _vertex(values: Floats, index: int) -> float:
    """Return where a parabola through a maximum and its neighbours has its vertex, in steps from the maximum."""
    if not 0 < index < len(values) - 1:
        return 0.0
    before, here, after = (float(value) for value in values[index - 1 : index + 2])
    bend = before - 2.0 * here + after
    return 0.0 if bend >= 0 else 0.5 * (before - after) / bend
