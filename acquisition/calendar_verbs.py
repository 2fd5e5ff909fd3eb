"""The verbs ``rilievo schedule add``, ``list``, ``remove`` and ``rilievo serve``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from acquisition.stopping import stop_requests
from acquisition.verbs import Data, Database, InstrumentPath, Json
from drivers.errors import InputError

if TYPE_CHECKING:
    from acquisition.app import Laboratory
    from acquisition.dashboard import Dashboard
    from acquisition.desk import Desk
    from acquisition.gate import Gate
    from acquisition.idle import IdleWatch
    from acquisition.serve import Server
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
    from acquisition.booking import book, require_quality, trigger_from
    from acquisition.ownership import holder
    from acquisition.plan import check_file
    from acquisition.serve import OWNED
    from acquisition.triggers import DEFAULT_MISSED, parse_missed
    from drivers.clock import RealClock

    require_quality(live_quality, heights)
    now = RealClock().now()
    trigger = trigger_from(at, cron, after, any_end, now)
    parse_missed(missed or DEFAULT_MISSED)
    with wiring.open_instrument(instrument, speed) as found:
        loaded, plan = check_file(recipe, found)
        name = found.name
    with wiring.open_laboratory(data, db) as laboratory:
        booking = book(
            laboratory.log,
            loaded,
            plan,
            name,
            None if instrument is None else instrument.read_text(encoding="utf-8-sig"),
            trigger,
            now=now,
            priority=priority,
            missed=missed,
            speed=speed,
            heights=heights,
            live_quality=live_quality,
        )
        server = holder(laboratory.folder, OWNED)
    if as_json:
        terminal.emit_json(booking.to_json())
        return
    board.show_booked(booking, "booked")
    if server is None:
        board.show_server(None)


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
    host: Annotated[
        str, typer.Option("--host", help="Address to be reached at; any but loopback asks for certificates.")
    ] = "127.0.0.1",
    port: Annotated[
        int | None, typer.Option("--port", help="Where to listen: 7487 unless another is named; 0 takes a free one.")
    ] = None,
    tls: Annotated[bool, typer.Option("--tls", help="Ask for certificates on loopback, too.")] = False,
    instrument: Annotated[
        list[Path] | None, typer.Option("--instrument", help="Instrument that may be named from elsewhere; repeat it.")
    ] = None,
    dashboard: Annotated[
        bool, typer.Option("--dashboard", help="Serve the page to watch the night, too, at --host.")
    ] = False,
    dashboard_port: Annotated[
        int | None, typer.Option("--dashboard-port", help="Of the page: 8642 unless another is named; 0: a free one.")
    ] = None,
    init_tls: Annotated[
        bool, typer.Option("--init-tls", help="Make the authority, or a new certificate for --host, and end.")
    ] = False,
    issue: Annotated[str | None, typer.Option("--issue", help="Make a certificate for somebody, and end.")] = None,
    role: Annotated[
        str, typer.Option("--role", help="With --issue: observer, operator or administrator.")
    ] = "observer",
    renew: Annotated[str | None, typer.Option("--renew", help="Make somebody's certificate anew, and end.")] = None,
    revoke: Annotated[
        str | None, typer.Option("--revoke", help="Let no certificate of somebody count, and end.")
    ] = None,
    data: Data = None,
    db: Database = None,
    as_json: Json = False,
) -> None:
    """Play what is booked, one run at a time on each instrument, until asked to end.

    The first Ctrl-C, or request to end the process, starts nothing more and waits for what is being played; a second
    one ends that, too, through its cleanup. With --json, events are told as JSON, a line each.

    The server is reached with rilievo remote: on this computer by its user, on others by people with a certificate.
    """
    from acquisition import board
    from acquisition.alerts import Alerts
    from acquisition.app import open_laboratory
    from acquisition.certificate_verbs import Wanted, look_after_certificates
    from acquisition.playing import interrupted_runs, play_booking
    from acquisition.serve import Server, ServerSettings
    from drivers.clock import RealClock

    if look_after_certificates(Wanted(init_tls, host, issue, role, renew, revoke), data, as_json=as_json):
        return
    settings = ServerSettings(
        backup_every=_positive(backup_every, "second", "--backup-every"),
        keep_backups=keep_backups,
        reserve=_positive(reserve, "byte", "--reserve"),
    )
    seconds = _positive(period, "second", "--period")
    with open_laboratory(data, db) as laboratory:
        # What was interrupted is taken up again, whatever has become of the settings; else they are refused.
        alerts = Alerts.of(laboratory.folder, laboratory.log, forgiving=bool(interrupted_runs(laboratory)))
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
        desk = _desk(laboratory, server, [*([watch] if watch else []), *(instrument or []), None])
        with ExitStack() as stack:
            stack.callback(_quietly, server.close)
            server.start()
            stack.callback(_quietly, desk.close)
            desk.start()
            gate = _gate(desk, host, port, tls=tls)
            stack.callback(_quietly, gate.close)
            stack.callback(_quietly, desk.close)  # before the gate, so that nobody waits for events
            gate.start()
            page = _page(desk, host, dashboard_port) if dashboard or dashboard_port is not None else None
            if page is not None:
                stack.callback(_quietly, page.close)
                page.start()
            if not as_json:
                board.show_served(laboratory.folder, server.bookings(), ways, RealClock().now())
                board.show_listening(gate.host, gate.port, certificates=gate.certificates)
                if page is not None:
                    board.show_page(page.url, laboratory.folder)
            _serve_until_asked(server, lines, stop_run)


def _desk(laboratory: Laboratory, server: Server, files: list[Path | None]) -> Desk:
    """Return what may be asked of the server; the first instrument is meant where none is named."""
    from acquisition.app import open_instrument
    from acquisition.desk import Desk
    from acquisition.instruments import Instruments

    return Desk(laboratory, server, Instruments(open_instrument, files))


def _gate(desk: Desk, host: str, port: int | None, *, tls: bool) -> Gate:
    """Return where the server is reached; on loopback, whose clients are told the port, another one does as well."""
    from acquisition.authority import Authority
    from acquisition.gate import PORT, Gate, is_free, is_loopback

    authority = Authority(desk.laboratory.folder)
    asked = tls or (authority.exists and not is_loopback(host))
    if port is None:
        port = PORT if asked or is_free(host, PORT) else 0
    return Gate(desk, host, port, authority=authority if asked else None)


def _page(desk: Desk, host: str, port: int | None) -> Dashboard:
    """Return the page to watch the night, ready to start."""
    from acquisition.page.opening import open_dashboard

    return open_dashboard(desk, host, port)


def _quietly(close: Callable[[], None]) -> None:
    """End something; the cleanup cannot be interrupted."""
    with stop_requests():
        close()


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

    return IdleWatch(name, opened, laboratory.log, laboratory.store.root, RealClock(), period)


@contextmanager
def _opened(path: Path, pace: float | None) -> Iterator[Instrument]:
    from acquisition.app import open_instrument

    with open_instrument(path, pace) as instrument:
        yield instrument
