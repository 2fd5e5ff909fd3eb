"""Monte Carlo transport of electrons through a relief: the truth that everything else is measured against.

Single elastic scattering with continuous loss (:mod:`simulators.materials`) through a height map with composition
(:mod:`simulators.transport`), exits tested against the real segments of a :class:`drivers.geometry.DetectorGeometry`.

Lengths in m, energies in J, angles in rad; signals in keV of the diode's response for a beam of N electrons.
Results are the same, bit for bit, for a seed, whatever the number of threads.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from drivers.errors import InputError, RilievoError
from drivers.geometry import DetectorGeometry
from drivers.sample import HeightMap
from drivers.units import KEV
from simulators.materials import ElasticLaw, Material, electron_range
from simulators.scene import REACH, Beam, Stage, Surface, build_diode, build_gun, build_scene

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


@dataclass(frozen=True, slots=True, eq=False)
class SegmentTally:
    """What each segment got from each pixel.

    Attributes
    ----------
    electrons : int
        Sent to each pixel.
    counts : (S, H, W) int array
        Electrons that met the segment.
    signals, squares : (S, H, W) float arrays, keV and keV²
        Σ max(E − threshold, 0) over those electrons, and Σ of its square.
    backscattered, absorbed : (H, W) int arrays
        Add up to ``electrons``.
    energy : (H, W) float array, keV
        Sum over the backscattered.
    """

    electrons: int
    counts: Counts
    signals: Floats
    squares: Floats
    backscattered: Counts
    absorbed: Counts
    energy: Floats

    @property
    def signal(self) -> Floats:
        """Diode signal in keV per beam electron. Shape (S, H, W)."""
        return self.signals / self.electrons

    @property
    def error(self) -> Floats:
        """Standard error of :attr:`signal`, keV per beam electron. Shape (S, H, W)."""
        mean = self.signals / self.electrons
        return np.asarray(np.sqrt(np.maximum(self.squares / self.electrons - mean**2, 0.0) / self.electrons))


def grid_points(shape: tuple[int, int]) -> NDArray[np.float32]:
    """Return u, v of every pixel's centre, row by row. Shape (H·W, 2)."""
    rows, columns = np.indices(shape)
    return np.stack([columns.ravel(), rows.ravel()], axis=1).astype(np.float32)


def blocks(pixels: int, electrons: int, most: int = BATCH) -> Iterator[tuple[slice, int]]:
    """Cut pixels × electrons into pieces of about ``most``: (which pixels, how many electrons each)."""
    width = min(pixels, max(64, most // electrons))
    for first in range(0, pixels, width):
        piece = slice(first, min(first + width, pixels))
        left = electrons
        while left:
            now = min(left, max(1, most // width))
            left -= now
            yield piece, now


def tally_frame(
    surface: Surface,
    beam: Beam,
    detector: DetectorGeometry,
    electrons: int,
    seed: int = 0,
    stage: Stage | None = None,
    law: ElasticLaw = "browning",
    progress: Progress | None = None,
) -> SegmentTally:
    """Scan the beam over every pixel of a surface and add up what the detector's segments get.

    Parameters
    ----------
    surface : Surface
    beam : Beam
    detector : DetectorGeometry
        Its working distance, offset, rotation and threshold count, and so does each exit's own position.
    electrons : int
        To each pixel. Memory does not grow with it.
    seed : int
        Pixel p's generator depends on the seed and p alone.
    stage : Stage, optional
    law : {"browning", "rutherford"}
    progress : callable, optional

    Raises
    ------
    InputError
    """
    from numba import parallel_chunksize

    from simulators.kernels import tally

    check_electrons(electrons)
    stage = stage or Stage()
    shape, pixels = surface.height.shape, surface.height.z.size
    scene, gun = build_scene(surface, beam, law), build_gun(beam, stage, surface.height.pixel_size)
    diode = build_diode(detector, stage, surface.height)
    points, (states, streams) = grid_points(shape), seeds(seed, pixels)
    count = len(detector.segments)
    fates, energy = np.zeros((pixels, 2), dtype=np.int64), np.zeros(pixels)
    counts = np.zeros((pixels, count), dtype=np.int64)
    signals, squares = np.zeros((pixels, count)), np.zeros((pixels, count))
    done = 0
    for piece, now in blocks(pixels, electrons):
        # Small pieces of the loop keep threads busy where some pixels cost more than others.
        with parallel_chunksize(8):
            tally(
                scene,
                gun,
                diode,
                points[piece],
                states[piece],
                streams[piece],
                now,
                fates[piece],
                energy[piece],
                counts[piece],
                signals[piece],
                squares[piece],
            )
        done += (piece.stop - piece.start) * now
        if progress is not None:
            progress(done / (pixels * electrons))

    def images(values: Any) -> Any:
        return np.ascontiguousarray(values.T).reshape(-1, *shape)

    return SegmentTally(
        electrons,
        images(counts),
        images(signals),
        images(squares),
        fates[:, 1].reshape(shape).copy(),
        fates[:, 0].reshape(shape).copy(),
        energy.reshape(shape),
    )


def frame_exits(
    surface: Surface,
    beam: Beam,
    electrons: int,
    seed: int = 0,
    stage: Stage | None = None,
    law: ElasticLaw = "browning",
    most: int = BATCH,
) -> Iterator[tuple[slice, NDArray[np.int64], NDArray[np.float32]]]:
    """Scan the beam over a surface and keep every exit, some pixels at a time.

    Yields
    ------
    slice
        Of the pixels, counted row by row.
    (n,) int array
        Exits of each of them.
    (sum, 6) float32 array
        Their exits one after the other: direction (x, y, z in the microscope's axes), energy (keV), x, y from the point
        aimed at (m, in the sample's plane).
    """
    from simulators.kernels import keep

    check_electrons(electrons)
    stage = stage or Stage()
    pixel, pixels = surface.height.pixel_size, surface.height.z.size
    scene, gun = build_scene(surface, beam, law), build_gun(beam, stage, pixel)
    points, (states, streams) = grid_points(surface.height.shape), seeds(seed, pixels)
    turn = stage.to_microscope().astype(np.float32)
    width = min(pixels, max(1, most // electrons))
    found, exits = np.zeros(width, dtype=np.int64), np.empty((width, electrons, 6), dtype=np.float32)
    for first in range(0, pixels, width):
        piece = slice(first, min(first + width, pixels))
        size = piece.stop - piece.start
        keep(scene, gun, points[piece], states[piece], streams[piece], electrons, found[:size], exits[:size])
        kept = exits[:size][np.arange(electrons) < found[:size, None]]
        kept[:, :3] = kept[:, :3] @ turn.T
        kept[:, 4:] *= pixel
        yield piece, found[:size].copy(), kept
