"""The twin's devices hang, are given up, come back and are reconnected: through the registry, as a night meets them."""

from __future__ import annotations

import threading
from contextlib import suppress

import numpy as np
import pytest

from drivers import document
from drivers.clock import VirtualClock
from drivers.contract import Scan
from drivers.errors import DeviceTimeout, DeviceUnavailable, InputError
from drivers.patience import is_prompt
from drivers.patient import PatientFigure, PatientScan, PatientSwitch
from drivers.registry import Registry
from simulators.instruments import TWIN, build, world_of

SMALL = Scan(32, 32, 2e-6, 1e-6)
TEXT = TWIN.read_text().replace("30 um", "6 um")


def twin(*faults, text=TEXT):
    listed = "".join(f"    - {{{fault}}}\n" for fault in faults)
    text = text.replace("  seed: 1 ", f"  faults:\n{listed}  seed: 1 ") if faults else text
    return Registry(drivers={"twin": build}).instrument(document.parse(text, "twin.yaml"), VirtualClock())


@pytest.fixture
def hangs():
    """Build a twin whose devices hang, hold a place on its clock, and let go of everything in the end."""
    opened = []

    def make(*faults, text=TEXT):
        instrument = twin(*faults, text=text)
        place = instrument.clock.register("test")
        place.__enter__()
        opened.append((instrument, place))
        return instrument

    yield make
    for instrument, place in opened:
        instrument.close()
        place.__exit__(None, None, None)


def backends(instrument):
    yield from (channel._backend for channel in instrument.channels().values())
    yield from (instrument.column.blanker, instrument.detector.backend, instrument.stage.stop)


def test_what_promises_to_be_prompt_is_called_directly_and_no_thread_is_made():
    before = threading.active_count()
    instrument = twin("kind: timeout, target: gauge, start: 1 h", "kind: beam_trip, target: column, start: 1 h")
    assert all(is_prompt(backend) for backend in backends(instrument))
    instrument.read_all()
    instrument.detector.acquire(SMALL)
    assert threading.active_count() == before
    instrument.close()


def test_only_what_may_hang_is_waited_for_with_a_deadline():
    instrument = twin("kind: hang, target: column, start: 1 h", "kind: hang, target: detector, start: 1 h")
    kinds = {name: type(channel._backend) for name, channel in instrument.channels().items()}
    assert {name for name, kind in kinds.items() if kind is PatientFigure} == {
        name for name in kinds if name.startswith(("column.", "detector."))
    }
    assert isinstance(instrument.column.blanker, PatientSwitch)
    assert isinstance(instrument.detector.backend, PatientScan)
    assert instrument.detector.column is instrument.column
    instrument.close()


def test_a_readback_that_hangs_takes_its_deadline_and_the_device_comes_back(hangs):
    instrument = hangs("kind: hang, target: heater, start: 10 s, duration: 7 s")
    heater, clock = instrument.heater, instrument.clock
    heater.temperature.read()
    clock.sleep(11.0)
    with pytest.raises(DeviceTimeout, match=r"reading heater.temperature has not returned after 5 s") as failure:
        heater.temperature.read()
    assert failure.value.where == "heater.temperature"
    assert clock.monotonic() == 16.0
    clock.sleep(2.0)
    heater.ramp("100 degC", "20 K/min")
    assert heater.temperature.read().fresh


@pytest.mark.parametrize(
    ("lines", "seconds"),
    [
        ("deadlines: {call: 2 s}\n", 2.0),
        ("deadlines: {call: 2 s}\nheater:\n  deadline: 500 ms\n", 0.5),
    ],
)
def test_the_instrument_s_file_says_how_long_a_call_may_take(hangs, lines, seconds):
    text = TEXT.replace("heater:\n", lines if "heater:" in lines else f"{lines}heater:\n")
    instrument = hangs("kind: hang, target: heater, start: 0 s", text=text)
    with pytest.raises(DeviceTimeout):
        instrument.heater.temperature.set("300 K")
    assert instrument.clock.monotonic() == seconds


def test_a_device_that_stays_silent_is_unavailable_at_once_until_it_is_reconnected(hangs):
    instrument = hangs("kind: hang, target: gauge, start: 10 s, duration: 60 s")
    clock, gauge = instrument.clock, instrument.gauge.pressure
    clock.sleep(10.0)
    for _ in range(3):
        with pytest.raises(DeviceTimeout):
            gauge.read()
    assert clock.monotonic() == 25.0
    with pytest.raises(DeviceUnavailable, match="not called again before it is reconnected"):
        gauge.read()
    with pytest.raises(DeviceTimeout, match="reconnecting has not returned after 30 s"):
        instrument.reconnect("gauge")
    assert clock.monotonic() == 55.0
    clock.sleep(20.0)
    with pytest.raises(DeviceUnavailable):  # it is there again, but nobody has looked
        gauge.read()
    instrument.reconnect("gauge")
    gauge.read()
    assert world_of(instrument).reconnections == {"gauge": 1}


def test_a_device_that_was_disconnected_comes_back(hangs):
    instrument = hangs("kind: disconnect, target: gases.O2, start: 0 s, duration: 30 s")
    for attempt in (lambda: instrument.gases["O2"].flow.set("5 sccm"), lambda: instrument.reconnect("gases.O2")):
        with pytest.raises(DeviceUnavailable, match="cannot be reached"):
            attempt()
    instrument.gases["H2"].flow.set("5 sccm")
    instrument.reconnect("gases.H2")
    instrument.clock.sleep(30.0)
    instrument.reconnect("gases.O2.flow")
    assert world_of(instrument).reconnections == {"gases.H2": 1, "gases.O2": 1}
    instrument.gases["O2"].flow.set("5 sccm")
    with pytest.raises(InputError, match=r"no device 'gases.He' on this instrument; there are column, detector, stage"):
        instrument.reconnect("gases.He")


def test_a_blanker_closes_while_the_rest_of_the_column_hangs(hangs):
    instrument = hangs("kind: hang, target: column.focus, start: 0 s", "kind: hang, target: column.blanker, start: 1 h")
    clock = instrument.clock
    place = clock.register("reader")

    def read():
        with place, pytest.raises(DeviceTimeout):
            instrument.column.focus.read()

    reader = threading.Thread(target=read)
    reader.start()
    clock.sleep(1.0)
    instrument.column.blank()
    assert clock.monotonic() == 1.0
    assert instrument.column.blanked
    clock.sleep(10.0)
    reader.join(5.0)


def test_a_switch_that_hangs_is_told(hangs):
    instrument = hangs("kind: hang, target: column.blanker, start: 0 s")
    with pytest.raises(DeviceTimeout, match=r"switching column\.blanker on has not returned"):
        instrument.column.blank()


def test_a_raster_may_take_half_as_long_again_and_five_seconds_more(hangs):
    instrument = hangs("kind: hang, target: detector, start: 1 s")
    expected = instrument.detector.timing.seconds(SMALL)
    instrument.clock.sleep(1.0 - expected / 2)
    begun = instrument.clock.monotonic()
    with pytest.raises(DeviceTimeout, match="a raster of"):
        instrument.detector.acquire(SMALL)
    assert instrument.clock.monotonic() - begun == pytest.approx(1.5 * expected + 5.0)


def test_frames_are_the_same_whether_or_not_the_scanner_might_hang(hangs):
    plain, waited = twin(), hangs("kind: hang, target: detector, start: 1 h")
    for _ in range(2):
        one, other = plain.detector.acquire(SMALL), waited.detector.acquire(SMALL)
        assert np.array_equal(one.counts, other.counts)
        assert one.time == other.time
    waited.detector.backend.stop()
    with pytest.raises(Exception, match="stopped before its end"):
        waited.detector.expose(SMALL)


def night():
    """Engine and telemetry meet two hangs; return what each saw, and when."""
    instrument = twin(
        "kind: hang, target: heater, start: 20 s, duration: 30 s", "kind: hang, target: gauge, start: 35 s"
    )
    clock, seen = instrument.clock, []
    places = [clock.register("engine"), clock.register("telemetry")]

    def heat():
        with places[0]:
            for step in range(20):
                try:
                    instrument.heater.temperature.set(f"{300 + step} K")
                    seen.append((clock.monotonic(), step))
                except (DeviceTimeout, DeviceUnavailable) as error:
                    seen.append((clock.monotonic(), error.code))
                    with suppress(DeviceTimeout, DeviceUnavailable):
                        instrument.reconnect("heater")
                clock.sleep(5.0)

    def sample():
        with places[1]:
            for _ in range(60):
                readings, failures = instrument.read_all()
                seen.append((clock.monotonic(), {name: str(r.value.magnitude) for name, r in readings.items()}))
                seen.append((clock.monotonic(), {name: error.code for name, error in failures.items()}))
                clock.sleep(1.0)

    threads = [threading.Thread(target=work) for work in (heat, sample)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60.0)
        assert not thread.is_alive()
    instrument.close()
    return seen


def test_a_night_of_hangs_repeats_to_the_bit():
    before = set(threading.enumerate())
    first = night()
    assert first == night()
    codes = {code for _, what in first if isinstance(what, dict) for code in what.values()}
    assert {"device-timeout", "device-unavailable"} <= codes
    for thread in set(threading.enumerate()) - before:  # what hung was let go when the instrument was closed
        thread.join(5.0)
        assert not thread.is_alive()
