"""The copper specimen: grains on which Cu2O nucleates, grows, coalesces and is reduced again, with its ground truth.

The state changes at events (a nucleus appears, an induction ends), whose times follow from integrals of rates, and in
between by integrals alone: it does not depend on how time was cut into steps, nor on when anybody looked. A history is
a sequence of oxidations and reductions, each with nuclei of its own; the surface at a place is worked out from them
when it is asked for, at any magnification.

What is simplified: both reactions act on the whole specimen at once, and where both gases are present only the faster
one acts, slowed by the other (no oscillations). Oxide that a partial reduction left over takes no further part in
growth: new islands fill the metal between.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from drivers.errors import InputError
from drivers.sample import HeightMap
from simulators.column import Column, Places, Textures
from simulators.grains import Grains
from simulators.kinetics import Kinetics, Rates
from simulators.nuclei import Metal, Nuclei, Oxide

UNSEEN = 1e-9
"""Change of oxide or height (m) below which an old oxidation and its reduction are forgotten."""


@dataclass(frozen=True, slots=True)
class Grid:
    """A field on the specimen; row 0 is at the top.

    The centre of pixel (r, c) lies at x = centre_x + (c + ½ − columns/2)·p, y = centre_y + (rows/2 − r − ½)·p.

    Attributes
    ----------
    centre : (float, float), m
        In specimen coordinates, x to the right and y up; the specimen repeats beyond its edges.
    pixel_size : float, m
    shape : (int, int)
        Rows and columns.
    """

    centre: tuple[float, float]
    pixel_size: float
    shape: tuple[int, int]

    def __post_init__(self) -> None:
        if not (math.isfinite(self.pixel_size) and self.pixel_size > 0):
            raise InputError(f"expected a pixel size above 0 nm; got {self.pixel_size * 1e9:g} nm")
        if len(self.shape) != 2 or min(self.shape) < 1:
            raise InputError(f"expected one row and one column at least; got a shape of {self.shape}")
        if not all(math.isfinite(place) for place in self.centre):
            raise InputError(f"expected finite coordinates of the field's centre; got {self.centre} m")

    @property
    def x(self) -> NDArray[np.float64]:
        """Of the columns' centres, m. Shape (W,)."""
        columns = self.shape[1]
        return self.centre[0] + (np.arange(columns, dtype=np.float64) + 0.5 - columns / 2) * self.pixel_size

    @property
    def y(self) -> NDArray[np.float64]:
        """Of the rows' centres, m. Shape (H,)."""
        rows = self.shape[0]
        return self.centre[1] + (rows / 2 - np.arange(rows, dtype=np.float64) - 0.5) * self.pixel_size


@dataclass(frozen=True, slots=True, eq=False)
class Surface:
    """What lies in a field.

    Attributes
    ----------
    height : HeightMap, m
        Zero is the mean level of the copper before any oxide; the field's middle lies on the axis.
    oxide : (H, W) float32, m
        Thickness of Cu2O at the top; 0 where copper is at the top.
    grain : (H, W) int32
        Of copper, underneath.
    cover : (H, W) float32 or None, m
        Thickness that reduced copper would have without pores: on top where ``oxide`` is 0, beneath it elsewhere.
    buried : (H, W) float32 or None, m
        Thickness of Cu2O beneath that copper.
    """

    height: HeightMap
    oxide: NDArray[np.float32]
    grain: NDArray[np.int32]
    cover: NDArray[np.float32] | None = None
    buried: NDArray[np.float32] | None = None


@dataclass(frozen=True, slots=True)
class Truth:
    """What an analysis should find.

    Attributes
    ----------
    time : float, s
        Since the specimen was made.
    coverage : float
        Share of the area whose top 10 nm are mostly (more than half) Cu2O.
    nuclei : int
        Oxide islands that have appeared in the latest oxidation, in the field or on the whole specimen.
    metal_nuclei : int
        Nuclei of copper that have appeared in the reduction that followed it; 0 before.
    oxide_volume : float, m
        Volume of Cu2O per area (m³/m²), buried oxide included.
    roughness : float, m
        Root mean square height (Sq) above the field's least-squares plane.
    """

    time: float
    coverage: float
    nuclei: int
    metal_nuclei: int
    oxide_volume: float
    roughness: float


class Specimen:
    """A periodic square of copper under gas and heat.

    Parameters
    ----------
    seed : int
        Everything random follows from it.
    kinetics : Kinetics, optional
        The defaults of ``kinetics.yaml`` unless given.
    extent : float, m
        Edge of the square.

    Attributes
    ----------
    time : float, s
        Since the specimen was made.
    """

    def __init__(self, seed: int, kinetics: Kinetics | None = None, extent: float = 30e-6) -> None:
        if seed < 0:
            raise InputError(f"expected a seed of 0 or more; got {seed}")
        self.seed = seed
        self.kinetics = kinetics or Kinetics.default()
        self.extent = extent
        self.time = 0.0
        self.grains = Grains(self._random(0), extent, self.kinetics.copper)
        self._textures = Textures(self._random(1), extent, self.kinetics)
        self._episodes: list[Oxide | Metal] = []
        self._oxidations = self._reductions = 0
        self._oxide_induction = 0.0
        self._metal_induction = 0.0
        self._smoothed = 0.0
        self._whole: tuple[float, Truth] | None = None
        self._latest: tuple[tuple[float, float, float], Rates] | None = None

    def _random(self, *purpose: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, *purpose])

    # ------------------------------------------------------------------ time

    def advance(self, seconds: float, temperature: float, partial_pressure: Mapping[str, float]) -> None:
        """Let constant conditions act; ``advance(a)`` and ``advance(b)`` do what ``advance(a + b)`` does.

        Parameters
        ----------
        seconds : float, s
        temperature : float, K
            Of the sample itself.
        partial_pressure : mapping of str to float, Pa
            By species; O2 and H2 act, others do not.

        Raises
        ------
        InputError
            For a time, temperature or pressure that cannot be.
        """
        if not (math.isfinite(seconds) and seconds >= 0):
            raise InputError(f"expected a time of 0 s or more; got {seconds:g} s")
        conditions = (temperature, partial_pressure.get("O2", 0.0), partial_pressure.get("H2", 0.0))
        if self._latest is None or self._latest[0] != conditions:  # a hold in steady gas has the same rates for hours
            self._latest = (conditions, self.kinetics.rates(*conditions))
        rates = self._latest[1]
        left = seconds
        while left > 0:
            until = self._until_active(rates)
            step = min(left, until)
            self._step(step, rates)
            left -= step
            if until <= step:
                self._activate(rates)

    def _has_oxide(self) -> bool:
        return any(isinstance(episode, Oxide) and episode.count for episode in self._episodes[-2:])

    def _until_active(self, rates: Rates) -> float:
        """Return after how long an induction ends; infinite where none is under way."""
        if rates.oxide_induction > 0 and self._oxide_induction < 1:
            return (1 - self._oxide_induction) / rates.oxide_induction
        if rates.metal_induction > 0 and self._metal_induction < 1 and self._has_oxide():
            return (1 - self._metal_induction) / rates.metal_induction
        return math.inf

    def _activate(self, rates: Rates) -> None:
        """End an induction: from now on nuclei of the other kind appear."""
        if rates.oxide_induction > 0:
            self._oxide_induction, self._metal_induction = 1.0, 0.0
            if self._episodes and isinstance(self._episodes[-1], Metal) and not self._episodes[-1].count:
                self._episodes.pop()
                self._reductions -= 1
            if not self._episodes or isinstance(self._episodes[-1], Metal):
                self._forget()
                rng = self._random(2, self._oxidations)
                self._episodes.append(Oxide(rng, self.extent, self.kinetics, self.grains))
                self._oxidations += 1
            return
        self._oxide_induction, self._metal_induction = 0.0, 1.0
        if isinstance(self._episodes[-1], Oxide):
            metal = Metal(self._random(3, self._reductions), self.extent, self.kinetics, self._reductions)
            metal.begin(self._smoothed)
            self._episodes.append(metal)
            self._reductions += 1

    def _forget(self) -> None:
        """Drop the oldest oxidations and reductions of which nothing is left to see: buried, reduced and smoothed."""
        half = self.extent / 2
        grid = Grid((half, half), self.extent / 100, (100, 100))
        places = Places(grid.x, grid.y, grid=True)
        whole = self._column(places, self._episodes)
        for keep in range(2, len(self._episodes), 2):
            rest = self._column(places, self._episodes[-keep:])
            oxide = (whole.oxide + whole.buried) - (rest.oxide + rest.buried)
            if abs(oxide).max() < UNSEEN and (whole.height() - rest.height()).std() < UNSEEN:
                del self._episodes[:-keep]
                return

    def _step(self, seconds: float, rates: Rates) -> None:
        """Advance by a time in which no induction ends."""
        latest = self._episodes[-1] if self._episodes else None
        if rates.oxidising > 0:
            if isinstance(latest, Oxide):
                self._nucleate(
                    latest, seconds, rates.oxide_nucleation * (self._oxide_induction >= 1), rates.density, rates
                )
                latest.grow(seconds, rates)
            self._oxide_induction = min(1.0, self._oxide_induction + rates.oxide_induction * seconds)
            self._metal_induction = max(0.0, self._metal_induction - rates.oxide_induction * seconds)
        elif rates.reducing > 0:
            if isinstance(latest, Metal) and self._metal_induction >= 1:
                self._nucleate(latest, seconds, rates.metal_nucleation, math.inf, rates)
                latest.grow(seconds, rates)
            if self._has_oxide():
                self._metal_induction = min(1.0, self._metal_induction + rates.metal_induction * seconds)
            self._oxide_induction = max(0.0, self._oxide_induction - rates.metal_induction * seconds)
        self._smoothed += rates.smoothing * seconds
        self.time += seconds
        if isinstance(latest, Metal):
            latest.note(self._smoothed)

    def _nucleate(self, nuclei: Oxide | Metal, seconds: float, rate: float, density: float, rates: Rates) -> None:
        due = nuclei.due(seconds, rate, density)
        if due:
            sites = np.array([event.site for event in due])
            nuclei.nucleate(due, self._blocked(nuclei, sites), self.time, rates)
        nuclei.spend(seconds, rate, density)

    def _blocked(self, nuclei: Nuclei, sites: NDArray[np.intp]) -> set[int]:
        """Return the sites where what earlier episodes left forbids a nucleus: oxide on oxide, metal on metal."""
        before = self._episodes[:-1]
        if not before:
            return set()
        column = self._column(Places(nuclei.x[sites], nuclei.y[sites], grid=False), before)
        oxidised = column.oxide > 0
        forbidden = oxidised if isinstance(nuclei, Oxide) else ~oxidised
        return {int(site) for site in sites[forbidden]}

    def _column(self, places: Places, episodes: list[Oxide | Metal]) -> Column:
        column = Column(places, self.extent, self.kinetics, self._textures)
        for episode in episodes:
            if isinstance(episode, Oxide):
                column.oxidise(episode)
            else:
                column.reduce(episode, self._smoothed)
        return column

    # ------------------------------------------------------------------ looking

    def surface(self, grid: Grid) -> Surface:
        """Return height and composition in a field."""
        places = Places(grid.x, grid.y, grid=True)
        column = self._column(places, self._episodes)
        copper = self.grains.relief(grid.x, grid.y)
        height = copper.height + column.height() + copper.steps * column.worn()
        return Surface(HeightMap(height, grid.pixel_size), column.oxide, copper.grain, column.cover, column.buried)

    def truth(self, grid: Grid | None = None) -> Truth:
        """Return the figures that an analysis should find, in a field or over the whole specimen.

        The whole specimen is sampled at 512 × 512 places.
        """
        if grid is None:
            if self._whole is None or self._whole[0] != self.time:
                half = self.extent / 2
                whole = Grid((half, half), self.extent / 512, (512, 512))
                self._whole = (self.time, self._figures(whole))
            return self._whole[1]
        return self._figures(grid)

    def _figures(self, grid: Grid) -> Truth:
        places = Places(grid.x, grid.y, grid=True)
        column = self._column(places, self._episodes)
        copper = self.grains.relief(grid.x, grid.y)
        height = copper.height + column.height() + copper.steps * column.worn()
        oxides = [episode for episode in self._episodes if isinstance(episode, Oxide)]
        metal = self._episodes[-1] if self._episodes and isinstance(self._episodes[-1], Metal) else None
        return Truth(
            time=self.time,
            coverage=float(column.oxidised().mean()),
            nuclei=_count_inside(oxides[-1], grid) if oxides else 0,
            metal_nuclei=_count_inside(metal, grid) if metal else 0,
            oxide_volume=float(column.oxide.mean(dtype=np.float64) + column.buried.mean(dtype=np.float64)),
            roughness=_roughness(height),
        )


def _roughness(height: NDArray[np.floating]) -> float:
    """Return the root mean square height (m) above the field's least-squares plane (ISO 25178, Sq)."""
    rest = np.asarray(height, dtype=np.float64) - height.mean(dtype=np.float64)
    # On a full grid the two directions are orthogonal, so that each slope is a projection of its own.
    for axis in (0, 1):
        ramp = np.arange(rest.shape[axis]) - (rest.shape[axis] - 1) / 2
        ramp = ramp[:, None] if axis == 0 else ramp[None, :]
        weight = float((ramp**2).sum()) * rest.shape[1 - axis]
        rest = rest - ramp * (float((rest * ramp).sum()) / max(weight, 1e-300))
    return float(np.sqrt((rest**2).mean()))


def _count_inside(nuclei: Nuclei, grid: Grid) -> int:
    """Return how many nuclei lie in a field; each once, even where the field is wider than the specimen."""
    x, y = nuclei.places()
    half = np.array(grid.shape[::-1]) * grid.pixel_size / 2
    dx, dy = x - grid.centre[0], y - grid.centre[1]
    dx -= nuclei.extent * np.round(dx / nuclei.extent)
    dy -= nuclei.extent * np.round(dy / nuclei.extent)
    return int(np.count_nonzero((np.abs(dx) <= half[0]) & (np.abs(dy) <= half[1])))
