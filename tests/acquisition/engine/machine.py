"""The engine as a state machine: whatever is asked of it, in whatever order, at whatever moment of the night.

Requests come from a participant of their own on the virtual clock, as a person's, an interlock's or a script's would.
After each night: only ways that exist were taken, the instrument was left safe, and no frame was lost or double.
"""

import shutil
import tempfile
from itertools import pairwise
from pathlib import Path

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from acquisition.actions import Acquire, BeginSeries, Configure, Dark, Hold, Imaging, Ramp, SetGas
from acquisition.log import Log
from acquisition.states import WAYS, State
from acquisition.store import Store
from drivers.clock import VirtualClock
from drivers.errors import RunError

IMAGING = Imaging(
    beam_energy="5 keV", probe_current="1 nA", field_of_view="1 um", rows=8, columns=8, dwell_time="10 ms"
)
ACTIONS = [
    Configure(address="imaging", imaging=IMAGING),
    SetGas(address="steps[0].gas", flows={"H2": "10 sccm"}),
    Ramp(address="steps[1].ramp", target="340 K", rate="600 K/min"),
    Dark(address="steps[2].dark", frames=2),
    BeginSeries(address="steps[3].series", every="5 s", count=8),
    *(
        Acquire(address=f"steps[3].series[{n}]", group="steps[3].series", number=n, offset=f"{5 * n} s")
        for n in range(8)
    ),
    Hold(address="steps[4].hold", duration="20 s"),
    Acquire(address="steps[5].frame"),
]
FRAMES = 11


class Asked(RuleBasedStateMachine):
    """Asks a run for everything, at every moment."""

    make_bench = None
    """Set by whoever uses it: takes log, store and clock."""
    transitions = 0

    def __init__(self):
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.log, self.store = Log.open(self.folder / "a.db"), Store(self.folder / "runs")
        self.clock = VirtualClock(speed=1e5)
        self.bench = type(self).make_bench(self.log, self.store, self.clock)
        self.place = self.clock.register("whoever asks")
        self.place.__enter__()
        self.ended = False
        self.rules_held = set()

    @initialize()
    def begin(self):
        self.night = self.bench.night(ACTIONS)
        self.night.start()

    @rule(seconds=st.sampled_from([0.0, 0.3, 0.7, 2.0, 5.0, 11.0]))
    def let_time_pass(self, seconds):
        self.clock.sleep(seconds)

    @rule(at_once=st.booleans())
    def pause(self, at_once):
        try:
            self.night.engine.pause(at_once=at_once)
        except RunError as error:
            assert "only a running run can be paused" in str(error)
        self.clock.sleep(0.1)

    @rule()
    def resume(self):
        self.night.engine.resume()
        self.clock.sleep(0.1)

    @rule(cause=st.sampled_from(["pressure", "heater"]))
    def suspend(self, cause):
        self.night.engine.suspend(f"the {cause} is wrong", cause)
        self.rules_held.add(cause)
        self.clock.sleep(0.1)

    @rule(cause=st.sampled_from(["pressure", "heater", "nothing of the kind"]))
    def release(self, cause):
        self.night.engine.release(cause)
        self.rules_held.discard(cause)
        self.clock.sleep(0.1)

    @rule()
    @precondition(lambda self: self.rules_held)
    def release_all(self):
        for cause in sorted(self.rules_held):
            self.release(cause)

    @rule(how=st.sampled_from(["stop", "abort", "make_safe", "nothing", "nothing", "nothing", "nothing"]))
    def end_early(self, how):
        if how == "make_safe":
            self.night.make_safe("enough")
            self.ended = True
        elif how != "nothing":
            getattr(self.night.engine, how)("enough")
            self.ended = True

    def teardown(self):
        try:
            if hasattr(self, "night"):
                self.finish()
        finally:
            self.log.close()
            self.store.close()
            shutil.rmtree(self.folder)

    def finish(self):
        """Let the run come to its end, and look at what it left."""
        for cause in ("pressure", "heater"):
            self.night.engine.release(cause)
        self.night.engine.resume()
        self.place.__exit__(None, None, None)
        assert self.night.wait(60), "the run hangs"
        outcome = self.night.finish()
        if not self.ended:
            assert outcome.state is State.FINISHED, outcome
        assert outcome.state in (State.FINISHED, State.STOPPED, State.SAFE), outcome
        self.look_at_states(outcome)
        self.look_at_frames(outcome)
        assert self.bench.blanker.closed
        assert abs(self.bench.backends["heater.temperature"].target - 298.15) < 1e-9
        assert all(self.bench.backends[f"gas.{species}.flow"].target == 0 for species in ("H2", "N2", "O2"))

    def look_at_states(self, outcome):
        told = [event for event in self.log.events(self.night.run_id) if event.kind == "state"]
        states = [State(event.message.split(":")[0]) for event in told]
        for before, after in pairwise([State.IDLE, *states]):
            assert after in WAYS[before] or after is before, f"{before} became {after}"
        assert states[-1] is outcome.state
        assert State.STOPPING in states
        assert self.log.run(self.night.run_id).state == outcome.state
        type(self).transitions += len(states)

    def look_at_frames(self, outcome):
        frames = self.log.frames(self.night.run_id)
        assert [frame.number for frame in frames] == list(range(len(frames)))
        assert self.store.numbers(self.night.run_id) == list(range(len(frames)))
        for frame in frames:
            self.store.verify(frame.stored)
        for entry in self.log.actions(self.night.run_id):
            planned = {"frame": 1, "dark": entry.arguments.get("frames", 0)}.get(entry.kind, 0)
            taken = sum(frame.action_index == entry.index for frame in frames)
            assert taken == planned if entry.state == "done" else taken <= planned
        if outcome.state is State.FINISHED:
            assert len(frames) == FRAMES
