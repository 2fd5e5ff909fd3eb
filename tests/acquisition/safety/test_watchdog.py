"""The watchdog: what an action should take, and what is said when it takes longer."""

import pytest

from acquisition.actions import Acquire, BeginSeries, Configure, Dark, Hold, Imaging, Note, Ramp, Set, SetGas
from acquisition.timing import Timing
from acquisition.watchdog import Pace, Watchdog
from drivers.clock import VirtualClock
from drivers.contract import ScanTiming

IMAGING = Imaging(
    beam_energy="5 keV", probe_current="1 nA", field_of_view="1 um", rows=10, columns=10, dwell_time="10 ms"
)


def test_nothing_is_late_until_it_is_and_then_it_is_told_once():
    clock = VirtualClock()
    dog = Watchdog(clock, factor=2.0, margin=10.0, grace=100.0)
    assert dog.look() is None
    dog.expect("a", 20.0, wait=5.0)
    clock.sleep(55.0)
    assert dog.look() is None
    clock.sleep(1.0)
    stall = dog.look()
    assert (stall.what, stall.waited, stall.expected, stall.hopeless) == ("a", 56.0, 55.0, False)
    assert stall.sentence == "a has made no progress for 56 s; 55 s were expected at the most"
    assert dog.look() is None
    clock.sleep(100.0)
    assert dog.look().hopeless
    assert dog.look() is None


def test_progress_begins_the_count_anew_and_rest_ends_it():
    clock = VirtualClock()
    dog = Watchdog(clock, factor=2.0, margin=0.0, grace=100.0)
    dog.progress()  # of nothing
    dog.expect("a", 10.0)
    for _ in range(5):
        clock.sleep(15.0)
        dog.progress()
        assert dog.look() is None
    clock.sleep(21.0)
    assert not dog.look().hopeless
    dog.progress()
    clock.sleep(21.0)
    assert not dog.look().hopeless  # told again, because it had moved on
    dog.rest()
    clock.sleep(1000.0)
    assert dog.look() is None


def test_as_the_instruments_file_says(virtual):
    dog = Watchdog.of(virtual("name: bench\nwatchdog: {factor: 2, margin: 1 min, grace: 2 min}\n").instrument)
    assert (dog._factor, dog._margin, dog._grace) == (2.0, 60.0, 120.0)
    usual = Watchdog.of(virtual().instrument)
    assert (usual._factor, usual._margin, usual._grace) == (3.0, 120.0, 300.0)


def test_what_each_action_should_take():
    pace = Pace(Timing(ScanTiming(frame=0.5), start_temperature=300.0, heater_lag=0.0))
    assert pace.of(Acquire(address="a")) == (0.0, 0.0)
    assert pace.of(Configure(address="a", imaging=IMAGING)) == (0.0, 5.0)
    assert pace.of(Acquire(address="a")) == (0.0, pytest.approx(1.5))
    assert pace.of(Dark(address="a", frames=4)) == (0.0, pytest.approx(6.0))
    assert pace.of(Hold(address="a", duration="2 h")) == (7200.0, 0.0)
    ramp = Ramp(address="a", target="360 K", rate="60 K/min")
    assert pace.of(ramp) == (0.0, pytest.approx(60.0))
    assert pace.of(ramp, temperature=350.0) == (0.0, pytest.approx(10.0))
    assert pace.of(SetGas(address="a", flows={"H2": "5 sccm"})) == (0.0, 2.0)
    assert pace.of(SetGas(address="a", flows={"O2": "5 sccm"})) == (0.0, 4.0)
    assert pace.of(Set(address="a", parameter="column.focus", value="8 mm")) == (0.0, 5.0)
    assert pace.of(BeginSeries(address="a", every="10 s", count=5)) == (0.0, 0.0)
    assert pace.of(Note(address="a", text="x")) == (0.0, 0.0)
