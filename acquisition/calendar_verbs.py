"""The verbs ``rilievo schedule add``, ``list``, ``remove`` and ``rilievo serve``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from acquisition.stopping import stop_requests
from acquisition.verbs import Data, Database, InstrumentPath, Json
from drivers.errors import InputError

if TYPE_CHECKING:
    from acquisition.app import Laboratory
    from acquisition.idle import IdleWatch
    from acquisition.serve import Server
    from acquisition.triggers import After, Trigger
    from drivers.contract import Instrument

schedule_app = typer.Typer(help="Book recipes; rilievo serve plays them.", no_args_is_help=True, rich_markup_mode=None)


@schedule_app.command()
def add(
    recipe: Annotated[Path, typer.Argument(help="YAML file of the recipe.")],
    at: Annotated[str | None, typer.Option("--at", help="now, 22:00, or 2026-01-01T22:00+01:00.")] = None,
    cron: Annotated[str | None, typer.Option("--cron", help="Again and again, such as '0 22 * * mon-fri'.")] = None,
    after: Annotated[
        str | None, typer.Option("--after", help="When a run has finished: its id, last, or booking:7.")
    ] = None,
    any_end: Annotated[bool, typer.Option("--any-end", help="With --after: however it ended.")] = False,
    priority: Annotated[int, typer.Option("--priority", help="Higher goes first where several wait.")] = 0,
    missed: Annotated[
        str | None, typer.Option("--missed", help="A start that nobody was there for: run, skip, or 'within 2 h'.")
    ] = None,
    instrument: InstrumentPath = None,
    speed: Annotated[
        float | None, typer.Option("--speed", help="Virtual seconds per second of a simulated instrument.")
    ] = None,
    heights: Annotated[bool, typer.Option("--heights/--no-heights", help="Make heights while it runs.")] = True,
    live_quality: Annotated[str | None, typer.Option("--live-quality", help="preview, fast or auto.")] = None,
    data: Data = None,
    db: Database = None,
    as_json: Json = False,
) -> None:
    """Book a recipe. It is checked now, and again when it starts."""
    from acquisition import app as wiring
    from acquisition import board, terminal
    from acquisition.bookings import Bookings
    from acquisition.ownership import holder
    from acquisition.plan import check_file
    from acquisition.serve import OWNED
    from acquisition.triggers import DEFAULT_MISSED, parse_missed
    from drivers.clock import RealClock

    if live_quality not in (None, "preview", "fast", "auto") or (live_quality is not None and not heights):
        raise InputError(f"expected preview, fast or auto, with heights; got {live_quality!r}", "--live-quality")
    now = RealClock().now()
    trigger = _trigger(at, cron, after, any_end)
    policy = parse_missed(missed or DEFAULT_MISSED)
    with wiring.open_instrument(instrument, speed) as found:
        loaded, plan = check_file(recipe, found)
        name = found.name
    options = {
        "speed": speed,
        "heights": heights,
        "live_quality": live_quality,
        "duration": plan.duration,
        "disk": plan.disk_bytes,
    }
    with wiring.open_laboratory(data, db) as laboratory:
        booking = Bookings(laboratory.log).add(
            recipe_name=Path(loaded.document.name).name,
            recipe_text=loaded.text,
            instrument=name,
            instrument_text=None if instrument is None else instrument.read_text(encoding="utf-8-sig"),
            options=options,
            trigger=_found(trigger, laboratory),
            priority=priority,
            missed=policy,
            now=now,
        )
        server = holder(laboratory.folder, OWNED)
    if as_json:
        terminal.emit_json(booking.to_json())
        return
    board.show_booked(booking, "booked")
    if server is None:
        board.show_server(None)


def _trigger(at: str | None, cron: str | None, after: str | None, any_end: bool) -> Trigger:
    """Return the trigger that the options name; the run that one names is looked up later."""
    from acquisition.triggers import After, local_zone, parse_at, parse_cron
    from drivers.clock import RealClock

    if sum(given is not None for given in (at, cron, after)) != 1:
        raise InputError("expected one of --at, --cron and --after", "schedule add")
    if any_end and after is None:
        raise InputError("--any-end goes with --after", "--any-end")
    if at is not None:
        return parse_at(at, RealClock().now(), local_zone())
    if cron is not None:
        return parse_cron(cron, local_zone())
    return After(run_id=after, any_end=any_end)


def _found(trigger: Trigger, laboratory: Laboratory) -> Trigger:
    """Return a trigger whose run, or whose booking, there is."""
    from acquisition.bookings import Bookings
    from acquisition.overview import find_run
    from acquisition.triggers import After

    if not isinstance(trigger, After) or trigger.run_id is None:
        return trigger
    kind, _, number = trigger.run_id.partition(":")
    if kind != "booking":
        run = find_run(laboratory.log, trigger.run_id)
        return _possible(After(run_id=run.id, any_end=trigger.any_end), run.id, run.state if run.ended else None)
    if not number.isdigit():
        raise InputError(f"expected a booking's number, such as booking:7; got {trigger.run_id!r}", "--after")
    booking = Bookings(laboratory.log).get(int(number))
    if booking.repeats:
        raise InputError(f"{booking.title} repeats and never ends; name one of its runs", "--after")
    ended = {"done": "finished", "failed": "failed", "missed": "missed", "removed": "removed"}.get(booking.state)
    return _possible(After(booking=booking.id, any_end=trigger.any_end), booking.title, ended)


def _possible(trigger: After, what: str, ended: str | None) -> After:
    if ended not in (None, "finished") and not trigger.any_end:
        raise InputError(f"{what} has ended {ended} already, not finished; with --any-end it counts", "--after")
    return trigger


@schedule_app.command("list")
def list_(
    every: Annotated[bool, typer.Option("--all", help="Also what was played, missed or removed.")] = False,
    data: Data = None,
    db: Database = None,
    as_json: Json = False,
) -> None:
    """List what is booked; the next start first, in this computer's wall time."""
    from acquisition import board, terminal
    from acquisition.app import open_laboratory
    from acquisition.bookings import OPEN, Bookings
    from acquisition.ownership import holder
    from acquisition.serve import OWNED
    from acquisition.tables import BOOKING_STATES

    with open_laboratory(data, db, create=False) as laboratory:
        found = Bookings(laboratory.log).all(BOOKING_STATES if every else OPEN)
        server = holder(laboratory.folder, OWNED)
    if as_json:
        terminal.emit_json([booking.to_json() for booking in found])
        return
    if found:
        board.show_bookings(found)
    else:
        terminal.console().print("nothing is booked; rilievo schedule add RECIPE --at 22:00 does it", soft_wrap=True)
    board.show_server(server)


@schedule_app.command()
def remove(
    booking: Annotated[int, typer.Argument(help="Number of the booking.")],
    data: Data = None,
    db: Database = None,
    as_json: Json = False,
) -> None:
    """Take a booking out of the calendar; the run of one that repeats is played to its end."""
    from acquisition import board, terminal
    from acquisition.app import open_laboratory
    from acquisition.bookings import Bookings

    with open_laboratory(data, db, create=False) as laboratory:
        removed = Bookings(laboratory.log).remove(booking)
    if as_json:
        terminal.emit_json(removed.to_json())
    else:
        board.show_booked(removed, "removed")


def serve(
    stop_run: Annotated[
        bool,
        typer.Option(
            "--stop-run", help="When asked to end, end the run that is being played, too, through its cleanup."
        ),
    ] = False,
    watch: Annotated[
        Path | None, typer.Option("--watch", help="Instrument whose readbacks are logged between runs.")
    ] = None,
    period: Annotated[str, typer.Option("--period", help="Between two samples of --watch.")] = "10 s",
    backup_every: Annotated[str, typer.Option("--backup-every", help="Copies of the database.")] = "24 h",
    keep_backups: Annotated[int, typer.Option("--keep-backups", min=1, help="How many copies.")] = 7,
    reserve: Annotated[str, typer.Option("--reserve", help="Room that is to stay free on the disk.")] = "2 GB",
    data: Data = None,
    db: Database = None,
    as_json: Json = False,
) -> None:
    """Play what is booked, one run at a time on each instrument, until asked to end.

    The first Ctrl-C, or request to end the process, starts nothing more and waits for what is being played; a second
    one ends that, too, through its cleanup. With --json, events are told as JSON, a line each.
    """
    from acquisition import board
    from acquisition.alerts import Alerts
    from acquisition.app import open_laboratory
    from acquisition.playing import interrupted_runs, play_booking
    from acquisition.serve import Server, ServerSettings
    from drivers.clock import RealClock

    settings = ServerSettings(
        backup_every=_positive(backup_every, "second", "--backup-every"),
        keep_backups=keep_backups,
        reserve=_positive(reserve, "byte", "--reserve"),
    )
    seconds = _positive(period, "second", "--period")
    with open_laboratory(data, db) as laboratory:
        alerts = Alerts.of(laboratory.folder, laboratory.log)
        server = Server(
            laboratory.folder,
            laboratory.log,
            partial(play_booking, laboratory),
            resume=partial(interrupted_runs, laboratory),
            alerts=alerts,
            idle=None if watch is None else _idle_watch(watch, laboratory, seconds),
            settings=settings,
        )
        lines = board.EventLines(laboratory.log, as_json=as_json)
        ways = None if alerts is None else list(alerts.settings.ways)
        server.start()
        if not as_json:
            board.show_served(laboratory.folder, server.bookings(), ways, RealClock().now())
        _serve_until_asked(server, lines, stop_run)


def _serve_until_asked(server: Server, lines: Any, stop_run: bool) -> None:
    try:
        with stop_requests(second_breaks=True) as asked:

            def look_and_ask() -> str | None:
                lines.print_new()
                return asked()

            server.run(look_and_ask, stop_runs=stop_run)
    except KeyboardInterrupt:
        server.stop_runs("asked to end a second time")
    finally:
        with stop_requests():  # the cleanup cannot be interrupted
            server.close()
            lines.print_new()


def _positive(text: str, unit: str, option: str) -> float:
    from drivers.errors import QuantityError
    from drivers.units import parse_quantity

    try:
        value = float(parse_quantity(text, unit).to(unit).magnitude)
    except QuantityError as error:
        raise InputError(error.message, option) from None
    if not value > 0:
        raise InputError(f"expected more than 0; got {text}", option)
    return value


def _idle_watch(path: Path, laboratory: Laboratory, period: float) -> IdleWatch:
    """Return the watch of an instrument; a simulated one keeps real time, or it would race through its nights."""
    from acquisition import app as wiring
    from acquisition.idle import IdleWatch
    from drivers.clock import RealClock

    with wiring.open_instrument(path) as found:
        name, pace = found.name, 1.0 if found.clock.virtual else None

    def opened() -> AbstractContextManager[Instrument]:
        return _opened(path, pace)

    return IdleWatch(name, opened, laboratory.log, RealClock(), period)


@contextmanager
def _opened(path: Path, pace: float | None) -> Iterator[Instrument]:
    from acquisition.app import open_instrument

    with open_instrument(path, pace) as instrument:
        yield instrument
