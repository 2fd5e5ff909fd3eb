"""A night that was made up: told to the log and the store as the engine would, but in a second."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
import tifffile

from acquisition.log import Log
from acquisition.store import Store
from drivers.frame import BeamSettings, Channel, Frame, Reading
from drivers.geometry import annular, gradient
from drivers.units import KEV, quantity

START = datetime(2026, 1, 1, 18, tzinfo=UTC)
FIELD = 10e-6

# name, actions (kind, seconds, arguments), target temperature in °C, gas
STEPS = [
    ("offsets, cold", [("dark", 20.0, {"frames": 2})], 25, {}),
    ("heating in hydrogen", [("gas", 0.0, {}), ("ramp", 2325.0, {})], 800, {"H2": 10.0}),
    ("cleaning", [("hold", 1200.0, {})], 800, {"H2": 10.0}),
    ("hydrogen out", [("purge.gas", 0.0, {}), ("purge.hold", 300.0, {})], 800, {"N2": 20.0}),
    ("clean surface", [("frames", 40.0, {"count": 2})], 800, {"N2": 20.0}),
    ("oxidation", [("gas", 0.0, {}), ("series", 2100.0, {"every": 30.0})], 800, {"O2": 5.0}),
    ("oxygen out", [("purge.gas", 0.0, {}), ("purge.hold", 300.0, {})], 800, {"N2": 20.0}),
    ("reduction", [("gas", 0.0, {}), ("series", 2400.0, {"every": 60.0})], 800, {"H2": 5.0}),
    ("cooling", [("ramp", 2250.0, {})], 50, {"H2": 5.0}),
]
PASCAL_PER_SCCM = 3.4


@dataclass
class Figure:
    value: float
    sigma: float | None
    unit: str


def coverage_at(seconds: float) -> float:
    """Return the made-up coverage, by seconds since the start."""
    grown = 1 - math.exp(-((max(0.0, seconds - 3985) / 900) ** 2.5))
    return grown * math.exp(-((max(0.0, seconds - 6650) / 700) ** 3))


class Surface:
    """Grains with islands on them."""

    def __init__(self, pixels: int, seed: int = 3) -> None:
        rng = np.random.default_rng(seed)
        y, x = np.mgrid[0:pixels, 0:pixels] / pixels
        self.pixels, self.x, self.y = pixels, x, y
        sites = rng.random((14, 2))
        slopes = rng.normal(0, 0.06, (14, 2))
        grain = np.argmin([(x - a) ** 2 + (y - b) ** 2 for a, b in sites], axis=0)
        local = [(x - a) * s + (y - b) * t for (a, b), (s, t) in zip(sites, slopes, strict=True)]
        self.base = np.choose(grain, local) * FIELD * 0.5 + rng.normal(0, 8e-9, 14)[grain]
        self.islands = rng.random((160, 2)), rng.uniform(0.5, 1.5, 160)

    def at(self, coverage: float) -> tuple[np.ndarray, np.ndarray]:
        """Return heights (m) and where there is oxide."""
        z, oxide = self.base.copy(), np.zeros_like(self.base, bool)
        for (a, b), size in zip(*self.islands, strict=True):
            radius = size * 0.075 * math.sqrt(coverage)
            if radius < 0.004:
                continue
            inside = 1 - ((self.x - a) ** 2 + (self.y - b) ** 2) / radius**2
            oxide |= inside > 0
            z = np.maximum(z, self.base + np.sqrt(np.clip(inside, 0, None)) * radius * FIELD * 0.35)
        return z, oxide


def signal(z: np.ndarray, oxide: np.ndarray, azimuths: np.ndarray, pixel_size: float, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    p, q = gradient(z, pixel_size)
    light = np.where(oxide, 0.92, 1.0) * 9000
    counts = [light * np.clip(1 - 0.9 * (p * math.cos(a) + q * math.sin(a)), 0.1, 4) + 1200 for a in azimuths]
    return np.clip(np.array(counts) + rng.normal(0, 500, (len(azimuths), *z.shape)), 0, 65535).astype(np.uint16)


class Teller:
    """Tells a night to log and store."""

    def __init__(self, folder: Path, pixels: int, name: str, thin: int) -> None:
        self.log, self.store = Log.open(folder / "rilievo.sqlite"), Store(folder / "runs")
        self.surface = Surface(pixels)
        self.geometry = annular(4, 2e-3, 8e-3, 8e-3, threshold=KEV)
        self.thin = thin
        self.clock, self.index, self.number, self.temperature = 0.0, 0, 0, 25.0
        self.gas: dict[str, float] = {}
        self.rows: list[tuple[str, Reading]] = []
        planned = [
            {"address": f"steps[{step}].{kind}", "kind": kind.split(".")[0], "name": title}
            for step, (title, actions, *_) in enumerate(STEPS)
            for kind, *_ in actions
        ]
        self.run = self.log.create_run(
            name=name,
            recipe_text=f"name: {name}\n# 800 °C, 17 Pa\n",
            recipe_name="copper-redox.yaml",
            actions=planned,
            instrument_name="Simulated environmental SEM",
            instrument_description={
                "name": "Simulated environmental SEM",
                "column": {"driver": "twin", "beam_energy": "5 keV", "host": "10.0.0.5"},
            },
            limits={
                "heater.temperature": {"low": _json(0, "K"), "high": _json(1273, "K")},
                "gases.O2.flow": {"low": _json(0, "sccm"), "high": _json(20, "sccm")},
            },
            started=START,
            version="0.1.0",
            plan={"duration": _json(10_900, "s"), "dose": _json(2.6e4, "C/m**2")},
        )

    def now(self) -> datetime:
        return START + timedelta(seconds=self.clock)

    def tell(self) -> None:
        self.log.set_state(self.run, "running", self.now())
        self.log.event(self.run, self.now(), "info", "state", "running")
        for title, actions, target, gas in STEPS:
            for kind, seconds, options in actions:
                self.log.intent(self.run, self.index, self.now())
                self.act(kind, seconds, options, target, gas)
                self.log.outcome(self.run, self.index, self.now(), "done")
                self.index += 1
            if title == "oxidation":
                self.log.event(self.run, self.now(), "info", "decision", "oxidation ends: coverage 0.957 is above 0.95")
        self.log.readings(self.run, self.rows)
        message = f"gauge.pressure does not answer; see {self.store.root}/x <b>"
        self.log.event(self.run, self.now(), "warning", "readback", message)
        self.log.event(self.run, self.now(), "info", "state", "finished")
        self.log.set_state(self.run, "finished", self.now())

    def act(self, kind: str, seconds: float, options: dict[str, float], target: float, gas: dict[str, float]) -> None:
        if kind.endswith("gas"):
            for species in ("H2", "N2", "O2"):
                flow = quantity(gas.get(species, 0.0), "sccm")
                self.log.setpoint(self.run, f"gases.{species}.flow", flow, self.now(), self.index)
            self.gas = gas
        if kind == "ramp":
            goal = quantity(target, "degC")
            self.log.setpoint(self.run, "heater.temperature", goal, self.now(), self.index)
        count = int(options.get("count", options.get("frames", 0))) or (
            int(seconds / options["every"]) // self.thin if "every" in options else 0
        )
        begin, rate = self.clock, (target - self.temperature) / seconds if kind == "ramp" else 0.0
        frames = iter(np.linspace(0, seconds, count, endpoint=False))
        due = next(frames, None)
        while self.clock < begin + seconds:
            if due is not None and self.clock - begin >= due:
                self.expose(dark=kind == "dark")
                due = next(frames, None)
            self.clock += 10
            self.temperature += rate * 10
            self.sample()

    def sample(self) -> None:
        now = self.now()
        wobble = math.sin(self.clock / 37)
        self.rows.append(("heater.temperature", Reading(quantity(self.temperature + 0.5 * wobble, "degC"), now)))
        self.rows.append(("truth.sample_temperature", Reading(quantity(self.temperature - 6, "degC"), now)))
        total = sum(self.gas.values())
        pressure = max(1e-3, total * PASCAL_PER_SCCM * (1 + 0.01 * wobble))
        self.rows.append(("gauge.pressure", Reading(quantity(pressure, "Pa"), now, fresh=self.clock < 9000)))
        for species in ("H2", "N2", "O2"):
            flow = self.gas.get(species, 0.0) * (1 + 0.005 * wobble)
            self.rows.append((f"gases.{species}.flow", Reading(quantity(flow, "sccm"), now)))
        self.rows.append(("truth.roughness", Reading(quantity(40 + 60 * coverage_at(self.clock), "nm"), now)))
        self.rows.append(("truth.coverage", Reading(quantity(coverage_at(self.clock), ""), now)))

    def expose(self, *, dark: bool) -> None:
        pixel_size = FIELD / self.surface.pixels
        coverage = coverage_at(self.clock)
        z, oxide = self.surface.at(0.0 if dark else coverage)
        counts = signal(z, oxide, self.geometry.azimuths, pixel_size, self.number)
        if dark:
            counts = np.random.default_rng(self.number).normal(1200, 20, counts.shape).astype(np.uint16)
        channels = tuple(Channel(name, offset=1200.0, read_noise=20.0) for name in self.geometry.names)
        beam = BeamSettings(5 * KEV, pixel_size, probe_current=1e-9, dwell_time=1e-5, probe_diameter=3e-9)
        readbacks = {
            "heater.temperature": Reading(quantity(self.temperature, "degC"), self.now()),
            "gauge.pressure": Reading(quantity(sum(self.gas.values()) * PASCAL_PER_SCCM, "Pa"), self.now()),
        }
        frame = Frame(counts, self.geometry, beam, channels, self.now(), dark, readbacks)
        stored = self.store.append(self.run, self.number, frame)
        key = self.log.frame(self.run, self.number, self.index, frame, stored)
        if not dark:
            self.reconstruct(key, z, coverage, pixel_size)
        self.number += 1

    def reconstruct(self, key: int, z: np.ndarray, coverage: float, pixel_size: float) -> None:
        if self.number % 9 == 4:
            self.log.reconstruction(key, "left out")
            return
        if self.number == 8:
            self.log.reconstruction(key, "failed", error="every pixel of segment B is saturated", seconds=0.01)
            return
        rng = np.random.default_rng(self.number)
        sigma = np.full(z.shape, 4.0) + 3 * np.hypot(self.surface.x - 0.5, self.surface.y - 0.5)
        heights = (z - z.mean()) * 1e9 + rng.normal(0, 1.5, z.shape)
        folder = self.store.folder(self.run) / "heights"
        folder.mkdir(exist_ok=True)
        path = folder / f"{self.number:06d}.tif"
        details = {"unit": "nm", "pixel_size": _json(pixel_size * 1e9, "nm")}
        with tifffile.TiffWriter(path) as tif:
            for index, page in enumerate((heights, sigma)):
                description = json.dumps(details) if index == 0 else "standard deviation in nm"
                tif.write(page.astype(np.float32), photometric="minisblack", description=description, metadata=None)
        noise = rng.normal(0, 0.02)
        figures = {
            "coverage": Figure(
                min(1.0, max(0.0, coverage + noise)), 0.3 if self.number % 9 == 6 else 0.02 + 0.03 * coverage, ""
            ),
            "roughness": Figure(float(heights.std()), 1.2, "nm"),
            "height_range": Figure(float(np.ptp(heights)), 8.0, "nm"),
            "mean_sigma": Figure(float(sigma.mean()), None, "nm"),
        }
        relative = path.relative_to(self.store.root)
        self.log.reconstruction(key, "done", path=relative, figures=figures, seconds=0.07)


def _json(value: float, unit: str) -> dict[str, float | str]:
    return {"value": value, "unit": unit}


@dataclass
class Told:
    """A night that is in log and store."""

    log: Log
    store: Store
    run: str


def tell(folder: Path, pixels: int = 48, name: str = "copper redox at 800 °C", thin: int = 4) -> Told:
    teller = Teller(folder, pixels, name, thin)
    teller.tell()
    return Told(teller.log, teller.store, teller.run)


@pytest.fixture(scope="session")
def night(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Told]:
    told = tell(tmp_path_factory.mktemp("night"), name="copper <script>alert('redox')</script> & \"800 °C\"")
    yield told
    told.log.close()
    told.store.close()
