"""Integration, frame to heights, and the local law's error on frames whose truth is known.

python tests/benchmarks/heights.py

The frames come from the twin's renderer, which knows nothing of the reconstruction: its emission and its lateral spread
come from Monte Carlo. The error is rms over range, plane removed, 16 pixels cropped.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime

import numpy as np
from scipy.special import erf

from drivers.frame import BeamSettings, Channel, Frame
from drivers.geometry import annular
from drivers.sample import HeightMap
from drivers.units import KEV
from reconstruction.integrate import integrate
from reconstruction.metrology import relative_error
from reconstruction.photometric import reconstruct

SIZE = 512
GEOMETRY = annular(4, 2e-3, 8e-3, 8e-3, threshold=1 * KEV)
BEAM = BeamSettings(5 * KEV, 20e-9, 1e-9, 1e-5, probe_diameter=5e-9)
OFFSET, READ_NOISE = 1000.0, 20.0


def row(figure: str, goal: str, reached: str) -> None:
    """Print a line of the table."""
    print(f"  {figure:52s} {goal:14s} {reached}")


def timed(work: Callable[[], object], repeats: int = 15) -> tuple[float, float]:
    """Return the median and the shortest time of a call, ms, after one to warm up."""
    work()
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        work()
        times.append(1e3 * (time.perf_counter() - begin))
    return float(np.median(times)), min(times)


def surfaces() -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Return heights and analytic gradients, in pixels, of a smooth, a faceted and a terraced surface."""
    rows, columns = np.mgrid[0:SIZE, 0:SIZE].astype(float)
    x, y = columns, -rows
    k = 2 * np.pi / 32
    wave = (
        np.sin(k * x) * np.sin(0.7 * k * y + 1),
        k * np.cos(k * x) * np.sin(0.7 * k * y + 1),
        0.7 * k * np.sin(k * x) * np.cos(0.7 * k * y + 1),
    )
    azimuths = np.radians(17) + np.arange(4) * np.pi / 2
    faces = np.stack([100 - 0.4 * ((x - 256.4) * np.cos(a) + (y + 255.8) * np.sin(a)) for a in azimuths])
    steepest, on = faces.argmin(axis=0), faces.min(axis=0) > 10
    pyramid = (
        np.where(on, faces.min(axis=0), 10),
        np.where(on, -0.4 * np.cos(azimuths[steepest]), 0),
        np.where(on, -0.4 * np.sin(azimuths[steepest]), 0),
    )
    sigma, z, slope = 2 / 2.563, np.zeros((SIZE, SIZE)), np.zeros((SIZE, SIZE))
    for place in (-150.3, -60.7, 20.2, 133.9):
        along = (x - 256) * np.cos(0.17) + (y + 256) * np.sin(0.17) - place
        z += 0.5 * erf(along / sigma / np.sqrt(2))
        slope += np.exp(-0.5 * (along / sigma) ** 2) / sigma / np.sqrt(2 * np.pi)
    terraces = (z, slope * np.cos(0.17), slope * np.sin(0.17))
    return {"smooth": wave, "faceted": pyramid, "terraced (2 px)": terraces}


def islands(size: int, rng: np.random.Generator, smallest: float, largest: float) -> np.ndarray:
    """Return faceted islands 50 to 150 nm high, their half width from smallest to largest (m); shape (size, size)."""
    rows, columns = np.mgrid[0:size, 0:size] * BEAM.pixel_size
    z = np.zeros((size, size))
    for _ in range(90):
        height, radius, turn = rng.uniform(50e-9, 150e-9), rng.uniform(smallest, largest), rng.uniform(0, np.pi)
        x, y = columns - rng.uniform(0, size) * BEAM.pixel_size, rows - rng.uniform(0, size) * BEAM.pixel_size
        far = np.maximum(*(np.abs(x * np.cos(turn + a) + y * np.sin(turn + a)) for a in (0, np.pi / 2)))
        z = np.maximum(z, height * np.clip((radius - far) / rng.uniform(0.3, 0.8) / radius, 0, 1))
    return z


def twin_frame(z: np.ndarray, margin: int, rng: np.random.Generator, noisy: bool = True) -> Frame:
    """Render and digitise a surface: photon noise of each electron's energy, amplifier noise, 16 bit."""
    from simulators.raster import renderer
    from simulators.rendering import Layers, Optics

    probe = (BEAM.probe_diameter / 2.355) ** 2 * np.eye(2)
    surface = HeightMap(z, BEAM.pixel_size)
    bare = Layers(np.zeros(z.shape, np.float32))
    energy = renderer(BEAM.beam_energy, GEOMETRY).render(surface, bare, Optics(probe), margin).astype(float)
    electrons = BEAM.electrons_per_pixel or 1.0
    each = 2.5
    detected = electrons * energy / each
    if noisy:
        # A detected electron carries an energy that itself spreads: 1.2 times the variance of a bare count.
        detected += rng.normal(size=detected.shape) * np.sqrt(1.2 * detected)
    gain = 25_000 / detected.mean()
    signal = detected * gain + OFFSET + noisy * READ_NOISE * rng.normal(size=detected.shape)
    channels = tuple(Channel(name, offset=OFFSET, read_noise=READ_NOISE if noisy else 0.0) for name in GEOMETRY.names)
    counts = np.clip(np.rint(signal), 0, 65535).astype(np.uint16)
    return Frame(counts, GEOMETRY, BEAM, channels, datetime(2024, 5, 1, tzinfo=UTC))


def integration() -> None:
    """Measure the cosine transform."""
    rng = np.random.default_rng(0)
    p, q = rng.normal(size=(2, SIZE, SIZE)).astype(np.float32)
    median, best = timed(lambda: integrate(p, q, 1.0))
    row("DCT integration 512², float32, one thread", "≤ 15 ms", f"{median:.1f} ms (best {best:.1f})")
    for name, (z, along, up) in surfaces().items():
        error = relative_error(integrate(along, up, 1.0), z)
        row(f"error / range, analytic gradients, {name}", "≤ 0.1 %", f"{100 * error:.3f} %")


def from_the_twin(name: str, smallest: float, largest: float) -> Frame:
    """Measure the error on rendered islands; return the last frame."""
    margin = 40
    errors, ratios = [], []
    for seed in range(3):
        rng = np.random.default_rng(seed)
        z = islands(SIZE + 2 * margin, rng, smallest, largest)
        truth = z[margin:-margin, margin:-margin]
        frame = twin_frame(z, margin, rng)
        result, quiet = reconstruct(frame), reconstruct(twin_frame(z, margin, rng, noisy=False))
        errors.append((relative_error(result.z, truth, 16), relative_error(quiet.z, truth, 16)))
        noise = np.std(np.asarray(result.z) - np.asarray(quiet.z))
        ratios.append(noise / float(np.sqrt(np.mean(result.sigma**2))))
    noisy, missed = 100 * np.mean(errors, axis=0)
    row(f"local law, {name}", "(about 7 %)", f"{noisy:.1f} % of the range; {missed:.1f} % without noise")
    row("    error that noise makes, over σ", "about 1", f"{np.mean(ratios):.2f}")
    return frame


def main() -> None:
    """Measure and print."""
    print(f"  {'figure':52s} {'goal':14s} reached")
    integration()
    from_the_twin("islands 0.5 to 1.2 µm wide, 50 to 150 nm high", 250e-9, 600e-9)
    frame = from_the_twin("islands 0.2 to 0.5 µm wide, 50 to 150 nm high", 100e-9, 250e-9)
    median, best = timed(lambda: reconstruct(frame))
    row("height map from a 512² × 4 frame", "≤ 80 ms", f"{median:.0f} ms (best {best:.0f})")


if __name__ == "__main__":
    main()
