"""The height error at a realistic dose, and against the dose."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import truths

from inverse_rows.table import DOSE, NM, NORMAL, Bench, Case
from simulators.scanning import SegmentTally
from simulators.truth import TruthCache

DRAWS = 4
"""Frames of each smaller dose, drawn from the richest."""


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
    ladder = [number for number in (100, 300, 1000, 2000, 6000, 20_000) if number < 0.8 * most]
    rungs = []
    for number in ladder[1::2] if bench.quick else ladder:
        draws = []
        for draw in range(1 if bench.quick else DRAWS):
            tally = thinned(case.tally, number, np.random.default_rng([1905, number, draw]))
            draws.append(Case(case.truth, tally, truths.frame_of(case.truth.exposure, tally)))
        print(f"    {number:6,} electrons a pixel: {_dose_words(*draws)}", flush=True)
        rungs.append(draws)
    bench.data["dose"] = [
        {
            "electrons": draws[0].tally.electrons, **{name: _rms([each.error(name).rms for each in draws])
                                                      for name in ("full", "fast")},
            "local law": _rms([min(one.rms for one in each.scaled) for each in draws]), "bound": draws[0].bound,
        }
        for draws in (*rungs, [case])
    ]  # fmt: skip


def _rms(values: Sequence[float]) -> float:
    return float(np.sqrt(np.mean(np.square(values))))


def _dose_words(*draws: Case) -> str:
    """Return errors and coverage, over several draws of one dose: how well σ does is a matter of chance in one."""
    full, fast = (_rms([each.error(quality).rms for each in draws]) for quality in ("full", "fast"))
    bound = "" if draws[0].bound is None else f", bound {_rms([each.bound or 0.0 for each in draws]) / NM:.2f}"
    maps = [each.error_map() for each in draws]
    covered = np.mean([np.abs(error) <= NORMAL * sigma for error, sigma in maps])
    local = _rms([min(one.rms for one in each.scaled) for each in draws])
    times = "" if len(draws) == 1 else f" in {len(draws)} draws"
    return (
        f"{full / NM:.2f} nm (fast {fast / NM:.2f}{bound}, best-scaled local law {local / NM:.2f}), "
        f"95 % cover {covered:.1%}{times}"
    )
