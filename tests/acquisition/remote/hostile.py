"""What somebody might send who wants in, or wants the server down: mutated handshakes, messages, annotations."""

from __future__ import annotations

import random
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import msgpack

from acquisition.credentials import Pass, proof
from acquisition.line import head

CONNECT, CONNECT_OK, CONNECT_FAIL, INVOKE, RESULT, PING = 1, 2, 3, 4, 5, 6
MARSHAL_BOMB = b"\xe3" + b"\x00" * 32  # a code object's beginning


def message(kind: int, body: bytes, *, flags: int = 0, serializer: int = 4, annotations: bytes = b"") -> bytes:
    return head(kind, flags, 1, serializer, len(body), len(annotations)) + annotations + body


def connect_body(handshake: Any, target: Any = "rilievo") -> bytes:
    packed: bytes = msgpack.packb({"handshake": handshake, "object": target})
    return packed


HELLO = {"protocol": "1", "nonce": "a" * 64, "who": "eve", "role": "administrator"}
DEEP = b"\x91" * 5000 + b"\xc0"
WIDE = b"\xdd\xff\xff\xff\xff"
EXTENSION = msgpack.packb(msgpack.ExtType(0x31, b"9" * 200_000))
CLASS = msgpack.packb({"__class__": "Pyro5.core.URI", "state": ["PYRO", "x", None, "h", 1]})
HANDSHAKES: list[bytes] = [
    b"",
    b"GET / HTTP/1.1\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    message(PING, b"ping"),
    message(INVOKE, msgpack.packb(["rilievo", "state", [], {}])),
    message(INVOKE, msgpack.packb(["Pyro.Daemon", "registered", [], {}])),
    message(CONNECT, connect_body("hello")),
    message(CONNECT, connect_body(HELLO), serializer=3),
    message(CONNECT, MARSHAL_BOMB, serializer=3),
    message(CONNECT, b"{'handshake': 'hello'}", serializer=1),
    message(CONNECT, b"{}", serializer=2),
    message(CONNECT, connect_body(HELLO), serializer=200),
    message(CONNECT, connect_body(HELLO), flags=2),
    message(CONNECT, connect_body(HELLO), flags=32),
    message(CONNECT, connect_body(HELLO), annotations=b"BLBI\xff\xff\xff\xff"),
    message(CONNECT, connect_body(HELLO), annotations=b"AAAA\x00\x00\x00\x01x"),
    message(CONNECT, connect_body({**HELLO, "protocol": "2"})),
    message(CONNECT, connect_body({**HELLO, "nonce": "short"})),
    message(CONNECT, connect_body({**HELLO, "nonce": 7})),
    message(CONNECT, connect_body({**HELLO, "role": "god"}))
    + message(CONNECT, connect_body({"session": "s" * 32, "proof": "0" * 64})),
    message(CONNECT, connect_body(HELLO)) + message(CONNECT, connect_body({"session": "s" * 32})),
    message(CONNECT, connect_body(HELLO)) + message(CONNECT, connect_body({"session": "", "proof": "é" * 10})),
    message(CONNECT, connect_body(HELLO)) + message(INVOKE, msgpack.packb(["rilievo", "abort", [], {}])),
    message(CONNECT, connect_body(HELLO, "Pyro.Daemon")),
    message(CONNECT, connect_body(HELLO, ["rilievo"])),
    message(CONNECT, DEEP),
    message(CONNECT, WIDE),
    message(CONNECT, EXTENSION[:4000]),
    message(CONNECT, CLASS),
    struct.pack("!4sHBBHHII16sHH", b"PYRO", 502, CONNECT, 4, 0, 0, 2**32 - 1, 0, b"\0" * 16, 0, 0x4DC5),
    struct.pack("!4sHBBHHII16sHH", b"PYRO", 502, CONNECT, 4, 0, 0, 10, 2**32 - 1, b"\0" * 16, 0, 0x4DC5),
    struct.pack("!4sHBBHHII16sHH", b"PYRO", 1, CONNECT, 4, 0, 0, 10, 0, b"\0" * 16, 0, 0x4DC5),
]


def call(name: Any, places: Any = (), names: Any = None, target: Any = "rilievo") -> bytes:
    packed: bytes = msgpack.packb([target, name, places, {} if names is None else names])
    return packed


QUESTIONS: list[bytes] = [
    message(INVOKE, call("state.__globals__")),
    message(INVOKE, call("desk.log.close")),
    message(INVOKE, call("__init__")),
    message(INVOKE, call("__getattr__", ["desk"])),
    message(INVOKE, call("__setattr__", ["person", "x"])),
    message(INVOKE, call("perform", [1, 2, 3])),
    message(INVOKE, call("get_metadata", ["rilievo"], target="Pyro.Daemon")),
    message(INVOKE, call("run", [["x"]])),
    message(INVOKE, call("run", [{"__class__": "builtins.SystemExit", "args": []}])),
    message(INVOKE, call("run", ["../../etc/passwd"])),
    message(INVOKE, call("run", ["x" * 100_000])),
    message(INVOKE, call("run", [], {"run": 1, "self": 2})),
    message(INVOKE, call("run", [], {"__class__": 2})),
    message(INVOKE, call("run", "last", [])),
    message(INVOKE, call("events", [2**63, 1, float("nan")])),
    message(INVOKE, call("events", [0, 10**6, 1e300])),
    message(INVOKE, call("frame", ["last", -1])),
    message(INVOKE, call("check", ["a: &a [*a]\n" * 10])),
    message(INVOKE, call("check", ["[" * 10_000])),
    message(INVOKE, call("take_control", [True])),
    message(INVOKE, call(7)),
    message(INVOKE, b"\xc0"),
    message(INVOKE, msgpack.packb({"a": 1})),
    message(INVOKE, DEEP),
    message(INVOKE, WIDE),
    message(INVOKE, EXTENSION),
    message(INVOKE, CLASS),
    message(INVOKE, MARSHAL_BOMB, serializer=3),
    message(INVOKE, call("state"), flags=32),
    message(INVOKE, call("state"), flags=8),
    message(INVOKE, call("state"), flags=4),
    message(INVOKE, call("state"), flags=2),
    message(INVOKE, call("state"), annotations=b"BLBI\x00\x00\x00\x01x"),
    message(CONNECT, connect_body(HELLO)),
    struct.pack("!4sHBBHHII16sHH", b"PYRO", 502, INVOKE, 4, 0, 1, 2**32 - 1, 0, b"\0" * 16, 0, 0x4DC5),
]


def mutated(of: bytes, random_: random.Random) -> bytes:
    """Return bytes with some changed, taken out, doubled or put in."""
    made = bytearray(of)
    for _ in range(random_.randint(1, 6)):
        at = random_.randint(0, len(made)) if made else 0
        what = random_.randint(0, 4)
        if what == 0 and at < len(made):
            made[at] = random_.randint(0, 255)
        elif what == 1:
            del made[at : at + random_.randint(1, 8)]
        elif what == 2:
            made[at:at] = bytes(random_.randint(0, 255) for _ in range(random_.randint(1, 8)))
        elif what == 3 and made:
            made[at:at] = made[max(0, at - 8) : at]
        else:
            del made[at:]
    return bytes(made)


@dataclass
class Attacker:
    """Speaks to a gate on loopback."""

    port: int
    timeout: float = 5.0

    def socket(self) -> socket.socket:
        sock = socket.create_connection(("127.0.0.1", self.port), self.timeout)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return sock

    def send(self, data: bytes) -> list[tuple[int, Any]]:
        """Send to a new connection, end, and return what messages come back."""
        with self.socket() as sock:
            try:
                sock.sendall(data)
                sock.shutdown(socket.SHUT_WR)
            except OSError:
                pass
            return list(answers(sock))

    def enter(self, found: Pass, session: str = "s" * 32, who: str = "eve") -> tuple[socket.socket, bytes]:
        """Come in with a token; return the open connection, and everything that was said to get in."""
        sock = self.socket()
        try:
            return sock, self._enter(sock, found, session, who)
        except BaseException:
            sock.close()
            raise

    @staticmethod
    def _enter(sock: socket.socket, found: Pass, session: str, who: str) -> bytes:
        hello = {**HELLO, "who": who, "role": str(found.role)}
        first = message(CONNECT, connect_body(hello))
        sock.sendall(first)
        challenge = one_answer(sock)[1]["handshake"]
        words = {
            "name": who,
            "role": str(found.role),
            "client": hello["nonce"],
            "server": challenge["nonce"],
            "session": session,
        }
        second = message(CONNECT, connect_body({"session": session, "proof": proof(found.token, "client", words)}))
        sock.sendall(second)
        kind, said = one_answer(sock)
        if kind != CONNECT_OK:
            raise PermissionError(said["message"])
        return first + second


def read(sock: socket.socket, size: int) -> bytes:
    whole = b""
    while len(whole) < size:
        piece = sock.recv(size - len(whole))
        if not piece:
            raise EOFError
        whole += piece
    return whole


def one_answer(sock: socket.socket) -> tuple[int, Any]:
    """Return kind and content of the next message; the content of an exception under ``error``."""
    first = read(sock, 40)
    kind, _, flags, _, size, beside = struct.unpack("!BBHHII", first[6:20])
    body = read(sock, beside + size)[beside:]
    if kind == PING:
        return kind, body
    content = msgpack.unpackb(body, ext_hook=lambda code, data: (code, data))
    return kind, {"error": content} if flags & 1 else content


def answers(sock: socket.socket) -> Iterator[tuple[int, Any]]:
    """Yield messages until the other side closes."""
    while True:
        try:
            yield one_answer(sock)
        except (EOFError, OSError):
            return
