"""The copper underneath: a periodic Voronoi structure of grains with crystal orientation, and its gentle relief."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from drivers.errors import InputError
from drivers.units import si
from simulators.kinetics import ORIENTATIONS, Copper
from simulators.texture import Texture, nodes_for

Floats = NDArray[np.float32]

_POLES = {"100": (1.0, 0.0, 0.0), "110": (1.0, 1.0, 0.0), "111": (1.0, 1.0, 1.0)}
# A direction in the plane of each pole: an island's edges run along it.
_EDGES = {"100": (0.0, 1.0, 0.0), "110": (1.0, -1.0, 0.0), "111": (1.0, -1.0, 0.0)}


@dataclass(frozen=True, slots=True)
class Relief:
    """Copper before any oxide.

    Attributes
    ----------
    height : (H, W) float32, m
        Without the steps.
    steps : (H, W) float32, m
        Bunches of steps, which oxide wears away.
    grain : (H, W) int32
    """

    height: Floats
    steps: Floats
    grain: NDArray[np.int32]


class Grains:
    """A periodic square of grains.

    Parameters
    ----------
    rng : numpy Generator
    extent : float, m
        Edge of the square.
    copper : Copper

    Attributes
    ----------
    orientation : (n, 3, 3) float64
        Rotation from crystal to specimen axes.
    kind : (n,) int
        Index in :data:`~simulators.kinetics.ORIENTATIONS` of the pole nearest to the normal.
    inclination : (n,) float64, rad
        Of the normal from that pole.
    azimuth : (n,) float64, rad
        Of the islands' edges in the plane, counter-clockwise from +x.
    """

    def __init__(self, rng: np.random.Generator, extent: float, copper: Copper) -> None:
        if not (math.isfinite(extent) and extent > 0):
            raise InputError(f"expected a specimen edge above 0 µm; got {extent * 1e6:g} µm")
        self.extent = extent
        self.copper = copper
        number = max(2, round((extent / si(copper.grain_size)) ** 2))
        self._x, self._y = _scatter(rng, number, extent)
        self.orientation = np.stack([_rotation(rng) for _ in range(number)])
        described = [_nearest_pole(orientation) for orientation in self.orientation]
        self.kind = np.array([kind for kind, _, _ in described])
        self.inclination = np.array([inclination for _, inclination, _ in described])
        self.azimuth = np.array([azimuth for _, _, azimuth in described])
        self._level = (rng.standard_normal(number) * si(copper.level)).astype(np.float32)
        # Steps run across the direction in which the surface leaves the pole, which nothing else fixes.
        self._downhill = rng.uniform(0, 2 * math.pi, number)
        width = si(copper.terrace_width) * math.tan(math.radians(5)) / np.tan(np.maximum(self.inclination, 0.01))
        self._terrace = np.clip(width, 0.5 * si(copper.terrace_width), 3 * si(copper.terrace_width))
        self._undulation = Texture(rng, extent, extent / 6, 256)
        self._meander = Texture(rng, extent, 2.5e-6, nodes_for(extent, 2.5e-6, 512))

    @property
    def number(self) -> int:
        """Count of grains."""
        return len(self._x)

    def at(self, x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.intp]:
        """Return the grain at points ``x``, ``y`` (n,), m."""
        dx = x[:, None] - self._x
        dy = y[:, None] - self._y
        dx -= self.extent * np.round(dx / self.extent)
        dy -= self.extent * np.round(dy / self.extent)
        nearest: NDArray[np.intp] = np.argmin(dx**2 + dy**2, axis=1)
        return nearest

    def relief(self, x: NDArray[np.float64], y: NDArray[np.float64]) -> Relief:
        """Return height and grain at the crossings of columns ``x`` (W,) and rows ``y`` (H,), m."""
        from simulators.tessellation import nearest_grains

        copper = self.copper
        width = np.float32(si(copper.groove_width))
        reach, blend = 8 * width, width * np.float32(si(copper.grain_size))
        shape = (len(y), len(x))
        grain = np.empty(shape, np.int32)
        height, distance, across, up = (np.empty(shape, np.float32) for _ in range(4))
        seeds = (self._x.astype(np.float32), self._y.astype(np.float32), self._level)
        places = (x.astype(np.float32), y.astype(np.float32))
        nearest_grains(*seeds, *places, np.float32(self.extent), reach, blend, grain, height, distance, across, up)
        scaled = distance / width
        beside = np.exp(-scaled)
        # A thermal groove with its small ridges (Mullins): the copper that left the border lies beside it.
        height -= np.float32(si(copper.groove_depth)) * beside * (1 - 0.9 * scaled)
        height += np.float32(si(copper.undulation)) * self._undulation.on_grid(x, y)
        steps = self._steps(grain, across, up, self._meander.on_grid(x, y)) * (1 - beside)
        return Relief(height, steps, grain)

    def _steps(self, grain: NDArray[np.int32], across: Floats, up: Floats, meander: Floats) -> Floats:
        """Return bunches of steps: terraces that rise gently and end in a riser of some 60 nm."""
        along = (np.cos(self._downhill) / self._terrace).astype(np.float32)
        aside = (np.sin(self._downhill) / self._terrace).astype(np.float32)
        phase = along[grain] * across + aside[grain] * up + np.float32(0.3) * meander
        phase -= np.floor(phase)
        riser = np.minimum(60e-9 / self._terrace, 0.3).astype(np.float32)[grain]
        saw = np.minimum(phase / (1 - riser), (1 - phase) / riser)
        result: Floats = np.float32(si(self.copper.step_height)) * (saw - np.float32(0.5))
        return result


def _scatter(rng: np.random.Generator, number: int, extent: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return seeds that keep some distance: of several candidates the one farthest from all others."""
    chosen = rng.uniform(0, extent, (1, 2))
    while len(chosen) < number:
        candidates = rng.uniform(0, extent, (4, 2))
        apart = candidates[:, None] - chosen
        apart -= extent * np.round(apart / extent)
        best = int(np.argmax((apart**2).sum(axis=2).min(axis=1)))
        chosen = np.vstack([chosen, candidates[best]])
    return chosen[:, 0], chosen[:, 1]


def _rotation(rng: np.random.Generator) -> NDArray[np.float64]:
    """Return a rotation matrix, uniform over orientations (QR of a Gaussian matrix)."""
    matrix, triangle = np.linalg.qr(rng.standard_normal((3, 3)))
    matrix = matrix * np.sign(np.diag(triangle))
    result: NDArray[np.float64] = matrix if np.linalg.det(matrix) > 0 else -matrix
    return result


def _family(direction: tuple[float, float, float]) -> NDArray[np.float64]:
    """Return all directions that cubic symmetry makes equal. Shape (n, 3), of length 1."""
    from itertools import permutations, product

    members = {
        tuple(sign * value for sign, value in zip(signs, order, strict=True))
        for order in permutations(direction)
        for signs in product((1, -1), repeat=3)
    }
    found = np.array(sorted(members))
    result: NDArray[np.float64] = found / np.linalg.norm(found, axis=1)[:, None]
    return result


def _nearest_pole(orientation: NDArray[np.float64]) -> tuple[int, float, float]:
    """Return the index of the pole nearest to the surface normal, the angle to it, and the azimuth of the edges."""
    normal = orientation[2]  # the specimen's z in crystal axes
    families = [_family(_POLES[name]) for name in ORIENTATIONS]
    cosines = [float((family @ normal).max()) for family in families]
    kind = int(np.argmax(cosines))
    pole = families[kind][int(np.argmax(families[kind] @ normal))]
    edges = _family(_EDGES[ORIENTATIONS[kind]])
    in_plane = edges[int(np.argmin(np.abs(edges @ pole)))]
    seen = orientation @ in_plane
    return kind, math.acos(min(1.0, cosines[kind])), math.atan2(seen[1], seen[0])
