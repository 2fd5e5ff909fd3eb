"""What leaves an instrument safe, part by part: what to send, and how the readback shows that it was done.

The safe state and the cleanup at a run's normal end are lists of the same parts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

from drivers.contract import GasLine, Heater, Instrument, Parameter
from drivers.document import Address
from drivers.errors import DocumentError, InputError, LimitError
from drivers.safety import SafePartFile
from drivers.units import Q, format_quantity, quantity, si

Send: TypeAlias = Callable[[Parameter, Q], None]
"""Sends a setpoint."""

NEAR = 2.0
"""K within which a heater's readback counts as there, where its own tolerance is smaller."""
TURNED = 0.5
"""K by which a readback must have moved the right way: several times a thermocouple's noise."""
NO_FLOW = 0.02
"""Share of a line's range below which nothing flows; mass-flow controllers show some offset when shut."""
PURGING = 0.1
"""Share of the setpoint within which a purge flows as asked."""
BLANKED, DOWN, CLOSED = 15.0, 60.0, 30.0
"""Default deadlines, s. A call that hangs may have to be given up first (``deadlines: {call: 5 s}``); a heater's sensor
lags behind, and goes on rising for a while after a ramp was turned back."""


class Part(Protocol):
    """One thing to do, that can be done again without harm."""

    @property
    def what(self) -> str:
        """What it does, as in "could not blank the beam"."""

    @property
    def within(self) -> float:
        """Seconds for doing it and seeing it done."""

    @property
    def lasting(self) -> float:
        """Seconds that it goes on before the next part may begin."""

    def do(self, send: Send) -> None:
        """Send what is to be sent; return when the hardware has taken it."""

    def look(self) -> str | None:
        """Return None where the readback shows that it is done, else what it shows."""


@dataclass
class Blank:
    """Keep the beam off the sample; the blanker itself says that it closed."""

    instrument: Instrument
    within: float = BLANKED
    lasting: float = 0.0
    what: str = "blank the beam"

    def do(self, send: Send) -> None:  # noqa: ARG002  a blanker is a switch, not a parameter
        """Close the blanker."""
        self.instrument.column.blank()

    def look(self) -> str | None:
        """Ask the blanker."""
        return None if self.instrument.column.blanked else "the blanker says that the beam is on the sample"


@dataclass
class SetRate:
    """Set how fast the heater goes down."""

    heater: Heater
    rate: Q
    within: float = BLANKED
    lasting: float = 0.0
    what: str = "set the heater's rate"

    def do(self, send: Send) -> None:
        """Send the rate."""
        send(self.heater.rate, self.rate)

    def look(self) -> str | None:
        """Return None: a heater that comes down shows it."""
        return None


@dataclass
class HeatDown:
    """Send the heater down. It has been done once the readback is there, or goes the right way; cooling takes hours."""

    heater: Heater
    target: Q
    within: float = DOWN
    lasting: float = 0.0
    what: str = "send the heater down"
    _highest: float | None = field(default=None, init=False)

    def do(self, send: Send) -> None:
        """Send the setpoint."""
        send(self.heater.temperature, self.target)

    def look(self) -> str | None:
        """Compare with the highest readback since the part began."""
        reading = self.heater.temperature.read()
        now, target = float(reading.value.to("K").magnitude), si(self.target)
        shown = f"the heater's readback is {now:.1f} K on its way to {target:.1f} K"
        if not reading.fresh:
            return f"{shown}, and old: of {reading.time:%H:%M:%S} UTC"
        tolerance = self.heater.temperature.tolerance
        if now <= target + max(NEAR, tolerance if tolerance < 50.0 else 0.0):
            return None
        self._highest = now if self._highest is None else max(self._highest, now)
        return None if now <= self._highest - TURNED else f"{shown}, and has not begun to fall"


@dataclass
class Close:
    """Close one gas line."""

    line: GasLine
    within: float = CLOSED
    lasting: float = 0.0

    @property
    def what(self) -> str:
        """Close, and the species."""
        return f"close {self.line.species}"

    def do(self, send: Send) -> None:
        """Ask for no flow."""
        send(self.line.flow, quantity(0.0, "sccm").to(self.line.flow.unit))

    def look(self) -> str | None:
        """Compare the flow with nothing."""
        flow = self.line.flow
        reading = flow.read()
        shown = float(reading.value.to(flow.unit).magnitude)
        full = flow.limits.high
        least = NO_FLOW * full if full < float("inf") else float(quantity(1.0, "sccm").to(flow.unit).magnitude)
        if reading.fresh and shown <= least:
            return None
        return f"{self.line.species} still reads {format_quantity(reading.value, 3)}"


@dataclass
class Purge:
    """Let one inert gas flow."""

    line: GasLine
    flow: Q
    within: float = CLOSED
    lasting: float = 0.0

    @property
    def what(self) -> str:
        """Purge, and the species."""
        return f"purge with {self.line.species}"

    def do(self, send: Send) -> None:
        """Ask for the flow."""
        send(self.line.flow, self.flow)

    def look(self) -> str | None:
        """Compare the flow with what was asked for."""
        reading = self.line.flow.read()
        shown, asked = si(reading.value), si(self.flow)
        if reading.fresh and abs(shown - asked) <= PURGING * asked:
            return None
        return f"{self.line.species} reads {format_quantity(reading.value, 3)} of {format_quantity(self.flow)}"


def sending_down(instrument: Instrument, target: Q | None = None, rate: Q | None = None) -> Iterator[Part]:
    """Yield what sends the heater down: at ``rate``, or as fast as it was last asked to go."""
    heater = instrument.heater
    rate = heater.rate.setpoint if rate is None else rate
    if rate is not None:  # as fast as the recipe itself last moved, which the sample has been seen to bear
        yield SetRate(heater, rate)
    yield HeatDown(heater, quantity(heater.idle, "K") if target is None else target)


def closing(instrument: Instrument, which: str = "all") -> list[Part]:
    """Return what closes ``all`` lines, the ``reactive`` ones, or one species; reactive gas before what purges."""
    lines = sorted(instrument.gases.values(), key=lambda line: (not line.reactive, line.species))
    if which == "reactive":
        return [Close(line) for line in lines if line.reactive]
    return [Close(line) for line in lines if which in ("all", line.species)]


def default_parts(instrument: Instrument) -> list[Part]:
    """Return the safe state of an instrument whose file names none: blank, heater down, reactive gas closed, purge."""
    inert = sorted((line for line in instrument.gases.values() if not line.reactive), key=_familiar)
    reactive = closing(instrument, "reactive")
    purges: list[Part] = []
    if inert and reactive:
        most = inert[0].flow.limits.high
        asked = float(quantity(50.0, "sccm").to(inert[0].flow.unit).magnitude)
        purges = [Purge(inert[0], quantity(min(asked, most), inert[0].flow.unit), lasting=300.0)]
    return [Blank(instrument), *sending_down(instrument), *reactive, *purges, *closing(instrument)]


def _familiar(line: GasLine) -> tuple[bool, str]:
    return line.species != "N2", line.species


def parts_of(instrument: Instrument) -> list[Part]:
    """Return the safe state that the instrument's file names, or the default one.

    Raises
    ------
    DocumentError
        With file, line and column, for what this instrument cannot do.
    """
    written = instrument.description.get("safe_state")
    if written is None:
        return default_parts(instrument)
    parts: list[Part] = []
    problems: list[tuple[Address, str]] = []
    for index, entry in enumerate(written):
        given = SafePartFile.model_validate(entry)
        problems += [(("safe_state", index, *place), message) for place, message in _impossible(given, instrument)]
        if not problems:
            parts += _parts(given, instrument)
    if problems:
        raise document_error(instrument, problems)
    return parts


def document_error(instrument: Instrument, problems: Sequence[tuple[Address, str]]) -> InputError:
    """Return an error that points into the instrument's file, or names the address where there is none."""
    if instrument.source is not None:
        return DocumentError([instrument.source.problem(message, place) for place, message in problems])
    told = "; ".join(f"{'.'.join(str(part) for part in place)}: {message}" for place, message in problems)
    return InputError(told, instrument.name)


def _parts(given: SafePartFile, instrument: Instrument) -> list[Part]:
    within = si(given.within)
    if given.blank is not None:
        return [Blank(instrument, within)]
    if given.heater is not None:
        parts = list(sending_down(instrument, given.heater, given.rate))
    elif given.close is not None:
        parts = closing(instrument, given.close)
    else:
        flows: Mapping[str, Q] = given.purge or {}
        parts = [Purge(instrument.gases[species], flow) for species, flow in flows.items()]
        if parts and given.lasting is not None:
            parts[-1].lasting = si(given.lasting)  # type: ignore[misc]
    for part in parts:
        part.within = within  # type: ignore[misc]
    return parts


def _impossible(given: SafePartFile, instrument: Instrument) -> Iterator[tuple[Address, str]]:
    """Yield what the instrument cannot do of one part, with the place within it."""
    known = ", ".join(sorted(instrument.gases)) or "none"
    if given.close is not None and given.close not in ("all", "reactive", *instrument.gases):
        yield ("close",), f"expected all, reactive, or a gas of this instrument ({known}); got {given.close!r}"
    for key, parameter in (("heater", instrument.heater.temperature), ("rate", instrument.heater.rate)):
        asked: Q | None = getattr(given, key)
        if asked is not None:
            yield from _beyond(parameter, asked, (key,))
    for species, flow in (given.purge or {}).items():
        line = instrument.gases.get(species)
        if line is None:
            yield ("purge", species), f"this instrument has no gas {species!r}; it has {known}"
        elif line.reactive:
            inert = ", ".join(name for name, other in sorted(instrument.gases.items()) if not other.reactive)
            yield ("purge", species), f"{species} reacts, and cannot purge; choose {inert or 'an inert gas'}"
        else:
            yield from _beyond(line.flow, flow, ("purge", species))


def _beyond(parameter: Parameter, asked: Q, place: Address) -> Iterator[tuple[Address, str]]:
    try:
        parameter.check(asked)
    except LimitError as error:
        yield place, f"{error.message} ({parameter.name})"
