"""Surfaces whose heights, face slopes and step heights are known, for the figures of the inverse.

python tests/benchmarks/reliefs.py

They are the same on every machine, and none of their code is shared with the surfaces that training data are drawn
from. Layouts are in pixels of a field of 96 × 96 and grow with the field; heights are in m. A relief is 100 nm from
the lowest to the highest point unless said, and no wall is steeper than 45° unless said.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from drivers.geometry import gradient
from drivers.sample import HeightMap

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]
Shape = tuple[int, int]

FIELD = (96, 96)
LAYOUT = 96.0
RELIEF = 100e-9
SAMPLES = "RILIEVO_SAMPLES"
AFM_MAP = "afm_500nm.di"


@dataclass(frozen=True, eq=False)
class Facet:
    """A plane face: the nodes on it (H, W), and its slopes ∂z/∂x and ∂z/∂y."""

    region: Mask
    p: float
    q: float

    @property
    def slope(self) -> float:
        """Angle to the horizontal, degrees."""
        return math.degrees(math.atan(math.hypot(self.p, self.q)))

    @property
    def azimuth(self) -> float:
        """Towards which the upward normal leans, degrees counter-clockwise from +x."""
        return math.degrees(math.atan2(-self.q, -self.p)) % 360

    def inside(self, margin: int = 1) -> Mask:
        """Return the nodes that lie more than ``margin`` pixels within the face."""
        return (
            np.asarray(ndimage.binary_erosion(self.region, np.ones((3, 3), dtype=np.bool_), margin))
            if margin
            else self.region
        )


@dataclass(frozen=True, eq=False)
class Step:
    """A step, or several that lie close together.

    Attributes
    ----------
    lower, upper : (H, W) bool arrays
        The whole flat terraces on its two sides.
    height : float, m
        From one to the other.
    count : int
        Of the steps that make it up.
    spacing : float, pixels
        Between them.
    """

    lower: Mask
    upper: Mask
    height: float
    count: int = 1
    spacing: float = 0.0


@dataclass(frozen=True, eq=False)
class Relief:
    """A surface, and what is known of it besides its heights."""

    height: HeightMap
    facets: tuple[Facet, ...] = ()
    steps: tuple[Step, ...] = ()

    @property
    def z(self) -> Floats:
        """Heights (H, W), m."""
        return np.asarray(self.height.z)


def _places(shape: Shape) -> tuple[Floats, Floats]:
    """Return x and y of the nodes in units of the layout, from the field's lower left corner, y upwards."""
    rows, columns = np.indices(shape)
    return (columns + 0.5) * LAYOUT / shape[1], (shape[0] - rows - 0.5) * LAYOUT / shape[0]


def _finish(z: Floats, pixel_size: float, relief: float | None = RELIEF) -> tuple[HeightMap, float]:
    """Return the map and the factor by which it was scaled; rounded, so that every machine has the same numbers."""
    factor = 1.0 if relief is None else relief / float(np.ptp(z))
    return HeightMap(np.round((z - z.min()) * factor, 13), pixel_size), factor


# x, y, half width and half length of the base (pixels), sides, turn (°), slope of the sides (°), height (share).
ISLANDS = (
    (24.0, 72.0, 13.0, 13.0, 4, 12.0, 40.0, 1.00),
    (60.0, 74.0, 12.0, 12.0, 6, 5.0, 35.0, 0.70),
    (76.0, 47.0, 7.5, 7.5, 3, 100.0, 38.0, 0.90),
    (31.0, 34.0, 8.0, 20.0, 4, -60.0, 30.0, 0.85),
    (57.0, 19.0, 9.0, 9.0, 4, 40.0, 25.0, 0.50),
    (80.0, 20.0, 8.0, 8.0, 6, 17.0, 42.0, 1.00),
    (49.0, 50.0, 6.0, 6.0, 4, 24.0, 40.0, 0.60),
    (14.0, 15.0, 6.5, 6.5, 6, 50.0, 20.0, 0.40),
)


def islands(pixel_size: float, shape: Shape = FIELD) -> Relief:
    """Return eight islands with flat tops and inclined sides on a flat ground."""
    return Relief(_finish(_tops(pixel_size, shape, ISLANDS), pixel_size)[0])


def islets(pixel_size: float, shape: Shape = FIELD, steepest: float = 45.0) -> Relief:
    """Return 25 small islands, 7 to 14 px wide and close together: most of the relief lies below the electron range.

    Their sides incline by 10° less than ``steepest`` (degrees) up to it.
    """
    rng = np.random.default_rng(1873)
    listed = []
    for number in range(25):
        left, up = (12.0 + 18.0 * place + rng.uniform(-2.5, 2.5) for place in (number % 5, number // 5))
        width = rng.uniform(5.0, 8.0)
        sides, turn, less = int(rng.choice([3, 4, 4, 6])), rng.uniform(0, 90), rng.uniform(0, 10)
        width *= 0.75 if sides == 3 else 1.0
        share = 1.0 if number == 12 else rng.uniform(0.5, 1.0)
        width = 8.0 if number == 12 else width
        listed.append((left, up, width, rng.uniform(1.0, 1.3) * width, sides, turn, steepest - less, share))
    return Relief(_finish(_tops(pixel_size, shape, tuple(listed)), pixel_size)[0])


def _tops(
    pixel_size: float, shape: Shape, listed: tuple[tuple[float, float, float, float, int, float, float, float], ...]
) -> Floats:
    """Return islands with flat tops; columns as in ``ISLANDS``. Shape (H, W), m."""
    x, y = _places(shape)
    z = np.zeros(shape)
    pixels = shape[1] / LAYOUT * pixel_size
    for left, up, width, length, sides, turn, slope, share in listed:
        distance = np.full(shape, np.inf)
        for side in range(sides):
            angle = math.radians(turn) + 2 * math.pi * side / sides
            reach = length if sides == 4 and side % 2 else width
            distance = np.minimum(distance, reach - (x - left) * math.cos(angle) - (y - up) * math.sin(angle))
        z = np.maximum(z, np.clip(math.tan(math.radians(slope)) * distance * pixels, 0.0, share * RELIEF))
    return z


def _truncated(
    x: Floats, y: Floats, half: float, turn: float, slope: float, top: float
) -> tuple[Floats, list[tuple[Mask, float, float]]]:
    """Return a four-sided pyramid of a base and slope, cut off at ``top``, in the unit of x; and faces: nodes, p, q."""
    angles = np.radians(turn) + np.pi / 2 * np.arange(4)
    falls = [slope * (half - x * math.cos(angle) - y * math.sin(angle)) for angle in angles]
    lowest = np.min(falls, axis=0)
    on = (lowest >= 0) & (lowest <= top)
    faces = [
        (on & (fall == lowest), -slope * math.cos(angle), -slope * math.sin(angle))
        for fall, angle in zip(falls, angles, strict=True)
    ]
    return np.clip(lowest, 0.0, top), faces


# x, y, half width of the base (pixels), turn (°), height (share).
PYRAMIDS = (
    (26.0, 68.0, 18.0, 15.0, 1.00),
    (69.0, 75.0, 12.0, -8.0, 0.95),
    (70.0, 30.0, 20.0, 10.0, 0.80),
    (20.0, 28.0, 10.0, 40.0, 0.97),
    (46.0, 48.0, 8.5, 5.0, 0.88),
    (40.0, 14.0, 8.5, 0.0, 0.60),
)


def pyramids(pixel_size: float, shape: Shape = FIELD) -> Relief:
    """Return six pyramids of 100 nm and less; the slopes of their faces follow from their widths."""
    x, y = _places(shape)
    z, found = np.zeros(shape), []
    pixels = shape[1] / LAYOUT * pixel_size
    for left, up, half, turn, share in PYRAMIDS:
        slope = share * RELIEF / (half * pixels)
        body, faces = _truncated(x - left, y - up, half, turn, slope, math.inf)
        z = np.maximum(z, body * pixels)
        found += [(body * pixels, face) for face in faces]
    height, factor = _finish(z, pixel_size)
    # Where two pyramids meet, a node belongs to the higher one.
    facets = [Facet(on & (body >= z), factor * p, factor * q) for body, (on, p, q) in found]
    return Relief(height, tuple(facets))


FACETS = ((10.0, 21.0, 33.0, 43.0), (14.0, 25.0, 37.0, 45.0), (17.0, 29.0, 40.0, 12.0))
"""Degrees, of the three frames' truncated pyramids and pits."""


def facets(pixel_size: float, number: int, shape: Shape = FIELD) -> Relief:
    """Return two truncated pyramids and two pits of that form, as high as their slopes of 10 to 45° make them.

    Faces are 10 px wide and 10 to 30 px long.
    """
    x, y = _places(shape)
    z, found = np.zeros(shape), []
    for place, angle in enumerate(FACETS[number]):
        left, up, sign = 24.0 + 48.0 * (place % 2), 24.0 + 48.0 * (place // 2), 1 if place in (0, 3) else -1
        slope = math.tan(math.radians(angle))
        turn = 11.0 + 23.0 * place + 7.0 * number
        body, faces = _truncated(x - left, y - up, 15.0, turn, slope, 10.0 * slope)
        z += sign * body * shape[1] / LAYOUT * pixel_size
        found += [Facet(on, sign * p, sign * q) for on, p, q in faces]
    return Relief(_finish(z, pixel_size, relief=None)[0], tuple(found))


def _staircase(
    pixel_size: float, shape: Shape, turn: float, groups: tuple[tuple[float, tuple[float, ...], float], ...]
) -> Relief:
    """Return terraces; each group of steps has its place (pixels), heights (m) and the spacing within it (pixels)."""
    x, y = _places(shape)
    angle = math.radians(turn)
    along = (x - LAYOUT / 2) * math.cos(angle) + (y - LAYOUT / 2) * math.sin(angle)
    z, edges = np.zeros(shape), [-math.inf]
    for place, heights, spacing in groups:
        for index, height in enumerate(heights):
            centre = place + (index - (len(heights) - 1) / 2) * spacing
            # A wall of 40°, not narrower than a pixel.
            width = max(1.0, height / (math.tan(math.radians(40)) * pixel_size * shape[1] / LAYOUT))
            z += height * np.clip((along - centre) / width + 0.5, 0.0, 1.0)
            edges += [centre - width / 2, centre + width / 2]
    edges.append(math.inf)
    flats, place = [], 0
    for _, heights, _ in (*groups, (0.0, (), 0.0)):
        flats.append((along >= edges[2 * place]) & (along <= edges[2 * place + 1]))
        place += len(heights)
    steps = tuple(
        Step(lower, upper, math.fsum(heights), len(heights), spacing)
        for (_, heights, spacing), lower, upper in zip(groups, flats, flats[1:], strict=False)
    )
    return Relief(_finish(z, pixel_size, relief=None)[0], steps=steps)


def terraces(pixel_size: float, shape: Shape = FIELD, wide: bool = False) -> Relief:
    """Return terraces about 25 px wide with steps of 20, 50 and 30 nm; or, ``wide``, two with a step of 100 nm."""
    if wide:
        return _staircase(pixel_size, shape, 17.0, ((3.0, (100e-9,), 0.0),))
    groups = ((-24.0, (20e-9,), 0.0), (2.0, (50e-9,), 0.0), (28.0, (30e-9,), 0.0))
    return _staircase(pixel_size, shape, 17.0, groups)


def bunches(pixel_size: float, shape: Shape = FIELD) -> Relief:
    """Return flat terraces with two, three and three steps of 12.5 nm between them, 2.5 to 4 px apart."""
    each = 12.5e-9
    groups = ((-26.0, (each,) * 2, 3.0), (0.0, (each,) * 3, 2.5), (26.0, (each,) * 3, 4.0))
    return _staircase(pixel_size, shape, -28.0, groups)


def _waves(rng: np.random.Generator, shape: Shape) -> tuple[NDArray[np.complex128], Floats]:
    """Return waves of amplitude 1 and random phases, and |k| in waves per pixel. Both (H, W // 2 + 1)."""
    noise = np.fft.rfft2(rng.normal(size=shape))
    k = np.hypot(np.fft.fftfreq(shape[0])[:, None], np.fft.rfftfreq(shape[1])[None, :])
    return noise / np.maximum(np.abs(noise), 1e-30), k


def fractal(pixel_size: float, shape: Shape = FIELD) -> Relief:
    """Return a self-affine surface, Hurst exponent 0.8, between waves of 5 and 64 px: part of a larger field."""
    whole = (2 * shape[0], 2 * shape[1])
    waves, k = _waves(np.random.default_rng(1982), whole)
    scale = shape[1] / LAYOUT
    inside = (k >= 1 / (64 * scale)) & (k <= 1 / min(5.0, 5.0 * scale + 2))
    amplitude = np.where(inside, np.where(k > 0, k, 1.0) ** -1.8, 0.0)
    z = np.fft.irfft2(waves * amplitude, s=whole)[: shape[0], : shape[1]]
    return Relief(_finish(np.asarray(z), pixel_size)[0])


def afm(pixel_size: float, shape: Shape = FIELD) -> Relief | None:
    """Return the whole AFM map of the samples, stretched to the field and 100 nm; None where there are no samples."""
    from simulators.heightfile import read_height

    folder = os.environ.get(SAMPLES)
    if not folder or not (Path(folder) / AFM_MAP).is_file():
        return None
    z = np.asarray(read_height(Path(folder) / AFM_MAP).z)
    ratios = [many / few for many, few in zip(z.shape, shape, strict=True)]
    # The width of a new pixel, as a Gaussian of the same variance as the square.
    smooth = ndimage.gaussian_filter(z, [ratio / math.sqrt(12) for ratio in ratios], mode="reflect")
    places = [(np.arange(few) + 0.5) * ratio - 0.5 for few, ratio in zip(shape, ratios, strict=True)]
    fine = ndimage.map_coordinates(smooth, np.meshgrid(*places, indexing="ij"), order=3, mode="reflect")
    return Relief(_finish(np.asarray(fine), pixel_size)[0])


def gentle(pixel_size: float, seed: int, shape: Shape = (192, 192), slope: float = 0.1) -> Relief:
    """Return a periodic surface of all waves, each ring of |k| with the same share of the mean square slope.

    Parameters
    ----------
    pixel_size : float, m
    seed : int
        Of the phases.
    shape : (H, W)
    slope : float
        Rms of the gradient's modulus.
    """
    waves, k = _waves(np.random.default_rng([1822, seed]), shape)
    amplitude = np.where(k > 0, np.where(k > 0, k, 1.0) ** -1.5, 0.0)
    z = np.fft.irfft2(waves * amplitude, s=shape)
    slopes = np.fft.irfft2(waves * amplitude * 2 * np.pi * k, s=shape)
    z *= slope * pixel_size / float(slopes.std())
    return Relief(HeightMap(np.round(z, 13), pixel_size))


def main() -> None:
    """Tell what the surfaces are like."""
    pixel = 20e-9
    named: dict[str, Relief | None] = {
        "islands": islands(pixel),
        "islets": islets(pixel),
        "islets, steep": islets(pixel, steepest=60.0),
        "pyramids": pyramids(pixel),
        "terraces": terraces(pixel),
        "terraces, wide": terraces(pixel, wide=True),
        "bunches": bunches(pixel),
        "fractal": fractal(pixel),
        "afm": afm(pixel),
        **{f"facets {number + 1}": facets(pixel, number) for number in range(len(FACETS))},
        "gentle": gentle(pixel, 0),
    }
    print(f"  {'surface, 20 nm pixels':24s} {'range':>8s} {'rms slope':>10s} {'steepest':>9s}  known")
    for name, relief in named.items():
        if relief is None:
            print(f"  {name:24s} skipped: {SAMPLES} names no folder with {AFM_MAP}")
            continue
        along, up = gradient(relief.z, pixel)
        steepest = np.degrees(np.arctan(np.abs(np.diff(relief.z, axis=1)).max() / pixel))
        known = ", ".join(f"{step.height * 1e9:.1f} nm in {step.count}" for step in relief.steps)
        if relief.facets:
            slopes, sizes = [face.slope for face in relief.facets], [face.region.sum() for face in relief.facets]
            known = f"{len(slopes)} faces of {min(slopes):.1f} to {max(slopes):.1f}°, {min(sizes)} nodes or more"
        rms = float(np.sqrt(np.mean(along**2 + up**2)))
        print(f"  {name:24s} {np.ptp(relief.z) * 1e9:5.0f} nm {rms:10.3f} {steepest:8.1f}°  {known}")


if __name__ == "__main__":
    main()
