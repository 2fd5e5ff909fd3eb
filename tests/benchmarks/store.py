"""How fast frames and journal entries become durable. Run: ``python tests/benchmarks/store.py [FOLDER]``.

The plain write is the same bytes through the page cache and forced to the disk, without name, checksum or metadata.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median

import numpy as np

from acquisition.log import Log
from acquisition.store import Store
from drivers.frame import BeamSettings, Channel, Frame, Reading
from drivers.geometry import annular
from drivers.units import KEV, quantity

ROUNDS = 5
START = datetime(2026, 1, 1, 18, tzinfo=UTC)


def frame(size: int = 1024) -> Frame:
    """Return a noisy frame of four segments."""
    counts = np.random.default_rng(1).integers(0, 65535, (4, size, size), dtype=np.uint16)
    readbacks = {f"channel.{index}": Reading(quantity(300.0 + index, "K"), START) for index in range(30)}
    beam = BeamSettings(5 * KEV, 20e-9, probe_current=1e-9, dwell_time=10e-6)
    geometry = annular(4, 2e-3, 8e-3, 8e-3)
    return Frame(counts, geometry, beam, tuple(Channel(name) for name in geometry.names), START, readbacks=readbacks)


def frames_per_second(root: Path, count: int = 100) -> float:
    """Return how many frames a second :meth:`Store.append` makes durable."""
    sample = frame()
    with Store(root) as store:
        store.append("warm-up", 0, sample)
        begin = time.perf_counter()
        for number in range(count):
            store.append("run", number, sample)
        return count / (time.perf_counter() - begin)


def plain_per_second(root: Path, count: int = 100) -> float:
    """Return how many files of the same size a second the disk takes with fsync."""
    content = frame().counts.tobytes()
    begin = time.perf_counter()
    for number in range(count):
        with (root / f"plain-{number}").open("wb", buffering=0) as file:
            file.write(content)
            os.fsync(file.fileno())
    return count / (time.perf_counter() - begin)


def commits_per_second(root: Path, count: int = 1000) -> float:
    """Return how many journal entries a second are durable, each in a transaction of its own."""
    with Log.open(root / "commits.sqlite") as log:
        run = _run(log, count)
        begin = time.perf_counter()
        for index in range(count):
            log.intent(run, index, START)
        return count / (time.perf_counter() - begin)


def readings_per_second(root: Path, count: int = 50_000) -> float:
    """Return how many readings a second go to the log in bulk."""
    rows = [
        (f"channel.{index % 30}", Reading(quantity(300.0, "K"), START + timedelta(seconds=index)))
        for index in range(count)
    ]
    with Log.open(root / "readings.sqlite") as log:
        run = _run(log, 1)
        begin = time.perf_counter()
        log.readings(run, rows)
        return count / (time.perf_counter() - begin)


def _run(log: Log, actions: int) -> str:
    return log.create_run(
        name="benchmark",
        recipe_text="",
        recipe_name="benchmark.yaml",
        actions=[{"kind": "note", "address": f"steps[{index}]"} for index in range(actions)],
        instrument_name="none",
        instrument_description={},
        limits={},
        started=START,
        version="0",
        plan=None,
    )


def main() -> None:
    """Print the table."""
    parent = sys.argv[1] if len(sys.argv) > 1 else None
    root = Path(tempfile.mkdtemp(prefix="rilievo-store-", dir=parent))
    try:
        stored, plain = [], []
        for _ in range(ROUNDS):  # in turn, so that a busy disk is unfair to neither
            for figures, measure in ((stored, frames_per_second), (plain, plain_per_second)):
                with tempfile.TemporaryDirectory(dir=root) as folder:
                    figures.append(measure(Path(folder)))
        print(f"{'figure':<52}{'goal':>10}{'reached':>12}")
        print(f"{'durable frames of 1024² × 4 uint16, 1/s, median':<52}{'≥ 60':>10}{median(stored):>12.0f}")
        print(f"{'the same, best round':<52}{'':>10}{max(stored):>12.0f}")
        print(f"{'times as fast as a plain write and fsync':<52}{'':>10}{median(stored) / median(plain):>12.2f}")
        print(f"{'durable journal entries (SQLite), 1/s':<52}{'':>10}{commits_per_second(root):>12.0f}")
        print(f"{'readings in bulk (SQLite), 1/s':<52}{'':>10}{readings_per_second(root):>12.0f}")
    finally:
        shutil.rmtree(root)


if __name__ == "__main__":
    main()
