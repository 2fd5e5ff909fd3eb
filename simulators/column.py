"""What lies at a place, from the top down: oxide, reduced copper, older oxide, built up episode by episode."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from drivers.units import si
from simulators.kinetics import Kinetics
from simulators.nuclei import Metal, Oxide
from simulators.texture import Texture, nodes_for

Floats = NDArray[np.float32]

SKIN = 10e-9
"""Depth (m) whose composition decides whether a place counts as oxidised."""
BURIAL = 150e-9
"""Thickness of new oxide (m) that leaves 1/e of the older copper's relief."""
PORE_LENGTHS = (0.45, 1.0, 1.8)
"""Wavelengths of the pores' texture over the stated pore length."""
PORE_DEPTHS = (0.20, 0.35, 0.20)
"""Root mean square of each over the thickness of the pores in the reduced copper."""
FADED = 9.0
"""Exponent of the smoothing beyond which a texture (then below 0.01 nm) is left out."""
DEEPEST_TEXTURE = 250e-9
"""Thickness of reduced copper (m) beyond which its texture grows no further."""


class Textures:
    """The random textures of one specimen.

    Parameters
    ----------
    rng : numpy Generator
    extent : float, m
    kinetics : Kinetics
    """

    def __init__(self, rng: np.random.Generator, extent: float, kinetics: Kinetics) -> None:
        pore = si(kinetics.copper.pore_length)
        period = extent / 3
        self.pores = [
            Texture(rng, period, pore * scale, nodes_for(period, pore * scale), bandwidth=0.5) for scale in PORE_LENGTHS
        ]
        self.front = [
            Texture(rng, extent, wavelength, nodes_for(extent, wavelength)) for wavelength in (2.5e-6, 0.7e-6)
        ]
        self.film = Texture(rng, period, 0.3e-6, nodes_for(period, 0.3e-6), bandwidth=0.6)


@dataclass(frozen=True)
class Places:
    """Where to look.

    Attributes
    ----------
    x, y : float64 arrays, m
        Columns (W,) and rows (H,) of a grid; or points (n,) each.
    grid : bool
    """

    x: NDArray[np.float64]
    y: NDArray[np.float64]
    grid: bool

    @property
    def shape(self) -> tuple[int, ...]:
        """Of arrays over the places."""
        return (len(self.y), len(self.x)) if self.grid else (len(self.x),)

    def texture(self, texture: Texture, turn: int = 0) -> Floats:
        """Return a texture's values, shifted for each ``turn`` so that episodes do not repeat one another."""
        x, y = self.x + turn * 0.618 * texture.period, self.y + turn * 0.382 * texture.period
        return texture.on_grid(x, y) if self.grid else texture.at_points(x, y)

    def arrivals(
        self, episode: Oxide | Metal, extent: float, ahead: float, groove: float, width: float
    ) -> tuple[Floats, NDArray[np.int32], Floats]:
        """Return the first arrival (m of growth), whose it was (-1: nobody's) and the height of islands there (m)."""
        from simulators.tessellation import at_points, on_grid

        look: Any = on_grid if self.grid else at_points
        first, height = np.empty(self.shape, np.float32), np.empty(self.shape, np.float32)
        owner = np.empty(self.shape, np.int32)
        figures = (np.float32(figure) for figure in (extent, episode.grown + ahead, groove, width))
        look(episode.islands(), self.x.astype(np.float32), self.y.astype(np.float32), *figures, first, owner, height)
        return first, owner, height


class Column:
    """Thicknesses from the top down at many places, built up episode by episode.

    Parameters
    ----------
    places : Places
    extent : float, m
    kinetics : Kinetics
    textures : Textures

    Attributes
    ----------
    oxide : float32 array, m
        Cu2O at the top; 0 where copper is.
    cover : float32 array, m
        Copper from reductions, as thick as it would be without pores.
    buried : float32 array, m
        Cu2O beneath that copper.
    relief : float32 array, m
        What the pores of reduced copper add to the height.
    """

    def __init__(self, places: Places, extent: float, kinetics: Kinetics, textures: Textures) -> None:
        self._places = places
        self._extent = extent
        self._kinetics = kinetics
        self._textures = textures
        self._ratio = np.float32(kinetics.film.pilling_bedworth)
        self.oxide: Floats = np.zeros(places.shape, np.float32)
        self.cover: Floats = np.zeros(places.shape, np.float32)
        self.buried: Floats = np.zeros(places.shape, np.float32)
        self.relief: Floats = np.zeros(places.shape, np.float32)
        self._touched = False

    def oxidise(self, episode: Oxide) -> None:
        """Add the islands of an oxidation, on metal only."""
        if not episode.count:
            return
        film = self._kinetics.film
        _, _, height = self._places.arrivals(episode, self._extent, 0.0, film.groove, si(film.groove_width))
        thickness = height / np.float32(episode.swelling)
        if not self._touched:
            self._touched = True
            self.oxide = thickness
            return
        new = np.where(self.oxide > 0, np.float32(0), thickness)
        self.cover = self.cover - np.minimum(self.cover, new / self._ratio)
        # Where the new oxide has eaten through the copper it joins the old one.
        joined = np.where((self.cover <= 0) & (new > 0), self.buried, np.float32(0))
        self.buried = self.buried - joined
        self.oxide = self.oxide + new + joined
        self.relief = self.relief * np.exp(-new / np.float32(BURIAL))

    def reduce(self, episode: Metal, smoothed: float) -> None:
        """Turn oxide into porous copper behind a reduction's fronts; ``smoothed``: the smoothing's integral now."""
        if not episode.count:
            return
        self._touched = True
        reduction = self._kinetics.reduction
        roughness = si(reduction.front_roughness)
        first, owner, _ = self._places.arrivals(episode, self._extent, 3 * roughness, 0.0, 1e-9)
        coarse, fine = (self._places.texture(texture, episode.number) for texture in self._textures.front)
        # A front leaves its nucleus smooth and frays as it goes.
        run = np.maximum(first - episode.births()[owner], 0)
        run /= run + np.float32(1e-6)
        ragged = np.float32(roughness) * np.clip(np.float32(0.85) * coarse + np.float32(0.5) * fine, -3, 3)
        behind: Floats = np.where(owner >= 0, np.float32(episode.grown) - first + ragged * run, np.float32(0))
        behind = np.maximum(behind, np.float32(0))
        reach = np.float32(reduction.depth_share) * behind
        from_top = np.minimum(reach, self.oxide)
        from_below = np.minimum(reach - from_top, self.buried)
        metal = (from_top + from_below) / self._ratio
        reached = from_top > 0
        self.buried = self.buried - from_below + np.where(reached, self.oxide - from_top, np.float32(0))
        self.oxide = np.where(reached, np.float32(0), self.oxide)
        self.cover = self.cover + metal
        self.relief = self.relief + self._pores(metal, behind, episode, smoothed)

    def _pores(self, metal: Floats, behind: Floats, episode: Metal, smoothed: float) -> Floats:
        """Return what pores add to the height: copper that takes more room, and its texture. Both fade by smoothing."""
        since = np.float32(smoothed) - episode.smoothed_at(np.float32(episode.grown) - behind)
        since = np.maximum(since, np.float32(0))
        fresh = np.float32(self._kinetics.reduction.porosity)
        porosity = fresh * np.exp(-since)
        relief: Floats = metal * (porosity / (1 - porosity))
        depth = fresh * np.minimum(metal, np.float32(DEEPEST_TEXTURE))
        for texture, length, share in zip(self._textures.pores, PORE_LENGTHS, PORE_DEPTHS, strict=True):
            fade = length**-3
            if float(since.min()) * fade > FADED:
                continue
            values = self._places.texture(texture, episode.number)
            # Pits are deeper than bumps are high: pores open downwards.
            values += np.float32(0.35) * (1 - np.square(values))
            relief += np.float32(share) * depth * values * np.exp(-since * np.float32(fade))
        return relief

    def oxidised(self) -> NDArray[np.bool_]:
        """Return where more than half of the top 10 nm are Cu2O."""
        half = SKIN / 2
        return (self.oxide > half) | ((self.oxide <= 0) & (self.cover < half) & (self.buried > half))

    def height(self) -> Floats:
        """Return the height above the copper before any oxide, m: what the oxide swells by, and the pores."""
        result: Floats = (self.oxide + self.buried) * (1 - 1 / self._ratio) + self.relief
        rough = np.minimum(self.oxide / np.float32(80e-9), np.float32(1)) * np.float32(2e-9)
        result += rough * self._places.texture(self._textures.film)
        return result

    def worn(self) -> Floats:
        """Return the share of the copper's own steps that shows through oxide and copper that came from oxide."""
        thickness = self.oxide + self.buried + self.cover * self._ratio
        result: Floats = np.exp(-thickness / np.float32(BURIAL))
        return result
