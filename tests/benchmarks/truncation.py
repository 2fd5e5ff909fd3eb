"""How much of the difference signal the emission basis loses, against electrons counted in real segments.

python tests/benchmarks/truncation.py [--quick] [--electrons N] [--polar 5,5,4,3,2] [--json FILE]

The difference signal is what segments show beyond their mean. Its error is that of the projection: electrons go into
the basis' coefficients, and those through the segments' responses, against the same electrons counted where they fly.
The root of the mean square over the segments and over all rotations of the detector is told, over that of the signal.

Counting noise is taken out without a bias: electrons come in batches, and only products of two different batches enter
the mean square; the uncertainty is the jackknife's over the batches. A negative figure is below what the electrons can
tell. Beside it stands a version without noise, in which the analytic law of the local emission is integrated.

Without --quick it follows 40 million electrons at 5 keV and 20 million at 15 keV into each of four planes: about half
an hour on two quiet cores.

Rings of 1.5 to 10 mm at 5 to 10 mm, cut into 3, 4 and 6; tilts from 10° to 40°; thresholds to 3 keV.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.polynomial.legendre import leggauss
from numpy.typing import NDArray

from drivers.geometry import DetectorGeometry, annular
from drivers.sample import HeightMap
from drivers.units import KEV
from reconstruction.basis import POLAR, EmissionBasis, emission_basis
from reconstruction.emission import EmissionLaw
from reconstruction.emission import material as law_material
from reconstruction.response import check_reach, segment_response
from simulators.materials import material
from simulators.scanning import frame_exits
from simulators.scene import Beam, Stage, Surface

Floats = NDArray[np.float64]

GOAL = 0.01
SECTORS = 72
"""Each ring is counted in so many sectors of 5°, from which all segments and rotations are put together."""
BATCHES = 16
TILTS = (10, 20, 30, 40)
ENERGIES = (5.0, 15.0)
THRESHOLDS = (0.0, 1.0, 2.0, 3.0)
ELECTRONS = {5.0: 40_000_000, 15.0: 20_000_000}
QUICK = {5.0: 1_600_000, 15.0: 800_000}


@dataclass(frozen=True)
class Ring:
    """An annulus over the sample, lengths in mm, in three ways of cutting it."""

    inner: float
    outer: float
    distance: float
    offset: tuple[float, float] = (0.0, 0.0)

    def cut(self, count: int, rotation: float = 0.0) -> DetectorGeometry:
        """Return the diode cut into equal segments, the first one's edge at an azimuth of 0 before its rotation."""
        ring = annular(count, self.inner * 1e-3, self.outer * 1e-3, self.distance * 1e-3, math.pi / count)
        offset = (self.offset[0] * 1e-3, self.offset[1] * 1e-3)
        return DetectorGeometry(ring.segments, ring.working_distance, offset, rotation)

    def __str__(self) -> str:
        shift = f", off by {math.hypot(*self.offset):.2g}" if any(self.offset) else ""
        return f"{self.inner:g}–{self.outer:g} mm at {self.distance:g}{shift}"


RINGS = (
    Ring(1.5, 10, 5),
    Ring(1.5, 3, 5),
    Ring(6, 10, 5),
    Ring(3, 10, 7, (0.3, 0.2)),
    Ring(2, 8, 8),
    Ring(1.5, 6, 10),
    Ring(1.5, 10, 10),
)
COUNTS = (3, 4, 6)


def joined(sectors: Floats, count: int) -> Floats:
    """Return the signals of a ring cut into ``count``, for all rotations by 5°. Shape (..., rotations, count)."""
    width = SECTORS // count
    turns = np.stack([np.roll(sectors, -turn, axis=-1) for turn in range(width)], axis=-2)
    return turns.reshape(*turns.shape[:-1], count, width).sum(axis=-1)


def responses(ring: Ring, count: int, basis: EmissionBasis) -> Floats:
    """Return the responses of a ring cut into ``count``, for all rotations by 5°. Shape (rotations, count, K)."""
    found = []
    for turn in range(SECTORS // count):
        geometry = ring.cut(count, turn * 2 * math.pi / SECTORS)
        check_reach(geometry)
        found.append(segment_response(geometry, basis).numpy())
    return np.stack(found)


# -- Monte Carlo


def sector_of(ring: Ring, directions: Floats) -> NDArray[np.int64]:
    """Return the sector that each electron meets, counted from azimuth 0; −1 for none."""
    rise = np.maximum(directions[:, 2], 1e-9)
    x = ring.distance * directions[:, 0] / rise - ring.offset[0]
    y = ring.distance * directions[:, 1] / rise - ring.offset[1]
    squared = x * x + y * y
    place = np.floor(np.arctan2(y, x) % (2 * math.pi) * (SECTORS / (2 * math.pi))).astype(np.int64) % SECTORS
    met = (directions[:, 2] > 0) & (squared >= ring.inner**2) & (squared < ring.outer**2)
    return np.where(met, place, -1)


def check_sectors(ring: Ring, directions: Floats) -> None:
    """Compare with the one place where a direction meets a segment."""
    place = sector_of(ring, directions)
    for count in COUNTS:
        segment = np.where(place >= 0, place // (SECTORS // count), -1)
        real = ring.cut(count).segment_of(np.zeros((len(directions), 2)), directions)
        if np.count_nonzero(segment != real) > 1e-5 * len(real) + 1:
            raise SystemExit(f"sectors and segments of the ring {ring} disagree")


@dataclass(frozen=True)
class Counted:
    """Sums over the electrons of a batch, per beam electron.

    ``coefficients`` (batches, thresholds, K); ``sectors`` of each ring (batches, thresholds, SECTORS).
    """

    coefficients: Floats
    sectors: list[Floats]


def follow(energy: float, tilt: int, electrons: int, basis: EmissionBasis) -> Counted:
    """Follow electrons into a tilted plane of copper and add up what leaves it."""
    flat = Surface(HeightMap(np.zeros((1, BATCHES)), 1e-6), material("Cu"), border="periodic")
    # Not along any edge of a segment.
    stage, each = Stage(math.radians(tilt), 0.3), min(electrons // BATCHES, 200_000)
    rounds = -(-electrons // (BATCHES * each))
    coefficients = np.zeros((BATCHES, len(THRESHOLDS), len(basis)))
    sectors = [np.zeros((BATCHES, len(THRESHOLDS), SECTORS)) for _ in RINGS]
    for number in range(rounds):
        seed = 1000 * tilt + number
        for piece, found, exits in frame_exits(flat, Beam(energy * KEV), each, seed, stage, most=each):
            batch = int(piece.start)
            assert piece.stop == batch + 1
            assert int(found.sum()) == len(exits)
            directions = exits[:, :3].astype(np.float64)
            directions /= np.linalg.norm(directions, axis=1, keepdims=True)
            weights = np.maximum(exits[:, 3, None] - np.array(THRESHOLDS), 0.0) / (energy * each * rounds)
            inside = directions[:, 2] >= basis.lowest
            functions = np.stack(basis(*directions[inside].T))
            coefficients[batch] += (functions @ weights[inside]).T
            for ring, sums in zip(RINGS, sectors, strict=True):
                if number == batch == 0:
                    check_sectors(ring, directions)
                place = sector_of(ring, directions)
                for index in range(len(THRESHOLDS)):
                    sums[batch, index] += np.bincount(place + 1, weights[:, index], SECTORS + 1)[1:]
    return Counted(coefficients, sectors)


def product_mean(batches: Floats) -> float:
    """Return the mean square of what batches (B, rotations, segments) have in common: all pairs of different ones."""
    total, count = batches.sum(axis=0), len(batches)
    cross = (total**2).sum(axis=-1) - (batches**2).sum(axis=(0, -1))
    return float(cross.mean()) / (count * (count - 1))


@dataclass(frozen=True)
class Row:
    """Error over signal of one detector over one plane: value and standard error, both signed roots of squares."""

    energy: float
    threshold: float
    tilt: int
    ring: str
    segments: int
    square: float
    doubt: float

    @property
    def error(self) -> float:
        """Error over signal; negative where noise was more than there was error."""
        return math.copysign(math.sqrt(abs(self.square)), self.square)

    @property
    def at_most(self) -> float:
        """What the error is below with 97.5 % confidence."""
        return math.sqrt(max(self.square + 2 * self.doubt, 0.0))


def compare(predicted: Floats, counted: Floats) -> tuple[float, float]:
    """Return the squared error over the squared signal, and the jackknife's standard error of it.

    Parameters
    ----------
    predicted, counted : (B, rotations, segments) arrays
    """
    signal = counted - counted.mean(axis=-1, keepdims=True)
    error = predicted - predicted.mean(axis=-1, keepdims=True) - signal
    count = len(signal)
    without = [[index for index in range(count) if index != left] for left in range(count)]
    ratios = [product_mean(error[kept]) / product_mean(signal[kept]) for kept in without]
    whole = product_mean(error) / product_mean(signal)
    return whole, math.sqrt((count - 1) / count * float(((np.array(ratios) - np.mean(ratios)) ** 2).sum()))


def monte_carlo(electrons: dict[float, int], basis: EmissionBasis) -> list[Row]:
    """Compare every detector over every plane."""
    seen = {(ring, count): responses(ring, count, basis) for ring in RINGS for count in COUNTS}
    rows = []
    for energy in ENERGIES:
        for tilt in TILTS:
            begin = time.perf_counter()
            found = follow(energy, tilt, electrons[energy], basis)
            print(
                f"  {energy:g} keV, {tilt}°: {electrons[energy]:.3g} electrons in {time.perf_counter() - begin:.0f} s",
                flush=True,
            )
            for (ring, count), response in seen.items():
                predicted = np.einsum("btk,rsk->tbrs", found.coefficients, response)
                counted = joined(found.sectors[RINGS.index(ring)], count).swapaxes(0, 1)
                for index, threshold in enumerate(THRESHOLDS):
                    square, doubt = compare(predicted[index], counted[index])
                    rows.append(Row(energy, threshold, tilt, str(ring), count, square, doubt))
    return rows


# -- without noise


def analytic(basis: EmissionBasis) -> tuple[list[Row], float]:
    """Compare every detector over every plane that emits by the analytic law; also the error at the worst rotation."""
    law = EmissionLaw.of(law_material("Cu"))
    x, weight = leggauss(200)
    half = (1 - basis.lowest) / 2
    z, azimuth = 1 - half + half * x, (np.arange(720) + 0.5) * (2 * math.pi / 720)
    ring_radius = np.sqrt(1 - z**2)
    cap = np.stack([np.outer(ring_radius, np.cos(azimuth)), np.outer(ring_radius, np.sin(azimuth)),
                    np.outer(z, np.ones(720))], axis=-1)  # fmt: skip
    solid = np.outer(weight * half, np.full(720, 2 * math.pi / 720))
    functions = np.stack([np.broadcast_to(each, solid.shape) for each in basis(*np.moveaxis(cap, -1, 0))])
    rows, worst = [], 0.0
    for ring in RINGS:
        nodes, areas = _ring_nodes(ring)
        seen = {count: responses(ring, count, basis) for count in COUNTS}
        for tilt in TILTS:
            coefficients = np.einsum("kab,ab->k", functions, _emitted(law, tilt, cap) * solid)
            sectors = (_emitted(law, tilt, nodes) * areas).sum(axis=(0, 2))
            for count, response in seen.items():
                signal = joined(sectors, count)
                error = response @ coefficients - signal
                spread = signal - signal.mean(axis=-1, keepdims=True)
                error -= error.mean(axis=-1, keepdims=True)
                square = float((error**2).mean() / (spread**2).mean())
                rows.append(Row(0.0, 0.0, tilt, str(ring), count, square, 0.0))
                worst = max(worst, float(((error**2).sum(axis=-1) / (spread**2).sum(axis=-1)).max()))
    return rows, math.sqrt(worst)


def _emitted(law: EmissionLaw, tilt: int, directions: Floats) -> Floats:
    angle = math.radians(tilt)
    normal = np.array([math.sin(angle) * math.cos(0.3), math.sin(angle) * math.sin(0.3), math.cos(angle)])
    return law.intensity(np.full(directions.shape[:-1], math.cos(angle)), directions @ normal, directions[..., 2])


def _ring_nodes(ring: Ring) -> tuple[Floats, Floats]:
    """Return directions (radii, SECTORS, nodes, 3) to a ring's sectors, and the solid angle of each."""
    x, weight = leggauss(60)
    t, weight_t = leggauss(8)
    low, high = ring.inner**2, ring.outer**2
    radius = np.sqrt((low + high) / 2 + (high - low) / 2 * x)[:, None, None]
    half = math.pi / SECTORS
    azimuth = ((2 * np.arange(SECTORS) + 1)[:, None] + t) * half
    area = ((high - low) / 4 * weight)[:, None, None] * weight_t * half
    flight = np.stack(
        np.broadcast_arrays(
            radius * np.cos(azimuth) + ring.offset[0], radius * np.sin(azimuth) + ring.offset[1], ring.distance
        ),
        axis=-1,
    )
    length = np.linalg.norm(flight, axis=-1)
    return flight / length[..., None], area * ring.distance / length**3


# -- tables


def table(title: str, rows: list[Row]) -> None:
    """Print, for each threshold and tilt: the pooled error, the worst detector, and the bound for it."""
    print(f"\n  {title}")
    print(f"  {'beam':>7s} {'threshold':>10s} {'tilt':>5s} {'all, rms':>17s} {'worst detector':>19s}   which")
    for energy, threshold, tilt in dict.fromkeys((row.energy, row.threshold, row.tilt) for row in rows):
        chosen = [row for row in rows if (row.energy, row.threshold, row.tilt) == (energy, threshold, tilt)]
        pooled = float(np.mean([row.square for row in chosen]))
        # Detectors share their electrons: their errors add up as if they were the same.
        doubt = float(np.mean([row.doubt for row in chosen]))
        whole = Row(energy, threshold, tilt, "", 0, pooled, doubt)
        worst = max(chosen, key=lambda row: row.square)
        beam = f"{energy:g} keV" if energy else "law"
        limit = f" (≤ {whole.at_most:5.2%})" if doubt else ""
        bound = f" (≤ {worst.at_most:5.2%})" if worst.doubt else ""
        print(
            f"  {beam:>7s} {f'{threshold:g} keV':>10s} {tilt:4d}° {whole.error:7.2%}{limit:>10s} {worst.error:8.2%}"
            f"{bound:>11s}   {worst.ring}, {worst.segments} segments"
        )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="some million electrons in all: minutes")
    parser.add_argument("--electrons", type=float, help="into each plane, instead of the usual number")
    parser.add_argument("--polar", default=",".join(map(str, POLAR)), help="polar functions of each harmonic")
    parser.add_argument("--json", type=Path, help="write all rows into this file")
    given = parser.parse_args()
    basis = emission_basis(tuple(int(word) for word in given.polar.split(",")))
    print(f"  {len(basis)} functions, {given.polar}; goal: the error is at most {GOAL:.0%} of the difference signal")
    noiseless, worst = analytic(basis)
    table("the analytic law, without noise", noiseless)
    errors = [row.error for row in noiseless]
    print(f"  largest {max(errors):.2%}, median {np.median(errors):.3%}; largest at any rotation {worst:.2%}\n")
    electrons = QUICK if given.quick else ELECTRONS
    if given.electrons:
        electrons = dict.fromkeys(ENERGIES, int(given.electrons))
    rows = monte_carlo(electrons, basis)
    table("Monte Carlo, counting noise removed; in brackets what it is below with 97.5 % confidence", rows)
    if given.json:
        kept: list[dict[str, Any]] = [{**row.__dict__, "error": row.error} for row in noiseless + rows]
        given.json.write_text(json.dumps(kept, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
