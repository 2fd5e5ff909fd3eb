"""Interlocks: rules on readbacks, resolved on an instrument; what each looks at and how it tells that it is met.

An instrument's file holds its rules under ``interlocks``; a recipe may add rules, and never loosens or takes away one.
:mod:`acquisition.interlock_watch` evaluates them.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from acquisition.gas_rules import FLAMMABLE, FUELS, OXIDISERS, GasRules, burn
from acquisition.readbacks import Track
from acquisition.rules import Beyond, Differs, Flammable, Old, Outside, Rule, Runs, parse_rule, written
from acquisition.safe_parts import document_error
from drivers.contract import Instrument, Parameter, Readable
from drivers.document import Address, format_address
from drivers.errors import InputError
from drivers.safety import InterlockFile, Then
from drivers.units import Q, format_quantity, parse_quantity, quantity, si

SETTLE = 30.0
"""s that a rule must have been clear, unless it says otherwise."""
LONGEST = 600.0
"""s that a suspension may last, unless its rule says otherwise."""
STRENGTH: Mapping[Then, int] = {"warn": 0, "suspend": 1, "safe": 2}

Tracks: TypeAlias = Mapping[str, Track]
Test: TypeAlias = Callable[[Tracks, float], str | None]
"""From what the channels said and the present moment (s) to what is wrong; None where nothing is."""


@dataclass(frozen=True)
class Interlock:
    """One rule on one instrument.

    Attributes
    ----------
    rule : Rule
    then : str
        ``warn``, ``suspend`` or ``safe``.
    settle, longest : float, s
    stale_after : float or None, s
        Age from which a channel's silence counts as the rule being met; each channel's own unless given.
    channels : tuple of Readable
        What it looks at.
    test : callable
        What it asks of them.
    origin : str
        ``instrument`` or ``recipe``.
    """

    rule: Rule
    then: Then
    settle: float
    longest: float
    stale_after: float | None
    channels: tuple[Readable, ...]
    test: Test
    origin: str

    @property
    def text(self) -> str:
        """The rule in words."""
        return str(self.rule)

    @property
    def watches_age(self) -> bool:
        """Whether only the age of readbacks counts, not what they say."""
        return isinstance(self.rule.condition, Old)

    def met(self, tracks: Tracks, now: float) -> str | None:
        """Return what is wrong; a channel that does not answer keeps the rule from being watched, which is wrong too.

        Parameters
        ----------
        tracks : mapping of channel name to Track
        now : float, s
            On the clock's monotonic scale.
        """
        if not self.watches_age:
            for channel in self.channels:
                track = tracks[channel.name]
                patience = channel.stale_after if self.stale_after is None else self.stale_after
                if track.age(now) > patience:
                    return f"{_silent(track, now)}; {self.text!r} cannot be watched"
                if not track.known:
                    return None
        return self.test(tracks, now)


def _silent(track: Track, now: float) -> str:
    last = "the last readback" if track.known else "no readback yet"
    return f"{track.channel.name} has not answered for {track.age(now):.1f} s ({last})"


class Names:
    """What a rule may call the channels of an instrument.

    Every channel has its own name (``heater.temperature``); beside it there are ``heater``, ``pressure``, each gas
    (``H2``, ``gases.H2.flow``: its flow), and the last word of a name where no other channel ends in it.
    """

    def __init__(self, instrument: Instrument) -> None:
        self.instrument = instrument
        self._channels = instrument.channels()
        ends = [name.rpartition(".")[2] for name in self._channels]
        self._known: dict[str, Readable] = {
            end: channel for end, channel in zip(ends, self._channels.values(), strict=True) if ends.count(end) == 1
        }
        self._known |= {"heater": instrument.heater.temperature, "pressure": instrument.gauge.pressure}
        for species, line in instrument.gases.items():
            self._known |= {species: line.flow, f"gases.{species}.flow": line.flow}
        self._known |= self._channels

    def channel(self, name: str) -> Readable:
        """Return the channel of that name.

        Raises
        ------
        InputError
            With the names there are.
        """
        found = self._known.get(name)
        if found is not None:
            return found
        close = difflib.get_close_matches(name, self._known, n=1)
        if close:
            raise InputError(f"this instrument has no channel {name!r}; did you mean {close[0]!r}?")
        short = ", ".join(["heater", "pressure", *sorted(self.instrument.gases)])
        raise InputError(f"this instrument has no channel {name!r}; it has {short}, and {', '.join(self._channels)}")

    def gas(self, species: str) -> Readable:
        """Return a gas's flow."""
        line = self.instrument.gases.get(species)
        if line is None:
            known = ", ".join(sorted(self.instrument.gases)) or "none"
            raise InputError(f"this instrument has no gas {species!r}; it has {known}")
        return line.flow

    def every(self) -> tuple[Readable, ...]:
        """Return all channels."""
        return tuple(self._channels.values())


def magnitude(channel: Readable, value: Q) -> float:
    """Return a value in a channel's unit; raises :class:`QuantityError` for another dimension."""
    return float(parse_quantity(value, channel.unit).to(channel.unit).magnitude)


def _shown(channel: Readable, value: float, like: Q) -> str:
    """Return a readback in the unit that the rule was written in."""
    return format_quantity(quantity(value, channel.unit).to(like.units), 5)


def _beyond(names: Names, condition: Beyond) -> tuple[tuple[Readable, ...], Test]:
    channel = names.channel(condition.channel)
    limit, sign = magnitude(channel, condition.threshold), 1.0 if condition.comparison == "above" else -1.0

    def test(tracks: Tracks, now: float) -> str | None:  # noqa: ARG001
        value = tracks[channel.name].value
        if (value - limit) * sign <= 0:
            return None
        shown = _shown(channel, value, condition.threshold)
        return f"{channel.name} is {shown}, {condition.comparison} {written(condition.threshold)}"

    return (channel,), test


def _outside(names: Names, condition: Outside) -> tuple[tuple[Readable, ...], Test]:
    channel = names.channel(condition.channel)
    low, high = magnitude(channel, condition.low), magnitude(channel, condition.high)

    def test(tracks: Tracks, now: float) -> str | None:  # noqa: ARG001
        value = tracks[channel.name].value
        if low <= value <= high:
            return None
        ends = f"{written(condition.low)} to {written(condition.high)}"
        return f"{channel.name} is {_shown(channel, value, condition.high)}, outside {ends}"

    return (channel,), test


def _differs(names: Names, condition: Differs) -> tuple[tuple[Readable, ...], Test]:
    channel = names.channel(condition.channel)
    if not isinstance(channel, Parameter):
        raise InputError(f"{channel.name} is only read, and has no setpoint to differ from")
    share = condition.by.dimensionless and not quantity(1.0, channel.unit).dimensionless
    unit = "delta_degC" if channel.unit == "K" else channel.unit
    by = si(condition.by) if share else float(parse_quantity(condition.by, unit).to(unit).magnitude)
    floor = channel.tolerance if channel.tolerance < float("inf") else 0.0

    def test(tracks: Tracks, now: float) -> str | None:  # noqa: ARG001
        asked = channel.setpoint
        if asked is None:
            return None
        setpoint, value = float(asked.magnitude), tracks[channel.name].value
        allowed = max(by * abs(setpoint), floor) if share else by
        if abs(value - setpoint) <= allowed:
            return None
        told = (
            f"{channel.name} is {format_quantity(quantity(value, channel.unit), 5)} where {format_quantity(asked, 5)}"
        )
        return f"{told} was asked for, a difference of more than {written(condition.by)}"

    return (channel,), test


def _runs(names: Names, condition: Runs) -> tuple[tuple[Readable, ...], Test]:
    channel = names.channel(condition.channel)
    unit = f"{channel.unit}/s"
    limit, sign = si(parse_quantity(condition.rate, unit)), 1.0 if condition.direction == "rises" else -1.0
    scale = si(quantity(1.0, unit))

    def test(tracks: Tracks, now: float) -> str | None:
        rate = tracks[channel.name].rate(now)
        if rate is None or rate * scale * sign <= limit:
            return None
        shown = format_quantity(quantity(rate * sign, unit).to(condition.rate.units), 4)
        return f"{channel.name} {condition.direction} by {shown}, faster than {written(condition.rate)}"

    return (channel,), test


def _old(names: Names, condition: Old) -> tuple[tuple[Readable, ...], Test]:
    channels = names.every() if condition.channel is None else (names.channel(condition.channel),)
    limit = si(condition.age)

    def test(tracks: Tracks, now: float) -> str | None:
        old = [tracks[channel.name] for channel in channels if tracks[channel.name].age(now) > limit]
        if not old:
            return None
        others = f", and {len(old) - 1} others" if len(old) > 1 else ""
        return f"{_silent(old[0], now)}{others}, longer than {written(condition.age)}"

    return channels, test


def _flammable(names: Names, condition: Flammable) -> tuple[tuple[Readable, ...], Test]:
    for species in (condition.one, condition.other):
        names.gas(species)
    if not burn(condition.one, condition.other) or not all(
        names.instrument.gases[species].reactive for species in (condition.one, condition.other)
    ):
        raise InputError(f"{condition.one} and {condition.other} do not burn with each other")
    fuel, oxidiser = fuel_and_oxidiser(condition.one, condition.other)
    first, second, gauge = names.gas(fuel), names.gas(oxidiser), names.instrument.gauge.pressure
    low, high = flammable_range(fuel, oxidiser)
    least = GasRules.of(names.instrument).flammable_above if condition.above is None else si(condition.above)
    scales = {channel.name: si(quantity(1.0, channel.unit)) for channel in (first, second, gauge)}

    def test(tracks: Tracks, now: float) -> str | None:  # noqa: ARG001
        one, other, pressure = (tracks[c.name].value * scales[c.name] for c in (first, second, gauge))
        if pressure <= least or min(one, other) <= 0.0:
            return None
        share = one / (one + other)
        if not low <= share <= high:
            return None
        return (
            f"{fuel} is {share:.0%} of {fuel} and {oxidiser} (flammable from {low:.0%} to {high:.0%}) at "
            f"{pressure:.3g} Pa, above {least:g} Pa"
        )

    return (first, second, gauge), test


def fuel_and_oxidiser(one: str, other: str) -> tuple[str, str]:
    """Return two gases that burn with each other, the fuel first."""
    return (other, one) if one in OXIDISERS or other in FUELS else (one, other)


def flammable_range(fuel: str, oxidiser: str) -> tuple[float, float]:
    """Return the shares of the fuel in both between which they burn; all of them where the pair is not known."""
    return FLAMMABLE.get((fuel, oxidiser), (0.0, 1.0))


def _resolve(rule: Rule, names: Names) -> tuple[tuple[Readable, ...], Test]:
    match rule.condition:
        case Beyond() as condition:
            return _beyond(names, condition)
        case Outside() as condition:
            return _outside(names, condition)
        case Differs() as condition:
            return _differs(names, condition)
        case Runs() as condition:
            return _runs(names, condition)
        case Old() as condition:
            return _old(names, condition)
        case Flammable() as condition:
            return _flammable(names, condition)


def interlock(given: InterlockFile, names: Names, origin: str) -> Interlock:
    """Return one rule on one instrument.

    Raises
    ------
    InputError
        For a text that is not a rule, a name that the instrument does not have, or a value of the wrong dimension.
    """
    rule = parse_rule(given.when)
    try:
        channels, test = _resolve(rule, names)
    except InputError as error:
        raise InputError(f"in the rule {str(rule)!r}: {error.message}") from None
    settle, longest = (
        fallback if asked is None else si(asked)
        for asked, fallback in ((given.settle, SETTLE), (given.longest, LONGEST))
    )
    stale_after = None if given.stale_after is None else si(given.stale_after)
    return Interlock(rule, given.then, settle, longest, stale_after, channels, test, origin)


def instrument_interlocks(instrument: Instrument) -> tuple[Interlock, ...]:
    """Return the rules that the instrument's file holds.

    Raises
    ------
    DocumentError
        With file, line and column of everything that is wrong with them.
    """
    entries = [InterlockFile.model_validate(entry) for entry in instrument.description.get("interlocks") or ()]
    found, problems = _all(entries, Names(instrument), "instrument")
    if problems:
        raise document_error(instrument, problems)
    return tuple(found)


def recipe_interlocks(
    entries: Sequence[InterlockFile], instrument: Instrument, own: Sequence[Interlock]
) -> tuple[list[Interlock], list[tuple[Address, str]]]:
    """Return a recipe's rules on an instrument, and what is wrong with them, each with its place in the recipe.

    Parameters
    ----------
    entries : sequence of InterlockFile
        As the recipe has them.
    instrument : Instrument
    own : sequence of Interlock
        The instrument's, which stay in force.
    """
    found, problems = _all(entries, Names(instrument), "recipe")
    for index, mine in enumerate(found):
        looser = next((other for other in own if _says_more(other, mine)), None)
        if looser is not None:
            told = f"the instrument's own rule {looser.text!r}, then {looser.then}, is stricter and stays in force"
            problems.append((("interlocks", index, "when"), f"{told}; write a stricter rule, or remove this one"))
    return found, problems


def all_interlocks(instrument: Instrument, entries: Sequence[InterlockFile] = ()) -> tuple[Interlock, ...]:
    """Return the rules of a run: the instrument's, and those that its recipe adds.

    Raises
    ------
    DocumentError, InputError
        For what :func:`acquisition.plan.check` refuses with its place.
    """
    own = instrument_interlocks(instrument)
    added, problems = recipe_interlocks(entries, instrument, own)
    if problems:
        raise InputError("; ".join(f"{format_address(place)}: {message}" for place, message in problems), "the recipe")
    return (*own, *added)


def _all(
    entries: Sequence[InterlockFile], names: Names, origin: str
) -> tuple[list[Interlock], list[tuple[Address, str]]]:
    found: list[Interlock] = []
    problems: list[tuple[Address, str]] = []
    for index, entry in enumerate(entries):
        try:
            found.append(interlock(entry, names, origin))
        except InputError as error:
            problems.append((("interlocks", index, "when"), error.message))
    return found, problems


def _says_more(one: Interlock, other: Interlock) -> bool:
    """Return whether ``one`` is met whenever ``other`` is, no later, and answers no weaker; False where equal."""
    if STRENGTH[one.then] < STRENGTH[other.then] or one.rule.seconds > other.rule.seconds or one.rule == other.rule:
        return False
    if {channel.name for channel in one.channels} != {channel.name for channel in other.channels}:
        return False
    return _within(one.rule.condition, other.rule.condition)


def _within(one: object, other: object) -> bool:
    """Return whether a condition on the same channels is met wherever another one is."""
    match one, other:
        case Beyond(), Beyond() if one.comparison == other.comparison:
            sign = 1.0 if one.comparison == "above" else -1.0
            return (si(other.threshold) - si(one.threshold)) * sign >= 0
        case Outside(), Outside():
            return si(other.low) <= si(one.low) and si(one.high) <= si(other.high)
        case Outside(), Beyond():
            return (
                si(other.threshold) >= si(one.high)
                if other.comparison == "above"
                else si(other.threshold) <= si(one.low)
            )
        case Differs(), Differs() if one.by.dimensionality == other.by.dimensionality:
            return si(one.by) <= si(other.by)
        case Runs(), Runs() if one.direction == other.direction:
            return si(one.rate) <= si(other.rate)
        case Old(), Old():
            return si(one.age) <= si(other.age)
        case Flammable(), Flammable() if one.above is not None and other.above is not None:
            return si(one.above) <= si(other.above)
        case _:
            return False


def problems_of_texts(entries: Sequence[InterlockFile]) -> Iterator[tuple[Address, str]]:
    """Yield which texts are not rules at all; it takes no instrument to tell."""
    for index, entry in enumerate(entries):
        try:
            parse_rule(entry.when)
        except InputError as error:
            yield ("interlocks", index, "when"), error.message
