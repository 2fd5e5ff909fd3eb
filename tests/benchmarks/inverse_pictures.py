"""Pictures of the inverse: maps beside their truth, error against dose, and how the intervals are calibrated.

RILIEVO_SAMPLES=DIR python tests/benchmarks/inverse_pictures.py

Draws docs/pictures/inverse.png, inverse_dose.png and inverse_calibration.png from the frames that are in the truth
cache; what they lack is told and left out.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import truths
from inverse_rows.calibration import deciles
from inverse_rows.dose import dose
from inverse_rows.table import CROP, FAR, NEAR, NM, Bench, Case

from reconstruction.metrology import without_plane

FOLDER = Path(__file__).parents[2] / "docs" / "pictures"
INK = "#22303c"
BLUE, ORANGE, GREEN, GREY = "#0072b2", "#d55e00", "#009e73", "#7a868f"
"""Of M. Okabe and K. Ito's palette, told apart without red and green."""
SHOWN = ("A-islands", "D-islands")


def canvas(width: float, height: float) -> Any:
    """Return a figure without a display and without matplotlib's global state."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    made = Figure(figsize=(width, height), facecolor="white", layout="constrained")
    FigureCanvasAgg(made)
    return made


def save(figure: Any, name: str, dpi: int = 110) -> None:
    """Write a picture, well compressed, and tell how large it is."""
    path = FOLDER / name
    figure.savefig(path, dpi=dpi, pil_kwargs={"optimize": True})
    print(f"  {path.name}: {path.stat().st_size / 1000:.0f} kB")


def maps(cases: list[Case]) -> None:
    """Draw truth, frame, local law, ours, error and σ of some frames, one row each."""
    figure = canvas(14.2, 0.55 + 3.25 * len(cases))
    axes = np.atleast_2d(figure.subplots(len(cases), 6))
    for number, (row, case) in enumerate(zip(axes, cases, strict=True)):
        _map_row(figure, row, case, last=number == len(cases) - 1)
    figure.suptitle(
        f"Islands 100 nm high from {cases[0].tally.electrons:,} electrons a pixel, Monte Carlo counted in real "
        "segments. Nothing is scaled or fitted to the truth but the field's tilt.",
        fontsize=11, color=INK, x=0.008, ha="left",
    )  # fmt: skip
    save(figure, "inverse.png", dpi=82)


def _map_row(figure: Any, row: Any, case: Case, *, last: bool) -> None:
    result, local = case.heights("full"), case.heights("preview")
    inside = np.s_[CROP:-CROP, CROP:-CROP]
    truth = case.truth.z / NM
    # One frame tells neither tilt nor mean: both are the truth's in the picture.
    ours, plain = (truth + without_plane(each.z - case.truth.z) / NM for each in (result, local))
    error = np.full(truth.shape, np.nan)
    error[inside] = without_plane((result.z - case.truth.z)[inside]) / NM
    sigma, counts = result.sigma / NM, case.frame.counts[0] / 1000.0
    rms, before = case.error("full").rms / NM, case.error("preview").rms / NM
    span = {"vmin": -10.0, "vmax": 1.1 * float(np.ptp(case.truth.z)) / NM}
    limit = 4 * float(np.median(sigma))
    energy, pixel = truths.CONFIGURATIONS[case.configuration]
    extent = (0, truth.shape[1] * case.pixel / NM, 0, truth.shape[0] * case.pixel / NM)
    low, high = np.quantile(counts, [0.005, 0.995])
    bound = "" if case.bound is None else f" (bound {case.bound / NM:.1f})"
    panels = (
        ("truth", truth, {"cmap": "cividis", **span}, "height (nm)"),
        (f"segment {case.frame.geometry.names[0]} of 4", counts, {"cmap": "gray", "vmin": low, "vmax": high},
         "counts (10³ ADU)"),
        (f"local law: {before:.1f} nm rms", plain, {"cmap": "cividis", **span}, "height (nm)"),
        (f"ours: {rms:.1f} nm rms{bound}", ours, {"cmap": "cividis", **span}, "height (nm)"),
        ("its error", error, {"cmap": "PuOr", "vmin": -limit, "vmax": limit}, "error (nm)"),
        ("its σ", sigma, {"cmap": "magma", "vmin": 0.0, "vmax": float(np.quantile(sigma, 0.998))}, "σ (nm)"),
    )  # fmt: skip
    for place, (ax, (title, image, style, unit)) in enumerate(zip(row, panels, strict=True)):
        drawn = ax.imshow(image, extent=extent, interpolation="nearest", **style)
        ax.set_title(title, fontsize=10, color=INK, loc="left")
        ax.tick_params(colors=INK, labelsize=8)
        ax.set_xticks(np.arange(0, extent[1] + 1, 1000))
        ax.set_yticks(np.arange(0, extent[3] + 1, 1000))
        if last:
            ax.set_xlabel("x (nm)", color=INK, fontsize=9)
        if place == 0:
            ax.set_ylabel(f"{energy:g} keV, {pixel / NM:.0f} nm pixels\ny (nm)", color=INK, fontsize=10)
        else:
            ax.set_yticklabels([])
        bar = figure.colorbar(drawn, ax=ax, location="bottom", fraction=0.05, pad=0.02, shrink=0.95)
        bar.set_label(unit, color=INK, fontsize=9)
        bar.ax.tick_params(colors=INK, labelsize=8)
        bar.outline.set_visible(False)


def against_dose(points: list[dict[str, float]]) -> None:
    """Draw the height error over electrons a pixel, with the Wiener bound and what the local law reaches."""
    figure = canvas(6.6, 4.4)
    ax = figure.subplots()
    electrons = [each["electrons"] for each in points]
    lines = (
        ("best-scaled local law", "local law", GREY, "s", "-"),
        ("Rilievo, fast", "fast", ORANGE, "^", "-"),
        ("Rilievo, full", "full", BLUE, "o", "-"),
        ("Wiener bound", "bound", INK, "", (0, (4, 3))),
    )
    for label, key, colour, marker, style in lines:
        if all(each[key] is not None for each in points):
            values = [each[key] / NM for each in points]
            ax.loglog(electrons, values, color=colour, marker=marker, ls=style, lw=1.6, ms=5.5, label=label)
    _plain(ax, "electrons a pixel", "height error, rms (nm)")
    ax.set_title("Islands 100 nm high, 5 keV, 20 nm pixels", fontsize=10, color=INK, loc="left")
    _numbers(ax.yaxis, [0.5, 0.7, 1, 1.5, 2, 3, 4, 5, 7, 10, 15, 20, 30])
    _numbers(ax.xaxis, electrons)
    save(figure, "inverse_dose.png")


def _numbers(axis: Any, wanted: list[float]) -> None:
    """Label a logarithmic axis with plain numbers."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    low, high = axis.get_view_interval()
    axis.set_major_locator(FixedLocator([each for each in wanted if low <= each <= high]))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(
        FuncFormatter(lambda value, _: f"{value:,.0f}" if value >= 1 and value % 1 == 0 else f"{value:g}")
    )


def calibration(groups: dict[str, list[Case]]) -> None:
    """Draw rms error over rms σ in deciles of σ, and how many errors lie within how many σ."""
    figure = canvas(9.6, 4.4)
    left, right = figure.subplots(1, 2)
    top = 0.0
    shares = np.linspace(0.05, 0.99, 48)
    for (words, cases), colour, marker in zip(groups.items(), (BLUE, ORANGE), "os", strict=False):
        pairs = [case.error_map() for case in cases]
        spread, found, _ = deciles(pairs)
        left.plot(spread / NM, found / NM, color=colour, marker=marker, lw=1.4, ms=5, label=words)
        top = max(top, spread.max() / NM, found.max() / NM)
        scaled = np.concatenate([np.abs(error / sigma).ravel() for error, sigma in pairs])
        right.plot(100 * shares, [100 * np.mean(scaled <= _quantile(each)) for each in shares], color=colour, lw=1.8,
                   label=f"{words}, {len(cases)} frames")  # fmt: skip
    slope = deciles([case.error_map() for cases in groups.values() for case in cases])[2]
    left.set_title(f"Over deciles of all: slope {slope:.2f}", fontsize=10, color=INK, loc="left")
    left.plot([0, 1.05 * top], [0, 1.05 * top], color=INK, ls=(0, (4, 3)), lw=1, label="σ is right")
    right.plot([0, 100], [0, 100], color=INK, ls=(0, (4, 3)), lw=1, label="intervals are right")
    left.set_xlim(0, 1.05 * top)
    left.set_ylim(0, 1.05 * top)
    _plain(left, "σ as told, rms of a decile (nm)", "error, rms of a decile (nm)")
    _plain(right, "interval (%)", "errors that lie within it (%)")
    save(figure, "inverse_calibration.png")


def _quantile(share: float) -> float:
    """Return within how many standard deviations a share of a Gaussian lies."""
    from scipy.special import erfinv

    return float(np.sqrt(2) * erfinv(share))


def _plain(ax: Any, x: str, y: str) -> None:
    ax.set_xlabel(x, color=INK)
    ax.set_ylabel(y, color=INK)
    ax.tick_params(colors=INK, labelsize=9)
    ax.grid(alpha=0.25, lw=0.6)
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False, fontsize=9)


def draw(bench: Bench) -> None:
    """Draw what the frames that are there allow."""
    print("\npictures")
    shown = [case for case in map(bench.case, SHOWN) if case is not None]
    if shown:
        maps(shown)
    if "dose" not in bench.data:
        dose(bench)
    if len(bench.data.get("dose", [])) > 1:
        against_dose(bench.data["dose"])
    groups = {"R/px 3–10": bench.several(NEAR), "R/px 10–30": bench.several(FAR)}
    calibration({words: cases for words, cases in groups.items() if cases})


if __name__ == "__main__":
    draw(Bench())
