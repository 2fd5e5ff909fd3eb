"""What was seen, as markup: alarms, the run, its gauges, bookings, events."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import timedelta

from acquisition.bookings import Booking
from acquisition.markup import Content, Markup, join, tag
from acquisition.page.sight import ENDED, Alarm, Gauge, Sight
from acquisition.page.traces import label_of
from acquisition.records import Event, FigureEntry
from acquisition.triggers import in_words, local_zone, wall
from acquisition.wording import (
    bytes_text,
    clock_time,
    date_time,
    discreet,
    duration_text,
    quantity_text,
    unbroken,
    with_spread,
)
from drivers.units import quantity

SIGNS = {
    "idle": "○",
    "running": "▶",
    "paused": "❚❚",
    "suspended": "⚠",
    "stopping": "■",
    "finished": "✓",
    "stopped": "■",
    "failed": "✕",
    "safe": "⚠",
}
_NO_FLOW = 4e-8
"""mol/s (about 0.05 sccm) below which a controller's zero is a zero."""
_WORDS = {
    "stopped": "stopped by a person",
    "safe": "ended in the safe state",
    "stopping": "ending, through its cleanup",
}


def alarms_html(alarms: Sequence[Alarm]) -> Markup:
    """Return what must not be overlooked; one that an event raised can be put aside."""
    return join([_alarm(alarm) for alarm in alarms])


def _alarm(alarm: Alarm) -> Markup:
    aside = (
        tag("button", "Seen", type="button", data_aside=alarm.event, aria_label=f"Put aside: {alarm.title}")
        if alarm.event
        else None
    )
    sign = tag("span", "✕" if alarm.level == "error" else "⚠", class_="sign", aria_hidden="true")
    told = tag("div", tag("b", alarm.title), discreet(alarm.text))
    return tag("div", sign, told, aside, class_=f"alarm {alarm.level}")


def badge(state: str) -> Markup:
    """Return a run's state as a word with its sign."""
    return tag("span", f"{SIGNS.get(state, '●')} {_WORDS.get(state, state)}", class_=f"badge {state}")


def run_html(sight: Sight) -> Markup:
    """Return what runs: name, state, step, how far it is and what is left."""
    run = sight.run
    if run is None:
        return join(
            tag("h1", "Nothing has run yet"),
            tag("p", "Write a recipe and book it; it appears here when it starts.", class_="under"),
        )
    step, total = sight.step, sight.elapsed + (sight.left or 0.0)
    share = 100.0 if run.state in ENDED else 100 * sight.elapsed / total if total > 0 else 0.0
    parts: list[Content] = [
        tag("h1", run.name),
        tag(
            "p",
            badge(run.state),
            tag("span", f"on {sight.instrument}", class_="under"),
            tag("code", run.id),
            class_="outcome",
        ),
        tag("p", discreet(run.reason), class_="reason") if run.reason else None,
    ]
    if run.state not in ENDED:
        bar = tag("i", style=f"width:{min(100.0, share):.1f}%")
        parts.append(
            tag(
                "div",
                bar,
                class_=f"progress {run.state}",
                role="progressbar",
                aria_label="the night",
                aria_valuenow=round(share),
                aria_valuemin=0,
                aria_valuemax=100,
            )
        )
        where = "the first step has not begun" if step is None else step.label
        number = f"{step.number} of {step.count}: " if step is not None and step.number else ""
        left = "" if sight.left is None else f"{unbroken(duration_text(round(sight.left)))} left"
        parts.append(
            tag("p", tag("span", tag("b", f"{number}{where}")), tag("span", _times(sight, left)), class_="where")
        )
    else:
        parts.append(tag("p", tag("span", _times(sight, "")), class_="where"))
    return join(parts)


def _times(sight: Sight, left: str) -> str:
    run = sight.run
    if run is None:
        return ""
    if sight.left is not None and run.state not in ENDED:
        end = run.started + timedelta(seconds=sight.elapsed + sight.left)
        left = f"{left}, ends about {end:%H:%M} UTC"
    begun = f"began {date_time(run.started)} UTC"
    into = f"{unbroken(duration_text(round(sight.elapsed)))} {'long' if run.state in ENDED else 'into it'}"
    return " · ".join(part for part in (left, into, begun) if part)


def tiles_html(sight: Sight) -> Markup:
    """Return the gauges with what was asked of them, the frames and the figures."""
    if sight.run is None:
        return Markup("")
    tiles = [_gauge(gauge) for gauge in sight.gauges if not _closed(gauge)]
    if any(gauge.unit == "mol/s" for gauge in sight.gauges) and not any(
        gauge.unit == "mol/s" and not _closed(gauge) for gauge in sight.gauges
    ):
        tiles.append(_tile("gas", "none", "no flow, none asked"))
    counts = sight.counts
    left_out = f", {counts.left_out} left out" if counts.left_out else ""
    failed = f", {counts.failed} failed" if counts.failed else ""
    tiles.append(_tile("frames", str(counts.lit), f"and {counts.dark} dark"))
    tiles.append(_tile("height maps", str(counts.done), f"of {counts.lit}{left_out}{failed}"))
    figures = {} if sight.shape is None else sight.shape.figures
    for name, label in (("coverage", "oxide coverage"), ("roughness", "roughness Sq")):
        if name in figures:
            tiles.append(_tile(label, figure_words(figures[name]), f"frame {figures[name].frame_number}"))
    return tag("div", tiles, class_="tiles")


def figure_words(figure: FigureEntry) -> str:
    """Return a figure with its σ, in the unit that people read."""
    factor, unit = (100.0, "%") if figure.unit == "" else (1e9, "nm") if figure.unit == "m" else (1.0, figure.unit)
    return with_spread(figure.value * factor, None if figure.sigma is None else figure.sigma * factor, unit)


def _gauge(gauge: Gauge) -> Markup:
    asked = None if gauge.asked is None else f"asked {_reading(gauge.asked, gauge.unit)}"
    told = asked if gauge.fresh else f"⚠ old, of {clock_time(gauge.time)}"
    label = label_of(gauge.channel, gauge.unit)
    return _tile(label, _reading(gauge.value, gauge.unit), told or "", "tile" if gauge.fresh else "tile old")


def _closed(gauge: Gauge) -> bool:
    """Return whether a gas neither flows nor is asked to, and says so freshly."""
    return gauge.unit == "mol/s" and gauge.fresh and not gauge.asked and abs(gauge.value) < _NO_FLOW


def _reading(value: float, unit: str) -> str:
    if unit == "mol/s":
        value = value if abs(value) > 1e-10 else 0.0
    return quantity_text(quantity(value, unit), 3)


def _tile(label: str, figure: str, more: str, class_: str = "tile") -> Markup:
    return tag("div", tag("b", figure), tag("span", label), tag("small", more) if more else None, class_=class_)


def event_rows(events: Iterable[Event]) -> list[list[str]]:
    """Return events as rows: number, time, level, kind, message."""
    return [
        [str(event.number), clock_time(event.time), event.level, event.kind, discreet(event.message)]
        for event in events
    ]


def frame_words(sight: Sight) -> str:
    """Return which frame is shown."""
    frame = sight.frame
    if frame is None:
        return "no frame yet"
    return f"frame {frame.number}, {clock_time(frame.time)} UTC · offsets removed, one grey scale"


def shape_words(sight: Sight) -> str:
    """Return whose heights are shown."""
    shape = sight.shape
    if shape is None:
        return "no heights yet"
    behind = 0 if sight.frame is None else sight.frame.number - shape.frame_number
    late = f" · {behind} frame{'s' if behind > 1 else ''} behind" if behind > 0 else ""
    return f"frame {shape.frame_number}{late} · lit from the upper left"


def bookings_html(bookings: Sequence[Booking], *, most: int | None = None, removes: bool = False) -> Markup:
    """Return what is booked, the next start first."""
    if not bookings:
        return tag("p", "Nothing is booked.", class_="key")
    zone = local_zone()
    rows = []
    for booking in bookings[:most]:
        when = in_words(booking.trigger) if booking.due is None else wall(booking.due, zone)
        lasts, disk = booking.options.get("duration"), booking.options.get("disk")
        rows.append(
            tag(
                "tr",
                tag("td", str(booking.id)),
                tag("td", when),
                tag("td", tag("span", booking.state, class_=f"state {booking.state}")),
                tag("td", "" if lasts is None else unbroken(duration_text(float(lasts)))),
                tag("td", tag("b", booking.recipe_name), f" on {booking.instrument}"),
                tag("td", "" if disk is None else bytes_text(float(disk))),
                tag("td", booking.reason or (booking.run_id or "")),
                tag("td", _remove(booking)) if removes else None,
            )
        )
    heads = ["", "starts", "state", "lasts", "recipe", "disk", "", *([""] if removes else [])]
    head = tag("thead", tag("tr", [tag("th", name) for name in heads]))
    more = None
    if most is not None and len(bookings) > most:
        more = tag("p", f"and {len(bookings) - most} more", class_="key")
    return join(tag("div", tag("table", head, tag("tbody", rows)), class_="scroll"), more)


def _remove(booking: Booking) -> Markup | None:
    if booking.state == "running" and not booking.repeats:
        return None
    return tag("button", "Remove", type="button", data_remove=booking.id, aria_label=f"Remove {booking.title}")
