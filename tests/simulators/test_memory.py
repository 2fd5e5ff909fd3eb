"""The twin outlives its process: what it was told is played back, and it moves on through the outage."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from acquisition.app import open_instrument
from drivers import document
from drivers.clock import RealClock, VirtualClock
from drivers.contract import Scan
from drivers.errors import DeviceError, DeviceTimeout, DeviceUnavailable, DocumentError, InputError
from drivers.registry import Registry
from simulators import memory
from simulators.instruments import TWIN, build, world_of
from simulators.memory import FORMAT, continued_clock, read

SMALL = Scan(32, 32, 2e-6, 1e-6)
LAST = 1500.0
TEXT = TWIN.read_text().replace("30 um", "6 um")

TOLD = (
    (0.0, lambda twin: twin.gases["O2"].flow.set("5 sccm")),
    (0.5, lambda twin: twin.heater.ramp("800 degC", "100 K/min")),
    (30.25, lambda twin: twin.stage.x.set("0.5 mm")),
    (30.5, lambda twin: twin.stage.stop()),
    (200.0, lambda twin: twin.column.blank()),
    (400.75, lambda twin: twin.detector.brightness["B"].set("60 %")),
    (700.0, lambda twin: twin.column.unblank()),
    (900.0, lambda twin: twin.gases["O2"].close()),
    (900.5, lambda twin: twin.column.working_distance.set("8.01 mm")),
    (1100.0, lambda twin: twin.gases["H2"].flow.set("10 sccm")),
)
"""Seconds of the night, and what the hardware is told then."""


def opened(path, clock=None, outage=None, text=None):
    clock = clock or continued_clock(path, outage=outage)
    return Registry(drivers={"twin": build}).instrument(document.parse(text or TEXT, "twin.yaml"), clock, path)


def until(instrument, moment):
    instrument.clock.sleep(moment - instrument.clock.monotonic())


def play(instrument, begun=0.0, end=LAST):
    """Tell the hardware what is due from ``begun`` up to ``end``."""
    for moment, tell in TOLD:
        if begun <= moment < end:
            until(instrument, moment)
            tell(instrument)
    until(instrument, end)


def state(instrument):
    world = world_of(instrument)
    with world.lock:
        time = world.catch_up()
    furnace, specimen = world.furnace, world.specimen
    return (
        time,
        instrument.clock.now(),
        (furnace.target, furnace.rate, furnace.working, furnace.sensor, furnace.sample),
        sorted(world.chamber.pressures.items()),
        {name: (line.setpoint, line.flow) for name, line in world.lines.items()},
        world.drift.offset,
        [wander.value for wander in world.wanders],
        {name: reading.value.magnitude for name, reading in instrument.read_all()[0].items()},
        world.beam.blanked,
        (world.frames, world.scan, world.scanned_at),
        specimen.time,
        specimen.truth(world.field(64)),
    )


@pytest.fixture(scope="module")
def whole():
    """The night that nobody interrupted: its state, and a frame at its end."""
    instrument = opened(None, VirtualClock())
    play(instrument)
    return state(instrument), instrument.detector.acquire(SMALL).counts


@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(kills=st.lists(st.tuples(st.integers(0, 5900), st.integers(0, 400)), min_size=1, max_size=3))
def test_a_night_that_was_killed_anywhere_goes_on_to_the_same_bits(tmp_path_factory, whole, kills):
    path = tmp_path_factory.mktemp("night") / "twin.jsonl"
    at = 0.0
    for quarter, outage in sorted(kills):
        killed = max(at, quarter / 4)
        # The outage ends before the next thing is due: both nights are told the same at the same times.
        back = min([killed + outage / 4, *(moment for moment, _ in TOLD if moment >= killed), LAST])
        instrument = opened(path, outage=at - (read(path).now if path.exists() else at))
        assert instrument.clock.monotonic() == at
        play(instrument, at, killed)
        instrument.close()  # writes nothing: the file is what a kill leaves
        at = back
    instrument = opened(path, outage=at - read(path).now)
    play(instrument, at)
    assert state(instrument) == whole[0]
    assert np.array_equal(instrument.detector.acquire(SMALL).counts, whole[1])
    instrument.close()


def test_frames_are_counted_on(tmp_path):
    path = tmp_path / "twin.jsonl"
    steady = opened(None, VirtualClock())
    frames = [steady.detector.acquire(SMALL).counts for _ in range(3)]
    for number in range(3):
        instrument = opened(path, outage=0.0)
        assert np.array_equal(instrument.detector.acquire(SMALL).counts, frames[number])
        instrument.close()
    instrument = opened(path, outage=0.0)
    assert state(instrument) == state(steady)
    assert world_of(instrument).frames == 3
    instrument.close()


CHILD = """
import sys
from pathlib import Path
from acquisition.app import open_instrument

with open_instrument(Path(sys.argv[2]), 50.0, Path(sys.argv[1])) as twin:
    twin.gases["O2"].flow.set("5 sccm")
    twin.heater.ramp("800 degC", "100 K/min")
    while True:
        twin.clock.sleep(0.25)
        print(repr(twin.clock.monotonic()), flush=True)
"""


def test_a_process_that_is_killed_loses_neither_setpoints_nor_time(tmp_path):
    path, twin = tmp_path / "twin.jsonl", tmp_path / "twin.yaml"
    twin.write_text(TEXT)
    child = subprocess.Popen([sys.executable, "-c", CHILD, str(path), str(twin)], stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdout.readline()
        with pytest.raises(DeviceUnavailable, match=rf"another process holds this instrument \(process {child.pid}\)"):
            continued_clock(path)
    finally:
        child.send_signal(signal.SIGKILL)
        lived = child.stdout.read().split()
        child.wait()
        child.stdout.close()
    story = read(path)
    assert story.now >= float(lived[-1] if lived else 0.25)
    assert [line["put"] for line in story.told] == ["gases.O2.flow", "heater.rate", "heater.temperature"]
    instrument = opened(path, outage=0.0)
    assert instrument.clock.monotonic() == story.now

    other = opened(None, VirtualClock())
    other.gases["O2"].flow.set("5 sccm")
    other.heater.ramp("800 degC", "100 K/min")
    until(other, story.now)
    assert state(instrument) == state(other)
    instrument.close()


def test_heater_and_gas_move_on_through_the_outage(tmp_path):
    path = tmp_path / "twin.jsonl"
    with open_instrument(memory=path) as twin:
        twin.gases["O2"].flow.set("5 sccm")
        twin.heater.ramp("125 degC", "20 K/min")
        twin.clock.sleep(60.0)
        assert twin.heater.temperature.read().value.magnitude < 315.0
        left = twin.clock.now()
    with open_instrument(memory=path, outage=1200.0) as twin:
        assert (twin.clock.now() - left).total_seconds() == 1200.0
        assert twin.heater.temperature.read().value.magnitude == pytest.approx(398.15, abs=0.5)
        assert twin.gauge.pressure.read().value.magnitude == pytest.approx(17.0, rel=0.03)
        assert twin.heater.temperature.setpoint is None  # this process has asked for nothing yet


@pytest.mark.parametrize(("speed", "virtual"), [(None, 7.0), (60.0, 420.0)])
def test_an_outage_is_measured_by_the_time_of_day_and_scaled(tmp_path, speed, virtual):
    path = tmp_path / "twin.jsonl"
    with open_instrument(None, speed, path) as twin:
        begun = twin.clock.monotonic()
    story = read(path)
    clock = continued_clock(path, 1000.0)
    assert 0.0 <= clock.monotonic() - begun < 0.5 * virtual
    older = story.real - 7.0
    path.write_bytes(path.read_bytes().replace(repr(story.real).encode(), repr(older).encode()))
    clock = continued_clock(path)
    assert clock.monotonic() == pytest.approx(
        story.now + virtual + (time.time() - story.real) * (speed or 1.0), rel=0.2
    )
    assert clock.speed is None
    future = story.real + 1e6  # a computer's clock that was set back since
    path.write_bytes(path.read_bytes().replace(repr(older).encode(), repr(future).encode()))
    assert continued_clock(path).monotonic() == story.now


def test_one_process_at_a_time_holds_the_twin(tmp_path):
    path = tmp_path / "twin.jsonl"
    first = opened(path)
    for attempt in (lambda: continued_clock(path), lambda: opened(path, VirtualClock())):
        with pytest.raises(DeviceUnavailable, match="another process holds this instrument") as failure:
            attempt()
        assert failure.value.where == str(path)
    first.close()
    opened(path).close()


def test_an_instrument_that_could_not_be_built_lets_go(tmp_path):
    path = tmp_path / "twin.jsonl"
    with pytest.raises(DocumentError, match="full_scal"):
        opened(path, VirtualClock(), text=TEXT.replace("full_scale: 50", "full_scal: 50"))
    assert read(path) is None
    opened(path).close()


def remembered(path):
    twin = opened(path)
    twin.heater.ramp("125 degC", "20 K/min")
    twin.clock.sleep(10.0)
    twin.stage.x.set("1 mm")
    twin.close()
    return path.read_bytes()


def test_a_torn_last_line_is_dropped_and_written_over(tmp_path):
    path = tmp_path / "twin.jsonl"
    content = remembered(path)
    for torn in (content[:-1], content[:-20], content + b'{"at": 11.0, "re'):
        path.write_bytes(torn)
        whole = read(path)
        assert all(line["put"] for line in whole.told)
        twin = opened(path, outage=5.0)
        twin.stage.y.set("2 mm")
        twin.close()
        again = read(path)
        assert again.told[:-1] == whole.told
        assert again.told[-1]["put"] == "stage.y"


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        (b'"put": "stage.x"', b'"put": "stage.w"', "told at 10 s makes no sense .KeyError: 'stage.w'"),
        (b'"value": 1.0}', b'"value": "1"}', "told at 10 s makes no sense .TypeError"),
        (b'"put": "heater.rate"', b'"pat": "heater.rate"', "told at 0 s makes no sense .ValueError: nothing is known"),
        (b'{"at": 0.0', b'{"at": 9.5', "not in the order"),
        (b'{"at": 0.0', b'{"it": 0.0', "damaged .'at'"),
    ],
)
def test_a_line_that_makes_no_sense_is_refused(tmp_path, old, new, says):
    path = tmp_path / "twin.jsonl"
    content = remembered(path)
    assert old in content
    path.write_bytes(content.replace(old, new, 1))
    with pytest.raises(InputError, match=says) as failure:
        opened(path, VirtualClock(elapsed=1000.0))
    assert failure.value.where == str(path)


def test_a_moment_that_lies_behind_what_was_told_is_brought_up(tmp_path):
    path = tmp_path / "twin.jsonl"
    content = remembered(path)
    path.write_bytes(content.replace(b'{"now": 10.0', b'{"now": 1.00'))
    assert read(path).now == 10.0


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"kind,time\n1,2\n", "not the memory of a twin"),
        (b"\x00\xff" * 50, "not the memory of a twin"),
        (b"[1, 2]\n", "not the memory of a twin"),
        (b'{"format": "rilievo twin 9"}\n', "of another version"),
        (json.dumps({"format": FORMAT}).encode() + b"\n", "damaged"),
        (json.dumps({"format": FORMAT}).encode() + b"\nnonsense\n", r"damaged \(line 2"),
    ],
)
def test_another_file_is_refused_and_left_alone(tmp_path, content, says):
    path = tmp_path / "twin.jsonl"
    path.write_bytes(content)
    with pytest.raises(InputError, match=says):
        continued_clock(path)
    with pytest.raises(InputError, match=says):
        opened(path, VirtualClock())
    assert path.read_bytes() == content


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cut=st.integers(0, 2000), noise=st.binary(max_size=40))
def test_any_file_is_read_or_refused(tmp_path_factory, told, cut, noise):
    path = tmp_path_factory.getbasetemp() / "any.jsonl"
    path.write_bytes(told[:cut] + noise + told[cut + len(noise) :])
    try:
        story = read(path)
    except InputError as error:
        assert "move it away" in error.message or "name another" in error.message
    else:
        assert story is None or story.present(0.0) >= 0.0


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    return remembered(tmp_path_factory.mktemp("told") / "twin.jsonl")


@pytest.mark.parametrize(
    ("old", "new"), [("seed: 1 ", "seed: 2 "), ("time_constant: 20 s", "time_constant: 21 s"), ("50 sccm", "60 sccm")]
)
def test_another_description_is_another_twin(tmp_path, old, new):
    path = tmp_path / "twin.jsonl"
    remembered(path)
    with pytest.raises(InputError, match="a twin with another description or seed"):
        opened(path, text=TEXT.replace(old, new))


FAULT = "  faults: [{kind: timeout, target: gauge, start: 100 s, duration: 50 s}]\n  seed: 1 "


def test_faults_may_change_and_count_from_the_first_moment(tmp_path):
    path = tmp_path / "twin.jsonl"
    remembered(path)  # ten seconds
    instrument = opened(path, outage=80.0, text=TEXT.replace("  seed: 1 ", FAULT))
    instrument.gauge.pressure.read()
    instrument.clock.sleep(10.0)
    with pytest.raises(DeviceTimeout):
        instrument.gauge.pressure.read()
    instrument.close()
    instrument = opened(path, outage=60.0, text=TEXT.replace("  seed: 1 ", FAULT))
    instrument.gauge.pressure.read()
    instrument.close()


def test_a_clock_that_lies_behind_is_refused(tmp_path):
    path = tmp_path / "twin.jsonl"
    remembered(path)
    with pytest.raises(InputError, match="10 s before what the twin remembers; make it with continued_clock"):
        opened(path, VirtualClock())


def test_a_full_disk_does_not_hold_the_hardware_up(tmp_path, monkeypatch):
    path = tmp_path / "twin.jsonl"
    instrument = opened(path)
    real, full = os.pwrite, True

    def pwrite(descriptor, content, offset):
        if full and b'"at"' in content:
            if len(content) < 150:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return real(descriptor, content[:20], offset)  # the second one is torn
        return real(descriptor, content, offset)

    monkeypatch.setattr(memory.os, "pwrite", pwrite)
    instrument.stage.x.set("1 mm")
    instrument.stage.y.set("2 mm")
    assert read(path).told == []
    full = False
    instrument.stage.z.set("1 mm")
    assert [line["put"] for line in read(path).told] == ["stage.x", "stage.y", "stage.z"]
    full = True
    instrument.stage.tilt.set("1 deg")
    with pytest.raises(DeviceError, match="the last setpoints could not be remembered: No space left"):
        instrument.close()


def test_a_twin_on_the_real_clock_remembers_too(tmp_path):
    path = tmp_path / "twin.jsonl"
    instrument = opened(path, RealClock())
    instrument.gases["O2"].flow.set("5 sccm")
    instrument.close()
    story = read(path)
    path.write_bytes(path.read_bytes().replace(repr(story.real).encode(), repr(story.real - 120.0).encode()))
    instrument = opened(path, RealClock())
    assert instrument.gauge.pressure.read().value.magnitude == pytest.approx(17.0, rel=0.03)
    instrument.close()


def test_an_outage_must_be_one(tmp_path):
    with pytest.raises(InputError, match="an outage of 0 s or more"):
        continued_clock(tmp_path / "twin.jsonl", outage=-1.0)
