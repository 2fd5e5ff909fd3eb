"""What the calendar, the server and the alerts look like in the terminal."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.text import Text
from sqlalchemy import func, select

from acquisition.tables import EventRow
from acquisition.terminal import console, table, time_text
from acquisition.triggers import After, At, Cron, in_words, local_zone, wall
from acquisition.wording import duration_text
from drivers.errors import RilievoError

if TYPE_CHECKING:
    from acquisition.bookings import Booking
    from acquisition.log import Log
    from acquisition.outbox import Alert
    from acquisition.ownership import Holder
    from acquisition.records import Event

_STYLES = {
    "waiting": "",
    "queued": "cyan",
    "running": "cyan",
    "done": "green",
    "sent": "green",
    "failed": "red",
    "missed": "magenta",
    "removed": "dim",
}
_LEVELS = {"info": "dim", "warning": "yellow", "error": "bold red"}


def _state(state: str) -> Text:
    return Text(state, style=_STYLES.get(state, ""))


def alert_json(alert: Alert) -> dict[str, Any]:
    """Return an alert as JSON data."""
    return {
        "id": alert.id,
        "way": alert.way,
        "state": alert.state,
        "kind": alert.kind,
        "level": alert.level,
        "title": alert.title,
        "text": alert.text,
        "time": alert.time.isoformat(),
        "run": alert.run_id,
        "attempts": alert.attempts,
        "due": alert.due.isoformat() if alert.state == "waiting" else None,
        "sent": None if alert.sent is None else alert.sent.isoformat(),
        "error": alert.error,
    }


def start_text(booking: Booking, zone: str) -> str:
    """Return when a booking starts, in the wall time of who looks."""
    if booking.due is None:
        return in_words(booking.trigger).replace(", ", "\n", 1)
    repeats = f"\n{booking.trigger.expression}" if isinstance(booking.trigger, Cron) else ""
    return f"{wall(booking.due, zone)}{repeats}"


def show_bookings(bookings: Sequence[Booking]) -> None:
    """Print bookings as a table."""
    out = console()
    zone = local_zone()
    priorities = any(booking.priority for booking in bookings)
    rows = []
    for booking in bookings:
        duration = booking.options.get("duration")
        cells: list[object] = [
            booking.id,
            Text(start_text(booking, zone)),
            _state(booking.state),
            "" if duration is None else duration_text(float(duration)),
            Text.assemble((booking.recipe_name, "bold"), (f"\n{_details(booking)}", "dim")),
        ]
        rows.append([*cells[:4], booking.priority, cells[4]] if priorities else cells)
    columns = ["id", "starts", "state", "lasts", *(["priority"] if priorities else []), "recipe"]
    made = table(columns, rows, right=("id", "lasts", "priority"))
    for column in made.columns[:-1]:
        column.no_wrap = True
    out.print(made)


def _details(booking: Booking) -> str:
    """Return what else there is to say, in a line."""
    missed = "" if isinstance(booking.trigger, After) else f"if missed: {booking.missed}"
    told = booking.reason or (f"run {booking.run_id}" if booking.run_id else "")
    return "; ".join(part for part in (f"on {booking.instrument}", missed, told) if part)


def show_booked(booking: Booking, what: str) -> None:
    """Print what was done with one booking."""
    out = console()
    when = in_words(booking.trigger)
    if isinstance(booking.trigger, Cron) and booking.due is not None:
        when = f"{when}, first at {wall(booking.due, booking.trigger.zone)}"
    style = "green" if what == "booked" else "yellow"
    name = Text.assemble(
        (what, style), f"  {booking.id}  ", (booking.recipe_name, "bold"), f"  on {booking.instrument}"
    )
    out.print(name, soft_wrap=True)
    if what == "booked":
        missed = "" if not isinstance(booking.trigger, At | Cron) else f"; a missed start: {booking.missed}"
        out.print(Text(f"{when}{missed}", style="dim"), soft_wrap=True)


def show_server(found: Holder | None) -> None:
    """Print who plays what is booked."""
    if found is None:
        told = Text("no server runs here: what is booked is played while rilievo serve does", style="yellow")
    else:
        told = Text(f"played by {found}", style="dim")
    console().print(told, soft_wrap=True)


def show_alerts(alerts: Sequence[Alert]) -> None:
    """Print alerts as a table."""
    out = console()
    rows = [
        (
            time_text(alert.time),
            alert.way,
            _state(alert.state),
            alert.attempts or "",
            alert.title,
            Text(_fate(alert), style="red" if alert.state == "failed" else "dim"),
        )
        for alert in alerts
    ]
    out.print(table(("time (UTC)", "way", "state", "tries", "alert", ""), rows, right=("tries",)))


def _fate(alert: Alert) -> str:
    if alert.state == "waiting":
        again = f"next at {alert.due:%H:%M:%S} UTC"
        return f"{alert.error}; {again}" if alert.error else again
    return alert.error or ""


def show_tested(alerts: Sequence[Alert]) -> None:
    """Print what became of a test on each way."""
    rows = [
        (
            Text(alert.way, style="bold"),
            Text("delivered", style="green") if alert.state == "sent" else Text("not delivered", style="red"),
            alert.error or ("" if alert.state == "sent" else "no answer yet"),
        )
        for alert in alerts
    ]
    console().print(table(("way", "", ""), rows))


class EventLines:
    """Prints events as they come, a line each; JSON lines where a program reads them.

    Parameters
    ----------
    log : Log
    as_json : bool
    """

    def __init__(self, log: Log, *, as_json: bool) -> None:
        self._log = log
        self._as_json = as_json
        self._last = 0
        with suppress(RilievoError), log.query() as session:
            self._last = session.scalar(select(func.max(EventRow.number))) or 0

    def print_new(self) -> None:
        """Print what came since the last call; a database that does not answer is asked again by the next."""
        with suppress(RilievoError):
            for event in self._log.events(None, self._last):
                self._last = event.number
                with suppress(BrokenPipeError):
                    print_event(event, as_json=self._as_json)


def print_event(event: Event, *, as_json: bool) -> None:
    """Print an event: a line for people, or a line of JSON."""
    if as_json:
        body = {
            "number": event.number,
            "time": event.time.isoformat(),
            "level": event.level,
            "kind": event.kind,
            "message": event.message,
            "run": event.run_id,
        }
        sys.stdout.write(json.dumps(body, ensure_ascii=False) + "\n")
        sys.stdout.flush()
        return
    run = f"  {event.run_id}" if event.run_id else ""
    line = Text.assemble(
        (time_text(event.time), "dim"),
        (f"  {event.kind:<9}", _LEVELS.get(event.level, "")),
        f" {event.message}",
        (run, "dim"),
    )
    console().print(line, soft_wrap=True)


def show_served(folder: Path, bookings: Sequence[Booking], alerts: Sequence[str] | None, now: datetime) -> None:
    """Print what a server that starts has to look after."""
    out = console()
    out.print(
        Text.assemble(("rilievo serve", "bold"), f"  {folder}  ", (wall(now, local_zone()), "dim")), soft_wrap=True
    )
    told = "nobody: there is no alerts.yaml" if alerts is None else ", ".join(alerts) or "nobody: it names no ways"
    out.print(Text(f"alerts go to {told}", style="yellow" if not alerts else "dim"), soft_wrap=True)
    if bookings:
        show_bookings(bookings)
    else:
        out.print(Text("nothing is booked: rilievo schedule add RECIPE --at 22:00", style="dim"))


def show_listening(host: str, port: int, *, certificates: bool) -> None:
    """Print where a server is reached, and by whom."""
    whom = "people with a certificate" if certificates else "this computer's user alone"
    console().print(Text(f"rilievo remote reaches it at {host}:{port}: {whom}", style="dim"), soft_wrap=True)


def show_page(url: str, folder: Path) -> None:
    """Print where the page is, and where the tokens stand that open it."""
    from acquisition.page.tokens import FOLDER

    out = console()
    out.print(Text.assemble(("the page is at ", "dim"), (url, "bold")), soft_wrap=True)
    out.print(
        Text(f"its tokens stand in {folder / FOLDER}: observer.token, operator.token", style="dim"), soft_wrap=True
    )
