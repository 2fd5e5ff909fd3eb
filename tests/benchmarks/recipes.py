"""How long it takes to read and check a hundred recipes: ``python tests/benchmarks/recipes.py``."""

from __future__ import annotations

import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

from acquisition.plan import check_file
from drivers import document
from drivers.clock import VirtualClock
from drivers.registry import Registry

COUNT = 100
GOAL = 1.0  # s
TWIN = Path(__file__).parents[2] / "simulators" / "twin.yaml"

TEXT = """\
name: copper redox, night {n}
description: >-
  Number {n} of a hundred nights, none with the text of another.

imaging: {{beam_energy: {energy} keV, probe_current: 1.{n:02d} nA, field_of_view: 9 um, pixels: 512, dwell_time: 9 us}}
limits: {{heater: 9{n:02d} degC, pressure: 100 Pa, dose: 50 kC/m**2}}

steps:
  - gas: {{H2: 10.{n:02d} sccm}}
  - ramp: {{heater: 7{n:02d} degC, rate: 2{n:02d}e-1 K/min}}
  - hold: 20.{n:02d} min
  - purge: {{N2: 20.{n:02d} sccm, for: 5.{n:02d} min}}
  - dark: 4
  - name: oxidation {n}
    on_interruption: safe
    gas: {{O2: 5.{n:02d} sccm}}
    series: {{every: 30.{n:02d} s, for: 1.{n:02d} h, stop_when: {{coverage: above 0.9{n:02d}}}}}
  - purge: {{N2: 20.{n:02d} sccm, for: 6.{n:02d} min}}
  - repeat: 2
    steps:
      - hold: 1.{n:02d} min
      - frames: 2
  - set: {{column.focus: 8.0{n:02d} mm}}
  - ramp: {{heater: 5{n:02d} K, rate: 30 K/min}}
  - dark: 2
"""


def write_recipes(folder: Path) -> list[Path]:
    """Write the recipes and return their paths."""
    paths = []
    for number in range(COUNT):
        path = folder / f"night-{number:02d}.yaml"
        path.write_text(TEXT.format(n=number, energy=5 + number / 100), "utf-8")
        paths.append(path)
    return paths


def main() -> int:
    """Measure, print a table, and return 0 where the goal is reached."""
    instrument = Registry.discover().instrument(document.read(TWIN), VirtualClock(datetime(2026, 1, 1, tzinfo=UTC)))
    try:
        with tempfile.TemporaryDirectory() as folder:
            paths = write_recipes(Path(folder))
            started = time.perf_counter()
            plans = [check_file(path, instrument)[1] for path in paths]
            seconds = time.perf_counter() - started
    finally:
        instrument.close()
    actions = sum(plan.actions for plan in plans)
    print(f"{'figure':<42}{'goal':>10}{'reached':>10}")
    print(f"{f'{COUNT} recipes read and checked ({actions} actions)':<42}{f'< {GOAL:g} s':>10}{f'{seconds:.2f} s':>10}")
    return 0 if seconds < GOAL else 1


if __name__ == "__main__":
    sys.exit(main())
