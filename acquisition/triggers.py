"""When a booked recipe starts: at a moment, again and again by a cron expression, or after another run.

Wall time belongs to a zone and is shown with it; what is kept is UTC, or the expression with its zone. A wall time
that a change of the clocks leaves out, or makes come twice, is refused: nobody is there at night to be asked.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any, TypeAlias
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from apscheduler.triggers.cron import CronTrigger

from drivers.errors import InputError, QuantityError
from drivers.units import format_quantity, parse_quantity, si

GRACE = 60.0
"""Seconds by which a start may be late without having been missed."""
DEFAULT_MISSED = "within 1 h"
_TIME = re.compile(r"([01]?\d|2[0-3]):([0-5]\d)")
_MOST_COUNTED = 1000


@dataclass(frozen=True, slots=True)
class At:
    """Once, at a moment (UTC)."""

    moment: datetime
    zone: str

    def to_json(self) -> dict[str, Any]:
        """Return it as the database keeps it."""
        return {"at": self.moment.isoformat(), "zone": self.zone}

    def next(self, after: datetime) -> datetime | None:
        """Return the next start after a moment."""
        return self.moment if self.moment > after else None


@dataclass(frozen=True, slots=True)
class Cron:
    """Again and again: minute, hour, day, month, weekday in a zone's wall time."""

    expression: str
    zone: str

    def to_json(self) -> dict[str, Any]:
        """Return it as the database keeps it."""
        return {"cron": self.expression, "zone": self.zone}

    def rule(self) -> Any:
        """Return APScheduler's trigger."""
        return CronTrigger.from_crontab(self.expression, timezone=zone_of(self.zone))

    def next(self, after: datetime) -> datetime | None:
        """Return the next start after a moment."""
        found: datetime | None = self.rule().get_next_fire_time(None, after + timedelta(microseconds=1))
        return None if found is None else found.astimezone(UTC)


@dataclass(frozen=True, slots=True)
class After:
    """When a run, or the run of another booking, has ended; finished only, unless ``any_end``."""

    run_id: str | None = None
    booking: int | None = None
    any_end: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return it as the database keeps it."""
        return {"after": self.run_id, "booking": self.booking, "any_end": self.any_end}

    def next(self, after: datetime) -> datetime | None:  # noqa: ARG002
        """Return None: nobody knows when a run ends."""
        return None


Trigger: TypeAlias = At | Cron | After


def trigger_of(kept: Mapping[str, Any]) -> Trigger:
    """Return a trigger as the database keeps it."""
    if "at" in kept:
        return At(datetime.fromisoformat(kept["at"]).astimezone(UTC), kept["zone"])
    if "cron" in kept:
        return Cron(kept["cron"], kept["zone"])
    return After(kept["after"], kept["booking"], bool(kept["any_end"]))


def local_zone() -> str:
    """Return the name of this computer's time zone."""
    import tzlocal

    return str(tzlocal.get_localzone_name() or "local")


def zone_of(name: str) -> tzinfo:
    """Return a time zone by its name; this computer's where nobody knows the name."""
    import tzlocal

    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return tzlocal.get_localzone()


def parse_at(text: str, now: datetime, zone: str) -> At:
    """Read a moment: ``now``, ``22:00`` (the next one), or a date with a time, with or without an offset.

    >>> parse_at("22:00", datetime(2026, 1, 1, 21, 30, tzinfo=UTC), "Europe/Rome").moment.isoformat()
    '2026-01-02T21:00:00+00:00'

    Raises
    ------
    InputError
        For what is no moment, has passed, or is left out or comes twice when the clocks change.
    """
    local = zone_of(zone)
    if text.strip() == "now":
        return At(now, zone)
    time = _TIME.fullmatch(text.strip())
    if time is not None:
        today = now.astimezone(local).date()
        hour, minute = int(time.group(1)), int(time.group(2))
        moments = (
            _in_zone(datetime(day.year, day.month, day.day, hour, minute), local, text)  # noqa: DTZ001  its zone follows
            for day in (today + timedelta(days=count) for count in range(2))
        )
        return At(next(moment for moment in moments if moment > now), zone)
    try:
        given = datetime.fromisoformat(text.strip())
    except ValueError:
        raise InputError(
            f"expected now, a time such as 22:00, or a date with a time such as {now:%Y-%m-%d}T22:00; got {text!r}",
            "--at",
        ) from None
    if "T" not in text and " " not in text.strip():
        raise InputError(f"{text} has no time of day; write {text.strip()}T22:00", "--at")
    moment = given.astimezone(UTC) if given.tzinfo is not None else _in_zone(given, local, text)
    if moment <= now:
        raise InputError(f"{wall(moment, zone)} has passed; it is {wall(now, zone)}", "--at")
    return At(moment, zone)


def _in_zone(given: datetime, zone: tzinfo, text: str) -> datetime:
    first, second = (given.replace(tzinfo=zone, fold=fold).astimezone(UTC) for fold in (0, 1))
    back = first.astimezone(zone).replace(tzinfo=None)
    if back != given:
        raise InputError(f"{text}: on {given:%Y-%m-%d} the clocks leave {given:%H:%M} out; choose another time", "--at")
    if first != second:
        raise InputError(
            f"{text}: on {given:%Y-%m-%d} {given:%H:%M} comes twice; write the offset, such as "
            f"{first.astimezone(zone).isoformat(timespec='minutes')}",
            "--at",
        )
    return first


def parse_cron(text: str, zone: str) -> Cron:
    """Read a cron expression: minute, hour, day of the month, month, day of the week.

    >>> parse_cron("0 22 * * mon-fri", "Europe/Rome").next(datetime(2026, 1, 3, tzinfo=UTC)).isoformat()
    '2026-01-05T21:00:00+00:00'

    Raises
    ------
    InputError
        For what is none, never comes, or numbers the days of the week: programs differ in which of them is 0.
    """
    fields = text.split()
    example = "such as '0 22 * * mon-fri': minute, hour, day, month, weekday"
    if len(fields) != 5:
        raise InputError(f"expected five fields, {example}; got {text!r}", "--cron")
    if re.search(r"\d", fields[4].partition("/")[0]):
        raise InputError(f"{fields[4]}: write the days of the week by name, such as mon-fri", "--cron")
    cron = Cron(" ".join(fields), zone)
    try:
        upcoming = cron.next(datetime.now(UTC))
    except ValueError as error:
        raise InputError(f"{text!r} cannot be read ({error}); expected five fields, {example}", "--cron") from None
    if upcoming is None:
        raise InputError(f"{text!r} never comes; expected five fields, {example}", "--cron")
    return cron


def parse_missed(text: str) -> str:
    """Read what is to be done with a start that was missed: ``run``, ``skip``, or ``within 2 h``.

    Raises
    ------
    InputError
        For anything else.
    """
    words = " ".join(text.split())
    if words in ("run", "skip"):
        return words
    kind, _, time = words.partition(" ")
    try:
        if kind == "within" and si(allowed := parse_quantity(time, "second")) > 0:
            return f"within {format_quantity(allowed)}"
    except QuantityError as error:
        raise InputError(f"within {error.message}", "--missed") from None
    raise InputError(f"expected run, skip, or within and a time, such as 'within 2 h'; got {text!r}", "--missed")


def lateness(missed: str) -> float:
    """Return how many seconds late a start may be and still be made.

    >>> lateness("run"), lateness("skip"), lateness("within 2 h")
    (inf, 60.0, 7200.0)
    """
    if missed == "run":
        return float("inf")
    return GRACE if missed == "skip" else max(GRACE, si(parse_quantity(missed.removeprefix("within "), "second")))


def starts_between(trigger: Trigger, first: datetime, last: datetime) -> int:
    """Return how many starts there were from one to another, both counted."""
    count, moment = 1, first
    while count < _MOST_COUNTED and (following := trigger.next(moment)) is not None and following <= last:
        count, moment = count + 1, following
    return count


def wall(moment: datetime, zone: str) -> str:
    """Return a moment as the clock on the wall shows it, with the zone.

    >>> wall(datetime(2026, 1, 1, 21, tzinfo=UTC), "Europe/Rome")
    'Thu 2026-01-01 22:00 CET'
    """
    return f"{moment.astimezone(zone_of(zone)):%a %Y-%m-%d %H:%M %Z}"


def in_words(trigger: Trigger) -> str:
    """Return when a trigger starts, in words."""
    match trigger:
        case At():
            return f"at {wall(trigger.moment, trigger.zone)}"
        case Cron():
            return f"cron {trigger.expression} ({trigger.zone})"
        case After():
            what = trigger.run_id or f"booking {trigger.booking}"
            return f"after {what}, {'however it ends' if trigger.any_end else 'when it has finished'}"
