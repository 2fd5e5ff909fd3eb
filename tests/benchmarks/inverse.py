"""The inverse against its goals: heights, their intervals, nuisances, time and memory, each figure beside its goal.

RILIEVO_SAMPLES=DIR python tests/benchmarks/inverse.py [--quick] [--rows NAME …] [--pictures] [--json FILE]
                                                       [--computing-missing]

Truth is Monte Carlo that counts electrons in the real segments (:mod:`truths`), of surfaces that no training has seen.
A frame that is not in the truth cache is told and left out; ``--computing-missing`` computes it, which takes hours.

Error: :func:`reconstruction.bounds.height_error` (plane removed, 4 pixels cropped). Bound: the Wiener bound of the
frame's dose, with the surface's own radial spectrum and transfer functions that Monte Carlo measured. The local law is
given the truth twice over: its heights, by Frankot–Chellappa and by the cosine transform, are scaled to fit it best,
and the better of the two counts.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import truths
from numpy.typing import NDArray
from reliefs import Step
from scipy import fft, ndimage
from truths import Truth

from drivers.errors import InputError
from drivers.frame import Frame
from drivers.units import KEV
from reconstruction import inverse, photometric
from reconstruction.bounds import (
    HeightError,
    best_scaled,
    frankot_chellappa,
    height_error,
    posterior_spectrum,
    radial_spectrum,
)
from reconstruction.measured_transfer import Transfer
from reconstruction.metrology import plane, without_plane
from reconstruction.photometric import Quality, Reconstruction
from simulators.scanning import SegmentTally
from simulators.truth import TruthCache

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


# -- the table


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


# -- the surrogate against Monte Carlo


def predicted(case: Case, local: bool = False) -> Floats:
    """Return what the surrogate says of the true surface, keV per beam electron; ``local``: the local law alone."""
    import torch

    forward = inverse.prepare(case.frame, "Cu").forward
    z = torch.from_numpy(case.truth.z / case.pixel).float()
    with torch.no_grad():
        none = torch.zeros_like(z)
        emitted = forward.model.local(z[None], none[None], forward.condition)[0] if local else forward.emission(z, none)
        signal = forward.collect(emitted, forward.responses().float(), (0, 0), case.truth.relief.height.shape)
    return signal.double().numpy() * case.truth.exposure.beam.energy / KEV


@dataclass
class Misfit:
    """Mean squares over segments and pixels, (keV/electron)², the counting noise taken away.

    ``error`` and ``topography`` hold all waves, ``error_seen`` those alone of which the surrogate expects more than the
    noise; ``doubt`` and ``doubt_seen`` are the standard errors that the noise leaves.
    """

    error: float
    doubt: float
    error_seen: float
    doubt_seen: float
    topography: float
    share_seen: float
    noise: float

    def told(self, seen: bool) -> str:
        square, doubt = (self.error_seen, self.doubt_seen) if seen else (self.error, self.doubt)
        upper = math.sqrt(max(square + 2 * doubt, 0.0) / self.topography)
        return f"{math.sqrt(max(square, 0.0) / self.topography):6.1%} (< {upper:.1%})"


def misfit(case: Case, expected: Floats, reference: Floats) -> Misfit:
    """Return how far expected signals (S, H, W) are from the frame's; ``reference`` says which waves stand out."""
    rings = radial_spectrum(case.truth.z, case.pixel)
    shape = case.truth.relief.height.shape
    index = np.rint(np.hypot(*np.meshgrid(*(np.arange(n) * max(shape) / n for n in shape), indexing="ij"))).astype(int)
    index = np.minimum(index, len(rings.modes) - 1).ravel()

    def power(fields: Floats) -> Floats:
        """Mean over the segments in each mode, the mean left out."""
        modes = [fft.dctn(each - each.mean(), norm="ortho").ravel() ** 2 for each in fields]
        return np.asarray(np.mean(modes, axis=0))

    noise = float(truths.noise_variance(case.tally).mean())
    signal, count = case.tally.signal, len(case.tally.signal)
    left, seen, sure = power(expected - signal), power(signal), power(reference)
    ring = np.bincount(index, sure) / np.maximum(np.bincount(index), 1)
    stands = (ring > noise)[index]
    pixels = left.size

    def excess(values: Floats, which: Any) -> float:
        return float(np.sum(values[which] - noise)) / pixels

    every = np.arange(1, pixels)
    chosen = np.flatnonzero(stands[1:]) + 1
    topography = excess(seen, every)
    return Misfit(
        error=excess(left, every),
        doubt=noise * math.sqrt(2 / (count * pixels)),
        error_seen=excess(left, chosen),
        doubt_seen=noise * math.sqrt(2 * len(chosen) / count) / pixels,
        topography=topography,
        share_seen=excess(seen, chosen) / topography,
        noise=noise,
    )


def surrogate(bench: Bench) -> None:
    """Model error on surfaces that no training has seen, and the speed."""
    bench.head("surrogate against Monte Carlo: model error over the topographic signal's rms, counting noise removed")
    print("    (in brackets: two standard errors above; judged: waves of which more than the noise is expected)")
    names = (*NEAR, *FAR, *FACETS[:3], "A-islets60", DOSE)
    cases = bench.several(names)
    pooled: dict[str, list[tuple[Misfit, Misfit]]] = {}
    for case in cases:
        ours = predicted(case)
        both = misfit(case, ours, ours), misfit(case, predicted(case, local=True), ours)
        bench.data.setdefault("surrogate", {})[case.truth.name] = [asdict(each) for each in both]
        level = float(ours.mean() / case.tally.signal.mean()) - 1
        print(
            f"    {case.truth.name:16s} {both[0].told(True)}, all waves {both[0].told(False)}; local law "
            f"{both[1].told(True)}; {both[0].share_seen:.0%} of the signal's power; mean level {level:+.1%}"
        )
        pooled.setdefault(case.configuration, []).append(both)
    for configuration, several in sorted(pooled.items()):
        energy, pixel = truths.CONFIGURATIONS[configuration]
        share, local = (
            math.sqrt(max(sum(each[n].error_seen for each in several), 0.0) / sum(e[n].topography for e in several))
            for n in (0, 1)
        )
        bench.row(
            f"model error at {energy:g} keV, {pixel / NM:.0f} nm, {len(several)} frames", "≤ 5 %",
            f"{share:.1%} (local law {local:.1%})", share <= 0.05,
        )  # fmt: skip
    if cases:
        _speed(bench, cases[0], pooled[cases[0].configuration][0][0])


def _speed(bench: Bench, case: Case, error: Misfit) -> None:
    """Compare with a Monte Carlo frame whose counting noise is as large as the surrogate's error."""
    import torch

    forward = inverse.prepare(case.frame, "Cu").forward
    z = torch.from_numpy(case.truth.z / case.pixel).float()
    responses, shape = forward.responses().float(), case.truth.relief.height.shape

    def image() -> None:
        with torch.no_grad():
            forward.collect(forward.emission(z, torch.zeros_like(z)), responses, (0, 0), shape)

    ours = timed(image, 5)[0]
    run, few = case.truth.exposure.start(), 20
    run.advance(2)
    began = time.perf_counter()
    run.advance(few)
    each = (time.perf_counter() - began) / few
    # No precision is claimed that the noise of the truth does not let through.
    reached = max(error.error_seen, 2 * error.doubt_seen)
    electrons = case.tally.electrons * error.noise / reached
    bench.row(
        "surrogate faster than Monte Carlo of its precision", "≥ 10,000 ×",
        f"{each * electrons / ours:,.0f} × ({1e3 * ours:.0f} ms; {electrons:,.0f} electrons a pixel make the noise as "
        f"small as its error: {each * electrons / 3600:.1f} h at {each * 1e3:.0f} ms each)",
        each * electrons / ours >= 10_000,
    )  # fmt: skip


def timed(work: Callable[[], object], repeats: int) -> tuple[float, float]:
    """Return the median and the shortest time of a call, s, after one to warm up."""
    work()
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return float(np.median(times)), min(times)


# -- heights


def heights(bench: Bench) -> None:
    """Error over the Wiener bound and over the local law, frame by frame."""
    bench.head("height error, nm rms: full | fast; over the bound | over the best-scaled local law (FC, DCT), unscaled")
    groups: tuple[tuple[str, Sequence[str], tuple[float, float] | None], ...] = (
        ("R/px 3–10, 5 and 7 keV", NEAR, (1.15, 0.4)),
        ("R/px 10–30, 10 and 15 keV", FAR, (1.25, 0.5)),
        ("5 keV, second elastic law", LAW, (1.15, 0.4)),
        ("other relief, walls or matter: not judged", BESIDE, None),
    )
    for words, names, goals in groups:
        cases = bench.several(names)
        for case in cases:
            _height_line(bench, case)
        if goals is None or not cases:
            continue
        for quality in ("full", "fast"):
            judged = quality == "full"
            over = [case.error(quality).rms / case.bound for case in cases if case.bound is not None]
            local = [case.error(quality).rms / min(each.rms for each in case.scaled) for case in cases]
            floor = [case.bound / min(each.rms for each in case.scaled) for case in cases if case.bound is not None]
            if floor and judged:
                print(f"    the bound itself over the best-scaled local law: {min(floor):.2f} to {max(floor):.2f}")
            for name, ratios, goal in (("Wiener bound", over, goals[0]), ("best-scaled local law", local, goals[1])):
                if ratios:
                    within = f"; within in {sum(each <= goal for each in ratios)}"
                    ok = max(ratios) <= goal if judged else None
                    bench.row(f"{words}, {quality}: × {name}", f"≤ {goal}", span(ratios) + within, ok)


def _height_line(bench: Bench, case: Case) -> None:
    full, fast, plain = (case.error(quality) for quality in ("full", "fast", "preview"))
    fc, dct = case.scaled
    bound = case.bound
    level, factor = best_scaled(case.heights("full").z, case.truth.z, CROP)
    best = height_error(level, case.truth.z, CROP).rms
    bench.data.setdefault("heights", {})[case.truth.name] = {
        "full": full.rms, "fast": fast.rms, "bound": bound, "range": full.range, "local law": plain.rms,
        "best-scaled FC": fc.rms, "best-scaled DCT": dct.rms, "scale": 1 / factor, "best-scaled full": best,
        "misfit": case.heights("full").figures["misfit"].value,
    }  # fmt: skip
    times = "no bound" if bound is None else f"{full.rms / bound:.2f} | {fast.rms / bound:.2f} × {bound / NM:.2f} nm"
    print(
        f"    {case.truth.name:14s} {full.rms / NM:5.2f} ({full.share:.1%}) | {fast.rms / NM:5.2f};  {times};  "
        f"{full.rms / min(fc.rms, dct.rms):.2f} | {fast.rms / min(fc.rms, dct.rms):.2f} × "
        f"({fc.rms / NM:.2f}, {dct.rms / NM:.2f}), {plain.rms / NM:.2f} nm; full is {1 / factor - 1:+.1%} high, "
        f"{best / NM:.2f} nm without that",
        flush=True,
    )


def oxide(bench: Bench) -> None:
    """Islands of Cu2O on copper against the same islands of copper."""
    bench.head("Cu2O islands on Cu: what the material's contrast does to the heights")
    layered, pure = bench.case("A-oxide"), bench.case("A-islands")
    if layered is None or pure is None:
        return
    inside = np.s_[CROP:-CROP, CROP:-CROP]
    z, rows = pure.truth.z[inside], np.indices(pure.truth.z[inside].shape)
    terms = np.column_stack([np.ones(z.size), *rows.reshape(2, -1), (z > 0).ravel(), z.ravel() / NM])
    truth = pure.heights("full")

    def moved(result: Reconstruction) -> float:
        """Share of the range: rms of what the oxide's place and thickness explain of the change, plane removed."""
        change = without_plane((result.z - truth.z)[inside])
        fit = terms @ np.linalg.lstsq(terms, change.ravel(), rcond=None)[0]
        return float(np.sqrt(np.mean(without_plane(fit.reshape(z.shape)) ** 2)) / np.ptp(z))

    for words, matter in (("oxide sought", inverse.LAYERED), ("oxide not sought", "Cu")):
        result = inverse.reconstruct(layered.frame, quality="full", material=matter)
        error, before = height_error(result.z, pure.truth.z, CROP), pure.error("full")
        grown = math.sqrt(max(error.rms**2 - before.rms**2, 0.0)) / error.range
        sought = matter == inverse.LAYERED
        bench.row(
            f"heights moved by the contrast, {words}", "≤ 1 %" if sought else "",
            f"{moved(result):.2%} of the range; error {error.rms / NM:.2f} nm (copper {before.rms / NM:.2f}), "
            f"grown by {grown:.2%} of the range in squares",
            moved(result) <= 0.01 if sought else None,
        )  # fmt: skip
        if result.oxide is not None:
            on, off = (float(result.oxide[pure.truth.z > 0].mean()), float(result.oxide[pure.truth.z <= 0].mean()))
            bench.row("share of oxide found: islands, ground", "1, 0", f"{on:.2f}, {off:.2f}")


# -- dose


def thinned(tally: SegmentTally, electrons: int, rng: np.random.Generator) -> SegmentTally:
    """Return what a part of the electrons would have given, drawn without putting back.

    Of n' of n electrons a hypergeometric number is among the counted; their mean weight has the variance of a sample
    from a finite set. No electron's own weight is kept, so that a weight is drawn as a Gaussian's.
    """
    counts = rng.hypergeometric(tally.counts, tally.electrons - tally.counts, electrons)
    safe = np.maximum(tally.counts, 1)
    mean = tally.signals / safe
    spread = np.maximum(tally.squares / safe - mean**2, 0.0)
    left = np.sqrt(spread * counts * np.maximum(1 - counts / safe, 0.0))
    signals = np.maximum(counts * mean + left * rng.normal(size=mean.shape), 0.0)
    share = electrons / tally.electrons
    whole = np.rint(tally.backscattered * share).astype(np.int64)
    return SegmentTally(
        electrons, counts, signals, tally.squares * counts / safe, whole, electrons - whole, tally.energy * share
    )


def richest(bench: Bench) -> Case | None:
    """Return the islands at 5 keV with the most electrons there are, an unfinished frame among them."""
    whole = bench.case(DOSE)
    if whole is not None:
        return whole
    truth, few = truths.exposures()[DOSE], bench.case("A-islands")
    part = TruthCache().path(truth.exposure).with_suffix(".part.npz")
    if part.exists():
        with np.load(part, allow_pickle=False) as file:
            run = truth.exposure.start()
            run.restore({name: file[name] for name in file.files if name not in ("format", "physics")})
        if few is None or run.electrons > few.tally.electrons:
            tally = run.result()
            return Case(truth, tally, truths.frame_of(truth.exposure, tally))
    return few


def dose(bench: Bench) -> None:
    """The error at a realistic dose, and against the dose, with the bound."""
    bench.head("dose: islands at 5 keV, 100 nm high")
    case = richest(bench)
    if case is None:
        return
    most = case.tally.electrons
    error = case.error("full")
    ok = bool(error.rms <= 1e-9) if most >= 60_000 else None
    lacking = "" if ok is not None else f" AT {most:,} ELECTRONS: 60,000 are not computed on this machine"
    bench.row("error at 60,000 electrons a pixel", "≤ 1 nm", f"{_dose_words(case)}{lacking}", ok)
    ladder = [number for number in (100, 300, 1000, 2000, 6000, 20_000) if number < most]
    found = []
    for number in ladder[1::2] if bench.quick else ladder:
        tally = thinned(case.tally, number, np.random.default_rng([1905, number]))
        fewer = Case(case.truth, tally, truths.frame_of(case.truth.exposure, tally))
        print(f"    {number:6,} electrons a pixel: {_dose_words(fewer)}", flush=True)
        found.append(fewer)
    bench.data["dose"] = [
        {
            "electrons": each.tally.electrons, "full": each.error("full").rms, "fast": each.error("fast").rms,
            "local law": min(one.rms for one in each.scaled), "bound": each.bound,
        }
        for each in (*found, case)
    ]  # fmt: skip


def _dose_words(case: Case) -> str:
    full, fast = case.error("full"), case.error("fast")
    bound = "" if case.bound is None else f", bound {case.bound / NM:.2f}"
    error, sigma = case.error_map()
    covered = np.mean(np.abs(error) <= NORMAL * sigma)
    return (
        f"{full.rms / NM:.2f} nm (fast {fast.rms / NM:.2f}{bound}, best-scaled local law "
        f"{min(each.rms for each in case.scaled) / NM:.2f}), 95 % cover {covered:.1%}"
    )


# -- steps and facets


def step_estimator(steps: Sequence[Step], margin: int = 3, width: int = 12) -> Floats:
    """Return the (steps, H, W) weights that read step heights off a map.

    The mean of a strip on the upper terrace less that of one on the lower, ``margin`` pixels from the terrace's edge
    and ``width`` wide. The map is levelled as its error is: the weights hold no plane.
    """
    shape = steps[0].lower.shape
    frame = np.zeros(shape, dtype=np.bool_)
    frame[CROP:-CROP, CROP:-CROP] = True
    weights = np.zeros((len(steps), *shape))
    for index, step in enumerate(steps):
        for sign, own, other in ((1, step.upper, step.lower), (-1, step.lower, step.upper)):
            # What lies beyond the field is no edge.
            kept = ndimage.binary_erosion(own, np.ones((3, 3), dtype=np.bool_), margin, border_value=1) & frame
            away = ndimage.distance_transform_edt(~other)
            kept &= away <= away[kept].min() + width
            weights[index] += sign * kept / kept.sum()
        inside = weights[index, CROP:-CROP, CROP:-CROP]
        inside -= plane(inside)
    return weights


def read_step(case: Case, step: Step, weights: Floats) -> float:
    """Return a step's height, m: what the weights read off the error comes on top of the truth."""
    return step.height + float(np.sum(weights * (case.heights("full").z - case.truth.z)))


def noise_of(case: Case, weights: Floats) -> float | None:
    """Return the standard deviation of a weighted sum of heights that the dose leaves to a best linear estimate, m."""
    transfer = transfer_of(case.configuration)
    if transfer is None:
        return None
    shape = case.truth.relief.height.shape
    spectrum = radial_spectrum(case.truth.z, case.pixel)
    left = posterior_spectrum(transfer, truths.noise_variance(case.tally), spectrum, shape, case.pixel)
    return float(np.sqrt(np.sum(fft.dctn(weights, norm="ortho") ** 2 * left)))


def steps(bench: Bench) -> None:
    """Heights of steps, those with flat terraces beside them, and of bunches finer than the resolution."""
    bench.head("step heights: strips of 12 px, 3 px from the terrace's edge; in brackets what the dose alone leaves")
    worst, sure = [], []
    for name in ("A-terraces", "D-terraces"):
        case = bench.case(name)
        if case is None:
            continue
        known = case.truth.relief.steps
        for step, weights in zip(known, step_estimator(known), strict=True):
            found, noise = read_step(case, step, weights), noise_of(case, weights)
            worst.append(found / step.height - 1)
            sure.append((noise or 0.0) / step.height)
            print(f"    {_step_words(case, step, found, noise)}")
    if worst:
        beyond = sum(abs(each) > 0.02 and abs(each) <= NORMAL * noise for each, noise in zip(worst, sure, strict=True))
        within = sum(abs(each) <= 0.02 for each in worst)
        trust = 1 / np.maximum(sure, 1e-4) ** 2
        bias, doubt = float(trust @ worst / trust.sum()), 1 / math.sqrt(trust.sum())
        bench.row(
            "step height, resolved", "± 2 %",
            f"worst {max(worst, key=abs):+.1%}; {within} of {len(worst)} within, {beyond} more within the dose's noise",
            within == len(worst),
        )  # fmt: skip
        bench.row("    mean of all steps, weighted by the dose's noise", "± 2 %", f"{bias:+.1%} ± {doubt:.1%}",
                  abs(bias) <= 0.02)  # fmt: skip
    bunched = None if bench.quick else bench.case("A-bunches")
    if bunched is not None:
        _bunches(bench, bunched)


def _step_words(case: Case, step: Step, found: float, noise: float | None) -> str:
    doubt = "" if noise is None else f" (± {noise / step.height:.1%})"
    off = f"{found / step.height - 1:+.1%}"
    return f"{case.truth.name:12s} {step.height / NM:5.1f} nm: found {found / NM:6.2f} nm, {off}{doubt}"


def _bunches(bench: Bench, case: Case) -> None:
    known = case.truth.relief.steps
    resolution = case.heights("full").figures["resolution"].value * NM
    told = []
    for step, weights in zip(known, step_estimator(known), strict=True):
        found, noise = read_step(case, step, weights), noise_of(case, weights)
        apart = step.spacing * case.pixel
        # The resolution is half of the shortest wavelength that is told; a bunch's is its spacing.
        told.append(2 * resolution > apart)
        print(
            f"    {_step_words(case, step, found, noise)}; {step.count} steps {apart / NM:.0f} nm apart, "
            f"{'said to be unresolved' if told[-1] else 'NOT SAID TO BE UNRESOLVED'}"
        )
    bench.row(
        "unresolved steps flagged by the resolution", "all",
        f"{sum(told)} of {len(told)}; the shortest wavelength told is {2 * resolution / NM:.0f} nm", all(told),
    )  # fmt: skip


def facets(bench: Bench) -> None:
    """Slopes of flat faces at least 8 px wide."""
    bench.head("facets: planes through the heights of faces ≥ 8 px wide, 1 px from their edges, 5 keV")
    found: list[tuple[float, float, float]] = []
    for case in bench.several(FACETS):
        z = case.heights("full").z
        inside = np.s_[CROP:-CROP, CROP:-CROP]
        # The field's own tilt is not told by one frame.
        tilt = plane((z - case.truth.z)[inside])
        levelled = z - np.pad(tilt, CROP, mode="reflect", reflect_type="odd")
        for face in case.truth.relief.facets:
            wide = ndimage.distance_transform_edt(np.pad(face.region, 1)).max() >= 4
            if not wide or not 10 - 1e-6 <= face.slope <= 45 + 1e-6:
                continue
            rows, columns = np.nonzero(face.inside(1))
            terms = np.column_stack([np.ones(rows.size), columns, -rows]) * case.pixel
            _, p, q = np.linalg.lstsq(terms, levelled[rows, columns], rcond=None)[0]
            apart = math.acos(
                min((1 + p * face.p + q * face.q) / math.sqrt((1 + p**2 + q**2) * (1 + face.p**2 + face.q**2)), 1.0)
            )
            found.append((face.slope, math.degrees(math.atan(math.hypot(p, q))) - face.slope, math.degrees(apart)))
    if not found:
        return
    slope, off, apart = np.array(found).T
    for low, high in ((10, 20), (20, 30), (30, 46)):
        here = (slope >= low) & (slope < high)
        if here.any():
            print(
                f"    {low} to {min(high, 45)}°: {here.sum():2d} faces, bias {off[here].mean():+.2f}° ± "
                f"{off[here].std() / math.sqrt(here.sum()):.2f}°, worst {off[here][np.abs(off[here]).argmax()]:+.2f}°"
            )
    p95 = float(np.quantile(np.abs(off), 0.95))
    bias = float(off.mean())
    bench.data["facets"] = found
    bench.row(f"bias of the slope, {len(found)} faces", "≤ 1°", f"{bias:+.2f}°", abs(bias) <= 1)
    bench.row("error of the slope, 95th percentile over faces", "≤ 2°", f"{p95:.2f}°", p95 <= 2)
    bench.row("    angle between normals, 95th percentile", "", f"{np.quantile(apart, 0.95):.2f}°")


# -- intervals


def intervals(bench: Bench) -> None:
    """Coverage of 95 % intervals, and the error against σ over deciles of σ."""
    bench.head("intervals: share of pixels whose error is within 1.96 σ; in brackets rms error over rms σ")
    pairs: list[tuple[Floats, Floats]] = []
    for words, names in (
        ("R/px 3–10", NEAR),
        ("R/px 10–30", FAR),
        ("second elastic law", LAW),
        ("60,000 electrons", (DOSE,)),
        ("facets", FACETS[:3]),
        ("steps", ("A-terraces", "A-bunches", "D-terraces")),
        ("60° walls", ("A-islets60",)),
    ):
        cases = bench.several(names)
        if not cases:
            continue
        maps = [case.error_map() for case in cases]
        for case, (error, sigma) in zip(cases, maps, strict=True):
            share = float(np.mean(np.abs(error) <= NORMAL * sigma))
            bench.data.setdefault("coverage", {})[case.truth.name] = share
            print(f"    {case.truth.name:16s} {share:.1%} ({_ratio(error, sigma):.2f})")
        error, sigma = (np.concatenate([np.ravel(each[n]) for each in maps]) for n in (0, 1))
        covered = float(np.mean(np.abs(error) <= NORMAL * sigma))
        judged = words != "60° walls"
        bench.row(
            f"95 % intervals, {words}", "93–97 %" if judged else "", f"{covered:.1%} ({_ratio(error, sigma):.2f})",
            0.93 <= covered <= 0.97 if judged else None,
        )  # fmt: skip
        if words.startswith("R/px"):
            pairs += maps
    if pairs:
        spread, found, slope = deciles(pairs)
        bench.data["deciles"] = {"sigma": spread.tolist(), "error": found.tolist(), "slope": slope}
        straight = float(spread @ found / (spread @ spread))
        bench.row(
            "rms error against σ over deciles of σ, slope", "0.9–1.1",
            f"{slope:.2f} (through the origin {straight:.2f})", 0.9 <= slope <= 1.1,
        )  # fmt: skip


def _ratio(error: Floats, sigma: Floats) -> float:
    return float(np.sqrt(np.mean(error**2) / np.mean(sigma**2)))


def deciles(pairs: Sequence[tuple[Floats, Floats]]) -> tuple[Floats, Floats, float]:
    """Return rms σ and rms error in each decile of σ, m, and the slope of the line through them."""
    error, sigma = (np.concatenate([np.ravel(each[n]) for each in pairs]) for n in (0, 1))
    parts = np.array_split(np.argsort(sigma), 10)
    spread, found = (np.sqrt([np.mean(each[part] ** 2) for part in parts]) for each in (sigma, error))
    return spread, found, float(np.polyfit(spread, found, 1)[0])


# -- nuisances


@dataclass
class Wrong:
    """A frame whose metadata are not true, and what would set them right."""

    name: str
    frame: Frame
    gains: Floats
    offsets: Floats
    shift: tuple[float, float]
    rotation: float


def wrong_frames(frame: Frame, which: int = 1) -> list[Wrong]:
    """Return the islands' frame with metadata that are off by the goals' amounts."""
    count = len(frame.channels)
    level = float(frame.counts[which].mean()) - float(frame.channels[which].offset or 0.0)

    def make(name: str, gain: float, offset: float, shift: tuple[float, float], turn: float) -> Wrong:
        channel = frame.channels[which]
        told = replace(
            channel, gain=(channel.gain or 1.0) * (1 + gain), offset=(channel.offset or 0.0) + offset * level
        )
        channels = tuple(told if index == which else each for index, each in enumerate(frame.channels))
        x, y = frame.geometry.centre_offset
        geometry = replace(
            frame.geometry,
            centre_offset=(x - shift[0], y - shift[1]),
            rotation=frame.geometry.rotation - math.radians(turn),
        )
        one = np.arange(count) == which
        gains = np.where(one, 1 / (1 + gain), 1.0)
        return Wrong(name, replace(frame, geometry=geometry, channels=channels), gains, np.where(one, -offset, 0.0),
                     shift, math.radians(turn))  # fmt: skip

    return [
        make("nothing wrong", 0.0, 0.0, (0.0, 0.0), 0.0),
        make("gain of one segment 5 %", 0.05, 0.0, (0.0, 0.0), 0.0),
        make("offset of one segment 1 %", 0.0, 0.01, (0.0, 0.0), 0.0),
        make("detector shifted by 0.3 mm", 0.0, 0.0, (0.3e-3, 0.0), 0.0),
        make("detector turned by 2°", 0.0, 0.0, (0.0, 0.0), 2.0),
        make("all of them", 0.05, 0.01, (0.3e-3, 0.0), 2.0),
    ]


def nuisances(bench: Bench) -> None:
    """Errors of the hardware's figures: what they do to the heights, and whether they are found."""
    bench.head("nuisances: islands at 5 keV; what the metadata have wrong, and what the frame tells")
    case = bench.case("A-islands")
    if case is None:
        return
    before, grown, covers = 0.0, [], []
    for wrong in wrong_frames(case.frame):
        result = inverse.reconstruct(wrong.frame, quality="full")
        error = height_error(result.z, case.truth.z, CROP).rms
        before = before or error
        single, together, words = _recovered(wrong, result)
        covers.append((single, together))
        grown.append(error / before - 1)
        print(f"    {wrong.name:28s} {error / NM:.2f} nm ({grown[-1]:+.1%}); {words}", flush=True)
        bench.data.setdefault("nuisances", {})[wrong.name] = {"error": error, "grown": grown[-1], "words": words}
    bench.row("height error grows by", "≤ 20 %", f"worst {max(grown[1:]):+.1%}", max(grown[1:]) <= 0.2)
    for name, place in (
        ("gains, offsets, shift, turn within their 95 %", 0),
        ("the slope that stands for all, within", 1),
    ):
        hits = np.concatenate([each[place] for each in covers])
        bench.row(name, "95 %", f"{hits.sum()} of {hits.size}", bool(hits.mean() >= 0.9))


def _recovered(wrong: Wrong, result: Reconstruction) -> tuple[NDArray[np.bool_], NDArray[np.bool_], str]:
    """Return which numbers, and which of the slopes that stand for all, are within their intervals; and some words."""
    assert result.nuisances is not None
    found, doubt = result.nuisances.nuisances, result.nuisances.errors
    # One common factor of all gains is the beam's.
    gains = found.gains.double().numpy()
    levels = inverse.prepare(result.frame, "Cu").observed.signals.mean(dim=(1, 2)).double().numpy()
    pairs = [
        (gains / gains.mean(), wrong.gains / wrong.gains.mean(), doubt.gains.double().numpy()),
        (found.offsets.double().numpy() / levels, wrong.offsets, doubt.offsets.double().numpy() / levels),
        (found.shift.double().numpy(), np.array(wrong.shift), doubt.shift.double().numpy()),
        (found.rotation.double().numpy(), np.array(wrong.rotation), doubt.rotation.double().numpy()),
    ]
    hits = [np.atleast_1d(np.abs(a - b) <= NORMAL * c) for a, b, c in pairs]
    slope, error = result.nuisances.combination.double().numpy(), result.nuisances.combination_error.double().numpy()
    wanted = combination(wrong, result.frame)
    together = np.abs(slope - wanted) <= NORMAL * error
    turn = math.degrees(float(found.rotation)), math.degrees(NORMAL * float(doubt.rotation))
    words = (
        f"gain {pairs[0][0][1]:.3f} ± {NORMAL * pairs[0][2][1]:.3f} (true {pairs[0][1][1]:.3f}), shift "
        f"{found.shift[0] * 1e3:+.2f} ± {NORMAL * doubt.shift[0] * 1e3:.2f} mm ({wrong.shift[0] * 1e3:+.1f}), turn "
        f"{turn[0]:+.1f} ± {turn[1]:.1f}° ({math.degrees(wrong.rotation):+.0f}); together like a slope of "
        f"{slope[0]:+.4f} ± {NORMAL * error[0]:.4f} ({wanted[0]:+.4f}), {slope[1]:+.4f} ± {NORMAL * error[1]:.4f} "
        f"({wanted[1]:+.4f})"
    )
    return np.concatenate(hits), together, words


def combination(wrong: Wrong, frame: Frame) -> Floats:
    """Return the slope in x and y that would look like what is wrong: from a flat surface's signals, to first order."""
    import torch

    from reconstruction.fidelity import Nuisances

    prepared = inverse.prepare(frame, "Cu")
    forward, observed = prepared.forward, prepared.observed
    none = torch.zeros(1, 8, 8)
    flat = forward.model.local(none, none, forward.condition)[0, :, 4, 4].double()
    count = len(forward.live)
    right = replace(
        Nuisances.none(count),
        shift=torch.tensor(wrong.shift, dtype=torch.float64),
        rotation=torch.tensor(wrong.rotation, dtype=torch.float64),
    )
    plain, true = (forward.responses(each)[0].double() @ flat for each in (Nuisances.none(count), right))
    change = (torch.from_numpy(wrong.gains) * true + torch.from_numpy(wrong.offsets) * plain - plain).numpy()
    slopes = (forward.responses()[0].double() @ forward.tilt_emission().double()).numpy()
    weight = 1 / observed.mean_variances().double().numpy()
    normal = slopes.T @ (weight[:, None] * slopes)
    return np.asarray(np.linalg.solve(normal, slopes.T @ (weight * change)))


# -- the real indent


def vickers(bench: Bench) -> None:
    """A real imprint: the local law with declared assumptions, and the transformer's refusal."""
    bench.head("Vickers, real: local law, no filter, no scale fitted")
    folder = os.environ.get("RILIEVO_SAMPLES")
    if folder is None:
        print("  skipped: RILIEVO_SAMPLES names no folder with vickers_bse_{A,B,C}.tif")
        return
    from vickers import EDGES, measure

    from reconstruction.files import reconstruct_files

    plain = reconstruct_files([Path(folder) / f"vickers_bse_{letter}.tif" for letter in "ABC"])

    def indent(result: Reconstruction) -> Any:
        return measure(np.asarray(result.z, dtype=np.float64) / result.heights.pixel_size)

    found = indent(plain)
    away = (found.azimuths - EDGES + 180) % 360 - 180
    bench.row("azimuths against the imprint's edges, worst", "≤ 3°", f"{np.abs(away).max():.1f}° ({np.round(away, 1)})",
              bool(np.abs(away).max() <= 3))  # fmt: skip
    spread = float(np.ptp(found.slopes))
    bench.row("slope spread at a mean of 22°", "≤ 1°", f"{spread:.2f}° ({np.round(found.slopes, 1)})", spread <= 1)
    bench.row("face angle, no scale fitted", "(22°)", f"{found.unscaled:.1f}°")
    told = {}
    for name, frame, matter in assumptions_of(plain):
        told[name] = indent(photometric.reconstruct(frame, material=matter, even_field=True)).unscaled
        print(f"    {name:38s} {told[name]:5.1f}° ({told[name] - found.unscaled:+.1f})", flush=True)
    bench.data["vickers"] = {"as assumed": found.unscaled, **told}
    try:
        inverse.reconstruct(plain.frame, quality="full", material="Fe")
    except InputError as error:
        bench.row("the transformer refuses an unknown material", "yes", f"yes: {error.message}", True)
    else:
        bench.row("the transformer refuses an unknown material", "yes", "no", False)


def assumptions_of(plain: Reconstruction) -> list[tuple[str, Frame, str]]:
    """Return the indent's frame with each assumption changed: words, frame, material."""
    frame = plain.frame
    geometry = frame.geometry
    mm = 1e-3

    def radii(inner: float, outer: float) -> Frame:
        moved = tuple(
            replace(each, inner_radius=each.inner_radius + inner, outer_radius=each.outer_radius + outer)
            for each in geometry.segments
        )
        return replace(frame, geometry=replace(geometry, segments=moved))

    def offset(share: float) -> Frame:
        channels = []
        for index, (channel, segment) in enumerate(zip(frame.channels, plain.segments, strict=True)):
            level = float(frame.counts[index].mean()) - segment.offset
            channels.append(replace(channel, offset=segment.offset + share * level))
        return replace(frame, channels=tuple(channels))

    from reconstruction.files import MATERIAL

    return [
        *((f"inner radius {step:+d} mm", radii(step * mm, 0.0), MATERIAL) for step in (-1, 1)),
        *((f"outer radius {step:+d} mm", radii(0.0, step * mm), MATERIAL) for step in (-1, 1)),
        *(
            (f"working distance {step:+d} mm",
             replace(frame, geometry=geometry.at(geometry.working_distance + step * mm)), MATERIAL)
            for step in (-1, 1)
        ),
        *((f"material {name}{' (assumed)' if name == MATERIAL else ''}", frame, name) for name in ("Fe", "W", "Al")),
        *((f"offsets {share:+.0%} of the mean signal", offset(share), MATERIAL) for share in (-0.05, 0.05)),
        *(
            (f"threshold {keV:g} keV", replace(frame, geometry=replace(geometry, threshold=keV * KEV)), MATERIAL)
            for keV in (1.0, 3.0)
        ),
    ]  # fmt: skip


# -- time, memory, size

CHILD = """
import json, resource, sys, time
from dataclasses import replace
from datetime import UTC, datetime
import numpy as np
path, quality, repeats, tile = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
from drivers.frame import BeamSettings, Channel, Frame
from drivers.geometry import annular
with np.load(path, allow_pickle=False) as file:
    counts, told, gains = file["counts"], file["told"], file["gains"]
energy, pixel, current, dwell, inner, outer, distance, threshold, offset, read = map(float, told)
geometry = annular(len(counts), inner, outer, distance, threshold=threshold)
channels = tuple(Channel(n, offset, float(g), read, "ADU/electron") for n, g in zip(geometry.names, gains))
frame = Frame(counts, geometry, BeamSettings(energy, pixel, current, dwell), channels, datetime.now(UTC))
began = time.perf_counter()
from reconstruction.inverse import reconstruct
if tile:
    import reconstruction.solve as solve
    solve.TILE = tile
loaded = time.perf_counter() - began
times = []
for _ in range(repeats):
    began = time.perf_counter()
    result = reconstruct(frame, quality=quality)
    times.append(time.perf_counter() - began)
np.savez(path + ".out.npz", z=result.z, sigma=result.sigma)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
print(json.dumps({"loading": loaded, "times": times, "peak": peak}))
"""


def mosaic(tally: SegmentTally, size: int) -> NDArray[np.float64]:
    """Return Σ w of a field of any size: mirrored frames, which is what Monte Carlo gives on the mirrored surface.

    Seen in a mirror, the segments change places: the detector's are at 0, 90, 180 and 270°.
    """
    whole = tally.signals
    row = np.concatenate([whole, whole[[2, 1, 0, 3]][:, :, ::-1]], axis=2)
    tile = np.concatenate([row, row[[0, 3, 2, 1]][:, ::-1]], axis=1)
    times = -(-size // tile.shape[1])
    return np.tile(tile, (1, times, times))[:, :size, :size]


def write_mosaic(case: Case, size: int, path: Path) -> None:
    """Write a frame of size × size for :data:`CHILD`."""
    frame, exposure = case.frame, case.truth.exposure
    scale = truths.BRIGHTEST / float(case.tally.signals.max())
    noise = np.random.default_rng(7).normal(size=(len(frame.counts), size, size)) * 5.0
    counts = np.clip(np.rint(1000.0 + scale * mosaic(case.tally, size) + noise), 0, 65535).astype(np.uint16)
    segment, beam = exposure.detector.segments[0], frame.beam
    told = [beam.beam_energy, beam.pixel_size, beam.probe_current, beam.dwell_time, segment.inner_radius,
            segment.outer_radius, exposure.detector.working_distance, exposure.detector.threshold, 1000.0,
            5.0]  # fmt: skip
    np.savez(path, counts=counts, told=np.array(told), gains=np.array([each.gain for each in frame.channels]))


def child(path: Path, quality: Quality, repeats: int, tile: int = 0) -> dict[str, Any]:
    """Reconstruct in a process of its own; return its times, its peak memory, and heights and σ."""
    arguments = [sys.executable, "-c", CHILD, str(path), quality, str(repeats), str(tile)]
    said = json.loads(subprocess.run(arguments, check=True, stdout=subprocess.PIPE, text=True).stdout)
    with np.load(f"{path}.out.npz", allow_pickle=False) as file:
        return {**said, "z": file["z"], "sigma": file["sigma"]}


def cost(bench: Bench) -> None:
    """Time and memory at 512² × 4, growth with the area, and seams."""
    cores = len(os.sched_getaffinity(0))
    load = os.getloadavg()[0]
    bench.head(f"time and memory, each in a process of its own, {cores} cores; load before: {load:.1f}")
    if load > 0.5:
        print("    OTHER WORK RUNS ON THIS MACHINE: times are too long")
    case = bench.case("A-islands")
    if case is None:
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "frame.npz"
        side = 256 if bench.quick else 512
        write_mosaic(case, side, path)
        tried: tuple[tuple[Quality, float, int], ...] = (("preview", 0.030, 15), ("fast", 0.5, 3), ("full", 20.0, 0))
        runs: dict[str, dict[str, Any]] = {}
        for quality, goal, repeats in tried:
            run = runs[quality] = child(path, quality, 1 + repeats)
            further = run["times"][1:] or run["times"]
            later, best = float(np.median(further)), min(further)
            shown = f"{1e3 * later:.0f} ms" if later < 1 else f"{later:.1f} s"
            shown += f", best {1e3 * best:.0f} ms" if later < 1 else ""
            first = "" if quality == "full" else f"; first call {run['times'][0]:.2f} s"
            loading = f"; loading the program {run['loading']:.1f} s"
            bench.row(
                f"{quality} at {side}² × 4", f"≤ {goal:g} s",
                f"{shown}{first}{loading}; peak {run['peak'] / 2**30:.2f} GiB", later <= goal,
            )  # fmt: skip
        top = max(each["peak"] for each in runs.values())
        bench.row("peak memory", "≤ 3 GiB", f"{top / 2**30:.2f} GiB", top <= 3 * 2**30)
        bench.data["cost"] = {
            name: {word: run[word] for word in ("loading", "times", "peak")} for name, run in runs.items()
        }
        _growth(bench, case, side, runs, path)
        _seams(bench, runs["full"], side, path)


def _growth(bench: Bench, case: Case, side: int, runs: dict[str, dict[str, Any]], seams: Path) -> None:
    """Seconds a pixel on larger fields, over those of the smallest."""
    sizes = [2 * side, 4 * side] if bench.full_size else [2 * side]
    path = seams.with_name("large.npz")
    for size in sizes:
        write_mosaic(case, size, path)
        qualities: tuple[Quality, ...] = ("fast", "full")
        for quality in qualities:
            run = child(path, quality, 2 if quality == "fast" else 1)
            before = min(runs[quality]["times"]) / side**2
            ratio = min(run["times"]) / size**2 / before
            bench.row(
                f"{quality} at {size}² × 4: time a pixel over that at {side}²", "≤ 1.25",
                f"{ratio:.2f} ({min(run['times']):.1f} s, peak {run['peak'] / 2**30:.2f} GiB)", ratio <= 1.25,
            )  # fmt: skip


def _seams(bench: Bench, whole: dict[str, Any], side: int, path: Path) -> None:
    """The same field in one piece and in four: what the seams do."""
    half = side // 2
    cut = child(path, "full", 1, tile=half)
    apart = without_plane(cut["z"] - whole["z"])
    near = np.abs(np.arange(side) + 0.5 - half) < 8
    at = near[:, None] | near[None, :]
    sigma = float(np.sqrt(np.mean(whole["sigma"] ** 2)))
    seam, elsewhere = (float(np.sqrt(np.mean(apart[where] ** 2))) for where in (at, ~at))
    bench.row(
        f"seams: {side}² in four tiles and in one, over σ", "≤ 0.1",
        f"{seam / sigma:.3f} within 8 px of a seam, {elsewhere / sigma:.3f} elsewhere, worst "
        f"{np.abs(apart).max() / sigma:.2f}", seam <= 0.1 * sigma,
    )  # fmt: skip


# -- all


SECTIONS: dict[str, Callable[[Bench], None]] = {
    "surrogate": surrogate,
    "heights": heights,
    "dose": dose,
    "steps": steps,
    "facets": facets,
    "intervals": intervals,
    "nuisances": nuisances,
    "oxide": oxide,
    "vickers": vickers,
    "cost": cost,
}


def summarise(bench: Bench) -> None:
    """Say what was and was not reached."""
    judged = [row for row in bench.rows if row.ok is not None]
    missed = [row for row in judged if not row.ok]
    print(f"\n{len(judged) - len(missed)} of {len(judged)} goals reached")
    for row in missed:
        print(f"  not reached: {row.figure}: {row.goal}; {row.reached}")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few frames, small fields")
    parser.add_argument("--rows", nargs="+", choices=SECTIONS, metavar="NAME", help=f"of {', '.join(SECTIONS)}")
    parser.add_argument("--pictures", action="store_true", help="draw docs/pictures/inverse*.png as well")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the table and what it rests on")
    parser.add_argument("--computing-missing", action="store_true", help="compute frames that are not there")
    parser.add_argument("--full-size", action="store_true", help="fields up to 2048²")
    told = parser.parse_args()
    bench = Bench(told.quick, told.computing_missing, told.full_size)
    print(f"  {'figure':50s} {'goal':12s} reached")
    for name in told.rows or SECTIONS:
        SECTIONS[name](bench)
    summarise(bench)
    if told.pictures:
        from inverse_pictures import draw

        draw(bench)
    if told.json:
        words = {"rows": [asdict(row) for row in bench.rows], "data": bench.data}
        told.json.write_text(json.dumps(words, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
