"""What the microscopist's steps achieve on the twin: ``python tests/benchmarks/steps.py``.

Autofocus from up to 20 µm away, stigmators from up to 40 % away, and an hour of a series whose sample creeps, whose
stage warms and whose surface oxidises; each against the twin's own truth.
"""

from __future__ import annotations

import math
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from acquisition.engine import Engine
from acquisition.ledger import Ledger
from acquisition.log import Log
from acquisition.recipe import compile_recipe, parse_recipe
from acquisition.states import State
from acquisition.store import Store
from drivers import document
from drivers.clock import VirtualClock
from drivers.contract import Instrument
from drivers.registry import Registry
from drivers.units import quantity, si
from simulators.instruments import TWIN, world_of

CONVERGENCE = 5e-3  # rad, of the twin's probe
LOOK = "field_of_view: 5 um, pixels: 128, dwell_time: 5 us"
FINE_LOOK = "field_of_view: 5 um, pixels: 256, dwell_time: 10 us"
IMAGING = "imaging: {beam_energy: 5 keV, probe_current: 1 nA, field_of_view: 5 um, pixels: 256, dwell_time: 5 us}\n"
DEPTH = 5e-6 / 128 / (2 * CONVERGENCE)  # m: a ray at the probe's edge strays by half a pixel


@contextmanager
def twin(seed: int, astigmatism: tuple[float, float] = (0.0, 0.0)) -> Iterator[Instrument]:
    """Yield a twin with another specimen and other noise."""
    text = TWIN.read_text("utf-8").replace("seed: 1", f"seed: {seed}")
    text = text.replace("convergence: 5 mrad", f"convergence: 5 mrad\n  astigmatism: {list(astigmatism)}")
    clock = VirtualClock(datetime(2026, 1, 1, tzinfo=UTC))
    instrument = Registry.discover().instrument(document.parse(text, "twin.yaml"), clock)
    try:
        with clock.register("engine"):
            yield instrument
    finally:
        instrument.close()


def play(instrument: Instrument, steps: str) -> tuple[list[dict], list[tuple[float, float]], list[float]]:
    """Play steps; return the results of the actions, where each kept frame lay (m), and the drift at its time (m)."""
    text = f"name: steps\n{IMAGING}steps:\n{steps}"
    actions = compile_recipe(parse_recipe(text).recipe)
    world, places, drifts = world_of(instrument), [], []
    with tempfile.TemporaryDirectory() as folder, Log.open(Path(folder) / "x.db") as log, Store(Path(folder)) as store:
        append = store.append

        def noted(run_id, number, frame):
            places.append(world.scanned_at)
            drifts.append(tuple(world.drift.offset[:2]))
            return append(run_id, number, frame)

        store.append = noted  # type: ignore[method-assign]
        run_id = log.create_run(
            name="steps", recipe_text=text, recipe_name="x.yaml", instrument_name="twin", instrument_description={},
            actions=[action.model_dump(mode="json") for action in actions], limits={}, version="0",
            started=instrument.clock.now(),
        )  # fmt: skip
        ledger = Ledger(log, store.folder(run_id) / "sidecar.jsonl", instrument.clock)
        outcome = Engine(instrument, ledger, store, run_id).run(actions)
        ledger.close()
        if outcome.state is not State.FINISHED:
            raise SystemExit(f"the run {outcome.state}: {outcome.reason}")
        results = [action.result for action in log.actions(run_id) if action.result is not None]
    return results, places, drifts


def autofocus() -> tuple[float, int, float]:
    """Return the largest error over the depth of focus, the most frames, and the largest dose (C/m²)."""
    errors, frames, doses = [], [], []
    for seed in (1, 2, 3):
        for start in (-20.0, -9.0, 0.0, 14.0, 20.0):
            with twin(seed) as instrument:
                instrument.column.focus.set(quantity(8.0 + start * 1e-3, "mm"))
                (found,), _, _ = play(instrument, f"  - autofocus: {{range: 40 um, frames: 9, {LOOK}}}\n")
                world = world_of(instrument)
                off = si(instrument.column.focus.setpoint) - world.working_distance(world.time)
            errors.append(abs(off) / DEPTH if found["outcome"] == "found" else math.inf)
            frames.append(found["frames"])
            doses.append(found["dose"]["value"])
    print(f"  autofocus: errors over the depth of focus {np.round(sorted(errors), 2)}, frames {sorted(frames)}")
    return max(errors), max(frames), max(doses)


def stigmation() -> tuple[float, int, float]:
    """Return the largest error of a stigmator (share of full scale), the most frames, and the largest dose."""
    errors, frames, doses = [], [], []
    steps = f"  - autofocus: {{range: 40 um, {FINE_LOOK}}}\n  - stigmation: {{range: 80 %, {FINE_LOOK}}}\n"
    for seed, wanted in ((1, (0.2, -0.15)), (2, (-0.35, 0.1)), (3, (0.02, 0.38)), (4, (0.0, 0.0))):
        with twin(seed, wanted) as instrument:
            (_, found), _, _ = play(instrument, steps)
            column = instrument.column
            reached = (si(column.stigmator_x.setpoint), si(column.stigmator_y.setpoint))
        for axis, aimed, got in zip("xy", wanted, reached, strict=True):
            errors.append(abs(got - aimed) if found[axis]["outcome"] == "found" else math.inf)
            doses.append(found[axis]["dose"]["value"])
        frames.append(found["frames"])
    print(f"  stigmators: errors {np.round(100 * np.array(sorted(errors)), 1)} %, frames {sorted(frames)}")
    return max(errors), max(frames), max(doses)


def drift(heating: str) -> tuple[float, float]:
    """Return the largest residual of an hour, and the largest drift, in pixels; the surface oxidises meanwhile."""
    series = "series: {every: 30 s, for: 1 h, correct_drift: {every: 4, limit: 2 um}}"
    steps = (
        "  - ramp: {heater: 500 degC, rate: 50 K/min}\n  - hold: 15 min\n  - gas: {O2: 1 sccm}\n"
        f"  - note: from here on\n{heating}  - {series}\n"
    )
    with twin(5) as instrument:
        results, places, drifts = play(instrument, steps)
    pixel = 5e-6 / 256
    residual = max(math.dist(place, places[0]) for place in places) / pixel
    outcomes = [result["outcome"] for result in results if "standing" in result]
    renewed = sum(bool(result.get("renewed")) for result in results)
    print(f"  drift: {outcomes.count('corrected')} corrections of {len(outcomes)}, {renewed} new anchors")
    return residual, max(math.dist(each, drifts[0]) for each in drifts) / pixel


def main() -> int:
    """Measure, print a table, and return 0 where every goal is reached."""
    focus, focus_frames, focus_dose = autofocus()
    round_, round_frames, round_dose = stigmation()
    still, free = drift("")
    warm, warm_free = drift("  - ramp: {heater: 505 degC, rate: 1 K/min, tolerance: 5 K}\n")
    rows = [
        ("autofocus from 20 um: error over depth of focus", "<= 0.5", f"{focus:.2f}", focus <= 0.5),
        ("its frames, at most", "", f"{focus_frames}", True),
        ("its dose on the area, at most", "", f"{focus_dose / 1e3:.3f} kC/m2", True),
        ("stigmators: error of full scale", "<= 3 %", f"{round_:.1%}", round_ <= 0.03),
        ("their frames, at most", "", f"{round_frames}", True),
        ("their dose on the area, at most, each", "", f"{round_dose / 1e3:.3f} kC/m2", True),
        ("an hour's drift, uncorrected", "", f"{free:.1f} px", True),
        ("an hour's drift, corrected", "<= 1 px", f"{still:.2f} px", still <= 1.0),
        ("an hour's drift while the stage warms by 5 K", "", f"{warm_free:.1f} px", True),
        ("the same, corrected", "<= 1 px", f"{warm:.2f} px", warm <= 1.0),
    ]
    print(f"{'figure':<52}{'goal':>10}{'reached':>16}")
    for name, goal, reached, _ in rows:
        print(f"{name:<52}{goal:>10}{reached:>16}")
    return 0 if all(met for *_, met in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
