"""Training data: many small random surfaces, each with all the electrons that left it.

A data set is a folder: ``dataset.json`` says how it was drawn, ``sample-000000.exits`` and so on are exit files
(:mod:`simulators.exits`). Sample n depends on the plan and n alone: an interrupted set goes on where it stopped.
``tilt-000000.exits`` and so on hold flat surfaces, tilted.
"""

from __future__ import annotations

import itertools
import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from drivers.errors import InputError
from drivers.sample import HeightMap
from drivers.units import KEV
from simulators.exits import write_exits
from simulators.materials import material
from simulators.scattering import PHYSICS_VERSION
from simulators.scene import ENERGY_LIMITS, Beam, Stage, Surface
from simulators.surfaces import FAMILIES, random_surface

FORMAT = "rilievo data set"
VERSION = 1
SPREAD = 1_000_003
"""Between the seeds of two data sets there is room for so many samples."""
LARGEST_SEED = 2**63 // SPREAD - 1
MOST_PIXELS, MOST_ELECTRONS = 4096, 1_000_000
TILTS = (0, 10, 20, 30, 40, 50, 60, 70, 80)
"""Of the flat surfaces, deg."""
TILTED_ELECTRONS = 12_000
"""To each of their 64 pixels."""
DatasetProgress = Callable[[float, str], None]
"""Called with the share of the budget that is used, 0 … 1, and a few words; may raise to stop."""


@dataclass(frozen=True, slots=True)
class DatasetPlan:
    """How samples are drawn.

    Attributes
    ----------
    seed : int
        0 to ``LARGEST_SEED``.
    pixels : int
        Rows and columns of each sample, 2 to ``MOST_PIXELS``.
    electrons : int
        To each pixel, 1 to ``MOST_ELECTRONS``.
    energies : tuple of float, keV
        One is drawn for each sample.
    finest, coarsest : float
        Limits of the pixel size in units of the electron range in the substrate; drawn evenly in the logarithm.
    families : tuple of str
    materials : tuple of str
        Substrates.
    layered : float
        Share of the samples that carry Cu2O layers.
    """

    seed: int = 0
    pixels: int = 64
    electrons: int = 100
    energies: tuple[float, ...] = (3.0, 5.0, 10.0, 15.0, 20.0)
    finest: float = 0.02
    coarsest: float = 0.5
    families: tuple[str, ...] = tuple(FAMILIES)
    materials: tuple[str, ...] = ("Cu", "Cu2O")
    layered: float = 0.3

    def __post_init__(self) -> None:
        if not 0 <= self.seed <= LARGEST_SEED:
            raise InputError(f"expected a data set's seed from 0 to {LARGEST_SEED}; got {self.seed}")
        if self.pixels > MOST_PIXELS or self.electrons > MOST_ELECTRONS:
            raise InputError(
                f"expected up to {MOST_PIXELS} pixels and {MOST_ELECTRONS} electrons; got {self.pixels} and "
                f"{self.electrons}"
            )
        if self.pixels < 2 or self.electrons < 1:
            raise InputError(f"expected 2 pixels and 1 electron or more; got {self.pixels} and {self.electrons}")
        if not 0 < self.finest <= self.coarsest or not math.isfinite(self.coarsest):
            raise InputError(
                f"expected pixel sizes above 0 electron ranges, finest first; got {self.finest:g} to {self.coarsest:g}"
            )
        low, high = (limit / KEV for limit in ENERGY_LIMITS)
        for energy in self.energies:
            if not low <= energy <= high:
                raise InputError(f"expected beam energies from {low:g} to {high:g} keV; got {energy:g} keV")
        for family in self.families:
            if family not in FAMILIES:
                raise InputError(f"expected families of surfaces ({', '.join(FAMILIES)}); got {family!r}")
        for name in self.materials:
            material(name)
        if not (self.energies and self.families and self.materials):
            raise InputError("a data set needs one energy, one family of surfaces and one material at least")
        if not 0 <= self.layered <= 1:
            raise InputError(f"expected a share of layered samples from 0 to 1; got {self.layered:g}")

    def sample(self, number: int) -> tuple[Surface, Beam, str]:
        """Return the surface, the beam and the family of a sample."""
        rng = np.random.default_rng([self.seed, number])
        energy = float(rng.choice(self.energies)) * KEV
        family = self.families[number % len(self.families)]
        substrate = material(str(rng.choice(self.materials)))
        pixel = float(np.exp(rng.uniform(math.log(self.finest), math.log(self.coarsest))))
        layered = bool(rng.random() < self.layered)
        shape = (self.pixels, self.pixels)
        return random_surface(rng, family, shape, energy, pixel, substrate, layered), Beam(energy), family


def _claim(folder: Path, plan: DatasetPlan) -> None:
    """Write the plan into a new folder, or compare it with the one that stands there."""
    words = {"format": FORMAT, "version": VERSION, "physics": PHYSICS_VERSION, "plan": asdict(plan)}
    text = json.dumps(words, indent=1)
    path = folder / "dataset.json"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        raise InputError(f"{path} is not the description of a data set; choose another folder") from None
    if found == json.loads(text):
        return
    if not isinstance(found, dict) or found.get("physics") != PHYSICS_VERSION or found.get("version") != VERSION:
        raise InputError(f"{path} was made by another version; choose another folder")
    raise InputError(f"{path} was drawn by another plan; give the same options to go on, or choose another folder")


def build_tilts(folder: Path, plan: DatasetPlan, progress: DatasetProgress | None = None) -> int:
    """Add flat surfaces, tilted from 0° to 80°, of every material and energy of a plan; returns how many are new.

    From these the local law is fitted. Files are called ``tilt-000000.exits`` and so on.

    Raises
    ------
    InputError
        For a folder of another plan or version.
    """
    _claim(folder, plan)
    cases = list(itertools.product(dict.fromkeys(plan.materials), dict.fromkeys(plan.energies), TILTS))
    new = 0
    for number, (name, energy, tilt) in enumerate(cases):
        path = folder / f"tilt-{number:06d}.exits"
        if path.exists():
            continue
        if progress is not None:
            progress(number / len(cases), f"{name} at {energy:g} keV, tilted by {tilt} deg")
        flat = Surface(HeightMap(np.zeros((8, 8)), 1e-6), material(name), border="periodic")
        seed = plan.seed * SPREAD + SPREAD - 1 - number
        write_exits(path, flat, Beam(energy * KEV), TILTED_ELECTRONS, seed, Stage(math.radians(tilt)))
        new += 1
    return new


def build_dataset(
    folder: Path,
    plan: DatasetPlan,
    samples: int | None = None,
    minutes: float | None = None,
    electrons: int | None = None,
    progress: DatasetProgress | None = None,
) -> dict[str, Any]:
    """Add samples to a data set until a budget is used up.

    Parameters
    ----------
    folder : Path
        New, or one that an earlier call with the same plan began.
    plan : DatasetPlan
    samples : int, optional
        How many there shall be in all.
    minutes : float, min, optional
        Of this call; a sample that was begun is finished.
    electrons : int, optional
        That all samples together shall have followed at most, one sample at least.
    progress : callable, optional

    Returns
    -------
    dict
        ``samples`` in the folder, ``new`` of this call, ``electrons`` followed in all, ``bytes`` on disk.

    Raises
    ------
    InputError
        Without a budget, or for a folder of another plan or version.
    """
    budgets = [budget for budget in (samples, minutes, electrons) if budget is not None]
    if not budgets or min(budgets) <= 0:
        raise InputError("a data set needs a budget above 0: samples, minutes or electrons")
    _claim(folder, plan)
    each = plan.pixels**2 * plan.electrons
    counts = [count for count in (samples, max(1, electrons // each) if electrons else None) if count is not None]
    most = min(counts) if counts else None
    start, number, new = time.monotonic(), 0, 0
    while most is None or number < most:
        used = (time.monotonic() - start) / 60 / minutes if minutes else 0.0
        if used >= 1.0:
            break
        path = folder / f"sample-{number:06d}.exits"
        if not path.exists():
            surface, beam, family = plan.sample(number)
            if progress is not None:
                progress(max(used, number / most if most else 0.0), f"sample {number}: {family}")
            write_exits(path, surface, beam, plan.electrons, seed=plan.seed * SPREAD + number)
            new += 1
        number += 1
    if progress is not None:
        progress(1.0, "done")
    files = sorted(folder.glob("sample-*.exits"))
    size = sum(path.stat().st_size for path in files)
    return {"samples": len(files), "new": new, "electrons": len(files) * each, "bytes": size}
