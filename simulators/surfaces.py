"""Random reliefs for training and tests: families that cover what a microscopist meets.

Every family takes a generator, the numbers of rows and columns, and a size (pixels) of its features, and returns
heights in pixels, so that one surface serves every pixel size.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from drivers.errors import InputError
from drivers.sample import HeightMap
from simulators.materials import Material, electron_range, material
from simulators.scene import Surface

Floats = NDArray[np.float64]
Shape = tuple[int, int]
Family = Callable[[np.random.Generator, Shape, float], Floats]


def spectral(rng: np.random.Generator, shape: Shape, exponent: float, longest: float, shortest: float = 2.0) -> Floats:
    """Return periodic Gaussian noise of rms 1 with amplitude ∝ k^−exponent between two wavelengths (pixels)."""
    k = np.hypot(np.fft.fftfreq(shape[0])[:, None], np.fft.rfftfreq(shape[1])[None, :])
    amplitude = np.zeros_like(k)
    inside = (k >= 1.0 / longest) & (k <= 1.0 / shortest) & (k > 0)
    if not inside.any():
        inside = (k > 0) & (k <= 2.0 / max(shape))
    amplitude[inside] = k[inside] ** -exponent
    noise = np.fft.rfft2(rng.normal(size=shape)) * amplitude
    z = np.fft.irfft2(noise, s=shape)
    return np.asarray(z / max(float(z.std()), 1e-12))


def _places(rng: np.random.Generator, shape: Shape, size: float, share: float) -> Floats:
    """Return centres (n, 2) of so many features of a size that they would cover about ``share`` of the area."""
    count = max(1, rng.poisson(share * shape[0] * shape[1] / (math.pi * size**2 / 4)))
    return np.asarray(rng.uniform(0, 1, (count, 2)) * np.array(shape))


def _offsets(shape: Shape, centre: Floats) -> tuple[Floats, Floats]:
    rows, columns = np.indices(shape, dtype=np.float64)
    return columns - centre[1], rows - centre[0]


def plane(rng: np.random.Generator, shape: Shape, size: float) -> Floats:  # noqa: ARG001  one signature for all
    """Return a plane that leans by up to 35° (mirrored at the borders: a roof)."""
    x, y = _offsets(shape, np.array(shape) / 2)
    angle, slope = rng.uniform(0, 2 * math.pi), math.tan(math.radians(rng.uniform(0, 35)))
    return np.asarray(slope * (x * math.cos(angle) + y * math.sin(angle)))


def terraces(rng: np.random.Generator, shape: Shape, size: float) -> Floats:
    """Return flat terraces with steps of equal height along wandering edges."""
    x, y = _offsets(shape, np.array(shape) / 2)
    angle = rng.uniform(0, 2 * math.pi)
    phase = (x * math.cos(angle) + y * math.sin(angle)) / size + rng.uniform(0.1, 0.6) * spectral(
        rng, shape, 2, 4 * size
    )
    step = size * rng.uniform(0.05, 0.8)
    return np.asarray(step * np.floor(phase))


def facets(rng: np.random.Generator, shape: Shape, size: float) -> Floats:
    """Return crystallites of three to five plane faces each, of all slopes up to 45°, that meet in grooves."""
    z = np.full(shape, -np.inf)
    for centre in _places(rng, shape, size, 1.2):
        x, y = _offsets(shape, centre)
        faces = int(rng.integers(3, 6))
        azimuths = (
            rng.uniform(0, 2 * math.pi) + (np.arange(faces) + rng.uniform(-0.3, 0.3, faces)) * 2 * math.pi / faces
        )
        slopes = np.tan(np.radians(rng.uniform(8, 45, faces)))
        falls = [slope * (x * math.cos(a) + y * math.sin(a)) for slope, a in zip(slopes, azimuths, strict=True)]
        z = np.maximum(z, rng.uniform(0, 0.2) * size - np.max(falls, axis=0))
    return z


def pyramids(rng: np.random.Generator, shape: Shape, size: float) -> Floats:
    """Return four-sided pyramids and pits of one orientation."""
    z = np.zeros(shape)
    turn, slope = rng.uniform(0, math.pi / 2), math.tan(math.radians(rng.uniform(10, 55)))
    sign = rng.choice([-1.0, 1.0])
    for centre in _places(rng, shape, size, 0.8):
        x, y = _offsets(shape, centre)
        u, v = x * math.cos(turn) + y * math.sin(turn), y * math.cos(turn) - x * math.sin(turn)
        half = size / 2 * rng.uniform(0.5, 1.3)
        z = np.maximum(z, slope * (half - np.maximum(np.abs(u), np.abs(v))))
    return np.asarray(sign * z)


def caps(rng: np.random.Generator, shape: Shape, size: float) -> Floats:
    """Return spherical caps of a contact angle from 20° to 80°, or hollows of that form."""
    z = np.zeros(shape)
    contact = math.radians(rng.uniform(20, 80))
    sign = rng.choice([-1.0, 1.0], p=[0.25, 0.75])
    for centre in _places(rng, shape, size, 0.5):
        x, y = _offsets(shape, centre)
        radius = size / 2 * rng.uniform(0.5, 1.4) / math.sin(contact)
        inside = np.maximum(radius**2 - x**2 - y**2, 0.0)
        z = np.maximum(z, np.sqrt(inside) - radius * math.cos(contact))
    return np.asarray(sign * z)


def islands(rng: np.random.Generator, shape: Shape, size: float) -> Floats:
    """Return islands with flat tops and inclined sides on a slightly rough ground: square, elongated or triangular."""
    z = np.zeros(shape)
    turn, side = rng.uniform(0, 2 * math.pi), math.tan(math.radians(rng.uniform(40, 78)))
    sides, stretch = int(rng.integers(3, 5)), rng.uniform(1.0, 2.5)
    for centre in _places(rng, shape, size, 0.5):
        x, y = _offsets(shape, centre)
        u, v = (x * math.cos(turn) + y * math.sin(turn)) / stretch, y * math.cos(turn) - x * math.sin(turn)
        half, top = size / 2 * rng.uniform(0.5, 1.2), size * rng.uniform(0.1, 0.5)
        angles = 2 * math.pi * np.arange(sides) / sides
        reach = np.max([u * math.cos(angle) + v * math.sin(angle) for angle in angles], axis=0)
        z = np.maximum(z, np.clip(side * (half - reach), 0.0, top))
    return np.asarray(z + rng.uniform(0, 0.1) * spectral(rng, shape, 1.5, size))


def fractal(rng: np.random.Generator, shape: Shape, size: float) -> Floats:
    """Return self-affine roughness with a Hurst exponent from 0.5 to 1 up to four times the size."""
    hurst = rng.uniform(0.5, 1.0)
    return rng.uniform(0.02, 0.2) * size * spectral(rng, shape, 1 + hurst, 4 * size, rng.uniform(2, 6))


def afm_like(rng: np.random.Generator, shape: Shape, size: float) -> Floats:
    """Return rounded grains with grooves between them and fine roughness on top, as an AFM sees a film."""
    from scipy.spatial import cKDTree

    centres = _places(rng, shape, size, 1.2)
    if len(centres) < 2:
        return fractal(rng, shape, size)
    points = np.indices(shape).reshape(2, -1).T.astype(np.float64)
    distance = np.asarray(cKDTree(centres).query(points, k=2)[0])
    border = (distance[:, 1] - distance[:, 0]).reshape(shape)
    grains = np.sqrt(np.clip(border / size, 0.0, 1.0)) * rng.uniform(0.1, 0.5) * size
    return np.asarray(grains + rng.uniform(0.02, 0.1) * size * spectral(rng, shape, 1.8, 2 * size))


FAMILIES: dict[str, Family] = {
    "plane": plane,
    "terraces": terraces,
    "facets": facets,
    "pyramids": pyramids,
    "caps": caps,
    "islands": islands,
    "fractal": fractal,
    "afm": afm_like,
}


def relief(family: str, rng: np.random.Generator, shape: Shape, size: float) -> Floats:
    """Return heights in pixels of a family, with their mean at 0.

    Raises
    ------
    InputError
        For a family that is not known, or a shape or size that is too small.
    """
    if family not in FAMILIES:
        raise InputError(f"expected a family of surfaces ({', '.join(FAMILIES)}); got {family!r}")
    if min(shape) < 2 or not (math.isfinite(size) and size > 0):
        raise InputError(f"expected 2 × 2 pixels or more and features above 0 pixels; got {shape} and {size:g}")
    z = FAMILIES[family](rng, shape, size)
    return np.asarray(z - z.mean())


def random_surface(
    rng: np.random.Generator,
    family: str,
    shape: Shape,
    energy: float,
    pixel_in_ranges: float,
    substrate: Material,
    layered: bool,
) -> Surface:
    """Return a surface of a family, perhaps with Cu2O on it.

    Parameters
    ----------
    rng : numpy.random.Generator
    family : str
    shape : (rows, columns)
    energy : float, J
        Of the beam that it is for: the unit of length is the electron range.
    pixel_in_ranges : float
        Pixel size in units of the electron range in the substrate.
    substrate : Material
    layered : bool
        Whether patches of Cu2O, 0.02 to 1 electron ranges thick, lie on it; islands are wholly oxide.
    """
    size = float(np.exp(rng.uniform(np.log(4.0), np.log(max(5.0, min(shape) / 2)))))
    z = relief(family, rng, shape, size)
    pixel = pixel_in_ranges * electron_range(substrate, energy)
    height = HeightMap(z * pixel, pixel)
    if not layered:
        return Surface(height, substrate)
    if family == "islands":
        ground = float(np.quantile(z, 0.05))
        raised = z > ground + 0.25 * max(float(z.max()) - ground, 1e-9)
        depth = np.where(raised, (z - ground) * pixel * rng.uniform(1.0, 1.6), 0.0)
    else:
        raised = spectral(rng, shape, 2.0, 2 * size) > rng.uniform(-0.8, 0.8)
        depth = np.where(raised, rng.uniform(0.02, 1.0) * electron_range(substrate, energy), 0.0)
    return Surface(height, substrate, (material("Cu2O"),), raised.astype(np.uint8), depth)
