"""What an instrument is: devices made of parameters, whatever hardware stands behind them.

A driver supplies *backends*, which speak the hardware's language and convert units once; the devices, their limits,
staleness rules and errors are the same everywhere. What was asked for (the setpoint) and what the hardware says
(the readback) are different things everywhere.

Backends are called from several threads: the engine's, the telemetry's, the interlocks', and those that bring the
instrument to its safe state; each device has a thread of the registry's own (:mod:`drivers.patience`) that makes the
calls, and there are more where a raster or the stage is stopped while another call is under way: a backend that shares
a wire guards it with a lock. A call that does not return in time is given up, and may still be in there when the next
one comes. A backend whose calls always end, and wait on the instrument's clock alone, may say so with an attribute
``prompt`` that is true: it is then called directly, from whatever thread.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from drivers.clock import Clock
from drivers.document import Document
from drivers.errors import DeviceError, DeviceUnavailable, InputError, LimitError, RilievoError
from drivers.frame import BeamSettings, Channel, Frame, Reading
from drivers.geometry import DetectorGeometry
from drivers.units import Q, format_quantity, magnitude, parse_quantity, quantity, quantity_json


class ReadBackend(Protocol):
    """Reads one figure of the hardware."""

    def get(self) -> tuple[float, datetime]:
        """Return the readback in the channel's unit, and the UTC time of its measurement."""


class Backend(ReadBackend, Protocol):
    """Reads and sets one figure of the hardware."""

    def put(self, value: float) -> None:
        """Send the setpoint, in the parameter's unit; return when the hardware has taken it, not when it is there."""


@dataclass(frozen=True, slots=True)
class Limits:
    """The range that a parameter may be set to, in the parameter's unit."""

    low: float = -math.inf
    high: float = math.inf

    def __post_init__(self) -> None:
        if not self.low <= self.high:
            raise InputError(f"expected a lower limit below the upper one; got {self.low:g} and {self.high:g}")


@contextmanager
def _devices_words(name: str) -> Iterator[None]:
    """Turn whatever a backend raises into an error that names the channel."""
    try:
        yield
    except RilievoError:
        raise
    except Exception as error:
        raise DeviceError(
            f"the driver failed with {type(error).__name__}: {error}; check the connection", name
        ) from error


class Readable:
    """A figure that the hardware tells.

    Parameters
    ----------
    name : str
        As in logs: ``heater.temperature``.
    unit : str
        Canonical unit of the channel, e.g. ``K``.
    backend : ReadBackend
    clock : Clock
    stale_after : float, s
        Age from which a readback no longer counts as fresh.
    """

    def __init__(self, name: str, unit: str, backend: ReadBackend, clock: Clock, stale_after: float = 5.0) -> None:
        self.name = name
        self.unit = unit
        self.stale_after = stale_after
        self._backend = backend
        self._clock = clock

    def through(self, between: Callable[[Any], Any]) -> None:
        """Put something between the channel and its backend; for the registry, before anybody reads."""
        self._backend = between(self._backend)

    def read(self) -> Reading:
        """Return the readback.

        Raises
        ------
        DeviceError
            When the hardware does not answer, or with something that is not a number.
        """
        with _devices_words(self.name):
            value, measured = self._backend.get()
        if not math.isfinite(value):
            raise DeviceError(f"expected a number in {self.unit}; the hardware answered {value}", self.name)
        fresh = (self._clock.now() - measured).total_seconds() <= self.stale_after
        return Reading(quantity(value, self.unit), measured, fresh)


class Parameter(Readable):
    """A figure that can be set, within limits, and read back.

    Parameters
    ----------
    name, unit, backend, clock, stale_after
        As :class:`Readable`.
    limits : Limits
    tolerance : float
        Difference between setpoint and readback, in ``unit``, below which the parameter has arrived.
    """

    def __init__(
        self,
        name: str,
        unit: str,
        backend: Backend,
        clock: Clock,
        *,
        limits: Limits | None = None,
        tolerance: float = math.inf,
        stale_after: float = 5.0,
    ) -> None:
        super().__init__(name, unit, backend, clock, stale_after)
        self.limits = limits or Limits()
        self.tolerance = tolerance
        self._writer = backend
        self._setpoint: float | None = None

    def through(self, between: Callable[[Any], Any]) -> None:
        """Put something between the channel and its backend; for the registry, before anybody reads."""
        self._backend = self._writer = between(self._writer)

    @property
    def setpoint(self) -> Q | None:
        """What was last asked for, or None before anything was."""
        return None if self._setpoint is None else quantity(self._setpoint, self.unit)

    def check(self, value: Q | str) -> float:
        """Return the value in the parameter's unit, after checking dimension and limits.

        Raises
        ------
        QuantityError
            For another dimension.
        LimitError
            For a value outside the limits; the message names value, limit and unit.
        """
        asked = parse_quantity(value, self.unit)
        number = magnitude(asked, self.unit)
        if not math.isfinite(number):
            raise LimitError(f"expected a finite number in {self.unit}; got {number}", self.name)
        slack = 1e-9 * max(abs(number), 1e-30)
        for beyond, limit, word in (
            (number < self.limits.low - slack, self.limits.low, "below the lower"),
            (number > self.limits.high + slack, self.limits.high, "above the upper"),
        ):
            if beyond:
                bound = format_quantity(quantity(limit, self.unit).to(asked.units))
                raise LimitError(f"{format_quantity(asked)} is {word} limit of {bound}", self.name)
        return number

    def set(self, value: Q | str) -> None:
        """Send a setpoint, checked first; return when the hardware has taken it."""
        number = self.check(value)
        with _devices_words(self.name):
            self._writer.put(number)
        self._setpoint = number

    def arrived(self, within: float | None = None) -> bool:
        """Return whether the readback is fresh, and within tolerance (its own unless given) of the setpoint."""
        if self._setpoint is None:
            return True
        tolerance = self.tolerance if within is None else within
        reading = self.read()
        return reading.fresh and abs(magnitude(reading.value, self.unit) - self._setpoint) <= tolerance


class SwitchBackend(Protocol):
    """Turns something on and off."""

    def put(self, on: bool) -> None:
        """Send the new state."""

    def get(self) -> bool:
        """Return the state that the hardware tells."""


@dataclass(frozen=True, slots=True)
class Column:
    """The electron column.

    Attributes
    ----------
    beam_energy : Parameter, keV
    probe_current : Parameter, nA
    working_distance : Parameter, mm
    focus : Parameter, mm
        Distance at which the beam is in focus.
    stigmator_x, stigmator_y : Parameter, percent
    beam_shift_x, beam_shift_y : Parameter, um
    blanker : SwitchBackend
        On: no electron reaches the sample.
    """

    beam_energy: Parameter
    probe_current: Parameter
    working_distance: Parameter
    focus: Parameter
    stigmator_x: Parameter
    stigmator_y: Parameter
    beam_shift_x: Parameter
    beam_shift_y: Parameter
    blanker: SwitchBackend

    def blank(self) -> None:
        """Keep the beam off the sample.

        Raises
        ------
        DeviceError
            When the blanker does not report that it closed.
        """
        self.blanker.put(True)
        if not self.blanker.get():
            raise DeviceError(
                "the beam is still on the sample after blanking; close the column valve", "column.blanker"
            )

    def unblank(self) -> None:
        """Let the beam onto the sample.

        Raises
        ------
        DeviceError
            When the blanker does not report that it opened.
        """
        self.blanker.put(False)
        if self.blanker.get():
            raise DeviceError("the beam is still blanked after unblanking; check the blanker", "column.blanker")

    @property
    def blanked(self) -> bool:
        """Whether the beam is kept off the sample, as the hardware tells."""
        return self.blanker.get()


@dataclass(frozen=True, slots=True)
class Scan:
    """A raster.

    Attributes
    ----------
    rows, columns : int
    field_of_view : float, m
        Width of the image.
    dwell_time : float, s
        Of one pixel.
    """

    rows: int
    columns: int
    field_of_view: float
    dwell_time: float

    @property
    def pixel_size(self) -> float:
        """Edge of a pixel, m."""
        return self.field_of_view / self.columns

    @property
    def area(self) -> float:
        """Scanned area, m²."""
        return self.rows * self.columns * self.pixel_size**2


@dataclass(frozen=True, slots=True)
class ScanTiming:
    """What a raster costs beyond its dwell times.

    Attributes
    ----------
    line : float, s
        Fly-back of each line.
    frame : float, s
        Arming, transfer and bookkeeping of each frame.
    """

    line: float = 0.0
    frame: float = 0.0

    def seconds(self, scan: Scan) -> float:
        """Return how long one frame takes, s."""
        return scan.rows * (scan.columns * scan.dwell_time + self.line) + self.frame


class ScanBackend(Protocol):
    """Scans the beam and reads the segments."""

    def arm(self, scan: Scan) -> None:
        """Prepare a raster."""

    def acquire(self) -> tuple[NDArray[np.uint16], datetime]:
        """Scan once; return counts (segment, row, column) and the UTC time of the first pixel.

        Blocks on the clock for as long as the raster takes.
        """

    def stop(self) -> None:
        """End a raster early; ``acquire`` then raises."""


@dataclass(frozen=True, slots=True, eq=False)
class Exposure:
    """What one raster brought: counts (segment, row, column), UTC of the first pixel, whether the beam was blanked."""

    counts: NDArray[np.uint16]
    time: datetime
    dark: bool


@dataclass(frozen=True, slots=True)
class SegmentedDetector:
    """Scanner and segmented backscatter detector: together they make frames.

    Attributes
    ----------
    geometry : DetectorGeometry
    channels : mapping of str to Channel
        What is known of each segment's offset, gain and noise, by segment.
    contrast, brightness : mapping of str to Parameter, percent
        By segment.
    backend : ScanBackend
    column : Column
    timing : ScanTiming
    probe_diameter : float or None, m
        Full width at half maximum.
    """

    geometry: DetectorGeometry
    channels: Mapping[str, Channel]
    contrast: Mapping[str, Parameter]
    brightness: Mapping[str, Parameter]
    backend: ScanBackend
    column: Column
    timing: ScanTiming = ScanTiming()
    probe_diameter: float | None = None

    def acquire(self, scan: Scan, readbacks: Callable[[], Mapping[str, Reading]] = dict) -> Frame:
        """Scan once and return the frame; dark where the beam is blanked.

        Parameters
        ----------
        scan : Scan
        readbacks : callable
            Asked once the raster has ended, so that a frame carries what the sample saw while it was taken.
        """
        self.arm(scan)
        return self.frame(scan, self.expose(scan), readbacks())

    def arm(self, scan: Scan) -> None:
        """Prepare a raster; from now on ``backend.stop`` ends it."""
        with _devices_words("detector"):
            self.backend.arm(scan)

    def expose(self, scan: Scan) -> Exposure:
        """Take the raster that was armed; the only stretch for which the beam needs to be on the sample."""
        dark = self.column.blanked
        with _devices_words("detector"):
            counts, time = self.backend.acquire()
        expected = (len(self.geometry.segments), scan.rows, scan.columns)
        if counts.shape != expected:
            raise DeviceError(f"expected counts of shape {expected}; the scanner sent {counts.shape}", "detector")
        return Exposure(counts, time, dark)

    def frame(self, scan: Scan, exposure: Exposure, readbacks: Mapping[str, Reading]) -> Frame:
        """Return an exposure with everything that is known about how it was taken."""
        column = self.column
        working_distance = float(column.working_distance.read().value.to("m").magnitude)
        beam = BeamSettings(
            beam_energy=float(column.beam_energy.read().value.to("J").magnitude),
            pixel_size=scan.pixel_size,
            probe_current=float(column.probe_current.read().value.to("A").magnitude),
            dwell_time=scan.dwell_time,
            probe_diameter=self.probe_diameter,
        )
        channels = tuple(self.channels[name] for name in self.geometry.names)
        geometry = self.geometry.at(working_distance)
        return Frame(exposure.counts, geometry, beam, channels, exposure.time, exposure.dark, dict(readbacks))


@dataclass(frozen=True, slots=True)
class Stage:
    """The sample stage.

    Attributes
    ----------
    x, y, z : Parameter, mm
    rotation, tilt : Parameter, deg
    stop : callable
        Halts every axis.
    """

    x: Parameter
    y: Parameter
    z: Parameter
    rotation: Parameter
    tilt: Parameter
    stop: Callable[[], None]


@dataclass(frozen=True, slots=True)
class Heater:
    """A heated stage with its own controller.

    Attributes
    ----------
    temperature : Parameter, K
        Setpoint, and the sensor's readback; the sample itself may be cooler.
    rate : Parameter, K/min
        How fast the controller moves its working setpoint.
    idle : float, K
        Where the heater goes when nobody needs it.
    """

    temperature: Parameter
    rate: Parameter
    idle: float = 298.15

    def ramp(self, target: Q | str, rate: Q | str) -> None:
        """Move to ``target`` at ``rate``; both are checked before either is sent."""
        self.temperature.check(target)
        self.rate.set(rate)
        self.temperature.set(target)


@dataclass(frozen=True, slots=True)
class GasLine:
    """A mass-flow controller.

    Attributes
    ----------
    species : str
        ``H2``, ``O2``, ``N2``, …
    flow : Parameter, sccm
    reactive : bool
        False for a gas that purges.
    """

    species: str
    flow: Parameter
    reactive: bool = True

    def close(self) -> None:
        """Ask for no flow."""
        self.flow.set(quantity(0.0, "sccm"))


@dataclass(frozen=True, slots=True)
class PressureGauge:
    """A chamber gauge.

    Attributes
    ----------
    pressure : Readable, Pa
    """

    pressure: Readable


def _cannot_reconnect(role: str) -> None:
    raise DeviceUnavailable("its driver has no way to reconnect; check power and cable, and start again", role)


@dataclass(frozen=True, slots=True)
class Instrument:
    """A microscope: the devices of one contract.

    Attributes
    ----------
    name : str
    clock : Clock
    column, detector, stage, heater, gauge
    gases : mapping of species to GasLine
    description : mapping
        The instrument's file as it was read; goes to the log.
    truth : callable or None
        What only a simulator knows, by name: coverage, sample temperature, …
    close : callable
        Lets go of the hardware.
    source : Document or None
        The same file with the place of every value, so that an error can point at it.
    arm_loss : callable or None
        Arms the devices' own answer to a lost connection: called with seconds, it tells each device that can to go to
        its communication-loss setpoint (heater down, gas closed) by itself once nobody has spoken to it for so long,
        and returns a sentence that says what was armed; called with 0 it disarms. None where no device can.
    reconnect : callable
        Tries a device again that cannot be reached; takes its role as in the instrument's file (``heater``,
        ``gases.O2``), or a name of its own as errors tell it (``heater.temperature``). The link alone is made anew:
        setpoints stay as the hardware has them, and nothing is sent.
        Raises DeviceError when that fails, DeviceUnavailable where the driver has no way to do it, and InputError for
        a device that there is not.
    telemetry : float, s
        Between two looks at all channels.
    """

    name: str
    clock: Clock
    column: Column
    detector: SegmentedDetector
    stage: Stage
    heater: Heater
    gases: Mapping[str, GasLine]
    gauge: PressureGauge
    description: Mapping[str, Any] = field(default_factory=dict)
    truth: Callable[[], Mapping[str, Q]] | None = None
    close: Callable[[], None] = lambda: None
    reconnect: Callable[[str], None] = _cannot_reconnect
    source: Document | None = None
    arm_loss: Callable[[float], str] | None = None
    telemetry: float = 10.0

    def channels(self) -> dict[str, Readable]:
        """Return every figure that can be read, by name, in a fixed order."""
        return {channel.name: channel for channel in self._channels()}

    def _channels(self) -> Iterator[Readable]:
        yield from (self.heater.temperature, self.heater.rate, self.gauge.pressure)
        yield from (self.gases[species].flow for species in sorted(self.gases))
        column, stage = self.column, self.stage
        yield from (column.beam_energy, column.probe_current, column.working_distance, column.focus)
        yield from (column.stigmator_x, column.stigmator_y, column.beam_shift_x, column.beam_shift_y)
        yield from (stage.x, stage.y, stage.z, stage.rotation, stage.tilt)
        for name in self.detector.geometry.names:
            yield from (self.detector.contrast[name], self.detector.brightness[name])

    def parameter(self, name: str) -> Parameter:
        """Return what can be set under a name.

        Raises
        ------
        InputError
            With the names there are.
        """
        channels = self.channels()
        channel = channels.get(name)
        if not isinstance(channel, Parameter):
            names = ", ".join(name for name, channel in channels.items() if isinstance(channel, Parameter))
            raise InputError(f"{name!r} cannot be set on this instrument; what can be is {names}")
        return channel

    def read_all(self) -> tuple[dict[str, Reading], dict[str, RilievoError]]:
        """Return the readback of every channel, and the error of each that did not answer."""
        readings: dict[str, Reading] = {}
        failures: dict[str, RilievoError] = {}
        for name, channel in self.channels().items():
            try:
                readings[name] = channel.read()
            except RilievoError as error:
                failures[name] = error
        return readings, failures

    def limits_json(self) -> dict[str, Any]:
        """Return the limits of everything that can be set, as value and unit."""
        return {
            name: {
                word: quantity_json(quantity(limit, channel.unit))
                for word, limit in (("low", channel.limits.low), ("high", channel.limits.high))
                if math.isfinite(limit)
            }
            for name, channel in self.channels().items()
            if isinstance(channel, Parameter)
        }
