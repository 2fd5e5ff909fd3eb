"""One owner at a time: of the calendar, of the alerts, of an instrument.

Two processes that own one calendar would play every night twice. The lock is the kernel's (``flock`` on a file in the
data folder), so that it is free again the moment its process dies, however it dies; the file says who holds it. Where
the database is a server's, which others reach from other folders and computers, an advisory lock there is taken too.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import socket
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import SQLAlchemyError

from acquisition import database
from drivers.clock import Clock, RealClock
from drivers.errors import RunError, StoreError

_ATTEMPTS, _PAUSE = 5, 0.02
"""Whoever only asks who holds a lock touches it for a moment; an owner looks again before it gives up."""


class Owned(RunError):
    """Another process owns what this one wants to own."""

    code = "owned"
    number = 520


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds a lock.

    Attributes
    ----------
    pid : int
    since : datetime
        UTC.
    host : str
    """

    pid: int
    since: datetime
    host: str

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host} since {self.since:%Y-%m-%d %H:%M:%S} UTC"


class Ownership:
    """A lock that is held; make it with :meth:`take`.

    Parameters
    ----------
    file : int
        Descriptor of the locked file.
    connection : sqlalchemy.Connection, optional
        The one that holds the advisory lock.
    """

    def __init__(self, file: int, connection: Connection | None = None) -> None:
        self._file: int | None = file
        self._connection = connection
        self._session = None if connection is None else connection.execute(text("SELECT pg_backend_pid()")).scalar()

    @classmethod
    def take(cls, folder: Path, what: str, engine: Engine | None = None, clock: Clock | None = None) -> Self:
        """Become the owner of ``what`` in a data folder, and in its database.

        Parameters
        ----------
        folder : Path
        what : str
            In words, such as ``calendar``; also the lock file's name.
        engine : sqlalchemy.Engine, optional
            Of the database; only a server's knows locks of its own.
        clock : Clock, optional

        Raises
        ------
        Owned
            Where another process is; says which, and since when.
        """
        clock = clock or RealClock()
        path = _path(folder, what)
        try:
            file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise StoreError(
                f"the lock cannot be made: {error.strerror}; check the folder's rights", str(path)
            ) from None
        try:
            _lock(file, path, what, clock)
            connection = _advisory(engine, what) if engine is not None else None
            body = {"pid": os.getpid(), "since": clock.now().isoformat(), "host": socket.gethostname()}
            os.truncate(file, 0)
            os.pwrite(file, json.dumps(body).encode(), 0)
        except BaseException:
            os.close(file)
            raise
        return cls(file, connection)

    @property
    def held(self) -> bool:
        """Whether it still holds: a lost connection to a database's server loses the lock there."""
        if self._file is None:
            return False
        if self._connection is None:
            return True
        try:  # SQLAlchemy connects again in silence; the lock stays with the session that took it
            return self._connection.execute(text("SELECT pg_backend_pid()")).scalar() == self._session
        except SQLAlchemyError:
            return False

    def release(self) -> None:
        """Let go."""
        if self._connection is not None:
            _hang_up(self._connection)
            self._connection = None
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.release()


def holder(folder: Path, what: str) -> Holder | None:
    """Return who owns ``what`` in a data folder; None where nobody does."""
    path = _path(folder, what)
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _read(file)
    finally:
        os.close(file)
    return None


def _path(folder: Path, what: str) -> Path:
    return folder / f"{re.sub(r'[^A-Za-z0-9]+', '-', what).strip('-').lower()}.lock"


def _lock(file: int, path: Path, what: str, clock: Clock) -> None:
    for attempt in range(_ATTEMPTS):
        if attempt:
            clock.sleep(_PAUSE)
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
    told = _read(file)
    raise Owned(f"the {what} is owned by {told or 'another process'}; end that one first", str(path))


def _read(file: int) -> Holder | None:
    try:
        body = json.loads(os.pread(file, 4096, 0))
        return Holder(int(body["pid"]), datetime.fromisoformat(body["since"]).astimezone(UTC), str(body["host"]))
    except (ValueError, KeyError, TypeError):  # its owner is about to write it
        return None


def _advisory(engine: Engine, what: str) -> Connection | None:
    """Take the lock in the database's server; None where the database is a file."""
    if engine.dialect.name != "postgresql":
        return None
    key = int.from_bytes(hashlib.sha256(f"rilievo {what}".encode()).digest()[:8], signed=True)
    # A connection of its own: the lock lives and dies with the session, which no pool may share or keep.
    with database.explained(engine.url):
        connection = database.connect(engine.url).connect().execution_options(isolation_level="AUTOCOMMIT")
        if connection.execute(text("SELECT pg_try_advisory_lock(:key)"), {"key": key}).scalar():
            return connection
        row = connection.execute(
            text(
                "SELECT coalesce(host(a.client_addr), 'the server itself'), a.backend_start FROM pg_locks l "
                "JOIN pg_stat_activity a USING (pid) WHERE l.locktype = 'advisory' AND l.granted "
                "AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database()) "
                "AND l.objsubid = 1 AND ((l.classid::bigint << 32) | l.objid::bigint) = :key"
            ),
            {"key": key},
        ).first()
        _hang_up(connection)
    by = f"a process on {row[0]} since {row[1].astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC" if row else "another process"
    raise Owned(f"the {what} of this database is owned by {by}; end that one first", database.shown(engine.url))


def _hang_up(connection: Connection) -> None:
    """End a session with the database."""
    with contextlib.suppress(SQLAlchemyError):
        connection.close()
    connection.engine.dispose()
