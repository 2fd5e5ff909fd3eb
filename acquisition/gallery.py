"""The pictures of a report: chosen frames by segment, their heights and σ, and a surface that turns."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from acquisition import pictures
from acquisition.chronicle import Chronicle
from acquisition.markup import Content, Markup, data, tag
from acquisition.records import FrameEntry, ReconstructionEntry
from acquisition.store import Store
from acquisition.wording import clock_time, discreet, duration_text, figure_text, length_text, unbroken, with_spread
from drivers.errors import RilievoError
from drivers.frame import Frame

_HEIGHTS, _SEGMENT, _SIGMA = 400, 220, 240  # pixels of the pictures, at most
_COLOURS, _SIGMA_COLOURS = "cividis", "viridis"

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Shot:
    """A frame with what became of it; heights and σ in nm, None where they could not be read."""

    entry: ReconstructionEntry
    stored: FrameEntry
    frame: Frame | None
    heights: Floats | None
    sigma: Floats | None
    problems: tuple[str, ...]

    @property
    def pixel_size(self) -> float:
        """Edge of a pixel, nm."""
        return self.stored.pixel_size * 1e9

    @property
    def field(self) -> float:
        """Width of the image, nm."""
        return self.pixel_size * self.stored.columns


def load(chronicle: Chronicle, store: Store, count: int = 6) -> list[Shot]:
    """Return the chosen frames; what cannot be read is told in its place."""
    stored = {frame.id: frame for frame in chronicle.frames}
    return [_load(store, entry, stored[entry.frame_id]) for entry in chronicle.chosen(count)]


def _load(store: Store, entry: ReconstructionEntry, stored: FrameEntry) -> Shot:
    problems = []
    frame, heights, sigma = None, None, None
    try:
        frame = store.read(stored.stored.path)
    except RilievoError as error:
        problems.append(f"the segments' images: {error.message}")
    try:
        if entry.path is None:
            raise ValueError("there is no file")
        heights, sigma = heights_of(store.absolute(entry.path))
    except Exception as error:  # noqa: BLE001  damaged files fail in many ways; the report goes on without
        problems.append(f"the heights: {_reason(error)}")
    return Shot(entry, stored, frame, heights, sigma, tuple(problems))


def heights_of(path: Path) -> tuple[Floats, Floats | None]:
    """Return a file's heights about their middle, and σ where it holds it, (H, W) each, nm."""
    import tifffile

    with tifffile.TiffFile(path) as tif:
        pages = [page.asarray().astype(np.float64) for page in tif.pages[:2]]
    if pages[0].ndim != 2:
        raise ValueError("the file holds no map of heights")
    return pages[0] - np.nanmedian(pages[0]), pages[1] if len(pages) > 1 else None


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def spread_of(maps: Sequence[NDArray[np.floating[Any]]], low: float, high: float) -> tuple[float, float]:
    """Return between which values lie those from one percentile to another, of all maps together."""
    values = np.concatenate([values[::4, ::4].ravel() for values in maps]) if maps else np.zeros(1)
    values = values[np.isfinite(values)]
    if not len(values):
        return 0.0, 1.0
    ends = np.percentile(values, [low, high])
    return float(ends[0]), max(float(ends[1]), float(ends[0]) + 1e-3)


class Gallery:
    """Draws the chosen frames with one height scale for all of them, so that they can be compared."""

    def __init__(self, chronicle: Chronicle, shots: Sequence[Shot]) -> None:
        self._chronicle, self.shots = chronicle, shots
        self._colours = pictures.colours(_COLOURS)
        self._sigma_colours = pictures.colours(_SIGMA_COLOURS)
        self._heights = spread_of([shot.heights for shot in shots if shot.heights is not None], 0.5, 99.5)
        self._sigma = spread_of([shot.sigma for shot in shots if shot.sigma is not None], 1.0, 99.0)

    def cards(self) -> Markup:
        """Return the frames with their pictures, and what the colours mean."""
        low, high = self._heights
        bars = tag(
            "div",
            _colour_bar("height", low, high, self._colours),
            _colour_bar("σ", *self._sigma, self._sigma_colours),
            class_="bars",
        )
        return tag("div", bars, [self._card(shot) for shot in self.shots], class_="gallery")

    def _card(self, shot: Shot) -> Markup:
        shown: list[Content] = []
        if shot.frame is not None:
            shown.append(self._segments(shot.frame))
        if shot.heights is not None:
            shown.append(self._height_map(shot, shot.heights))
        if shot.sigma is not None:
            picture = pictures.coloured(pictures.reduced(shot.sigma, _SIGMA), *self._sigma, self._sigma_colours)
            shown.append(_figure(picture, "σ of the heights", "picture"))
        problems = [tag("p", f"Missing here: {discreet(problem)}", class_="problem") for problem in shot.problems]
        return tag("article", self._heading(shot), problems, tag("div", *shown, class_="pictures"), class_="card")

    def _heading(self, shot: Shot) -> Markup:
        entry = shot.entry
        seconds = self._chronicle.seconds(entry.time)
        facts = [f"{clock_time(entry.time)} UTC", f"{unbroken(duration_text(round(seconds)))} into the run"]
        if shot.frame is not None:
            wanted = [name for name in shot.frame.readbacks if name.endswith(("temperature", "pressure"))]
            facts += [figure_text(name, shot.frame.readbacks[name].value) for name in wanted]
        told = [
            tag("span", tag("b", label), f" {text}")
            for label, text in (_told(name, entry) for name in ("coverage", "roughness", "height_range"))
            if text
        ]
        return tag(
            "header",
            tag("h3", f"Frame {entry.frame_number}"),
            tag("p", " · ".join(facts)),
            tag("p", *told, class_="figures") if told else None,
        )

    def _segments(self, frame: Frame) -> Markup:
        offsets = np.array([channel.offset or 0.0 for channel in frame.channels])
        images = [
            pictures.reduced(counts, _SEGMENT) - offset for counts, offset in zip(frame.counts, offsets, strict=True)
        ]
        low, high = spread_of(images, 0.5, 99.5)
        shown = [
            tag("figure", _image(pictures.grey(image, low, high), f"segment {name}"), tag("figcaption", name))
            for name, image in zip(frame.geometry.names, images, strict=True)
        ]
        columns = 1 if len(shown) == 1 else 2 if len(shown) <= 4 else 3
        caption = "Segments, offsets removed, one grey scale"
        grid = tag("div", *shown, class_="segments", style=f"--columns:{columns}")
        return tag("figure", grid, tag("figcaption", caption), class_="picture")

    def _height_map(self, shot: Shot, heights: Floats) -> Markup:
        factor = max(1.0, max(heights.shape) / _HEIGHTS)
        small = pictures.reduced(heights, _HEIGHTS)
        picture = pictures.shaded(small, shot.pixel_size * np.ceil(factor), *self._heights, self._colours)
        length = _scale_length(shot.field)
        bar = tag(
            "span", tag("i", style=f"width:{100 * length / shot.field:.2f}%"), length_text(length), class_="scale"
        )
        return _figure(picture, "Heights, lit from the upper left", "picture heights", bar)

    def viewer(self) -> Markup | None:
        """Return the surface that turns, with a button for each chosen frame; None without heights."""
        shown = [(shot, shot.heights) for shot in self.shots if shot.heights is not None]
        if not shown:
            return None
        low, high = self._heights
        scene = {
            "low": low,
            "high": high,
            "colours": base64.b64encode(self._colours.tobytes()).decode("ascii"),
            "surfaces": [
                {**pictures.surface(heights, shot.field), "label": self._label(shot)} for shot, heights in shown
            ],
        }
        buttons = [
            tag("button", f"{shot.entry.frame_number}", type="button", data_surface=index, title=self._label(shot))
            for index, (shot, _) in enumerate(shown)
        ]
        controls = tag(
            "div",
            tag("div", tag("span", "Frame"), *buttons, class_="moments"),
            tag("button", "Play the night", type="button", id="play"),
            tag(
                "label",
                "Heights ",
                tag("input", type="range", id="stretch", min=0, max=100, value=50, aria_label="stretch of the heights"),
                tag("output", "", id="stretched"),
            ),
            class_="controls",
        )
        canvas = tag("canvas", id="surface", width=1200, height=660, role="img", aria_label="the surface, turning")
        note = tag("p", "", id="surface-note", class_="note")
        return tag("div", canvas, note, controls, data("scene", scene), class_="viewer")

    def _label(self, shot: Shot) -> str:
        seconds = self._chronicle.seconds(shot.entry.time)
        return f"frame {shot.entry.frame_number}, {unbroken(duration_text(round(seconds)))} into the run"


def _told(name: str, entry: ReconstructionEntry) -> tuple[str, str]:
    found = entry.figures.get(name)
    labels: Mapping[str, str] = {"coverage": "oxide coverage", "roughness": "roughness Sq", "height_range": "range"}
    if found is None:
        return labels[name], ""
    factor, unit = (100.0, "%") if found.unit == "" else (1e9, "nm")
    sigma = None if found.sigma is None else found.sigma * factor
    return labels[name], with_spread(found.value * factor, sigma, unit)


def _image(picture: NDArray[np.uint8], text: str) -> Markup:
    rows, columns = picture.shape[:2]
    return tag("img", src=pictures.uri(picture), alt=text, width=columns, height=rows, loading="lazy")


def _figure(picture: NDArray[np.uint8], caption: str, class_: str, over: Content = None) -> Markup:
    return tag(
        "figure", tag("div", _image(picture, caption), over, class_="frame"), tag("figcaption", caption), class_=class_
    )


def _scale_length(field: float) -> float:
    """Return a round length (nm) of about a quarter of the field."""
    power: float = 10.0 ** np.floor(np.log10(field / 4))
    return float(max(factor for factor in (1, 2, 5) if factor * power <= field / 4) * power)


def _colour_bar(label: str, low: float, high: float, table: NDArray[np.uint8]) -> Markup:
    stops = ",".join(f"rgb({r},{g},{b})" for r, g, b in table[:: len(table) // 15].tolist())
    places = np.linspace(low, high, 5)
    digits = 0 if high - low > 20 else 1 if high - low > 2 else 2
    ticks = [tag("span", f"{place:.{digits}f}".replace("-", "−")) for place in places]
    return tag(
        "div",
        tag("b", f"{label}, nm"),
        tag("div", class_="ramp", style=f"background:linear-gradient(90deg,{stops})"),
        tag("div", *ticks, class_="ticks"),
        class_="bar",
    )
