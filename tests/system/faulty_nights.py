"""Every fault of the twin against every action of a recipe: how each such night ends, and whether it is told.

A night is played on the virtual clock with everything that a real one has but its guard: engine, ledger, telemetry,
interlocks and watchdog. It may end finished, suspended and then finished, or safe; as failed only where the fault lasts
and keeps the safe state from being seen to be done. It never hangs, and a fault that changed anything is told.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path

from acquisition.actions import Action
from acquisition.interlocks import instrument_interlocks
from acquisition.log import Log
from acquisition.night import Night
from acquisition.recipe import compile_recipe, parse_recipe
from acquisition.states import State
from acquisition.store import Store
from drivers import document
from drivers.clock import VirtualClock
from drivers.contract import Instrument
from drivers.registry import Registry
from simulators.faults import KINDS, FaultPlan
from simulators.instruments import TWIN, world_of

IMAGING = "imaging: {beam_energy: 5 keV, probe_current: 1 nA, field_of_view: 2 um, pixels: 16, dwell_time: 2 us}"
SEARCH = "frames: 5, pixels: 16"

ACTIONS: dict[str, tuple[str, str]] = {
    "configure": ("frame: true\n    imaging: {beam_energy: 10 keV}", "column.beam_energy"),
    "gas": ("gas: {N2: 20 sccm}", "gases.N2.flow"),
    "ramp": ("ramp: {heater: 60 degC, rate: 60 K/min}", "heater.temperature"),
    "hold": ("hold: 60 s", "gauge.pressure"),
    "dark": ("dark: 3", "column.blanker"),
    "frame": ("frames: 3", "detector"),
    "series": ("series: {every: 15 s, count: 5}", "detector"),
    "set": ("set: {column.focus: 8.01 mm}", "column.focus"),
    "note": ("note: here", "gauge.pressure"),
    "autofocus": (f"autofocus: {{range: 40 um, {SEARCH}}}", "column.focus"),
    "stigmation": (f"stigmation: {{range: 80 %, {SEARCH}}}", "column.stigmator_x"),
    "balance": ("balance: {bright: 40 %, pixels: 16}", "detector.A.contrast"),
    "beam check": ("beam_check: {within: 5 %}", "column.probe_current"),
    "drift": ("series: {every: 15 s, count: 4, correct_drift: {every: 1, limit: 2 um}}", "column.beam_shift_x"),
    "when": ("when: {coverage: above 0.5, within: 60 s, otherwise: else}\n    then: [{note: a}]\n    else: [{note: b}]",
             "gauge.pressure"),
}  # fmt: skip
"""What an action looks like in a recipe, and the device that it needs most."""

TARGETS = {
    "drift": "heater.temperature",
    "thermocouple": "heater.temperature",
    "pressure_burst": "gauge.pressure",
    "beam_trip": "column.probe_current",
    "segment_dead": "detector.A",
    "segment_saturated": "detector.B",
    "disk_full": "disk",
    "clock_step": "clock",
    "stuck": "column.blanker",
}
"""Where a fault happens that does not happen to whatever an action needs."""
MORE = {"drift": ", rate: 2.0", "pressure_burst": ", value: 5000"}

BEGINS, PASSES = 15.0, 40.0
"""s; the action begins after 20 s."""
LONGEST = 90.0
"""Real seconds after which a night counts as hung."""


@dataclass(frozen=True)
class Ending:
    """How a night with a fault ended.

    Attributes
    ----------
    state : str
        finished, suspended (and then finished), safe, failed or hung.
    told : int
        Warnings and errors in its log.
    wrong : str
        What should not be; empty where the night ended as it may.
    seconds : float, s
        Of real time.
    """

    state: str
    reason: str
    told: int
    wrong: str = ""
    seconds: float = 0.0


def target_of(kind: str, action: str) -> str:
    """Return which device a fault happens to."""
    if kind == "stuck" and action == "gas":
        return "gases.N2.flow"
    return TARGETS.get(kind, ACTIONS[action][1])


def cases() -> list[tuple[str, str, bool]]:
    """Return every fault with every action, passing and lasting."""
    return [(kind, action, lasting) for kind in KINDS for action in ACTIONS for lasting in (False, True)]


def play(kind: str, action: str, lasting: bool, folder: Path) -> Ending:
    """Play one night with one fault."""
    target = target_of(kind, action)
    duration = "" if lasting else f", duration: {PASSES:g} s"
    fault = f"{{kind: {kind}, target: {target}, start: {BEGINS:g} s{duration}{MORE.get(kind, '')}}}"
    twin = TWIN.read_text("utf-8").replace("extent: 30 um", "extent: 8 um").replace("for: 5 min", "for: 20 s")
    twin = twin.replace("settings:\n", f"settings:\n  faults: [{fault}]\n")
    clock = VirtualClock()
    instrument = Registry.discover().instrument(document.parse(twin, "twin.yaml"), clock)
    recipe = parse_recipe(f"name: faulty\n{IMAGING}\nsteps:\n  - hold: 20 s\n  - {ACTIONS[action][0]}\n")
    with Log.open(folder / "rilievo.db") as log, Store(folder / "runs") as store:
        try:
            return _play(instrument, compile_recipe(recipe.recipe), log, store, fault=(kind, target, lasting))
        finally:
            instrument.close()


def _play(
    instrument: Instrument, actions: tuple[Action, ...], log: Log, store: Store, fault: tuple[str, str, bool]
) -> Ending:
    kind, target, lasting = fault
    run_id = log.create_run(
        name="faulty",
        recipe_text="",
        recipe_name="faulty.yaml",
        actions=[action.model_dump(mode="json") for action in actions],
        instrument_name=instrument.name,
        instrument_description={},
        limits={},
        started=instrument.clock.now(),
        version="0",
    )
    if kind == "disk_full":
        plan = FaultPlan.parse(
            f"faults: [{{kind: disk_full, target: disk, start: {BEGINS:g} s"
            f"{'' if lasting else f', duration: {PASSES:g} s'}}}]"
        )
        store._writer.write = plan.wrap_write("disk", store._writer.write, instrument.clock)
    assert instrument_interlocks(instrument)
    night = Night(instrument, log, store, run_id, actions, period=5.0)
    began = time.monotonic()
    night.start()
    while not night.wait(0.05):
        if time.monotonic() - began > LONGEST:
            return Ending("hung", "", 0, f"no end within {LONGEST:g} s")
    outcome = night.finish()
    events = log.events(run_id)
    told = [event for event in events if event.level in ("warning", "error")]
    suspended = any(event.message.startswith("suspended") for event in events if event.kind == "state")
    state = "suspended" if outcome.state is State.FINISHED and suspended else outcome.state.value
    ending = Ending(state, outcome.reason, len(told), seconds=time.monotonic() - began)
    return replace(
        ending, wrong=_wrong(ending, instrument, lasting=lasting, target=target, state=log.run(run_id).state)
    )


def _wrong(ending: Ending, instrument: Instrument, *, lasting: bool, target: str, state: str) -> str:
    """Return what should not be."""
    if ending.state not in ("finished", "suspended", "safe", "failed"):
        return f"it ended {ending.state}"
    if ending.state == "failed" and not (lasting and "not all of it was seen to be done" in ending.reason):
        return f"it failed: {ending.reason}"
    if ending.state in ("safe", "failed") and not ending.told:
        return "it ended early, and nothing was told"
    if state != ("finished" if ending.state == "suspended" else ending.state):
        return f"the log says {state}"
    world = world_of(instrument)
    with world.lock:
        world.catch_up()
        left = []
        if world.beam is not None and not world.beam.blanked[-1][1] and target != "column.blanker":
            left.append("the beam is on the sample")
        if abs(world.furnace.target - 298.15) > 0.01 and not (lasting and target.startswith("heater")):
            left.append(f"the heater is sent to {world.furnace.target:.0f} K")
        for species, line in world.lines.items():
            if line.setpoint > 0.0 and not (lasting and target.startswith("gases")):
                left.append(f"{species} is open")
    return "; ".join(left)
