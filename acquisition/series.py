"""What a channel said over time, thinned so that a whole night is drawn in a moment and no peak is lost.

A view of a long run is made of its spans (:mod:`acquisition.spans`), a close look of the readings themselves. Either
way every point is a reading that was taken: the lowest and the highest of each stretch, the first and the last of all.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import BigInteger, ColumnElement, String, cast, func, select, type_coerce
from sqlalchemy.orm import InstrumentedAttribute, Session

from acquisition import tables
from acquisition.spans import SPAN

_LENGTH = timedelta(seconds=SPAN)
_EVER = (datetime(1970, 1, 1, tzinfo=UTC), datetime(9999, 1, 1, tzinfo=UTC))


@dataclass(frozen=True, slots=True, eq=False)
class Series:
    """Readings of one channel, in the order of time.

    Attributes
    ----------
    times : (N,) array of datetime64[us], UTC
    values : (N,) float array
        In ``unit``.
    fresh : (N,) array of bool
        False where the value was older than its channel allows, or, in a thinned series, another one around it was.
    """

    channel: str
    unit: str
    times: NDArray[np.datetime64]
    values: NDArray[np.float64]
    fresh: NDArray[np.bool_]


@dataclass(frozen=True)
class Window:
    """The readings of one channel between two moments, both included."""

    session: Session
    channel: tables.ReadingChannel
    since: datetime | None
    until: datetime | None

    def series(self, max_points: int | None) -> Series:
        """Return the readings, thinned to about ``max_points`` where that is given."""
        if max_points is None:
            return self._readings(self.since, self.until)
        spans = self._spans()
        # Two points for each span: enough where not much more than that are asked for.
        if spans is not None and 4 * len(spans[0].values) >= max_points:
            return self._of_spans(*spans, max_points)
        return thinned(self._readings(self.since, self.until), max_points)

    def _readings(self, since: datetime | None, until: datetime | None, edge: str = "") -> Series:
        """Return readings themselves; ``edge`` says whether only the first or the last of them."""
        row = tables.ReadingRow
        query = select(self._moment(row.time), row.value, row.fresh).where(row.channel_id == self.channel.id)
        if since is not None:
            query = query.where(row.time >= since)
        if until is not None:
            query = query.where(row.time <= until)
        if edge == "last":
            query = query.order_by(row.time.desc(), row.id.desc()).limit(1)
        else:
            query = query.order_by(row.time, row.id)
            query = query.limit(1) if edge == "first" else query
        return self._made(self.session.execute(query).all())

    def _spans(self) -> tuple[Series, Series] | None:
        """Return the lows and the highs of the spans that lie within; None where they do not tell everything."""
        row = tables.SpanRow
        since, until = self.since or _EVER[0], self.until or _EVER[1]
        query = (
            select(
                self._moment(row.low_time),
                row.low,
                row.fresh,
                self._moment(row.high_time),
                row.high,
                self._moment(row.start),
            )
            .where(row.channel_id == self.channel.id, row.start >= since, row.start <= until - _LENGTH)
            .order_by(row.start)
        )
        rows = self.session.execute(query).all()
        if not rows:
            return None
        begin = _moments([rows[0][5]])[0]
        first = self._readings(self.since, self.until, "first")
        # Readings of the program's first version have no spans.
        if self.since is None and first.times[0] < begin:
            return None
        lows = self._made([(low_time, low, fresh) for low_time, low, fresh, *_ in rows])
        highs = self._made([(high_time, high, fresh) for _, _, fresh, high_time, high, _ in rows])
        return lows, highs

    def _of_spans(self, lows: Series, highs: Series, max_points: int) -> Series:
        stretches = max(1, (max_points - 2) // 2)
        edges = np.linspace(0, len(lows.values), min(stretches, len(lows.values)) + 1).astype(np.int64)
        lowest = [int(begin + lows.values[begin:end].argmin()) for begin, end in pairwise(edges)]
        highest = [int(begin + highs.values[begin:end].argmax()) for begin, end in pairwise(edges)]
        parts = [_chosen(lows, np.array(lowest)), _chosen(highs, np.array(highest)), *self._margins()]
        parts += [self._readings(self.since, self.until, edge) for edge in ("first", "last")]
        times, values, fresh = (
            np.concatenate([getattr(part, name) for part in parts]) for name in ("times", "values", "fresh")
        )
        _, unique = np.unique(np.rec.fromarrays([times.astype(np.int64), values]), return_index=True)
        return Series(self.channel.name, self.channel.unit, times[unique], values[unique], fresh[unique])

    def _margins(self) -> list[Series]:
        """Return the readings between the window's edges and the spans that lie wholly within, thinned."""
        margins = []
        if self.since is not None:
            margins.append(self._readings(self.since, min(self.since + _LENGTH, self.until or _EVER[1])))
        if self.until is not None:
            margins.append(self._readings(max(self.until - _LENGTH, self.since or _EVER[0]), self.until))
        return [thinned(margin, 4) for margin in margins]

    def _made(self, rows: Any) -> Series:
        return Series(
            self.channel.name,
            self.channel.unit,
            _moments([time for time, _, _ in rows]),
            np.array([value for _, value, _ in rows], dtype=np.float64),
            np.array([fresh for _, _, fresh in rows], dtype=np.bool_),
        )

    def _moment(self, column: InstrumentedAttribute[datetime]) -> ColumnElement[Any]:
        """Return a time as the database gives it fastest: SQLite as text, PostgreSQL as microseconds."""
        if self.session.get_bind().dialect.name == "sqlite":
            return type_coerce(column, String)
        return cast(func.extract("epoch", column) * 1_000_000, BigInteger)


def _moments(told: list[str] | list[int]) -> NDArray[np.datetime64]:
    if told and isinstance(told[0], int):
        return np.array(told, dtype=np.int64).astype("datetime64[us]")
    return np.array(told, dtype="datetime64[us]")


def _chosen(series: Series, index: NDArray[np.int64]) -> Series:
    return Series(series.channel, series.unit, series.times[index], series.values[index], series.fresh[index])


def thinned(series: Series, max_points: int) -> Series:
    """Return the first and the last reading, and the lowest and the highest of each of ``max_points``/2 - 1 stretches.

    Fewer than four points have no room for the ends.
    """
    count = len(series.values)
    if count <= max(2, max_points):
        return series
    with_ends = max_points >= 4
    edges = np.linspace(0, count, max(1, max_points // 2 - with_ends) + 1).astype(np.int64)
    keep: set[int] = {0, count - 1} if with_ends else set()
    for begin, end in pairwise(edges):
        part = series.values[begin:end]
        keep.update((int(begin + part.argmin()), int(begin + part.argmax())))
    return _chosen(series, np.array(sorted(keep)))
