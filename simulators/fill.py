"""Fills the emission tables by Monte Carlo: projects the exits of tilted planes, then fits tilt and energy."""

from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from drivers.units import KEV
from simulators.materials import electron_range, material
from simulators.scattering import PHYSICS_VERSION, plane_exits
from simulators.scene import Beam
from simulators.tables import (
    BINS,
    FORMAT,
    SHIPPED,
    TERMS,
    energy_terms,
    radial_coefficients,
    tilt_terms,
)

Floats = NDArray[np.float64]

TILTS = np.radians([0, 8, 16, 24, 32, 40, 48, 55, 62, 68, 74, 80, 85])
ENERGIES = np.array([1.0, 2.0, 3.0, 5.0, 8.0, 12.0, 20.0, 30.0])
RINGS, SECTORS, RADII = 200, 45, 400


def histogram(exits: NDArray[np.float32], energy: float) -> tuple[Floats, Floats]:
    """Count exits by bin of E/E0, ring of equal area and sector of |φ|, and sum E/E0 by bin.

    Shapes (BINS, RINGS, SECTORS) and (BINS,); ``exits`` (n, 6) as of ``plane_exits``, ``energy`` in keV.
    """
    share = exits[:, 3].astype(np.float64) / energy
    bins = np.minimum((share * BINS).astype(np.int64), BINS - 1)
    area = np.minimum(((1.0 - exits[:, 2].astype(np.float64) ** 2) * RINGS).astype(np.int64), RINGS - 1)
    angle = np.abs(np.arctan2(exits[:, 1], exits[:, 0])) / math.pi
    sector = np.minimum((angle * SECTORS).astype(np.int64), SECTORS - 1)
    counts = np.bincount((bins * RINGS + area) * SECTORS + sector, minlength=BINS * RINGS * SECTORS)
    sums = np.bincount(bins, weights=share, minlength=BINS)
    return counts.reshape(BINS, RINGS, SECTORS).astype(np.float64), np.asarray(sums)


def project(counts: Floats, electrons: int) -> Floats:
    """Return the Zernike coefficients of the density over the disc of direction cosines. Shape (BINS, terms)."""
    squared = (np.arange(RINGS) + 0.5) / RINGS
    edges = np.linspace(0.0, math.pi, SECTORS + 1)
    result = np.empty((BINS, len(TERMS)))
    for index, (n, m) in enumerate(TERMS):
        radial = squared ** (m / 2) * np.polynomial.polynomial.polyval(squared, radial_coefficients(n, m))
        # The mean of cos mφ over each sector, exactly.
        wave = np.diff(np.sin(m * edges)) / (m * np.diff(edges)) if m else np.ones(SECTORS)
        norm = (2 * n + 2) / (math.pi * (2.0 if m == 0 else 1.0))
        result[:, index] = norm / electrons * np.einsum("brs,r,s->b", counts, radial, wave)
    return result


def two_gaussians(radii: Floats, weights: Floats) -> tuple[float, float, float, float]:
    """Fit the share of the signal within each radius; returns rms, share, narrow, wide in the unit of ``radii``.

    ``radii`` (n + 1,): edges of rings; ``weights`` (n,): signal of each.
    """
    from scipy.optimize import curve_fit

    middle = (radii[1:] + radii[:-1]) / 2
    rms = math.sqrt(float(weights @ middle**2 / weights.sum()))

    def within(r: Floats, share: float, narrow: float, wide: float) -> Floats:
        return np.asarray(
            1.0 - share * np.exp(-((r / narrow) ** 2) / 2) - (1.0 - share) * np.exp(-((r / wide) ** 2) / 2)
        )

    fit, _ = curve_fit(
        within, radii[1:], np.cumsum(weights) / weights.sum(), (0.4, rms / 4, rms), bounds=(1e-6, (1.0, rms, 4 * rms))
    )
    return rms, float(fit[0]), float(fit[1]), float(fit[2])


def fill(name: str, electrons: int, seed: int) -> tuple[Floats, Floats, Floats]:
    """Return coefficients (BINS, terms, TILT_TERMS, ENERGY_TERMS), bin means (BINS,) and spread (energies, 4)."""
    substance = material(name)
    values = np.empty((len(ENERGIES), len(TILTS), BINS, len(TERMS)))
    number, sums = np.zeros(BINS), np.zeros(BINS)
    spread = np.empty((len(ENERGIES), 4))
    for e, energy in enumerate(ENERGIES):
        reach = electron_range(substance, energy * KEV)
        edges = np.linspace(0.0, 2.0, RADII + 1)
        for t, tilt in enumerate(TILTS):
            counts, rings = np.zeros((BINS, RINGS, SECTORS)), np.zeros(RADII)
            start = seed + 1000 * e + t
            for _, exits in plane_exits(substance, Beam(energy * KEV), electrons, start, float(tilt)):
                found, energies = histogram(exits, energy)
                counts += found
                sums += energies
                rings += np.histogram(np.hypot(exits[:, 4], exits[:, 5]) / reach, edges, weights=exits[:, 3])[0]
            number += counts.sum(axis=(1, 2))
            values[e, t] = project(counts, electrons)
            if t == 0:
                spread[e] = two_gaussians(edges, rings)
        sys.stderr.write(f"{name} {energy:g} keV\n")
    return fit(values), sums / np.maximum(number, 1.0), spread


def fit(values: Floats) -> Floats:
    """Fit tilt and energy by least squares; (energies, tilts, BINS, terms) to (BINS, terms, tilt, energy terms)."""
    limits = (float(ENERGIES.min()), float(ENERGIES.max()))
    by_energy = np.linalg.pinv(energy_terms(ENERGIES, limits))
    columns = []
    for index, (_, m) in enumerate(TERMS):
        by_tilt = np.linalg.pinv(tilt_terms(TILTS, m), rcond=1e-6)
        columns.append(np.einsum("le,jt,etb->bjl", by_energy, by_tilt, values[..., index]))
    return np.stack(columns, axis=1)


def main(arguments: list[str] | None = None) -> None:
    """Fill the tables and write them."""
    parser = argparse.ArgumentParser(prog="python -m simulators.tables", description=__doc__)
    parser.add_argument("--materials", nargs="+", default=["Cu", "Cu2O"])
    parser.add_argument("--electrons", type=int, default=300_000, help="for each material, energy and tilt")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("-o", "--output", type=Path, default=SHIPPED)
    given = parser.parse_args(arguments)
    filled = [fill(name, given.electrons, given.seed + 100_000 * i) for i, name in enumerate(given.materials)]
    command = f"python -m simulators.tables --materials {' '.join(given.materials)}"
    made = {"physics": PHYSICS_VERSION, "electrons": given.electrons, "seed": given.seed}
    made["command"] = f"{command} --electrons {given.electrons} --seed {given.seed}"
    header = {"format": FORMAT, "materials": given.materials, "made": made}
    given.output.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(
        given.output,
        header=np.array(json.dumps(header)),
        energies=ENERGIES,
        coefficients=np.stack([part[0] for part in filled]).astype(np.float32),
        means=np.stack([part[1] for part in filled]).astype(np.float32),
        spread=np.stack([part[2] for part in filled]).astype(np.float32),
    )


if __name__ == "__main__":
    main()
