"""The outbox: alerts that are to be told, in a table, so that a kill between asking and sending loses none.

An attempt is noted before it is made: alerts that were tried together are tried again together, with the same key.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import func, insert, select, update

from acquisition import tables
from acquisition.log import Log
from acquisition.message import Message
from acquisition.records import Event

WINDOW = timedelta(hours=1)
"""Over which messages are counted against a way's limit."""
MOST_SUMMED_UP = 200
"""Alerts that one message tells."""


@dataclass(frozen=True, slots=True)
class Alert:
    """Something that somebody is to be told on one way.

    Attributes
    ----------
    way : str
        Its name in the settings.
    state : str
        waiting, sent or failed (given up).
    attempts : int
        Begun; an attempt that the program did not survive counts.
    time : datetime
        UTC, when it happened, on the run's own clock; ``due`` and ``sent`` are on the computer's.
    error : str or None
        Why it waits, was given up, or what a person should know although it was sent.
    event : int or None
        Number of the event that it tells.
    """

    id: int
    run_id: str | None
    time: datetime
    level: str
    kind: str
    title: str
    text: str
    way: str
    event: int | None
    key: str
    state: str
    attempts: int
    due: datetime
    sent: datetime | None
    error: str | None


def summed_up(alerts: Sequence[Alert]) -> Message:
    """Return one message that tells several alerts of a kind; a single one as it stands."""
    first = alerts[0]
    if len(alerts) == 1:
        return Message(first.key, first.kind, first.level, first.title, first.text, first.time, first.run_id)
    key = hashlib.sha256(" ".join(alert.key for alert in alerts).encode()).hexdigest()[:32]
    runs = {alert.run_id for alert in alerts}
    levels = [level for level in ("error", "warning") if any(alert.level == level for alert in alerts)]
    return Message(
        key,
        first.kind,
        levels[0] if levels else first.level,
        f"{len(alerts)} alerts: {first.title}, and more",
        "\n\n".join(f"{alert.title}\n{alert.text}" for alert in alerts),
        first.time,
        first.run_id if len(runs) == 1 else None,
        len(alerts),
    )


class Outbox:
    """The table of alerts.

    Parameters
    ----------
    log : Log
    """

    def __init__(self, log: Log) -> None:
        self._log = log

    def put(
        self,
        ways: Iterable[str],
        now: datetime,
        *,
        kind: str,
        level: str,
        title: str,
        text: str,
        time: datetime | None = None,
        run_id: str | None = None,
        event: int | None = None,
    ) -> list[int]:
        """Ask for an alert on each of some ways; return the keys of the rows. No way tells an event twice."""
        row = tables.AlertRow
        entry = {
            "run_id": run_id,
            "time": time or now,
            "level": level,
            "kind": kind,
            "title": title,
            "text": text,
            "event_number": event,
            "state": "waiting",
            "attempts": 0,
            "due": now,
        }
        made: list[int] = []
        with self._log.transaction() as session:
            known = set(session.scalars(select(row.channel).where(row.event_number == event))) if event else set()
            for way in ways:
                if way not in known:
                    values = {**entry, "channel": way, "key": uuid.uuid4().hex}
                    made.append(session.execute(insert(row).values(values).returning(row.id)).scalar_one())
        return made

    def due(self, way: str, now: datetime, limit: int) -> list[Alert]:
        """Return what is to be told next on a way, all in one message; empty where nothing is.

        Where a kind has had its messages within the last hour, its alerts are put off until it may have another, which
        then tells all of them.
        """
        held: set[str] = set()
        while True:
            waiting = self._waiting(way, now, held)
            if not waiting:
                return []
            first = waiting[0]
            group = [alert for alert in waiting if alert.kind == first.kind and _together(alert, first)]
            free = now if first.kind == "test" or first.attempts else self._free(way, first.kind, now, limit)
            if free <= now:
                return group
            told = f"held back: {limit} {'messages' if limit > 1 else 'message'} of this kind within an hour"
            self._change([alert.id for alert in group], {"due": free, "error": told})
            held.add(first.kind)

    def _waiting(self, way: str, now: datetime, held: Collection[str]) -> list[Alert]:
        row = tables.AlertRow
        query = select(row).where(row.state == "waiting", row.channel == way, row.due <= now)
        with self._log.query() as session:
            rows = session.scalars(query.where(row.kind.not_in(held)).order_by(row.id).limit(MOST_SUMMED_UP))
            return [_alert(found) for found in rows]

    def _free(self, way: str, kind: str, now: datetime, limit: int) -> datetime:
        """Return from when on a way takes another message of a kind. Alerts that were sent together count as one."""
        row = tables.AlertRow
        query = select(row.sent).where(row.channel == way, row.kind == kind, row.sent > now - WINDOW).distinct()
        with self._log.query() as session:
            times = sorted(time for time in session.scalars(query) if time is not None)
        return times[-limit] + WINDOW if len(times) >= limit else now

    def trying(self, alerts: Sequence[Alert], again: datetime) -> None:
        """Note an attempt that is about to be made; should nothing be noted after it, it is made ``again``."""
        self._change([alert.id for alert in alerts], {"attempts": alerts[0].attempts + 1, "due": again})

    def sent(self, ids: Collection[int], now: datetime, note: str | None = None) -> None:
        """Note a delivery."""
        self._change(ids, {"state": "sent", "sent": now, "error": note})

    def not_sent(self, ids: Collection[int], error: str, again: datetime | None) -> None:
        """Note why a delivery failed; it is tried ``again`` then, or given up for None."""
        later: dict[str, Any] = {"state": "failed"} if again is None else {"due": again}
        self._change(ids, {"error": error, **later})

    def _change(self, ids: Collection[int], values: Mapping[str, Any]) -> None:
        with self._log.transaction() as session:
            session.execute(update(tables.AlertRow).where(tables.AlertRow.id.in_(ids)).values(**values))

    def alerts(self, states: Collection[str] = tables.ALERT_STATES, run_id: str | None = None) -> list[Alert]:
        """Return alerts in some states, of one run where it is named, oldest first."""
        row = tables.AlertRow
        query = select(row).where(row.state.in_(states)).order_by(row.id)
        with self._log.query() as session:
            return [
                _alert(found)
                for found in session.scalars(query if run_id is None else query.where(row.run_id == run_id))
            ]

    def pick(self, ids: Collection[int]) -> list[Alert]:
        """Return the alerts of some keys."""
        row = tables.AlertRow
        with self._log.query() as session:
            return [_alert(found) for found in session.scalars(select(row).where(row.id.in_(ids)).order_by(row.id))]

    def followed(self, beginning: str) -> int | None:
        """Return the number of the last event that is certain to have been looked at; None before the first start.

        ``beginning`` is the kind of the event that every start enters: nothing before the first of them is told.
        """
        with self._log.query() as session:
            started = session.scalar(select(func.min(tables.EventRow.number)).where(tables.EventRow.kind == beginning))
            told = session.scalar(select(func.max(tables.AlertRow.event_number)))
        return None if started is None else max(started, told or 0)

    def news(self, after: int, kinds: Collection[str], most: int = 500) -> tuple[list[Event], int]:
        """Return events after a number that may be worth an alert, and up to which number that is all of them."""
        row = tables.EventRow
        with self._log.query() as session:
            last = session.scalar(select(func.max(row.number))) or after
            query = select(row).where(row.number > after, row.number <= last)
            query = (
                query.where(row.level.in_(("warning", "error")) | row.kind.in_(kinds)).order_by(row.number).limit(most)
            )
            found = [
                Event(event.number, event.run_id, event.time, event.level, event.kind, event.message, event.data)
                for event in session.scalars(query)
            ]
        return found, found[-1].number if len(found) == most else max(last, after)


def _together(one: Alert, other: Alert) -> bool:
    """Return whether two alerts go into one message: both new, or tried together before."""
    if other.attempts == 0:
        return one.attempts == 0
    return (one.attempts, one.due) == (other.attempts, other.due)


def _alert(row: tables.AlertRow) -> Alert:
    return Alert(
        row.id,
        row.run_id,
        row.time,
        row.level,
        row.kind,
        row.title,
        row.text,
        row.channel,
        row.event_number,
        row.key,
        row.state,
        row.attempts,
        row.due,
        row.sent,
        row.error,
    )
