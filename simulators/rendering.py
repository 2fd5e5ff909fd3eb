"""The fast twin's images: what each segment collects while the beam scans a relief.

In this order: emission by the local normal, integrated over the real segments as each pixel sees them; shadows of
neighbours; brightness of edges and of the material; spread of the electrons in the solid and of the probe; scan
distortion and drift; the gas skirt. Nothing here is the model that a reconstruction would invert: the local law acts
before the spread, and what acts after it is not local.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from drivers.errors import InputError
from drivers.geometry import DetectorGeometry, pixel_positions
from drivers.sample import HeightMap
from simulators.emission import SPAN, EmissionLaw, SegmentTable, segment_table

Floats = NDArray[np.float64]
Singles = NDArray[np.float32]

THREADS = 2


@dataclass(frozen=True)
class Spread:
    """How far from the probe electrons leave the solid, in units of the range: a sum of two Gaussians.

    Attributes
    ----------
    widths : tuple of float
        Standard deviations, by axis.
    shares : tuple of float
    edge : float
        Brightening of what stands out above its surroundings, per range of height.
    oxide_ratio : float
        Signal of thick Cu2O over copper's.
    oxide_depth : float
        Thickness of oxide, in ranges, from which most of its signal comes.
    """

    widths: tuple[float, ...] = (0.06, 0.22)
    shares: tuple[float, ...] = (0.45, 0.55)
    edge: float = 0.6
    oxide_ratio: float = 0.92
    oxide_depth: float = 0.22

    @property
    def largest(self) -> float:
        """Largest standard deviation, in ranges."""
        return max(self.widths)

    def material(self, oxide: Singles, electron_range: float) -> Singles:
        """Return the brightness of copper under ``oxide`` (m), relative to bare copper."""
        depth = np.maximum(oxide, np.float32(0.0)) / np.float32(self.oxide_depth * electron_range)
        return np.float32(1.0) - np.float32(1.0 - self.oxide_ratio) * (
            np.float32(1.0) - np.exp(-depth * np.sqrt(depth))
        )


@dataclass(frozen=True)
class Optics:
    """How the probe stands on the sample during one raster.

    Attributes
    ----------
    covariance : (2, 2) array, m²
        Of the probe's density.
    unscattered : float
        Share of the probe that no gas molecule met; the rest lights the surroundings evenly.
    displacement : (H, 2) array, m
        How far each row lies from where it should, in x and y, by drift.
    distortion : float
        Largest error of the scan, as a share of the field.
    intensity : (H,) array
        Probe current of each row over its mean; 0 where the beam was blanked.
    """

    covariance: Floats
    unscattered: float = 1.0
    displacement: Floats | None = None
    distortion: float = 0.0
    intensity: Floats | None = None


@dataclass(frozen=True)
class Renderer:
    """Renders reliefs at one beam energy for one detector.

    Attributes
    ----------
    law : EmissionLaw
    geometry : DetectorGeometry
    electron_range : float, m
        Kanaya and Okayama's, of the substrate.
    spread : Spread
    """

    law: EmissionLaw
    geometry: DetectorGeometry
    electron_range: float
    spread: Spread = field(default_factory=Spread)

    @property
    def table(self) -> SegmentTable:
        """What the segments collect from each normal."""
        return segment_table(self.law, self.geometry)

    def margin(self, pixel_size: float) -> int:
        """Return how many pixels (edge in m) beyond the field the image needs."""
        return int(np.clip(math.ceil(3.0 * self.spread.largest * self.electron_range / pixel_size) + 6, 12, 48))

    def render(self, surface: HeightMap, oxide: Singles, optics: Optics, margin: int) -> Singles:
        """Return the energy that each segment collects, for one electron of the probe.

        Parameters
        ----------
        surface : HeightMap
            Shape (H + 2·margin, W + 2·margin).
        oxide : array, m
            Thickness of Cu2O at the top; same shape.
        optics : Optics
        margin : int
            Pixels to be cut off on each side.

        Returns
        -------
        (S, H, W) float32 array, keV above the diode's threshold
        """
        if not np.isfinite(surface.z).all():
            raise InputError("a surface to be rendered needs a height in every pixel; some are not numbers")
        z = np.ascontiguousarray(surface.z, dtype=np.float32)
        z = z - z.mean(dtype=np.float64).astype(np.float32)
        factor = self.spread.material(np.asarray(oxide, dtype=np.float32), self.electron_range)
        image = self._emit(z, factor * self._edges(z, surface.pixel_size), surface.pixel_size)
        image = self._blur(image, surface.pixel_size, optics.covariance)
        image = _scan(image, surface.pixel_size, optics, margin)
        if optics.unscattered < 1.0:
            skirt = image.mean(axis=(1, 2), dtype=np.float64).astype(np.float32)[:, None, None]
            image = np.float32(optics.unscattered) * image + np.float32(1.0 - optics.unscattered) * skirt
        if optics.intensity is not None:
            image *= optics.intensity.astype(np.float32)[None, :, None]
        return image

    def _edges(self, z: Singles, pixel_size: float) -> Singles:
        """Return the brightening of what stands out: electrons leave through walls within their range."""
        width = 0.3 * self.electron_range
        kernel = _gaussian(z.shape, pixel_size, width**2 * np.eye(2))
        smooth = _filtered(z[None], kernel)[0]
        lift = np.float32(self.spread.edge / self.electron_range) * (z - smooth)
        return np.asarray(np.clip(np.float32(1.0) + lift, np.float32(0.6), np.float32(1.6)))

    def _emit(self, z: Singles, factor: Singles, pixel_size: float) -> Singles:
        from simulators import illumination

        rows, columns = z.shape
        x, y = (axis.astype(np.float32) for axis in pixel_positions((rows, columns), pixel_size))
        table = self.table.values
        out = np.empty((len(self.geometry.segments), rows, columns), dtype=np.float32)
        rays, limits = _rays(self.geometry)
        fixed = (z, factor, np.float32(pixel_size), table, SPAN, x, y, rays, limits, np.float32(z.max()))
        _by_rows(lambda first, last: illumination.emit(*fixed, first, last, out), rows)
        return out

    def _blur(self, image: Singles, pixel_size: float, covariance: Floats) -> Singles:
        kernel = np.zeros(1, dtype=np.float32)
        for width, share in zip(self.spread.widths, self.spread.shares, strict=True):
            solid = (width * self.electron_range) ** 2 * np.eye(2)
            kernel = kernel + np.float32(share) * _gaussian(image.shape[1:], pixel_size, covariance + solid)
        return _filtered(image, kernel)


def _rays(geometry: DetectorGeometry, count: int = 3) -> tuple[Singles, Singles]:
    """Return directions in which each segment looks down, (S, count, 2), and sin² of its polar limits, (S, 2)."""
    rays = np.empty((len(geometry.segments), count, 2), dtype=np.float32)
    limits = np.empty((len(geometry.segments), 2), dtype=np.float32)
    for index, segment in enumerate(geometry.segments):
        azimuth = segment.azimuth + geometry.rotation + segment.span * ((np.arange(count) + 0.5) / count - 0.5)
        rays[index] = np.stack([np.cos(azimuth), np.sin(azimuth)], axis=-1)
        for edge, radius in enumerate((segment.inner_radius, segment.outer_radius)):
            limits[index, edge] = radius**2 / (radius**2 + geometry.working_distance**2)
    return rays, limits


def _gaussian(shape: tuple[int, ...], pixel_size: float, covariance: Floats) -> Singles:
    """Return the transfer of a Gaussian blur at the frequencies of rfft2, y against the rows."""
    ky = -2.0 * math.pi * np.fft.fftfreq(shape[0], pixel_size)[:, None]
    kx = 2.0 * math.pi * np.fft.rfftfreq(shape[1], pixel_size)[None, :]
    power = covariance[0, 0] * kx**2 + 2.0 * covariance[0, 1] * kx * ky + covariance[1, 1] * ky**2
    return np.asarray(np.exp(-0.5 * power), dtype=np.float32)


def _filtered(image: Singles, kernel: Singles) -> Singles:
    """Return images (S, H, W) after a filter given at the frequencies of rfft2."""
    from scipy import fft

    with fft.set_workers(THREADS):
        spectrum = fft.rfft2(image, axes=(1, 2))
        spectrum *= kernel
        return np.asarray(fft.irfft2(spectrum, s=image.shape[1:], axes=(1, 2)), dtype=np.float32)


def _scan(image: Singles, pixel_size: float, optics: Optics, margin: int) -> Singles:
    """Return the field as the raster really walked over it."""
    from simulators import illumination

    rows, columns = image.shape[1] - 2 * margin, image.shape[2] - 2 * margin
    if optics.displacement is None and optics.distortion == 0.0:
        return np.ascontiguousarray(image[:, margin : margin + rows, margin : margin + columns])
    v, u = np.meshgrid(np.linspace(-1.0, 1.0, rows), np.linspace(-1.0, 1.0, columns), indexing="ij")
    # A cushion, and a line that starts a little fast.
    bend = optics.distortion * (u**2 + v**2) / 2
    at_x = np.arange(columns) + margin + (bend * u + optics.distortion * 0.5 * (1.0 - u**2)) * columns / 2
    at_y = np.arange(rows)[:, None] + margin + bend * v * rows / 2
    if optics.displacement is not None:
        at_x = at_x + optics.displacement[:, :1] / pixel_size
        at_y = at_y - optics.displacement[:, 1:] / pixel_size
    out = np.empty((image.shape[0], rows, columns), dtype=np.float32)
    places = (np.asarray(at_y, dtype=np.float32), np.asarray(at_x, dtype=np.float32))
    _by_rows(lambda first, last: illumination.warp(image, *places, first, last, out), rows)
    return out


def _by_rows(work: Callable[[int, int], object], rows: int) -> None:
    """Do ``work(first, last)`` on shares of the rows, each in a thread of its own."""
    edges = np.linspace(0, rows, 2 * THREADS + 1).astype(int)
    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(work, edges[:-1].tolist(), edges[1:].tolist()))
