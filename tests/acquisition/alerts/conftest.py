"""Real servers on loopback that behave badly when they are told to, and alerts that are impatient."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from email import message_from_bytes
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.controller import Controller

from acquisition.alert_settings import load_settings
from acquisition.alerts import Alerts
from acquisition.log import Log
from drivers.clock import RealClock

NOW = datetime(2026, 1, 1, 18, tzinfo=UTC)
QUICK = "retry: {first: 40 ms, longest: 80 ms}\ndeadline: 400 ms\n"


class Post:
    """What a mail server has got, and how it behaves: ``well``, ``refuse``, ``drop`` (takes it, then hangs up)."""

    def __init__(self) -> None:
        self.mails: list[Message] = []
        self.behaviour = "well"
        self.refused: set[str] = set()

    async def handle_RCPT(  # noqa: N802  as the server calls it
        self, server: Any, session: Any, envelope: Any, address: str, options: Any
    ) -> str:
        if self.behaviour == "refuse" or address in self.refused:
            return "550 nobody of that name"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:  # noqa: N802
        self.mails.append(message_from_bytes(envelope.content))
        if self.behaviour == "drop":
            server.transport.abort()
        return "250 OK"


class MailServer:
    """An SMTP server on a port that it keeps: it can go away, and come back."""

    def __init__(self, **options: Any) -> None:
        self.post = Post()
        self._options = options
        self._port = 0
        self.start()

    @property
    def port(self) -> int:
        return self._port

    def start(self) -> None:
        self._controller = Controller(self.post, "127.0.0.1", self._port, ready_timeout=10, **self._options)
        if not self._port:  # the controller knocks at the port that it was given, so it has to know it
            import socket

            with socket.create_server(("127.0.0.1", 0)) as found:
                self._port = found.getsockname()[1]
            self._controller.port = self._port
        self._controller.start()

    def stop(self) -> None:
        if self._controller.server is not None:
            self._controller.stop()


@pytest.fixture
def make_mail_server() -> Iterator[Callable[..., MailServer]]:
    """Makes mail servers with options of aiosmtpd; all end with the test."""
    made: list[MailServer] = []

    def make(**options: Any) -> MailServer:
        made.append(MailServer(**options))
        return made[-1]

    yield make
    for server in made:
        server.stop()


@pytest.fixture
def mail_server(make_mail_server: Callable[..., MailServer]) -> MailServer:
    return make_mail_server()


class WebServer:
    """An HTTP server that keeps what it got, and answers with ``status``; None makes it hang until the end."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, dict[str, str], Any]] = []
        self.status: int | None = 200
        self._over = threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                outer.requests.append((self.path, dict(self.headers), json.loads(body) if body else None))
                if outer.status is None:
                    outer._over.wait(10)
                    return
                self.send_response(outer.status)
                if outer.status == 302:
                    self.send_header("Location", "/elsewhere")
                self.end_headers()

            do_GET = do_POST  # noqa: N815

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def stop(self) -> None:
        self._over.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def web_server() -> Iterator[WebServer]:
    server = WebServer()
    yield server
    server.stop()


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Log]:
    with Log.open(tmp_path / "rilievo.db") as opened:
        yield opened


class Desk:
    """A data folder with settings, its log, and alerts that look often."""

    def __init__(self, folder: Path, log: Log) -> None:
        self.folder, self.log = folder, log
        self.clock = RealClock()
        self.alerts: Alerts | None = None

    def write(self, text: str) -> None:
        (self.folder / "alerts.yaml").write_text(text)

    def open(self, text: str | None = None, well: Any = None) -> Alerts:
        if text is not None:
            self.write(text)
        settings = load_settings(self.folder)
        assert settings is not None
        self.alerts = Alerts(settings, self.folder, self.log, self.clock, poll=0.01)
        self.alerts.start(well)
        return self.alerts

    def event(self, message: str, level: str = "error", kind: str = "state", run: str | None = None) -> int:
        return self.log.event(run, NOW, level, kind, message)

    def until(self, condition: Any, seconds: float = 5.0) -> None:
        end = self.clock.monotonic() + seconds
        while not condition():
            assert self.clock.monotonic() < end, "waited in vain"
            self.clock.sleep(0.005)

    def close(self) -> None:
        if self.alerts is not None:
            self.alerts.close(0.5)
            self.alerts = None


@pytest.fixture
def desk(tmp_path: Path, log: Log) -> Iterator[Desk]:
    made = Desk(tmp_path, log)
    yield made
    made.close()
