"""Intervals: how many errors lie within them, and whether errors grow as σ says."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from inverse_rows.table import CROP, DOSE, FACETS, FAR, LAW, NEAR, NORMAL, Bench, Case, Floats
from reconstruction.metrology import without_plane


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
        # By another law than was learned all heights have a common factor, of which the map of σ says nothing.
        judged = words not in ("60° walls", "second elastic law")
        bench.row(
            f"95 % intervals, {words}", "93–97 %" if judged else "", f"{covered:.1%} ({_ratio(error, sigma):.2f})",
            0.93 <= covered <= 0.97 if judged else None,
        )  # fmt: skip
        if words == "second elastic law":
            _with_scale(bench, cases)
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


def _with_scale(bench: Bench, cases: Sequence[Case]) -> None:
    """Intervals of heights themselves, which hold the common scale's uncertainty beside σ."""
    covered = []
    for case in cases:
        result = case.heights("full")
        error, sigma = case.error_map()
        height = without_plane(result.z[CROP:-CROP, CROP:-CROP])
        covered.append(np.abs(error) <= NORMAL * np.hypot(sigma, result.scale_sigma * height))
    share = float(np.mean(covered))
    bench.row("95 % intervals, second elastic law, scale and σ", "≥ 93 %", f"{share:.1%}", share >= 0.93)


def _ratio(error: Floats, sigma: Floats) -> float:
    return float(np.sqrt(np.mean(error**2) / np.mean(sigma**2)))


def deciles(pairs: Sequence[tuple[Floats, Floats]]) -> tuple[Floats, Floats, float]:
    """Return rms σ and rms error in each decile of σ, m, and the slope of the line through them."""
    error, sigma = (np.concatenate([np.ravel(each[n]) for each in pairs]) for n in (0, 1))
    parts = np.array_split(np.argsort(sigma), 10)
    spread, found = (np.sqrt([np.mean(each[part] ** 2) for part in parts]) for each in (sigma, error))
    return spread, found, float(np.polyfit(spread, found, 1)[0])
