"""The steps within a run: the engine's hands, what is skipped, what the log holds, and a whole adaptive night."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import pairwise
from types import SimpleNamespace

import pytest

from acquisition.engine import Engine
from acquisition.feed import LiveFeed
from acquisition.ledger import Ledger
from acquisition.log import Log
from acquisition.plan import check
from acquisition.recipe import compile_recipe, parse_recipe, ready_made
from acquisition.resumption import enter_resumption, plan_resumption
from acquisition.states import State
from acquisition.store import Store
from drivers import document
from drivers.clock import VirtualClock
from drivers.registry import Registry
from drivers.units import quantity, si
from simulators.instruments import TWIN, world_of

IMAGING = "imaging: {beam_energy: 5 keV, probe_current: 1 nA, field_of_view: 5 um, pixels: 96, dwell_time: 2 us}\n"


@dataclass
class TruthfulLive:
    """A reconstruction that knows the twin's coverage at the moment of each frame; ``silent`` answers nothing."""

    instrument: object
    silent: bool = False
    waiting: list = field(default_factory=list)

    def offer(self, frame_id, frame, output):
        truth = self.instrument.truth()
        self.waiting.append((frame_id, output, float(truth["coverage"].magnitude)))
        return True

    def collect(self, wait=0.0):
        results = [
            SimpleNamespace(
                frame_id=frame_id, path=output, error=None, seconds=0.1,
                figures={} if self.silent else {"coverage": SimpleNamespace(value=covered, sigma=0.005, unit="")},
            )
            for frame_id, output, covered in self.waiting
        ]  # fmt: skip
        self.waiting.clear()
        return results

    def close(self):
        self.waiting.clear()


@dataclass
class Played:
    log: Log
    run_id: str
    outcome: object
    instrument: object
    engine: Engine

    def actions(self, kind=None):
        return [action for action in self.log.actions(self.run_id) if kind in (None, action.kind)]

    def result(self, address):
        return next(action.result for action in self.actions() if action.address == address)

    def decisions(self):
        return [event for event in self.log.events(self.run_id) if event.kind == "decision"]


@pytest.fixture
def play(tmp_path):
    """Plays a recipe on the twin."""
    opened = []

    def run(text, *, change=None, live=True, silent=False, dose_limit=None, start=None, latency=2.0):
        description = TWIN.read_text("utf-8")
        for old, new in (change or {}).items():
            description = description.replace(old, new)
        clock = VirtualClock(datetime(2026, 1, 1, tzinfo=UTC))
        instrument = Registry.discover().instrument(document.parse(description, "twin.yaml"), clock)
        log, store = Log.open(tmp_path / "rilievo.db"), Store(tmp_path / "runs")
        opened.extend((instrument.close, log.close, store.close))
        loaded = parse_recipe(text)
        check(loaded, instrument)
        actions = compile_recipe(loaded.recipe)
        run_id = log.create_run(
            name="steps", recipe_text=text, recipe_name="steps.yaml", instrument_name="twin", limits={},
            actions=[action.model_dump(mode="json") for action in actions], instrument_description={},
            started=clock.now(), version="0",
        )  # fmt: skip
        feed = LiveFeed(TruthfulLive(instrument, silent), clock, latency=latency) if live else None
        ledger = Ledger(log, store.folder(run_id) / "sidecar.jsonl", clock)
        opened.append(ledger.close)
        engine = Engine(instrument, ledger, store, run_id, feed=feed, dose_limit=dose_limit)
        with clock.register("engine"):
            if start is not None:
                start(instrument)
            try:
                outcome = engine.run(actions)
            except Killed:
                outcome = None
        return Played(log, run_id, outcome, instrument, engine)

    yield run
    for close in reversed(opened):
        close()


def test_an_adaptive_night_at_small_size(play):
    text = ready_made()["adaptive-redox"].read_text("utf-8")
    for old, new in (
        ("field_of_view: 10 um, pixels: 512, dwell_time: 10 us", "field_of_view: 5 um, pixels: 96, dwell_time: 5 us"),
        ("range: 40 um, frames: 9", "range: 40 um, frames: 7"),
        ("range: 80 %, frames: 9", "range: 80 %, frames: 7, pixels: 128"),
        ("bright: 40 %", "bright: 40 %, pixels: 64"),
        ("hold: 15 min", "hold: 1 min"),
        ("rate: 30 K/min", "rate: 100 K/min"),
        ("for: 30 min\n", "for: 12 min\n"),
        ("for: 30 min,", "for: 5 min,"),
        ("O2: 2 sccm", "O2: 5 sccm"),
    ):
        assert old in text
        text = text.replace(old, new)
    night = play(text)
    assert (night.outcome.state, night.outcome.reason) == (State.FINISHED, "")
    (focus,) = night.actions("autofocus")
    assert focus.result["outcome"] == "found"
    assert {axis: night.actions("stigmation")[0].result[axis]["outcome"] for axis in "xy"} == dict.fromkeys(
        "xy", "found"
    )
    assert night.actions("beam_check")[0].result["within"] is True
    assert night.actions("balance")[0].result["outcome"] == "balanced"
    # The oxidation: frames came faster while islands grew, and stopped it.
    times = [frame.time for frame in night.log.frames(night.run_id) if not frame.dark]
    gaps = [(later - earlier).total_seconds() for earlier, later in pairwise(times)]
    assert min(gaps) < 30.0
    assert any("a frame every" in event.message for event in night.decisions())
    # The decision is in the log, and in the action's result, with its evidence.
    (decision,) = night.actions("when")
    assert decision.result["figure"] == "coverage"
    assert decision.result["branch"] == ("then" if decision.result["value"] > 0.3 else "else")
    for action in night.actions():
        needs = action.arguments.get("needs")
        if needs is not None and needs[1] != decision.result["branch"]:
            assert action.state == "skipped"
    kinds = {correction.kind for correction in night.log.corrections(night.run_id)}
    assert kinds >= {"focus", "stigmator", "balance", "drift", "exposure", "place"}
    assert all(c.data["outcome"] in ("anchored", "corrected") for c in night.log.corrections(night.run_id, "drift"))


BRANCHES = f"""\
name: a branch
{IMAGING}steps:
  - frame: true
  - hold: 5 s
  - when: {{coverage: above 0.5, within: 60 s, otherwise: then}}
    then:
      - note: much
      - when: {{coverage: below 0.1, within: 60 s, otherwise: fail}}
        then: [{{note: little after all}}]
        else: [{{note: much indeed}}]
    else:
      - imaging: {{pixels: 64}}
        frames: 2
  - frame: true
"""


def test_a_branch_is_skipped_as_a_whole(play):
    night = play(BRANCHES)
    assert night.outcome.state is State.FINISHED
    states = {action.address: action.state for action in night.actions()}
    assert states["steps[2].when"] == "done"
    assert states["steps[2].then[0].note"] == "skipped"
    assert states["steps[2].then[1].when"] == "skipped"
    assert states["steps[2].then[1].else[0].note"] == "skipped", "what hangs on a decision that was skipped"
    assert [states[f"steps[2].else[0].frames[{n}]"] for n in (0, 1)] == ["done", "done"]
    assert [frame.rows for frame in night.log.frames(night.run_id)] == [96, 64, 64, 96], "imaging is set anew"


def test_without_figures_the_fallback_is_taken_and_a_nested_one_fails(play):
    night = play(BRANCHES, silent=True)
    assert night.outcome.state is State.FAILED
    assert "there is no coverage yet" in night.outcome.reason
    states = {action.address: action.state for action in night.actions()}
    assert states["steps[2].then[0].note"] == "done"
    assert states["steps[2].then[1].when"] == "failed"
    assert night.result("steps[2].when")["fallback"] is True


def test_figures_that_come_too_late_end_no_series_and_pace_none(play):
    every = "{at_most: 20 s, at_least: 5 s, faster_when: {coverage: below 0.9, within: 30 s}, otherwise: at_most}"
    series = f"series: {{every: {every}, count: 8, stop_when: {{coverage: below 0.9, within: 30 s}}}}"
    text = f"name: late\n{IMAGING}steps:\n  - {series}\n"
    late = play(text, latency=45.0)
    times = [frame.time for frame in late.log.frames(late.run_id)]
    assert [round((after - before).total_seconds()) for before, after in pairwise(times)] == [20] * 7
    told = [event.message for event in late.decisions()]
    assert sum("too late to end it" in message for message in told) == 1
    assert any("a frame every 20 s" in message for message in told)


def test_figures_in_time_end_a_series_and_pace_it(play):
    every = "{at_most: 20 s, at_least: 5 s, faster_when: {coverage: below 0.9, within: 30 s}}"
    text = f"name: early\n{IMAGING}steps:\n  - series: {{every: {every}, count: 8}}\n"
    night = play(text)
    times = [frame.time for frame in night.log.frames(night.run_id)]
    assert [round((after - before).total_seconds()) for before, after in pairwise(times)] == [5] * 7
    ended = play(text.replace("count: 8", "count: 8, stop_when: {coverage: below 0.9, within: 30 s}"))
    assert len(ended.log.frames(ended.run_id)) == 2
    (end,) = [event for event in ended.decisions() if "ends" in event.message]
    assert end.data["frame"] == 1
    assert end.data["age"]["value"] < 30.0


def test_the_dose_of_an_area_is_bounded_and_told_once(play):
    text = f"name: dose\n{IMAGING}steps:\n  - frames: 5\n  - set: {{stage.x: 20 um}}\n  - frames: 2\n"
    dose = 1e-9 * 2e-6 / (5e-6 / 96) ** 2
    night = play(text, live=False, dose_limit=3.5 * dose)
    assert night.outcome.state is State.FINISHED
    states = [action.state for action in night.actions("frame")]
    assert states == ["done"] * 3 + ["skipped"] * 2 + ["done"] * 2
    (event,) = night.decisions()
    assert "limits.dose" in event.message
    assert "refused" in night.actions("frame")[3].result
    assert night.engine.hands.ledger.highest == pytest.approx(3 * dose, rel=0.01)
    # A run that is resumed finds the same sums in its log.
    again = Engine(night.instrument, night.engine._log, None, night.run_id, dose_limit=3.5 * dose)
    again.hands.begin(compile_recipe(parse_recipe(text).recipe))
    assert again.hands.ledger._brought == pytest.approx(night.engine.hands.ledger._brought)


def test_frames_of_a_search_count_and_a_search_beyond_the_budget_is_left_out(play):
    search = "autofocus: {frames: 5, range: 40 um, at: {x: 10 um}}"
    text = f"name: dose\n{IMAGING}steps:\n  - frame: true\n  - {search}\n  - frame: true\n"
    one = 1e-9 * 2e-6 / (5e-6 / 128) ** 2
    night = play(text, live=False, dose_limit=6 * one)
    assert night.outcome.state is State.FINISHED
    (search,) = night.actions("autofocus")
    assert search.state == "skipped"
    assert len(night.log.corrections(night.run_id, "exposure")) == 6
    assert si(night.instrument.column.focus.setpoint) == pytest.approx(8e-3), "the focus is as it was"
    assert si(night.instrument.column.beam_shift_x.setpoint) == 0.0, "the beam came back"
    assert [action.state for action in night.actions("frame")] == ["done", "done"]
    again = Engine(night.instrument, night.engine._log, None, night.run_id)
    again.hands.begin(compile_recipe(parse_recipe(text).recipe))
    assert again.hands.ledger.highest == pytest.approx(night.engine.hands.ledger.highest)


def test_a_balance_drops_the_darks(play):
    text = f"name: levels\n{IMAGING}steps:\n  - dark: 1\n  - balance: {{bright: 40 %}}\n  - frame: true\n"
    night = play(text, live=False)
    assert night.outcome.state is State.FINISHED
    assert night.actions("balance")[0].result["changed"] is True
    assert night.engine._darks == []


def test_a_wrong_current_fails_or_suspends_as_declared(play):
    text = f"name: beam\n{IMAGING}steps:\n  - beam_check: {{current: 2 nA, within: 5 %, otherwise: safe}}\n"
    night = play(text, live=False)
    assert night.outcome.state is State.SAFE
    assert "expected a probe current of 2 nA" in night.outcome.reason
    night = play(text.replace("otherwise: safe", "otherwise: suspend"), live=False)
    assert night.outcome.state is State.SAFE, "it does not come back"
    assert "; that has lasted for 1800 s" in night.outcome.reason
    states = [event.message.split(":")[0] for event in night.log.events(night.run_id) if event.kind == "state"]
    assert states.count("suspended") == 1


def test_a_run_waits_for_its_current_to_come_back(play):
    def away_for_a_minute(instrument):
        current = instrument.column.probe_current
        get, clock = current._backend.get, instrument.clock
        off = clock.monotonic() + 60.0
        current._backend.get = lambda: (get()[0] * (0.5 if 5.0 < clock.monotonic() < off else 1.0), clock.now())

    text = f"name: beam\n{IMAGING}steps:\n  - hold: 10 s\n  - beam_check: {{within: 5 %}}\n  - frame: true\n"
    night = play(text, live=False, start=away_for_a_minute)
    assert (night.outcome.state, night.outcome.reason) == (State.FINISHED, "")
    assert night.result("steps[1].beam_check")["within"] is True
    states = [event.message.partition(":")[0] for event in night.log.events(night.run_id) if event.kind == "state"]
    assert (states[:2], states[-3:]) == (["running", "suspended"], ["running", "stopping", "finished"])


def test_what_an_interrupted_search_had_moved_comes_home(play):
    night = play(f"name: home\n{IMAGING}steps:\n  - frame: true\n", live=False)
    column = night.instrument.column
    with night.instrument.clock.register("again"):
        hands = night.engine.hands
        hands.leave(column.beam_shift_x, column.focus)
        column.beam_shift_x.set(quantity(12.0, "um"))
        column.focus.set(quantity(8.015, "mm"))
        hands.settled(column.focus)  # found; then the process died
        again = Engine(night.instrument, night.engine._log, night.engine._store, night.run_id)
        again.hands.begin(())
        again.hands.come_home()
        assert si(column.beam_shift_x.setpoint) == 0.0
        assert si(column.focus.setpoint) == pytest.approx(8.015e-3)
        sent = len(night.log.corrections(night.run_id, "home"))
        again.hands.come_home()
        assert len(night.log.corrections(night.run_id, "home")) == sent, "once is enough"


class Killed(BaseException):
    """The process dies here."""


def test_a_run_killed_within_a_search_beside_the_field_goes_on_in_the_field(play):
    def dies(instrument):
        backend, taken = instrument.detector.backend, []
        acquire = backend.acquire

        def silent(value):
            raise Killed

        def once():
            taken.append(None)
            if len(taken) < 4:
                return acquire()
            backend.acquire = acquire
            for axis in (instrument.column.beam_shift_x, instrument.column.beam_shift_y, instrument.column.focus):
                revive.append((axis._writer, axis._writer.put))
                axis._writer.put = silent  # the dead send nothing
            raise Killed

        backend.acquire = once

    revive = []
    search = "autofocus: {frames: 5, range: 40 um, at: {x: 10 um}}"
    text = f"name: killed\n{IMAGING}steps:\n  - frame: true\n  - {search}\n  - frame: true\n"
    actions = compile_recipe(parse_recipe(text).recipe)
    night = play(text, live=False, start=dies)
    assert night.outcome is None
    for wire, put in revive:
        wire.put = put
    column = night.instrument.column
    assert si(column.beam_shift_x.setpoint) == pytest.approx(10e-6), "it died beside the field"
    with night.instrument.clock.register("again"):
        resumption = plan_resumption(night.log, night.run_id, actions, night.instrument, 3600.0)
        enter_resumption(night.log, night.run_id, resumption)
        engine = Engine(night.instrument, night.engine._log, night.engine._store, night.run_id)
        outcome = engine.run(actions, resumption)
    assert (outcome.state, outcome.reason) == (State.FINISHED, "")
    assert [action.state for action in night.actions()] == ["done"] * 4
    assert [frame.number for frame in night.log.frames(night.run_id)] == [0, 1]
    assert si(column.beam_shift_x.setpoint) == 0.0
    assert night.actions("autofocus")[0].attempts == 2
    last = night.engine._store.read(night.log.frames(night.run_id)[-1].stored.path)
    assert si(last.readbacks["column.beam_shift_x"].value) == pytest.approx(0.0, abs=1e-9)


def test_a_resumed_correction_finds_its_anchor(play):
    text = (
        f"name: drift\n{IMAGING}steps:\n"
        "  - series: {every: 60 s, count: 4, correct_drift: {every: 1, limit: 2 um}}\n"
    )
    night = play(text, live=False)
    last = night.result("steps[0].series[3].drift")
    again = Engine(night.instrument, night.engine._log, night.engine._store, night.run_id)
    actions = compile_recipe(parse_recipe(text).recipe)
    again.hands.begin(actions)
    assert again.hands.result("steps[0].series[3].drift") == last
    number, frame = again.hands.taken("steps[0].series[3]")
    assert number == 3
    assert (frame.counts == night.engine.hands.frame(3).counts).all()
    assert again.hands.frame(last["standing"]["anchor"]).shape == (96, 96)
    before = world_of(night.instrument).index
    assert before > 0
