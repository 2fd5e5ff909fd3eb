"""The report of a run: one HTML file that needs no network, for a screen, a phone or paper.

Everything that came from people and devices is data: it is escaped, the page forbids itself every request, and only
the one script whose checksum it names may run.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import math
import os
from importlib.resources import files
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from acquisition import facts
from acquisition.charts import Chart, Line, Mark, Panel, both_widths, cursor_data, legend_of
from acquisition.chronicle import Chronicle, Curve
from acquisition.durable import NO_ROOM
from acquisition.gallery import Gallery, Shot, load
from acquisition.log import Log
from acquisition.markup import Content, Markup, data, join, tag
from acquisition.records import FrameEntry
from acquisition.store import Store
from acquisition.wording import date_time, discreet, duration_text, flat, quantity_text, unbroken
from drivers.errors import DiskFull, RilievoError, StoreError
from drivers.frame import Frame

_STATES = {
    "finished": ("✓", "finished"),
    "stopped": ("■", "stopped by a person"),
    "failed": ("✕", "failed"),
    "safe": ("⚠", "ended in the safe state"),
}
_GASES = {"O2": "c1", "H2": "c4", "N2": "c2", "Ar": "c3"}
_FRAMES = {
    "done": "heights made",
    "left out": "left out",
    "failed": "no heights: failed",
    "": "no heights yet",
    "dark": "dark, beam blanked",
}


def write_report(log: Log, store: Store, run_id: str, output: Path) -> Path:
    """Write a run's report.

    Parameters
    ----------
    log : Log
    store : Store
    run_id : str
        Or the beginning of it.
    output : Path
        Replaced where it exists, once the new one is whole.

    Returns
    -------
    Path
        ``output``.

    Raises
    ------
    RunError
        When there is no such run.
    DiskFull, StoreError
        When the file cannot be written.
    """
    page = render(Chronicle(log, run_id), store)
    part = output.with_name(f".{output.name}.{os.getpid()}.part")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(page, encoding="utf-8")
        part.replace(output)
    except OSError as error:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        kind = DiskFull if error.errno in NO_ROOM else StoreError
        raise kind(f"the report cannot be written: {error.strerror or error}", str(output)) from None
    return output


def render(night: Chronicle, store: Store) -> str:
    """Return the page."""
    shots = load(night, store)
    gallery = Gallery(night, shots)
    sections: list[tuple[str, str, Content]] = [
        ("night", "The night", _night(night)),
        ("surface-over-time", "What the surface did", _surface(night)),
        ("relief", "The surface in three dimensions", gallery.viewer()),
        ("frames", "Chosen frames", gallery.cards() if shots else None),
        ("steps", "Steps", facts.steps(night) if night.stretches else None),
        ("events", "Events", facts.events(night) if night.events else None),
        ("settings", "How it was made", _settings(night, store, shots)),
    ]
    kept = [(name, title, content) for name, title, content in sections if content]
    menu = tag("nav", [tag("a", title, href=f"#{name}") for name, title, _ in kept])
    body = [tag("section", tag("h2", title), content, id=name) for name, title, content in kept]
    return _page(night, join(_header(night), menu, tag("main", _tiles(night), body), _footer()))


def _page(night: Chronicle, body: Markup) -> str:
    folder = files("acquisition") / "templates"
    names = ("report.css", "surface.js", "report.js")
    style, *scripts = ((folder / name).read_text(encoding="utf-8") for name in names)
    script = "".join(scripts)
    allowed = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{allowed}'; "
        "base-uri 'none'; form-action 'none'"
    )
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", f"{night.run.name} · Rilievo"),
        tag("style", Markup(style)),
    )
    return f"<!doctype html>\n{tag('html', head, tag('body', body, tag('script', Markup(script))), lang='en')}\n"


def _header(night: Chronicle) -> Markup:
    run = night.run
    sign, words = _STATES.get(run.state, ("●", f"{run.state}: not ended when this was written"))
    reason = tag("p", discreet(run.reason), class_="reason") if run.reason else None
    lasted = f"{date_time(run.started)} UTC · {unbroken(duration_text(night.end))}"
    return tag(
        "header",
        tag("p", "Rilievo · report of a run", class_="over"),
        tag("h1", run.name),
        tag("p", tag("span", f"{sign} {words}", class_=f"badge {run.state}"), class_="outcome"),
        reason,
        tag("p", f"{lasted} · {night.instrument.name}", tag("br"), tag("code", run.id), class_="under"),
        class_="top",
    )


def _tiles(night: Chronicle) -> Markup:
    tiles = [
        tag("div", tag("b", figure), tag("span", label), tag("small", more) if more else None, class_="tile")
        for label, figure, more in facts.summary(night)
    ]
    return tag("div", tiles, class_="tiles")


def _marks(night: Chronicle) -> list[Mark]:
    states = {entry.frame_id: entry.state for entry in night.reconstructions}
    marks = []
    for frame in night.frames:
        state = "dark" if frame.dark else states.get(frame.id, "")
        style = f"frame-{(state or 'waiting').replace(' ', '-')}"
        marks.append(Mark(night.seconds(frame.time), style, f"frame {frame.number}, {_FRAMES[state]}"))
    return marks


def _marks_key(night: Chronicle) -> Markup:
    styles = {mark.style: mark.title.split(", ", 1)[1] for mark in _marks(night)}
    return legend_of([(f"mark {style}", f"frame: {words}") for style, words in styles.items()])


def _night(night: Chronicle) -> Markup:
    """Return the timeline: temperature, pressure, flows, each against what was asked, and the frames."""
    panels = [
        panel
        for panel in (
            _panel(night, "Temperature", "K", "°C", 150),
            _panel(night, "Pressure", "Pa", "Pa", 110),
            _panel(night, "Gas flows", "mol/s", "sccm", 110),
            _drift(night),
        )
        if panel is not None
    ]
    chart = Chart("night", night.run.started, (0.0, night.end), panels, night.stretches, _marks(night))
    key = legend_of([("line c0", "read back"), ("line c0 asked", "asked for"), ("line truth", "the twin's truth")])
    return join(
        tag("div", both_widths(chart), tag("div", class_="tip", hidden=True), class_="figure"),
        tag("div", key, _marks_key(night), class_="keys"),
        data("data-night", cursor_data(chart)),
    )


def _panel(night: Chronicle, title: str, unit: str, sign: str, height: float) -> Panel | None:
    lines: list[Line] = []
    for index, curve in enumerate(_in_use(night.readbacks(unit))):
        label, style = _naming(curve.name, unit, index)
        asked = night.asked(curve.name)
        if asked is not None:
            lines.append(Line(_open(asked), f"{label}, asked", f"{style} asked"))
        lines.append(Line(_open(curve), label, style))
    sample = night.truth("sample_temperature") if unit == "K" else None
    if sample is not None:
        lines.append(Line(sample, "sample (twin's truth)", "truth"))
    if not lines:
        return None
    positive = [float(value) for line in lines for value in line.curve.values if value > 0]
    wide = unit == "Pa" and bool(positive) and max(positive) > 100 * min(positive)
    return Panel(title, sign, lines, height, logarithmic=wide)


def _drift(night: Chronicle) -> Panel | None:
    """Return how far the sample drifted, as the corrections found it."""
    styles = ("c1", "c4")
    lines = [Line(curve, curve.name, style, marks=True) for curve, style in zip(night.drift, styles, strict=False)]
    return Panel("Drift of the sample", "nm", lines, 110) if lines else None


def _in_use(curves: list[Curve]) -> list[Curve]:
    """Leave out channels that never left zero, such as a gas that was not used."""
    return [curve for curve in curves if curve.unit != "sccm" or float(abs(curve.values).max()) > 0.05]


def _open(curve: Curve) -> Curve:
    """Leave a gas out of the chart while it is closed, so that lines at zero do not lie on one another."""
    if curve.unit != "sccm":
        return curve
    closed = np.abs(curve.values) < 0.005 * np.abs(curve.values).max()
    between = np.flatnonzero(closed[:-1] & closed[1:]) + 1
    times = np.insert(curve.times, between, (curve.times[between - 1] + curve.times[between]) / 2)
    return Curve(curve.name, curve.unit, times, np.insert(curve.values, between, np.nan))


def _naming(channel: str, unit: str, index: int) -> tuple[str, str]:
    parts = channel.split(".")
    if unit == "mol/s":
        species = parts[1] if len(parts) > 1 else parts[0]
        return species, _GASES.get(species, f"c{(index + 5) % 7}")
    return parts[0], f"c{(0, 5, 3, 6)[index % 4]}" if unit == "K" else f"c{(2, 5, 3)[index % 3]}"


def _surface(night: Chronicle) -> Markup | None:
    """Return coverage and roughness over time, with σ and, on the twin, the truth."""
    coverage, roughness = night.figure("coverage"), night.figure("roughness")
    panels = []
    if coverage is not None:
        panels.append(Panel("Oxide coverage", "%", _coverage_lines(night, coverage), 170, limits=(-4.0, 104.0)))
    if roughness is not None:
        lines = [Line(roughness, "estimate ± σ", "c1", marks=True, bounds=(0.0, math.inf))]
        panels.append(Panel("Roughness Sq", roughness.unit, _truth_lines(night.truth("roughness")) + lines, 130))
    if not panels:
        return None
    told = [curve for curve in (coverage, roughness) if curve is not None]
    span = night.busy(told)
    outside = int(np.sum((told[0].times < span[0]) | (told[0].times > span[1])))
    chart = Chart("surface", night.run.started, span, panels, night.stretches)
    key = [("dot c0", "estimate, with bars of ± σ")]
    if any(line.style == "untold" for panel in panels for line in panel.lines):
        key.append(("dot untold", f"cannot be told: σ above {facts.UNTOLD:.0%}".replace("%", "\u00a0%")))
    left = None
    if outside:
        left = tag("p", f"{outside} frames lie before or after this stretch.", class_="key")
    if any(line.style == "truth" for panel in panels for line in panel.lines):
        key.append(("line truth", "what only the twin knows: the truth"))
    return join(
        tag("div", both_widths(chart), tag("div", class_="tip", hidden=True), class_="figure"),
        tag("div", legend_of(key), left, class_="keys"),
        data("data-surface", cursor_data(chart)),
    )


def _coverage_lines(night: Chronicle, coverage: Curve) -> list[Line]:
    """Return the truth, and the estimates apart from those that can tell nothing."""
    truth = night.truth("coverage")
    made = _truth_lines(None if truth is None else _percent(truth))
    told = facts.told(coverage)
    bounds = (0.0, 100.0)
    if told.any():
        made.append(Line(_percent(_part(coverage, told)), "estimate ± σ", "c0", marks=True, bounds=bounds))
    if not told.all():
        untold = _percent(_part(coverage, ~told))
        made.append(Line(untold, "cannot be told", "untold", marks=True, bounds=bounds, silent=True))
    return made


def _truth_lines(truth: Curve | None) -> list[Line]:
    return [] if truth is None else [Line(truth, "the twin's truth", "truth")]


def _part(curve: Curve, chosen: NDArray[np.bool_]) -> Curve:
    sigma = None if curve.sigma is None else curve.sigma[chosen]
    return Curve(curve.name, curve.unit, curve.times[chosen], curve.values[chosen], sigma)


def _percent(curve: Curve) -> Curve:
    sigma = None if curve.sigma is None else curve.sigma * 100
    return Curve(curve.name, "%", curve.times, curve.values * 100, sigma)


def _settings(night: Chronicle, store: Store, shots: list[Shot]) -> Markup:
    """Return all metadata, with units."""
    entry, frame = _any_frame(night, store, shots)
    probe = None if frame is None else frame.beam.probe_diameter
    of = "" if entry is None else f", frame {entry.number}"
    parts = [
        (f"Imaging{of}", None if entry is None else facts.imaging(entry, probe), True),
        (f"Detector{of}", None if frame is None else facts.detector(frame), True),
        ("Limits", facts.limits(night) if night.instrument.limits else None, False),
        ("Foretold by the dry run", _plan(night), False),
        (
            "Instrument",
            facts.table(flat(night.instrument.description)) if night.instrument.description else None,
            False,
        ),
        (f"Recipe {night.run.recipe_name}", tag("pre", night.run.recipe_text), False),
        (f"Readbacks{of}", _readbacks(frame), False),
        ("Versions", facts.versions(night), False),
    ]
    return join(
        [
            tag("details", tag("summary", title), tag("div", content), open=opened)
            for title, content, opened in parts
            if content
        ]
    )


def _any_frame(night: Chronicle, store: Store, shots: list[Shot]) -> tuple[FrameEntry | None, Frame | None]:
    """Return the last of the frames that can be read, with what the log says of it."""
    for shot in reversed(shots):
        if shot.stored is not None and shot.frame is not None:
            return shot.stored, shot.frame
    last = next((frame for frame in reversed(night.frames) if not frame.dark), None)
    if last is None:
        return None, None
    try:
        return last, store.read(last.stored.path)
    except RilievoError:
        return last, None


def _plan(night: Chronicle) -> Markup | None:
    if not night.run.plan:
        return None
    told = {key: value for key, value in night.run.plan.items() if key not in ("timeline", "name")}
    return facts.table(flat(told))


def _readbacks(frame: Frame | None) -> Markup | None:
    if frame is None or not frame.readbacks:
        return None
    rows = [
        (name, quantity_text(reading.value), "fresh" if reading.fresh else "old")
        for name, reading in frame.readbacks.items()
    ]
    return facts.table(rows, ("channel", "value", ""))


def _footer() -> Markup:
    words = (
        "Heights are relative to the middle of each field, in nanometres; σ is their standard uncertainty and holds "
        "the noise only, unless the figure says otherwise. "
        "Times are UTC. This file is complete: it asks the network for nothing."
    )
    return tag("footer", tag("p", words))
