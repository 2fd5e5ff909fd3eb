"""Coverage and roughness with their uncertainties through whole nights on the twin, against the truth.

python tests/benchmarks/oxide.py             plays the copper redox night four times: some five minutes
python tests/benchmarks/oxide.py DIR …       measures nights that lie there already, with the program as it is now

The frames are reconstructed again, one after the other, as it happens live. The truth of the coverage is the share of
the field whose top 10 nm are mostly Cu2O; that of the roughness is Sq above the field's least-squares plane.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from acquisition.log import Log
from acquisition.store import Store
from reconstruction.live import Worker

ROOT = Path(__file__).resolve().parents[2]
RECIPE = ROOT / "acquisition" / "recipes" / "copper-redox.yaml"
TWIN = ROOT / "simulators" / "twin.yaml"
NIGHTS = {"seed 1, 512²": (1, 512), "seed 2, 512²": (2, 512), "seed 3, 512²": (3, 512), "seed 1, 128²": (1, 128)}

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Series:
    """A figure over a night: estimate, σ and truth, in one unit. Shapes (N,)."""

    value: Floats
    sigma: Floats
    truth: Floats

    @property
    def pulls(self) -> Floats:
        """How far the truth lies from the estimate, in σ."""
        return np.abs(self.value - self.truth) / self.sigma


def play(folder: Path, seed: int, pixels: int) -> Path:
    """Play a night into a new folder and return it."""
    folder.mkdir(parents=True)
    twin, recipe = folder / "twin.yaml", folder / "recipe.yaml"
    twin.write_text(_with(TWIN.read_text(), "  seed: 1 ", f"  seed: {seed} "))
    recipe.write_text(_with(RECIPE.read_text(), "pixels: 512", f"pixels: {pixels}"))
    command = "from acquisition.__main__ import main; main()"
    options = ["run", str(recipe), "--instrument", str(twin), "--data", str(folder), "--json"]
    done = subprocess.run([sys.executable, "-c", command, *options], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"the night did not end well: {done.stderr[-2000:]}")
    return folder


def _with(text: str, old: str, new: str) -> str:
    if text.count(old) != 1:
        raise SystemExit(f"expected {old!r} once in the file; found it {text.count(old)} times")
    return text.replace(old, new)


def again(folder: Path) -> dict[str, Series]:
    """Reconstruct a night's frames in order and return its coverage and roughness (nm)."""
    store, worker = Store(folder / "runs"), Worker()
    with Log.open(folder / "rilievo.db") as log, tempfile.TemporaryDirectory() as scratch:
        run = log.runs()[0].id
        frames = [entry for entry in log.frames(run) if not entry.dark]
        results = [
            worker.reconstruct(entry.id, store.read(entry.stored.path), Path(scratch) / "heights.tif")
            for entry in frames
        ]
        wrong = [result.error for result in results if result.error]
        if wrong:
            raise SystemExit(f"{len(wrong)} frames have no heights: {wrong[0]}")
        times = np.array([np.datetime64(entry.time.replace(tzinfo=None), "us") for entry in frames])
        found = {}
        for name, scale in (("coverage", 1.0), ("roughness", 1e9)):
            told = log.series(run, f"truth.{name}")
            truth = np.interp(times.astype(float), told.times.astype("datetime64[us]").astype(float), told.values)
            figures = [result.figures[name] for result in results]
            value, sigma = (np.array([getattr(each, part) for each in figures]) for part in ("value", "sigma"))
            found[name] = Series(value, sigma, scale * truth)
    store.close()
    return found


def row(night: str, name: str, series: Series) -> None:
    """Print a line of the table."""
    inside, worst = float(np.mean(series.pulls <= 2.5)), float(series.pulls.max())
    typical = float(np.median(series.sigma))
    far = float(np.abs(series.value - series.truth).max())
    print(f"  {night:16s} {name:10s} {len(series.value):4d} {inside:14.1%} {typical:10.3f} {worst:10.2f} {far:12.3f}")


def main() -> None:
    """Measure and print."""
    print("  goal for the coverage: 95 % within 2.5 σ, median σ at most 0.05")
    print(
        f"  {'night':16s} {'figure':10s} {'n':>4s} {'within 2.5 σ':>14s} {'median σ':>10s} {'worst pull':>10s} farthest"
    )
    with tempfile.TemporaryDirectory() as scratch:
        given = {Path(name).name: Path(name) for name in sys.argv[1:]}
        for index, night in enumerate(given or NIGHTS):
            folder = given[night] if given else play(Path(scratch) / str(index), *NIGHTS[night])
            for name, series in again(folder).items():
                row(night, name, series)


if __name__ == "__main__":
    main()
