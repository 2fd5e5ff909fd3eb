"""Steps and facets: what a metrologist would read off the heights."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import truths
from reliefs import Step
from scipy import fft, ndimage

from inverse_rows.table import CROP, FACETS, NM, NORMAL, Bench, Case, Floats, transfer_of
from reconstruction.bounds import (
    posterior_spectrum,
    radial_spectrum,
)
from reconstruction.metrology import plane


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
