"""The table of the inverse as it grows, its frames, and what several rows need."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import truths
from numpy.typing import NDArray
from truths import Truth

from drivers.frame import Frame
from reconstruction import inverse
from reconstruction.bounds import (
    HeightError,
    best_scaled,
    frankot_chellappa,
    height_error,
)
from reconstruction.measured_transfer import Transfer
from reconstruction.metrology import without_plane
from reconstruction.photometric import Quality, Reconstruction
from simulators.scanning import SegmentTally

Floats = NDArray[np.float64]

NM = 1e-9
CROP = 4
NORMAL = 1.96
NEAR = ("A-islands", "A-pyramids", "A-fractal", "A-terraces", "A-afm", "A-islets45", "B-islands", "B-fractal")
"""R/px 3 to 10: 5 and 7 keV, 100 nm of relief, walls up to 45°."""
FAR = ("C-islands", "C-fractal", "D-islands", "D-pyramids", "D-fractal", "D-terraces", "D-afm", "D-islets45")
"""R/px 10 to 30."""
LAW = ("A-rutherford",)
"""Near, by another elastic law than the training's: what errors of the physics do."""
FACETS = ("A-facets-1", "A-facets-2", "A-facets-3", "A-pyramids")
BESIDE = ("A-islets60", "A-bunches", "A-oxide", "A-facets-1", "A-facets-2", "A-facets-3")
"""Of other relief, walls or matter than the goals are for: told, not judged."""
QUICK = ("A-islands", "A-terraces", "A-facets-1", "A-oxide", "D-islands")
DOSE = "A-islands-60000"


@dataclass
class Row:
    """A figure; ``ok`` is None where it has no goal, or could not be measured."""

    figure: str
    goal: str
    reached: str
    ok: bool | None = None


@dataclass
class Case:
    """A frame with its truth, and what the program makes of it."""

    truth: Truth
    tally: SegmentTally
    frame: Frame
    material: str = "Cu"
    found: dict[Quality, Reconstruction] = field(default_factory=dict)

    @property
    def pixel(self) -> float:
        return self.truth.relief.height.pixel_size

    @property
    def configuration(self) -> str:
        return self.truth.name[0]

    def heights(self, quality: Quality) -> Reconstruction:
        """Return the reconstruction, computed once."""
        if quality not in self.found:
            self.found[quality] = inverse.reconstruct(self.frame, quality=quality, material=self.material)
        return self.found[quality]

    def error(self, quality: Quality) -> HeightError:
        return height_error(self.heights(quality).z, self.truth.z, CROP)

    def error_map(self, quality: Quality = "full") -> tuple[Floats, Floats]:
        """Return error and σ of each pixel within the crop, m."""
        inside = np.s_[CROP:-CROP, CROP:-CROP]
        result = self.heights(quality)
        return np.asarray(without_plane((result.z - self.truth.z)[inside])), np.asarray(
            result.sigma[inside], dtype=np.float64
        )

    @cached_property
    def scaled(self) -> tuple[HeightError, HeightError]:
        """Errors of the local law's best-scaled heights: Frankot–Chellappa, cosine transform."""
        local = self.heights("preview")
        baselines = frankot_chellappa(local.p, local.q, self.pixel), local.z
        one, other = (height_error(best_scaled(each, self.truth.z, CROP)[0], self.truth.z, CROP) for each in baselines)
        return one, other

    @cached_property
    def bound(self) -> float | None:
        """Wiener bound, m; None where the gentle surfaces are missing."""
        transfer = transfer_of(self.configuration)
        return None if transfer is None else truths.bound_of(self.truth, self.tally, transfer, CROP)


@lru_cache(maxsize=8)
def transfer_of(configuration: str) -> Transfer | None:
    """Return the transfer functions that Monte Carlo measured; None where its frames are missing."""
    parts = [truth for name, truth in truths.exposures().items() if name.startswith(f"{configuration}-transfer")]
    return truths.transfer_of(configuration) if all(truths.is_there(each) for each in parts) else None


@dataclass
class Bench:
    """The table as it grows, and the frames so far."""

    quick: bool = False
    compute: bool = False
    full_size: bool = False
    rows: list[Row] = field(default_factory=list)
    data: dict[str, Any] = field(default_factory=dict)
    cases: dict[str, Case | None] = field(default_factory=dict)

    def head(self, words: str) -> None:
        print(f"\n{words}", flush=True)

    def row(self, figure: str, goal: str, reached: str, ok: bool | None = None) -> None:
        self.rows.append(Row(figure, goal, reached, ok))
        mark = {True: "ok", False: "NOT REACHED", None: ""}[ok]
        print(f"  {figure:50s} {goal:12s} {reached}  {mark}".rstrip(), flush=True)

    def case(self, name: str) -> Case | None:
        """Return a frame; None, said once, where it is not there."""
        if name not in self.cases:
            self.cases[name] = self._open(name)
        return self.cases[name]

    def several(self, names: Sequence[str]) -> list[Case]:
        """Return those that are there; in a quick run, few."""
        wanted = [name for name in names if not self.quick or name in QUICK]
        return [each for each in map(self.case, wanted) if each is not None]

    def _open(self, name: str) -> Case | None:
        truth = truths.exposures().get(name)
        if truth is None:
            print(f"  {name}: skipped, RILIEVO_SAMPLES names no folder with its surface")
            return None
        if not truths.is_there(truth):
            if not self.compute:
                print(f"  {name}: skipped, not computed on this machine (truths.py --only {name})")
                return None
            truths.compute([truth])
        tally = truths.tally_of(truth)
        return Case(truth, tally, truths.frame_of(truth.exposure, tally))


def span(values: Sequence[float], form: str = ".2f") -> str:
    """Return the median and the worst of some ratios, in words."""
    return f"median {np.median(values):{form}}, worst {max(values):{form}} of {len(values)}"


def timed(work: Callable[[], object], repeats: int) -> tuple[float, float]:
    """Return the median and the shortest time of a call, s, after one to warm up."""
    work()
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return float(np.median(times)), min(times)
