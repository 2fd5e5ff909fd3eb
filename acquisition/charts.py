"""Line charts as SVG: panels above one another on a shared time axis, with the recipe's steps as bands behind them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import numpy as np
from numpy.typing import NDArray

from acquisition.chronicle import Curve, Stretch
from acquisition.markup import Markup, join, tag

_MINUTES = (1, 2, 5, 10, 15, 30, 60, 120, 180, 240, 360, 720, 1440, 2880, 10080)


@dataclass(frozen=True, slots=True)
class Line:
    """A curve as it is drawn.

    Attributes
    ----------
    curve : Curve
    label : str
    style : str
        Colour class ``c0`` … ``c6`` and, after a space, ``asked`` (dashed) or ``truth`` (dotted).
    marks : bool
        Points instead of a line, with bars of ±σ.
    bounds : (float, float), optional
        Between which the figure can lie at all; bars end there.
    silent : bool
        Not under the cursor, which tells what lies between points as well.
    """

    curve: Curve
    label: str
    style: str
    marks: bool = False
    bounds: tuple[float, float] | None = None
    silent: bool = False


@dataclass(frozen=True, slots=True)
class Panel:
    """One figure over time.

    Attributes
    ----------
    title, unit : str
    lines : sequence of Line
    height : float
        In units of the drawing.
    logarithmic : bool
    limits : (float, float), optional
        Of the axis; from the data unless given.
    """

    title: str
    unit: str
    lines: Sequence[Line]
    height: float = 130.0
    logarithmic: bool = False
    limits: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True)
class Mark:
    """A frame on the time axis; ``style`` says what became of it."""

    seconds: float
    style: str
    title: str


@dataclass(frozen=True, slots=True)
class Chart:
    """What shares a time axis.

    Attributes
    ----------
    start : datetime
        Of second 0, UTC.
    span : (float, float), s
    """

    name: str
    start: datetime
    span: tuple[float, float]
    panels: Sequence[Panel]
    stretches: Sequence[Stretch] = ()
    marks: Sequence[Mark] = ()


def nice_ticks(low: float, high: float, count: int = 4) -> list[float]:
    """Return round numbers between two others, about ``count`` of them."""
    if not high > low:
        return [low]
    rough = (high - low) / max(1, count)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    ticks = [round(index * step, 12) for index in range(first, math.floor(high / step + 1e-9) + 1)]
    # Far from zero the quotients' rounding reaches beyond a narrow range.
    near = 1e-6 * (high - low)
    return [tick for tick in ticks if low - near <= tick <= high + near]


def time_ticks(start: datetime, span: tuple[float, float], count: int) -> list[tuple[float, str]]:
    """Return seconds and clock times at round minutes; the date where a day begins."""
    length = (span[1] - span[0]) / 60
    step = next((minutes for minutes in _MINUTES if length / minutes <= count), _MINUTES[-1])
    if length < 3:
        seconds = nice_ticks(*span, count)
        return [(second, f"{start + timedelta(seconds=second):%H:%M:%S}") for second in seconds]
    midnight = start.replace(hour=0, minute=0, second=0, microsecond=0)
    offset = (start - midnight).total_seconds()
    first = math.ceil((offset + span[0]) / (step * 60) - 1e-9)
    last = math.floor((offset + span[1]) / (step * 60) + 1e-9)
    ticks = []
    for index in range(first, last + 1):
        moment = midnight + timedelta(minutes=index * step)
        new_day = (moment.hour, moment.minute) == (0, 0)
        ticks.append((index * step * 60 - offset, f"{moment:%d %b}" if new_day else f"{moment:%H:%M}"))
    return ticks


def limits_of(panel: Panel) -> tuple[float, float]:
    """Return the ends of a panel's axis: the data's, with some air."""
    if panel.limits:
        return panel.limits
    parts = [np.concatenate([line.curve.values, *_bars(line)]) for line in panel.lines if len(line.curve.values)]
    values = np.concatenate(parts) if parts else np.zeros(1)
    values = values[np.isfinite(values)]
    if panel.logarithmic:
        values = values[values > 0]
        low, high = (float(values.min()), float(values.max())) if len(values) else (1.0, 10.0)
        return 10.0 ** math.floor(math.log10(low)), 10.0 ** math.ceil(math.log10(high * 1.001))
    low, high = (float(values.min()), float(values.max())) if len(values) else (0.0, 1.0)
    air = 0.08 * (high - low) or max(abs(high), 1.0) * 0.1
    # A zero that is near belongs to the picture.
    low = 0.0 if 0 <= low < 0.35 * high else low - air
    return low, high + air


def _bars(line: Line) -> list[NDArray[np.float64]]:
    sigma = line.curve.sigma
    if sigma is None:
        return []
    ends = [line.curve.values + sigma, line.curve.values - sigma]
    return ends if line.bounds is None else [np.clip(end, *line.bounds) for end in ends]


class Drawing:
    """Draws a chart at one width.

    Parameters
    ----------
    chart : Chart
    width : float
        Of the drawing; text keeps its size, so that a narrow drawing is for a narrow screen.
    """

    def __init__(self, chart: Chart, width: float) -> None:
        self.chart, self.width = chart, width
        self.narrow = width < 600
        self.left, self.right = (44.0, 6.0) if self.narrow else (58.0, 12.0)

    def x(self, seconds: float) -> float:
        """Return the place of a moment."""
        low, high = self.chart.span
        return self.left + (seconds - low) / (high - low) * (self.width - self.left - self.right)

    def draw(self) -> Markup:
        """Return the chart."""
        parts: list[Markup] = []
        top = 0.0
        if self.chart.stretches:
            top = 30.0
        body_top = top
        for panel in self.chart.panels:
            parts.append(self._panel(panel, top + 26))
            top += panel.height + 34
        if self.chart.marks:
            parts.append(self._strip(top + 12))
            top += 30
        height = top + 26
        axis = self._time_axis(body_top, top)
        bands = self._bands(body_top, top)
        cursor = tag("line", class_="cursor", x1=0, x2=0, y1=body_top, y2=top, visibility="hidden")
        return tag(
            "svg",
            bands,
            axis,
            parts,
            cursor,
            viewBox=f"0 0 {self.width:g} {height:g}",
            class_=f"chart {'narrow' if self.narrow else 'wide'}",
            role="img",
            aria_label=", ".join(panel.title for panel in self.chart.panels) + " over time",
            data_chart=self.chart.name,
            data_left=self.left,
            data_right=self.width - self.right,
        )

    def _bands(self, top: float, bottom: float) -> list[Markup]:
        low, high = self.chart.span
        made = []
        for index, stretch in enumerate(self.chart.stretches):
            begin, end = self.x(max(low, stretch.begin)), self.x(min(high, stretch.end))
            if stretch.end < low or stretch.begin > high or end <= begin:
                continue
            kind = f"band band{index % 2} {stretch.state}"
            parts = [
                tag("title", f"{index + 1} · {stretch.name}"),
                tag("rect", class_=kind, x=begin, y=top, width=end - begin, height=bottom - top),
                tag("rect", class_=f"head {kind}", x=begin, y=0, width=max(0.5, end - begin - 1), height=22),
            ]
            number = str(index + 1)
            full = f"{number} {stretch.name}"
            label = full if len(full) * 6.3 + 10 < end - begin else number
            if len(label) * 6.3 + 4 < end - begin:
                parts.append(tag("text", label, class_="step", x=begin + 5, y=15))
            made.append(tag("g", *parts))
        return made

    def _time_axis(self, top: float, bottom: float) -> list[Markup]:
        made = []
        for seconds, label in time_ticks(self.chart.start, self.chart.span, 5 if self.narrow else 10):
            place = self.x(seconds)
            made.append(tag("line", class_="grid", x1=place, x2=place, y1=top, y2=bottom))
            anchor = "end" if place > self.width - 20 else "middle"
            made.append(tag("text", label, class_="tick", x=place, y=bottom + 18, text_anchor=anchor))
        return made

    def _panel(self, panel: Panel, top: float) -> Markup:
        low, high = limits_of(panel)
        scale: Callable[[Any], Any] = np.log10 if panel.logarithmic else np.asarray
        bottom, span = top + panel.height, scale(high) - scale(low)

        def y(value: Any) -> Any:
            kept = np.maximum(value, low) if panel.logarithmic else value
            return bottom - (scale(kept) - scale(low)) / span * panel.height

        ticks = _powers(low, high) if panel.logarithmic else nice_ticks(low, high, 3 if panel.height < 110 else 4)
        grid = [
            (
                tag(
                    "line",
                    class_="grid",
                    x1=self.left,
                    x2=self.width - self.right,
                    y1=float(y(tick)),
                    y2=float(y(tick)),
                ),
                tag("text", number(tick), class_="tick", x=self.left - 6, y=float(y(tick)) + 4, text_anchor="end"),
            )
            for tick in ticks
        ]
        title = f"{panel.title}, {panel.unit}" if panel.unit else panel.title
        name = f"clip-{self.chart.name}-{self.width:g}-{top:g}"
        clip = tag(
            "clipPath",
            tag("rect", x=self.left, y=top - 3, width=self.width - self.left - self.right, height=panel.height + 6),
            id=name,
        )
        curves = tag("g", [self._line(line, y) for line in panel.lines], clip_path=f"url(#{name})")
        heading = tag("text", title, class_="title", x=self.left, y=top - 9)
        return join(clip, grid, heading, self._legend(panel, len(title), top - 9), curves)

    def _legend(self, panel: Panel, used: int, y: float) -> list[Markup]:
        """Return the names of the lines, from the right; those that find no room are left to the cursor."""
        made: list[Markup] = []
        place = self.width - self.right
        # What is asked looks like what is read back, dashed; on a narrow drawing the key below says so.
        named = [line for line in panel.lines if not (self.narrow and "asked" in line.style)]
        for line in reversed(named):
            length = len(line.label) * 6.1 + 26
            if place - length < self.left + used * 7.2:
                break
            place -= length
            sample = (
                tag("circle", class_=f"point {line.style}", cx=place + 9, cy=y - 4, r=3)
                if line.marks
                else tag("line", class_=f"line {line.style}", x1=place, x2=place + 18, y1=y - 4, y2=y - 4)
            )
            made += [sample, tag("text", line.label, class_="legend", x=place + 22, y=y)]
            place -= 10
        return made

    def _line(self, line: Line, y: Callable[[Any], Any]) -> list[Markup]:
        curve = line.curve
        x = np.array([self.x(seconds) for seconds in curve.times])
        if line.marks:
            return self._points(line, x, y)
        down: NDArray[np.float64] = np.asarray(y(curve.values), dtype=np.float64)
        pieces = np.split(np.arange(len(x)), np.flatnonzero(~np.isfinite(down)))
        known = (piece[np.isfinite(down[piece])] for piece in pieces)
        return [self._polyline(line, x[piece], down[piece]) for piece in known if len(piece) > 1]

    def _polyline(self, line: Line, x: NDArray[np.float64], y: NDArray[np.float64]) -> Markup:
        text = " ".join(f"{across:g},{down:g}" for across, down in _simplified(x.round(1), y.round(1)))
        return tag("polyline", class_=f"line {line.style}", points=text)

    def _points(self, line: Line, x: NDArray[np.float64], y: Callable[[Any], Any]) -> list[Markup]:
        curve = line.curve
        upper, lower = (y(end) for end in _bars(line) or [np.full(len(x), np.nan)] * 2)
        known = np.isfinite(upper) & np.isfinite(lower)
        bars = "".join(
            f"M{across:.1f} {high:.1f}V{low:.1f}"
            for across, high, low, told in zip(x, upper, lower, known, strict=True)
            if told
        )
        radius = 2.2 if len(x) > 60 else 3.0
        dots = [
            tag("circle", class_=f"point {line.style}", cx=f"{across:.1f}", cy=f"{down:.1f}", r=radius)
            for across, down in zip(x, y(curve.values), strict=True)
            if math.isfinite(down)
        ]
        return [tag("path", class_=f"bars {line.style}", d=bars), *dots]

    def _strip(self, y: float) -> Markup:
        marks = [
            tag("line", tag("title", mark.title), class_=f"mark {mark.style}", x1=x, x2=x, y1=y - 7, y2=y + 7)
            for mark in self.chart.marks
            for x in (f"{self.x(mark.seconds):.1f}",)
        ]
        label = tag("text", "Frames", class_="tick", x=self.left - 6, y=y + 4, text_anchor="end")
        return join(label, marks)


def number(value: float) -> str:
    """Return a tick's text: short, with a proper minus sign."""
    text = f"{value:.4g}"
    if "e" in text:
        mantissa, exponent = text.split("e")
        power = str(int(exponent)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
        text = f"10{power}" if mantissa == "1" else f"{mantissa}·10{power}"
    return text.replace("-", "−")


def _powers(low: float, high: float) -> list[float]:
    first, last = round(math.log10(low)), round(math.log10(high))
    step = max(1, math.ceil((last - first) / 4))
    return [10.0**exponent for exponent in range(first, last + 1, step)]


def _simplified(x: NDArray[np.float64], y: NDArray[np.float64]) -> list[tuple[float, float]]:
    """Leave out points that lie between two others of the same height or at the same place."""
    if len(x) < 3:
        return list(zip(x.tolist(), y.tolist(), strict=True))
    level = (y[1:-1] == y[:-2]) & (y[1:-1] == y[2:])
    keep = np.concatenate([[True], ~level, [True]])
    return list(zip(x[keep].tolist(), y[keep].tolist(), strict=True))


def cursor_data(chart: Chart, points: int = 300) -> dict[str, Any]:
    """Return what the page's script shows under the pointer."""
    low, high = chart.span
    lines = [
        {
            "label": line.label,
            "unit": panel.unit,
            "style": line.style,
            "times": [round(float(time), 1) for time in line.curve.times[index]],
            "values": [float(f"{value:.5g}") for value in np.nan_to_num(line.curve.values[index])],
        }
        for panel in chart.panels
        for line in panel.lines
        if not line.silent
        for index in (_spread(len(line.curve.times), points),)
    ]
    return {
        "start": chart.start.timestamp(),
        "low": low,
        "high": high,
        "lines": lines,
        "steps": [[round(s.begin, 1), round(s.end, 1), f"{i + 1} {s.name}"] for i, s in enumerate(chart.stretches)],
        "marks": [[round(mark.seconds, 1), mark.title] for mark in chart.marks],
    }


def _spread(count: int, points: int) -> NDArray[np.int64]:
    return np.unique(np.linspace(0, max(0, count - 1), min(count, points)).astype(np.int64)) if count else np.arange(0)


def both_widths(chart: Chart) -> Markup:
    """Return a chart for wide screens and paper, and one for narrow screens; the style sheet shows one of them."""
    return join(Drawing(chart, 1080).draw(), Drawing(chart, 380).draw())


def legend_of(entries: Iterable[tuple[str, str]]) -> Markup:
    """Return a line of style samples with their meaning."""
    return tag("p", [tag("span", tag("i", class_=f"sample {style}"), text) for style, text in entries], class_="key")
