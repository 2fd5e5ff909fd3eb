from __future__ import annotations

import json
import threading
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from acquisition.log import canonical
from acquisition.records import Series, thinned
from drivers.errors import DatabaseError, InputError, RunError
from drivers.frame import Reading
from drivers.units import quantity

START = datetime(2026, 1, 1, 18, tzinfo=UTC)


def after(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


@dataclass
class Figure:
    value: float
    sigma: float | None
    unit: str


@pytest.mark.parametrize(
    ("value", "unit", "expected"),
    [
        (400.0, "degC", (673.15, "K")),
        (5.0, "delta_degC", (5.0, "K")),
        (10.0, "K/min", (10 / 60, "K/s")),
        (1e-3, "mbar", (0.1, "Pa")),
        (5.0, "keV", (5 * 1.602176634e-16, "J")),
        (90.0, "deg", (np.pi / 2, "rad")),
        (50.0, "percent", (0.5, "")),
        (20.0, "sccm", (20 * 101325 * 1e-6 / (8.31446261815324 * 273.15) / 60, "mol/s")),
        (50.0, "kC/m**2", (5e4, "C/m**2")),
        (2.0, "", (2.0, "")),
    ],
)
def test_figures_are_canonical(value, unit, expected):
    number, text = canonical(quantity(value, unit))
    assert text == expected[1]
    assert number == pytest.approx(expected[0], rel=1e-12)


def test_a_run_keeps_what_it_was_made_of(book):
    run = book.log.run(book.run)
    assert run.id == "20260101-180000-copper-redox"
    assert (run.name, run.recipe_name, run.recipe_text) == ("copper redox", "copper.yaml", "name: copper redox\n")
    assert (run.state, run.reason, run.started, run.ended, run.version) == ("idle", "", START, None, "0.1.0")
    assert run.plan == {"seconds": 60.0}
    instrument = book.log.instrument(book.run)
    assert instrument.name == "twin"
    assert instrument.limits["heater.temperature"]["high"]["value"] == 900.0
    assert [action.arguments["text"] for action in book.log.actions(book.run)] == ["Grüße"] * 3


def test_the_same_name_and_time_make_another_id(book):
    assert book.new_run() == "20260101-180000-copper-redox-2"
    assert book.new_run() == "20260101-180000-copper-redox-3"
    assert book.new_run("<script>", after(-3600)) == "20260101-170000-script"
    assert book.new_run("銅") == "20260101-180000-run"
    # The newest is the one that was made last, whatever its clock said.
    assert [run.number for run in book.log.runs()] == [5, 4, 3, 2, 1]


def test_a_start_in_another_zone_is_utc(book):
    there = datetime(2026, 1, 1, 20, tzinfo=timezone(timedelta(hours=2)))
    run = book.new_run("elsewhere", there)
    assert run == "20260101-180000-elsewhere"
    assert book.log.run(run).started == START
    assert book.log.run(run).started.utcoffset() == timedelta(0)


def test_an_id_may_be_shortened(book):
    other = book.new_run("iron", after(86400))
    assert book.log.run("20260102").id == other
    with pytest.raises(RunError, match=r"several runs: .*iron.*, .*copper-redox; write more"):
        book.log.run("202601")
    with pytest.raises(RunError, match=r"no run 'x'; the runs are: 20260102-180000-iron, 20260101"):
        book.log.run("x")
    with pytest.raises(RunError, match="no run ''"):
        book.log.run("")


def test_states(book):
    book.log.set_state(book.run, "running", after(1))
    run = book.log.run(book.run)
    assert (run.state, run.changed, run.ended) == ("running", after(1), None)
    book.log.set_state(book.run, "safe", after(9), "pressure above 100 Pa")
    run = book.log.run(book.run)
    assert (run.state, run.reason, run.ended) == ("safe", "pressure above 100 Pa", after(9))
    with pytest.raises(InputError, match="expected one of idle, running"):
        book.log.set_state(book.run, "asleep", after(10))
    with pytest.raises(RunError, match="no run 'nobody'"):
        book.log.set_state("nobody", "running", after(1))


def test_the_journal_tells_where_it_stopped(book):
    book.log.intent(book.run, 0, after(1))
    book.log.outcome(book.run, 0, after(2), "done")
    book.log.intent(book.run, 1, after(3))
    states = [action.state for action in book.log.actions(book.run)]
    assert states == ["done", "begun", "planned"]
    book.log.intent(book.run, 1, after(100))
    book.log.outcome(book.run, 1, after(101), "failed", "the heater did not answer")
    book.log.outcome(book.run, 2, after(101), "skipped")
    _, second, third = book.log.actions(book.run)
    assert (second.attempts, second.intent_time, second.outcome_time) == (2, after(100), after(101))
    assert (second.state, second.message) == ("failed", "the heater did not answer")
    assert (third.state, third.attempts, third.intent_time) == ("skipped", 0, None)
    with pytest.raises(RunError, match="no action 7"):
        book.log.intent(book.run, 7, START)
    with pytest.raises(InputError, match="expected one of done"):
        book.log.outcome(book.run, 0, START, "perhaps")


def test_setpoints_compare_with_readings(book):
    book.log.setpoint(book.run, "heater.temperature", quantity(400, "degC"), after(1), 1)
    book.log.readings(book.run, [("heater.temperature", Reading(quantity(673.0, "K"), after(2)))])
    (setpoint,) = book.log.setpoints(book.run)
    assert (setpoint.channel, setpoint.unit, setpoint.time, setpoint.action_index) == (
        "heater.temperature",
        "K",
        after(1),
        1,
    )
    series = book.log.series(book.run, "heater.temperature")
    assert series.unit == setpoint.unit
    assert setpoint.value - series.values[0] == pytest.approx(0.15)


def test_readings_in_bulk_keep_order_time_and_freshness(book):
    rows = [
        (f"gas.{gas}", Reading(quantity(float(step), "sccm"), after(step), fresh=step != 3))
        for step in range(5)
        for gas in ("H2", "O2")
    ]
    book.log.readings(book.run, iter(rows))
    book.log.readings(book.run, [])
    book.log.readings(book.run, [("pressure", Reading(quantity(1e-3, "mbar"), after(7)))])
    assert [(channel.name, channel.unit) for channel in book.log.channels(book.run)] == [
        ("gas.H2", "mol/s"),
        ("gas.O2", "mol/s"),
        ("pressure", "Pa"),
    ]
    series = book.log.series(book.run, "gas.H2")
    assert list(series.fresh) == [True, True, True, False, True]
    assert series.times[0] == np.datetime64("2026-01-01T18:00:00")
    assert np.all(np.diff(series.times) == np.timedelta64(1, "s"))
    with pytest.raises(RunError, match=r"no readings of 'gas.N2'; the channels are: gas.H2, gas.O2, pressure"):
        book.log.series(book.run, "gas.N2")
    with pytest.raises(InputError, match=r"readings of pressure were in Pa so far; got K"):
        book.log.readings(book.run, [("pressure", Reading(quantity(300, "K"), after(8)))])


def test_a_second_writer_finds_the_channels_of_the_first(book, target):
    from acquisition.log import Log

    book.log.readings(book.run, [("a", Reading(quantity(1, "K"), after(1)))])
    with Log.open(target) as other:
        other.readings(book.run, [("a", Reading(quantity(2, "K"), after(2)))])
    assert list(book.log.series(book.run, "a").values) == [1.0, 2.0]


def test_thinning_keeps_every_peak():
    values = np.zeros(10_000)
    values[1234], values[7777] = 5.0, -3.0
    times = np.arange(10_000).astype("datetime64[us]")
    series = thinned(Series("a", "K", times, values, np.ones(10_000, bool)), 100)
    assert len(series.values) <= 100
    assert (series.values.max(), series.values.min()) == (5.0, -3.0)
    assert np.all(np.diff(series.times) > np.timedelta64(0, "us"))


@given(st.lists(st.floats(-1e9, 1e9), max_size=200), st.integers(-5, 300))
def test_thinning_never_loses_the_range(values, points):
    array = np.array(values)
    series = Series("a", "K", np.arange(len(values)).astype("datetime64[us]"), array, np.ones(len(values), bool))
    thin = thinned(series, points)
    assert len(thin.values) <= max(2, points)
    if values:
        assert (thin.values.max(), thin.values.min()) == (array.max(), array.min())


def test_frames(book, frame, stored):
    key = book.log.frame(book.run, 0, 1, frame, stored)
    (entry,) = book.log.frames(book.run)
    assert (entry.id, entry.number, entry.action_index, entry.stored) == (key, 0, 1, stored)
    assert (entry.rows, entry.columns, entry.segments, entry.dark, entry.time) == (6, 8, 4, False, START)
    assert (entry.pixel_size, entry.probe_current, entry.dwell_time) == (20e-9, 1e-9, 10e-6)
    assert (entry.beam_energy, entry.working_distance) == (frame.beam.beam_energy, 8e-3)
    with pytest.raises(DatabaseError, match="refused"):
        book.log.frame(book.run, 0, 1, frame, stored)
    with pytest.raises(DatabaseError, match="refused"):
        book.log.frame("nobody", 0, 1, frame, stored)


def test_what_was_left_out_is_caught_up(book, frame, stored):
    first, second = (book.log.frame(book.run, number, None, frame, stored) for number in range(2))
    book.log.reconstruction(first, "left out")
    book.log.reconstruction(second, "failed", error="all black", seconds=0.1)
    figures = {
        "roughness": Figure(12.0, 0.5, "nm"),
        "coverage": Figure(0.25, None, ""),
        "volume": Figure(float("nan"), None, ""),
        "tilt": Figure(1.0, float("nan"), "deg"),
    }
    book.log.reconstruction(first, "done", path="run/heights/000000.tif", figures=figures, seconds=0.08)
    one, two = book.log.reconstructions(book.run)
    assert (one.state, one.frame_id, one.frame_number, one.seconds) == ("done", first, 0, 0.08)
    assert one.path is not None
    assert one.path.as_posix() == "run/heights/000000.tif"
    assert set(one.figures) == {"coverage", "roughness", "tilt"}
    assert one.figures["roughness"].value == pytest.approx(12e-9)
    assert one.figures["roughness"].sigma == pytest.approx(0.5e-9)
    assert one.figures["roughness"].unit == "m"
    assert one.figures["tilt"].sigma is None
    assert (two.state, two.error, two.path, two.figures) == ("failed", "all black", None, {})
    assert [figure.value for figure in book.log.figures(book.run, "coverage")] == [0.25]
    book.log.reconstruction(first, "done", figures={"coverage": Figure(0.5, 0.01, "")})
    assert [figure.value for figure in book.log.figures(book.run, "coverage")] == [0.5]
    assert book.log.figures(book.run, "roughness") == []
    with pytest.raises(InputError, match="expected one of done, failed, left out"):
        book.log.reconstruction(first, "lost")


def test_sql_compares_figures(book, frame, stored):
    from sqlalchemy import text

    for number in range(4):
        key = book.log.frame(book.run, number, None, frame, stored)
        book.log.reconstruction(key, "done", figures={"coverage": Figure(number / 4, 0.01, "")})
    query = text(
        "SELECT frames.number FROM figures JOIN reconstructions ON reconstructions.id = figures.reconstruction_id "
        "JOIN frames ON frames.id = reconstructions.frame_id WHERE figures.name = 'coverage' AND figures.value > 0.3 "
        "ORDER BY frames.number"
    )
    with book.log.engine.connect() as connection:
        assert [number for (number,) in connection.execute(query)] == [2, 3]


def test_event_numbers_only_grow(book):
    first = book.log.event(book.run, after(1), "info", "step", "begins", {"temperature": quantity(400, "degC")})
    second = book.log.event(None, after(2), "warning", "database", "slow")
    third = book.log.event(book.run, after(0), "error", "device", "NUL \x00 and \ud800 from a device")
    assert first < second < third
    events = book.log.events(book.run)
    assert [event.number for event in events] == [first, third]
    assert events[0].data == {"temperature": {"value": 400.0, "unit": "degC"}}
    assert events[1].message == "NUL \ufffd and ? from a device"
    assert [event.number for event in book.log.events(None, after=first)] == [second, third]


def test_threads_write_at_once(book):
    errors: list[Exception] = []

    def work(thread: int) -> None:
        try:
            for step in range(20):
                book.log.event(book.run, after(step), "info", f"thread {thread}", str(step))
                book.log.readings(book.run, [(f"c{step % 3}", Reading(quantity(1, "K"), after(step)))])
                book.log.events(book.run)
        except Exception as error:  # noqa: BLE001
            errors.append(error)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    numbers = [event.number for event in book.log.events(book.run)]
    assert len(numbers) == 80
    assert numbers == sorted(numbers)
    assert sum(len(book.log.series(book.run, channel.name).values) for channel in book.log.channels(book.run)) == 80
    assert len(book.log.channels(book.run)) == 3


def test_naive_times_are_refused(book):
    with pytest.raises((DatabaseError, ValueError), match="time zone"):
        book.log.event(book.run, datetime(2026, 1, 1), "info", "x", "y")  # noqa: DTZ001


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_what_is_no_number_does_not_refuse_the_rest(book, frame, stored, value):
    rows = [(name, Reading(quantity(figure, "Pa"), START)) for name, figure in (("a", value), ("b", 17.0))]
    book.log.readings(book.run, rows)
    assert [channel.name for channel in book.log.channels(book.run)] == ["b"]
    assert list(book.log.series(book.run, "b").values) == [17.0]
    key = book.log.frame(book.run, 0, None, frame, stored)
    figures = {"coverage": Figure(value, 0.1, ""), "roughness": Figure(40.0, value, "nm")}
    book.log.reconstruction(key, "done", figures=figures, seconds=value)
    entry = book.log.reconstructions(book.run)[0]
    assert set(entry.figures) == {"roughness"}
    assert entry.figures["roughness"].sigma is None
    assert entry.seconds is None


@pytest.mark.parametrize("value", [float("nan"), float("inf"), np.float64("nan"), quantity(float("nan"), "K")])
def test_events_stay_valid_json(book, value):
    book.log.event(book.run, START, "info", "figure", "coverage", {"sigma": value, "parts": [1, value], "text": "é"})
    data = book.log.events(book.run)[-1].data
    json.dumps(data, allow_nan=False)
    assert data["parts"][0] == 1
    assert data["text"] == "é"


def test_a_setpoint_is_a_number(book):
    with pytest.raises(InputError, match="finite setpoint"):
        book.log.setpoint(book.run, "heater.temperature", quantity(float("nan"), "K"), START)
