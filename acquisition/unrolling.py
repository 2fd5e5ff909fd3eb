"""From steps to flat actions: repeats and series unrolled, imaging inherited, an address for each."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from acquisition.actions import (
    Acquire,
    Action,
    BeginSeries,
    Configure,
    Dark,
    Hold,
    Imaging,
    Interruption,
    Note,
    Ramp,
    Set,
    SetGas,
)
from acquisition.steps import SeriesText, Step
from drivers.document import Address
from drivers.units import quantity, si, ureg

SECOND = ureg.Unit("s")


def unroll(steps: tuple[Step, ...], imaging: Imaging | None, *, series: bool = True) -> tuple[Action, ...]:
    """Return what the engine does for these steps.

    Parameters
    ----------
    steps : tuple of Step
    imaging : Imaging or None
        Holds where a step does not change it.
    series : bool
        False leaves out the frames of series, which their ``BeginSeries`` tells already: enough to plan with, and
        much faster.
    """
    unrolled = _Unrolled(series)
    if imaging is not None:
        unrolled.configure(imaging, {"address": ""})
    for index, step in enumerate(steps):
        unrolled.step(step, f"steps[{index}]", imaging, "continue", "")
    return tuple(unrolled.actions)


class _Unrolled:
    """Gathers actions, and remembers how the beam stands."""

    def __init__(self, series: bool) -> None:
        self.series = series
        self.actions: list[Action] = []
        self.standing: Imaging | None = None

    def configure(self, imaging: Imaging, common: dict[str, Any]) -> None:
        if imaging != self.standing:
            address = ".".join(part for part in (common["address"], "imaging") if part)
            self.actions.append(Configure(**{**common, "address": address}, imaging=imaging))
            self.standing = imaging

    def step(self, step: Step, at: str, base: Imaging | None, inherited: Interruption, name: str) -> None:
        imaging = step.changed(base)
        interruption = step.on_interruption or inherited
        name = step.name or name
        if step.repeat is not None:
            for turn in range(step.repeat):
                for index, inner in enumerate(step.steps or ()):
                    self.step(inner, f"{at}.repeat[{turn}].steps[{index}]", imaging, interruption, name)
            return
        common: dict[str, Any] = {"address": at, "name": name, "on_interruption": interruption}
        if step.images and imaging is not None:
            self.configure(imaging, common)
        common = {"name": name, "on_interruption": interruption}
        self.actions.extend(_actions(step, at, common))
        if step.series is not None:
            begin = _begin(step.series, f"{at}.series", common)
            self.actions.append(begin)
            if self.series:
                self.actions.extend(_frames(begin, common))


def _actions(step: Step, at: str, common: dict[str, Any]) -> Iterator[Action]:
    """Yield the actions of a step, its repeat or series left out, in the order in which they happen."""
    if step.note is not None:
        yield Note(address=f"{at}.note", text=step.note, **common)
    for parameter, value in (step.settings or {}).items():
        yield Set(address=f"{at}.set.{parameter}", parameter=parameter, value=value, **common)
    if step.gas is not None:
        yield SetGas(address=f"{at}.gas", flows=step.gas, **common)
    if step.purge is not None:
        yield SetGas(address=f"{at}.purge.gas", flows=step.purge.flows, **common)
        yield Hold(address=f"{at}.purge.hold", duration=step.purge.duration, **common)
    if step.ramp is not None:
        optional = {"tolerance": step.ramp.tolerance, "at_most": step.ramp.at_most}
        given: dict[str, Any] = {key: value for key, value in optional.items() if value is not None}
        yield Ramp(address=f"{at}.ramp", target=step.ramp.heater, rate=step.ramp.rate, **given, **common)
    if step.hold is not None:
        yield Hold(address=f"{at}.hold", duration=step.hold, **common)
    if step.dark is not None:
        yield Dark(address=f"{at}.dark", frames=step.dark, **common)
    if step.frame is not None:
        yield Acquire(address=f"{at}.frame", **common)
    for number in range(step.frames or 0):
        yield Acquire(address=f"{at}.frames[{number}]", number=number, **common)


def _begin(series: SeriesText, at: str, common: dict[str, Any]) -> BeginSeries:
    condition = series.stop_when.condition() if series.stop_when is not None else None
    return BeginSeries(address=at, every=series.every, count=series.count, stop_when=condition, **common)


def _frames(series: BeginSeries, common: dict[str, Any]) -> Iterator[Acquire]:
    group, every = series.address, si(series.every)
    first = Acquire(address=f"{group}[0]", group=group, offset=quantity(0.0, "s"), **common)
    yield first
    for number in range(1, series.count):
        # Valid by construction. A night has thousands, and checking each again would take longer than all the rest.
        offset = ureg.Quantity(number * every, SECOND)
        yield first.model_copy(update={"address": f"{group}[{number}]", "number": number, "offset": offset})


def place_of(address: str) -> Address:
    """Return where in the document the action with this address was written.

    >>> place_of("steps[7].repeat[0].steps[1].series[17]")
    ('steps', 7, 'steps', 1, 'series')
    >>> place_of("steps[2].set.column.focus")
    ('steps', 2, 'set', 'column.focus')
    """
    place: list[str | int] = []
    rest = address
    while rest:
        if place and place[-1] == "set":
            place.append(rest)
            break
        part, _, rest = rest.partition(".")
        word, _, index = part.partition("[")
        if word == "steps":
            place += ["steps", int(index[:-1])]
        elif word != "repeat":
            place.append(word)
    if len(place) > 2 and place[-2] == "purge":
        place.pop()
    return tuple(place)
