"""What of a recipe lies beyond the instrument's limits, or the recipe's own: each setpoint by itself."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterator, Mapping
from typing import TypeAlias

from acquisition.imaging import ImagingChange, ImagingText, LimitsText
from acquisition.recipe import Recipe
from acquisition.steps import RampText, Step
from drivers.contract import Instrument, Parameter
from drivers.document import Address
from drivers.errors import InputError, LimitError
from drivers.units import Q, format_quantity, quantity, si, unit_text

Finding: TypeAlias = tuple[Address, str]
"""Where something is wrong, and what."""


class SetpointLimits:
    """Checks what a recipe asks for against what the instrument takes.

    Parameters
    ----------
    instrument : Instrument
    limits : LimitsText or None
        The recipe's own.
    """

    def __init__(self, instrument: Instrument, limits: LimitsText | None) -> None:
        self._instrument = instrument
        self._limits = limits or LimitsText()
        self._settable = {
            name: channel for name, channel in instrument.channels().items() if isinstance(channel, Parameter)
        }
        self._verbs = _verbs_that_set(instrument)

    def recipe(self, recipe: Recipe) -> Iterator[Finding]:
        """Yield what is wrong in the whole recipe."""
        if recipe.imaging is not None:
            yield from self.imaging(recipe.imaging, ("imaging",))
        for address, step in recipe.walk():
            yield from self.step(step, address)

    def imaging(self, imaging: ImagingText | ImagingChange, at: Address) -> Iterator[Finding]:
        """Yield what the column does not take."""
        column = self._instrument.column
        if imaging.beam_energy is not None:
            yield from _beyond(column.beam_energy, imaging.beam_energy, (*at, "beam_energy"))
        if imaging.probe_current is not None:
            yield from _beyond(column.probe_current, imaging.probe_current, (*at, "probe_current"))

    def step(self, step: Step, at: Address) -> Iterator[Finding]:
        """Yield what is wrong in one step, those inside it left out."""
        if step.imaging is not None:
            yield from self.imaging(step.imaging, (*at, "imaging"))
        if step.gas is not None:
            yield from self._flows(step.gas, (*at, "gas"))
        if step.purge is not None:
            yield from self._flows(step.purge.flows, (*at, "purge"), purge=True)
        if step.ramp is not None:
            yield from self._ramp(step.ramp, (*at, "ramp"))
        for name, value in (step.settings or {}).items():
            yield from self._setting(name, value, (*at, "set", name))
        yield from self._adjustments(step, at)

    def _adjustments(self, step: Step, at: Address) -> Iterator[Finding]:
        """Yield what an adjustment would ask of the column beyond its limits."""
        column = self._instrument.column
        if step.beam_check is not None and step.beam_check.current is not None:
            yield from _beyond(column.probe_current, step.beam_check.current, (*at, "beam_check", "current"))
        for verb, text in (("autofocus", step.autofocus), ("stigmation", step.stigmation)):
            parameter = column.focus if verb == "autofocus" else column.stigmator_x
            room = quantity(parameter.limits.high - parameter.limits.low, parameter.unit)
            if text is not None and si(text.range) > si(room):
                widest = format_quantity(_in_unit(room, text.range))
                yield (
                    (*at, verb, "range"),
                    f"{_plain(text.range)} is wider than {parameter.name} reaches; {widest} at most",
                )
        if step.series is not None and step.series.correct_drift is not None:
            where = (*at, "series", "correct_drift", "limit")
            yield from _beyond(column.beam_shift_x, step.series.correct_drift.limit, where)

    def _ramp(self, ramp: RampText, at: Address) -> Iterator[Finding]:
        heater, highest = self._instrument.heater, self._limits.heater
        yield from _beyond(heater.temperature, ramp.heater, (*at, "heater"))
        yield from _beyond(heater.rate, ramp.rate, (*at, "rate"))
        if highest is not None and si(ramp.heater) > si(highest) + 1e-9:
            limit = format_quantity(_in_unit(highest, ramp.heater))
            message = f"{format_quantity(ramp.heater)} is above the recipe's own limit of {limit}"
            yield (*at, "heater"), f"{message} (limits.heater); lower the target, or raise the limit"

    def _flows(self, flows: Mapping[str, Q], at: Address, *, purge: bool = False) -> Iterator[Finding]:
        gases = self._instrument.gases
        for species, flow in flows.items():
            line = gases.get(species)
            if line is None:
                yield (*at, species), f"this instrument has no gas {species!r}{_instead(species, sorted(gases))}"
                continue
            if purge and line.reactive:
                inert = ", ".join(name for name, other in sorted(gases.items()) if not other.reactive)
                yield (*at, species), f"{species} reacts, and cannot purge; choose {inert or 'an inert gas'}"
            yield from _beyond(line.flow, flow, (*at, species))

    def _setting(self, name: str, value: Q, at: Address) -> Iterator[Finding]:
        verb = self._verbs.get(name)
        if verb is not None:
            yield at, f"{name} belongs to {verb}, whose rules set would pass by; write it with {verb}"
        elif name not in self._settable:
            others = sorted(self._settable.keys() - self._verbs.keys())
            yield at, f"this instrument has no parameter {name!r}{_instead(name, others)}"
        else:
            yield from _beyond(self._settable[name], value, at)


def _verbs_that_set(instrument: Instrument) -> dict[str, str]:
    """Return the parameters that have a verb of their own, with it."""
    heater, column = instrument.heater, instrument.column
    verbs = {heater.temperature.name: "ramp", heater.rate.name: "ramp"}
    verbs |= {column.beam_energy.name: "imaging", column.probe_current.name: "imaging"}
    return verbs | {line.flow.name: "gas" for line in instrument.gases.values()}


def _beyond(parameter: Parameter, value: Q, at: Address) -> Iterator[Finding]:
    try:
        parameter.check(value)
    except LimitError as error:
        limits = parameter.limits
        number = float(value.to(parameter.unit).magnitude)
        if not math.isfinite(number):
            yield at, f"{error.message} ({parameter.name})"
            return
        word = "below the lower" if number < limits.low else "above the upper"
        yield at, f"{_plain(value)} is {word} limit of {parameter.name}; write {_range(parameter, value)}"
    except InputError as error:
        yield at, f"{error.message} ({parameter.name})"


def _range(parameter: Parameter, value: Q) -> str:
    """Return what may be written, in the unit of ``value`` where that is readable."""
    limits = parameter.limits
    low, high = (
        _plain(_inside(_in_unit(quantity(limit, parameter.unit), value), sign))
        for limit, sign in ((limits.low, 1), (limits.high, -1))
    )
    if math.isinf(limits.low):
        return f"{high} at most"
    return f"{low} at least" if math.isinf(limits.high) else f"a value from {low} to {high}"


def _in_unit(limit: Q, written: Q) -> Q:
    """Return a limit in the unit that was written, or in its own where the number would be hard to read."""
    converted = limit.to(written.units)
    size = abs(float(converted.magnitude))
    return converted if size == 0 or 1e-2 <= size < 1e5 or math.isinf(size) else limit


def _inside(limit: Q, sign: int) -> Q:
    """Return a limit with six significant digits, rounded inwards: up where ``sign`` is 1, down where it is −1."""
    value = float(limit.magnitude)
    short = float(f"{value:.6g}")
    if math.isfinite(value) and (short - value) * sign < -1e-9 * abs(value):
        short += sign * 10.0 ** (math.floor(math.log10(abs(value))) - 5)
    return quantity(float(f"{short:.6g}"), unit_text(limit.units))


def _plain(value: Q) -> str:
    """Return a quantity; a difference of 1 °C is one of 1 K."""
    return format_quantity(value).replace("delta_degC", "K")


def _instead(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1) or [other for other in known if other.lower() == name.lower()]
    return f"; did you mean {close[0]!r}?" if close else f"; it has {', '.join(known) or 'none'}"
