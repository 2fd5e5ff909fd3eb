"""What a channel said over time, thinned so that a whole night is drawn in a moment and no peak is lost.

A view of a long run is made of its spans (:mod:`acquisition.spans`), a close look of the readings themselves. Either
way every point is a reading that was taken: the lowest and the highest of each stretch, the first and the last of all.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import BigInteger, ColumnElement, Integer, String, cast, func, select, type_coerce
from sqlalchemy.orm import InstrumentedAttribute, Session

from acquisition import tables
from acquisition.spans import SPAN

PLAIN = 10_000
"""Readings up to which a view is made of themselves."""
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
        spans = None if self._is_short() else self._spans()
        if spans is not None:
            return self._of_spans(*spans, max_points)
        return thinned(self._readings(self.since, self.until), max_points)

    def _is_short(self) -> bool:
        """Return whether the readings themselves are few enough."""
        row = tables.ReadingRow
        query = select(row.id).where(row.channel_id == self.channel.id)
        if self.since is not None:
            query = query.where(row.time >= self.since)
        if self.until is not None:
            query = query.where(row.time <= self.until)
        return self.session.execute(query.order_by(row.time).offset(PLAIN).limit(1)).first() is None

    def _readings(self, since: datetime | None, until: datetime | None, edge: str = "") -> Series:
        """Return readings themselves; ``edge`` says whether only the first or the last of them."""
        row = tables.ReadingRow
        query = select(self._moment(row.time), row.value, _plain(row.fresh)).where(row.channel_id == self.channel.id)
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
                _plain(row.fresh),
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
        lowest, highest = _extremes(lows.values, stretches, False), _extremes(highs.values, stretches, True)
        parts = [_chosen(lows, lowest), _chosen(highs, highest), *self._margins()]
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


def _plain(column: InstrumentedAttribute[bool]) -> ColumnElement[Any]:
    """Return a truth value as the driver gives it."""
    return type_coerce(column, Integer)


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
    stretches = max(1, max_points // 2 - with_ends)
    kept = [_extremes(series.values, stretches, highest) for highest in (False, True)]
    ends = [np.array([0, count - 1])] if with_ends else []
    return _chosen(series, np.unique(np.concatenate([*kept, *ends])))


def _extremes(values: NDArray[np.float64], stretches: int, highest: bool) -> NDArray[np.int64]:
    """Return where the lowest (or highest) value of each of so many stretches of equal length stands."""
    edges = np.linspace(0, len(values), min(stretches, len(values)) + 1).astype(np.int64)
    stretch = np.repeat(np.arange(len(edges) - 1), np.diff(edges))
    order = np.lexsort((-values if highest else values, stretch))
    first: NDArray[np.int64] = order[edges[:-1]]
    return first
