"""Monte Carlo frames that the figures of the inverse are measured on, and what a best linear estimate makes of them.

python tests/benchmarks/truths.py [--list] [--missing] [--only NAME …] [--bounds]

Electrons are counted in the real segments, never projected onto a model's basis. The frames lie in the truth cache
(``RILIEVO_TRUTH``, or the user's cache); an interrupted one goes on where it stopped. ``--missing`` computes what is
not there, the most important first; ``--only`` takes some names, or beginnings of names; ``--bounds`` tells the fit of
the transfer functions and the Wiener bound of every frame whose truth is there.

Noise. A tally of n electrons a pixel is a frame of that dose, its counting noise and all, so digitising adds nothing
but the amplifier's noise. An electron gives its own energy above the threshold: with w of each, the sum of a pixel has
the variance Σ w² − (Σ w)²/n, the second term because n is exact. To the signal Σ w its ratio is the noise energy (keV).
"""

from __future__ import annotations

import argparse
import sys
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Literal

import numpy as np
import reliefs
from numpy.typing import NDArray
from reliefs import Relief

from drivers.frame import BeamSettings, Channel, Frame
from drivers.geometry import annular
from drivers.sample import HeightMap
from drivers.units import ELEMENTARY_CHARGE, KEV
from reconstruction.bounds import height_error, radial_spectrum, wiener_bound
from reconstruction.measured_transfer import Transfer, estimate_transfer
from simulators.materials import ElasticLaw, material
from simulators.scanning import SegmentTally
from simulators.scene import Beam, Surface
from simulators.truth import Exposure, TruthCache, standard_error

Floats = NDArray[np.float64]

DETECTOR = annular(4, 2e-3, 8e-3, 8e-3, threshold=KEV)
CONFIGURATIONS = {"A": (5.0, 20e-9), "B": (7.0, 30e-9), "C": (10.0, 30e-9), "D": (15.0, 30e-9)}
"""Beam energy (keV) and pixel size (m)."""
ELECTRONS = 2000
PROBE_CURRENT = 1e-9
BRIGHTEST = 50_000.0
"""Counts of the brightest pixel above the offset, ADU: quantisation is no noise beside the electrons'."""
TRANSFER_PARTS = ("1-up", "1-down", "2-up", "2-down")
TRANSFER_ELECTRONS = 250
"""Of each of the four frames on four times the area: as many as 4000 on a field of 96 × 96."""


@dataclass(frozen=True, eq=False)
class Truth:
    """A frame whose surface is known.

    Attributes
    ----------
    name : str
        Configuration, then surface.
    exposure : Exposure
    relief : Relief
        The heights, and the faces and steps in them.
    """

    name: str
    exposure: Exposure
    relief: Relief

    @property
    def z(self) -> Floats:
        """Heights (H, W), m."""
        return self.relief.z


def _truth(
    configuration: str,
    name: str,
    relief: Relief,
    electrons: int = ELECTRONS,
    law: ElasticLaw = "browning",
    oxide: bool = False,
    periodic: bool = False,
) -> Truth:
    """Return a truth; ``oxide``: all above the lowest height is Cu2O on flat copper."""
    energy, _ = CONFIGURATIONS[configuration]
    copper = material("Cu")
    if oxide:
        raised = (relief.z > 0).astype(np.uint8)
        surface = Surface(relief.height, copper, (material("Cu2O"),), raised, relief.z)
    else:
        surface = Surface(relief.height, copper, border="periodic" if periodic else "reflecting")
    full = f"{configuration}-{name}"
    seed = zlib.crc32(full.encode())
    return Truth(full, Exposure(surface, Beam(energy * KEV), DETECTOR, electrons, seed, law=law), relief)


def _transfer_truths(configuration: str) -> list[Truth]:
    """Return two gentle surfaces, each upright and upside down."""
    _, pixel = CONFIGURATIONS[configuration]
    found = []
    for part in TRANSFER_PARTS:
        up = reliefs.gentle(pixel, int(part[0]))
        relief = up if part.endswith("up") else Relief(HeightMap(-up.z, pixel))
        found.append(_truth(configuration, f"transfer-{part}", relief, TRANSFER_ELECTRONS, periodic=True))
    return found


@lru_cache(maxsize=1)
def exposures() -> dict[str, Truth]:
    """Return all truths by name, the most important first; the AFM surface only where the samples are."""
    near, far = CONFIGURATIONS["A"][1], CONFIGURATIONS["D"][1]
    islands, real, real_far = reliefs.islands(near), reliefs.afm(near), reliefs.afm(far)
    listed = [
        _truth("A", "islands", islands),
        _truth("A", "pyramids", reliefs.pyramids(near)),
        *_transfer_truths("A"),
        _truth("D", "islands", reliefs.islands(far)),
        *_transfer_truths("D"),
        _truth("A", "fractal", reliefs.fractal(near)),
        _truth("A", "terraces", reliefs.terraces(near)),
        *([_truth("A", "afm", real)] if real else []),
        *(_truth("A", f"facets-{n + 1}", reliefs.facets(near, n)) for n in range(len(reliefs.FACETS))),
        _truth("D", "pyramids", reliefs.pyramids(far)),
        _truth("D", "fractal", reliefs.fractal(far)),
        _truth("D", "terraces", reliefs.terraces(far, wide=True)),
        *([_truth("D", "afm", real_far)] if real_far else []),
        _truth("A", "islets45", reliefs.islets(near)),
        _truth("A", "islets60", reliefs.islets(near, steepest=60.0)),
        _truth("D", "islets45", reliefs.islets(far)),
        _truth("A", "bunches", reliefs.bunches(near)),
        _truth("A", "oxide", islands, oxide=True),
        _truth("A", "rutherford", islands, law="rutherford"),
    ]
    for configuration in ("B", "C"):
        pixel = CONFIGURATIONS[configuration][1]
        listed += [
            _truth(configuration, "islands", reliefs.islands(pixel)),
            *_transfer_truths(configuration),
            _truth(configuration, "fractal", reliefs.fractal(pixel)),
        ]
    listed.append(_truth("A", "islands-60000", islands, 60_000))
    return {each.name: each for each in listed}


def tally_of(
    truth: Truth, progress: Callable[[float], None] | None = None, cache: TruthCache | None = None
) -> SegmentTally:
    """Return a truth's tally from the cache; computed, which may take long, where it is not there."""
    return (cache or TruthCache()).frame(truth.exposure, progress)


def is_there(truth: Truth, cache: TruthCache | None = None) -> bool:
    """Return whether a truth's tally lies in the cache."""
    return (cache or TruthCache()).path(truth.exposure).exists()


def noise_energy(tally: SegmentTally) -> Floats:
    """Return the variance of each segment's Σ w over its mean (module text), over the whole frame. Shape (S,), keV."""
    variance = (tally.error * tally.electrons) ** 2
    return np.asarray(variance.sum(axis=(1, 2)) / tally.signals.sum(axis=(1, 2)))


def noise_variance(tally: SegmentTally) -> Floats:
    """Return the variance of each segment's signal in a pixel, mean over the frame. Shape (S,), (keV/electron)²."""
    return np.asarray(np.mean(tally.error**2, axis=(1, 2)))


def frame_of(
    exposure: Exposure,
    tally: SegmentTally,
    *,
    gain: float | None = None,
    read_noise: float = 5.0,
    offset: float = 1000.0,
    seed: int = 0,
    unit: Literal["ADU/electron", "ADU/keV"] = "ADU/electron",
    known: bool = True,
) -> Frame:
    """Return a tally as the detector's electronics would have digitised it: counts = offset + gain · Σ w + read noise.

    Parameters
    ----------
    exposure : Exposure
    tally : SegmentTally
    gain : float, ADU/keV, optional
        Of all segments; that which makes the brightest pixel ``BRIGHTEST`` unless given.
    read_noise, offset : float, ADU
    seed : int
        Of the amplifier's noise.
    unit : {"ADU/electron", "ADU/keV"}
        How the channels tell their gain. ``ADU/electron``: gain times the noise energy, so that a pixel's variance is
        ``channel.gain · (counts − channel.offset) + channel.read_noise²``. ``ADU/keV``: the gain itself, so that
        ``(counts − channel.offset) / channel.gain / beam.electrons_per_pixel`` is keV per beam electron.
    known : bool
        Whether the channels tell offset, gain and read noise.
    """
    scale = BRIGHTEST / float(tally.signals.max()) if gain is None else gain
    noise = np.random.default_rng(seed).normal(size=tally.signals.shape) * read_noise
    counts = np.clip(np.rint(offset + scale * tally.signals + noise), 0, 65535).astype(np.uint16)
    told = scale * (noise_energy(tally) if unit == "ADU/electron" else np.ones(len(counts)))
    channels = tuple(
        Channel(name, offset, float(each), read_noise, unit) if known else Channel(name, gain_unit=unit)
        for name, each in zip(exposure.detector.names, told, strict=True)
    )
    beam = BeamSettings(
        exposure.beam.energy,
        exposure.surface.height.pixel_size,
        PROBE_CURRENT,
        tally.electrons * ELEMENTARY_CHARGE / PROBE_CURRENT,
        exposure.beam.probe_diameter,
    )
    return Frame(counts, exposure.detector, beam, channels, datetime(2024, 5, 1, tzinfo=UTC))


def _odd_signals(configuration: str, number: int, cache: TruthCache | None) -> tuple[Floats, Floats, Floats]:
    """Return a gentle surface, half the difference of its two frames (keV/electron), and that one's noise variance."""
    named = exposures()
    up, down = (named[f"{configuration}-transfer-{number}-{side}"] for side in ("up", "down"))
    tallies = tally_of(up, cache=cache), tally_of(down, cache=cache)
    variance = (noise_variance(tallies[0]) + noise_variance(tallies[1])) / 4
    return up.z, (tallies[0].signal - tallies[1].signal) / 2, variance


def transfer_of(configuration: str, numbers: tuple[int, ...] = (1, 2), cache: TruthCache | None = None) -> Transfer:
    """Return the transfer functions of a configuration, keV per beam electron and metre, from its gentle surfaces."""
    z, signals, variances = (
        np.stack(each) for each in zip(*(_odd_signals(configuration, n, cache) for n in numbers), strict=True)
    )
    return estimate_transfer(z, signals, variances, DETECTOR.azimuths, CONFIGURATIONS[configuration][1])


def bound_of(truth: Truth, tally: SegmentTally, transfer: Transfer, crop: int = 4) -> float:
    """Return the Wiener bound (m) of a frame's dose, with the surface's own radial spectrum."""
    pixel = truth.exposure.surface.height.pixel_size
    spectrum = radial_spectrum(truth.z, pixel)
    shape = truth.relief.height.shape
    return wiener_bound(transfer, noise_variance(tally), spectrum, shape, pixel, crop=crop)


def check_transfer(configuration: str, cache: TruthCache | None = None) -> tuple[float, float]:
    """Return how well the functions from one gentle surface predict the other's signals: 1 is noise alone.

    Returns
    -------
    float
        Mean square of what is left, over the noise.
    float
        The largest deviation of a ring's mean square from 1, in standard errors.
    """
    transfer = transfer_of(configuration, (1,), cache)
    z, signals, variances = _odd_signals(configuration, 2, cache)
    pixel = CONFIGURATIONS[configuration][1]
    left = signals - signals.mean(axis=(1, 2), keepdims=True) - transfer.response(z, pixel, "periodic")
    rings = [radial_spectrum(each, pixel, "periodic") for each in left]
    modes = rings[0].modes[1:] * len(rings)
    means = np.mean([ring.power[1:] / variance for ring, variance in zip(rings, variances, strict=True)], axis=0)
    # Waves come as pairs of one complex number: a ring's mean square has the variance 2/modes.
    return float(means @ modes / modes.sum()), float(np.abs((means - 1) / np.sqrt(2 / modes)).max())


class Told:
    """Prints how far a frame is, now and then."""

    def __init__(self, name: str, every: float = 30.0) -> None:
        self.name, self.every = name, every
        self.start = self.last = time.monotonic()
        self.first: float | None = None

    def __call__(self, share: float) -> None:
        """Take a share 0 … 1."""
        now = time.monotonic()
        self.first = share if self.first is None else self.first
        if now - self.last < self.every or share <= self.first:
            return
        self.last = now
        left = (now - self.start) * (1 - share) / (share - self.first)
        print(f"    {self.name}: {share:.0%}, about {left / 60:.1f} min left", flush=True)


def describe(truth: Truth, tally: SegmentTally) -> str:
    """Return a frame's signal, noise and dose in a line."""
    exposure = truth.exposure
    area = exposure.surface.height.pixel_size**2
    signal = ", ".join(f"{each:.3f}" for each in tally.signal.mean(axis=(1, 2)))
    contrast = float(np.mean(tally.signal.std(axis=(1, 2)) / tally.signal.mean(axis=(1, 2))))
    return (
        f"signal {signal} keV/electron, noise {standard_error(tally):.2%} a pixel, contrast with it {contrast:.2%}, "
        f"η {tally.backscattered.mean() / tally.electrons:.3f}, noise energy {noise_energy(tally).mean():.2f} keV, "
        f"{tally.electrons * ELEMENTARY_CHARGE / area:.3g} C/m²"
    )


def compute(truths: list[Truth]) -> None:
    """Compute those that are not there and tell about all."""
    for number, truth in enumerate(truths, 1):
        there, begin = is_there(truth), time.monotonic()
        print(f"  [{number}/{len(truths)}] {truth.name}{': there' if there else ''}", flush=True)
        tally = tally_of(truth, None if there else Told(truth.name))
        took = "" if there else f"{(time.monotonic() - begin) / 60:.1f} min; "
        print(f"    {took}{describe(truth, tally)}", flush=True)


def print_list() -> None:
    """Print what there is and what is missing."""
    print(f"  {'frame':18s} {'keV':>4s} {'pixel':>6s} {'size':>9s} {'electrons':>9s} {'range':>7s}")
    for truth in exposures().values():
        height, there = truth.relief.height, "there" if is_there(truth) else "missing"
        print(
            f"  {truth.name:18s} {truth.exposure.beam.energy / KEV:4.0f} {height.pixel_size * 1e9:3.0f} nm "
            f"{height.shape[1]:4d}²     {truth.exposure.electrons:8d} {np.ptp(truth.z) * 1e9:4.0f} nm  {there}"
        )


def print_bounds() -> None:
    """Print the transfer functions' fits and the Wiener bounds of all frames that are there."""
    for configuration in CONFIGURATIONS:
        own = [truth for truth in exposures().values() if truth.name.startswith(configuration)]
        parts = [truth for truth in own if "-transfer-" in truth.name]
        if not all(is_there(part) for part in parts):
            print(f"  {configuration}: the transfer functions' frames are missing")
            continue
        transfer, halves = transfer_of(configuration), [transfer_of(configuration, (part,)) for part in (1, 2)]
        residual, worst = check_transfer(configuration)
        print(
            f"  {configuration}: transfer functions fit with χ² {transfer.chi_squared:.3f}; from one surface to the "
            f"other's signals: residual {residual:.3f} of the noise, worst ring {worst:.1f} standard errors"
        )
        for truth in own:
            if truth in parts or not is_there(truth):
                continue
            tally = tally_of(truth)
            bound, *others = (bound_of(truth, tally, each) * 1e9 for each in (transfer, *halves))
            share = 1e-9 * bound / height_error(truth.z, truth.z).range
            print(
                f"    {truth.name:18s} Wiener bound {bound:6.2f} nm, {share:.2%} of the range "
                f"(from each gentle surface alone: {others[0]:.2f}, {others[1]:.2f} nm)"
            )


def main() -> None:
    """Compute, list or measure."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--list", action="store_true", help="what there is (the default)")
    parser.add_argument("--missing", action="store_true", help="compute what is not there")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="compute these names, or what begins with them")
    parser.add_argument("--bounds", action="store_true", help="transfer functions and Wiener bounds of what is there")
    told = parser.parse_args()
    wanted = list(exposures().values())
    if told.only:
        unknown = [name for name in told.only if not any(truth.name.startswith(name) for truth in wanted)]
        if unknown:
            sys.exit(f"no frame's name begins with {', '.join(unknown)}; there are {', '.join(exposures())}")
        wanted = [truth for truth in wanted if truth.name.startswith(tuple(told.only))]
    if told.missing or told.only:
        compute([truth for truth in wanted if not (told.missing and is_there(truth))])
    if told.list or not (told.missing or told.only or told.bounds):
        print_list()
    if told.bounds:
        print_bounds()


if __name__ == "__main__":
    main()
