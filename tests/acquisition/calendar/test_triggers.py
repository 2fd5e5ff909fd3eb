"""When a booking starts: what is understood, what is refused, and the two nights on which the clocks change."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from acquisition.triggers import (
    After,
    At,
    Cron,
    in_words,
    lateness,
    parse_at,
    parse_cron,
    parse_missed,
    starts_between,
    trigger_of,
    wall,
)
from drivers.errors import InputError

ROME = "Europe/Rome"
NOW = datetime(2026, 1, 1, 18, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("now", "2026-01-01T18:00:00+00:00"),
        ("22:00", "2026-01-01T21:00:00+00:00"),
        ("7:05", "2026-01-02T06:05:00+00:00"),
        ("19:00", "2026-01-02T18:00:00+00:00"),  # now is not a moment that comes
        ("2026-01-01T22:00+01:00", "2026-01-01T21:00:00+00:00"),
        ("2026-01-01T22:00Z", "2026-01-01T22:00:00+00:00"),
        ("2026-07-01 22:00", "2026-07-01T20:00:00+00:00"),
    ],
)
def test_moments(text, moment):
    assert parse_at(text, NOW, ROME).moment.isoformat() == moment


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("25:00", "expected now, a time such as 22:00"),
        ("tonight", "expected now, a time such as 22:00"),
        ("2026-02-30T10:00", "expected now, a time"),
        ("2026-05-01", "has no time of day; write 2026-05-01T22:00"),
        ("2026-01-01T18:00", "Thu 2026-01-01 18:00 CET has passed; it is Thu 2026-01-01 19:00 CET"),
        ("2026-03-29T02:30", "the clocks leave 02:30 out"),
        ("2026-10-25T02:30", r"comes twice; write the offset, such as 2026-10-25T02:30\+02:00"),
    ],
)
def test_moments_that_are_refused(text, reason):
    with pytest.raises(InputError, match=reason):
        parse_at(text, NOW, ROME)


def test_the_hour_that_comes_twice_can_be_named_by_its_offset():
    assert parse_at("2026-10-25T02:30+01:00", NOW, ROME).moment.isoformat() == "2026-10-25T01:30:00+00:00"


@given(
    st.datetimes(datetime(2024, 1, 1), datetime(2030, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001
    st.times(),
    st.sampled_from([ROME, "UTC", "America/New_York", "Asia/Kolkata", "Australia/Lord_Howe"]),
)
def test_a_time_of_day_is_the_next_one_in_its_zone(now, time, zone):
    try:
        moment = parse_at(f"{time:%H:%M}", now, zone).moment
    except InputError as error:
        assume("the clocks" not in error.message and "twice" not in error.message)
        raise
    local = moment.astimezone(ZoneInfo(zone))
    assert (local.hour, local.minute, local.second) == (time.hour, time.minute, 0)
    assert timedelta(0) < moment - now <= timedelta(hours=25)


def test_cron():
    cron = parse_cron("0  22 * * mon-fri", ROME)
    assert cron.expression == "0 22 * * mon-fri"
    friday = cron.next(datetime(2026, 1, 2, 12, tzinfo=UTC))
    assert wall(friday, ROME) == "Fri 2026-01-02 22:00 CET"
    assert wall(cron.next(friday), ROME) == "Mon 2026-01-05 22:00 CET"
    assert starts_between(cron, friday, friday + timedelta(days=7)) == 6


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("22:00", "expected five fields"),
        ("0 22 * * 1-5", "write the days of the week by name, such as mon-fri"),
        ("0 25 * * *", "cannot be read"),
        ("0 22 30 feb *", "never comes"),
    ],
)
def test_cron_that_is_refused(text, reason):
    with pytest.raises(InputError, match=reason):
        parse_cron(text, ROME)


@pytest.mark.parametrize(
    ("text", "kept", "seconds"),
    [("run", "run", float("inf")), ("skip", "skip", 60.0), ("within  2 h", "within 2 h", 7200.0)],
)
def test_what_to_do_with_a_missed_start(text, kept, seconds):
    assert parse_missed(text) == kept
    assert lateness(kept) == seconds


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("never", "expected run, skip, or within and a time"),
        ("within 2", "has no unit"),
        ("within 2 K", "a temperature"),
    ],
)
def test_what_is_no_policy(text, reason):
    with pytest.raises(InputError, match=reason):
        parse_missed(text)


@pytest.mark.parametrize(
    ("trigger", "words"),
    [
        (At(NOW, ROME), "at Thu 2026-01-01 19:00 CET"),
        (Cron("0 22 * * *", ROME), "cron 0 22 * * * (Europe/Rome)"),
        (After(run_id="r"), "after r, when it has finished"),
        (After(booking=3, any_end=True), "after booking 3, however it ends"),
    ],
)
def test_triggers_survive_the_database(trigger, words):
    assert trigger_of(trigger.to_json()) == trigger
    assert in_words(trigger) == words
