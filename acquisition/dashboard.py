"""The page to watch the night, as the server owns it: a process of its own, and the way from it to the desk.

The page is NiceGUI: an event loop, a web socket for every browser, pictures to be made. None of it may ever make an
acquisition wait, so it runs in a process of its own that reads the database and the store for itself, and the only
thing that reaches the server's process is a command that somebody clicked: a line of JSON on a pipe that nobody else
can open. The pipe rather than remote control's port, because the page is the server's child: it needs no certificate
and no address, it works where remote control is switched off, and its end is the end of both sides. Who may do what is
decided here, at the desk, for each command anew, from the token that the person came in with; the page only shows.

The server's process binds the port before the page starts, so that a port in use is told at once, and a page that
dies is started again on the same socket; the runs notice nothing of either.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import socket
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Protocol

from drivers.clock import Clock, RealClock
from drivers.errors import DocumentError, InputError, RilievoError, RunError

PORT = 8642
"""Where the page is, unless another port is named."""
COMMANDS = frozenset({"pause", "resume", "stop", "abort", "safe", "start", "schedule", "remove"})
"""What the page asks of the desk; nothing else is passed on."""
WITHOUT_CONTROL = frozenset({"safe"})
LOOPBACK = ("127.0.0.1", "localhost", "::1")
WORKERS = 3
"""Commands that are carried out at the same time."""
WAITING = 32
"""Commands that wait; with more, the page is told to try again."""
RESTARTS, WINDOW = 5, 600.0
"""How often a page that died is started again within so many seconds."""
START = 30.0
"""Seconds in which the page must answer."""


class Somebody(Protocol):
    """Who asks; :class:`acquisition.access.Person`."""

    @property
    def name(self) -> str:
        """Of the person."""

    @property
    def role(self) -> str:
        """observer, operator or administrator."""


class Desk(Protocol):
    """What the page needs of :class:`acquisition.desk.Desk`."""

    @property
    def control(self) -> Any:
        """The one lease on the microscope; :class:`acquisition.control.Control`."""

    def seat(self, person: Any) -> Any:
        """Return where a person asks from."""


Admit = Callable[[str, str, str], Somebody]
"""Takes a token, what its owner calls himself, and the name of a session of the page; returns who that is.

Raises what a person can read for a token that nobody has.
"""


@dataclass(frozen=True, slots=True)
class PageSettings:
    """Where the page is, and for whom.

    Attributes
    ----------
    host : str
        Loopback, unless TLS carries the page.
    port : int
        0 for any that is free.
    certificate, key : Path or None
        PEM files of the server.
    instruments : sequence of str
        Names that recipes can be booked on; the first one is meant where none is chosen.
    simulated : sequence of str
        Those of them that the page can check recipes against by itself.
    """

    host: str = "127.0.0.1"
    port: int = PORT
    certificate: Path | None = None
    key: Path | None = None
    instruments: Sequence[str] = ()
    simulated: Sequence[str] = ()


class Dashboard:
    """The page's process, and the threads that carry out what it asks.

    Parameters
    ----------
    folder : Path
        The data folder.
    database : str
        URL, with its password.
    desk : Desk
    admit : callable
        See :data:`Admit`.
    settings : PageSettings
    tell : callable
        Takes level and message of an event.
    clock : Clock, optional
        Real.
    """

    def __init__(
        self,
        folder: Path,
        database: str,
        desk: Desk,
        admit: Admit,
        settings: PageSettings,
        tell: Callable[[str, str], None],
        clock: Clock | None = None,
    ) -> None:
        self._folder, self._database = folder, database
        self._desk, self._admit, self._settings, self._tell = desk, admit, settings, tell
        self._clock = clock or RealClock()
        self._work: queue.Queue[tuple[Connection, dict[str, Any]] | None] = queue.Queue(WAITING)
        self._sending = threading.Lock()
        self._ending = threading.Event()
        self._answered = threading.Event()
        self._socket: socket.socket | None = None
        self._pipe: Connection | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._died: deque[float] = deque(maxlen=RESTARTS)
        self._threads = [threading.Thread(target=self._carry_out, name=f"page desk {n}") for n in range(WORKERS)]
        self._keeper = threading.Thread(target=self._keep, name="page keeper")

    @property
    def url(self) -> str:
        """Where a browser finds the page."""
        port = self._settings.port if self._socket is None else self._socket.getsockname()[1]
        host = f"[{self._settings.host}]" if ":" in self._settings.host else self._settings.host
        return f"{'https' if self._settings.certificate else 'http'}://{host}:{port}/"

    @property
    def pid(self) -> int | None:
        """Of the page's process."""
        return None if self._process is None else self._process.pid

    def start(self) -> None:
        """Bind the port and start the page; it answers some seconds later.

        Raises
        ------
        InputError
            For an address that others reach, without TLS; for a certificate without its key; where NiceGUI is not
            installed.
        RunError
            Where the port is in use.
        """
        _require(self._settings)
        self._socket = _bound(self._settings.host, self._settings.port)
        for thread in self._threads:
            thread.start()
        self._open()
        self._keeper.start()

    def wait(self, seconds: float = START) -> bool:
        """Wait until the page answers; return whether it does."""
        return self._answered.wait(seconds)

    def close(self) -> None:
        """End the page, once."""
        if self._ending.is_set():
            return
        self._ending.set()
        if self._pipe is not None:
            with contextlib.suppress(OSError):
                self._send(self._pipe, {"end": True})
        process = self._process
        if process is not None:
            try:
                process.wait(5.0)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if self._keeper.is_alive():
            self._keeper.join()
        for _ in self._threads:
            self._work.put(None)
        for thread in self._threads:
            if thread.is_alive():
                thread.join()
        if self._socket is not None:
            self._socket.close()

    # -- the process

    def _open(self) -> None:
        """Start the page's process on the socket that is bound."""
        assert self._socket is not None  # noqa: S101  start() binds it
        ours, theirs = socket.socketpair()
        theirs.set_inheritable(True)
        self._socket.set_inheritable(True)
        command = [sys.executable, "-m", "acquisition.page", str(theirs.fileno()), str(self._socket.fileno())]
        # A session of its own: Ctrl-C in the server's terminal is for the server, which ends the page in its own time.
        self._process = subprocess.Popen(  # noqa: S603  this interpreter, our own module
            command,
            pass_fds=(theirs.fileno(), self._socket.fileno()),
            start_new_session=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            env=_environment(),
        )
        theirs.close()
        self._pipe = Connection(ours.detach())
        self._send(self._pipe, self._told())

    def _told(self) -> dict[str, Any]:
        from importlib.metadata import version

        settings = self._settings
        port = self._socket.getsockname()[1] if self._socket is not None else settings.port
        names = LOOPBACK if settings.certificate is None else ()
        return {
            "folder": str(self._folder),
            "database": self._database,
            "hosts": [f"[{name}]:{port}" if ":" in name else f"{name}:{port}" for name in names],
            "certificate": None if settings.certificate is None else str(settings.certificate),
            "key": None if settings.key is None else str(settings.key),
            "version": version("rilievo"),
            "instruments": list(settings.instruments),
            "simulated": list(settings.simulated),
        }

    def _keep(self) -> None:
        """Listen to the page; start it again where it died, a few times."""
        while not self._ending.is_set():
            self._listen()
            process = self._process
            code = process.wait() if process is not None else None
            if self._ending.is_set():
                return
            now = self._clock.monotonic()
            if len(self._died) == RESTARTS and now - self._died[0] < WINDOW:
                self._tell(
                    "error",
                    f"the page died {RESTARTS + 1} times within {WINDOW:.0f} s (last exit code {code}); "
                    "it is not started again. Runs and calendar go on",
                )
                return
            self._died.append(now)
            self._tell("warning", f"the page died (exit code {code}) and is started again; runs and calendar go on")
            self._answered.clear()
            try:
                self._open()
            except OSError as error:
                self._tell(
                    "error", f"the page cannot be started again: {error.strerror or error}; runs and calendar go on"
                )
                return

    def _listen(self) -> None:
        pipe = self._pipe
        assert pipe is not None  # noqa: S101  _open() made it
        with contextlib.suppress(EOFError, OSError, ValueError):
            while True:
                asked = json.loads(pipe.recv_bytes(2**22))
                if asked.get("ready"):
                    self._answered.set()
                    continue
                try:
                    self._work.put_nowait((pipe, asked))
                except queue.Full:
                    busy = RunError("the server is busy with other commands of the page; try again in a moment")
                    self._answer(pipe, asked, error=busy)
        pipe.close()

    # -- the desk

    def _carry_out(self) -> None:
        while (work := self._work.get()) is not None:
            pipe, asked = work
            try:
                self._answer(pipe, asked, value=self._done(asked))
            except RilievoError as error:
                self._answer(pipe, asked, error=error)
            except Exception as error:  # noqa: BLE001  whoever clicked hears of it, whatever it is
                self._answer(pipe, asked, error=RunError(f"{type(error).__name__}: {error}"))

    def _done(self, asked: Mapping[str, Any]) -> Any:
        match asked.get("verb"):
            case "login":
                person = self._admit(str(asked["token"]), str(asked.get("name", "")), "")
                return {"name": person.name, "role": str(person.role)}
            case "command":
                return self._commanded(asked)
            case "check":
                return self._checked(asked)
        raise InputError(f"the page asked for {asked.get('verb')!r}, which there is not")

    def _commanded(self, asked: Mapping[str, Any]) -> Any:
        name = str(asked["name"])
        if name not in COMMANDS:
            raise InputError(f"the page may ask for {', '.join(sorted(COMMANDS))}; it asked for {name!r}")
        person = self._admit(str(asked["token"]), str(asked["person"]), str(asked["session"]))
        seat = self._desk.seat(person)
        arguments = {str(key): value for key, value in asked["arguments"].items()}
        with self._in_control(person, name):
            found = getattr(seat, name)(**arguments)
        return found.to_json() if hasattr(found, "to_json") else found

    @contextlib.contextmanager
    def _in_control(self, person: Any, name: str) -> Iterator[None]:
        """Hold control for one command: who clicks once does not keep it from others."""
        if name in WITHOUT_CONTROL or str(person.role) == "observer":
            yield  # who may not is refused by the desk, which writes it down
            return
        lease = self._desk.control.holder
        held = lease is not None and lease.person.session == person.session
        if not held:
            self._desk.control.take(person)
        try:
            yield
        finally:
            if not held:
                self._desk.control.release(person)

    def _checked(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """Check a recipe against an instrument that only the server may speak to."""
        seat = self._desk.seat(self._admit(str(asked["token"]), str(asked["person"]), str(asked["session"])))
        try:
            return {"plan": seat.check(asked["text"], asked["name"], asked["instrument"])}
        except DocumentError as error:
            fields = ("message", "address", "file", "line", "column")
            return {"problems": [{key: getattr(problem, key) for key in fields} for problem in error.problems]}

    def _answer(
        self, pipe: Connection, asked: Mapping[str, Any], *, value: Any = None, error: RilievoError | None = None
    ) -> None:
        body: dict[str, Any] = {"id": asked.get("id"), "value": value}
        if error is not None:
            told = {"code": error.code, "message": error.message, "where": error.where, "exit": error.exit_code}
            body = {"id": asked.get("id"), "error": told}
        with contextlib.suppress(OSError):  # the page has died meanwhile
            self._send(pipe, body)

    def _send(self, pipe: Connection, body: Mapping[str, Any]) -> None:
        with self._sending:
            pipe.send_bytes(json.dumps(body, default=str).encode())


def _require(settings: PageSettings) -> None:
    from importlib.util import find_spec

    if find_spec("nicegui") is None:
        raise InputError(
            'the page needs NiceGUI, which is not installed: pip install "rilievo[dashboard]"', "--dashboard"
        )
    if (settings.certificate is None) != (settings.key is None):
        raise InputError("a certificate and its key belong together; one of them is missing", "--dashboard")
    for path in (settings.certificate, settings.key):
        if path is not None and not path.is_file():
            raise InputError("there is no such file; rilievo serve --init-tls makes certificates", str(path))
    if settings.certificate is None and settings.host not in LOOPBACK:
        raise InputError(
            f"without TLS the page is for this computer alone: expected one of {', '.join(LOOPBACK)}, got "
            f"{settings.host}. rilievo serve --init-tls sets TLS up",
            "--host",
        )


def _bound(host: str, port: int) -> socket.socket:
    """Return a socket that listens on an address."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind(("127.0.0.1" if host == "localhost" else host, port))
        listening.listen(128)
    except OSError as error:
        listening.close()
        told = error.strerror or str(error)
        raise RunError(
            f"the page cannot use port {port} of {host}: {told}; name another with --dashboard-port", f"{host}:{port}"
        ) from None
    return listening


def _environment() -> dict[str, str]:
    """Return the page's environment: it is to be quiet, and to know where this program lies."""
    # Pictures are made in many threads; without the bound, each would keep what it once needed.
    known = {**os.environ, "PYTHONUNBUFFERED": "1", "MALLOC_ARENA_MAX": "2"}
    known.pop("NICEGUI_SCREEN_TEST_PORT", None)
    path = str(Path(__file__).resolve().parents[1])
    known["PYTHONPATH"] = os.pathsep.join(part for part in (path, os.environ.get("PYTHONPATH", "")) if part)
    return known
