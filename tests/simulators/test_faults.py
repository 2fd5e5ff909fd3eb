"""Faults act on their target, at their time, and say what they are."""

from __future__ import annotations

import errno
import math
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drivers.clock import Clock, VirtualClock
from drivers.contract import Parameter, Readable, Scan
from drivers.errors import DeviceError, DeviceTimeout, DeviceUnavailable, DocumentError, InputError
from drivers.patience import Patience, is_prompt
from drivers.patient import PatientFigure
from simulators.faults import KINDS, FaultPlan


class Memory:
    """A device that does as it is told."""

    def __init__(self, clock, value=300.0):
        self.clock = clock
        self.value = value

    def get(self):
        return self.value, self.clock.now()

    def put(self, value):
        self.value = value


class Switch:
    def __init__(self):
        self.on = False

    def put(self, on):
        self.on = on

    def get(self):
        return self.on


class Scanner:
    """Counts of 100 (beam on) or 10 (blanked), one second a raster."""

    def __init__(self, clock, blanker):
        self.clock, self.blanker, self.frames = clock, blanker, 0

    def arm(self, scan):
        self.scan = scan

    def stop(self):
        pass

    def acquire(self):
        time = self.clock.now()
        self.clock.sleep(1.0)
        self.frames += 1
        level = 10 if self.blanker.on else 100 + self.frames
        counts = np.full((4, self.scan.rows, self.scan.columns), level, dtype=np.uint16)
        counts[:, 0, 0] = 10
        return counts, time


@pytest.fixture
def clock():
    return VirtualClock()


def plan(line):
    return FaultPlan.parse(f"faults:\n  - {{{line}}}\n")


def wrapped(line, clock, name="heater.temperature", value=300.0):
    memory = Memory(clock, value)
    return memory, plan(line).wrap(name, memory, clock)


WINDOW = "start: 10 s, duration: 5 s"


def test_a_backend_without_faults_comes_back_as_it_is(clock):
    memory = Memory(clock)
    assert plan(f"kind: timeout, target: gauge.pressure, {WINDOW}").wrap("gases.O2.flow", memory, clock) is memory


def test_a_device_is_meant_with_all_its_figures_and_not_by_the_beginning_of_a_word(clock):
    faults = plan(f"kind: disconnect, target: heater, {WINDOW}")
    assert faults.of("heater.rate")
    assert faults.of("heater")
    assert not faults.of("heaters.rate")


@pytest.mark.parametrize(("kind", "error"), [("timeout", DeviceTimeout), ("disconnect", DeviceUnavailable)])
def test_a_lost_link_fails_in_both_directions_and_heals(clock, kind, error):
    memory, backend = wrapped(f"kind: {kind}, target: heater, {WINDOW}, wait: 1 s", clock)
    backend.put(310.0)
    assert backend.get()[0] == 310.0
    clock.sleep(10.0)
    before = clock.monotonic()
    with pytest.raises(error) as failure:
        backend.get()
    assert failure.value.where == "heater.temperature"
    assert clock.monotonic() - before == (1.0 if kind == "timeout" else 0.0)
    with pytest.raises(error):
        backend.put(400.0)
    clock.sleep(5.0)
    assert backend.get()[0] == memory.value == 310.0


def test_a_call_that_hangs_does_not_return_and_time_goes_on(clock):
    memory, backend = wrapped(f"kind: hang, target: heater, {WINDOW}", clock)
    assert not is_prompt(backend)
    backend.put(310.0)
    clock.sleep(12.0)
    came, place = [], clock.register("caller")

    def call():
        with place:
            try:
                backend.put(400.0)
            except DeviceUnavailable as error:
                came.append(error)

    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    clock.sleep(100.0)
    assert clock.monotonic() == 112.0
    assert thread.is_alive()
    assert backend.get()[0] == memory.value == 310.0  # the fault is over: this call is answered, that one never
    backend.release()
    clock.sleep(0.0)
    thread.join(5.0)
    assert "hung until" in came[0].message
    assert memory.value == 310.0


def test_a_backend_is_as_prompt_as_its_hardware_unless_it_hangs(clock):
    line = f"kind: timeout, target: heater, {WINDOW}"
    memory, backend = wrapped(line, clock)
    assert not is_prompt(backend)
    memory.prompt = True
    assert is_prompt(backend)
    hung = plan(line.replace("timeout", "hang")).wrap("heater.temperature", memory, clock)
    assert not is_prompt(hung)


@pytest.mark.parametrize(("target", "fails"), [("heater", True), ("heater.temperature", False), ("gauge", False)])
def test_a_lost_link_is_not_made_anew_before_it_is_there(clock, target, fails):
    reached = []
    again = plan(f"kind: disconnect, target: {target}, {WINDOW}").wrap_call("heater", lambda: reached.append(1), clock)
    clock.sleep(12.0)
    if fails:
        with pytest.raises(DeviceUnavailable):
            again()
        clock.sleep(5.0)
    again()
    assert reached == [1]


def test_times_may_count_from_an_earlier_moment(clock):
    clock.sleep(100.0)
    memory = Memory(clock)
    backend = plan(f"kind: disconnect, target: heater, {WINDOW}").wrap("heater.temperature", memory, clock, since=88.0)
    with pytest.raises(DeviceUnavailable):
        backend.get()
    clock.sleep(3.0)
    assert backend.get()[0] == 300.0


def test_nonsense_is_refused_by_the_contract_or_reads_as_given(clock):
    _, backend = wrapped(f"kind: nonsense, target: gauge.pressure, {WINDOW}", clock, "gauge.pressure")
    gauge = Readable("gauge.pressure", "Pa", backend, clock)
    clock.sleep(12.0)
    with pytest.raises(DeviceError, match="expected a number"):
        gauge.read()
    _, backend = wrapped("kind: nonsense, target: gauge.pressure, start: 0 s, value: -9999", clock, "gauge.pressure")
    assert backend.get()[0] == -9999


@pytest.mark.parametrize("fresh", ["true", "false"])
def test_a_frozen_readback_is_noticed_by_its_age_unless_it_pretends(clock, fresh):
    memory, backend = wrapped(f"kind: freeze, target: heater.temperature, {WINDOW}, fresh: {fresh}", clock)
    parameter = Parameter("heater.temperature", "K", backend, clock, stale_after=2.0)
    parameter.read()
    clock.sleep(14.0)
    memory.put(900.0)
    reading = parameter.read()
    assert reading.value.magnitude == 300.0
    assert reading.fresh is (fresh == "true")
    clock.sleep(2.0)
    assert parameter.read().value.magnitude == 900.0


def test_a_drift_grows_with_time_and_ends(clock):
    _, backend = wrapped(f"kind: drift, target: heater, {WINDOW}, rate: 0.5, relative_rate: 0.01", clock)
    clock.sleep(14.0)
    assert backend.get()[0] == pytest.approx(300.0 + 4 * (0.5 + 3.0))
    clock.sleep(2.0)
    assert backend.get()[0] == 300.0


def test_a_stuck_valve_takes_setpoints_without_a_word(clock):
    memory, backend = wrapped(f"kind: stuck, target: gases.O2.flow, {WINDOW}", clock, "gases.O2.flow", 5.0)
    clock.sleep(11.0)
    backend.put(0.0)
    assert (memory.value, backend.get()[0]) == (5.0, 5.0)


def test_a_broken_thermocouple_shows_in_the_temperature_alone(clock):
    faults = plan("kind: thermocouple, target: heater, start: 0 s")
    assert faults.wrap("heater.temperature", Memory(clock), clock).get()[0] == pytest.approx(1645.15)
    assert faults.wrap("heater.rate", Memory(clock, 20.0), clock).get()[0] == 20.0


def test_a_pressure_burst_is_pumped_away(clock):
    _, backend = wrapped(
        "kind: pressure_burst, target: gauge.pressure, start: 5 s, value: 80, decay: 10 s",
        clock,
        "gauge.pressure",
        17.0,
    )
    assert backend.get()[0] == 17.0
    clock.sleep(5.0)
    assert backend.get()[0] == 97.0
    clock.sleep(10.0)
    assert backend.get()[0] == pytest.approx(17.0 + 80 / math.e)


SCAN = Scan(8, 8, 1e-6, 1e-6)
NAMES = ("A", "B", "C", "D")


def scanner(line, clock, with_blanker=True):
    blanker = Switch()
    backend = Scanner(clock, blanker)
    faulty = plan(line).wrap_scan("detector", backend, clock, NAMES, blanker if with_blanker else None)
    faulty.arm(SCAN)
    return backend, faulty


@pytest.mark.parametrize(("kind", "level"), [("segment_dead", 0), ("segment_saturated", 65535)])
def test_a_segment_fails_alone(clock, kind, level):
    _, faulty = scanner(f"kind: {kind}, target: detector.B, start: 0 s", clock)
    counts, _ = faulty.acquire()
    assert (counts[1] == level).all()
    assert (counts[[0, 2, 3], 1:] == 101).all()


@pytest.mark.parametrize("with_blanker", [True, False])
def test_a_beam_trip_makes_dark_frames_from_its_row_on_and_the_current_zero(clock, with_blanker):
    line = "kind: beam_trip, target: column, start: 0.5 s, duration: 2 s"
    backend, faulty = scanner(line, clock, with_blanker)
    current = plan(line).wrap("column.probe_current", Memory(clock, 1.0), clock)
    first, _ = faulty.acquire()  # trips in the middle
    assert (first[:, 1:4] == 101).all()
    assert (first[:, 4:] == 10).all()
    assert current.get()[0] == 0.0
    second, _ = faulty.acquire()
    assert (second == 10).all()
    assert not backend.blanker.on
    clock.sleep(1.0)
    assert (faulty.acquire()[0][:, 1:] == 103).all()
    assert current.get()[0] == 1.0


def test_a_scanner_freezes_and_sends_nonsense(clock):
    _, faulty = scanner("kind: freeze, target: detector, start: 0.5 s", clock)
    first = faulty.acquire()[0]
    assert np.array_equal(faulty.acquire()[0], first)
    _, faulty = scanner("kind: nonsense, target: detector, start: 0 s", clock)
    assert faulty.acquire()[0].shape == (4, 7, 8)


def test_a_scanner_that_times_out_during_the_raster_loses_the_frame(clock):
    backend, faulty = scanner("kind: timeout, target: detector, start: 0.5 s", clock)
    with pytest.raises(DeviceTimeout):
        faulty.acquire()
    assert backend.frames == 1


def test_switches_stick_lie_and_freeze(clock):
    for kind, seen, truly in (("stuck", False, False), ("nonsense", False, True), ("freeze", False, True)):
        switch = Switch()
        faulty = plan(f"kind: {kind}, target: column.blanker, start: 1 s").wrap_switch("column.blanker", switch, clock)
        assert faulty.get() is False
        clock.sleep(1.0)
        faulty.put(True)
        assert (faulty.get(), switch.on) == (seen, truly)


def test_a_full_disk_fails_as_the_system_does(clock):
    written = []
    write = plan("kind: disk_full, target: disk, start: 10 s, duration: 10 s").wrap_write("disk", written.append, clock)
    write("one")
    clock.sleep(10.0)
    with pytest.raises(OSError, match="No space") as failure:
        write("two")
    assert failure.value.errno == errno.ENOSPC
    clock.sleep(10.0)
    write("three")
    assert written == ["one", "three"]


def test_the_time_of_day_jumps_and_monotonic_time_does_not(clock):
    stepped = plan("kind: clock_step, target: clock, start: 10 s, value: -600").wrap_clock(clock)
    assert isinstance(stepped, Clock)
    assert stepped.now() == clock.now()
    stepped.sleep(11.0)
    assert (stepped.now() - clock.now()).total_seconds() == -600
    assert stepped.monotonic() == clock.monotonic() == 11.0
    assert stepped.virtual
    assert stepped.speed is None
    flag = stepped.signal()
    flag.set()
    assert flag.wait(1.0)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("kind: gremlin, target: heater, start: 0 s", "timeout"),
        ("kind: timeout, target: heater, start: 5 K", "a time"),
        ("kind: timeout, target: heater", "'start' is missing"),
        ("kind: timeout, target: heater, start: 0 s, durration: 5 s", "did you mean 'duration'"),
        ("kind: timeout, target: heater, start: -5 s", "before the beginning"),
        ("kind: drift, target: heater, start: 0 s", "needs a rate"),
        ("kind: segment_dead, target: detector, start: 0 s", "needs a segment"),
        ("kind: thermocouple, target: gauge.pressure, start: 0 s", "happens to heater"),
        ("kind: clock_step, target: gauge, start: 0 s", "happens to clock"),
    ],
)
def test_a_plan_with_a_mistake_is_refused_with_its_place(line, says):
    with pytest.raises(DocumentError, match=says) as failure:
        plan(line)
    assert failure.value.problems[0].line == 2


def test_random_plans_repeat_and_suit_their_targets():
    targets = ["heater.temperature", "gauge.pressure", "gases.H2.flow", "detector", "detector.A", "disk", "clock"]
    one = FaultPlan.random(7, targets, span=43200.0, interval=600.0)
    assert one == FaultPlan.random(7, targets, span=43200.0, interval=600.0)
    assert one != FaultPlan.random(8, targets, span=43200.0, interval=600.0)
    assert 40 < len(one.faults) < 110
    assert {fault.target for fault in one.faults} == set(targets)
    assert all(fault.kind in KINDS and fault.ends - fault.begins <= 300.001 for fault in one.faults)
    assert one.describe()[0]["start"]["unit"] == "s"


def test_random_plans_need_a_target_and_a_span():
    with pytest.raises(InputError, match="one target"):
        FaultPlan.random(1, [], 3600.0)
    with pytest.raises(InputError, match="span"):
        FaultPlan.random(1, ["disk"], 0.0)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**31), moments=st.lists(st.floats(0.1, 400.0), max_size=12))
def test_any_random_plan_ends_in_a_value_or_a_device_error(seed, moments):
    clock = VirtualClock()
    faults = FaultPlan.random(seed, ["gauge.pressure", "heater.temperature"], span=3000.0, interval=120.0)
    patience = Patience("heater", clock, in_a_row=10**9)
    backend = PatientFigure(faults.wrap("heater.temperature", Memory(clock), clock), patience, "heater.temperature")
    for moment in moments:
        clock.sleep(moment)
        try:
            value, measured = backend.get()
        except DeviceError as error:
            assert error.where == "heater.temperature"
        else:
            assert isinstance(value, float)
            assert measured <= clock.now()
