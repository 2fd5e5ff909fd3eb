"""The simulated world behind the twin's devices: furnace, gas, drift and the specimen, on the instrument's clock.

Nothing runs by itself. Whoever asks makes the world catch up, in steps of half a second on a fixed grid; what a step
does depends on its number and on the setpoints at its time alone, so a night is the same bit by bit whether or not
telemetry reads along.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from drivers.clock import Clock, VirtualClock
from drivers.contract import Scan
from drivers.errors import DeviceUnavailable, InputError
from drivers.sample import HeightMap
from simulators.chamber import Chamber, FlowController, unscattered_share
from simulators.detector import Diode
from simulators.faults import FaultPlan
from simulators.furnace import Furnace
from simulators.optics import Beam, StageAxes
from simulators.randomness import Stream, Wander

if TYPE_CHECKING:
    from simulators.backends import Figure
    from simulators.memory import Memory
    from simulators.specimen import Grid, Specimen, Surface

Floats = NDArray[np.float64]
Singles = NDArray[np.float32]

STEP = 0.5
"""s between the points of the grid."""
SPECIMEN_STEPS = 2
"""Steps of the grid in one of the specimen."""
WANDER_STEPS = 20
"""Steps of the grid in one of what wanders: drift, offsets, probe current."""


@dataclass
class Drift:
    """How the sample creeps away under the beam.

    Attributes
    ----------
    velocity : (Wander, Wander), m/s
    position : array (2,), m
        Of the sample, from where it began.
    expansion : (float, float, float), m/K
        Of the hot stage in x, y and z, once it has settled.
    time_constant : float, s
        Of that expansion behind the furnace.
    settled : float, K
        Furnace's temperature as the stage's body feels it.
    """

    velocity: tuple[Wander, Wander]
    expansion: tuple[float, float, float] = (5e-9, -3e-9, 2e-9)
    time_constant: float = 120.0
    settled: float = 298.15
    reference: float = 298.15
    position: Floats = field(default_factory=lambda: np.zeros(2))

    def step(self, seconds: float, temperature: float) -> None:
        """Go on by ``seconds`` with the furnace at ``temperature`` (K)."""
        self.settled += (temperature - self.settled) * -math.expm1(-seconds / self.time_constant)
        for axis, wander in enumerate(self.velocity):
            self.position[axis] += seconds * wander.value

    @property
    def offset(self) -> tuple[float, float, float]:
        """Where the sample is, from where it began: x, y, z in m."""
        warm = self.settled - self.reference
        x, y, z = (coefficient * warm for coefficient in self.expansion)
        return float(self.position[0]) + x, float(self.position[1]) + y, z


class World:
    """Everything that goes on in the chamber.

    Parameters
    ----------
    clock : Clock
    specimen : Specimen
    seed : int
    chamber : Chamber
    gas_path : float, m
        Of the probe, from the last aperture to the sample.
    memory : Memory, optional
        Remembers what the hardware is told; :meth:`relive` plays it back, once every device has been built.

    Attributes
    ----------
    lock : threading.RLock
        Held by whoever changes or reads what follows.
    furnace, chamber, lines, drift, beam, stage, diode
        The parts; :mod:`simulators.instruments` sets them up.
    faults : FaultPlan
        What will go wrong with the devices; the world itself goes on.
    """

    def __init__(
        self,
        clock: Clock,
        specimen: Specimen,
        seed: int = 1,
        chamber: Chamber | None = None,
        gas_path: float = 5e-3,
        drift_speed: float = 3e-9 / 60.0,
        memory: Memory | None = None,
    ) -> None:
        self.clock = clock
        self.seed = seed
        self.specimen = specimen
        self.lock = threading.RLock()
        self.chamber = chamber or Chamber()
        self.furnace = Furnace()
        self.lines: dict[str, FlowController] = {}
        self.stage = StageAxes()
        self.figures: dict[str, Figure] = {}
        """What can be set, by channel."""
        self.gas_path = gas_path
        self.beam: Beam | None = None
        self.diode: Diode | None = None
        self.focal_zero = 8e-3
        """Working distance (m) with the stage at z = 0, cold."""
        self.drift = Drift((self._wander("drift.x", drift_speed, 900.0), self._wander("drift.y", drift_speed, 900.0)))
        self.emission = self._wander("probe current", 0.002, 600.0)
        self.wanders: list[Wander] = [*self.drift.velocity, self.emission]
        self.frames = 0
        self.scan = Scan(512, 512, 10e-6, 1e-5)
        """Of the last frame; until there is one, what is usual."""
        self.scanned_at: tuple[float, float] | None = None
        """Middle of the last frame's field on the specimen, m, when its raster began."""
        self.closed = False
        self.faults = FaultPlan()
        self.releases: list[Callable[[], None]] = []
        """Called by :meth:`close`: each lets go of calls that hang."""
        self.reconnections: dict[str, int] = {}
        """How often each device was reconnected."""
        self.index = 0
        self.origin = clock.monotonic() if memory is None else memory.origin
        """On the clock's monotonic scale, when the world began; the times of faults count from there too."""
        self._start = clock.now() if memory is None else memory.start
        self._memory = memory
        self._past: float | None = None
        self._unwatch: Callable[[], None] | None = None

    def stream(self, name: str) -> Stream:
        """Return the noise for a purpose."""
        return Stream(self.seed, name)

    def _wander(self, name: str, spread: float, memory: float) -> Wander:
        return Wander(self.stream(name), spread, memory, STEP * WANDER_STEPS)

    @property
    def time(self) -> float:
        """Seconds since the world began."""
        return self.clock.monotonic() - self.origin if self._past is None else self._past

    @property
    def moment(self) -> datetime:
        """UTC of the grid's point that the world stands at."""
        return self._start + timedelta(seconds=self.index * STEP)

    def catch_up(self) -> float:
        """Bring the world to the present and return its time, s. Hold the lock.

        Raises
        ------
        DeviceUnavailable
            After :meth:`close`.
        """
        if self.closed:
            raise DeviceUnavailable("the twin has been closed; build the instrument again")
        time = self.time
        due = math.floor(time / STEP + 1e-9)
        if self.index < due:
            while self.index < due:
                self._step()
            if self._memory is not None and self._past is None:
                self._memory.note(time)
        return time

    def tell(self, time: float, **what: Any) -> None:
        """Remember, where there is a memory, what the hardware was told at ``time`` (s). Hold the lock."""
        if self._memory is not None and self._past is None:
            self._memory.write(time, **what)

    def relive(self, act: Callable[[Mapping[str, Any]], None]) -> None:
        """Play back what the memory holds, bring the world to the present, and remember from now on.

        Parameters
        ----------
        act : callable
            Does again what one line of the memory tells.

        Raises
        ------
        InputError
            For a line that makes no sense.
        """
        memory = self._memory
        if memory is None:
            return
        with self.lock:
            for line in memory.told:
                self._past = float(line["at"])
                try:
                    act(line)
                except (LookupError, TypeError, ValueError) as error:
                    raise InputError(
                        f"the twin's memory is damaged: what it was told at {self._past:g} s makes no sense "
                        f"({type(error).__name__}: {error}); move it away to begin with a new specimen",
                        str(memory.path),
                    ) from None
            self._past = memory.time
            self.catch_up()
            self._past = None
            memory.told.clear()
            memory.begin()
        if isinstance(self.clock, VirtualClock):
            self._unwatch = self.clock.watch(lambda moment: memory.note(moment - self.origin))

    def _step(self) -> None:
        self.index += 1
        moles = {species: line.step(STEP) for species, line in self.lines.items()}
        self.chamber.step(STEP, moles)
        self.furnace.step(STEP, self.chamber.pressures)
        self.drift.step(STEP, self.furnace.sensor)
        if self.index % WANDER_STEPS == 0:
            for wander in self.wanders:
                wander.step()
        if self.index % SPECIMEN_STEPS == 0:
            self.specimen.advance(STEP * SPECIMEN_STEPS, self.furnace.sample, self.chamber.pressures)

    def count(self, scan: Scan, centre: tuple[float, float]) -> int:
        """Note that a frame has been scanned, with the middle of its field on the specimen (m); return its number."""
        with self.lock:
            time = self.catch_up()
            number, self.frames = self.frames, self.frames + 1
            self.scan, self.scanned_at = scan, centre
            told = [scan.rows, scan.columns, scan.field_of_view, scan.dwell_time]
            self.tell(time, frame=told, centre=list(centre))
            return number

    def halt(self) -> None:
        """Stop every axis of the stage."""
        with self.lock:
            time = self.catch_up()
            self.stage.stop(time)
            self.tell(time, stop="stage")

    def working_distance(self, time: float) -> float:
        """Return the distance from the pole piece to the sample, m."""
        return self.focal_zero - self.stage.z.at(time) - self.drift.offset[2]

    def unscattered(self) -> float:
        """Return the share of the probe that no gas molecule met."""
        assert self.beam is not None  # noqa: S101  built first
        energy = self.beam.energy.at(self.time) / 1.602176634e-16
        return unscattered_share(self.chamber.pressures, energy, self.gas_path)

    def centre(self, time: float) -> tuple[float, float]:
        """Return the point of the specimen (m) under the middle of the field.

        A stage's coordinates are those of the specimen's point under the axis; the beam's shift moves the field over
        the sample, and drift moves the sample under the field.
        """
        assert self.beam is not None  # noqa: S101
        dx, dy, _ = self.drift.offset
        x = self.beam.shift[0].at(time) - dx
        y = self.beam.shift[1].at(time) - dy
        angle = self.stage.rotation.at(time)
        cosine, sine = math.cos(angle), math.sin(angle)
        return (
            self.stage.x.at(time) + cosine * x + sine * y,
            self.stage.y.at(time) - sine * x + cosine * y,
        )

    def close(self) -> None:
        """Answer no more; what is remembered stays."""
        for release in self.releases:
            release()
        if self._unwatch is not None:
            self._unwatch()
        with self.lock:
            if self._memory is not None and not self.closed:
                self.closed = True
                self._memory.close()
            self.closed = True

    def field(self, most: int = 160) -> Grid:
        """Return the last frame's field on the specimen, a rotated stage's upright, in ``most`` columns at most."""
        from simulators.specimen import Grid

        coarser = max(1.0, self.scan.columns / most)
        shape = (math.ceil(self.scan.rows / coarser), math.ceil(self.scan.columns / coarser))
        return Grid(self.scanned_at or self.centre(self.time), self.scan.pixel_size * coarser, shape)

    def truth_surface(self) -> Surface:
        """Return the relief in the last frame's field, as it is now: for comparison with what was reconstructed.

        Call it before the clock goes on, and it is the surface that the frame was rendered from, without the frame's
        distortion (0.1 % of the field unless the instrument's file says otherwise) and drift within the raster.
        """
        return self.surface(self.scan, 0, self.scanned_at)

    def surface(self, scan: Scan, margin: int = 0, centre: tuple[float, float] | None = None) -> Surface:
        """Return what lies in the field of a scan now, as the beam sees it: the truth that a frame is made from.

        Parameters
        ----------
        scan : Scan
        margin : int
            Pixels more on each side.
        centre : (float, float), m, optional
            Of the field on the specimen; where it stands now unless given.
        """
        from simulators.specimen import Grid

        with self.lock:
            time = self.catch_up()
            place = centre or self.centre(time)
            shape = (scan.rows + 2 * margin, scan.columns + 2 * margin)
            rotation, tilt = self.stage.rotation.at(time), self.stage.tilt.at(time)
            if rotation == 0.0 and tilt == 0.0:
                return self.specimen.surface(Grid(place, scan.pixel_size, shape))
            side = math.ceil(math.hypot(*shape) / math.cos(tilt)) + 4
            side += (side - shape[1]) % 2  # nodes on nodes, where nothing turns
            found = self.specimen.surface(Grid(place, scan.pixel_size, (side, side)))
        return turned(found, shape, rotation, tilt)


def turned(found: Surface, shape: tuple[int, int], rotation: float, tilt: float) -> Surface:
    """Return a surface seen on a stage that is rotated about z, then tilted about x (rad).

    The shift of a point by its own height times sin(tilt) is left out: nanometres at a few degrees.
    """
    from scipy import ndimage

    from simulators.specimen import Surface

    side, pixel = found.height.z.shape[0], found.height.pixel_size
    rows, columns = shape
    x = np.arange(columns) + 0.5 - columns / 2
    y = (rows / 2 - np.arange(rows) - 0.5)[:, None] / math.cos(tilt)
    cosine, sine = math.cos(rotation), math.sin(rotation)
    at = np.stack([side / 2 - 0.5 - (cosine * y - sine * x), cosine * x + sine * y + side / 2 - 0.5])
    z = ndimage.map_coordinates(found.height.z, at, order=1, mode="nearest")
    z = z * math.cos(tilt) + y * (math.sin(tilt) * pixel)

    def resampled(layer: Singles | None) -> Singles | None:
        return None if layer is None else ndimage.map_coordinates(layer, at, order=1, mode="nearest")

    oxide = ndimage.map_coordinates(found.oxide, at, order=1, mode="nearest")
    grain = ndimage.map_coordinates(found.grain, at, order=0, mode="nearest")
    relief = HeightMap(z.astype(np.float32), pixel)
    return Surface(relief, oxide, grain, resampled(found.cover), resampled(found.buried))
