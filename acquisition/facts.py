"""What a report says in tables: the summary, imaging, detector, limits, steps, events and versions."""

from __future__ import annotations

import math
import platform
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import timedelta
from importlib.metadata import PackageNotFoundError, version

import numpy as np
from numpy.typing import NDArray

from acquisition.chronicle import Chronicle, Curve
from acquisition.markup import Content, Markup, tag
from acquisition.records import FrameEntry
from acquisition.wording import (
    bytes_text,
    clock_time,
    discreet,
    duration_text,
    flat,
    unbroken,
    value_text,
    with_spread,
)
from drivers.frame import Channel, Frame
from drivers.geometry import DetectorGeometry, Segment
from drivers.units import ELEMENTARY_CHARGE, KEV

UNTOLD = 0.2
"""Standard uncertainty of the coverage above which an estimate tells nothing."""


def table(rows: Iterable[Sequence[Content]], head: Sequence[str] = (), class_: str = "") -> Markup:
    """Return a table that scrolls sideways where it is wider than the screen."""
    body = [tag("tr", [tag("td", cell) for cell in row]) for row in rows]
    top = tag("thead", tag("tr", [tag("th", name) for name in head])) if head else None
    return tag("div", tag("table", top, tag("tbody", body), class_=class_ or None), class_="scroll")


def pairs(rows: Iterable[tuple[str, Content]]) -> Markup:
    """Return names with their values."""
    return tag("dl", [tag("div", tag("dt", name), tag("dd", value)) for name, value in rows])


def summary(night: Chronicle) -> list[tuple[str, str, str]]:
    """Return the numbers at the top: label, figure, and a word more."""
    lit = [frame for frame in night.frames if not frame.dark]
    states = Counter(entry.state for entry in night.reconstructions)
    waiting = len(lit) - sum(states.values())
    told = [f"{count} {word}" for count, word in ((states["failed"], "failed"), (waiting, "not yet made")) if count]
    tiles = [
        ("frames", str(len(lit)), f"and {len(night.frames) - len(lit)} dark"),
        ("height maps", str(states["done"]), ", ".join(told)),
        ("frames left out", str(states["left out"]), "by the live reconstruction"),
    ]
    tiles += _extremes(night)
    tiles += [_final(night, "coverage", "oxide coverage, last"), _final(night, "roughness", "roughness Sq, last")]
    tiles.append(("dose", *_dose(lit)))
    stored = sum(frame.stored.bytes for frame in night.frames)
    tiles.append(("frames on disk", unbroken(bytes_text(stored)), "each with its checksum"))
    return [tile for tile in tiles if tile[1]]


def _extremes(night: Chronicle) -> list[tuple[str, str, str]]:
    tiles = []
    for unit, label, sign in (("K", "highest temperature", "°C"), ("Pa", "highest pressure", "Pa")):
        curves = night.readbacks(unit)
        if curves:
            highest = max(float(curve.values.max()) for curve in curves)
            tiles.append((label, value_text(float(f"{highest:.3g}"), sign), "as read back"))
    return tiles


def _final(night: Chronicle, name: str, label: str) -> tuple[str, str, str]:
    curve = night.figure(name)
    if curve is None:
        return (label, "", "")
    factor, unit = (100.0, "%") if curve.unit == "" else (1.0, curve.unit)
    sigma = None if curve.sigma is None else float(curve.sigma[-1]) * factor
    known = told(curve) if name == "coverage" else np.ones(len(curve.values), np.bool_)
    last = with_spread(float(curve.values[-1]) * factor, sigma, unit) if known[-1] else "cannot be told"
    peak = float(curve.values[known].max()) * factor if known.any() else math.nan
    return (label, last, f"highest {value_text(float(f'{peak:.3g}'), unit)}" if known.any() else "")


def told(coverage: Curve) -> NDArray[np.bool_]:
    """Return which estimates of the coverage tell something, (N,); one without σ is taken at its word."""
    return np.ones(len(coverage.values), np.bool_) if coverage.sigma is None else ~(coverage.sigma > UNTOLD)


def _dose(frames: Sequence[FrameEntry]) -> tuple[str, str]:
    """Return the charge per area where all fields overlap, Σ I·τ/p², C/m²."""
    known = [f for f in frames if f.probe_current is not None and f.dwell_time is not None]
    if not known:
        return "", ""
    dose = sum((f.probe_current or 0.0) * (f.dwell_time or 0.0) / f.pixel_size**2 for f in known)
    electrons = dose / ELEMENTARY_CHARGE * 1e-18
    return value_text(float(f"{dose / 1e3:.3g}"), "kC/m**2"), f"{rounded(electrons)}\u00a0electrons per nm²"


def rounded(value: float) -> str:
    """Return three significant digits without an exponent, thousands apart."""
    return f"{float(f'{value:.3g}'):,.10g}".replace(",", "\u202f")


def imaging(frame: FrameEntry, probe_diameter: float | None) -> Markup:
    """Return how a frame was taken."""
    rows = [
        ("Beam energy", value_text(round(frame.beam_energy / KEV, 6), "keV")),
        (
            "Probe current",
            "not known" if frame.probe_current is None else value_text(float(f"{frame.probe_current * 1e9:.4g}"), "nA"),
        ),
        ("Dwell time", "not known" if frame.dwell_time is None else value_text(frame.dwell_time * 1e6, "us")),
        ("Electrons per pixel", _electrons(frame)),
        ("Raster", f"{frame.columns} × {frame.rows} pixels"),
        ("Pixel size", value_text(frame.pixel_size * 1e9, "nm")),
        ("Field of view", value_text(frame.pixel_size * frame.columns * 1e6, "um")),
        ("Working distance", value_text(frame.working_distance * 1e3, "mm")),
        ("Probe diameter", "not known" if probe_diameter is None else value_text(probe_diameter * 1e9, "nm")),
    ]
    return pairs(rows)


def _electrons(frame: FrameEntry) -> str:
    if frame.probe_current is None or frame.dwell_time is None:
        return "not known"
    return f"{frame.probe_current * frame.dwell_time / ELEMENTARY_CHARGE:,.0f}".replace(",", "\u202f")


def detector(frame: Frame) -> Markup:
    """Return the segments as a drawing and a table, and what is known of each channel."""
    geometry = frame.geometry
    rows = [
        (
            segment.name,
            value_text(round(segment.inner_radius * 1e3, 6), "mm"),
            value_text(round(segment.outer_radius * 1e3, 6), "mm"),
            f"{math.degrees(segment.azimuth):.4g}°",
            f"{math.degrees(segment.span):.4g}°",
            *_channel(channel),
        )
        for segment, channel in zip(geometry.segments, frame.channels, strict=True)
    ]
    head = ("segment", "inner radius", "outer radius", "azimuth", "span", "offset", "gain", "read noise")
    x, y = (offset * 1e3 for offset in geometry.centre_offset)
    facts = pairs(
        [
            ("Working distance", value_text(round(geometry.working_distance * 1e3, 6), "mm")),
            ("Threshold of the diode", value_text(round(geometry.threshold / KEV, 6), "keV")),
            ("Rotation", f"{math.degrees(geometry.rotation):.4g}°"),
            (
                "Centre from the axis",
                f"x {value_text(float(f'{x:.4g}'), 'mm')}, y {value_text(float(f'{y:.4g}'), 'mm')}",
            ),
        ]
    )
    return tag("div", tag("div", _plan(geometry), facts, class_="plan"), table(rows, head), class_="detector")


def _channel(channel: Channel) -> tuple[str, str, str]:
    unknown = "not known"
    return (
        unknown if channel.offset is None else value_text(float(f"{channel.offset:.5g}"), "ADU"),
        unknown if channel.gain is None else value_text(float(f"{channel.gain:.4g}"), channel.gain_unit),
        unknown if channel.read_noise is None else value_text(float(f"{channel.read_noise:.3g}"), "ADU"),
    )


def _plan(geometry: DetectorGeometry) -> Markup:
    """Return the diode as it stands over the displayed image, azimuth counter-clockwise from the right."""
    largest = max(segment.outer_radius for segment in geometry.segments)
    pieces = [
        _piece(segment, geometry.rotation, 88 / largest, index) for index, segment in enumerate(geometry.segments)
    ]
    axis = tag("circle", cx=0, cy=0, r=2, class_="axis")
    return tag("svg", pieces, axis, viewBox="-100 -100 200 200", class_="diode", role="img", aria_label="the detector")


def _piece(segment: Segment, rotation: float, scale: float, index: int) -> Markup:
    inner, outer = segment.inner_radius * scale, segment.outer_radius * scale
    middle = segment.azimuth + rotation
    half = min(segment.span / 2, math.pi - 1e-3) - 0.02
    angles = np.linspace(middle - half, middle + half, 40)
    ring = [(outer * math.cos(a), -outer * math.sin(a)) for a in angles]
    ring += [(inner * math.cos(a), -inner * math.sin(a)) for a in angles[::-1]]
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in ring)
    radius = (inner + outer) / 2 if segment.span < 2 * math.pi - 1e-6 or inner > 0 else 0.0
    x, y = radius * math.cos(middle), -radius * math.sin(middle)
    name = tag("text", segment.name, x=x, y=y + 5, text_anchor="middle")
    return tag("g", tag("polygon", points=points), name, class_=f"segment s{index % 6}")


def steps(night: Chronicle) -> Markup:
    """Return the recipe's steps as they were played."""
    rows = [
        (
            str(index + 1),
            stretch.name,
            clock_time_at(night, stretch.begin),
            unbroken(duration_text(stretch.end - stretch.begin)),
            stretch.what,
            tag("span", stretch.state, class_=f"state {stretch.state}"),
        )
        for index, stretch in enumerate(night.stretches)
    ]
    return table(rows, ("", "step", "began, UTC", "took", "consisted of", "outcome"))


def clock_time_at(night: Chronicle, seconds: float) -> str:
    """Return the time of day at a moment of the run."""
    return clock_time(night.run.started + timedelta(seconds=seconds))


def events(night: Chronicle) -> Markup:
    """Return what happened."""
    rows = [
        (
            clock_time(event.time),
            unbroken(duration_text(round(max(0.0, night.seconds(event.time))))),
            tag("span", event.level, class_=f"state {event.level}"),
            event.kind,
            discreet(event.message),
        )
        for event in night.events
    ]
    return table(rows, ("UTC", "into the run", "level", "kind", "message"), "events")


def limits(night: Chronicle) -> Markup:
    """Return the range that each setting had."""
    rows = []
    for channel, ends in night.instrument.limits.items():
        texts = dict(flat(ends))
        rows.append((channel, texts.get("low", ""), texts.get("high", "")))
    return table(rows, ("setting", "at least", "at most"))


def versions(night: Chronicle) -> Markup:
    """Return which programs made the run and this report."""
    from acquisition.database import newest_schema

    rows: list[tuple[str, Content]] = [
        ("Run made by", f"Rilievo {night.run.version}"),
        ("Report made by", f"Rilievo {_version('rilievo')}"),
        ("Schema of the database", newest_schema()),
        ("Python", platform.python_version()),
    ]
    rows += [(name, _version(name)) for name in ("numpy", "tifffile", "sqlalchemy", "pint")]
    return pairs(rows)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
