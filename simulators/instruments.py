"""The twin: a driver whose devices stand in one simulated world. Instrument files name it ``driver: twin``.

``simulators/twin.yaml`` is the instrument that runs where none is named.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from drivers.contract import (
    Column,
    GasLine,
    Heater,
    Instrument,
    Limits,
    Parameter,
    PressureGauge,
    Readable,
    Scan,
    ScanTiming,
    SegmentedDetector,
    Stage,
)
from drivers.errors import DriverError, LimitError
from drivers.registry import Context, DetectorFile, own_options
from drivers.units import KEV, Q, format_quantity, quantity, si
from simulators import options as options_of
from simulators.backends import UNITS, Blanker, Figure, Halt, Reconnection

if TYPE_CHECKING:
    from simulators.memory import Memory
    from simulators.world import World

Wrapped = TypeVar("Wrapped")

TWIN = Path(__file__).with_name("twin.yaml")
"""The default instrument."""


class Truth:
    """What only the simulator knows, of the field of the last frame.

    Attributes
    ----------
    world : World
        For tests and benchmarks: ``world_of(instrument).truth_surface()`` is the relief in that field.
    """

    def __init__(self, world: World) -> None:
        self.world = world

    def __call__(self) -> Mapping[str, Q]:
        """Return coverage, nuclei, roughness, oxide per area, the sample's temperature, partial pressures, drift."""
        with self.world.lock:
            self.world.catch_up()
            truth = self.world.specimen.truth(self.world.field())
            dx, dy, dz = self.world.drift.offset
            known = {
                "coverage": quantity(truth.coverage, ""),
                "nuclei": quantity(truth.nuclei, ""),
                "metal_nuclei": quantity(truth.metal_nuclei, ""),
                "roughness": quantity(truth.roughness, "m"),
                "oxide_volume": quantity(truth.oxide_volume, "m"),
                "sample_temperature": quantity(self.world.furnace.sample, "K"),
                "drift.x": quantity(dx, "m"),
                "drift.y": quantity(dy, "m"),
                "drift.z": quantity(dz, "m"),
            }
            for species, pressure in sorted(self.world.chamber.pressures.items()):
                known[f"partial_pressure.{species}"] = quantity(pressure, "Pa")
            return known


def world_of(instrument: Instrument) -> World:
    """Return the world behind a twin.

    Raises
    ------
    DriverError
        For an instrument that is not simulated.
    """
    if not isinstance(instrument.truth, Truth):
        raise DriverError(f"{instrument.name} is not a twin; what it really is nobody knows")
    return instrument.truth.world


def build(role: str, options: Mapping[str, Any], context: Context) -> Any:  # noqa: ARG001  checked by their models
    """Build one device of the twin; see :class:`drivers.registry.Driver`."""
    if "twin" not in context.shared:
        context.shared["twin"] = _world(context)
        context.truth = Truth(context.shared["twin"])
        context.closers.append(context.shared["twin"].close)
        context.finishers.append(lambda: context.shared["twin"].relive(partial(_again, context.shared["twin"])))
    world: World = context.shared["twin"]
    again = world.faults.wrap_call(role, Reconnection(world, role), world.clock, world.origin)
    context.reconnections[role] = _kept(world, again)
    builders: dict[str, Callable[[World, Context], Any]] = {
        "column": _column,
        "detector": _detector,
        "stage": _stage,
        "heater": _heater,
        "gauge": _gauge,
    }
    if role.startswith("gases."):
        return _gas_line(world, context, role.removeprefix("gases."))
    if role not in builders:
        raise DriverError(f"the twin has no device for the role {role!r}")
    return builders[role](world, context)


def _world(context: Context) -> World:
    from simulators.chamber import Chamber
    from simulators.faults import FaultPlan
    from simulators.specimen import Specimen
    from simulators.world import World

    common = context.common(options_of.WorldOptions)
    seed = common.seed if common.specimen.seed is None else common.specimen.seed
    specimen = Specimen(seed, extent=si(common.specimen.extent))
    chamber = Chamber(si(common.chamber.volume), si(common.chamber.pumping_speed))
    world = World(
        context.clock,
        specimen,
        common.seed,
        chamber,
        gas_path=si(common.chamber.gas_path),
        drift_speed=si(common.drift.speed),
        memory=_memory(context, common.seed),
    )
    world.faults = FaultPlan(faults=common.faults)
    context.clock = world.faults.wrap_clock(context.clock, world.origin)
    x, y, z = common.drift.expansion
    world.drift.expansion = (si(x), si(y), si(z))
    return world


def _kept(world: World, wrapped: Wrapped) -> Wrapped:
    """Return what a plan of faults has wrapped; the world lets go of calls that hang in there when it is closed."""
    release = getattr(wrapped, "release", None)
    if release is not None:
        world.releases.append(release)
    return wrapped


def _memory(context: Context, seed: int) -> Memory | None:
    """Open the twin's memory where it is to have one."""
    from simulators.memory import Memory, fingerprint

    if context.memory is None:
        return None
    data = context.document.data
    driver = context.document.get(context.at)["driver"]
    entries = {**{role: data[role] for role in data if role != "gases"}, **data["gases"]}
    twins = {
        role: own_options(entry)
        for role, entry in entries.items()
        if isinstance(entry, dict) and entry.get("driver") == driver
    }
    return Memory.open(context.memory, context.clock, seed, fingerprint(context.settings, twins))


def _again(world: World, line: Mapping[str, Any]) -> None:
    """Do again what a line of the memory tells."""
    if "put" in line:
        world.figures[line["put"]].put(line["value"])
    elif "blank" in line:
        Blanker(world).put(line["blank"])
    elif "stop" in line:
        world.halt()
    elif "frame" in line:
        rows, columns, field_of_view, dwell_time = line["frame"]
        x, y = line["centre"]
        world.count(Scan(rows, columns, field_of_view, dwell_time), (x, y))
    else:
        raise ValueError(f"nothing is known of {', '.join(line)}")


def _parameter(
    world: World,
    name: str,
    unit: str,
    figure: tuple[Callable[[float], float], Callable[[float, float], None]],
    limits: tuple[float, float],
    tolerance: float,
) -> Parameter:
    """Return a parameter; ``limits`` and ``tolerance`` in SI."""
    scale = UNITS[unit]
    world.figures[name] = Figure(world, name, unit, *figure)
    return Parameter(
        name,
        unit,
        _kept(world, world.faults.wrap(name, world.figures[name], world.clock, world.origin)),
        world.clock,
        limits=Limits(limits[0] / scale, limits[1] / scale),
        tolerance=tolerance / scale,
    )


def _column(world: World, context: Context) -> Column:
    from simulators.optics import Beam, Settling

    given = context.options(options_of.ColumnOptions)
    beam = Beam(
        energy=Settling(si(given.beam_energy), 0.2),
        current=Settling(si(given.probe_current), 0.2),
        focus=Settling(si(given.working_distance), 0.05),
        probe_diameter=si(given.probe_diameter),
        convergence=si(given.convergence),
        astigmatism=given.astigmatism,
    )
    world.beam = beam
    world.focal_zero = si(given.working_distance)
    distances = (si(given.shortest_distance), si(given.longest_distance))
    shift = si(given.beam_shift)

    def current(time: float) -> float:
        return beam.current.at(time) * (1.0 + world.emission.value)

    def lift(distance: float, time: float) -> None:
        """Go to a working distance: it is the stage that moves."""
        world.stage.z.go(world.focal_zero - distance, time)

    def make(name: str, unit: str, setting: Settling, limits: tuple[float, float], tolerance: float) -> Parameter:
        return _parameter(world, f"column.{name}", unit, (setting.at, setting.go), limits, tolerance)

    return Column(
        make("beam_energy", "keV", beam.energy, (si(given.lowest_energy), si(given.highest_energy)), 1e-3 * KEV),
        _parameter(
            world,
            "column.probe_current",
            "nA",
            (current, beam.current.go),
            (1e-12, si(given.highest_current)),
            0.02 * si(given.probe_current),
        ),
        _parameter(world, "column.working_distance", "mm", (world.working_distance, lift), distances, 20e-6),
        make("focus", "mm", beam.focus, distances, 1e-6),
        make("stigmator_x", "percent", beam.stigmator[0], (-1.0, 1.0), 1e-3),
        make("stigmator_y", "percent", beam.stigmator[1], (-1.0, 1.0), 1e-3),
        make("beam_shift_x", "um", beam.shift[0], (-shift, shift), 1e-9),
        make("beam_shift_y", "um", beam.shift[1], (-shift, shift), 1e-9),
        _kept(world, world.faults.wrap_switch("column.blanker", Blanker(world), world.clock, world.origin)),
    )


def _detector(world: World, context: Context) -> SegmentedDetector:
    from simulators.detector import Channels, Diode
    from simulators.raster import TwinScanner

    given = context.options(options_of.DetectorOptions)
    if context.column is None or world.beam is None:
        raise DriverError("the twin's detector needs the twin's column; name driver: twin there too")
    geometry = DetectorFile(
        working_distance=quantity(world.focal_zero, "m"),
        segments=given.segments,
        threshold=given.threshold,
        rotation=given.rotation,
        centre_offset=given.centre_offset,
    ).geometry()
    diode = Diode(geometry, _amplifiers(world, geometry.names, given), world.stream("frames"), given.glow)
    world.diode = diode
    timing = ScanTiming(si(given.line), si(given.frame))
    scanner = world.faults.wrap_scan(
        "detector",
        TwinScanner(world, timing, si(given.distortion)),
        world.clock,
        geometry.names,
        Blanker(world),
        since=world.origin,
    )

    def knobs(word: str) -> dict[str, Parameter]:
        settings = {amplifier.name: getattr(amplifier, word) for amplifier in diode.amplifiers}
        return {
            name: _parameter(world, f"detector.{name}.{word}", "percent", (setting.at, setting.go), (0.0, 1.0), 1e-3)
            for name, setting in settings.items()
        }

    return SegmentedDetector(
        geometry=geometry,
        channels=Channels(diode, lambda: world.time),
        contrast=knobs("contrast"),
        brightness=knobs("brightness"),
        backend=_kept(world, scanner),
        column=context.column,
        timing=timing,
        probe_diameter=world.beam.probe_diameter,
    )


def _amplifiers(world: World, names: tuple[str, ...], given: options_of.DetectorOptions) -> list[Any]:
    from simulators.detector import Amplifier
    from simulators.optics import Settling
    from simulators.randomness import Wander
    from simulators.world import STEP, WANDER_STEPS

    amplifiers = []
    for name in names:
        errors = world.stream(f"amplifier {name}")
        drift = Wander(world.stream(f"offset {name}"), 8.0, 1800.0, STEP * WANDER_STEPS)
        world.wanders.append(drift)
        amplifiers.append(
            Amplifier(
                name,
                contrast=Settling(si(given.contrast), 0.02),
                brightness=Settling(si(given.brightness), 0.02),
                gain=given.gain,
                read_noise=given.read_noise,
                full_offset=given.offset,
                gain_error=1.0 + si(given.gain_spread) * errors.normal(0),
                noise_error=1.0 + 0.03 * errors.normal(1),
                glow_share=1.0 + 0.15 * math.tanh(errors.normal(2)),
                offset_error=given.offset_spread * errors.normal(3),
                drift=drift,
            )
        )
    return amplifiers


def _stage(world: World, context: Context) -> Stage:
    given = context.options(options_of.StageOptions)
    axes, travel, lift, tilt = world.stage, si(given.travel), si(given.lift), si(given.tilt)

    def make(name: str, unit: str, limit: float, tolerance: float) -> Parameter:
        axis = getattr(axes, name)
        return _parameter(world, f"stage.{name}", unit, (axis.at, axis.go), (-limit, limit), tolerance)

    return Stage(
        make("x", "mm", travel, 1e-7),
        make("y", "mm", travel, 1e-7),
        make("z", "mm", lift, 1e-6),
        make("rotation", "deg", 2.0 * math.pi, 1e-4),
        make("tilt", "deg", tilt, 1e-4),
        Halt(world),
    )


def _heater(world: World, context: Context) -> Heater:
    given = context.options(options_of.HeaterOptions)
    furnace, start = world.furnace, si(given.start)
    furnace.target = furnace.working = furnace.sensor = furnace.sample = start
    furnace.rate = si(given.rate)
    furnace.time_constant = si(given.time_constant)
    furnace.sample_time_constant = si(given.sample_time_constant)
    furnace.noise = float(given.noise.to("delta_degC").magnitude)
    world.drift.settled = start
    noise = world.stream("thermocouple")

    def go(target: float, time: float) -> None:  # noqa: ARG001
        furnace.target = target

    def set_rate(rate: float, time: float) -> None:  # noqa: ARG001
        furnace.rate = rate

    lowest, highest = si(given.lowest), si(given.highest)
    tolerance = float(given.tolerance.to("delta_degC").magnitude)
    return Heater(
        _parameter(
            world,
            "heater.temperature",
            "K",
            (lambda time: furnace.readback(noise, world.index), go),  # noqa: ARG005
            (lowest, highest),
            tolerance,
        ),
        _parameter(
            world,
            "heater.rate",
            "K/min",
            (lambda time: furnace.rate, set_rate),  # noqa: ARG005
            (0.1 / 60.0, si(given.highest_rate)),
            1e-3 / 60.0,
        ),
        idle=si(given.idle),
    )


def _gas_line(world: World, context: Context, species: str) -> GasLine:
    from simulators.chamber import FlowController

    given = context.options(options_of.GasOptions)
    errors = world.stream(f"flow {species}")
    full_scale = si(given.full_scale)
    line = FlowController(
        full_scale,
        gain=1.0 + si(given.reading_error) / 2.0 * errors.normal(-1),
        offset=si(given.full_scale_error) / 2.0 * full_scale * errors.normal(-2),
        turndown=given.turndown,
    )
    world.lines[species] = line
    world.chamber.pressures.setdefault(species, 0.0)

    def read(time: float) -> float:  # noqa: ARG001
        return line.readback(errors, world.index)

    def go(flow: float, time: float) -> None:  # noqa: ARG001
        if 0.0 < flow < line.smallest * (1.0 - 1e-9):
            asked, least = (format_quantity(quantity(value / UNITS["sccm"], "sccm")) for value in (flow, line.smallest))
            raise LimitError(
                f"{asked} is below {least}, the least that this controller holds; ask for that or more, or for 0 sccm",
                f"gases.{species}.flow",
            )
        line.setpoint = flow

    flow = _parameter(world, f"gases.{species}.flow", "sccm", (read, go), (0.0, full_scale), 0.01 * full_scale)
    return GasLine(species, flow, given.reactive)


def _gauge(world: World, context: Context) -> PressureGauge:
    given = context.options(options_of.GaugeOptions)
    noise = world.stream("gauge")
    relative, floor = si(given.reading_noise), si(given.floor_noise)

    def read(time: float) -> float:  # noqa: ARG001
        pressure = world.chamber.pressure
        shown = pressure + math.hypot(relative * pressure, floor) * noise.normal(world.index)
        return max(shown, 0.0)

    figure = Figure(world, "gauge.pressure", "Pa", read)
    backend = _kept(world, world.faults.wrap("gauge.pressure", figure, world.clock, world.origin))
    return PressureGauge(Readable("gauge.pressure", "Pa", backend, world.clock))
