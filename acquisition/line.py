"""A connection whose every wait has an end: one peer, one message at a time, on plain TCP or TLS.

Pyro5's own connections wait for each piece as long as the socket's timeout says, so that a peer that sends a byte now
and then holds its thread for ever. Here a message as a whole has a deadline, which grows with its size; a peer that
takes nothing for a while is given up.
"""

from __future__ import annotations

import socket
import ssl
import struct
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from Pyro5 import protocol
from Pyro5.errors import ConnectionClosedError
from Pyro5.errors import TimeoutError as Overdue
from Pyro5.socketutil import SocketConnection

BUFFER = 2**16
SLOWEST = 64e3
"""Bytes per second below which a peer is too slow."""
_PIECE = 2**20
_MOST_PIECES = 64  # well below what one call takes


class Line(SocketConnection):  # type: ignore[misc]
    """A connection that reads and writes whole messages in time.

    Parameters
    ----------
    sock : socket.socket
    name : str, optional
        Of the object that is called, for Pyro's proxy.
    patience : float, s
        For a message once it has begun, beside what its size takes; and for a peer that takes nothing.
    idle : float or None, s
        Until a message begins; None waits for ever.
    """

    def __init__(
        self, sock: socket.socket, name: str | None = None, patience: float = 10.0, idle: float | None = None
    ) -> None:
        super().__init__(sock, name)
        self.patience = patience
        self.idle = idle
        self._kept = bytearray()
        self._until: float | None = None
        self.owner: Any = None
        self._tls = isinstance(sock, ssl.SSLSocket)

    @property
    def peer(self) -> str:
        """Where it comes from."""
        try:
            host, port = self.sock.getpeername()[:2]
        except OSError:
            return "gone"
        return f"{host}:{port}"

    def begin(self, size: int = 0) -> None:
        """Give the message that has begun its deadline, for ``size`` bytes to come."""
        self._until = time.monotonic() + self.patience + size / SLOWEST

    def expect(self, seconds: float) -> None:
        """Give what comes next its deadline."""
        self._until = time.monotonic() + seconds

    def await_message(self) -> None:
        """Wait until a message begins, for as long as idling is allowed."""
        self._until = None
        if not self._kept:
            self._fill(self.idle)
        self.begin()

    def recv(self, size: int) -> bytearray | memoryview:
        """Return so many bytes.

        Raises
        ------
        Pyro5.errors.ConnectionClosedError
            When the peer has gone.
        Pyro5.errors.TimeoutError
            When the message's deadline has passed.
        """
        kept = self._kept
        if size > BUFFER:
            return self._large(size)
        while len(kept) < size:
            self._fill(self._left())
        found = kept[:size]
        del kept[:size]
        return found

    def _left(self) -> float | None:
        if self._until is None:
            return self.idle
        left = self._until - time.monotonic()
        if left <= 0:
            raise Overdue("the message did not arrive in time")
        return left

    def _fill(self, timeout: float | None) -> None:
        try:
            if timeout is None:
                self._block(socket.SO_RCVTIMEO, None)
            else:
                self.sock.settimeout(timeout)
            piece = self.sock.recv(BUFFER)
        except (Overdue, OSError) as error:
            raise _told(error, "receiving") from None
        if not piece:
            raise ConnectionClosedError("the other side closed the connection")
        self._kept += piece

    def _large(self, size: int) -> memoryview:
        self.begin(size)
        view = np.empty(size, np.uint8).data  # its bytes need not be zero first
        taken = min(size, len(self._kept))
        view[:taken] = self._kept[:taken]
        del self._kept[:taken]
        while taken < size:
            try:
                if self._tls:
                    self.sock.settimeout(self._left())
                    count = self.sock.recv_into(view[taken : taken + _PIECE])
                else:
                    self._block(socket.SO_RCVTIMEO, self._left())
                    count = self.sock.recv_into(view[taken:], 0, socket.MSG_WAITALL)
            except (Overdue, OSError) as error:
                raise _told(error, "receiving") from None
            if not count:
                raise ConnectionClosedError("the other side closed the connection in mid-message")
            taken += count
        return view

    def _block(self, which: int, seconds: float | None) -> None:
        """Let the system wait for much at once, at most so long: it wakes this thread once, not for each piece."""
        whole = 0.0 if seconds is None else max(seconds, 1e-3)
        self.sock.settimeout(None)
        self.sock.setsockopt(socket.SOL_SOCKET, which, struct.pack("@ll", int(whole), int(whole % 1 * 1e6)))

    def send(self, data: bytes) -> None:
        """Send bytes; errors as :meth:`recv`."""
        self.send_all([data])

    def send_all(self, pieces: Sequence[Any]) -> None:
        """Send pieces (bytes-like) one after the other, without joining the large ones; errors as :meth:`recv`."""
        views = [view for view in (memoryview(piece).cast("B") for piece in pieces) if len(view)]
        size = sum(len(view) for view in views)
        until = time.monotonic() + self.patience + size / SLOWEST
        if size <= BUFFER or self._tls:
            views = _joined(views)
        while views:
            left = until - time.monotonic()
            if left <= 0:
                raise Overdue("the other side takes its messages too slowly")
            try:
                if self._tls or size <= BUFFER:
                    self.sock.settimeout(min(left, self.patience))
                    count = self.sock.send(views[0][:_PIECE])
                else:
                    self._block(socket.SO_SNDTIMEO, min(left, self.patience))
                    count = self.sock.sendmsg(views[:_MOST_PIECES])
            except (Overdue, OSError) as error:
                raise _told(error, "sending") from None
            while views and count >= len(views[0]):
                count -= len(views.pop(0))
            if count:
                views[0] = views[0][count:]


def _joined(views: list[memoryview]) -> list[memoryview]:
    """Return pieces with the small ones joined: each costs a call, and a record of TLS."""
    joined: list[memoryview] = []
    small: list[memoryview] = []
    for view in views:
        if len(view) < BUFFER:
            small.append(view)
            continue
        if small:
            joined.append(memoryview(b"".join(small)))
            small = []
        joined.append(view)
    if small:
        joined.append(memoryview(b"".join(small)))
    return joined


def _told(error: Exception, doing: str) -> Any:
    if isinstance(error, Overdue):
        return error
    if isinstance(error, TimeoutError | BlockingIOError | ssl.SSLWantReadError | ssl.SSLWantWriteError):
        return Overdue(f"the other side did not answer in time ({doing})")
    return ConnectionClosedError(f"the connection broke ({doing}): {error}")


def head(kind: int, flags: int, sequence: int, serializer: int, size: int, annotations: int) -> bytes:
    """Return the header of a Pyro message, for a payload and annotations of so many bytes."""
    return struct.pack(
        protocol._header_format,  # noqa: SLF001  the wire's format, of which Pyro has no other name
        b"PYRO",
        protocol.PROTOCOL_VERSION,
        kind,
        serializer,
        flags,
        sequence,
        size,
        annotations,
        b"\0" * 16,
        0,
        protocol._magic_number,  # noqa: SLF001
    )


HEAD = protocol._header_size  # noqa: SLF001
"""Bytes of a header."""
