"""How a recipe becomes a booking, whoever asks: the command on this computer, or somebody from elsewhere."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from acquisition import triggers
from acquisition.bookings import Booking, Bookings
from acquisition.log import Log
from acquisition.overview import find_run
from acquisition.plan import Plan
from acquisition.recipe import LoadedRecipe
from acquisition.triggers import DEFAULT_MISSED, After, Trigger, parse_at, parse_cron, parse_missed
from drivers.errors import InputError


def trigger_from(at: str | None, cron: str | None, after: str | None, any_end: bool, now: datetime) -> Trigger:
    """Return the trigger that the options name; the run that one names is looked up by :func:`existing`.

    Raises
    ------
    InputError
        For none or more than one, or one that cannot be read.
    """
    if sum(given is not None for given in (at, cron, after)) != 1:
        raise InputError("expected one of --at, --cron and --after", "schedule add")
    if any_end and after is None:
        raise InputError("--any-end goes with --after", "--any-end")
    if at is not None:
        return parse_at(at, now, triggers.local_zone())
    if cron is not None:
        return parse_cron(cron, triggers.local_zone())
    return After(run_id=after, any_end=any_end)


def existing(trigger: Trigger, log: Log) -> Trigger:
    """Return a trigger whose run, or whose booking, there is."""
    if not isinstance(trigger, After) or trigger.run_id is None:
        return trigger
    kind, _, number = trigger.run_id.partition(":")
    if kind != "booking":
        run = find_run(log, trigger.run_id)
        return _possible(After(run_id=run.id, any_end=trigger.any_end), run.id, run.state if run.ended else None)
    if not number.isdigit():
        raise InputError(f"expected a booking's number, such as booking:7; got {trigger.run_id!r}", "--after")
    booking = Bookings(log).get(int(number))
    if booking.repeats:
        raise InputError(f"{booking.title} repeats and never ends; name one of its runs", "--after")
    ended = {"done": "finished", "failed": "failed", "missed": "missed", "removed": "removed"}.get(booking.state)
    return _possible(After(booking=booking.id, any_end=trigger.any_end), booking.title, ended)


def _possible(trigger: After, what: str, ended: str | None) -> After:
    if ended not in (None, "finished") and not trigger.any_end:
        raise InputError(f"{what} has ended {ended} already, not finished; with --any-end it counts", "--after")
    return trigger


def require_quality(live_quality: str | None, heights: bool) -> None:
    """Refuse a quality of live heights that there is not."""
    if live_quality not in (None, "preview", "fast", "auto") or (live_quality is not None and not heights):
        raise InputError(f"expected preview, fast or auto, with heights; got {live_quality!r}", "--live-quality")


def book(
    log: Log,
    loaded: LoadedRecipe,
    plan: Plan,
    instrument: str,
    instrument_text: str | None,
    trigger: Trigger,
    *,
    now: datetime,
    priority: int = 0,
    missed: str | None = None,
    speed: float | None = None,
    heights: bool = True,
    live_quality: str | None = None,
) -> Booking:
    """Enter a booking of a recipe that was checked."""
    require_quality(live_quality, heights)
    return Bookings(log).add(
        recipe_name=Path(loaded.document.name).name,
        recipe_text=loaded.text,
        instrument=instrument,
        instrument_text=instrument_text,
        options={
            "speed": speed,
            "heights": heights,
            "live_quality": live_quality,
            "duration": plan.duration,
            "disk": plan.disk_bytes,
        },
        trigger=existing(trigger, log),
        priority=priority,
        missed=parse_missed(missed or DEFAULT_MISSED),
        now=now,
    )
