"""The watchdog: compares what an action was expected to take with what it takes.

The engine says what it begins and when something moved on (a frame, a readback that came nearer); the interlocks'
thread asks whether it is late. Neither waits for the other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from acquisition import effort
from acquisition.actions import (
    Acquire,
    Action,
    Autofocus,
    Balance,
    Configure,
    Dark,
    Hold,
    Imaging,
    Ramp,
    Set,
    SetGas,
    Stigmation,
)
from acquisition.timing import Timing
from drivers.clock import Clock
from drivers.contract import Instrument
from drivers.safety import WatchdogFile
from drivers.units import Q, format_quantity, quantity, si

FACTOR = 3.0
MARGIN = 120.0
"""s on top: a slow disk, a database that waits for a lock, a device that is tried again."""
GRACE = 300.0
"""s from the alert to the safe state."""
SETTLE = 5.0
"""s that a parameter without a rate of its own takes."""


@dataclass(frozen=True, slots=True)
class Stall:
    """An action that is late.

    Attributes
    ----------
    what : str
        Address of the action.
    waited, expected : float, s
        Since it began or last moved on, and what that should have taken at the most.
    hopeless : bool
        Whether the grace has passed as well, and the safe state is due.
    """

    what: str
    waited: float
    expected: float
    hopeless: bool

    @property
    def sentence(self) -> str:
        """What is told."""
        waited, expected = (format_quantity(quantity(seconds, "s"), 4) for seconds in (self.waited, self.expected))
        told = f"{self.what} has made no progress for {waited}; {expected} were expected at the most"
        return f"{told}, and a grace has passed" if self.hopeless else told


@dataclass(frozen=True, slots=True)
class _Expectation:
    what: str
    since: float
    allowed: float
    told: bool = False


class Watchdog:
    """Expected against actual progress of the action that is being played.

    Parameters
    ----------
    clock : Clock
    factor : float
        An action may take so many times what it is expected to take,
    margin : float, s
        and so much more, until it counts as stalled.
    grace : float, s
        From then to the safe state.
    """

    def __init__(self, clock: Clock, *, factor: float = FACTOR, margin: float = MARGIN, grace: float = GRACE) -> None:
        self._clock = clock
        self._factor = factor
        self._margin = margin
        self._grace = grace
        self._present: _Expectation | None = None  # replaced whole, never changed: two threads look at it

    @classmethod
    def of(cls, instrument: Instrument) -> Watchdog:
        """Return the watchdog that the instrument's file sets up under ``watchdog``, or the usual one."""
        given = WatchdogFile.model_validate(instrument.description.get("watchdog") or {})
        margin = MARGIN if given.margin is None else si(given.margin)
        return cls(
            instrument.clock,
            factor=given.factor,
            margin=margin,
            grace=GRACE if given.grace is None else si(given.grace),
        )

    def expect(self, what: str, seconds: float, *, wait: float = 0.0) -> None:
        """Say what begins, and how long it should take until it ends or :meth:`progress` is called.

        Parameters
        ----------
        what : str
            Address of the action.
        seconds : float, s
            As the model of timing foretells.
        wait : float, s
            What it waits on purpose before that or beside it, such as a hold, or a frame's moment in its series.
        """
        self._present = _Expectation(what, self._clock.monotonic(), wait + self._factor * seconds + self._margin)

    def progress(self) -> None:
        """Say that the action moves on: what is expected counts from now."""
        present = self._present
        if present is not None:
            self._present = replace(present, since=self._clock.monotonic(), told=False)

    def rest(self) -> None:
        """Say that nothing is expected: between actions, while paused or suspended, after the end."""
        self._present = None

    def look(self) -> Stall | None:
        """Return what is late: once when it is, and once more when the grace has passed."""
        present = self._present
        if present is None:
            return None
        waited = self._clock.monotonic() - present.since
        if waited > present.allowed + self._grace:
            if self._present is present:
                self._present = None
            return Stall(present.what, waited, present.allowed, hopeless=True)
        if waited > present.allowed and not present.told:
            if self._present is present:
                self._present = replace(present, told=True)
            return Stall(present.what, waited, present.allowed, hopeless=False)
        return None


@dataclass
class Pace:
    """What each action should take, one after another, after the model of the dry run.

    Attributes
    ----------
    timing : Timing
    """

    timing: Timing
    imaging: Imaging | None = None
    flows: Mapping[str, Q] | None = None

    def of(self, action: Action, temperature: float | None = None) -> tuple[float, float]:
        """Return what an action waits on purpose, and how long it takes beside that, s.

        Parameters
        ----------
        action : Action
        temperature : float, K, optional
            Of the heater as it begins; where the run began unless given.
        """
        match action:
            case Configure():
                self.imaging = action.imaging
                return 0.0, SETTLE
            case SetGas():
                before, self.flows = self.flows or {}, action.flows
                return 0.0, self.timing.gas(before, action.flows)
            case Ramp():
                start = self.timing.start_temperature if temperature is None else temperature
                return 0.0, self.timing.ramp(start, action)
            case Hold():
                return si(action.duration), 0.0
            case Acquire():
                return 0.0, self._frame
            case Dark():
                return 0.0, action.frames * self._frame
            case Set():
                return 0.0, SETTLE
            case Autofocus() | Stigmation() | Balance():
                return 0.0, effort.seconds(action, self.timing.frame(action.imaging))
            case _:
                return 0.0, effort.seconds(action, self._frame)

    @property
    def _frame(self) -> float:
        """How long a frame takes, s; nothing before there is imaging."""
        return 0.0 if self.imaging is None else self.timing.frame(self.imaging)
