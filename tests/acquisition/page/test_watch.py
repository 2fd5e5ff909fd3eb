from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest

from acquisition.bookings import Bookings
from acquisition.outbox import Outbox
from acquisition.ownership import Ownership
from acquisition.page import words
from acquisition.page.watch import KEPT, Watch
from acquisition.triggers import At
from drivers.frame import Reading
from drivers.units import quantity

START = datetime(2026, 1, 1, 18, tzinfo=UTC)


class Clock:
    """A clock that the test moves on."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def now(self):
        return START + timedelta(seconds=self.seconds)

    def monotonic(self):
        return self.seconds

    def signal(self):
        raise AssertionError


@pytest.fixture
def watch(laboratory):
    class Signals(Clock):
        def signal(self):
            return None

    clock = Signals()
    made = Watch(*laboratory, clock)
    made.clock = clock
    return made


def titles(watch) -> list[str]:
    watch.clock.seconds += 10
    watch.look()
    assert watch.sight.trouble is None
    return [alarm.title for alarm in watch.sight.alarms]


def test_nothing_is_nothing(watch):
    assert titles(watch) == []
    assert watch.sight.run is None
    assert watch.traces() is None
    assert "Nothing has run yet" in words.run_html(watch.sight)
    assert words.tiles_html(watch.sight) == ""


def test_a_run_is_seen_with_its_step_what_is_left_and_its_gauges(laboratory, watch, told_night):
    log, store = laboratory
    run = told_night(log, store, state="running")
    watch.look()
    sight = watch.sight
    assert (sight.run.id, sight.instrument) == (run, "Simulated environmental SEM")
    assert (sight.step.number, sight.step.count, sight.step.label) == (2, 2, "3 frames")
    assert sight.elapsed == pytest.approx(110)  # the latest frame
    assert sight.left == pytest.approx(150 - 60 - 50)
    (gauge,) = sight.gauges
    assert (gauge.value, gauge.asked) == (pytest.approx(25 + 6 * 60 + 273.15), pytest.approx(673.15))
    assert (sight.counts.lit, sight.counts.done, sight.frame.number, sight.shape.frame_number) == (3, 3, 2, 2)
    assert sight.segments == ("A", "B", "C", "D")
    html = words.run_html(sight) + words.tiles_html(sight)
    assert all(
        text in html
        for text in ("2 of 2: 3 frames", "40\xa0s left", "385\xa0°C", "asked 400\xa0°C", "20.0\xa0±\xa02.0")
    )


def test_only_what_is_new_is_added(laboratory, watch, told_night, expose):
    log, store = laboratory
    run = told_night(log, store, state="running")
    watch.look()
    before = json.loads(watch.traces())
    version, seen = watch.sight.curves, watch.sight
    watch.look()
    assert watch.sight is seen
    late = START + timedelta(seconds=130)
    log.readings(run, [("heater.temperature", Reading(quantity(390, "degC"), late))])
    expose(log, store, run, 3, late)
    log.event(run, late, "info", "note", "one more")
    watch.look()
    after = json.loads(watch.traces())
    assert watch.sight.curves > version
    assert watch.sight.frame.number == 3
    assert watch.sight.events[-1].message == "one more"
    line_before, line_after = (body["panels"][0]["lines"][0] for body in (before, after))
    assert line_after["x"] == [*line_before["x"], 130.0]
    assert line_after["y"][-1] == 390.0
    assert line_after["asked"]["x"][-1] == 130.0
    assert [figure["title"] for figure in after["figures"]] == ["Oxide coverage", "Roughness Sq"]
    assert after["figures"][0]["told"]["sigma"] == [2.0] * 4


def test_events_are_bounded(laboratory, watch):
    log, _ = laboratory
    for number in range(KEPT + 20):
        log.event(None, START, "info", "note", f"note {number}")
    watch.look()
    for _ in range(30):
        log.event(None, START, "info", "note", "later")
    watch.look()
    numbers = [event.number for event in watch.sight.events]
    assert len(numbers) == KEPT
    assert numbers == list(range(numbers[0], numbers[0] + KEPT))


@pytest.mark.parametrize(
    ("state", "title"),
    [("safe", "The run ended in the safe state"), ("failed", "The run failed")],
)
def test_an_end_that_is_none_is_an_alarm(laboratory, watch, state, title, told_night):
    told_night(*laboratory, state=state)
    assert titles(watch) == [title]
    assert "as told" in words.alarms_html(watch.sight.alarms)


def test_a_run_that_waits_stands_still_or_has_no_process_is_an_alarm(laboratory, watch, told_night):
    log, store = laboratory
    run = told_night(log, store, state="running")
    assert titles(watch) == []  # it may just be about to begin
    assert titles(watch) == ["The run was interrupted"]
    with Ownership.take(store.folder(run), "run"):
        assert titles(watch) == []
        log.set_state(run, "suspended", START, "the vacuum is bad")
        assert titles(watch) == ["The run is suspended"]
        log.set_state(run, "running", START)
        log.event(run, START + timedelta(seconds=120), "error", "stall", "steps[1] makes no progress")
        assert titles(watch) == ["The run stands still"]
        log.outcome(run, 1, START + timedelta(seconds=140), "done")
        assert titles(watch) == []


def test_alerts_that_do_not_arrive_and_errors_are_alarms(laboratory, watch):
    log, _ = laboratory
    Outbox(log).put(["mail"], START, kind="failure", level="error", title="t", text="t")
    assert titles(watch) == []
    with log.transaction() as session:
        from sqlalchemy import update

        from acquisition.tables import AlertRow

        session.execute(update(AlertRow).values(attempts=3, error="no route to host"))
    assert titles(watch) == ["Alerts do not arrive"]
    number = log.event(None, START, "error", "disk", "the disk is full")
    log.event(None, START - timedelta(days=2), "error", "disk", "the disk was full, the day before yesterday")
    watch.clock.seconds += 10
    watch.look()
    assert [(alarm.title, alarm.event) for alarm in watch.sight.alarms][1] == ("Something went wrong: disk", number)


def test_a_database_that_does_not_answer_is_told_and_what_was_seen_stays(laboratory, watch, monkeypatch, told_night):
    log, store = laboratory
    told_night(log, store)
    watch.look()

    def lost():
        raise OSError("gone")

    monkeypatch.setattr(watch._log, "query", lost)
    watch.look()
    assert watch.sight.alarms[0].title == "The database does not answer"
    assert watch.sight.run.name == "a finished night"
    assert watch.sight.trouble == "OSError: gone"
    watch.look()
    assert len(watch.sight.alarms) == 1


def test_bookings_are_seen(laboratory, watch):
    log, _ = laboratory
    Bookings(log).add(
        recipe_name="<b>.yaml",
        recipe_text="",
        instrument="twin",
        instrument_text=None,
        options={"duration": 3600.0},
        trigger=At(START + timedelta(hours=4), "UTC"),
        priority=0,
        missed="run",
        now=START,
    )
    assert titles(watch) == []
    html = words.bookings_html(watch.sight.bookings, removes=True)
    assert "&lt;b&gt;.yaml" in html
    assert "2026-01-01 22:00" in html or "22:00" in html
    assert 'data-remove="1"' in html
