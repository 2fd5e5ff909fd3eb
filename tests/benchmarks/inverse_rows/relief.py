"""Height errors frame by frame, over the Wiener bound and over the local law; islands of another material."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from inverse_rows.table import BESIDE, CROP, FAR, LAW, NEAR, NM, NORMAL, Bench, Case, span
from reconstruction import inverse
from reconstruction.bounds import (
    best_scaled,
    height_error,
)
from reconstruction.metrology import without_plane
from reconstruction.photometric import Reconstruction
from reconstruction.statements import LAYERED

SECOND_LAW = "5 keV, second elastic law"


def heights(bench: Bench) -> None:
    """Error over the Wiener bound and over the local law, frame by frame."""
    bench.head("height error, nm rms: full | fast; over the bound | over the best-scaled local law (FC, DCT), unscaled")
    groups: tuple[tuple[str, Sequence[str], tuple[float, float] | None], ...] = (
        ("R/px 3–10, 5 and 7 keV", NEAR, (1.15, 0.4)),
        ("R/px 10–30, 10 and 15 keV", FAR, (1.25, 0.5)),
        (SECOND_LAW, LAW, (1.15, 0.4)),
        ("other relief, walls or matter: not judged", BESIDE, None),
    )
    for words, names, goals in groups:
        cases = bench.several(names)
        for case in cases:
            _height_line(bench, case)
        if goals is None or not cases:
            continue
        if words == SECOND_LAW:
            _common_scale(bench, cases)
        worse = [case.error("fast").rms / case.error("preview").rms for case in cases]
        # Which of two scales is nearer to another law's is chance.
        ok = None if words == SECOND_LAW else max(worse) <= 1
        bench.row(f"{words}, fast: × preview, nothing scaled", "≤ 1", span(worse), ok)
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


def _common_scale(bench: Bench, cases: Sequence[Case]) -> None:
    """What the physics' own scale does, and whether the uncertainty that is told for it holds that."""
    for case in cases:
        result = case.heights("full")
        scaled, factor = best_scaled(result.z, case.truth.z, CROP)
        doubt = result.scale_sigma
        bench.row(
            f"{SECOND_LAW}: one scale for all heights", "in its 95 %",
            f"heights × {1 / factor:.2f}; told: ± {NORMAL * doubt:.0%} (95 %)", abs(math.log(factor)) <= NORMAL * doubt,
        )  # fmt: skip
        if case.bound is not None:
            rest = height_error(scaled, case.truth.z, CROP).rms / case.bound
            bench.row(f"{SECOND_LAW}, without that scale: × Wiener bound", "≤ 1.15", f"{rest:.2f}", rest <= 1.15)


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

    for words, matter in (("oxide sought", LAYERED), ("oxide not sought", "Cu")):
        result = inverse.reconstruct(layered.frame, quality="full", material=matter)
        error, before = height_error(result.z, pure.truth.z, CROP), pure.error("full")
        grown = math.sqrt(max(error.rms**2 - before.rms**2, 0.0)) / error.range
        sought = matter == LAYERED
        bench.row(
            f"heights moved by the contrast, {words}", "≤ 1 %" if sought else "",
            f"{moved(result):.2%} of the range; error {error.rms / NM:.2f} nm (copper {before.rms / NM:.2f}), "
            f"grown by {grown:.2%} of the range in squares",
            moved(result) <= 0.01 if sought else None,
        )  # fmt: skip
        if result.oxide is not None:
            on, off = (float(result.oxide[pure.truth.z > 0].mean()), float(result.oxide[pure.truth.z <= 0].mean()))
            bench.row("share of oxide found: islands, ground", "1, 0", f"{on:.2f}, {off:.2f}")
