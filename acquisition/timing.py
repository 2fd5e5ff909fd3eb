"""How long actions take: a model of the engine that needs no clock."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from acquisition import effort
from acquisition.actions import (
    Acquire,
    Action,
    Autofocus,
    Balance,
    BeginSeries,
    Configure,
    CorrectDrift,
    Dark,
    Hold,
    Imaging,
    Ramp,
    SetGas,
    Stigmation,
)
from drivers.contract import Instrument, ScanTiming
from drivers.units import Q, parse_quantity, si


@dataclass(frozen=True, slots=True)
class Timing:
    """What the instrument needs beyond what the recipe says.

    Attributes
    ----------
    scan : ScanTiming
        Fly-back and overhead of frames.
    start_temperature : float, K
        Of the heater, when the run begins.
    gas_settling : float, s
        Until the flows stand; what closes has closed before anything opens.
    heater_lag : float, s
        Time constant with which the readback follows the controller's working setpoint.
    """

    scan: ScanTiming
    start_temperature: float = 298.15
    gas_settling: float = 2.0
    heater_lag: float = 20.0

    @classmethod
    def of(cls, instrument: Instrument) -> Timing:
        """Return the timing of an instrument that waits at its idle temperature.

        The heater's lag is taken from its ``time_constant`` in the instrument's file, where there is one.

        Raises
        ------
        InputError
            For a time constant that cannot be read.
        """
        heater = instrument.description.get("heater")
        given = heater.get("time_constant") if isinstance(heater, Mapping) else None
        known = {} if given is None else {"heater_lag": si(parse_quantity(given, "s"))}
        return cls(instrument.detector.timing, instrument.heater.idle, **known)

    def frame(self, imaging: Imaging) -> float:
        """Return how long a frame takes, s."""
        return self.scan.seconds(imaging.scan())

    def gas(self, before: Mapping[str, Q], after: Mapping[str, Q]) -> float:
        """Return how long it takes to go from one mixture to another, s: once to close, and once to open or change."""
        old, new = ({name: si(flow) for name, flow in flows.items() if si(flow) > 0} for flows in (before, after))
        closing = bool(old.keys() - new.keys())
        opening = any(old.get(name) != flow for name, flow in new.items())
        return self.gas_settling * (closing + opening)

    def ramp(self, start: float, ramp: Ramp) -> float:
        """Return how long a ramp from ``start`` (K) takes, s.

        The working setpoint runs for |ΔT|/r. A readback that follows with the time constant τ then still lacks
        e = r·τ·(1 − exp(−|ΔT|/(r·τ))) and comes within the tolerance δ after τ·ln(e/δ) more.
        """
        step, rate, tolerance = abs(si(ramp.target) - start), si(ramp.rate), si(ramp.tolerance)
        if step <= tolerance:
            return 0.0
        running = step / rate
        if self.heater_lag <= 0:
            return running
        lacking = rate * self.heater_lag * -math.expm1(-running / self.heater_lag)
        return running + self.heater_lag * max(math.log(lacking / tolerance), 0.0)


@dataclass(frozen=True, slots=True)
class Moment:
    """One action at its time.

    Attributes
    ----------
    action : Action
    start, duration : float, s
        From the start of the run.
    temperature : float, K
        Of the heater when the action ends.
    imaging : Imaging or None
        As it stands during the action.
    """

    action: Action
    start: float
    duration: float
    temperature: float
    imaging: Imaging | None

    @property
    def end(self) -> float:
        """When the next action may begin, s."""
        return self.start + self.duration


def _series(action: BeginSeries, frame: float) -> float:
    """Return how long a series takes at most, s."""
    longest = (action.count - 1) * max(si(action.every), frame) + frame
    return longest if action.duration is None else min(longest, si(action.duration) + frame)


def play(actions: Iterable[Action], timing: Timing) -> Iterator[Moment]:
    """Yield every action at its time; a series is one stretch, and its frames are not yielded one by one.

    Frame n of a series begins n·every after the series did, or as soon as the one before it has ended; the series
    ends with its last frame. Of a pace, the longest time between frames counts.
    """
    now, temperature, frame = 0.0, timing.start_temperature, 0.0
    imaging: Imaging | None = None
    flows: dict[str, Q] = {}
    for action in actions:
        duration = 0.0
        match action:
            case Acquire() | CorrectDrift() if action.group is not None:
                continue
            case Acquire():
                duration = frame
            case BeginSeries():
                duration = _series(action, frame)
            case Configure():
                imaging = action.imaging
                frame = timing.frame(imaging)
            case SetGas():
                duration = timing.gas(flows, action.flows)
                flows = action.flows
            case Ramp():
                duration = timing.ramp(temperature, action)
                temperature = si(action.target)
            case Hold():
                duration = si(action.duration)
            case Dark():
                duration = action.frames * frame
            case Autofocus() | Stigmation() | Balance():
                duration = effort.seconds(action, timing.frame(action.imaging))
            case _:
                duration = effort.seconds(action, frame)
        yield Moment(action, now, duration, temperature, imaging)
        now += duration
