"""One picture of a reconstruction: the segments, shaded heights, σ with what is flagged, oxide, and two profiles."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from reconstruction.integrate import FloatArray
from reconstruction.photometric import SATURATED, SHADOW, STEEP, Reconstruction

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_INK = "#22303c"
_ACCENTS = ("#c8553d", "#2a6f97")
_NM = 1e-9
_FLAGS = ((SATURATED, "saturated", "#ffd166"), (SHADOW, "in shadow", "#4cc9f0"), (STEEP, "too steep", "#95d5b2"))
_QUALITIES = {
    "preview": "preview: local emission law",
    "fast": "fast: linear inverse of the transformer",
    "full": "full: what explains the image, by the transformer",
}


def draw(result: Reconstruction, path: Path) -> None:
    """Draw a reconstruction as PNG, without a display and without touching matplotlib's global state."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Canvas

    rows, columns = result.heights.shape
    tall = min(max(rows / columns, 0.5), 1.4)
    canvas = Canvas(figsize=(13, 4.6 + 6.4 * tall), facecolor="white", layout="constrained")
    FigureCanvasAgg(canvas)
    parts: Any = canvas.subfigures(3, 1, height_ratios=[2.6, 6.4 * tall, 2.4])
    top, middle, bottom = parts
    _segments(top, result)
    _heights(middle, result)
    _profiles(bottom, result)
    canvas.savefig(path, dpi=110)


def _segments(canvas: Any, result: Reconstruction) -> None:
    count = len(result.segments)
    axes = np.atleast_1d(canvas.subplots(1, count))
    unit, scale = _length(result)
    frame = result.frame
    for ax, counts, segment, azimuth, channel in zip(
        axes, frame.counts, result.segments, frame.geometry.azimuths, frame.channels, strict=True
    ):
        some = counts[::4, ::4]
        unclipped = some[some < channel.saturation]
        low, high = np.quantile(unclipped if unclipped.size else some, [0.003, 0.997])
        ax.imshow(counts, cmap="gray", vmin=low, vmax=max(high, low + 1), extent=_extent(result, scale))
        state = "" if segment.state == "live" else f", {segment.state}"
        ax.set_title(f"{segment.name} · {math.degrees(float(azimuth)) % 360:.0f}°{state}", fontsize=10, color=_INK)
        # An arrow from the middle towards the segment.
        width, height = result.frame.shape[1] * scale, result.frame.shape[0] * scale
        reach = 0.13 * min(width, height)
        start = (width * 0.12 + reach * 0.3, height * 0.15)
        step = (reach * math.cos(azimuth), reach * math.sin(azimuth))
        arrow = {"arrowstyle": "-|>", "color": "#ffd166", "lw": 2}
        ax.annotate("", (start[0] + step[0], start[1] + step[1]), start, arrowprops=arrow)
        ax.set_xticks([])
        ax.set_yticks([])
    _scale_bar(axes[0], result, unit, scale)


def _heights(canvas: Any, result: Reconstruction) -> None:
    from matplotlib import colormaps
    from matplotlib.colors import LightSource, Normalize

    unit, scale = _length(result)
    widths = [1.75, 1.0] if result.oxide is None else [1.75, 1.0, 1.0]
    left, right, *more = canvas.subplots(1, len(widths), width_ratios=widths)
    z = np.asarray(result.z, dtype=np.float64) / _NM
    low, high = (float(each) for each in np.quantile(z[::2, ::2], [0.002, 0.998]))
    norm = Normalize(low, max(high, low + 1e-3))
    # Shade as the eye expects it, whatever the pixel: the median slope leans by a tenth or so.
    steepness = float(np.quantile(np.hypot(result.p, result.q), 0.9)) or 1.0
    shade = LightSource(azdeg=315, altdeg=50).shade(
        z, cmap=colormaps["cividis"], norm=norm, vert_exag=0.6 / steepness,
        dx=result.heights.pixel_size / _NM, dy=result.heights.pixel_size / _NM, blend_mode="soft",
    )  # fmt: skip
    left.imshow(shade, extent=_extent(result, scale), interpolation="antialiased")
    _label(left, f"height · {_QUALITIES[result.quality]}", unit)
    for (begin, end, _), colour in zip(_cuts(result), _ACCENTS, strict=True):
        x, y = ((points + 0.5) * scale for points in (begin, end))
        left.plot(x, result.frame.shape[0] * scale - y, color=colour, lw=1.3, ls=(0, (5, 3)))
    from matplotlib.cm import ScalarMappable

    canvas.colorbar(ScalarMappable(norm, "cividis"), ax=left, label="height (nm)", fraction=0.04, pad=0.015)
    _sigma(canvas, right, result)
    for ax in more:
        image = ax.imshow(result.oxide, cmap="copper_r", vmin=0, vmax=1, extent=_extent(result, scale))
        _label(ax, "share of oxide", unit)
        canvas.colorbar(image, ax=ax, label="Cu$_2$O on Cu", fraction=0.04, pad=0.015)


def _sigma(canvas: Any, ax: Axes, result: Reconstruction) -> None:
    """Draw σ, and over it what is flagged."""
    from matplotlib.colors import ListedColormap
    from matplotlib.patches import Patch

    unit, scale = _length(result)
    sigma = result.sigma / _NM
    top = float(np.quantile(sigma, 0.995)) or 1.0
    image = ax.imshow(sigma, cmap="magma", vmin=0, vmax=top, extent=_extent(result, scale))
    legend = []
    for bit, words, colour in _FLAGS:
        marked = (result.flags & bit) > 0
        if marked.any():
            shown = np.ma.masked_where(~marked, np.ones(marked.shape))
            ax.imshow(shown, cmap=ListedColormap([colour]), alpha=0.6, extent=_extent(result, scale))
            legend.append(Patch(color=colour, label=f"{words}, {max(marked.mean(), 0.001):.1%}"))
    origin = "from the counts" if result.quality == "preview" else "counts, prior and model"
    _label(ax, f"σ of the height: {origin}", unit)
    if legend:
        ax.legend(handles=legend, loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=3, frameon=False, fontsize=8)
    canvas.colorbar(image, ax=ax, label="σ (nm)", fraction=0.04, pad=0.015)


def _profiles(canvas: Any, result: Reconstruction) -> None:
    unit, scale = _length(result)
    ax: Axes = canvas.subplots()
    z, sigma = np.asarray(result.z) / _NM, result.sigma / _NM
    for (_, _, take), colour, name in zip(_cuts(result), _ACCENTS, ("along x", "along y"), strict=True):
        height, doubt = z[take], sigma[take]
        place = (np.arange(height.size) + 0.5) * scale
        ax.fill_between(place, height - 2 * doubt, height + 2 * doubt, color=colour, alpha=0.22, lw=0)
        ax.plot(place, height, color=colour, lw=1.4, label=f"{name}, band ± 2σ")
    ax.set_xlabel(f"place ({unit})", color=_INK)
    ax.set_ylabel("height (nm)", color=_INK)
    ax.margins(x=0)
    ax.grid(alpha=0.25, lw=0.6)
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False, fontsize=9, loc="best")
    loud = ["SCALE IS NOT"] if result.quality == "preview" else ["LIES OUTSIDE", "SCALE IS NOT"]
    loose = [each for words in loud for each in result.assumptions if words in each]
    if loose:
        note = loose[0].split(":")[0].split(" WHAT THE TRANSFORMER")[0].capitalize()
        ax.set_title(f"{note}: see the JSON beside this figure", fontsize=9, color=_ACCENTS[0], loc="left")


def _cuts(result: Reconstruction) -> list[tuple[FloatArray, FloatArray, Any]]:
    """Return the two profiles through the field's most prominent place: ends in pixels, and the index that cuts."""
    rows, columns = result.heights.shape
    z = np.asarray(result.z)
    coarse = z[: rows // 8 * 8, : columns // 8 * 8].reshape(rows // 8, 8, columns // 8, 8).mean(axis=(1, 3))
    place = np.unravel_index(int(np.argmax(np.abs(coarse - np.median(coarse)))), coarse.shape)
    row, column = (int(index) * 8 + 4 for index in place)
    along = (np.array([0.0, columns - 1]), np.array([row, row], dtype=float), np.s_[row, :])
    up = (np.array([column, column], dtype=float), np.array([0.0, rows - 1]), np.s_[::-1, column])
    return [along, up]


def _length(result: Reconstruction) -> tuple[str, float]:
    """Return the unit of lengths in the picture, and a pixel in it."""
    pixel = result.heights.pixel_size
    return ("µm", pixel * 1e6) if pixel * result.heights.shape[1] > 2e-6 else ("nm", pixel * 1e9)


def _extent(result: Reconstruction, scale: float) -> tuple[float, float, float, float]:
    rows, columns = result.heights.shape
    return (0, columns * scale, 0, rows * scale)


def _label(ax: Axes, title: str, unit: str) -> None:
    ax.set_title(title, fontsize=11, color=_INK, loc="left")
    ax.set_xlabel(f"x ({unit})", color=_INK)
    ax.set_ylabel(f"y ({unit})", color=_INK)
    ax.tick_params(colors=_INK, labelsize=9)


def _scale_bar(ax: Axes, result: Reconstruction, unit: str, scale: float) -> None:
    width = result.heights.shape[1] * scale
    length = 10 ** math.floor(math.log10(width / 4))
    length *= next(factor for factor in (5, 2, 1) if factor * length <= width / 4 or factor == 1)
    right, low = width * 0.95, result.heights.shape[0] * scale * 0.06
    ax.plot([right - length, right], [low, low], color="white", lw=3, solid_capstyle="butt")
    ax.text(right - length / 2, low * 1.4, f"{length:g} {unit}", color="white", ha="center", va="bottom", fontsize=8)
