"""The twin's scan generator: waits for as long as a raster takes, then renders what it saw."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from drivers.clock import Signal
from drivers.contract import Scan, ScanTiming
from drivers.errors import DeviceError
from drivers.geometry import DetectorGeometry
from drivers.units import ELEMENTARY_CHARGE, KEV
from simulators.emission import collect
from simulators.materials import electron_range, material
from simulators.optics import Beam
from simulators.rendering import Layers, Optics, Renderer
from simulators.tables import EmissionTables
from simulators.world import World

Floats = NDArray[np.float64]


@lru_cache(maxsize=16)
def renderer(energy: float, geometry: DetectorGeometry) -> Renderer:
    """Return the renderer of copper and its oxide at a beam energy (J).

    Raises
    ------
    InputError
        For an energy that the emission tables do not hold.
    """
    tables = EmissionTables.load()
    copper, oxide = (tables.law(name, energy) for name in ("Cu", "Cu2O"))
    level = np.zeros(1)
    ratio = collect(oxide, geometry, level, level).sum() / collect(copper, geometry, level, level).sum()
    return Renderer(copper, geometry, electron_range(material("Cu"), energy), float(ratio))


@dataclass(frozen=True)
class Exposure:
    """What has been fixed when a raster begins.

    Attributes
    ----------
    scan : Scan
    time : float, s
        Of the world.
    moment : datetime
        UTC.
    centre : (float, float), m
        Of the field on the specimen.
    drift : (float, float, float), m
    """

    scan: Scan
    time: float
    moment: datetime
    centre: tuple[float, float]
    drift: tuple[float, float, float]


class TwinScanner:
    """Scans the simulated sample: a :class:`drivers.contract.ScanBackend`.

    Parameters
    ----------
    world : World
    timing : ScanTiming
    distortion : float
        Largest error of the scan, as a share of the field.
    flicker : float
        Standard deviation of the probe current from row to row, as a share.
    """

    prompt = True

    def __init__(self, world: World, timing: ScanTiming, distortion: float = 1e-3, flicker: float = 5e-4) -> None:
        self._world = world
        self._timing = timing
        self._distortion = distortion
        self._flicker = world.stream("flicker")
        self._flicker_spread = flicker
        self._scan: Scan | None = None
        self._stopped: Signal = world.clock.signal()

    def arm(self, scan: Scan) -> None:
        """Prepare a raster."""
        if scan.rows < 4 or scan.columns < 4 or not (scan.field_of_view > 0 and scan.dwell_time > 0):
            raise DeviceError(
                f"expected a raster of 4 x 4 pixels or more, with a field and a dwell time above 0; got {scan}",
                "detector",
            )
        self._scan = scan
        self._stopped.clear()

    def stop(self) -> None:
        """End a raster early."""
        self._stopped.set()

    def acquire(self) -> tuple[NDArray[np.uint16], datetime]:
        """Scan once; return counts (segment, row, column) and the UTC time of the first pixel.

        Raises
        ------
        DeviceError
            Without :meth:`arm`, or when :meth:`stop` ended the raster.
        """
        if self._scan is None:
            raise DeviceError("the scanner was not armed; call arm before acquire", "detector")
        begun = self._begin(self._scan)
        if self._stopped.wait(self._timing.seconds(begun.scan)):
            raise DeviceError("the raster was stopped before its end; the frame is incomplete", "detector")
        return self._finish(begun), begun.moment

    def _begin(self, scan: Scan) -> Exposure:
        world = self._world
        with world.lock:
            time = world.catch_up()
            return Exposure(scan, time, world.clock.now(), world.centre(time), world.drift.offset)

    def _finish(self, begun: Exposure) -> NDArray[np.uint16]:
        """Render what the raster saw; the specimen is the one at its end, seconds after its beginning."""
        world, scan = self._world, begun.scan
        with world.lock:
            number = world.count(scan, begun.centre)
            end = world.catch_up()
            beam, diode = world.beam, world.diode
            assert beam is not None and diode is not None  # noqa: S101, PT018  built before the scanner
            temperature, current = world.furnace.sensor, beam.current.at(end) * (1.0 + world.emission.value)
            view = renderer(
                round(beam.energy.at(end) / KEV, 2) * KEV, diode.geometry.at(round(world.working_distance(end), 5))
            )
            optics = self._optics(beam, begun, end, number)
            margin = view.margin((scan.rows, scan.columns), scan.pixel_size)
            lit = bool(optics.intensity is not None and optics.intensity.any())
            surface = world.surface(scan, margin, begun.centre) if lit else None
        if surface is None:
            shape = (len(diode.amplifiers), scan.rows, scan.columns)
            energy = np.zeros(shape, dtype=np.float32)
        else:
            electrons = current * scan.dwell_time / ELEMENTARY_CHARGE
            layers = Layers(surface.oxide, surface.cover, surface.buried)
            energy = view.render(surface.height, layers, optics, margin) * np.float32(electrons)
        mean, square = view.law.deposit(diode.geometry.threshold / KEV)
        deposit = square / mean if mean > 0 else 1.0
        return diode.digitise(energy, deposit, scan.dwell_time, temperature, begun.time, number)

    def _optics(self, beam: Beam, begun: Exposure, end: float, number: int) -> Optics:
        world, scan = self._world, begun.scan
        rows = np.arange(scan.rows)
        line = scan.columns * scan.dwell_time + self._timing.line
        began = np.asarray(begun.time + rows * line, dtype=np.float64)
        lit = ~beam.is_blanked(began) & ~beam.is_blanked(began + scan.columns * scan.dwell_time)
        generator = self._flicker.generator(number)
        intensity = lit * (1.0 + self._flicker_spread * generator.standard_normal(scan.rows))
        # The sample creeps on while the raster goes down it: each row looks where the sample has left to.
        gone = np.array(world.drift.offset[:2]) - np.array(begun.drift[:2])
        elapsed = (began - begun.time) / max(end - begun.time, 1e-9)
        return Optics(
            covariance=beam.covariance(end, world.working_distance(end)),
            unscattered=world.unscattered(),
            displacement=-elapsed[:, None] * gone[None, :],
            distortion=self._distortion,
            intensity=np.asarray(intensity, dtype=np.float64),
        )
