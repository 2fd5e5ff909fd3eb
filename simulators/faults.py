"""Faults: what goes wrong in a laboratory at night, by script or at random, on the instrument's clock.

A :class:`FaultPlan` is read from YAML or drawn from a seed, and wraps what an instrument is made of; what no fault is
meant for comes back as it is::

    plan = FaultPlan.read(path)
    backend = plan.wrap("heater.temperature", backend, clock)       # a figure, read or set
    blanker = plan.wrap_switch("column.blanker", blanker, clock)
    scanner = plan.wrap_scan("detector", scanner, clock, ("A", "B", "C", "D"), blanker)
    clock = plan.wrap_clock(clock)                                  # first of all, where the time of day may jump
    again = plan.wrap_call("heater", reconnect, clock)              # what reaches the device as a whole
    write = plan.wrap_write("disk", write, clock)                   # any function that writes

A plan in YAML::

    faults:
      - {kind: timeout, target: gauge.pressure, start: 10 min, duration: 30 s, wait: 2 s}
      - {kind: drift, target: heater.temperature, start: 1 h, rate: 0.01}     # K/s, the channel's unit per second
      - {kind: segment_dead, target: detector.B, start: 90 min}               # for ever

Times count from the moment of wrapping, or from the one that is given; the twin's, from the beginning of its world, so
that a twin that outlives its process meets each fault at its time. A target is a channel's name (``gases.O2.flow``)
or what such names begin with (``heater`` for all of the heater).

=================  =====================  ============================================================================
kind               natural targets        what happens
=================  =====================  ============================================================================
timeout            any                    the call takes ``wait`` and fails with DeviceTimeout
disconnect         any                    every call, a reconnection too, fails at once with DeviceUnavailable; then the
                                          device is there again
hang               any                    the call does not return, not even after the duration; later ones do
nonsense           any                    a figure reads ``value`` (NaN unless given), a switch the opposite of the
                                          truth, a scanner sends frames of one row less
freeze             any                    the readback, its time included, stays what it was; with ``fresh: true`` the
                                          time goes on; a scanner repeats its last frame
drift              figures                the readback runs away by ``rate`` (unit per second) and ``relative_rate``
                                          (share per second)
stuck              valves, switches       setpoints are taken without a word and change nothing
thermocouple       heater.temperature     reads ``value``, burnt-out upscale unless given (1645 K)
pressure_burst     gauge.pressure         ``value`` more (50 Pa unless given), which is pumped away within ``decay``
beam_trip          column, detector       probe current reads 0; frames are dark from the moment of the trip
segment_dead       detector.<segment>     counts are ``value`` (0 unless given)
segment_saturated  detector.<segment>     counts are ``value`` (65,535 unless given)
disk_full          disk                   writing fails with "no space left on device"
clock_step         clock                  the time of day jumps by ``value`` seconds (-3600 unless given)
=================  =====================  ============================================================================
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, ParamSpec, TypeVar, cast, get_args

from pydantic import Field, model_validator

from drivers import document
from drivers.clock import Clock
from drivers.contract import Backend, ReadBackend, ScanBackend, SwitchBackend
from drivers.errors import InputError
from drivers.units import Duration, parse_quantity, quantity, si

P = ParamSpec("P")
T = TypeVar("T")
Figure = TypeVar("Figure", bound=ReadBackend)

Kind = Literal[
    "timeout",
    "disconnect",
    "hang",
    "nonsense",
    "freeze",
    "drift",
    "stuck",
    "thermocouple",
    "pressure_burst",
    "beam_trip",
    "segment_dead",
    "segment_saturated",
    "disk_full",
    "clock_step",
]
KINDS: tuple[str, ...] = get_args(Kind)

DEFAULT_VALUES: Mapping[str, float] = {
    "nonsense": math.nan,
    "thermocouple": 1645.15,
    "pressure_burst": 50.0,
    "beam_trip": 0.0,
    "segment_dead": 0.0,
    "segment_saturated": 65535.0,
    "clock_step": -3600.0,
}

# Kinds by what the target's name begins with; the first that fits.
_SUITABLE: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("heater.temperature", ("timeout", "disconnect", "hang", "nonsense", "freeze", "drift", "thermocouple")),
    ("gauge", ("timeout", "disconnect", "hang", "nonsense", "freeze", "drift", "pressure_burst")),
    ("gases", ("timeout", "disconnect", "hang", "nonsense", "freeze", "stuck")),
    ("detector.", ("segment_dead", "segment_saturated")),
    ("detector", ("timeout", "disconnect", "hang", "nonsense", "freeze", "beam_trip")),
    ("column.blanker", ("timeout", "disconnect", "hang", "stuck")),
    ("column.probe_current", ("timeout", "disconnect", "hang", "drift", "beam_trip")),
    ("disk", ("disk_full",)),
    ("clock", ("clock_step",)),
    ("", ("timeout", "disconnect", "hang", "nonsense", "freeze", "drift")),
)
_FITTING: Mapping[str, tuple[str, ...]] = {
    "thermocouple": ("heater",),
    "pressure_burst": ("gauge",),
    "beam_trip": ("column", "detector"),
    "segment_dead": ("detector.",),
    "segment_saturated": ("detector.",),
    "disk_full": ("disk",),
    "clock_step": ("clock",),
}


class Fault(document.Strict):
    """One thing that goes wrong.

    Attributes
    ----------
    kind : str
        One of :data:`KINDS`; the module says what each does.
    target : str
        Name of a channel, or its beginning.
    start : quantity, s
        After the moment of wrapping.
    duration : quantity or None, s
        For ever unless given.
    value : float or None
        In the channel's unit.
    rate : float
        Of a drift, the channel's unit per second.
    relative_rate : float, 1/s
        Of a drift, share of the reading per second.
    wait : quantity, s
        How long a call hangs before it times out.
    decay : quantity, s
        Time constant of a pressure burst.
    fresh : bool
        Whether a frozen readback pretends to be new.
    """

    kind: Kind
    target: str = Field(min_length=1)
    start: Duration
    duration: Duration | None = None
    value: float | None = None
    rate: float = Field(default=0.0, allow_inf_nan=False)
    relative_rate: float = Field(default=0.0, allow_inf_nan=False)
    wait: Duration = parse_quantity("2 s")
    decay: Duration = parse_quantity("20 s")
    fresh: bool = False

    @model_validator(mode="after")
    def _sensible(self) -> Fault:
        for name in ("start", "duration", "wait", "decay"):
            given = getattr(self, name)
            if given is not None and si(given) < 0:
                raise ValueError(f"{name} lies before the beginning; write 0 s or more")
        fitting = _FITTING.get(self.kind)
        if fitting and not any((self.target + ".").startswith(f"{name.rstrip('.')}.") for name in fitting):
            wanted = " or ".join(f"{name}…" if name.endswith(".") else name for name in fitting)
            raise ValueError(f"{self.kind} happens to {wanted}, not to {self.target!r}")
        if self.kind.startswith("segment_") and "." not in self.target:
            raise ValueError(f"{self.kind} needs a segment, such as detector.A; got {self.target!r}")
        if self.kind == "drift" and not (self.rate or self.relative_rate):
            raise ValueError("a drift needs a rate or a relative_rate")
        return self

    @cached_property
    def begins(self) -> float:
        """Seconds from the moment of wrapping."""
        return si(self.start)

    @cached_property
    def ends(self) -> float:
        """Seconds from the moment of wrapping; infinite for a fault that stays."""
        return math.inf if self.duration is None else self.begins + si(self.duration)

    @property
    def level(self) -> float:
        """Its value, or the one that its kind has unless given."""
        return DEFAULT_VALUES.get(self.kind, math.nan) if self.value is None else self.value

    def active(self, time: float) -> bool:
        """Return whether it acts at ``time`` (s from the moment of wrapping)."""
        return self.begins <= time < self.ends

    def concerns(self, name: str) -> bool:
        """Return whether a channel is meant."""
        return name == self.target or name.startswith(f"{self.target}.")


class FaultPlan(document.Strict):
    """What goes wrong in a night.

    Attributes
    ----------
    faults : tuple of Fault
        Where several act on one channel, in this order.
    """

    faults: tuple[Fault, ...] = ()

    @classmethod
    def read(cls, path: Path) -> FaultPlan:
        """Return the plan of a YAML file.

        Raises
        ------
        DocumentError, InputError
            With every problem of the file and its place.
        """
        return document.read(path).validate(cls)

    @classmethod
    def parse(cls, text: str, name: str = "faults") -> FaultPlan:
        """Return the plan of a YAML text."""
        return document.parse(text, name).validate(cls)

    @classmethod
    def random(
        cls, seed: int, targets: Sequence[str], span: float, interval: float = 3600.0, longest: float = 300.0
    ) -> FaultPlan:
        """Draw faults that suit their targets; the same for the same seed.

        Parameters
        ----------
        seed : int
        targets : sequence of str
            Names of channels, ``detector``, ``detector.<segment>``, ``disk``, ``clock``.
        span : float, s
            Length of the night.
        interval : float, s
            Mean time between faults.
        longest : float, s
            Of a fault; lengths are spread evenly over their logarithm, from 1 s.
        """
        import numpy as np

        if not targets:
            raise InputError("random faults need one target at least, such as gauge.pressure")
        if not (span > 0 and interval > 0 and longest >= 1):
            raise InputError(
                f"expected a span and an interval above 0 s and a longest fault of 1 s or more; got {span:g} s, "
                f"{interval:g} s and {longest:g} s"
            )
        rng = np.random.default_rng(seed)
        faults, time = [], float(rng.exponential(interval))
        while time < span:
            target = targets[int(rng.integers(len(targets)))]
            kinds = next(kinds for beginning, kinds in _SUITABLE if target.startswith(beginning))
            kind = kinds[int(rng.integers(len(kinds)))]
            length = math.exp(float(rng.uniform(0.0, math.log(longest))))
            drift = float(rng.normal(0.0, 1e-3))
            faults.append(
                Fault(
                    kind=cast("Kind", kind),
                    target=target,
                    start=quantity(round(time, 3), "s"),
                    duration=quantity(round(length, 3), "s"),
                    relative_rate=drift if kind == "drift" else 0.0,
                )
            )
            time += float(rng.exponential(interval))
        return cls(faults=tuple(faults))

    def of(self, name: str) -> tuple[Fault, ...]:
        """Return the faults that concern a channel."""
        return tuple(fault for fault in self.faults if fault.concerns(name))

    def wrap(self, name: str, backend: Figure, clock: Clock, since: float | None = None) -> Figure:
        """Return a figure's backend with the plan's faults.

        ``since``, here and below, is the moment (s) on the clock's monotonic scale from which their times count; now
        unless given.
        """
        from simulators.faulty import FaultyFigure

        faults = self.of(name)
        return cast("Figure", FaultyFigure(name, cast("Backend", backend), clock, faults, since)) if faults else backend

    def wrap_switch(self, name: str, backend: SwitchBackend, clock: Clock, since: float | None = None) -> SwitchBackend:
        """Return a switch's backend with the plan's faults."""
        from simulators.faulty import FaultySwitch

        faults = self.of(name)
        return FaultySwitch(name, backend, clock, faults, since) if faults else backend

    def wrap_scan(
        self,
        name: str,
        backend: ScanBackend,
        clock: Clock,
        segments: Sequence[str],
        blanker: SwitchBackend | None = None,
        since: float | None = None,
    ) -> ScanBackend:
        """Return a scanner's backend with the plan's faults.

        Parameters
        ----------
        name : str
            Of the detector: ``detector``.
        backend : ScanBackend
        clock : Clock
        segments : sequence of str
            In the order of the counts' first axis.
        blanker : SwitchBackend, optional
            The one without faults: it makes the dark frames of a beam trip, which are filled with each segment's
            least count unless it is given.
        since : float, s, optional
        """
        from simulators.faulty import FaultyScan

        faults = tuple(
            fault
            for fault in self.faults
            if fault.concerns(name)
            or (fault.kind == "beam_trip" and fault.target.split(".")[0] == "column")
            or any(fault.target == f"{name}.{segment}" for segment in segments)
        )
        return FaultyScan(name, backend, clock, faults, tuple(segments), blanker, since) if faults else backend

    def wrap_clock(self, clock: Clock, since: float | None = None) -> Clock:
        """Return a clock whose time of day jumps as planned; its monotonic time does not."""
        from simulators.faulty import SteppedClock

        faults = self.of("clock")
        return SteppedClock(clock, faults, since) if faults else clock

    def wrap_call(
        self, name: str, call: Callable[[], None], clock: Clock, since: float | None = None
    ) -> Callable[[], None]:
        """Return what reaches a device as a whole, such as its reconnection, with the faults of its link."""
        from simulators.faulty import FaultyCall

        faults = self.of(name)
        return FaultyCall(name, call, clock, faults, since) if faults else call

    def wrap_write(self, name: str, write: Callable[P, T], clock: Clock, since: float | None = None) -> Callable[P, T]:
        """Return a function that writes, and fails with ``OSError(ENOSPC)`` while the disk is full."""
        from simulators.faulty import faulty_write

        faults = self.of(name)
        return faulty_write(name, write, clock, faults, since) if faults else write

    def describe(self) -> list[dict[str, Any]]:
        """Return the faults for the log: kind, target, times as value and unit; JSON can hold it."""
        return [fault.model_dump(mode="json", exclude_none=True) for fault in self.faults]
