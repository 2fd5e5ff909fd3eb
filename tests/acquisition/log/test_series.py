"""A night is drawn from spans, and no peak is lost."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import func, select

from acquisition import series, spans, tables
from acquisition.log import Log
from acquisition.series import Window, thinned
from drivers.errors import RunError
from drivers.frame import Reading
from drivers.units import quantity

START = datetime(2026, 1, 1, 18, tzinfo=UTC)


def readings(values, every: float = 1.0, name: str = "a", begin: float = 0.0):
    return [
        (name, Reading(quantity(float(value), "K"), START + timedelta(seconds=begin + every * place), fresh=value != 7))
        for place, value in enumerate(values)
    ]


def wave(count: int) -> np.ndarray:
    values = np.sin(np.arange(count) / 100.0)
    values[[count // 3, count // 2]] = 40.0, -30.0
    return values


def test_spans_sum_up_what_was_read(book):
    book.log.readings(book.run, readings([1, 5, 3], every=2, begin=1))
    book.log.readings(book.run, readings([7, 2], every=1, begin=6))
    with book.log.engine.connect() as connection:
        first, *rest = connection.execute(select(tables.SpanRow.__table__)).mappings().all()
    assert rest == []
    assert (first["count"], first["low"], first["high"], first["mean"]) == (5, 1.0, 7.0, 3.6)
    assert (first["start"], first["end"]) == (START, START + timedelta(seconds=7))
    assert first["low_time"] == START + timedelta(seconds=1)
    assert first["high_time"] == START + timedelta(seconds=6)
    assert not first["fresh"]


def test_a_refused_batch_leaves_no_spans(book):
    book.log.readings(book.run, readings([1.0]))
    with pytest.raises(Exception, match="so far"):
        book.log.readings(book.run, [*readings([9.0]), ("a", Reading(quantity(1, "Pa"), START))])
    with book.log.engine.connect() as connection:
        assert connection.execute(select(func.sum(tables.SpanRow.count))).scalar() == 1


@pytest.mark.parametrize("max_points", [100, 240, 7])
def test_a_view_of_a_night_is_made_of_spans_alone(book, monkeypatch, max_points):
    values = wave(3 * 3600)
    for begin in range(0, len(values), 1000):
        book.log.readings(book.run, readings(values[begin : begin + 1000], begin=begin))
    whole = book.log.series(book.run, "a")
    assert whole.values.tolist() == values.tolist()
    real = Window._readings
    rows = []

    def counted(self, *arguments):
        rows.append(real(self, *arguments))
        return rows[-1]

    monkeypatch.setattr(Window, "_readings", counted)
    thin = book.log.series(book.run, "a", max_points)
    assert sum(len(part.values) for part in rows) <= 4, "the readings themselves are not needed"
    assert len(thin.values) <= max_points
    assert (thin.values.max(), thin.values.min()) == (40.0, -30.0)
    assert (thin.times[0], thin.times[-1]) == (whole.times[0], whole.times[-1])
    assert (thin.values[0], thin.values[-1]) == (values[0], values[-1])
    assert np.all(np.diff(thin.times) >= np.timedelta64(0, "us"))
    told = dict(zip(whole.times.tolist(), whole.values.tolist(), strict=True))
    assert all(told[time] == value for time, value in zip(thin.times.tolist(), thin.values.tolist(), strict=True))


def test_a_close_look_is_made_of_readings(book):
    values = wave(600)
    book.log.readings(book.run, readings(values))
    close = book.log.series(book.run, "a", 400)
    assert 350 < len(close.values) <= 400
    assert (close.values.max(), close.values.min()) == (40.0, -30.0)
    since, until = START + timedelta(seconds=199), START + timedelta(seconds=301)
    part = book.log.series(book.run, "a", since=since, until=until)
    assert part.values.tolist() == values[199:302].tolist()
    few = book.log.series(book.run, "a", 8, since=since, until=until)
    assert (few.values[0], few.values[-1]) == (values[199], values[301])
    assert (few.values.max(), few.values.min()) == (40.0, -30.0)
    with pytest.raises(RunError, match="no readings of 'b'"):
        book.log.series(book.run, "b")


def test_a_part_of_a_long_night_has_exact_ends_too(book, monkeypatch):
    monkeypatch.setattr(series, "PLAIN", 50)
    values = wave(600)
    book.log.readings(book.run, readings(values))
    since, until = START + timedelta(seconds=193), START + timedelta(seconds=307)
    part = book.log.series(book.run, "a", 40, since=since, until=until)
    assert (part.values[0], part.values[-1]) == (values[193], values[307])
    assert (part.values.max(), part.values.min()) == (40.0, -30.0)
    assert part.times.min() == np.datetime64("2026-01-01T18:03:13")
    assert part.times.max() == np.datetime64("2026-01-01T18:05:07")


def test_readings_without_spans_are_not_left_out(book, monkeypatch):
    monkeypatch.setattr(series, "PLAIN", 50)
    book.log.readings(book.run, readings(wave(3600)))
    with book.log.engine.begin() as connection:
        half = START + timedelta(seconds=1800)
        connection.execute(tables.SpanRow.__table__.delete().where(tables.SpanRow.start < half))
    thin = book.log.series(book.run, "a", 50)
    assert (thin.values.max(), thin.values.min()) == (40.0, -30.0)


def test_an_idle_instrument_has_channels_too(book):
    book.log.readings(None, readings([1.0, 2.0]))
    book.log.readings(None, readings([3.0], begin=2))
    book.log.readings(book.run, readings([9.0]))
    assert [channel.name for channel in book.log.channels(None)] == ["a"]
    assert book.log.series(None, "a").values.tolist() == [1.0, 2.0, 3.0]
    with pytest.raises(RunError, match=r"the idle instrument has no readings of 'b'; the channels are: a"):
        book.log.series(None, "b")


@given(
    values=st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=200),
    cuts=st.lists(st.integers(0, 200), max_size=5),
)
def test_spans_merged_are_spans_of_all(values, cuts):
    rows = [(1, START + timedelta(seconds=7 * place), value, True) for place, value in enumerate(values)]
    whole = spans.summed(rows)
    assert sum(span["count"] for span in whole) == len(values)
    assert max(span["high"] for span in whole) == max(values)
    assert min(span["low"] for span in whole) == min(values)
    edges = sorted({0, len(rows), *(cut for cut in cuts if cut < len(rows))})
    parts = [spans.summed(rows[begin:end]) for begin, end in pairwise(edges)]
    for span in whole:
        same = [part for told in parts for part in told if part["start"] == span["start"]]
        assert sum(part["count"] for part in same) == span["count"]
        assert max(part["high"] for part in same) == span["high"]


def test_thinning_keeps_the_ends(log: Log):
    log.readings(None, readings(np.zeros(500)))
    whole = log.series(None, "a")
    thin = thinned(whole, 10)
    assert (thin.times[0], thin.times[-1]) == (whole.times[0], whole.times[-1])
