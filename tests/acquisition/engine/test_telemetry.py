"""Telemetry: every sample reaches the log, whatever the log, a device or a listener does meanwhile."""

from __future__ import annotations

import dataclasses
import threading

import numpy as np
import pytest

from acquisition.ledger import Ledger
from acquisition.sidecar import NAME
from acquisition.telemetry import Telemetry
from drivers import document
from drivers.clock import RealClock
from drivers.errors import DatabaseError, DeviceError, DocumentError
from drivers.registry import Registry
from drivers.units import quantity


def sample(telemetry: Telemetry, clock, seconds: float) -> None:
    """Let it run for a while."""
    place = clock.register("test")
    telemetry.start()
    with place:
        clock.sleep(seconds)
        telemetry.end()
    telemetry.close()


def test_ten_times_a_second_nothing_is_lost(bench, tmp_path):
    channels = len(bench.instrument.channels())
    with Ledger(bench.log, tmp_path / NAME, bench.clock) as ledger:
        sample(Telemetry(bench.instrument, ledger, None, 0.1), bench.clock, 60.0)
    series = bench.log.series(None, "heater.temperature")
    assert len(series.values) == 601
    assert np.allclose(np.diff(series.times).astype(float), 1e5, atol=2)
    assert sum(len(bench.log.series(None, name).values) for name in bench.instrument.channels()) == 601 * channels
    assert len(bench.log.series(None, "truth.coverage").values) == 7


def test_the_instruments_file_says_how_often(bench):
    instrument = dataclasses.replace(bench.instrument, telemetry=20.0)
    sample(Telemetry(instrument, bench.log, None), bench.clock, 59.0)
    assert len(bench.log.series(None, "gauge.pressure").values) == 4


def test_what_is_read_while_the_database_refuses_waits_beside(bench, tmp_path):
    ledger = Ledger(bench.log, tmp_path / NAME, bench.clock)
    telemetry = Telemetry(bench.instrument, ledger, None, 1.0, seconds=5.0)
    bench.log._writer._connect()
    bench.log._writer._raw.execute("PRAGMA query_only=ON")
    place = bench.clock.register("test")
    telemetry.start()
    with place:
        bench.clock.sleep(30.0)
        assert "may not be written" in ledger.stranded
        bench.log._writer._raw.execute("PRAGMA query_only=OFF")
        bench.clock.sleep(30.0)
        telemetry.end()
    telemetry.close()
    assert ledger.stranded == ""
    ledger.close()
    assert len(bench.log.series(None, "gauge.pressure").values) == 61


def test_without_a_ledger_it_keeps_what_it_can_and_tells_what_it_lost(bench, monkeypatch):
    telemetry = Telemetry(bench.instrument, bench.log, None, 1.0, seconds=5.0, bound=20 * 29)
    real = bench.log.readings
    monkeypatch.setattr(bench.log, "readings", refuse)
    place = bench.clock.register("test")
    telemetry.start()
    with place:
        bench.clock.sleep(60.0)
        monkeypatch.setattr(bench.log, "readings", real)
        telemetry.end()
    telemetry.close()
    kept = sum(len(bench.log.series(None, channel.name).values) for channel in bench.log.channels(None))
    (told,) = [event.message for event in bench.log.events(None) if "lost" in event.message]
    lost = int(told.split()[0])
    assert lost > 0
    assert kept + lost == 61 * len(bench.instrument.channels()) + 7


def refuse(*_: object) -> None:
    raise DatabaseError("not now")


def test_listeners_get_every_sample_and_one_that_fails_is_left_out(bench):
    telemetry = Telemetry(bench.instrument, bench.log, None, 1.0)
    heard, failing = [], []

    def fails(readings):
        failing.append(readings)
        raise ValueError("a mistake")

    telemetry.listen(fails)
    telemetry.listen(lambda readings: heard.append(readings["gauge.pressure"].value))
    end = telemetry.listen(lambda _: end())
    sample(telemetry, bench.clock, 4.0)
    assert heard == [quantity(1.0, "Pa")] * 5
    assert len(failing) == 1
    assert telemetry.latest["gauge.pressure"].value == quantity(1.0, "Pa")
    assert [event.message for event in bench.log.events(None)] == [
        "a listener failed, and is told no more samples: ValueError: a mistake"
    ]


def test_a_channel_that_becomes_something_else_does_not_take_the_others_along(bench):
    telemetry = Telemetry(bench.instrument, bench.log, None, 1.0, seconds=2.0)
    place = bench.clock.register("test")
    telemetry.start()
    with place:
        bench.clock.sleep(5.0)
        bench.instrument.gauge.pressure.unit = "K"
        bench.clock.sleep(5.0)
        telemetry.end()
    telemetry.close()
    assert len(bench.log.series(None, "heater.temperature").values) == 11
    assert 5 <= len(bench.log.series(None, "gauge.pressure").values) <= 7
    assert any("gauge.pressure cannot be logged" in event.message for event in bench.log.events(None))


def test_a_silent_channel_is_told_once(bench):
    telemetry = Telemetry(bench.instrument, bench.log, None, 1.0)
    bench.backends["stage.x"].get = silent
    sample(telemetry, bench.clock, 5.0)
    told = [event.message for event in bench.log.events(None)]
    assert len(told) == 1
    assert "stage.x does not answer" in told[0]


def silent() -> tuple:
    raise DeviceError("no answer")


def test_a_slow_log_delays_no_sample_of_real_hardware(bench, monkeypatch):
    instrument = dataclasses.replace(bench.instrument, clock=RealClock())
    gate, real = threading.Event(), bench.log.readings

    def slow(run_id, rows):
        gate.wait(5.0)
        real(run_id, rows)

    monkeypatch.setattr(bench.log, "readings", slow)
    telemetry = Telemetry(instrument, bench.log, None, 0.002, rows=1)
    enough = threading.Event()
    seen = []
    telemetry.listen(lambda readings: (seen.append(1), enough.set() if len(seen) >= 10 else None))
    telemetry.start()
    assert enough.wait(5.0), "samples wait for the log"
    assert bench.log.channels(None) == []
    gate.set()
    telemetry.close()
    assert len(bench.log.series(None, "gauge.pressure").values) == len(seen)


@pytest.mark.parametrize(("every", "expected"), [("0.5 s", 0.5), ("1 min", 60.0), (None, 10.0)])
def test_telemetry_in_the_instruments_file(every, expected):
    from acquisition.app import instrument_document

    text = "" if every is None else f"telemetry: {{every: {every}}}\n"
    source = document.parse(TWIN + text, "twin.yaml")
    assert instrument_document(None).name == "twin.yaml"
    with _closing(Registry.discover().instrument(source)) as instrument:
        assert instrument.telemetry == expected


def test_telemetry_that_no_instrument_can_keep_up_with():
    source = document.parse(TWIN + "telemetry: {every: 1 ms}\n", "twin.yaml")
    with pytest.raises(DocumentError, match=r"telemetry\.every: expected 0\.1 s \(10 Hz\) to 600 s; got 1 ms"):
        Registry.discover().instrument(source)


def _closing(instrument):
    from contextlib import contextmanager

    @contextmanager
    def close():
        yield instrument
        instrument.close()

    return close()


def _twin() -> str:
    from importlib import resources

    return resources.files("simulators").joinpath("twin.yaml").read_text(encoding="utf-8")


TWIN = _twin()
