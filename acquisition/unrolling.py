"""From steps to flat actions: repeats and series unrolled, imaging inherited, an address for each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from acquisition.actions import (
    Acquire,
    Action,
    Autofocus,
    Balance,
    BeamCheck,
    BeginSeries,
    Branch,
    Configure,
    CorrectDrift,
    Dark,
    Decide,
    Hold,
    Imaging,
    Interruption,
    Note,
    Ramp,
    Set,
    SetGas,
    Stigmation,
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
        unrolled.step(step, f"steps[{index}]", imaging, _Inherited())
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

    def step(self, step: Step, at: str, base: Imaging | None, given: _Inherited) -> None:
        imaging = step.changed(base)
        given = given.within(step)
        if step.repeat is not None:
            for turn in range(step.repeat):
                for index, inner in enumerate(step.steps or ()):
                    self.step(inner, f"{at}.repeat[{turn}].steps[{index}]", imaging, given)
            return
        if step.when is not None:
            self.branches(step, at, imaging, given)
            return
        if step.images and imaging is not None:
            self.configure(imaging, {"address": at, **given.common})
        self.actions.extend(_actions(step, at, given.common, imaging))
        if step.series is not None:
            begin = _begin(step.series, f"{at}.series", given.common)
            self.actions.append(begin)
            if self.series:
                self.actions.extend(_frames(begin, step.series, given.common))

    def branches(self, step: Step, at: str, imaging: Imaging | None, given: _Inherited) -> None:
        """Add a decision and both its branches, of which one is played."""
        assert step.when is not None  # noqa: S101  whoever calls has looked
        decision = f"{at}.when"
        self.actions.append(
            Decide(
                address=decision,
                condition=step.when.condition(),
                within=step.when.within,
                otherwise=step.when.otherwise,
                at_most=step.when.at_most,
                **given.common,
            )
        )
        before, ends = self.standing, {}
        named: tuple[tuple[Branch, tuple[Step, ...]], ...] = (("then", step.then or ()), ("else", step.other or ()))
        for branch, steps in named:
            self.standing = before
            for index, inner in enumerate(steps):
                self.step(inner, f"{at}.{branch}[{index}]", imaging, given.on(decision, branch))
            ends[branch] = self.standing
        # How the beam stands depends on the branch: where they differ, it is set anew before the next frame.
        self.standing = ends["then"] if ends["then"] == ends["else"] else None


@dataclass(frozen=True)
class _Inherited:
    """What a step hands down to those inside it."""

    name: str = ""
    interruption: Interruption = "continue"
    needs: tuple[str, Branch] | None = None

    def within(self, step: Step) -> _Inherited:
        return replace(self, name=step.name or self.name, interruption=step.on_interruption or self.interruption)

    def on(self, decision: str, branch: Branch) -> _Inherited:
        return replace(self, needs=(decision, branch))

    @property
    def common(self) -> dict[str, Any]:
        return {"name": self.name, "on_interruption": self.interruption, "needs": self.needs}


def _actions(step: Step, at: str, common: dict[str, Any], imaging: Imaging | None) -> Iterator[Action]:
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
    yield from _adjustments(step, at, common, imaging)
    if step.dark is not None:
        yield Dark(address=f"{at}.dark", frames=step.dark, **common)
    if step.frame is not None:
        yield Acquire(address=f"{at}.frame", **common)
    for number in range(step.frames or 0):
        yield Acquire(address=f"{at}.frames[{number}]", number=number, **common)


def _adjustments(step: Step, at: str, common: dict[str, Any], imaging: Imaging | None) -> Iterator[Action]:
    if step.beam_check is not None:
        check = step.beam_check
        current = check.current or (imaging.probe_current if imaging is not None else None)
        given = {name: getattr(check, name) for name in ("within", "readings", "otherwise")}
        yield BeamCheck(address=f"{at}.beam_check", current=current, **given, **common)
    if imaging is None:
        return
    if step.balance is not None:
        levels = {name: getattr(step.balance, name) for name in ("dark", "bright", "percentile", "tolerance", "rounds")}
        yield Balance(address=f"{at}.balance", imaging=step.balance.look(imaging), **levels, **common)
    if step.autofocus is not None:
        yield Autofocus(address=f"{at}.autofocus", **step.autofocus.arguments(imaging), **common)
    if step.stigmation is not None:
        yield Stigmation(address=f"{at}.stigmation", **step.stigmation.arguments(imaging), **common)


def _begin(series: SeriesText, at: str, common: dict[str, Any]) -> BeginSeries:
    varying: dict[str, Any] = {}
    if series.pace is not None:
        varying = {"pace": series.pace.pace(), "duration": series.duration}
    condition = series.stop_when.condition() if series.stop_when is not None else None
    return BeginSeries(address=at, every=series.longest, count=series.count, stop_when=condition, **varying, **common)


def _frames(series: BeginSeries, written: SeriesText, common: dict[str, Any]) -> Iterator[Acquire | CorrectDrift]:
    corrections = _corrections(series, written, common)
    for frame in _exposures(series, common):
        yield frame
        if written.correct_drift is not None and frame.number % written.correct_drift.every == 0:
            yield next(corrections)


def _corrections(series: BeginSeries, written: SeriesText, common: dict[str, Any]) -> Iterator[CorrectDrift]:
    """Yield the corrections of the drift, each after its frame; the first only takes its frame for the anchor."""
    drift = written.correct_drift
    if drift is None:
        return
    group, previous = series.address, None
    given = {"by": drift.by, "limit": drift.limit, "anchor": drift.anchor}
    for number in range(0, series.count, drift.every):
        address = f"{group}[{number}].drift"
        yield CorrectDrift(address=address, group=group, number=number, previous=previous, **given, **common)
        previous = address


def _exposures(series: BeginSeries, common: dict[str, Any]) -> Iterator[Acquire]:
    group, every = series.address, si(series.every if series.pace is None else series.pace.at_least)
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
    >>> place_of("steps[4].then[0].series[10].drift")
    ('steps', 4, 'then', 0, 'series', 'correct_drift')
    """
    place: list[str | int] = []
    rest = address
    while rest:
        if place and place[-1] == "set":
            place.append(rest)
            break
        part, _, rest = rest.partition(".")
        word, _, index = part.partition("[")
        if word in ("steps", "then", "else"):
            place += [word, int(index[:-1])]
        elif word == "drift":
            place.append("correct_drift")
        elif word != "repeat":
            place.append(word)
    if len(place) > 2 and place[-2] == "purge":
        place.pop()
    return tuple(place)
