"""The little language of interlocks: what must not be, in words and units.

::

    heater above 850 degC for 2 s
    pressure outside 10..30 Pa
    gases.O2.flow differs from setpoint by 10 % for 30 s
    heater falls faster than 100 K/min
    any readback older than 5 s
    H2 and O2 in the flammable range above 500 Pa

A rule is read here without an instrument: names and dimensions are looked at where there is one
(:mod:`acquisition.interlocks`).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias, cast

from drivers.errors import InputError
from drivers.safety import LONGEST
from drivers.units import Q, format_quantity, parse_quantity, si

FORMS = (
    "NAME above VALUE",
    "NAME below VALUE",
    "NAME outside LOW..HIGH",
    "NAME differs from setpoint by VALUE",
    "NAME rises faster than RATE",
    "NAME falls faster than RATE",
    "NAME older than TIME",
    "any readback older than TIME",
    "GAS and GAS in the flammable range",
    "GAS and GAS in the flammable range above PRESSURE",
)
"""What may be written, each with or without ``for TIME`` at its end."""
EXAMPLE = "heater above 850 degC for 2 s"


@dataclass(frozen=True)
class Beyond:
    """``heater above 850 degC``."""

    channel: str
    comparison: Literal["above", "below"]
    threshold: Q

    def __str__(self) -> str:
        return f"{self.channel} {self.comparison} {written(self.threshold)}"


@dataclass(frozen=True)
class Outside:
    """``pressure outside 10..30 Pa``."""

    channel: str
    low: Q
    high: Q

    def __str__(self) -> str:
        low, high = written(self.low), written(self.high)
        if self.low.units == self.high.units:
            low = low.split()[0]
        return f"{self.channel} outside {low}..{high}"


@dataclass(frozen=True)
class Differs:
    """``gases.O2.flow differs from setpoint by 10 %``: a share of the setpoint, or a difference."""

    channel: str
    by: Q

    def __str__(self) -> str:
        return f"{self.channel} differs from setpoint by {written(self.by)}"


@dataclass(frozen=True)
class Runs:
    """``heater falls faster than 100 K/min``."""

    channel: str
    direction: Literal["rises", "falls"]
    rate: Q

    def __str__(self) -> str:
        return f"{self.channel} {self.direction} faster than {written(self.rate)}"


@dataclass(frozen=True)
class Old:
    """``any readback older than 5 s``; the channel is None for any."""

    channel: str | None
    age: Q

    def __str__(self) -> str:
        return f"{self.channel or 'any readback'} older than {written(self.age)}"


@dataclass(frozen=True)
class Flammable:
    """``H2 and O2 in the flammable range above 500 Pa``; without a pressure, what the gas rules allow."""

    one: str
    other: str
    above: Q | None = None

    def __str__(self) -> str:
        least = f" above {written(self.above)}" if self.above is not None else ""
        return f"{self.one} and {self.other} in the flammable range{least}"


Condition: TypeAlias = Beyond | Outside | Differs | Runs | Old | Flammable


@dataclass(frozen=True)
class Rule:
    """A condition, and how long it must last to count."""

    condition: Condition
    lasting: Q | None = None

    @property
    def seconds(self) -> float:
        """How long it must last, s."""
        return 0.0 if self.lasting is None else si(self.lasting)

    def __str__(self) -> str:
        return f"{self.condition}{f' for {written(self.lasting)}' if self.lasting is not None else ''}"


def written(value: Q) -> str:
    """Return a quantity with as many digits as it takes to read the same one back."""
    for digits in (6, 12, 15):
        text = format_quantity(value, digits)
        if float(text.split()[0]) == float(value.magnitude):
            return text
    return format_quantity(value, 17)


_NAME = r"[A-Za-z_][A-Za-z0-9_]*(?:\.[A-Za-z0-9_]+)*"
_NUMBER = r"[+-]?(?:\d+(?:\.\d+)?|\.\d+)(?:[eE][+-]?\d+)?"
_RANGE = re.compile(rf"({_NUMBER})\s*([^\d\s.+-].*?)?\s*\.\.\s*({_NUMBER})\s*(\S.*)")


def _beyond(name: str, comparison: str, value: str) -> Condition:
    return Beyond(name, cast("Literal['above', 'below']", comparison), parse_quantity(value))


def _outside(name: str, span: str) -> Condition:
    found = _RANGE.fullmatch(span)
    if found is None:
        raise InputError(f"expected LOW..HIGH with a unit after outside, such as 10..30 Pa; got {span!r}")
    first, unit, second, last = found.groups()
    low, high = parse_quantity(f"{first} {unit or last}"), parse_quantity(f"{second} {last}")
    if low.dimensionality != high.dimensionality:
        raise InputError(f"{written(low)} and {written(high)} cannot be the ends of one range")
    if not si(low) < si(high):
        raise InputError(f"expected the lower end first; got {written(low)}..{written(high)}")
    return Outside(name, low, high)


def _differs(name: str, value: str) -> Condition:
    by = parse_quantity(value)
    if str(by.units) in ("degree_Celsius", "degree_Fahrenheit"):
        by = parse_quantity(value, "delta_degC").to("kelvin")
    return Differs(name, _above_zero(by, "a difference"))


def _runs(name: str, direction: str, value: str) -> Condition:
    rate = _above_zero(parse_quantity(value), "a rate")
    if "delta_degree" in str(rate.units):  # a difference of 1 °C is one of 1 K
        rate = parse_quantity(rate, "kelvin/second").to("kelvin/minute")
    return Runs(name, cast("Literal['rises', 'falls']", direction), rate)


def _old(name: str, value: str) -> Condition:
    return Old(None if name == "any readback" else name, _a_while(value))


def _flammable(one: str, other: str, pressure: str | None) -> Condition:
    if one == other:
        raise InputError(f"expected two gases; got {one} twice")
    return Flammable(one, other, None if pressure is None else parse_quantity(pressure, "pascal"))


def _above_zero(value: Q, what: str) -> Q:
    if not value.magnitude > 0:
        raise InputError(f"expected {what} above zero; got {written(value)}")
    return value


def _a_while(value: str) -> Q:
    asked = _above_zero(parse_quantity(value, "second"), "a time")
    if si(asked) > LONGEST:
        raise InputError(f"expected a time up to 7 d; got {written(asked)}; check the unit")
    return asked


_FORMS: tuple[tuple[re.Pattern[str], Callable[..., Condition]], ...] = (
    (re.compile(rf"({_NAME}) and ({_NAME}) in the flammable range(?: above (.+))?"), _flammable),
    (re.compile(rf"(any readback|{_NAME}) older than (.+)"), _old),
    (re.compile(rf"({_NAME}) differs from (?:its )?setpoint by (.+)"), _differs),
    (re.compile(rf"({_NAME}) (rises|falls) faster than (.+)"), _runs),
    (re.compile(rf"({_NAME}) outside (.+)"), _outside),
    (re.compile(rf"({_NAME}) (above|below) (.+)"), _beyond),
)


def parse_rule(text: str) -> Rule:
    """Read a rule.

    Raises
    ------
    InputError
        With what may be written, or with what is wrong about a value.

    Examples
    --------
    >>> rule = parse_rule("heater above 850 degC for 2 s")
    >>> rule.condition.channel, rule.seconds, str(rule)
    ('heater', 2.0, 'heater above 850 degC for 2 s')
    """
    words = " ".join(text.split())
    head, found, tail = words.rpartition(" for ")
    if not found:
        head, tail = words, ""
    for pattern, make in _FORMS:
        match = pattern.fullmatch(head)
        if match is None:
            continue
        try:
            return Rule(make(*match.groups()), _a_while(tail) if found else None)
        except InputError as error:
            raise InputError(f"in the rule {_shown(words)}: {error.message}") from None
    forms = "; ".join(FORMS)
    raise InputError(
        f"{_shown(words)} is not a rule; write one such as {EXAMPLE!r}. What may be written: {forms}; each with "
        "for TIME at its end where it must last"
    )


def _shown(text: str) -> str:
    return repr(text if len(text) <= 80 else f"{text[:79]}…")
