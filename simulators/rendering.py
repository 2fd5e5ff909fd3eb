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
from functools import lru_cache

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
    """How far from the probe electrons leave the solid, in units of the range.

    Those that fly to a segment leave, on average, on its side of the probe. The density is a sum of three Gaussians of
    these widths, shares and displacements; it was fitted to Monte Carlo exits of copper into a quarter ring of 14–45°
    from the axis, at 5 and 15 keV, whose transfer it meets within 0.01 up to 10 cycles per range.

    Attributes
    ----------
    widths : tuple of float
        Standard deviations, by axis.
    shares : tuple of float
    displacements : tuple of float
        Towards the middle of a segment that spans 90°.
    coarse : float
        Over which the relief is smoothed before its tilt changes what all segments share.
    edge, edge_width : float
        Brightening, per range of height, of what stands out above the relief smoothed over ``edge_width``.
    returned : float
        Signal, in that of level ground, from electrons that a slope sends into its neighbourhood, (1 − cosθ)/2 of a
        cosine emitter's. These four were fitted to Monte Carlo frames of islands and of roughness at 5 keV.
    """

    widths: tuple[float, ...] = (0.015, 0.051, 0.159)
    shares: tuple[float, ...] = (0.22, 0.22, 0.56)
    displacements: tuple[float, ...] = (0.018, 0.057, 0.065)
    coarse: float = 0.3
    edge: float = 1.5
    edge_width: float = 0.15
    returned: float = 0.4

    @property
    def largest(self) -> float:
        """Largest standard deviation, in ranges."""
        return max(*self.widths, self.coarse, self.edge_width)


OXIDE_DEPTH = 0.17
"""Thickness of Cu2O, in ranges, that weighs 1 − 1/e in the signal; from Monte Carlo of layers at 5 and 15 keV."""


def depth_weight(depth: Singles, electron_range: float) -> Singles:
    """Return which share of the signal comes from above ``depth`` (m): 1 − exp(−(t / 0.17 R)^1.5)."""
    relative = np.maximum(depth, np.float32(0.0)) / np.float32(OXIDE_DEPTH * electron_range)
    return np.asarray(np.float32(1.0) - np.exp(-relative * np.sqrt(relative)))


@dataclass(frozen=True)
class Layers:
    """What lies on the copper, from the top: Cu2O, then copper that was reduced, then Cu2O beneath it.

    Attributes
    ----------
    oxide, cover, buried : (H, W) arrays, m
        Thickness; None where there is none.
    """

    oxide: Singles
    cover: Singles | None = None
    buried: Singles | None = None

    def brightness(self, ratio: float, electron_range: float) -> Singles:
        """Return the brightness relative to bare copper, where thick Cu2O has ``ratio``."""
        weight = depth_weight(self.oxide, electron_range)
        if self.cover is not None and self.buried is not None:
            above = self.oxide + self.cover
            weight = weight + depth_weight(above + self.buried, electron_range) - depth_weight(above, electron_range)
        return np.asarray(np.float32(1.0) - np.float32(1.0 - ratio) * weight)


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
    oxide_ratio : float
        Signal of thick Cu2O over copper's.
    spread : Spread
    """

    law: EmissionLaw
    geometry: DetectorGeometry
    electron_range: float
    oxide_ratio: float = 0.92
    spread: Spread = field(default_factory=Spread)

    @property
    def table(self) -> SegmentTable:
        """What the segments collect from each normal."""
        return segment_table(self.law, self.geometry)

    def margin(self, shape: tuple[int, int], pixel_size: float) -> int:
        """Return how many pixels (edge in m) the image needs beyond a field of ``shape``; quick to transform."""
        least = int(np.clip(math.ceil(2.5 * self.spread.largest * self.electron_range / pixel_size) + 4, 12, 48))

        def slowness(margin: int) -> float:
            return float((shape[0] + 2 * margin) * (shape[1] + 2 * margin) * _largest_factor(shape, margin) ** 0.25)

        return min(range(least, least + 12), key=slowness)

    def render(self, surface: HeightMap, layers: Layers, optics: Optics, margin: int) -> Singles:
        """Return the energy that each segment collects, for one electron of the probe.

        Parameters
        ----------
        surface : HeightMap
            Shape (H + 2·margin, W + 2·margin).
        layers : Layers
            Same shape.
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
        smooth, edges = self._smoothed(z, surface.pixel_size)
        factor = layers.brightness(self.oxide_ratio, self.electron_range) * edges
        image = self._emit(z, smooth, factor, surface.pixel_size)
        image = self._blur(image, surface.pixel_size, optics.covariance)
        image = _scan(image, surface.pixel_size, optics, margin)
        if optics.unscattered < 1.0:
            skirt = image.mean(axis=(1, 2), dtype=np.float64).astype(np.float32)[:, None, None]
            image = np.float32(optics.unscattered) * image + np.float32(1.0 - optics.unscattered) * skirt
        if optics.intensity is not None:
            image *= optics.intensity.astype(np.float32)[None, :, None]
        return image

    def _smoothed(self, z: Singles, pixel_size: float) -> tuple[Singles, Singles]:
        """Return the relief as the shared signal sees it, and the brightening of what stands out."""
        plane = _plane(z)
        shape, spread = (z.shape[0], z.shape[1]), self.spread
        kernels = [
            _gaussian(shape, pixel_size, (width * self.electron_range) ** 2 * np.eye(2))
            for width in (spread.coarse, spread.edge_width)
        ]
        coarse, fine = _filtered((z - plane)[None], np.stack(kernels))
        # Electrons leave what stands out through its walls, too.
        lift = np.float32(spread.edge / self.electron_range) * (z - plane - fine)
        return coarse + plane, np.asarray(np.clip(np.float32(1.0) + lift, np.float32(0.6), np.float32(1.6)))

    def _emit(self, z: Singles, smooth: Singles, factor: Singles, pixel_size: float) -> Singles:
        from simulators import illumination

        rows, columns = z.shape
        x, y = (axis.astype(np.float32) for axis in pixel_positions((rows, columns), pixel_size))
        table = self.table.values
        common = np.ascontiguousarray(table[..., 0].mean(axis=2))
        shared = common + np.float32(self.spread.returned * self.table.flat.mean()) * _sent_down(len(table))
        out = np.empty((len(self.geometry.segments), rows, columns), dtype=np.float32)
        rays, limits = _rays(self.geometry)
        fixed = (
            z,
            smooth,
            factor,
            np.float32(pixel_size),
            table,
            common,
            shared,
            SPAN,
            x,
            y,
            rays,
            limits,
            np.float32(z.max()),
        )
        _by_rows(lambda first, last: illumination.emit(*fixed, first, last, out), rows)
        return out

    def _blur(self, image: Singles, pixel_size: float, covariance: Floats) -> Singles:
        shape = (image.shape[1], image.shape[2])
        solid = solid_transfer(self.spread, self.geometry, self.electron_range, shape, pixel_size)
        return _filtered(image, solid * _gaussian(shape, pixel_size, covariance))


def _sent_down(nodes: int) -> Singles:
    """Return which share of a cosine emitter's electrons flies below the horizon, for the table's normals."""
    side = np.linspace(-SPAN, SPAN, nodes, dtype=np.float32)
    squared = side[:, None] ** 2 + side[None, :] ** 2  # tan²(θ/2); (1 − cosθ)/2 = tan²/(1 + tan²)
    return np.asarray(squared / (1.0 + squared), dtype=np.float32)


def _largest_factor(shape: tuple[int, int], margin: int) -> int:
    """Return the largest prime in the lengths of a field with its margins."""
    largest = 1
    for length in shape:
        left, divisor = length + 2 * margin, 2
        while left > 1:
            if left % divisor:
                divisor += 1
            else:
                left, largest = left // divisor, max(largest, divisor)
    return largest


def _plane(z: Singles) -> Singles:
    """Return the plane through the edges' mean heights: a tilted field is not periodic, what is left nearly is."""
    rows, columns = z.shape
    along = (z[:, -1].mean() - z[:, 0].mean()) / np.float32(columns - 1)
    down = (z[-1].mean() - z[0].mean()) / np.float32(rows - 1)
    x = along * (np.arange(columns, dtype=np.float32) - np.float32(columns / 2))
    y = down * (np.arange(rows, dtype=np.float32) - np.float32(rows / 2))
    return np.asarray(y[:, None] + x[None, :], dtype=np.float32)


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


@lru_cache(maxsize=4)
def solid_transfer(
    spread: Spread, geometry: DetectorGeometry, electron_range: float, shape: tuple[int, int], pixel_size: float
) -> NDArray[np.complex64]:
    """Return the transfer of the spread in the solid for each segment, at the frequencies of rfft2.

    Where signal that leaves at x + d is seen at x, the transfer is exp(i k·d). Shape (S, H, W//2 + 1).
    """
    kx, ky = _wave_vectors(shape, pixel_size)
    square = kx**2 + ky**2
    result = np.zeros((len(geometry.segments), *square.shape), dtype=np.complex64)
    for index, segment in enumerate(geometry.segments):
        azimuth, half = segment.azimuth + geometry.rotation, segment.span / 2
        along = (kx * math.cos(azimuth) + ky * math.sin(azimuth)) * math.sin(half) / half * (math.pi / 4) * math.sqrt(2)
        for width, share, shift in zip(spread.widths, spread.shares, spread.displacements, strict=True):
            decay = -0.5 * (width * electron_range) ** 2 * square
            result[index] += share * np.exp(decay + 1j * shift * electron_range * along)
    return result


def _wave_vectors(shape: tuple[int, int], pixel_size: float) -> tuple[Floats, Floats]:
    """Return k_x (1, W//2 + 1) and k_y (H, 1) of rfft2's frequencies in 1/m, y against the rows."""
    ky = -2.0 * math.pi * np.fft.fftfreq(shape[0], pixel_size)[:, None]
    kx = 2.0 * math.pi * np.fft.rfftfreq(shape[1], pixel_size)[None, :]
    return np.asarray(kx, dtype=np.float64), np.asarray(ky, dtype=np.float64)


def _gaussian(shape: tuple[int, int], pixel_size: float, covariance: Floats) -> Singles:
    """Return the transfer of a Gaussian blur at the frequencies of rfft2, y against the rows."""
    kx, ky = _wave_vectors(shape, pixel_size)
    power = covariance[0, 0] * kx**2 + 2.0 * covariance[0, 1] * kx * ky + covariance[1, 1] * ky**2
    return np.asarray(np.exp(-0.5 * power), dtype=np.float32)


def _filtered(image: Singles, kernel: NDArray[np.complex64] | Singles) -> Singles:
    """Return images (S, H, W) after a filter given at the frequencies of rfft2."""
    from scipy import fft

    with fft.set_workers(THREADS):
        spectrum = fft.rfft2(image, axes=(1, 2))
        spectrum = spectrum * kernel
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
