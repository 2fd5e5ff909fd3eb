"""Periodic random textures: what makes a surface look like a surface at every place, without storing the place."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


class Texture:
    """A periodic Gaussian random field with one dominant wavelength, mean 0 and root mean square 1.

    Parameters
    ----------
    rng : numpy Generator
    period : float, m
        Edge of the square after which it repeats.
    wavelength : float, m
    pixels : int
        Nodes along the period; bilinear between them.
    bandwidth : float
        Relative width of the ring of spatial frequencies.
    """

    def __init__(
        self, rng: np.random.Generator, period: float, wavelength: float, pixels: int, bandwidth: float = 0.35
    ) -> None:
        self.period = period
        frequency = np.fft.fftfreq(pixels, period / pixels)
        along = np.hypot(frequency[:, None], np.fft.rfftfreq(pixels, period / pixels)[None, :])
        ring = np.exp(-0.5 * ((along * wavelength - 1) / bandwidth) ** 2)
        ring[0, 0] = 0.0
        field = np.fft.irfft2(np.fft.rfft2(rng.standard_normal((pixels, pixels))) * ring, s=(pixels, pixels))
        self._nodes: Floats = (field / max(float(field.std()), 1e-30)).astype(np.float32)

    def _places(self, coordinate: NDArray[np.float64]) -> tuple[NDArray[np.uintp], NDArray[np.uintp], Floats]:
        count = self._nodes.shape[0]
        scaled = (coordinate / self.period - np.floor(coordinate / self.period)) * count
        low = np.floor(scaled).astype(np.uintp)
        return low % count, (low + 1) % count, (scaled - low).astype(np.float32)

    def on_grid(self, x: NDArray[np.float64], y: NDArray[np.float64]) -> Floats:
        """Return values at the crossings of columns ``x`` (W,) and rows ``y`` (H,), m. Shape (H, W)."""
        from simulators.interpolation import bilinear

        left, right, along = self._places(x)
        low, high, up = self._places(y)
        values: Floats = np.empty((len(y), len(x)), np.float32)
        bilinear(self._nodes, low, high, up, left, right, along, values)
        return values

    def at_points(self, x: NDArray[np.float64], y: NDArray[np.float64]) -> Floats:
        """Return values at points ``x``, ``y`` (n,), m. Shape (n,)."""
        left, right, along = self._places(x)
        low, high, up = self._places(y)
        below = self._nodes[low, left] * (1 - along) + self._nodes[low, right] * along
        above = self._nodes[high, left] * (1 - along) + self._nodes[high, right] * along
        return (below * (1 - up) + above * up).astype(np.float32)


def nodes_for(period: float, wavelength: float, most: int = 1024) -> int:
    """Return a power of two of nodes that gives a wavelength twelve nodes, ``most`` at the most."""
    return int(min(most, 2 ** math.ceil(math.log2(max(64.0, 12 * period / wavelength)))))
