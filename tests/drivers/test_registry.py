"""Instruments from YAML, detectors from YAML, and drivers that fail to load."""

import math
import threading
from contextlib import suppress
from datetime import UTC, datetime

import pytest

from drivers.clock import VirtualClock
from drivers.contract import (
    Column,
    GasLine,
    Heater,
    Parameter,
    PressureGauge,
    Readable,
    SegmentedDetector,
    Stage,
)
from drivers.document import parse
from drivers.errors import DeviceError, DeviceTimeout, DeviceUnavailable, DocumentError, DriverError, InputError
from drivers.geometry import annular
from drivers.registry import Context, Failure, Registry, _arm_all, load_detector

DETECTOR = """\
working_distance: {distance}
threshold: 1 keV
segments:
{segments}"""


def detector_text(count, distance="8 mm"):
    step = 360 / count
    lines = [
        f"  - {{name: S{i}, inner_radius: 2 mm, outer_radius: 8 mm, azimuth: {i * step:g} deg, span: {step:g} deg}}\n"
        for i in range(count)
    ]
    return DETECTOR.format(distance=distance, segments="".join(lines))


@pytest.mark.parametrize("count", [3, 4, 5, 6])
def test_detectors_from_yaml(tmp_path, count):
    path = tmp_path / "detector.yaml"
    path.write_text(detector_text(count))
    geometry = load_detector(path)
    assert len(geometry.segments) == count
    assert geometry.working_distance == pytest.approx(8e-3)
    assert geometry.azimuths[1] == pytest.approx(2 * math.pi / count)
    assert geometry.threshold == pytest.approx(1.602176634e-16)


def test_detector_errors_point_into_the_file(tmp_path):
    path = tmp_path / "detector.yaml"
    path.write_text(detector_text(4, distance="8"))
    with pytest.raises(
        DocumentError, match=r"detector.yaml:1:19: working_distance: '8' has no unit; expected a length"
    ):
        load_detector(path)
    path.write_text(detector_text(4).replace("azimuth: 90 deg", "azimuth: 10 deg"))
    with pytest.raises(DocumentError, match="overlap"):
        load_detector(path)


INSTRUMENT = """\
name: bench
column: {driver: nowhere}
detector: {driver: broken}
stage: {driver: nowhere}
heater: {driver: nowhere}
gauge: {driver: nowhere}
gases: {N2: {driver: nowhere}}
"""


def test_unknown_and_broken_drivers_are_told_where_they_stand():
    registry = Registry(failures=[Failure("broken", "somewhere:build", "ImportError: no module")])
    with pytest.raises(DocumentError) as caught:
        registry.instrument(parse(INSTRUMENT, "bench.yaml"), VirtualClock())
    told = [str(problem) for problem in caught.value.problems]
    assert told[0].startswith("bench.yaml:2:9: column: there is no driver 'nowhere'")
    assert "somewhere:build" in told[1]
    assert "ImportError: no module" in told[1]
    assert len(told) == 6


def test_what_was_opened_is_closed_when_another_device_fails():
    closed = []

    def build(role, options, context):
        context.closers.append(lambda: closed.append(role))
        if role == "stage":
            raise InputError("no stage here")
        return object()

    text = INSTRUMENT.replace("nowhere", "some").replace("broken", "some")
    with pytest.raises(DocumentError, match="no stage here"):
        Registry(drivers={"some": build}).instrument(parse(text, "bench.yaml"), VirtualClock())
    assert closed == ["gases.N2", "gauge", "heater", "stage", "detector", "column"]


def test_missing_devices_are_told():
    with pytest.raises(DocumentError, match="the key 'column' is missing"):
        Registry().instrument(parse("name: bench\n"), VirtualClock())


def test_a_driver_that_does_not_load_is_recorded(monkeypatch):
    class Point:
        name, value = "broken", "nowhere:build"

        def load(self):
            raise ImportError("no module named nowhere")

    monkeypatch.setattr("drivers.registry.entry_points", lambda group: [Point()])
    registry = Registry.discover()
    assert registry.failures == [Failure("broken", "nowhere:build", "ImportError: no module named nowhere")]
    with pytest.raises(DriverError, match="did not load: ImportError"):
        registry.driver("broken")


class Stuck:
    """A figure whose reading blocks the thread that calls it, until it is let go."""

    def __init__(self):
        self.go = threading.Event()

    def get(self):
        self.go.wait(30.0)
        return 7.0, datetime.now(UTC)

    def put(self, value):
        self.value = value


def bench(backend, reconnect=None, extra="", closers=(), gauge="{driver: some}"):
    """Build an instrument of simple devices on the real clock, whose gauge is ``backend``."""

    def build(role, options, context):
        assert not options

        def parameter(name):
            return Parameter(f"{role}.{name}", "K", Answer(), context.clock)

        if reconnect is not None and role == "gauge":
            context.reconnections[role] = reconnect
        match role:
            case "column":
                context.closers.extend(closers)
                return Column(*(parameter(str(index)) for index in range(8)), blanker=Answer())
            case "detector":
                return SegmentedDetector(annular(4, 2e-3, 8e-3, 8e-3), {}, {}, {}, Answer(), context.column)
            case "stage":
                return Stage(*(parameter(str(index)) for index in range(5)), stop=lambda: None)
            case "heater":
                return Heater(parameter("temperature"), parameter("rate"))
            case "gauge":
                return PressureGauge(Readable("gauge.pressure", "Pa", backend, context.clock))
        return GasLine("N2", parameter("flow"))

    text = INSTRUMENT.replace("nowhere", "some").replace("broken", "some") + extra
    text = text.replace("gauge: {driver: some}", f"gauge: {gauge}")
    return Registry(drivers={"some": build}).instrument(parse(text, "bench.yaml"))


class Answer:
    def __init__(self):
        self.threads = []

    def get(self):
        self.threads.append(threading.current_thread().name)
        return 300.0, datetime.now(UTC)

    def put(self, value):
        self.threads.append(threading.current_thread().name)


def test_a_driver_that_blocks_its_thread_is_given_up_in_time_on_real_hardware():
    stuck = Stuck()
    instrument = bench(stuck, gauge="{driver: some, deadline: 20 ms}")
    for _ in range(3):
        with pytest.raises(DeviceTimeout, match=r"reading gauge.pressure has not returned after 0.02 s"):
            instrument.gauge.pressure.read()
    with pytest.raises(DeviceUnavailable, match="3 calls in a row"):
        instrument.gauge.pressure.read()
    assert instrument.heater.temperature.read().value.magnitude == 300.0
    stuck.go.set()
    instrument.reconnect("gauge")  # its driver has no way, but what was given up is tried again
    answers = []
    while not answers:  # on a busy computer even an answer may come too late
        with suppress(DeviceError):
            answers.append(instrument.gauge.pressure.read().value.magnitude)
            break
        with suppress(DeviceUnavailable):
            instrument.reconnect("gauge")
    assert answers == [7.0]
    with pytest.raises(DeviceUnavailable, match="its driver has no way to reconnect"):
        instrument.reconnect("gauge")
    instrument.close()


def test_a_driver_that_hangs_when_it_is_closed_does_not_keep_the_others_open():
    stuck, closed = Stuck(), []
    instrument = bench(Answer(), extra="deadlines: {call: 50 ms}\n", closers=(lambda: closed.append(1), stuck.get))
    with pytest.raises(DeviceError, match=r"letting go of the hardware has not returned after 0.3 s"):
        instrument.close()
    assert closed == [1]
    stuck.go.set()


def test_a_driver_is_called_in_a_thread_of_its_device_and_reconnected_by_its_own_way():
    answer, tried = Answer(), []
    instrument = bench(answer, lambda: tried.append(threading.current_thread().name))
    instrument.gauge.pressure.read()
    instrument.reconnect("gauge")
    assert set(answer.threads) == set(tried) == {"gauge #1"}
    instrument.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "gauge #1"]
    with pytest.raises(DeviceUnavailable, match="has been closed"):
        instrument.gauge.pressure.read()


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("deadlines: {call: 5 s}", "deadlines: {call: 0 s}", "bench.yaml:9:19: deadlines.call: expected more than 0 s"),
        ("deadlines: {call: 5 s}", "deadlines: {cal: 5 s}", "did you mean 'call'"),
        ("heater: {driver: some}", "heater: {driver: some, deadline: 5 K}", "heater.deadline: 5 K is a temperature"),
    ],
)
def test_deadlines_are_checked(old, new, told):
    text = INSTRUMENT.replace("nowhere", "some").replace("broken", "some") + "gas_rules: {}\ndeadlines: {call: 5 s}\n"
    assert old in text
    with pytest.raises(DocumentError, match=told):
        Registry().instrument(parse(text.replace(old, new), "bench.yaml"), VirtualClock())


@pytest.mark.parametrize(
    ("line", "place", "message"),
    [
        ("safe_state: [{blank: beam, close: all, within: 5 s}]", "8:14", "expected one of blank, heater, close, purge"),
        ("safe_state: [{within: 5 s}]", "8:14", "got none of them"),
        ("safe_state: [{blank: beam}]", "8:14", "the key 'within' is missing"),
        ("safe_state: [{blank: beam, rate: 5 K/min, within: 5 s}]", "8:14", "rate belongs to heater"),
        ("safe_state: [{purge: {N2: 5 sccm}, within: 5 s}]", "8:14", "a purge needs for"),
        ("safe_state: [{purge: {}, for: 5 s, within: 5 s}]", "8:22", "expected one gas or more"),
        ("safe_state: [{purge: {N2: 5 Pa}, for: 5 s, within: 5 s}]", "8:27", "5 Pa is a pressure; expected a gas flow"),
        ("safe_state: [{heater: 300 K, within: 0 s}]", "8:38", "expected a time above 0 s"),
        ("safe_state: []", "8:13", "at least 1 item"),
        ("interlocks: [{when: heater above 5 K}]", "8:14", "the key 'then' is missing"),
        ("interlocks: [{when: heater above 5 K, then: stop}]", "8:45", "'warn', 'suspend' or 'safe'"),
        (
            "interlocks: [{when: heater above 5 K, then: warn, longest: 5 s}]",
            "8:14",
            "longest belongs to then: suspend",
        ),
        ("interlock_period: 5 K", "8:19", "5 K is a temperature; expected a time"),
        ("guard: {patience: 1 K}", "8:19", "1 K is a temperature; expected a time"),
        ("guard: {}", "8:8", "the key 'patience' is missing"),
        ("watchdog: {factor: 0.5}", "8:20", "greater than or equal to 1"),
    ],
)
def test_what_keeps_from_harm_is_strict(line, place, message):
    with pytest.raises(DocumentError) as caught:
        Registry().instrument(parse(f"{INSTRUMENT}{line}\n", "bench.yaml"), VirtualClock())
    told = str(caught.value)
    assert f"bench.yaml:{place}: " in told
    assert message in told


def test_devices_arm_themselves_for_a_lost_connection_together():
    armed = []

    def build(role, options, context):
        context.losses.append(lambda seconds: armed.append((role, seconds)) or f"{role} down")
        if role == "heater":
            context.losses.append(lambda seconds: 1 / 0)

    context = Context(VirtualClock(), parse("a: 1\n"))
    build("heater", {}, context)
    build("gauge", {}, context)
    arm = _arm_all(tuple(context.losses))
    assert arm(60.0) == "heater down; could not be armed: division by zero; gauge down"
    assert armed == [("heater", 60.0), ("gauge", 60.0)]
