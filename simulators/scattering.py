"""Monte Carlo transport of electrons: what a plane sample sends back, and what all runs share.

Single elastic scattering with continuous loss (:mod:`simulators.materials`, :mod:`simulators.transport`). Frames of a
relief are in :mod:`simulators.scanning`. Lengths in m, energies in J, angles in rad.
Results are the same, bit for bit, for a seed, whatever the number of threads.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from drivers.errors import InputError, RilievoError
from drivers.sample import HeightMap
from drivers.units import KEV
from simulators.materials import ElasticLaw, Material, electron_range
from simulators.scene import REACH, Beam, Stage, Surface, build_gun, build_scene

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]
Progress = Callable[[float], None]
"""Called with the share that is done, 0 … 1; may raise :class:`Cancelled` to stop."""

PHYSICS_VERSION = "1"
"""Changes whenever the same seed gives other electrons; part of every cache's key."""

BATCH = 400_000
"""Electrons between two reports of progress: a few seconds."""
WALKERS = 512
"""Generators that share the work on a plane sample; part of what a seed means."""
POLAR_EDGES = np.linspace(0.0, math.pi / 2, 19)
AZIMUTH_EDGES = np.linspace(-math.pi, math.pi, 25)


class Cancelled(RilievoError):
    """Somebody asked a calculation to stop."""

    code = "cancelled"
    exit_code = 130


def seeds(seed: int, count: int) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """Return states and streams of ``count`` generators: those of pixel p depend on the seed and p alone.

    States by SplitMix64 (G. L. Steele et al., OOPSLA 2014) of seed and index; streams are the odd numbers 2p + 1.
    """
    if not 0 <= seed < 2**63:
        raise InputError(f"expected a seed from 0 to 2^63 − 1; got {seed}")
    index = np.arange(count, dtype=np.uint64)
    start = np.uint64(seed * 0xD1342543DE82EF95 % 2**64)
    mixed = start + index * np.uint64(0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    return mixed ^ (mixed >> np.uint64(31)), index * np.uint64(2) + np.uint64(1)


def check_electrons(electrons: int) -> None:
    """Refuse fewer electrons than one.

    Raises
    ------
    InputError
    """
    if electrons < 1:
        raise InputError(f"expected one electron at least; got {electrons}")


@dataclass(frozen=True, slots=True)
class Backscatter:
    """What a plane sample sends back.

    Attributes
    ----------
    electrons, backscattered, absorbed : int
        The last two add up to the first.
    mean_energy : float, J
        Of the backscattered.
    polar : (18,) int array
        Backscattered in equal steps of the angle from the surface normal, 0 to 90°.
    azimuth : (24,) int array
        In equal steps of the azimuth from −180° to 180°; 0 is the way in which a tilted beam flies.
    energies : (50,) int array
        In equal steps of E/E0, 0 to 1.
    """

    electrons: int
    backscattered: int
    absorbed: int
    mean_energy: float
    polar: Counts
    azimuth: Counts
    energies: Counts

    @property
    def coefficient(self) -> float:
        """η, backscattered per beam electron."""
        return self.backscattered / self.electrons

    @property
    def error(self) -> float:
        """Standard error of η (binomial)."""
        eta = self.coefficient
        return math.sqrt(eta * (1.0 - eta) / self.electrons)


def plane(substance: Material, energy: float) -> Surface:
    """Return a flat surface of a material, its pixels a 32nd of the electron range at ``energy`` (J)."""
    return Surface(HeightMap(np.zeros((2, 2)), electron_range(substance, energy) / 32), substance, border="periodic")


def plane_exits(
    substance: Material,
    beam: Beam,
    electrons: int,
    seed: int,
    tilt: float = 0.0,
    law: ElasticLaw = "browning",
    reach: float = REACH,
) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """Follow electrons into a plane sample, batch by batch.

    Yields
    ------
    int
        Electrons followed in this batch.
    (n, 6) float32 array
        Those that left: direction (x, y, z from the surface; a tilted beam flies towards +x), energy (keV), and x, y
        of the exit from the point of entry (m).
    """
    from simulators.kernels import keep

    check_electrons(electrons)
    surface = plane(substance, beam.energy)
    pixel = surface.height.pixel_size
    scene, gun = build_scene(surface, beam, law, reach), build_gun(beam, Stage(tilt), pixel)
    points = np.zeros((WALKERS, 2), dtype=np.float32)
    states, streams = seeds(seed, WALKERS)
    found = np.zeros(WALKERS, dtype=np.int64)
    exits = np.empty((WALKERS, min(BATCH, electrons) // WALKERS + 1, 6), dtype=np.float32)
    left = electrons
    while left > 0:
        # The last electrons, fewer than walkers, are shared out one by one.
        walkers = min(WALKERS, left)
        each = min(exits.shape[1], left // walkers)
        keep(scene, gun, points[:walkers], states[:walkers], streams[:walkers], each, found[:walkers], exits[:walkers])
        kept = exits[:walkers][np.arange(exits.shape[1]) < found[:walkers, None]]
        kept[:, 4:] *= pixel
        left -= walkers * each
        yield walkers * each, kept


def backscatter(
    substance: Material,
    energy: float,
    tilt: float = 0.0,
    electrons: int = 100_000,
    seed: int = 0,
    law: ElasticLaw = "browning",
    reach: float = REACH,
    progress: Progress | None = None,
) -> Backscatter:
    """Return the backscatter coefficient of a plane sample, with the energies and directions of what leaves.

    Parameters
    ----------
    substance : Material
    energy : float, J
    tilt : float, rad
        Of the surface normal from the beam, 0 to 85°.
    electrons : int
    seed : int
    law : {"browning", "rutherford"}
    reach : float
        See :data:`simulators.scene.REACH`.
    progress : callable, optional

    Raises
    ------
    InputError
        For an energy, a tilt or a number of electrons out of range.
    """
    total = sent = 0
    sum_energy = 0.0
    polar, azimuth = np.zeros(18, dtype=np.int64), np.zeros(24, dtype=np.int64)
    energies = np.zeros(50, dtype=np.int64)
    for followed, exits in plane_exits(substance, Beam(energy), electrons, seed, tilt, law, reach):
        sent += followed
        total += len(exits)
        sum_energy += float(exits[:, 3].sum(dtype=np.float64))
        polar += np.histogram(np.arccos(np.clip(exits[:, 2], 0.0, 1.0)), POLAR_EDGES)[0]
        azimuth += np.histogram(np.arctan2(exits[:, 1], exits[:, 0]), AZIMUTH_EDGES)[0]
        energies += np.histogram(exits[:, 3] * (KEV / energy), 50, (0.0, 1.0 + 1e-6))[0]
        if progress is not None:
            progress(sent / electrons)
    mean = sum_energy / total * KEV if total else 0.0
    return Backscatter(electrons, total, electrons - total, mean, polar, azimuth, energies)
