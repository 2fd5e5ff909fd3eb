"""Stretches of readings, summed up: what a view of a whole night is drawn from.

A span holds the lowest and the highest reading of a channel within ten seconds, each with its time, so that a view
made of spans shows real readings and loses no peak. It is entered in the transaction of its readings; one that goes on
in a later transaction is merged there.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import and_, case

SPAN = 10.0
"""Length of a stretch, s; the stretches begin at whole multiples of it, UTC."""

_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
_LENGTH = timedelta(seconds=SPAN)


def summed(readings: Iterable[tuple[int, datetime, float, bool]]) -> list[dict[str, Any]]:
    """Return the spans of readings (channel's key, time in UTC, value, fresh), one for each channel and stretch."""
    spans: dict[tuple[int, int], list[Any]] = {}
    for key, time, value, fresh in readings:
        place = (key, (time - _EPOCH) // _LENGTH)
        span = spans.get(place)
        if span is None:
            spans[place] = [1, value, value, value, time, time, time, fresh]
            continue
        span[0] += 1
        span[1] += value
        if value < span[2]:
            span[2], span[4] = value, time
        if value > span[3]:
            span[3], span[5] = value, time
        if time > span[6]:
            span[6] = time
        span[7] = span[7] and fresh
    return [
        {
            "channel_id": key,
            "start": _EPOCH + number * _LENGTH,
            "end": end,
            "count": count,
            "low": low,
            "low_time": low_time,
            "high": high,
            "high_time": high_time,
            "mean": total / count,
            "fresh": fresh,
        }
        for (key, number), (count, total, low, high, low_time, high_time, end, fresh) in spans.items()
    ]


def merged(insertion: Any) -> Any:
    """Return the insertion of a span with what to do where the stretch has one already."""
    from acquisition.tables import SpanRow as Old

    new = insertion.excluded
    lower, higher = new.low < Old.low, new.high > Old.high
    return insertion.on_conflict_do_update(
        index_elements=["channel_id", "start"],
        set_={
            "end": case((new.end > Old.end, new.end), else_=Old.end),
            "count": Old.count + new.count,
            "low": case((lower, new.low), else_=Old.low),
            "low_time": case((lower, new.low_time), else_=Old.low_time),
            "high": case((higher, new.high), else_=Old.high),
            "high_time": case((higher, new.high_time), else_=Old.high_time),
            "mean": (Old.mean * Old.count + new.mean * new.count) / (Old.count + new.count),
            "fresh": and_(Old.fresh, new.fresh),
        },
    )
