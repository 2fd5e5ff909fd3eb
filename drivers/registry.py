"""Devices by name: the instrument's YAML names drivers, entry points of the group ``rilievo.drivers`` supply them.

An entry point leads to a function ``build(role, options, context)``, called once for each device that names the driver.
A driver that fails to load is recorded with its reason and does not keep the others from working.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from pathlib import Path
from typing import Annotated, Any, Protocol, TypeVar

from pydantic import AfterValidator, Field

from drivers import document
from drivers.clock import Clock, RealClock
from drivers.contract import Column, GasLine, Heater, Instrument, PressureGauge, SegmentedDetector, Stage
from drivers.document import Address, Document, Strict
from drivers.errors import (
    DeviceError,
    DeviceUnavailable,
    DocumentError,
    DriverError,
    InputError,
    Problem,
    RilievoError,
)
from drivers.geometry import DetectorGeometry, Segment
from drivers.patience import CALL
from drivers.patient import Patients
from drivers.safety import GuardFile, InterlockFile, SafePartFile, WatchdogFile
from drivers.units import Angle, Duration, Energy, Length, Pressure, Q, format_quantity, quantity, si

GROUP = "rilievo.drivers"
TELEMETRY = (0.1, 600.0)
"""Shortest and longest time between two looks at all channels, s."""
Device = TypeVar("Device")
Options = TypeVar("Options", bound=Strict)


class SegmentFile(Strict):
    """One segment, as a detector file describes it."""

    name: str = Field(min_length=1, max_length=64)
    inner_radius: Length
    outer_radius: Length
    azimuth: Angle
    span: Angle

    def segment(self) -> Segment:
        """Return the segment in SI; raises :class:`InputError` for one that cannot be."""
        return Segment(self.name, si(self.inner_radius), si(self.outer_radius), si(self.azimuth), si(self.span))


class DetectorFile(Strict):
    """A detector, as a YAML file describes it."""

    working_distance: Length
    segments: tuple[SegmentFile, ...] = Field(min_length=1, max_length=64)
    threshold: Energy | None = None
    rotation: Angle | None = None
    centre_offset: tuple[Length, Length] | None = None

    def impossible(self) -> Iterator[tuple[Address, str]]:
        """Yield what cannot be, each with its place in the document."""
        if not si(self.working_distance) > 0:
            yield ("working_distance",), f"expected more than 0 mm; got {format_quantity(self.working_distance)}"
        if self.threshold is not None and si(self.threshold) < 0:
            yield ("threshold",), f"expected 0 keV or more; got {format_quantity(self.threshold)}"
        sound = True
        for index, segment in enumerate(self.segments):
            try:
                segment.segment()
            except InputError as error:
                sound = False
                yield ("segments", index), error.message
        if sound and si(self.working_distance) > 0:
            try:
                DetectorGeometry(tuple(segment.segment() for segment in self.segments), si(self.working_distance))
            except InputError as error:
                yield ("segments",), error.message

    def geometry(self) -> DetectorGeometry:
        """Return the geometry in SI; raises :class:`InputError` for one that cannot be."""
        segments = tuple(segment.segment() for segment in self.segments)
        offset = (0.0, 0.0) if self.centre_offset is None else (si(self.centre_offset[0]), si(self.centre_offset[1]))
        return DetectorGeometry(
            segments, si(self.working_distance), offset, _si_or_zero(self.rotation), _si_or_zero(self.threshold)
        )


def _positive(value: Q | None) -> Q | None:
    if value is not None and not si(value) > 0:
        raise ValueError(f"expected more than 0 s; got {format_quantity(value)}")
    return value


Deadline = Annotated[Duration, AfterValidator(_positive)]


class DeviceFile(Strict):
    """A device in an instrument file: its driver, and the options that this driver understands.

    ``deadline`` is how long a call into the driver may take; the instrument's ``deadlines`` say it unless given.
    """

    model_config = Strict.model_config | {"extra": "allow"}

    driver: str
    deadline: Deadline | None = None


class DeadlinesFile(Strict):
    """How long the instrument is waited for.

    ``call``: a call into a driver, from when its turn has come. A raster may take its own time and a half besides.
    """

    call: Deadline = quantity(CALL, "s")


class GasRulesFile(Strict):
    """What gases may meet on this instrument, where it differs from the program's own rules.

    ``flammable_above``: total pressure up to which a flammable mixture is allowed. ``purge_at_least``: how long inert
    gas flows between gases that burn with each other.
    """

    flammable_above: Pressure | None = None
    purge_at_least: Duration | None = None


class TelemetryFile(Strict):
    """How often all channels are read and logged."""

    every: Duration

    def impossible(self) -> Iterator[tuple[Address, str]]:
        """Yield what cannot be, each with its place in the document."""
        low, high = TELEMETRY
        if not low <= si(self.every) <= high:
            yield (
                ("telemetry", "every"),
                f"expected {low:g} s (10 Hz) to {high:g} s; got {format_quantity(self.every)}",
            )


class EnduranceFile(Strict):
    """How much a night on this instrument puts up with, where it differs from the program's own measure.

    ``retries``: of an action that a device did not do, with growing pauses from ``pause`` on. ``longest_suspension``:
    for a full disk or a database that is away. ``longest_outage``: after which a resumed run ends safe.
    """

    retries: int | None = Field(None, ge=0, le=20)
    pause: Duration | None = None
    longest_suspension: Duration | None = None
    longest_outage: Duration | None = None


class InstrumentFile(Strict):
    """An instrument, as a YAML file describes it."""

    name: str = Field(min_length=1, max_length=200)
    settings: dict[str, Any] = Field(default_factory=dict)
    gas_rules: GasRulesFile | None = None
    telemetry: TelemetryFile | None = None
    endurance: EnduranceFile | None = None
    safe_state: tuple[SafePartFile, ...] | None = Field(default=None, min_length=1, max_length=100)
    interlocks: tuple[InterlockFile, ...] = Field(default=(), max_length=1000)
    interlock_period: Duration | None = None
    watchdog: WatchdogFile | None = None
    guard: GuardFile | None = None
    deadlines: DeadlinesFile = DeadlinesFile()
    column: DeviceFile
    detector: DeviceFile
    stage: DeviceFile
    heater: DeviceFile
    gauge: DeviceFile
    gases: dict[str, DeviceFile]

    def device(self, place: Address) -> DeviceFile:
        """Return a device's entry; ``place`` is its role, or ``gases`` and a species."""
        entry: DeviceFile = self.gases[str(place[1])] if len(place) > 1 else getattr(self, str(place[0]))
        return entry


@dataclass
class Context:
    """What the drivers of one instrument share while it is built.

    Attributes
    ----------
    clock : Clock
    settings : mapping
        The file's ``settings``: what concerns the instrument as a whole.
    shared : dict
        Objects that several devices of one driver hold together, such as a connection or a simulated world.
    column : Column or None
        Built first, because the detector asks it for the beam.
    memory : Path or None
        A file in which a simulated instrument keeps its state, so that it outlives the process; hardware needs none.
    finishers : list of callables
        Called in order once every device has been built without a problem.
    closers : list of callables
        Called, last first, when the instrument is let go; each closes what a driver opened.
    losses : list of callables
        Each arms a device's own answer to a lost connection; see ``Instrument.arm_loss``.
    reconnections : dict of role to callable
        What makes a device's link anew after it was lost, where its driver can: setpoints stay as the hardware has
        them, and nothing is sent.
    """

    clock: Clock
    document: Document
    settings: Mapping[str, Any] = field(default_factory=dict)
    shared: dict[str, Any] = field(default_factory=dict)
    column: Column | None = None
    memory: Path | None = None
    finishers: list[Callable[[], None]] = field(default_factory=list)
    closers: list[Callable[[], None]] = field(default_factory=list)
    losses: list[Callable[[float], str]] = field(default_factory=list)
    reconnections: dict[str, Callable[[], None]] = field(default_factory=dict)
    truth: Callable[[], Mapping[str, Q]] | None = None
    problems: list[Problem] = field(default_factory=list)
    at: Address = ()

    def options(self, model: type[Options]) -> Options:
        """Return the options of the device that is being built, checked by the driver's model.

        Raises
        ------
        DocumentError
            With the place of every problem in the instrument's file.
        """
        given = own_options(self.document.get(self.at))
        part = Document(self.document.name, self._rooted(given), self.document.values, self.document.keys)
        return part.validate(model, self.at)

    def _rooted(self, options: dict[str, Any]) -> Any:
        """Return the document's data with the device's entry replaced by its options alone."""
        data: Any = options
        for depth in range(len(self.at) - 1, -1, -1):
            data = {**self.document.get(self.at[:depth]), self.at[depth]: data}
        return data

    def common(self, model: type[Options]) -> Options:
        """Return the instrument's ``settings``, checked by the driver's model."""
        if "settings" not in self.document.data:
            return model.model_validate({})
        return self.document.validate(model, ("settings",))


def own_options(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a device's entry says to its driver: all but what the registry itself understands."""
    return {key: value for key, value in entry.items() if key not in DeviceFile.model_fields}


class Driver(Protocol):
    """What an entry point leads to."""

    def __call__(self, role: str, options: Mapping[str, Any], context: Context) -> Any:
        """Build one device.

        Parameters
        ----------
        role : str
            ``column``, ``detector``, ``stage``, ``heater``, ``gauge``, or ``gases.H2`` for a gas line.
        options : mapping
            The device's entry in the file without ``driver`` and ``deadline``; ``context.options(Model)`` checks it.
        context : Context
        """


@dataclass(frozen=True)
class Failure:
    """A driver that could not be loaded, and why."""

    name: str
    target: str
    reason: str


@dataclass
class Registry:
    """The drivers there are."""

    drivers: dict[str, Driver] = field(default_factory=dict)
    failures: list[Failure] = field(default_factory=list)

    @classmethod
    def discover(cls) -> Registry:
        """Load every entry point of the group; what fails is recorded, not raised."""
        registry = cls()
        for point in sorted(entry_points(group=GROUP), key=lambda point: point.name):
            try:
                registry.drivers[point.name] = point.load()
            except Exception as error:  # noqa: BLE001  a third party's module may raise anything
                reason = f"{type(error).__name__}: {error}"
                registry.failures.append(Failure(point.name, point.value, reason))
        return registry

    def driver(self, name: str) -> Driver:
        """Return a driver.

        Raises
        ------
        DriverError
            That says which there are, or why this one did not load.
        """
        if name in self.drivers:
            return self.drivers[name]
        for failure in self.failures:
            if failure.name == name:
                raise DriverError(f"the driver {name!r} ({failure.target}) did not load: {failure.reason}")
        known = ", ".join(sorted(self.drivers)) or "none"
        raise DriverError(f"there is no driver {name!r}; the drivers installed are: {known}")

    def instrument(self, source: Document, clock: Clock | None = None, memory: Path | None = None) -> Instrument:
        """Build the instrument that a document describes.

        Parameters
        ----------
        source : Document
        clock : Clock, optional
            The real one unless given.
        memory : Path, optional
            Where a simulated instrument keeps its state: it is made there, or goes on from there.

        Raises
        ------
        DocumentError
            With all problems of the file.
        DeviceError
            For a device that does not answer. What was already opened is closed again.
        """
        file = source.validate(InstrumentFile)
        context = Context(clock or RealClock(), source, file.settings, memory=memory)
        if file.telemetry is not None:
            told = file.telemetry.impossible()
            context.problems.extend(context.document.problem(message, place) for place, message in told)
        patients = Patients(si(file.deadlines.call))
        try:
            devices = self._build_all(file, context, patients)
            if context.problems:
                raise DocumentError(context.problems)
            for finish in context.finishers:
                finish()
            patients.reconnections(context.reconnections)
            return self._assemble(file, source, context, devices, patients)
        except BaseException:
            with suppress(DeviceError):  # what went wrong first is what matters
                _close(context, patients)
            raise

    def _assemble(
        self, file: InstrumentFile, source: Document, context: Context, devices: dict[str, Any], patients: Patients
    ) -> Instrument:
        gases = {
            role.removeprefix("gases."): _expect(device, GasLine, role)
            for role, device in devices.items()
            if role.startswith("gases.")
        }
        return Instrument(
            name=file.name,
            clock=context.clock,
            column=_expect(devices["column"], Column, "column"),
            detector=_expect(devices["detector"], SegmentedDetector, "detector"),
            stage=_expect(devices["stage"], Stage, "stage"),
            heater=_expect(devices["heater"], Heater, "heater"),
            gases=gases,
            gauge=_expect(devices["gauge"], PressureGauge, "gauge"),
            description=source.data,
            truth=context.truth,
            **({} if file.telemetry is None else {"telemetry": si(file.telemetry.every)}),
            close=lambda: _close(context, patients),
            reconnect=patients.reconnect,
            source=source,
            arm_loss=_arm_all(tuple(context.losses)) if context.losses else None,
        )

    def _build_all(self, file: InstrumentFile, context: Context, patients: Patients) -> dict[str, Any]:
        places: list[Address] = [("column",), ("detector",), ("stage",), ("heater",), ("gauge",)]
        places += [("gases", species) for species in file.gases]
        devices: dict[str, Any] = {}
        for place in places:
            role = ".".join(str(part) for part in place)
            entry = context.document.get(place)
            context.at = place
            try:
                device = self.driver(entry["driver"])(role, own_options(entry), context)
            except DocumentError as error:
                context.problems.extend(error.problems)
                continue
            except InputError as error:
                if error.where is not None:  # about something else than the device's entry
                    raise
                context.problems.append(context.document.problem(error.message, place))
                continue
            except OSError as error:
                told = f"cannot be reached: {error.strerror or error}; check power, cable and address"
                raise DeviceUnavailable(told, role) from error
            except RilievoError:
                raise
            except Exception as error:
                told = f"the driver {entry['driver']!r} failed with {type(error).__name__}: {error}"
                raise DriverError(told, role) from error
            given = file.device(place).deadline
            device = patients.treat(role, device, context.clock, None if given is None else si(given))
            devices[role] = device
            if isinstance(device, Column):
                context.column = device
        return devices


def load_instrument(path: Path, clock: Clock | None = None, registry: Registry | None = None) -> Instrument:
    """Build the instrument of a YAML file; errors as :meth:`Registry.instrument`."""
    return (registry or Registry.discover()).instrument(document.read(path), clock)


def load_detector(path: Path) -> DetectorGeometry:
    """Return the geometry of a detector file.

    Raises
    ------
    DocumentError, InputError
        With file, line and column of what is wrong.
    """
    source = document.read(path)
    file = source.validate(DetectorFile)
    problems = [source.problem(message, address) for address, message in file.impossible()]
    if problems:
        raise DocumentError(problems)
    return file.geometry()


def _si_or_zero(value: Q | None) -> float:
    return 0.0 if value is None else si(value)


def _expect(device: Any, kind: type[Device], role: str) -> Device:
    if not isinstance(device, kind):
        raise DriverError(f"the driver of {role} built {type(device).__name__}; expected {kind.__name__}")
    return device


def _arm_all(losses: tuple[Callable[[float], str], ...]) -> Callable[[float], str]:
    """Return what arms every device; one that fails is told, and keeps no other from being armed."""

    def arm(seconds: float) -> str:
        told = []
        for loss in losses:
            try:
                told.append(loss(seconds))
            except Exception as error:  # noqa: BLE001  the other devices must still be armed
                told.append(f"could not be armed: {error}")
        return "; ".join(told)

    return arm


def _close(context: Context, patients: Patients) -> None:
    """Close what was opened, last first; one that fails does not keep the others open. Calls that hung may end then."""
    errors: list[str] = []
    while context.closers:
        try:
            patients.let_go(context.closers.pop(), context.clock)
        except Exception as error:  # noqa: BLE001  every other device must still be closed
            errors.append(f"{type(error).__name__}: {error}")
    patients.close()
    if errors:
        raise DeviceError(f"could not be closed: {'; '.join(errors)}", "instrument")
