"""A run in words: what fills its time, and what a person should know before it starts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from acquisition.actions import (
    Acquire,
    Action,
    Autofocus,
    Balance,
    BeamCheck,
    BeginSeries,
    Configure,
    CorrectDrift,
    Dark,
    Decide,
    Hold,
    Imaging,
    Note,
    Ramp,
    Set,
    SetGas,
    Stigmation,
)
from acquisition.conditions import Condition
from acquisition.dry_run import DryRun
from acquisition.effort import lit_frames
from acquisition.gas_rules import is_reactive
from acquisition.timing import Moment
from acquisition.wording import duration_text
from drivers.units import Q, format_quantity, si

GLOW = 50.0
"""Change of the heater (K) after which dark frames are taken anew: a hot stage glows into the diode."""

_NO_DARKS = "no dark frames before; each segment's offset has to be estimated from the image"


class Entry(NamedTuple):
    """A stretch of the run: start and duration in s, and the action that fills it."""

    start: float
    duration: float
    address: str
    label: str


def timeline(moments: Iterable[Moment]) -> Iterator[Entry]:
    """Yield a stretch for each action, in its order; a series is one stretch, and some actions take no time."""
    for moment in moments:
        action = moment.action
        what = f"{action.name}: {label(action)}" if action.name else label(action)
        yield Entry(moment.start, moment.duration, action.address, what)


def label(action: Action) -> str:
    """Return what an action does, in a few words.

    >>> label(Ramp(address="steps[1].ramp", target="800 degC", rate="20 K/min"))
    'ramp to 800 degC at 20 K/min'
    """
    match action:
        case Configure():
            return _imaging(action.imaging)
        case SetGas():
            return mixture(action.flows)
        case Ramp():
            return f"ramp to {format_quantity(action.target)} at {rate_text(action.rate)}"
        case Hold():
            return f"hold for {format_quantity(action.duration)}"
        case Dark():
            return f"{action.frames} dark frame{'s' if action.frames > 1 else ''}"
        case BeginSeries():
            return _series(action)
        case Acquire():
            return f"frame {action.number + 1}"
        case Set():
            return f"set {action.parameter} to {format_quantity(action.value)}"
        case Note():
            return action.text
        case Autofocus() | Stigmation() | Balance() | BeamCheck() | CorrectDrift() | Decide():
            return _adjusting(action)


def condition_text(condition: Condition) -> str:
    """Return a condition in words: ``coverage above 0.5``."""
    return f"{condition.figure.replace('_', ' ')} {condition.comparison} {format_quantity(condition.threshold)}"


def _series(action: BeginSeries) -> str:
    if action.pace is None:
        return f"series of {action.count} frames, one every {format_quantity(action.every)}"
    every = f"{format_quantity(action.pace.at_least)} to {format_quantity(action.every)}"
    return f"series of {action.count} frames at most, one every {every}"


def _adjusting(action: Autofocus | Stigmation | Balance | BeamCheck | CorrectDrift | Decide) -> str:
    match action:
        case Autofocus():
            return f"autofocus over {format_quantity(action.range)}, {lit_frames(action)} frames at most"
        case Stigmation():
            return f"stigmation over {format_quantity(action.range)}, {lit_frames(action)} frames at most"
        case Balance():
            return f"brightness and contrast, {lit_frames(action)} frames at most"
        case BeamCheck():
            return f"probe current within {format_quantity(action.within)} of {format_quantity(action.current)}"
        case CorrectDrift():
            return f"drift correction by {action.by.replace('_', ' ')}"
        case Decide():
            return f"decision: {condition_text(action.condition)}"


def rate_text(rate: Q) -> str:
    """Return a heating rate as people write it: a difference of 1 °C is one of 1 K.

    >>> from drivers.units import parse_quantity
    >>> rate_text(parse_quantity("10 degC/min", "kelvin/second"))
    '10 K/min'
    """
    return format_quantity(rate).replace("delta_degC", "K")


def mixture(flows: Mapping[str, Q]) -> str:
    """Return a mixture in words: ``H2 10 sccm``; ``no gas`` for none."""
    parts = [f"{species} {format_quantity(flow)}" for species, flow in flows.items() if flow.magnitude > 0]
    return ", ".join(parts) or "no gas"


def _imaging(imaging: Imaging) -> str:
    beam = f"{format_quantity(imaging.beam_energy)}, {format_quantity(imaging.probe_current)}"
    raster = f"{imaging.rows} × {imaging.columns} over {format_quantity(imaging.field_of_view)}"
    return f"{beam}, {raster}, {format_quantity(imaging.dwell_time)} a pixel"


def notes(run: DryRun) -> Iterator[str]:
    """Yield what refuses nothing, but should be known; some sentences come more than once."""
    if run.limits.pressure is not None and run.chamber is None:
        yield (
            "the pressure cannot be foretold, because the instrument's file names no pumping speed; the limit is "
            "watched during the run"
        )
    yield from _stops(run.moments)
    yield from _darks(run.moments)
    yield from _end(run)


def _stops(moments: Iterable[Moment]) -> Iterator[str]:
    for moment in moments:
        if isinstance(moment.action, BeginSeries) and moment.action.stop_when is not None:
            stop = moment.action.stop_when
            name = moment.action.name or moment.action.address
            yield f"{name} may end early: when {stop.figure} is {stop.comparison} {format_quantity(stop.threshold)}"
        if isinstance(moment.action, BeginSeries) and moment.action.pace is not None:
            yield _pace(moment.action)


def _pace(action: BeginSeries) -> str:
    """Return how far the frames or the duration of a series may vary with its pace."""
    assert action.pace is not None  # noqa: S101  whoever calls has looked
    name, shortest, longest = action.name or action.address, si(action.pace.at_least), si(action.every)
    if action.duration is not None:
        fewest = int(si(action.duration) / longest + 1e-9) + 1
        return f"{name} takes from {fewest} to {action.count} frames, as fast as the surface changes"
    low, high = (duration_text((action.count - 1) * interval) for interval in (shortest, longest))
    return f"{name} lasts from {low} to {high}, as fast as the surface changes"


@dataclass
class _Offsets:
    """What the last dark frames measured, and what has changed since."""

    temperature: float
    dwell_time: float | None
    moved: str = ""

    def stale(self, moment: Moment) -> str | None:
        """Return why they do not hold for the frames of a moment; None where they do."""
        if self.moved:
            return f"{self.moved} was set since the last dark frames, whose offsets hold no longer"
        dwell_time = _dwell_time(moment)
        if dwell_time is not None and self.dwell_time is not None and dwell_time != self.dwell_time:
            before, now = (f"{seconds * 1e6:g} us" for seconds in (self.dwell_time, dwell_time))
            return f"the last dark frames had a dwell time of {before}, the frames have {now}; offsets depend on it"
        if abs(moment.temperature - self.temperature) > GLOW:
            return (
                f"the last dark frames were taken at {self.temperature:.0f} K, the frames are at "
                f"{moment.temperature:.0f} K; a hot stage glows"
            )
        return None


def _darks(moments: Iterable[Moment]) -> Iterator[str]:
    """Yield where frames are taken with offsets that nothing measured, or that hold no longer."""
    measured: _Offsets | None = None
    told: str | None = None
    for moment in moments:
        action = moment.action
        if isinstance(action, Dark):
            measured, told = _Offsets(moment.temperature, _dwell_time(moment)), None
        elif isinstance(action, Set) and measured is not None and action.parameter.startswith("detector."):
            measured.moved = action.parameter
        elif isinstance(action, Balance) and measured is not None:
            measured.moved = "brightness"
        elif isinstance(action, Acquire | BeginSeries):
            reason = _NO_DARKS if measured is None else measured.stale(moment)
            if reason is not None and reason != told:
                yield f"{action.address}: {reason}" + ("" if measured is None else ", so take dark frames anew")
            told = reason if reason is not None else told


def _dwell_time(moment: Moment) -> float | None:
    return None if moment.imaging is None else si(moment.imaging.dwell_time)


def _end(run: DryRun) -> Iterator[str]:
    if not run.moments:
        return
    temperature = run.moments[-1].temperature
    if temperature > run.instrument.heater.idle + GLOW:
        yield f"the recipe ends at {temperature:.0f} K; the cleanup sends the heater down"
    last = next((m.action.flows for m in reversed(run.moments) if isinstance(m.action, SetGas)), {})
    open_gases = [name for name, flow in last.items() if si(flow) > 0 and is_reactive(name, run.instrument.gases)]
    if open_gases:
        yield f"the recipe ends with {', '.join(open_gases)} flowing; the cleanup closes it"
