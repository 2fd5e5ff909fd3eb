"""The verbs ``rilievo remote …``: the microscope of a server, on this computer or another one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from acquisition.stopping import stop_requests
from acquisition.verbs import EXIT_INTERRUPTED, Data, Json
from drivers.errors import InputError

if TYPE_CHECKING:
    from acquisition.remote import Remote

remote_app = typer.Typer(
    help="The microscope of a server, from elsewhere.", no_args_is_help=True, rich_markup_mode=None
)

Address = Annotated[
    str | None,
    typer.Option("--server", help="host or host:port; this computer's server unless named.", envvar="RILIEVO_SERVER"),
]
Certificate = Annotated[
    Path | None,
    typer.Option("--certificate", help="File that rilievo serve --issue made.", envvar="RILIEVO_CERTIFICATE"),
]
Token = Annotated[Path | None, typer.Option("--token", help="File of the token, where it is not in --data.")]
RunName = Annotated[str | None, typer.Argument(help="Its id, or enough of it; the one that is played unless named.")]
Shown = Annotated[str, typer.Argument(help="Id of the run, or enough of its beginning; 'last' is the newest.")]
Reason = Annotated[str | None, typer.Option("--reason", help="For the log.")]
Output = Annotated[Path | None, typer.Option("-o", "--output", help="Where it goes.")]
Number = Annotated[int | None, typer.Option("--number", min=0, help="Of the frame; the newest unless given.")]
Preview = Annotated[bool, typer.Option("--preview", help="A small picture (PNG), for slow links.")]


@contextmanager
def _reached(
    server: str | None, certificate: Path | None, token: Path | None, data: Path | None, *, observing: bool = True
) -> Iterator[Remote]:
    """Yield the server; a verb asks for no higher role than it needs, where that can be chosen."""
    from acquisition.remote import connect

    role = None if certificate or token else "observer" if observing else "operator"
    with connect(server, data=data, token=token, certificate=certificate, role=role, patience=5.0) as remote:
        yield remote


@contextmanager
def _commanding(
    server: str | None, certificate: Path | None, token: Path | None, data: Path | None
) -> Iterator[Remote]:
    with _reached(server, certificate, token, data, observing=False) as remote, remote.control():
        yield remote


def _emit(told: str, body: Any, as_json: bool) -> None:
    from acquisition import terminal

    if as_json:
        terminal.emit_json(_jsonable(body))
    else:
        terminal.console().print(told, soft_wrap=True)


def _jsonable(value: Any) -> Any:
    """Return an answer as JSON data; every quantity is value and unit."""
    from datetime import datetime

    from pint.facets.plain import PlainQuantity

    from drivers.units import quantity_json

    if isinstance(value, PlainQuantity):
        return quantity_json(value)
    if isinstance(value, dict):
        return {key: _jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_jsonable(item) for item in value]
    return value.isoformat() if isinstance(value, datetime) else value


# -- looking


@remote_app.command()
def status(
    server: Address = None,
    certificate: Certificate = None,
    token: Token = None,
    data: Data = None,
    as_json: Json = False,
) -> None:
    """Tell what the server does: what is played, what waits, who holds control."""
    with _reached(server, certificate, token, data) as remote:
        state, queue = remote.state(), remote.queue()
    playing = "; ".join(f"{entry['run'] or 'about to begin'} on {entry['instrument']}" for entry in state["playing"])
    control = state["control"]
    lines = [
        f"playing  {playing or 'nothing'}",
        f"queue    {', '.join(booking.title for booking in queue) or 'empty'}",
        f"control  {control['who'] if control else 'nobody'}",
        *([f"wrong    {state['wrong']}"] if state["wrong"] else []),
    ]
    _emit("\n".join(lines), {**state, "queue": [booking.to_json() for booking in queue]}, as_json)


@remote_app.command()
def runs(
    server: Address = None,
    certificate: Certificate = None,
    token: Token = None,
    data: Data = None,
    as_json: Json = False,
) -> None:
    """List the runs, newest first."""
    from acquisition import terminal
    from acquisition.overview import run_json

    with _reached(server, certificate, token, data) as remote:
        found = remote.runs()
    if as_json:
        terminal.emit_json([run_json(run) for run in found])
    else:
        terminal.show_runs(found)


@remote_app.command()
def show(
    run: Shown,
    server: Address = None,
    certificate: Certificate = None,
    token: Token = None,
    data: Data = None,
    as_json: Json = False,
) -> None:
    """Show what a run did: state, frames, figures, events."""
    from acquisition import terminal

    with _reached(server, certificate, token, data) as remote:
        body = _jsonable(remote.show(run))
    if as_json:
        terminal.emit_json(body)
    else:
        terminal.show_summary(body)


@remote_app.command()
def events(
    follow: Annotated[bool, typer.Option("--follow", help="Go on until Ctrl-C, across breaks of the link.")] = False,
    after: Annotated[int | None, typer.Option("--after", min=0, help="Number of the last event that was seen.")] = None,
    run: Annotated[str | None, typer.Option("--run", help="Only of one run.")] = None,
    server: Address = None,
    certificate: Certificate = None,
    token: Token = None,
    data: Data = None,
    as_json: Json = False,
) -> None:
    """Tell what happened: the latest events, or those after one of a number, and with --follow what happens."""
    from acquisition.board import print_event

    with _reached(server, certificate, token, data) as remote, stop_requests() as asked:
        last = max(0, remote.state()["last_event"] - 50) if after is None else after
        while (found := remote.events(last, wait=1.0 if follow else 0.0, run=run)) or follow:
            for event in found:
                last = event.number
                print_event(event, as_json=as_json)
            if asked():
                raise typer.Exit(EXIT_INTERRUPTED if follow else 0)


@remote_app.command()
def readbacks(
    instrument: Annotated[str | None, typer.Argument(help="Its name; the one that plays unless named.")] = None,
    server: Address = None,
    certificate: Certificate = None,
    token: Token = None,
    data: Data = None,
    as_json: Json = False,
) -> None:
    """Show the latest readback of every channel."""
    from acquisition import terminal
    from drivers.units import format_quantity, quantity_json

    with _reached(server, certificate, token, data) as remote:
        found = remote.readbacks(instrument)
    if as_json:
        terminal.emit_json({name: {**quantity_json(r.value), "fresh": r.fresh} for name, r in found.items()})
        return
    rows = [(name, format_quantity(reading.value), "" if reading.fresh else "old") for name, reading in found.items()]
    terminal.console().print(terminal.table(("channel", "readback", ""), rows))


@remote_app.command()
def check(
    recipe: Annotated[Path, typer.Argument(help="YAML file of the recipe.")],
    server: Address = None,
    certificate: Certificate = None,
    token: Token = None,
    data: Data = None,
    as_json: Json = False,
) -> None:
    """Validate a recipe against the server's instrument; tell its duration and dose."""
    from acquisition.wording import duration_text

    with _reached(server, certificate, token, data) as remote:
        plan = remote.check(recipe)
    lasts = duration_text(float(plan["duration"].to("s").magnitude))
    _emit(f"{plan['name']} on {plan['instrument']}: can be played; lasts {lasts}", plan, as_json)


def _written(content: bytes, path: Path) -> None:
    from acquisition.durable import Writer

    Writer().write(path, [content])


@remote_app.command()
def frame(
    run: Shown = "last",
    number: Number = None,
    preview: Preview = False,
    output: Output = None,
    server: Address = None,
    certificate: Certificate = None,
    token: Token = None,
    data: Data = None,
    as_json: Json = False,
) -> None:
    """Fetch a frame as the OME-TIFF that the store holds, or as a small picture."""
    from acquisition.store import encoded

    with _reached(server, certificate, token, data) as remote:
        if preview:
            _picture(remote.frame_preview(run, number), output, as_json)
            return
        found = remote.frame(run, number)
    path = output or Path(f"{run}-frame{'' if number is None else f'-{number:06d}'}.ome.tif")
    _written(b"".join(bytes(piece) for piece in encoded(found)), path)
    _emit(f"frame  {path}", {"frame": str(path), "time": found.time, "dark": found.dark}, as_json)


@remote_app.command()
def heights(
    run: Shown = "last",
    number: Number = None,
    preview: Preview = False,
    output: Output = None,
    server: Address = None,
    certificate: Certificate = None,
    token: Token = None,
    data: Data = None,
    as_json: Json = False,
) -> None:
    """Fetch the heights of a frame with σ as a TIFF in nm, or as a small picture."""
    import io

    import numpy as np
    import tifffile

    with _reached(server, certificate, token, data) as remote:
        if preview:
            _picture(remote.heights_preview(run, number), output, as_json)
            return
        found = remote.heights(run, number)
    path = output or Path(f"{run}-heights-{found.number:06d}.tif")
    pixel = found.surface.pixel_size * 1e9
    said = json.dumps({"unit": "nm", "pixel_size": {"value": pixel, "unit": "nm"}})
    pages = np.stack([found.surface.z * 1e9, found.sigma * 1e9]).astype(np.float32)
    buffer = io.BytesIO()
    tifffile.imwrite(
        buffer, pages, description=said, metadata=None, photometric="minisblack", resolution=(1e7 / pixel, 1e7 / pixel)
    )
    _written(buffer.getvalue(), path)
    figures = {name: {"value": entry.value, "unit": entry.unit} for name, entry in found.figures.items()}
    _emit(f"heights  {path}", {"heights": str(path), "frame": found.number, "figures": figures}, as_json)


def _picture(small: Any, output: Path | None, as_json: bool) -> None:
    """Write a preview as a PNG, its pictures side by side."""
    import numpy as np

    from acquisition.pictures import png

    path = output or Path(f"{small.run_id}-{small.number:06d}-preview.png")
    _written(png(np.concatenate(list(small.pixels), axis=1)), path)
    scales = {
        name: {"low": {"value": low, "unit": small.unit}, "high": {"value": high, "unit": small.unit}}
        for name, low, high in zip(small.names, small.low, small.high, strict=True)
    }
    _emit(f"preview  {path}", {"preview": str(path), "frame": small.number, "pictures": scales}, as_json)


@remote_app.command()
def report(
    run: Shown = "last",
    output: Output = None,
    server: Address = None,
    certificate: Certificate = None,
    token: Token = None,
    data: Data = None,
    as_json: Json = False,
) -> None:
    """Fetch the report of a run: one HTML file."""
    with _reached(server, certificate, token, data) as remote:
        found = remote.run(run).id
        content = remote.report(found)
    path = output or Path(f"{found}.html")
    _written(content, path)
    _emit(f"report  {path}", {"id": found, "report": str(path)}, as_json)


# -- commanding


def _asked(verb: str, run: str | None, where: tuple[Any, ...], as_json: bool, **more: Any) -> None:
    with _commanding(*where) as remote:
        found = getattr(remote, verb)(run, **more)
    _emit(f"{verb}  {found}", {"asked": verb, "run": found}, as_json)


@remote_app.command()
def pause(
    run: RunName = None,
    server: Address = None,
    certificate: Certificate = None,
    token: Token = None,
    data: Data = None,
    as_json: Json = False,
) -> None:
    """Pause the run that is being played."""
    _asked("pause", run, (server, certificate, token, data), as_json)


@remote_app.command()
def resume(
    run: RunName = None,
    server: Address = None,
    certificate: Certificate = None,
    token: Token = None,
    data: Data = None,
    as_json: Json = False,
) -> None:
    """Let a paused run go on."""
    _asked("resume", run, (server, certificate, token, data), as_json)


@remote_app.command()
def stop(
    run: RunName = None,
    reason: Reason = None,
    server: Address = None,
    certificate: Certificate = None,
    token: Token = None,
    data: Data = None,
    as_json: Json = False,
) -> None:
    """End the run after the frame that is being taken, through the cleanup."""
    _asked("stop", run, (server, certificate, token, data), as_json, reason=reason)


@remote_app.command()
def abort(
    run: RunName = None,
    reason: Reason = None,
    server: Address = None,
    certificate: Certificate = None,
    token: Token = None,
    data: Data = None,
    as_json: Json = False,
) -> None:
    """End the run at once, through the cleanup."""
    _asked("abort", run, (server, certificate, token, data), as_json, reason=reason)


@remote_app.command()
def safe(
    reason: Reason = None,
    server: Address = None,
    certificate: Certificate = None,
    token: Token = None,
    data: Data = None,
    as_json: Json = False,
) -> None:
    """Bring every instrument to its safe state, whoever holds control."""
    with _reached(server, certificate, token, data, observing=False) as remote:
        names = remote.safe(reason)
    _emit(
        f"on its way to the safe state: {', '.join(names)}; see the events",
        {"asked": "safe", "instruments": names},
        as_json,
    )


@remote_app.command()
def start(
    recipe: Annotated[Path, typer.Argument(help="YAML file of the recipe.")],
    instrument: Annotated[str | None, typer.Option("--instrument", help="Name of one that the server has.")] = None,
    speed: Annotated[float | None, typer.Option("--speed", help="Of a simulated instrument.")] = None,
    heights: Annotated[bool, typer.Option("--heights/--no-heights", help="Make heights while it runs.")] = True,
    priority: Annotated[int, typer.Option("--priority", help="Higher goes first where several wait.")] = 0,
    server: Address = None,
    certificate: Certificate = None,
    token: Token = None,
    data: Data = None,
    as_json: Json = False,
) -> None:
    """Have a recipe played as soon as its instrument is free."""
    with _commanding(server, certificate, token, data) as remote:
        booking = remote.start(recipe, instrument=instrument, speed=speed, heights=heights, priority=priority)
    _emit(f"{booking.title} is played next on {booking.instrument}", booking.to_json(), as_json)


@remote_app.command()
def schedule(
    recipe: Annotated[Path | None, typer.Argument(help="YAML file of the recipe; without, what is booked.")] = None,
    at: Annotated[str | None, typer.Option("--at", help="22:00 (the next one), or 2026-01-01T22:00+01:00.")] = None,
    cron: Annotated[str | None, typer.Option("--cron", help="Again and again, such as '0 22 * * mon-fri'.")] = None,
    after: Annotated[str | None, typer.Option("--after", help="A run's id, last, or booking:7.")] = None,
    any_end: Annotated[bool, typer.Option("--any-end", help="With --after: however it ended.")] = False,
    priority: Annotated[int, typer.Option("--priority", help="Higher goes first where several wait.")] = 0,
    missed: Annotated[str | None, typer.Option("--missed", help="run, skip, or 'within 2 h'.")] = None,
    instrument: Annotated[str | None, typer.Option("--instrument", help="Name of one that the server has.")] = None,
    speed: Annotated[float | None, typer.Option("--speed", help="Of a simulated instrument.")] = None,
    heights: Annotated[bool, typer.Option("--heights/--no-heights", help="Make heights while it runs.")] = True,
    remove: Annotated[int | None, typer.Option("--remove", help="Take the booking of a number out.")] = None,
    server: Address = None,
    certificate: Certificate = None,
    token: Token = None,
    data: Data = None,
    as_json: Json = False,
) -> None:
    """Book a recipe; without one, list what is booked; with --remove, take a booking out."""
    from acquisition import board, terminal

    where = (server, certificate, token, data)
    if recipe is not None and remove is not None:
        raise InputError("expected a recipe or --remove", "remote schedule")
    if recipe is None and remove is None:
        with _reached(*where) as remote:
            found = remote.bookings()
        if as_json:
            terminal.emit_json([booking.to_json() for booking in found])
        elif found:
            board.show_bookings(found)
        else:
            terminal.console().print("nothing is booked")
        return
    with _commanding(*where) as remote:
        if remove is not None:
            booking = remote.remove(remove)
        else:
            booking = remote.schedule(
                recipe or Path(),
                instrument=instrument,
                at=at,
                cron=cron,
                after=after,
                any_end=any_end,
                priority=priority,
                missed=missed,
                speed=speed,
                heights=heights,
            )
    if as_json:
        terminal.emit_json(booking.to_json())
    else:
        board.show_booked(booking, "booked" if remove is None else "removed")


@remote_app.command("set")
def set_(
    parameter: Annotated[str, typer.Argument(help="Such as stage.x.")],
    value: Annotated[str, typer.Argument(help="With its unit, such as '1 mm'.")],
    instrument: Annotated[str | None, typer.Option("--instrument", help="Name of one that the server has.")] = None,
    server: Address = None,
    certificate: Certificate = None,
    token: Token = None,
    data: Data = None,
    as_json: Json = False,
) -> None:
    """Set a parameter between runs, within its limits and with the interlocks on."""
    from drivers.units import format_quantity, quantity_json

    with _commanding(server, certificate, token, data) as remote:
        reading = remote.set(parameter, value, instrument)
    body = {"parameter": parameter, "readback": quantity_json(reading.value), "fresh": reading.fresh}
    _emit(f"{parameter}  {format_quantity(reading.value)}", body, as_json)
