"""By how much one frame is displaced from another: phase correlation, to a fraction of a pixel, with a confidence.

The cross-power spectra of all segments are added up, so that their independent noises average, whitened by the mean of
both frames' power, so that a few strong periods do not decide, and weighted by a band: slow shading belongs to the
detector and stays where it is while the sample moves, and the finest periods are noise. The peak of the correlation is
then found on a fine grid by a discrete Fourier transform about it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from drivers.frame import Frame

Floats = NDArray[np.float64]

LOWEST = 4.0
"""Periods across the field below which a structure counts as shading."""
HIGHEST = 0.18
"""Frequency (cycles per pixel) at which the weight has fallen to 1/e."""
AROUND = 4
"""Pixels about the peak that are left out of the correlation's noise."""
FINE = 41
"""Points of the fine grid, over one pixel and a half to each side."""


@dataclass(frozen=True)
class Displacement:
    """How far the second frame's structures lie from the first one's.

    Attributes
    ----------
    x, y : float, px
        To the right and upwards.
    confidence : float
        Height of the correlation's peak over the standard deviation of the rest; of unrelated frames it is about 4.5.
    """

    x: float
    y: float
    confidence: float


def displacement(anchor: Frame, frame: Frame) -> Displacement:
    """Return by how much ``frame`` is displaced from ``anchor``; both of the same shape and segments."""
    cross, power = _spectra(anchor, frame)
    rows, columns = anchor.shape
    ky = np.asarray(np.fft.fftfreq(rows)[:, None], dtype=np.float64)
    kx = np.asarray(np.fft.fftfreq(columns)[None, :], dtype=np.float64)
    radius = np.hypot(ky, kx)
    band = (1.0 - np.exp(-((radius * min(rows, columns) / LOWEST) ** 4))) * np.exp(-((radius / HIGHEST) ** 2))
    white = cross / np.maximum(power, 1e-12 * float(power.max()) + 1e-300) * band
    surface = np.fft.ifft2(white).real
    row, column = np.unravel_index(int(surface.argmax()), surface.shape)
    confidence = _confidence(surface, int(row), int(column))
    dy, dx = _refined(white, _signed(int(row), rows), _signed(int(column), columns), ky, kx)
    return Displacement(dx, -dy, confidence)


def _spectra(anchor: Frame, frame: Frame) -> tuple[NDArray[np.complex128], Floats]:
    """Return the cross-power spectrum, and the mean power that whitens it; summed over segments. Shapes (H, W)."""
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
