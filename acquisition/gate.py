"""The gate: where the server is reached from elsewhere, over Pyro5, by those with a token or a certificate.

Pyro's own daemon trusts whoever reaches it: the peer chooses how its message is to be read (also by ``marshal``), a TLS
handshake is waited for in the one thread that accepts, replies and one-way calls have no bounds, and its settings are
one object for the whole process. This daemon speaks the same protocol and keeps Pyro's hooks, with its own reading and
its own listener, and touches none of those settings: msgpack alone, no compression, no batches, no one-way calls, no
attributes; the names of :data:`acquisition.seat.COMMANDS`; text, numbers and truth values as arguments.

No peer holds up another one, or a run: each connection has a thread of its own and a deadline for each message, there
are at most so many, the oldest that has not said who it is makes room for a newer one, and nobody is ever pushed.
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import socket
import ssl
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from Pyro5 import errors, protocol
from Pyro5.server import Daemon

from acquisition import wire
from acquisition.access import AccessDenied, Overload, Person, Role
from acquisition.authority import Authority
from acquisition.buckets import Bucket, Buckets
from acquisition.credentials import Tokens, nonce, proof
from acquisition.desk import Desk
from acquisition.line import HEAD, Line, head
from acquisition.seat import COMMANDS, Seat
from acquisition.wire import Packed, WireError
from drivers.clock import Clock
from drivers.errors import InputError, RilievoError, RunError

OBJECT = "rilievo"
"""Name of the one object there is."""
PORT = 7487
"""Unless another is named."""
MSGPACK = 4
"""Pyro's number of it."""
_HANDSHAKE_BYTES = 4096
_NOTED = 1000
_SCALARS = (type(None), bool, int, float, str)


@dataclass(frozen=True, slots=True)
class Bounds:
    """What peers may take up.

    Attributes
    ----------
    connections : int
        At once; each has a thread.
    strangers : int
        Connections at once that have not said yet who they are.
    handshake : float, s
        In which they have to.
    connects, connects_at_once : float
        New connections from one address: a second, and in a burst.
    requests, requests_at_once : float
        Of all peers together.
    request_bytes : int
    patience : float, s
        For a message to come in, or for a peer to take some of an answer.
    idle : float, s
        After which a connection without a question is closed; the client makes a new one.
    """

    connections: int = 128
    strangers: int = 64
    handshake: float = 5.0
    connects: float = 50.0
    connects_at_once: float = 200.0
    requests: float = 5000.0
    requests_at_once: float = 5000.0
    request_bytes: int = 2**21
    patience: float = 10.0
    idle: float = 600.0


def is_loopback(host: str) -> bool:
    """Return whether an address is reached from this computer alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens.

    Raises
    ------
    RunError
        For a port that is in use, or an address that is not this computer's; with the remedy.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=128)
    except OSError as error:
        remedy = {
            errno.EADDRINUSE: "another program has this port; end it, or choose another one with --port",
            errno.EADDRNOTAVAIL: "this computer does not have this address; choose another one with --host",
            errno.EACCES: "only the system's administrator may use this port; choose one above 1023 with --port",
        }.get(error.errno or 0, str(error.strerror or error))
        raise RunError(remedy, f"{host}:{port}") from None
    except OverflowError:
        raise InputError(f"expected a port from 0 to 65535; got {port}", "--port") from None


def is_free(host: str, port: int) -> bool:
    """Return whether nobody has a port."""
    try:
        listen(host, port).close()
    except RilievoError:
        return False
    return True


class _Peer:
    """A connection, its thread, and who it is."""

    def __init__(self, line: Line, thread: threading.Thread, since: float) -> None:
        self.line = line
        self.thread = thread
        self.since = since
        self.seat: Seat | None = None
        self.serial: int | None = None
        self.going = False

    def cut(self) -> None:
        self.going = True
        with contextlib.suppress(OSError):
            self.line.sock.shutdown(socket.SHUT_RDWR)


class Gate(Daemon):  # type: ignore[misc]
    """Lets people in.

    Parameters
    ----------
    desk : Desk
    host : str
    port : int
        0 takes one that is free; see :attr:`port`.
    authority : Authority, optional
        Whose certificates are asked for, in both directions; any other address than loopback needs one. Without it,
        tokens are.
    bounds : Bounds, optional
    clock : Clock, optional
        The desk's.

    Raises
    ------
    InputError
        For an address that is not loopback, without certificates.
    RunError
        As :func:`listen`.
    """

    def __init__(
        self,
        desk: Desk,
        host: str = "127.0.0.1",
        port: int = PORT,
        *,
        authority: Authority | None = None,
        bounds: Bounds | None = None,
        clock: Clock | None = None,
    ) -> None:
        if authority is None and not is_loopback(host):
            raise InputError(
                f"{host} can be reached by others, who have to show certificates; make them with rilievo serve "
                "--init-tls, or listen on 127.0.0.1",
                "--host",
            )
        context = None if authority is None else authority.server_context()
        self._listener = listen(host, port)
        # Pyro's daemon wants a transport of Pyro's; it gets one that nobody is connected to, and never runs it.
        self._unused = socket.socketpair()
        super().__init__(connected_socket=self._unused[0])
        self._desk = desk
        self._clock = clock or desk.clock
        self._bounds = bounds or Bounds()
        self._authority = authority
        self._context = context
        self._tokens = Tokens(desk.laboratory.folder)
        self.host, self.port = host, int(self._listener.getsockname()[1])
        self._connects = Buckets(self._bounds.connects, self._bounds.connects_at_once, self._clock)
        self._requests = Bucket(self._bounds.requests, self._bounds.requests_at_once, self._clock)
        self._noted = Bucket(0.2, 20.0, self._clock)
        self._lock = threading.Lock()
        self._peers: dict[Line, _Peer] = {}
        self._known: dict[str, None] = {}
        self._end = threading.Event()
        self._door = threading.Thread(target=self._accept_all, name="remote: door", daemon=True)
        self.refused = 0
        """Connections that did not get in."""

    # -- its life

    def start(self) -> None:
        """Let people in from now on; with tokens, leave them where their user finds them."""
        if self._authority is None:
            self._tokens.write(self.host, self.port)
        self._listener.settimeout(0.25)
        self._door.start()

    def close(self) -> None:
        """Let nobody in any more, and cut every connection. Close the desk first, so that nobody waits for events."""
        if self._end.is_set():
            return
        self._end.set()
        if self._door.ident is not None:
            self._door.join(5.0)
        self._listener.close()
        if self._authority is None:
            self._tokens.remove()
        with self._lock:
            peers = list(self._peers.values())
        for peer in peers:
            peer.cut()
        for peer in peers:
            peer.thread.join(2.0)
        for one in self._unused:
            one.close()
        super().close()

    def __repr__(self) -> str:
        return f"<Gate on {self.host}:{self.port}>"

    @property
    def certificates(self) -> bool:
        """Whether people show certificates, not tokens."""
        return self._authority is not None

    @property
    def connections(self) -> int:
        """How many there are."""
        return len(self._peers)

    # -- the door

    def _accept_all(self) -> None:
        looked = self._clock.monotonic()
        while not self._end.is_set():
            now = self._clock.monotonic()
            if now - looked >= 0.25:
                looked = now
                self._look_after(now)
            try:
                sock, address = self._listener.accept()
            except TimeoutError:
                continue
            except OSError:  # no file descriptor is left, or the peer has gone already
                self._end.wait(0.05)
                continue
            self._admit(sock, address[0])

    def _admit(self, sock: socket.socket, host: str) -> None:
        if not self._connects.try_take(host) or len(self._peers) >= self._bounds.connections + self._bounds.strangers:
            self.refused += 1
            sock.close()
            return
        with self._lock:
            strangers = [peer for peer in self._peers.values() if peer.seat is None and not peer.going]
            if len(strangers) >= self._bounds.strangers:
                strangers[0].cut()
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        line = Line(sock, patience=self._bounds.handshake, idle=self._bounds.handshake)
        thread = threading.Thread(target=self._serve, args=(line,), name=f"remote {line.peer}", daemon=True)
        with self._lock:
            line.owner = self._peers[line] = _Peer(line, thread, self._clock.monotonic())
        thread.start()

    def _look_after(self, now: float) -> None:
        """Cut who has not said in time who they are, and whose certificate was revoked meanwhile."""
        with self._lock:
            peers = list(self._peers.values())
        revoked = frozenset() if self._authority is None else self._authority.revoked()
        for peer in peers:
            if (peer.seat is None and now - peer.since > self._bounds.handshake) or peer.serial in revoked:
                peer.cut()

    def _serve(self, line: Line) -> None:
        """Serve one connection to its end; the whole of its thread."""
        peer = self._peers[line]
        try:
            if self._context is not None:
                line = peer.line = self._encrypted(line)
                line.owner = peer
            if self._handshake(line):
                while not self._end.is_set():
                    self.handleRequest(line)
        except (OSError, errors.CommunicationError, WireError):
            pass  # it went, was cut, or said what nobody says
        finally:
            if peer.seat is None:
                self.refused += 1
            with self._lock:
                self._peers = {key: other for key, other in self._peers.items() if other is not peer}
            line.owner = None
            line.close()

    def _encrypted(self, line: Line) -> Line:
        """Return the line with TLS on it."""
        assert self._context is not None  # noqa: S101
        address = line.peer
        line.sock.settimeout(self._bounds.handshake)
        sock = self._context.wrap_socket(line.sock, server_side=True, do_handshake_on_connect=False)
        try:
            sock.do_handshake()
        except ssl.SSLError as error:
            self._note_refused(address, f"TLS: {error.reason or error}")
            _let_hear(sock)
            sock.close()
            raise
        except BaseException:
            sock.close()
            raise
        return Line(sock, patience=self._bounds.handshake, idle=self._bounds.handshake)

    # -- who comes

    @staticmethod
    def _peer(line: Line) -> _Peer:
        peer: _Peer = line.owner
        return peer

    def _handshake(self, line: Line, denied_reason: str | None = None) -> bool:  # noqa: ARG002  Pyro's signature
        """Let somebody in, in two rounds: fresh numbers both ways, then the proof; return whether they are in."""
        sequence = 0
        greeting: dict[str, Any] = {}
        for _ in range(2):
            try:
                line.await_message()
                message = self._read(line, (protocol.MSG_CONNECT,), _HANDSHAKE_BYTES)
                sequence = message.seq
                said = wire.plain(message.data, _HANDSHAKE_BYTES)
                if not isinstance(said, dict) or said.get("object") != OBJECT:
                    raise WireError(f"expected a handshake with the object {OBJECT!r}")
                answer = self.validateHandshake(line, said.get("handshake"), greeting)
            except RilievoError as error:
                self._note_refused(line.peer, error.message)
                body = Packed(wire.error_body(error)).body
                line.send_all([head(protocol.MSG_CONNECTFAIL, 0, sequence, MSGPACK, len(body), 0), body])
                return False
            body = Packed({"handshake": answer, "meta": None}).body
            line.send_all([head(protocol.MSG_CONNECTOK, 0, sequence, MSGPACK, len(body), 0), body])
        line.patience, line.idle = self._bounds.patience, self._bounds.idle
        return True

    def validateHandshake(self, conn: Line, data: Any, greeting: dict[str, Any] | None = None) -> dict[str, Any]:  # noqa: N802  Pyro's name
        """Return the answer to one round of a handshake.

        Raises
        ------
        AccessDenied
            To who cannot prove who they are.
        WireError
            For what is no handshake.
        """
        greeting = {} if greeting is None else greeting
        if not isinstance(data, dict) or not all(isinstance(value, str) for value in data.values()):
            raise WireError("expected a handshake: a map of text")
        return self._challenge(conn, data, greeting) if not greeting else self._welcome(conn, data, greeting)

    def _challenge(self, line: Line, said: Mapping[str, str], greeting: dict[str, Any]) -> dict[str, Any]:
        if said.get("protocol") != "1":
            raise WireError(f"this server speaks version 1; got {said.get('protocol')!r}. Install the same version")
        if not 16 <= len(said.get("nonce", "")) <= 256:
            raise WireError("expected a nonce of 16 characters or more")
        if self._authority is not None:
            name, role, serial = self._authority.person_of(line.sock.getpeercert(), line.sock.getpeercert(True))
            greeting.update(name=name, role=str(role), by="certificate", serial=serial)
            return {"by": "certificate"}
        greeting.update(
            name=_name(said.get("who", "")), role=said.get("role", ""), by="token", client=said["nonce"], server=nonce()
        )
        words = _words(greeting, "")
        return {
            "by": "token",
            "nonce": greeting["server"],
            "proof": proof(self._tokens.of(greeting["role"]), "server", words),
        }

    def _welcome(self, line: Line, said: Mapping[str, str], greeting: dict[str, Any]) -> dict[str, Any]:
        session = said.get("session", "")
        if not 16 <= len(session) <= 128:
            raise WireError("expected a session of 16 characters or more")
        if self._authority is None:
            role = self._tokens.require(greeting["role"], _words(greeting, session), said.get("proof", ""))
        else:
            role = Role.named(greeting["role"])
        with self._lock:
            known = sum(peer.seat is not None for peer in self._peers.values())
        if known >= self._bounds.connections:
            raise Overload(f"{known} connections are open, and no more are taken; close some")
        name, by = greeting["name"], greeting["by"]
        person = Person(name, role, line.peer, by, f"{by} {name} {session}")
        peer = self._peer(line)
        peer.seat, peer.serial = self._desk.seat(person), greeting.get("serial")
        self._note_came(person)
        return {"name": name, "role": str(role)}

    def _note_came(self, person: Person) -> None:
        """Write down once that somebody came who can command something."""
        if not person.role.covers(Role.OPERATOR):
            return
        with self._lock:
            if person.session in self._known:
                return
            self._known[person.session] = None
            if len(self._known) > _NOTED:
                del self._known[next(iter(self._known))]
        self._desk.note(person, f"connected, by {person.by}")

    def _note_refused(self, address: str, why: str) -> None:
        if self._noted.try_take():
            with contextlib.suppress(RilievoError):
                now = self._clock.now()
                self._desk.log.event(None, now, "warning", "audit", f"a connection from {address} was refused: {why}")

    # -- what they ask

    def _read(self, line: Line, kinds: tuple[int, ...], most: int) -> Any:
        """Return the message that has begun, whose size and kind were looked at before any of it was read."""
        try:
            message = protocol.ReceivingMessage(bytes(line.recv(HEAD)))
        except errors.ProtocolError as error:
            raise WireError(f"this is no message of Pyro's: {error}") from None
        if message.type not in kinds:
            raise WireError(f"a message of kind {message.type} does not belong here")
        if message.serializer_id != MSGPACK and message.type != protocol.MSG_PING:
            raise WireError("messages are read as msgpack alone (Pyro5.config.SERIALIZER = 'msgpack')")
        if message.flags & ~protocol.FLAGS_CORR_ID:
            raise WireError("compressed, batched, one-way and serialised messages are not taken")
        if message.annotations_size or message.data_size > most:
            raise WireError(f"expected at most {most} bytes and no annotations; got {message.data_size}")
        message.data = bytes(line.recv(message.data_size))
        return message

    def handleRequest(self, conn: Line) -> None:  # noqa: N802  Pyro's name
        """Take one question and answer it; what is no question ends the connection."""
        conn.await_message()
        message = self._read(conn, (protocol.MSG_INVOKE, protocol.MSG_PING), self._bounds.request_bytes)
        wait = self._requests.take()
        if wait > 0:
            self._end.wait(min(wait, 1.0))
        if message.type == protocol.MSG_PING:
            conn.send_all([head(protocol.MSG_PING, 0, message.seq, MSGPACK, 4, 0), b"pong"])
            return
        try:
            answer, flags = Packed(self._answer(conn, message.data)), 0
        except Exception as error:  # noqa: BLE001  told to who asked, whatever it is; the next question is answered
            if not isinstance(error, RilievoError):
                self._note_failure(conn, error)
            answer, flags = Packed(wire.error_body(error)), protocol.FLAGS_EXCEPTION
        beside: list[Any] = []
        for number, piece in enumerate(answer.pieces):
            size = memoryview(piece).nbytes
            beside += [wire.piece_name(number).encode() + size.to_bytes(4, "big"), piece]
        total = sum(memoryview(piece).nbytes for piece in beside)
        first = head(protocol.MSG_RESULT, flags, message.seq, MSGPACK, len(answer.body), total)
        conn.send_all([first, *beside, answer.body])

    def _answer(self, line: Line, body: bytes) -> Any:
        asked = wire.plain(body, self._bounds.request_bytes)
        if not isinstance(asked, list) or len(asked) != 4:
            raise WireError("expected object, name, arguments and named arguments")
        target, name, places, names = asked
        if target != OBJECT or not isinstance(name, str) or name not in COMMANDS:
            raise InputError(f"there is no {str(name)[:60]!r} here; there are {', '.join(COMMANDS)}")
        places, names = places or [], names or {}
        if not isinstance(places, list) or not isinstance(names, dict):
            raise WireError("expected arguments as a list, and named arguments as a map")
        for value in (*places, *names.values()):
            if not isinstance(value, _SCALARS):
                raise InputError(f"expected text, numbers and truth values; got a {type(value).__name__}", name)
        seat = self._peer(line).seat
        if seat is None:
            raise AccessDenied("nobody has said yet who asks")
        return getattr(seat, name)(*places, **names)

    def _note_failure(self, line: Line, error: Exception) -> None:
        if self._noted.try_take():
            told = f"a question from {line.peer} failed: {type(error).__name__}: {error}"
            with contextlib.suppress(RilievoError):
                self._desk.log.event(None, self._clock.now(), "error", "remote", told[:1000])


def _let_hear(sock: ssl.SSLSocket) -> None:
    """Wait until a peer that TLS refused has gone: closing over what it has just sent would lose why."""
    with contextlib.suppress(OSError, ValueError):
        bare = socket.socket(fileno=sock.detach())
        with bare:
            bare.shutdown(socket.SHUT_WR)
            bare.settimeout(0.3)
            for _ in range(8):
                if not bare.recv(4096):
                    return


def _words(greeting: Mapping[str, Any], session: str) -> dict[str, str]:
    """Return what both sides know, and prove their token by."""
    return {**{key: greeting[key] for key in ("name", "role", "client", "server")}, "session": session}


def _name(given: str) -> str:
    """Return the name that somebody gives themselves, as it may stand in a log."""
    plain = "".join(character for character in given if character.isprintable()).strip()[:64]
    return plain or "somebody"
