"""Nuclei that appear and spread: the islands of one oxidation, the metal of one reduction.

Each site where a nucleus can appear carries a threshold, drawn once from the exponential distribution: the nucleus is
there when the integral of the nucleation rate has reached it, which makes N(t) = N_s (1 − exp(−∫k dt)) for any course
of temperature and pressure. Sizes are integrals of speeds since birth. Nothing else is kept, so that the state does not
depend on how time was cut into steps.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from drivers.units import si
from simulators.grains import Grains
from simulators.kinetics import ORIENTATIONS, Kinetics, Rates

if TYPE_CHECKING:
    from simulators.tessellation import Islands

Doubles = NDArray[np.float64]

WAITING, GROWN, SUPPRESSED = 0, 1, 2

# Angles of the facets' normals from the island's own axis, and the speed of each over the edge speed; 0: no such facet.
# The slower corners of a square are cut by faster facets, those of a triangle by the opposite ones.
_SHAPES: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "square": (tuple(range(0, 360, 45)), (1.0, 1.28, 1.0, 1.28, 1.0, 1.28, 1.0, 1.28)),
    "elongated": (tuple(range(0, 360, 45)), (1.0, 0.0, 1.0, 0.0, 1.0, 0.0, 1.0, 0.0)),
    "triangle": ((90, 210, 330, 30, 150, 270, 0, 0), (0.8, 0.8, 0.8, 1.35, 1.35, 1.35, 0.0, 0.0)),
}
_FAST = (0, 4)  # the facets of an elongated island that run ahead


@dataclass(frozen=True, slots=True)
class Due:
    """A site whose threshold is reached within a step."""

    after: float
    site: int


class Nuclei:
    """Sites at random places and what became of them.

    Parameters
    ----------
    rng : numpy Generator
    extent : float, m
        Edge of the periodic square.
    density : float, 1/m²
        Of sites.

    Attributes
    ----------
    x, y : (n,) float64, m
    threshold, hazard : (n,) float64
        The integral of the rate at which a nucleus appears, and what it has reached.
    state : (n,) int
    born : (n,) float64, s
        Time of birth; NaN before.
    reach : (n,) float64, m
        Integral of the edge speed at birth.
    """

    def __init__(self, rng: np.random.Generator, extent: float, density: float) -> None:
        self.extent = extent
        number = max(1, round(density * extent**2))
        self.x, self.y = rng.uniform(0, extent, (2, number))
        self.threshold = rng.exponential(size=number)
        self.factor = np.ones(number)
        self.mark = np.zeros(number)
        self.hazard = np.zeros(number)
        self.state = np.zeros(number, dtype=np.int64)
        self.born = np.full(number, math.nan)
        self.reach = np.full(number, math.nan)
        self.grown = 0.0

    @property
    def count(self) -> int:
        """Nuclei so far."""
        return int(np.count_nonzero(self.state == GROWN))

    def places(self) -> tuple[Doubles, Doubles]:
        """Return x and y of the nuclei so far, m. Shape (n,) each."""
        sites = self.state == GROWN
        return self.x[sites], self.y[sites]

    def births(self) -> NDArray[np.float32]:
        """Return the integral of the edge speed at the birth of each nucleus so far, m. Shape (n,)."""
        births: NDArray[np.float32] = self.reach[self.state == GROWN].astype(np.float32)
        return births

    def due(self, seconds: float, rate: float, density: float) -> list[Due]:
        """Return the sites that become nuclei within ``seconds`` at ``rate`` (1/s), in order of time."""
        if rate <= 0:
            return []
        open_ = np.flatnonzero((self.state == WAITING) & (self.mark < density))
        after = (self.threshold[open_] - self.hazard[open_]) / (rate * self.factor[open_])
        soon = after <= seconds
        return sorted(
            (Due(max(0.0, float(t)), int(i)) for t, i in zip(after[soon], open_[soon], strict=True)), key=_when
        )

    def spend(self, seconds: float, rate: float, density: float) -> None:
        """Add a step to the integral of the rate of every site that is open at this density."""
        open_ = (self.state == WAITING) & (self.mark < density)
        self.hazard[open_] += rate * self.factor[open_] * seconds

    def separation(self, site: int, others: NDArray[np.intp]) -> tuple[Doubles, Doubles]:
        """Return x and y from nuclei to a site on the torus, m."""
        dx = self.x[site] - self.x[others]
        dy = self.y[site] - self.y[others]
        dx -= self.extent * np.round(dx / self.extent)
        dy -= self.extent * np.round(dy / self.extent)
        return dx, dy


def _single(column: Doubles) -> NDArray[np.float32]:
    return np.ascontiguousarray(column, dtype=np.float32)


def _when(due: Due) -> tuple[float, int]:
    return due.after, due.site


class Oxide(Nuclei):
    """The islands of one oxidation.

    Parameters
    ----------
    rng, extent
        As :class:`Nuclei`.
    kinetics : Kinetics
    grains : Grains
        Orientation decides density, rate, shape and speed.

    Attributes
    ----------
    grown, elongated : float, m
        Integral of the edge speed, and of the one of fast edges.
    thickened : float, m²
        Integral of the parabolic rate.
    """

    def __init__(self, rng: np.random.Generator, extent: float, kinetics: Kinetics, grains: Grains) -> None:
        oxidation = kinetics.oxidation
        largest = si(oxidation.largest_density)
        super().__init__(rng, extent, largest)
        number = len(self.x)
        grain = grains.at(self.x, self.y)
        kind = grains.kind[grain]
        table = [kinetics.orientations[name] for name in ORIENTATIONS]
        # A site takes part where its mark lies below the saturation density: the density may change with temperature.
        self.mark = rng.uniform(0, largest, number) / np.array([row.density for row in table])[kind]
        self.factor = np.array([row.nucleation for row in table])[kind]
        lateral = np.array([row.lateral for row in table])[kind]
        thickness = np.array([row.thickness for row in table])[kind]
        self.edge = lateral * np.exp(oxidation.spread * rng.standard_normal(number))
        self.top = (thickness * np.exp(oxidation.thickness_spread * rng.standard_normal(number))) ** 2
        self.steepness = np.tan([si(row.facet_angle) for row in table])[kind]
        self.lean = rng.normal(0.0, 0.10e6, (2, number))  # relative slope of the top, 1/m
        # Facets turn with the lattice; triangles of either stacking, elongated islands along either equal edge.
        turned = grains.azimuth[grain] + np.where(kind == 2, math.pi * rng.integers(0, 2, number), 0.0)
        angles = np.radians([_SHAPES[row.shape][0] for row in table])[kind] + turned[:, None]
        self.normal = np.stack([np.cos(angles), np.sin(angles)])
        self.facet = np.array([_SHAPES[row.shape][1] for row in table])[kind]
        stretched = np.array([row.shape == "elongated" for row in table])[kind]
        self.fast = np.zeros((number, 8), dtype=bool)
        self.fast[:, _FAST] = stretched[:, None]
        self.swelling = 1 - 1 / kinetics.film.pilling_bedworth
        self.elongated = 0.0
        self.thickened = 0.0
        self.elongated_at_birth = np.full(number, math.nan)
        self.thickened_at_birth = np.full(number, math.nan)

    def grow(self, seconds: float, rates: Rates) -> None:
        """Let every edge and every top advance for a step."""
        self.grown += rates.growth * seconds
        self.elongated += rates.elongated * seconds
        self.thickened += rates.thickening * seconds

    def advances(self, sites: NDArray[np.intp], grown: float, elongated: float) -> Doubles:
        """Return how far each facet has gone, m; infinite for facets that a shape does not have. Shape (n, 8)."""
        common = np.maximum(grown - self.reach[sites], 0.0)[:, None]
        ahead = np.maximum(elongated - self.elongated_at_birth[sites], 0.0)[:, None]
        gone = np.where(self.fast[sites], ahead, common) * self.facet[sites] * self.edge[sites, None]
        result: Doubles = np.where(self.facet[sites] > 0, gone, math.inf)
        return result

    def covers(self, site: int, grown: float, elongated: float) -> bool:
        """Return whether an island lies over a site when the integrals have these values."""
        others = np.flatnonzero(self.state == GROWN)
        dx, dy = self.separation(site, others)
        out = self.normal[0, others] * dx[:, None] + self.normal[1, others] * dy[:, None]
        return bool(np.any(np.all(self.advances(others, grown, elongated) > out, axis=1)))

    def nucleate(self, due: list[Due], blocked: set[int], time: float, rates: Rates) -> None:
        """Let the sites of a step that begins at ``time`` become islands, except where something is in the way."""
        for event in due:
            site = event.site
            grown = self.grown + rates.growth * event.after
            elongated = self.elongated + rates.elongated * event.after
            if site in blocked or self.covers(site, grown, elongated):
                self.state[site] = SUPPRESSED
                continue
            self.state[site] = GROWN
            self.born[site] = time + event.after
            self.reach[site] = grown
            self.elongated_at_birth[site] = elongated
            self.thickened_at_birth[site] = self.thickened + rates.thickening * event.after

    def islands(self) -> Islands:
        """Return the shapes for the kernel."""
        from simulators.tessellation import Islands

        sites = np.flatnonzero(self.state == GROWN)
        common = np.maximum(self.grown - self.reach[sites], 1e-15)
        ahead = np.maximum(self.elongated - self.elongated_at_birth[sites], 1e-15)
        ratio = np.where(self.fast[sites], (ahead / common)[:, None], 1.0)
        speed = self.facet[sites] * self.edge[sites, None] * ratio
        inverse = np.divide(1.0, speed, out=np.zeros_like(speed), where=speed > 0)
        thickness = np.sqrt(self.top[sites] * np.maximum(self.thickened - self.thickened_at_birth[sites], 0.0))
        # The farthest corner of the shape lies no farther than the meeting of two neighbouring facets.
        corner = np.where(speed > 0, speed, 0.0).max(axis=1) * np.where(self.fast[sites].any(axis=1), 1.5, 1.6)
        return Islands(
            _single(self.x[sites]),
            _single(self.y[sites]),
            _single(self.reach[sites]),
            _single(self.normal[0, sites] * inverse),
            _single(self.normal[1, sites] * inverse),
            _single(speed),
            _single(inverse.max(axis=1, initial=0.0)),
            _single(1 / corner),
            _single(self.swelling * thickness),
            _single(self.lean[0, sites]),
            _single(self.lean[1, sites]),
            _single(self.steepness[sites]),
            False,
        )


class Metal(Nuclei):
    """The copper that spreads over oxide in one reduction: discs of one speed.

    Attributes
    ----------
    number : int
        Of the reduction, from 0.
    grown : float, m
        Integral of the front's speed.
    """

    def __init__(self, rng: np.random.Generator, extent: float, kinetics: Kinetics, number: int) -> None:
        super().__init__(rng, extent, si(kinetics.reduction.saturation_density))
        self.number = number
        self._passed = [0.0]
        self._smoothed = [0.0]

    def grow(self, seconds: float, rates: Rates) -> None:
        """Let every front advance for a step."""
        self.grown += rates.front * seconds

    def note(self, smoothed: float) -> None:
        """Keep the course of the smoothing's integral against the front's: straight pieces, one for each change."""
        if len(self._passed) >= 2:
            run = self._passed[-1] - self._passed[-2]
            rise = self._smoothed[-1] - self._smoothed[-2]
            new_run, new_rise = self.grown - self._passed[-1], smoothed - self._smoothed[-1]
            if abs(run * new_rise - rise * new_run) <= 1e-9 * (abs(run * new_rise) + abs(rise * new_run)):
                self._passed[-1], self._smoothed[-1] = self.grown, smoothed
                return
        self._passed.append(self.grown)
        self._smoothed.append(smoothed)

    def begin(self, smoothed: float) -> None:
        """Say where the smoothing's integral stands when the first nuclei can appear."""
        self._passed, self._smoothed = [0.0], [smoothed]

    def smoothed_at(self, front: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the smoothing's integral when the front's had these values."""
        result: NDArray[np.float32] = np.interp(front, self._passed, self._smoothed).astype(np.float32)
        return result

    def nucleate(self, due: list[Due], blocked: set[int], time: float, rates: Rates) -> None:
        """Let the sites of a step that begins at ``time`` become nuclei, except where there is no oxide."""
        for event in due:
            site = event.site
            grown = self.grown + rates.front * event.after
            others = np.flatnonzero(self.state == GROWN)
            dx, dy = self.separation(site, others)
            if site in blocked or bool(np.any(np.hypot(dx, dy) < grown - self.reach[others])):
                self.state[site] = SUPPRESSED
                continue
            self.state[site] = GROWN
            self.born[site] = time + event.after
            self.reach[site] = grown

    def islands(self) -> Islands:
        """Return the discs for the kernel."""
        from simulators.tessellation import Islands

        sites = np.flatnonzero(self.state == GROWN)
        ones = np.ones(len(sites), dtype=np.float32)
        none = np.zeros((len(sites), 8), dtype=np.float32)
        x, y, reach = (_single(column[sites]) for column in (self.x, self.y, self.reach))
        return Islands(x, y, reach, none, none, none, ones, ones, ones, ones, ones, ones, True)
