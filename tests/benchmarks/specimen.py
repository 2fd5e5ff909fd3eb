"""Figures of the simulated specimen: ``python tests/benchmarks/specimen.py [--pictures]``."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from simulators.kinetics import GAS_CONSTANT
from simulators.specimen import Grid, Specimen

HOT = 1073.15
OXYGEN, HYDROGEN = {"O2": 17.0}, {"H2": 17.0}
MINUTE = 60.0
FIELD = Grid((9e-6, 14e-6), 10e-6 / 512, (512, 512))
PICTURE = Path(__file__).parents[2] / "docs" / "pictures" / "night.png"


def row(figure: str, goal: str, reached: str, good: bool = True) -> None:
    """Print one line of the table."""
    print(f"{figure:<66} {goal:<18} {reached:<22} {'' if good else 'NOT REACHED'}")


def minutes_until(specimen: Specimen, gas: dict[str, float], reached: Callable[[], bool], step: float = 10.0) -> float:
    """Advance until something is reached; return how long that took, min."""
    begun = specimen.time
    while not reached() and specimen.time - begun < 5 * 3600.0:
        specimen.advance(step, HOT, gas)
    return (specimen.time - begun) / MINUTE


def night(seed: int) -> tuple[float, ...]:
    """Return first nuclei, 95 % coverage, first metal, 5 % coverage (min) and the size of the film's grains (m)."""
    specimen = Specimen(seed)
    first = minutes_until(specimen, OXYGEN, lambda: specimen.truth().nuclei > 0)
    full = first + minutes_until(specimen, OXYGEN, lambda: specimen.truth().coverage >= 0.95, 30.0)
    specimen.advance(15 * MINUTE, HOT, OXYGEN)
    size = 2 * math.sqrt(specimen.extent**2 / specimen.truth().nuclei / math.pi)
    metal = minutes_until(specimen, HYDROGEN, lambda: specimen.truth().metal_nuclei > 0)
    gone = metal + minutes_until(specimen, HYDROGEN, lambda: specimen.truth().coverage <= 0.05, 60.0)
    return first, full, metal, gone, size


def activation_energy(seeds: Sequence[int], temperatures: list[float], field: Grid | None) -> tuple[float, float]:
    """Return the energy from half times of the coverage, and from the JMAK rate behind the induction; J/mol.

    Every temperature has a specimen of its own, with the nuclei of its seed; ``field`` None: the whole specimen.
    """
    halves, rates = [], []
    for seed, temperature in zip(seeds, temperatures, strict=True):
        specimen = Specimen(seed)
        specimen.advance(3600.0, HOT, OXYGEN)
        begun = specimen.time
        step = 90.0 * math.exp(115e3 / GAS_CONSTANT * (1 / temperature - 1 / HOT))
        times, curve = [], []
        while not curve or curve[-1] > 0.02:
            specimen.advance(step, temperature, HYDROGEN)
            times.append(specimen.time - begun)
            curve.append(specimen.truth(field).coverage)
        t, share = np.array(times), np.array(curve)
        halves.append(float(np.interp(-0.5, -share, t)))
        rates.append(jmak_rate(t, share))
    inverse = 1 / np.array(temperatures)
    from_halves = float(np.polyfit(inverse, np.log(halves), 1)[0]) * GAS_CONSTANT
    from_rates = -float(np.polyfit(inverse, np.log(rates), 1)[0]) * GAS_CONSTANT
    return from_halves, from_rates


def jmak_rate(times: np.ndarray, coverage: np.ndarray) -> float:
    """Return k of 1 − X = exp(−(k (t − t0))^n), fitted with n and t0 free."""
    from scipy.optimize import curve_fit

    scale = float(np.interp(-0.5, -coverage, times))

    def law(t: np.ndarray, rate: float, begin: float, order: float) -> np.ndarray:
        return np.exp(-((rate * np.maximum(t / scale - begin, 1e-9)) ** order))

    (rate, _, _), _ = curve_fit(law, times, coverage, p0=(1.2, 0.2, 2.0), bounds=([0.1, 0.0, 1.0], [10.0, 0.9, 4.0]))
    return float(rate) / scale


def shortest(work: Callable[[], object], times: int = 7) -> float:
    """Return the processor time of the shortest of several runs, s; everything here runs in one thread."""
    spent = []
    for _ in range(times):
        begun = time.process_time()
        work()
        spent.append(time.process_time() - begun)
    return min(spent)


def kinetics() -> None:
    """Times and energies against what was observed."""
    figures = np.array([night(seed) for seed in (1, 2, 3)])
    names = (
        ("first nuclei after O2 arrives, min", "1 to 4", 1.0, 4.0),
        ("coverage of 95 %, min", "20 to 45", 20.0, 45.0),
        ("first metal after H2 arrives, min", "4 to 9", 4.0, 9.0),
        ("coverage of 5 % in H2, min", "slower than O2", float(figures[:, 1].max()), 300.0),
    )
    for column, (name, goal, low, high) in enumerate(names):
        values = figures[:, column]
        reached = ", ".join(f"{value:.1f}" for value in values)
        row(f"{name} (seeds 1, 2, 3)", goal, reached, bool((values >= low).all() and (values <= high).all()))
    sizes = figures[:, 4] * 1e6
    good = bool((abs(sizes - 3) < 0.6).all())
    row("grains of the full film, µm across", "about 3", ", ".join(f"{size:.2f}" for size in sizes), good)
    temperatures = [973.15, 1023.15, 1073.15, 1123.15, 1173.15]
    field = Grid((9e-6, 14e-6), 10e-6 / 256, (256, 256))
    cases: tuple[tuple[str, Sequence[int], Grid | None], ...] = (
        ("30 µm, five specimens", range(20, 25), None),
        ("30 µm, five others", range(40, 45), None),
        ("10 µm field of one specimen", [20] * 5, field),
    )
    for where, seeds, seen in cases:
        for name, energy in zip(("half times", "JMAK fits"), activation_energy(seeds, temperatures, seen), strict=True):
            figure = f"reduction's energy, {where}, {name}, kJ/mol"
            row(figure, "115 within 5 %", f"{energy / 1e3:.1f}", abs(energy / 115e3 - 1) < 0.05)
    others = [activation_energy(range(seed, seed + 5), temperatures, field)[0] / 1e3 for seed in (20, 40)]
    reached = ", ".join(f"{energy:.1f}" for energy in others)
    row("the same from 10 µm fields of five specimens (few nuclei each)", "", reached)


def exactness() -> None:
    """The same night in one step for each gas and in steps of 0.7 s."""
    programme = [(1500.0, OXYGEN), (120.0, {}), (1800.0, HYDROGEN), (900.0, OXYGEN), (600.0, HYDROGEN)]
    whole, cut = Specimen(5), Specimen(5)
    for seconds, gas in programme:
        whole.advance(seconds, HOT, gas)
        left = seconds
        while left > 0:
            cut.advance(min(left, 0.7), HOT, gas)
            left -= 0.7
    apart = np.abs(whole.surface(FIELD).height.z - cut.surface(FIELD).height.z).max()
    row("two redox cycles: one step against 0.7 s steps, height, nm", "0", f"{apart * 1e9:.1g}", apart < 1e-11)


def speed() -> None:
    """Time of a surface at its worst moments, with few and with thousands of islands."""
    specimen, slowest = Specimen(1), 0.0
    for gas in (OXYGEN, HYDROGEN, OXYGEN, HYDROGEN):
        for _ in range(6):
            specimen.advance(500.0, HOT, gas)
            slowest = max(slowest, shortest(lambda: specimen.surface(FIELD), 4))
    row("surface of 512 x 512, slowest of two redox cycles, CPU s", "0.1", f"{slowest:.3f}", slowest <= 0.1)
    cold, slowest = Specimen(1), 0.0
    for _ in range(8):
        cold.advance(4 * 3600.0, 700.0, {"O2": 100.0})
        slowest = max(slowest, shortest(lambda: cold.surface(FIELD), 4))
    count = cold.truth().nuclei
    row(f"the same with {count} islands, CPU s", "0.1", f"{slowest:.3f}", slowest <= 0.1)
    spent = shortest(lambda: [cold.advance(1.0, 700.0, {"O2": 100.0}) for _ in range(100)], 3) / 100
    row("one second of the specimen, CPU ms", "", f"{spent * 1e3:.3f}")


def picture(path: Path) -> None:
    """Draw height and composition at eight times of the night."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.colors import LightSource

    specimen = Specimen(5)
    moments = (
        (OXYGEN, 0),
        (OXYGEN, 6),
        (OXYGEN, 10),
        (OXYGEN, 16),
        (OXYGEN, 40),
        (HYDROGEN, 12),
        (HYDROGEN, 26),
        (HYDROGEN, 90),
    )
    figure, axes = plt.subplots(2, 8, figsize=(16, 4.55), gridspec_kw={"wspace": 0.03, "hspace": 0.03})
    light, gas, spent = LightSource(315, 40), OXYGEN, 0.0
    for number, (now, minutes) in enumerate(moments):
        if now is not gas:
            gas, spent = now, 0.0
        specimen.advance(minutes * MINUTE - spent, HOT, gas)
        spent = minutes * MINUTE
        surface = specimen.surface(FIELD)
        z = np.asarray(surface.height.z, dtype=float)
        shade = light.hillshade(z, vert_exag=1.5, dx=FIELD.pixel_size, dy=FIELD.pixel_size)
        name = "before" if number == 0 else f"{minutes} min in {'O₂' if gas is OXYGEN else 'H₂'}"
        above, below = axes[:, number]
        above.set_title(name, fontsize=10)
        above.imshow(z * 1e9, cmap="copper", vmin=-100, vmax=400)
        above.imshow(shade, cmap="gray", alpha=0.62, vmin=0.1, vmax=1.0)
        shown = below.imshow(surface.oxide * 1e9, cmap="cividis", vmin=0, vmax=700)
        below.text(
            0.04, 0.04, f"{specimen.truth(FIELD).coverage:.0%}", transform=below.transAxes, color="white", fontsize=9
        )
        for axis in (above, below):
            axis.set(xticks=[], yticks=[])
    axes[0, 0].set_ylabel("height")
    axes[1, 0].set_ylabel("oxide, coverage")
    axes[0, 0].plot([40, 40 + 2e-6 / FIELD.pixel_size], [480, 480], color="white", lw=2.5)
    axes[0, 0].text(40, 465, "2 µm", color="white", fontsize=9)
    figure.colorbar(shown, ax=axes[1, :], fraction=0.008, pad=0.008, label="Cu₂O at the top, nm")
    heights = plt.cm.ScalarMappable(plt.Normalize(-100, 400), "copper")
    figure.colorbar(heights, ax=axes[0, :], fraction=0.008, pad=0.008, label="height, nm")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100, bbox_inches="tight", facecolor="white")
    plt.close(figure)
    print(f"drawn: {path}")


def main() -> None:
    """Print the table; draw the night with ``--pictures``."""
    row("figure", "goal", "reached")
    kinetics()
    exactness()
    speed()
    if "--pictures" in sys.argv[1:]:
        picture(PICTURE)


if __name__ == "__main__":
    main()
