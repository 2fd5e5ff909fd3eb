"""The microscope from elsewhere: what the server's desk offers, in another process or on another computer.

>>> from acquisition.remote import connect
>>> with connect() as microscope:                                        # doctest: +SKIP
...     for event in microscope.follow():
...         print(event.time, event.message)

A :class:`Remote` has the methods of :class:`acquisition.seat.Seat`, with the same arguments, answers and errors. It
connects when it is first asked, in each thread anew (a connection belongs to its thread), and connects again when the
connection broke: questions are asked again, streams of events go on after the event they broke at. A command is not
sent twice: where it is not known whether it was done, an error says so.
"""

from __future__ import annotations

import getpass
import math
import secrets
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Self, TypeVar, cast

from Pyro5 import errors, protocol
from Pyro5.client import Proxy

from acquisition import wire
from acquisition.access import AccessDenied, ControlHeld, Role
from acquisition.asking import Command
from acquisition.authority import client_context
from acquisition.bookings import Booking
from acquisition.control import LEASE
from acquisition.credentials import Pass, nonce, pass_of, proof, read_pass
from acquisition.gate import MSGPACK, OBJECT, PORT
from acquisition.line import Line
from acquisition.records import Event
from acquisition.seat import COMMANDS, WAIT, Seat
from drivers.clock import Clock, RealClock
from drivers.errors import InputError, RilievoError, RunError
from drivers.frame import Reading
from drivers.units import Q

T = TypeVar("T")

TIMEOUT = 30.0
"""s for an answer, beside what its size takes."""
PATIENCE = 60.0
"""s for which a server that does not answer is tried again."""


class RemoteError(RilievoError):
    """The server cannot be reached, or was lost."""

    code = "remote"
    number = 610
    exit_code = 1


class Interrupted(RemoteError):
    """Somebody listens, and closed the connection before it was made; trying again may help."""

    code = "remote-interrupted"
    number = 613


class RemoteTimeout(RemoteError):
    """The server did not answer in time."""

    code = "remote-timeout"
    number = 612


def connect(
    address: str | None = None,
    *,
    data: Path | None = None,
    token: Path | None = None,
    certificate: Path | None = None,
    role: Role | str | None = None,
    name: str | None = None,
    timeout: float = TIMEOUT,
    patience: float = PATIENCE,
    clock: Clock | None = None,
) -> Remote:
    """Return the microscope of a server.

    Parameters
    ----------
    address : str, optional
        ``host`` or ``host:port``; where the server of this computer said that it listens unless given.
    data : Path, optional
        The data folder in which that server runs; the user's own unless given.
    token : Path, optional
        The file with the token, where it is not in the data folder.
    certificate : Path, optional
        The file that ``rilievo serve --issue`` made; needed for any other computer.
    role : Role or str, optional
        A lower one than the highest whose token can be read: who only looks cannot break anything.
    name : str, optional
        Who asks, for the audit log, where a token is used; the user's name unless given.
    timeout : float, s
        For an answer.
    patience : float, s
        For which a server that cannot be reached is tried again.

    Raises
    ------
    InputError, RunError
        For a token or certificate that cannot be used, or where no server runs.
    AccessDenied
        Where the server refuses.
    RemoteError
        Where nobody listens.
    """
    wanted = Role.named(role) if role is not None else None
    if certificate is not None:
        if address is None:
            raise InputError("expected the server's address with a certificate, such as 10.0.0.5", "address")
        way: _Way = _ByCertificate(*_host_and_port(address), certificate)
    else:
        from acquisition.app import data_folder

        folder = data_folder(data)
        found = (lambda: pass_of(token)) if token is not None else (lambda: read_pass(folder, wanted))
        way = _ByToken(found, None if address is None else _host_and_port(address), name or _user())
    remote = Remote(way, timeout, patience, clock or RealClock())
    remote.reach()
    return remote


def _user() -> str:
    with suppress(OSError, KeyError, ImportError):
        return getpass.getuser()
    return "somebody"


def _host_and_port(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":") if address.count(":") == 1 or "]:" in address else (address, "", str(PORT))
    host = host.strip("[]")
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise InputError(f"expected an address such as 127.0.0.1:{PORT}; got {address!r}", "address")
    return host, int(port)


# -- ways in


class _Way:
    """How a server is reached, and how one proves who one is."""

    def where(self) -> tuple[str, int]:
        raise NotImplementedError

    def encrypted(self, sock: socket.socket, host: str) -> socket.socket:  # noqa: ARG002
        return sock

    def greeting(self) -> dict[str, str]:
        return {}

    def answer(self, greeting: dict[str, str], challenge: dict[str, Any], session: str) -> dict[str, str]:
        raise NotImplementedError


class _ByToken(_Way):
    def __init__(self, read: Callable[[], Pass], where: tuple[str, int] | None, name: str) -> None:
        self._read = read
        self._where = where
        self._name = name
        self._pass = read()

    def where(self) -> tuple[str, int]:
        self._pass = self._read()  # a server that was started anew has left new ones
        return self._where or (self._pass.host, self._pass.port)

    def greeting(self) -> dict[str, str]:
        return {"who": self._name, "role": str(self._pass.role)}

    def answer(self, greeting: dict[str, str], challenge: dict[str, Any], session: str) -> dict[str, str]:
        if challenge.get("by") != "token":
            raise AccessDenied("this server asks for a certificate; connect with certificate=FILE (--certificate)")
        words = {
            "name": greeting["who"],
            "role": greeting["role"],
            "client": greeting["nonce"],
            "server": str(challenge.get("nonce")),
        }
        expected = proof(self._pass.token, "server", {**words, "session": ""})
        if not secrets.compare_digest(expected, str(challenge.get("proof"))):
            raise AccessDenied(
                "whoever listens there does not know this token: it is another server, or the token is an old one"
            )
        return {"proof": proof(self._pass.token, "client", {**words, "session": session})}


class _ByCertificate(_Way):
    def __init__(self, host: str, port: int, certificate: Path) -> None:
        self._host, self._port = host, port
        self._certificate = certificate
        self._context = client_context(certificate)

    def where(self) -> tuple[str, int]:
        return self._host, self._port

    def encrypted(self, sock: socket.socket, host: str) -> socket.socket:
        try:
            return self._context.wrap_socket(sock, server_hostname=host)
        except ssl.SSLCertVerificationError as error:
            if error.verify_code in (62, 64):  # the name, the address
                raise AccessDenied(
                    f"the server's certificate is not for {host}; make one that is with rilievo serve --init-tls "
                    f"--host {host}, or use an address that it names"
                ) from None
            raise AccessDenied(
                f"the server's certificate was not made by the authority in {self._certificate} "
                f"({error.verify_message}); it is another server, or you need a new file from its administrator"
            ) from None
        except ssl.SSLError as error:
            raise RemoteError(
                f"whoever listens there does not speak TLS ({error.reason or error}); is it a server with certificates?"
            ) from None

    def answer(self, greeting: dict[str, str], challenge: dict[str, Any], session: str) -> dict[str, str]:  # noqa: ARG002
        return {}


_ALERTS = {
    "CERTIFICATE_EXPIRED": "the certificate has ended; ask for a new one (rilievo serve --renew NAME)",
    "CERTIFICATE_REQUIRED": "this server asks for a certificate; connect with certificate=FILE (--certificate)",
    "UNKNOWN_CA": "the certificate was made by another authority; ask this server's administrator for one",
    "BAD_CERTIFICATE": "the server does not take this certificate; ask its administrator for a new one",
    "CERTIFICATE_UNKNOWN": "the server does not take this certificate; ask its administrator for a new one",
    "UNSUPPORTED_CERTIFICATE": "this certificate is not one for people; ask the server's administrator for one",
    "WRONG_VERSION_NUMBER": "whoever listens there does not speak TLS; is it a server with certificates?",
}


class _Proxy(Proxy):  # type: ignore[misc]
    """Pyro's proxy on a connection that is open, and whose handshake has been made."""

    def __init__(self, line: Line) -> None:
        super().__init__(OBJECT, connected_socket=line.sock)
        self._pyroConnection = line
        self._pyroSerializer = "msgpack"
        self._pyroRawWireResponse = True

    def _pyroGetMetadata(self, objectId: Any = None, known_metadata: Any = None) -> None:  # noqa: ARG002, N802  Pyro's
        self._pyroMethods = set(COMMANDS)

    def ask(self, name: str, arguments: dict[str, Any], seconds: float) -> Any:
        """Return the answer to one question."""
        self._pyroConnection.expect(seconds)
        message = self._pyroInvoke(name, [], arguments)
        if message.flags & protocol.FLAGS_EXCEPTION:
            raise wire.error_of(wire.plain(message.data))
        return wire.unpacked(message.data, message.annotations)


class Remote(Seat):
    """The microscope of a server; make it with :func:`connect`.

    Every method of :class:`acquisition.seat.Seat` is asked of the server. What is different stands below.
    """

    def __init__(self, way: _Way, timeout: float, patience: float, clock: Clock) -> None:
        self._way = way
        self._timeout = timeout
        self._patience = patience
        self._clock = clock
        self._session = secrets.token_hex(16)
        self._local = threading.local()
        self._lock = threading.Lock()
        self._lines: list[Line] = []
        self._closed = False
        self.name = ""
        """Whom the server takes one for."""
        self.role = Role.OBSERVER

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the server: of its control, and of every connection."""
        self._closed = True
        with self._lock:
            lines, self._lines = self._lines, []
        for line in lines:
            line.close()

    # -- asking

    def perform(self, command: Command, arguments: dict[str, Any], do: Callable[[], T]) -> T:  # noqa: ARG002
        """Ask the server, whatever the command is; ``do`` is what it does itself."""
        wait = arguments.get("wait", 0.0)
        seconds = self._timeout + (wait if isinstance(wait, int | float) and math.isfinite(wait) else 0.0)
        said = {name: wire.in_words(value) for name, value in arguments.items()}
        return cast("T", self._ask(command, said, seconds))

    def _ask(self, command: Command, arguments: dict[str, Any], seconds: float) -> Any:
        until = self._clock.monotonic() + self._patience
        pause = 0.05
        while True:
            try:
                proxy = self._proxy()
                try:
                    return proxy.ask(command.name, arguments, seconds)
                except (errors.CommunicationError, OSError) as error:
                    self._let_go()
                    self._refuse_doubt(command, error)
                    raise self._lost(error) from None
            except RemoteError:
                if self._closed or self._clock.monotonic() + pause > until:
                    raise
            self._clock.sleep(pause)
            pause = min(2.0, 2 * pause)

    @staticmethod
    def _refuse_doubt(command: Command, error: Exception) -> None:
        """Send no command twice."""
        if command.audited:
            raise RunError(
                f"the connection broke while {command.name} was asked ({error}); whether it was done is not known: see "
                "state() and the audit log (events of kind audit)",
                command.name,
            ) from None

    @staticmethod
    def _lost(error: Exception) -> RemoteError:
        if isinstance(error, errors.TimeoutError):
            return RemoteTimeout("the server did not answer in time; is it busy, or the link slow?")
        return RemoteError(f"the connection to the server was lost ({error})")

    def reach(self) -> None:
        """Connect, in this thread; errors as :func:`connect`."""
        for pause in (0.1, 0.3, 1.0, 0.0):
            try:
                self._proxy()
            except Interrupted:  # many came at once, and others had to make room
                if not pause or not self._patience:
                    raise
                self._clock.sleep(pause * (0.5 + secrets.randbelow(1000) / 1000))
            else:
                return

    def _proxy(self) -> _Proxy:
        if self._closed:
            raise RemoteError("this connection was closed; connect anew")
        found: _Proxy | None = getattr(self._local, "proxy", None)
        if found is None or found._pyroConnection is None:  # noqa: SLF001  released by Pyro after an error
            found = self._local.proxy = _Proxy(self._connected())
        return found

    def _let_go(self) -> None:
        """Close this thread's connection."""
        proxy, self._local.proxy = getattr(self._local, "proxy", None), None
        line = None if proxy is None else proxy._pyroConnection  # noqa: SLF001
        if line is not None:
            line.close()
        with self._lock:
            self._lines = [other for other in self._lines if other.fileno() >= 0]

    def _connected(self) -> Line:
        host, port = self._way.where()
        where = f"{host}:{port}"
        try:
            sock = socket.create_connection((host, port), self._timeout)
        except TimeoutError:
            raise RemoteTimeout("nobody answers; check the address, and the network", where) from None
        except OSError as error:
            raise RemoteError(
                f"nobody listens ({error.strerror or error}); is rilievo serve running there?", where
            ) from None
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            line = Line(self._way.encrypted(sock, host), OBJECT, self._timeout)
            self._shake_hands(line)
        except (errors.CommunicationError, OSError) as error:
            sock.close()
            raise _explained(error, where) from None
        except BaseException:
            sock.close()
            raise
        with self._lock:
            self._lines.append(line)
        return line

    def _shake_hands(self, line: Line) -> None:
        greeting = {"protocol": "1", "nonce": nonce(), **self._way.greeting()}
        challenge = _round(line, greeting, self._timeout)
        answer = self._way.answer(greeting, challenge, self._session)
        welcome = _round(line, {"session": self._session, **answer}, self._timeout)
        self.name, self.role = str(welcome["name"]), Role.named(str(welcome["role"]))

    # -- what is different

    def follow(
        self, after: int | None = None, run: str | None = None, *, end: Callable[[], bool] | None = None
    ) -> Iterator[Event]:
        """Yield every event from now on (or after one of a number), in order, without a gap, also across breaks.

        Parameters
        ----------
        after : int, optional
        run : str, optional
            Only of one run.
        end : callable, optional
            Asked about once in 25 s, and after each batch; true ends.
        """
        last = int(self.state()["last_event"]) if after is None else after
        while end is None or not end():
            for event in self.events(last, wait=WAIT, run=run):
                last = event.number
                yield event

    def set(self, parameter: str, value: str | Q, instrument: str | None = None) -> Reading:
        """Set a parameter between runs to a quantity, or text such as ``1 mm``; return its readback afterwards."""
        return super().set(parameter, wire.in_words(value), instrument)

    def check(self, recipe: str | Path, name: str = "recipe.yaml", instrument: str | None = None) -> dict[str, Any]:
        """Validate a recipe (a path, or its text) and return its plan."""
        return super().check(*_recipe(recipe, name), instrument)

    def start(  # type: ignore[override]
        self, recipe: str | Path, name: str = "recipe.yaml", instrument: str | None = None, **how: Any
    ) -> Booking:
        """Check a recipe (a path, or its text) and have it played as soon as its instrument is free."""
        return super().start(*_recipe(recipe, name), instrument, **how)

    def schedule(  # type: ignore[override]
        self, recipe: str | Path, name: str = "recipe.yaml", instrument: str | None = None, **how: Any
    ) -> Booking:
        """Book a recipe (a path, or its text), as ``rilievo schedule add``."""
        return super().schedule(*_recipe(recipe, name), instrument, **how)

    @contextmanager
    def control(self, *, force: bool = False) -> Iterator[Self]:
        """Hold control of the microscope, with a heartbeat from a thread of its own, and let go of it in the end.

        Raises
        ------
        ControlHeld
            Where somebody else has it.
        """
        lease = self.take_control(force)["lease"]
        ended = threading.Event()
        every = float(lease.to("s").magnitude) / 3
        heart = threading.Thread(target=self._beat, args=(ended, every), name="remote: heartbeat", daemon=True)
        heart.start()
        try:
            yield self
        finally:
            ended.set()
            heart.join(LEASE)
            with suppress(RilievoError):
                self.release_control()

    def _beat(self, ended: threading.Event, every: float) -> None:
        while not ended.wait(every):
            with suppress(RemoteError, RunError):  # a server that cannot be reached is tried again
                try:
                    self.keep_control()
                except ControlHeld:  # it lapsed, or was handed over; the next command tells who asks for one
                    break
        with suppress(RilievoError):
            self._let_go()


def _round(line: Line, said: dict[str, Any], seconds: float) -> dict[str, Any]:
    """Say something in a handshake, and return the answer."""
    body = wire.Packed({"handshake": said, "object": OBJECT}).body
    line.send(protocol.SendingMessage(protocol.MSG_CONNECT, 0, 0, MSGPACK, body).data)
    line.expect(seconds)
    message = protocol.recv_stub(line, [protocol.MSG_CONNECTOK, protocol.MSG_CONNECTFAIL])
    answer = wire.plain(bytes(message.data))
    if message.type == protocol.MSG_CONNECTFAIL:
        raise wire.error_of(answer)
    if not isinstance(answer, dict) or not isinstance(answer.get("handshake"), dict):
        raise wire.WireError("whoever listens there is no server of Rilievo's")
    found: dict[str, Any] = answer["handshake"]
    return found


def _explained(error: Exception, where: str) -> RilievoError:
    """Return why a connection could not be made."""
    told = str(error)
    for sign, sentence in _ALERTS.items():
        if sign in told:
            return AccessDenied(sentence, where)
    if isinstance(error, errors.TimeoutError):
        return RemoteTimeout("whoever listens there does not answer; is it a server of Rilievo's?", where)
    if isinstance(error, errors.ProtocolError):
        return wire.WireError("whoever listens there does not speak Pyro's protocol", where)
    return Interrupted(f"the connection was closed ({told}); the server may be full, or ask for a certificate", where)


def _recipe(given: str | Path, name: str) -> tuple[str, str]:
    if not isinstance(given, Path):
        return given, name
    try:
        return given.read_text(encoding="utf-8-sig"), given.name
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"the recipe cannot be read: {error}", str(given)) from None
