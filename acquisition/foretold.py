"""Interlocks before the run: which of them the recipe itself would set off, and at which step.

The heater, the flows, the pressure and what ``set`` and ``imaging`` ask for are followed through the moments of a dry
run: a ramp is a straight line, and the pressure follows a change of the gas with the chamber's time constant.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from acquisition.actions import Action, Configure, Ramp, Set, SetGas
from acquisition.chamber import Chamber, chamber_of
from acquisition.gas_rules import GasRules
from acquisition.interlocks import Interlock, Names, flammable_range, fuel_and_oxidiser, magnitude
from acquisition.rules import Beyond, Flammable, Outside, Runs, written
from acquisition.timing import Moment
from drivers.contract import Instrument
from drivers.errors import InputError
from drivers.safety import Then
from drivers.units import Q, format_quantity, parse_quantity, quantity, si

SLACK = 1e-9
"""Share by which two numbers may differ and still count as the same."""


@dataclass(frozen=True, slots=True)
class Foretold:
    """What a recipe would set off.

    Attributes
    ----------
    action : Action
        Where it begins.
    interlock : Interlock
    message : str
    """

    action: Action
    interlock: Interlock
    message: str

    @property
    def then(self) -> Then:
        """What would follow."""
        return self.interlock.then


@dataclass(frozen=True, slots=True)
class Stretch:
    """A channel's course for a while, in its unit: from ``begin`` to ``finish``, straight or with a time constant.

    Attributes
    ----------
    cause : Action
        What sent it there.
    start, end : float, s
    begin, finish : float
    aim : float
        Where a bent course would go in the end.
    tau : float, s
        0 for a straight one.
    """

    cause: Action
    start: float
    end: float
    begin: float
    finish: float
    aim: float = math.nan
    tau: float = 0.0

    def crossing(self, limit: float) -> float:
        """Return when the course passes ``limit``, which lies between its ends, s."""
        if self.tau > 0:
            return self.start + self.tau * math.log((self.begin - self.aim) / (limit - self.aim))
        return self.start + (limit - self.begin) / (self.finish - self.begin) * (self.end - self.start)

    def beyond(self, limit: float, sign: float) -> tuple[float, float] | None:
        """Return from when to when it lies above ``limit`` (below where ``sign`` is −1); None where it never does."""
        slack = SLACK * max(abs(limit), 1e-12)
        first, last = ((value - limit) * sign > slack for value in (self.begin, self.finish))
        if first and last:
            return self.start, self.end
        if not first and not last:
            return None
        when = self.crossing(limit)
        return (self.start, when) if first else (when, self.end)


@dataclass
class _Course:
    """The stretches of every channel that can be foretold, by its name."""

    instrument: Instrument
    chamber: Chamber | None
    wanted: frozenset[str]
    """Names of the channels that somebody asks for."""
    stretches: dict[str, list[Stretch]] = field(default_factory=dict)
    flows: list[tuple[SetGas, float, float]] = field(default_factory=list)
    ramps: list[tuple[Ramp, float, float]] = field(default_factory=list)
    """Each with its rate (K/s, falling below 0) and how long it runs (s)."""

    def follow(self, moments: Sequence[Moment]) -> None:
        heater, gauge = self.instrument.heater, self.instrument.gauge.pressure
        names = {
            line.flow.name: (species, line.flow)
            for species, line in self.instrument.gases.items()
            if line.flow.name in self.wanted
        }
        first = moments[0].action
        temperature, pressure = heater.idle, self.chamber.base_pressure if self.chamber is not None else 0.0
        aim, gas, warm = pressure, first, first
        standing: dict[str, tuple[Action, float]] = dict.fromkeys(names, (first, 0.0))
        for moment in moments:
            action, start, end = moment.action, moment.start, moment.end
            match action:
                case SetGas():
                    gas = action
                    aim = pressure if self.chamber is None else self.chamber.pressure(action.flows)
                    self.flows.append((action, start, end))
                    for name, (species, flow) in names.items():
                        share = action.flows.get(species)
                        standing[name] = action, 0.0 if share is None else si(share) / si(quantity(1.0, flow.unit))
                case Ramp():
                    warm = action
                    temperature = self._ramp(action, moment, temperature)
                case Configure():
                    column = self.instrument.column
                    for channel, asked in (
                        (column.beam_energy, action.imaging.beam_energy),
                        (column.probe_current, action.imaging.probe_current),
                    ):
                        if channel.name in self.wanted:
                            standing[channel.name] = action, magnitude(channel, asked)
                case Set():
                    self._set(action, standing)
                case _:
                    pass
            if not isinstance(action, Ramp):
                self._flat(heater.temperature.name, warm, start, end, temperature)
            for name, (cause, value) in standing.items():
                self._flat(name, cause, start, end, value)
            if self.chamber is not None and gauge.name in self.wanted:
                pressure = self._pressure(gauge.name, gas, moment, pressure, aim)

    def _set(self, action: Set, standing: dict[str, tuple[Action, float]]) -> None:
        channel = self.instrument.channels().get(action.parameter) if action.parameter in self.wanted else None
        if channel is None:
            return
        try:
            standing[channel.name] = action, magnitude(channel, action.value)
        except InputError:
            return  # of the wrong dimension: the setpoint's own check tells

    def _flat(self, name: str, cause: Action, start: float, end: float, value: float) -> None:
        if end > start:
            self.stretches.setdefault(name, []).append(Stretch(cause, start, end, value, value))

    def _ramp(self, action: Ramp, moment: Moment, temperature: float) -> float:
        target, rate = si(action.target), si(action.rate)
        runs = abs(target - temperature) / rate
        name = self.instrument.heater.temperature.name
        arrived = min(moment.start + runs, moment.end) if moment.duration > 0 else moment.start
        if arrived > moment.start:
            self.stretches.setdefault(name, []).append(Stretch(action, moment.start, arrived, temperature, target))
        self._flat(name, action, arrived, moment.end, target)
        self.ramps.append((action, math.copysign(rate, target - temperature), runs))
        return target

    def _pressure(self, name: str, cause: Action, moment: Moment, pressure: float, aim: float) -> float:
        assert self.chamber is not None  # noqa: S101  asked by the caller
        tau = self.chamber.exchange
        if moment.duration <= 0:
            return pressure
        if tau <= 0 or math.isclose(pressure, aim, rel_tol=1e-6, abs_tol=1e-9):
            self._flat(name, cause, moment.start, moment.end, aim)
            return aim
        later = aim + (pressure - aim) * math.exp(-moment.duration / tau)
        stretch = Stretch(cause, moment.start, moment.end, pressure, later, aim, tau)
        self.stretches.setdefault(name, []).append(stretch)
        return later


def foretold(
    interlocks: Iterable[Interlock],
    moments: Sequence[Moment],
    instrument: Instrument,
    chamber: Chamber | None = None,
) -> Iterator[Foretold]:
    """Yield what the recipe would set off if everything went as planned; what only a fault can cause is not foretold.

    Parameters
    ----------
    interlocks : iterable of Interlock
    moments : sequence of Moment
    instrument : Instrument
    chamber : Chamber, optional
        As the instrument's file describes it unless given; without one, pressures are not foretold.
    """
    interlocks = tuple(interlocks)
    if not moments or not interlocks:
        return
    wanted = frozenset(channel.name for interlock in interlocks for channel in interlock.channels)
    course = _Course(instrument, chamber_of(instrument) if chamber is None else chamber, wanted)
    course.follow(moments)
    for interlock in interlocks:
        yield from _one(interlock, course, moments[-1].end)


def _one(interlock: Interlock, course: _Course, end: float) -> Iterator[Foretold]:
    names = Names(course.instrument)
    match interlock.rule.condition:
        case Beyond() as condition:
            channel = names.channel(condition.channel)
            sign = 1.0 if condition.comparison == "above" else -1.0
            limits = [(magnitude(channel, condition.threshold), sign)]
            yield from _spans(interlock, course, channel.name, limits, condition.threshold)
        case Outside() as condition:
            channel = names.channel(condition.channel)
            limits = [(magnitude(channel, condition.low), -1.0), (magnitude(channel, condition.high), 1.0)]
            yield from _spans(interlock, course, channel.name, limits, condition.high)
        case Runs() as condition:
            yield from _too_fast(interlock, course, condition)
        case Flammable() as condition:
            yield from _burning(interlock, course, condition, end)
        case _:
            return


def _spans(
    interlock: Interlock, course: _Course, name: str, limits: Sequence[tuple[float, float]], like: Q
) -> Iterator[Foretold]:
    """Yield each stretch of time beyond a limit that is longer than the rule allows, once for its cause."""
    unit = next(channel.unit for channel in interlock.channels if channel.name == name)
    for limit, sign in limits:
        since, until, worst, cause = math.nan, math.nan, math.nan, None
        spans: list[tuple[Action, float, float]] = []
        for stretch in course.stretches.get(name, ()):
            found = stretch.beyond(limit, sign)
            if found is None:
                continue
            extreme = max((stretch.begin, stretch.finish), key=lambda value: value * sign)
            if cause is None or found[0] > until + 1e-6:
                if cause is not None:
                    spans.append((cause, until - since, worst))
                since, cause, worst = found[0], stretch.cause, extreme
            until, worst = found[1], max((worst, extreme), key=lambda value: value * sign)
        if cause is not None:
            spans.append((cause, until - since, worst))
        word = "above" if sign > 0 else "below"
        for action, seconds, extreme in spans:
            if seconds > 0 and seconds >= interlock.rule.seconds:
                far = format_quantity(quantity(extreme, unit).to(like.units), 4)
                bound = format_quantity(quantity(limit, unit).to(like.units))
                yield _found(action, interlock, f"{name} would be {word} {bound} for {_time(seconds)} (up to {far})")


def _too_fast(interlock: Interlock, course: _Course, condition: Runs) -> Iterator[Foretold]:
    heater = course.instrument.heater.temperature
    if interlock.channels[0].name != heater.name:
        return
    limit = si(parse_quantity(condition.rate, "K/s"))
    sign = 1.0 if condition.direction == "rises" else -1.0
    for action, rate, seconds in course.ramps:
        if rate * sign > limit * (1 + SLACK) and seconds >= interlock.rule.seconds and seconds > 0:
            yield _found(action, interlock, f"the ramp {condition.direction} by {written(action.rate)}")


def _burning(interlock: Interlock, course: _Course, condition: Flammable, end: float) -> Iterator[Foretold]:
    if course.chamber is None:
        return  # the gas rules refuse such a mixture wherever the pressure is not known
    fuel, oxidiser = fuel_and_oxidiser(condition.one, condition.other)
    low, high = flammable_range(fuel, oxidiser)
    least = GasRules.of(course.instrument).flammable_above if condition.above is None else si(condition.above)
    for index, (action, start, _) in enumerate(course.flows):
        one, other = (si(action.flows[species]) if species in action.flows else 0.0 for species in (fuel, oxidiser))
        until = course.flows[index + 1][1] if index + 1 < len(course.flows) else end
        pressure = course.chamber.pressure(action.flows)
        if min(one, other) <= 0 or pressure <= least or until - start < interlock.rule.seconds:
            continue
        if low <= one / (one + other) <= high:
            share = f"{fuel} would be {one / (one + other):.0%} of {fuel} and {oxidiser} at {pressure:.3g} Pa"
            yield _found(action, interlock, share)


def _found(action: Action, interlock: Interlock, what: str) -> Foretold:
    named = f"{what}; the {interlock.origin}'s interlock {interlock.text!r}"
    remedy = "change the step" if interlock.origin == "instrument" else "change the step, or the rule"
    message = {
        "warn": f"{named} will warn",
        "suspend": f"{named} would suspend the run, and then end it safe; {remedy}",
        "safe": f"{named} would end the run safe; {remedy}",
    }[interlock.then]
    return Foretold(action, interlock, message)


def _time(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.3g} min" if seconds < 7200 else f"{seconds / 3600:.3g} h"
