"""The page's process: ``python -m acquisition.page FD FD``, started by :class:`acquisition.dashboard.Dashboard`.

The first number is its end of the pipe to the server, the second the socket that listens. What it has to know comes
over the pipe, so that no address of a database stands in the list of processes.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from importlib.resources import files
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import Response

from acquisition import app as wiring
from acquisition.log import Log
from acquisition.page.archive import Archive
from acquisition.page.channel import Channel
from acquisition.page.checking import Checking
from acquisition.page.gate import Gate
from acquisition.page.prints import Print, Prints
from acquisition.page.view import House
from acquisition.page.watch import Watch
from acquisition.store import Store
from drivers.clock import RealClock
from drivers.errors import RilievoError

_REPORT_POLICY = (
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)
_FOREVER = {"cache-control": "private, max-age=31536000, immutable"}
_NEVER = {"cache-control": "no-store"}


def main() -> None:
    """Serve the page until the server hangs up."""
    pipe = Connection(int(sys.argv[1]))
    listening = socket.socket(fileno=int(sys.argv[2]))
    told = json.loads(pipe.recv_bytes())
    os.environ.setdefault("MPLBACKEND", "Agg")
    with Log.open(told["database"], create=False) as log, Store(Path(told["folder"]) / "runs") as store:
        serve(told, pipe, listening, log, store)


def serve(told: dict[str, Any], pipe: Connection, listening: socket.socket, log: Log, store: Store) -> None:
    """Build the page, and serve it until the server hangs up."""
    from nicegui import app as application
    from nicegui import ui

    from acquisition.page.pages import register

    clock = RealClock()
    server: uvicorn.Server | None = None

    def end() -> None:
        if server is not None:
            server.should_exit = True

    channel = Channel(pipe, end)
    watch = Watch(log, store, clock)
    checking = Checking(wiring.open_instrument)
    archive = Archive(log, store)
    web = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    gate = Gate(web, channel, clock, frozenset(told["hosts"]), secure=told["certificate"] is not None)
    add_files(web, watch, Prints(log, store), archive)
    register(
        House(
            log,
            store,
            watch,
            channel,
            checking,
            archive,
            gate,
            told["version"],
            tuple(told["simulated"]),
            tuple(told["instruments"]),
        )
    )
    ui.run_with(
        web,
        title="Rilievo",
        favicon=None,
        tailwind=False,
        message_history_length=200,
        reconnect_timeout=10.0,
        language="en-US",
        show_welcome_message=False,
    )
    server = uvicorn.Server(
        uvicorn.Config(
            gate,
            log_level="warning",
            access_log=False,
            ws_max_size=2**20,
            limit_concurrency=400,
            timeout_keep_alive=20,
            timeout_graceful_shutdown=2,
            server_header=False,
            ssl_certfile=told["certificate"],
            ssl_keyfile=told["key"],
        )
    )
    watch.start()
    channel.start()
    application.on_startup(channel.ready)
    try:
        server.run(sockets=[listening])
    finally:
        watch.close()
        checking.close()


def add_files(web: FastAPI, watch: Watch, prints: Prints, archive: Archive) -> None:
    """Add what the browser fetches: style, script, pictures, surfaces, curves, reports."""
    folder = files("acquisition") / "templates"
    style = "\n".join((folder / name).read_text(encoding="utf-8") for name in ("report.css", "page.css"))
    script = "\n".join((folder / name).read_text(encoding="utf-8") for name in ("surface.js", "page.js"))

    @web.get("/static/page.css")
    def page_style() -> Response:
        return Response(style, media_type="text/css", headers=_FOREVER)

    @web.get("/static/page.js")
    def page_script() -> Response:
        return Response(script, media_type="text/javascript", headers=_FOREVER)

    @web.get("/static/plotly.min.js")
    def plotly() -> Response:
        path = files("plotly") / "package_data" / "plotly.min.js"
        return Response(path.read_bytes(), media_type="text/javascript", headers=_FOREVER)

    @web.get("/frame/{run}/{number}/segment/{name}.png")
    def segment(run: str, number: int, name: str) -> Response:
        return _printed(lambda: prints.segment(run, number, name))

    @web.get("/frame/{run}/{number}/heights.png")
    def heights(run: str, number: int) -> Response:
        return _printed(lambda: prints.heights(run, number))

    @web.get("/frame/{run}/{number}/surface.json")
    def surface(run: str, number: int) -> Response:
        return _printed(lambda: prints.surface(run, number))

    @web.get("/curves.json")
    def curves() -> Response:
        body = watch.traces()
        return Response(body or b"{}", 200 if body else 404, media_type="application/json", headers=_NEVER)

    @web.get("/report/{run}")
    def report(run: str) -> Response:
        try:
            body = archive.report(run)
        except (RilievoError, OSError) as error:
            return Response(f"this report cannot be shown: {error}", 404, media_type="text/plain", headers=_NEVER)
        return Response(body, media_type="text/html", headers=_NEVER | {"content-security-policy": _REPORT_POLICY})

    @web.exception_handler(Exception)
    def failed(request: Request, error: Exception) -> Response:  # noqa: ARG001
        return Response(f"an error of the page: {type(error).__name__}: {error}", 500, media_type="text/plain")


def _printed(make: Any) -> Response:
    try:
        made: Print = make()
    except RilievoError as error:
        return Response(str(error), 404, media_type="text/plain", headers=_NEVER)
    return Response(made.body, media_type=made.kind, headers=_NEVER)


if __name__ == "__main__":
    main()
