"""The database behind the log: reached, checked, upgraded and copied, with an error that tells what to do.

SQLite in WAL mode by default, with ``synchronous=FULL``: what a method of the log wrote survives a power cut once it
has returned. (``NORMAL`` would be faster, and lose the last commits; a journal that forgets an intent is none.)
PostgreSQL by URL.
"""

from __future__ import annotations

import contextlib
import json
import math
import sqlite3
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from pint.facets.plain import PlainQuantity
from sqlalchemy import URL, Connection, Engine, create_engine, event, inspect, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, SQLAlchemyError

from drivers.errors import DatabaseError, DiskFull, Response
from drivers.units import quantity_json

if TYPE_CHECKING:
    from alembic.config import Config


class DatabaseFull(DiskFull, DatabaseError):
    """No room left where the database lies: a full disk to whom stores frames, a database error to whom logs."""


class Refusal(DatabaseError):
    """The database works, and does not hold such a thing: another row of the same number, a key that leads nowhere."""

    code = "database-refusal"
    number = 401
    response = Response.SAFE  # a mistake in the program; trying again does not mend it


MIGRATIONS = Path(__file__).parent / "migrations"
BUSY_TIMEOUT = 10.0
"""Seconds to wait for a database that another program holds, or for a server to answer."""

_REFUSALS = frozenset({"IntegrityError", "DataError", "ProgrammingError", "NotSupportedError"})
_SQLITE_HEADER = b"SQLite format 3\x00"


@dataclass(frozen=True, slots=True)
class Schema:
    """Which version of the tables a database has, and which this program writes; None: no tables yet."""

    current: str | None
    newest: str


def locate(target: str | Path) -> URL:
    """Return the URL of a database given as a file or as a URL.

    Raises
    ------
    DatabaseError
        For a URL that cannot be understood, or a kind of database that is not supported.
    """
    text = str(target)
    if isinstance(target, Path) or "://" not in text:
        return URL.create("sqlite", database=str(Path(target).expanduser()))
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):
        raise DatabaseError("this is not a database URL; write a file's path, or postgresql://user@host/name") from None
    kind = url.get_backend_name()
    if kind in ("postgresql", "postgres"):
        return url.set(drivername="postgresql+psycopg")
    if kind == "sqlite" and url.database and url.database != ":memory:":
        return url.set(drivername="sqlite")
    raise DatabaseError(f"{kind} is not supported; give an SQLite file's path or a postgresql:// URL")


def shown(url: URL) -> str:
    """Return a URL as errors show it: a file's path, or the URL without its password."""
    if url.get_backend_name() == "sqlite":
        return str(url.database)
    return url.set(drivername="postgresql").render_as_string(hide_password=True)


def connect(url: URL, *, timeout: float = BUSY_TIMEOUT) -> Engine:
    """Return an engine whose transactions are what the log needs of them; nothing is opened yet."""
    arguments: dict[str, Any]
    if url.get_backend_name() == "sqlite":
        arguments = {"creator": _Opener(str(url.database), timeout)}
    else:
        arguments = {"connect_args": _server_arguments(timeout)}
    try:
        engine = create_engine(url, json_serializer=to_json, pool_pre_ping=True, **arguments)
    except (NoSuchModuleError, ImportError):
        raise DatabaseError(
            "PostgreSQL needs the package psycopg; install it with: pip install 'rilievo[postgres]'", shown(url)
        ) from None
    if url.get_backend_name() == "sqlite":
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
    return engine


class _Opener:
    """Opens an SQLite file, made the first time only: a database that has gone is not replaced by an empty one."""

    def __init__(self, path: str, timeout: float) -> None:
        self._path = path
        self._timeout = timeout
        self._mode = "rwc"

    def __call__(self) -> sqlite3.Connection:
        target = f"file:{quote(self._path)}?mode={self._mode}"
        connection = sqlite3.connect(target, timeout=self._timeout, check_same_thread=False, uri=True)
        self._mode = "rw"
        return connection


def _server_arguments(timeout: float) -> dict[str, Any]:
    """Return what bounds every wait for a server: to connect, for a lock, and for a network that swallows packets."""
    milliseconds = round(1000 * timeout)
    return {
        "connect_timeout": max(2, round(timeout)),
        "options": f"-c lock_timeout={milliseconds} -c statement_timeout={10 * milliseconds}",
        "tcp_user_timeout": milliseconds,
        "keepalives_idle": max(1, round(timeout / 2)),
        "keepalives_interval": 1,
        "keepalives_count": max(1, round(timeout / 2)),
    }


def _prepare_sqlite(connection: sqlite3.Connection, _: object) -> None:
    # Python's module begins transactions late and by its own rules; _begin_sqlite does it instead.
    connection.isolation_level = None
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: Connection) -> None:
    # A transaction that reads first and writes later cannot wait for the lock; so those that write say so at once.
    writes = connection.get_execution_options().get("writes", True)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def to_json(value: object) -> str:
    """Return JSON, with quantities as value and unit, times as ISO 8601, and null for what is not a finite number.

    >>> to_json({"sigma": float("nan"), "limits": (0, float("inf"))})
    '{"sigma": null, "limits": [0, null]}'
    """
    try:
        return json.dumps(value, default=_plain, ensure_ascii=True, allow_nan=False)
    except ValueError:  # rare, and only then is a copy made; PostgreSQL takes no NaN in JSON, and other readers neither
        return json.dumps(_finite(value), ensure_ascii=True, allow_nan=False)


def _finite(value: object) -> object:
    if value is None or isinstance(value, str | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    return _finite(_plain(value))


def _plain(value: object) -> object:
    if isinstance(value, PlainQuantity):
        return quantity_json(value)
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "tolist"):  # numpy scalars and arrays
        return value.tolist()
    if isinstance(value, tuple | set | frozenset):
        return list(value)
    if hasattr(value, "items"):
        return dict(value.items())
    raise TypeError(f"{type(value).__name__} has no form in JSON")


@contextlib.contextmanager
def explained(url: URL, timeout: float = BUSY_TIMEOUT) -> Iterator[None]:
    """Raise what the database library raises as an error that says what to do."""
    try:
        yield
    except SQLAlchemyError as error:
        raise _explanation(error, error.orig if isinstance(error, DBAPIError) else error, url, timeout) from error
    except Exception as error:
        if not _from_a_driver(error):
            raise
        raise _explanation(error, error, url, timeout) from error


def _from_a_driver(error: BaseException) -> bool:
    psycopg = sys.modules.get("psycopg")
    return isinstance(error, sqlite3.Error) or (psycopg is not None and isinstance(error, psycopg.Error))


def _refused(error: BaseException | None) -> bool:
    """Return whether the database works, and will not take this one thing however often it is tried."""
    if getattr(error, "sqlite_errorname", "") == "SQLITE_CONSTRAINT_TRIGGER":
        return False  # somebody's rule about the whole table
    return any(base.__name__ in _REFUSALS for base in type(error).__mro__)


def _lost(outer: BaseException, error: BaseException | None) -> bool:
    if isinstance(outer, DBAPIError) and outer.connection_invalidated:
        return True
    state = str(getattr(error, "sqlstate", None) or "")
    names = {base.__name__ for base in type(error).__mro__}
    return (
        state[:2] == "08" or state[:3] == "57P" or (not state and bool(names & {"OperationalError", "InterfaceError"}))
    )


def _explanation(outer: BaseException, error: BaseException | None, url: URL, timeout: float) -> DatabaseError:
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    where = shown(url)
    low = reason.lower()
    if "is locked" in low:
        return DatabaseError(
            f"the database was locked by another program for more than {timeout:g} s; end that program, or wait", where
        )
    if "is full" in low or "no space left" in low:
        return DatabaseFull("the disk with the database is full; make room", where)
    if "not a database" in low or "malformed" in low:
        return DatabaseError("the file is damaged or not a database; restore a backup or choose another file", where)
    if "unable to open" in low:
        return DatabaseError("the file cannot be opened; check that its folder exists and may be written to", where)
    if "readonly" in low or "read-only" in low:
        return DatabaseError("the database may not be written to; check its permissions", where)
    if _refused(error):
        return Refusal(f"the database refused: {reason}", where)
    if url.get_backend_name() != "sqlite" and _lost(outer, error):
        return DatabaseError(f"the connection to the database server was lost ({reason})", where)
    return DatabaseError(f"the database refused: {reason}", where)


def check_file(url: URL, *, create: bool) -> None:
    """Refuse an SQLite file that is not there and not wanted, or is something else than a database."""
    if url.get_backend_name() != "sqlite":
        return
    path = Path(str(url.database))
    if not path.exists():
        if not create:
            raise DatabaseError("there is no database yet; start a run first, or name another with --db", str(path))
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DatabaseError(f"the database's folder cannot be made: {error.strerror}", str(path)) from None
        return
    try:
        with path.open("rb") as file:
            header = file.read(len(_SQLITE_HEADER))
    except OSError as error:
        raise DatabaseError(f"the file cannot be read: {error.strerror}", str(path)) from None
    if header and header != _SQLITE_HEADER:
        raise DatabaseError("the file is not a database; choose another with --db", str(path))


def reach(engine: Engine, timeout: float) -> None:
    """Connect once, so that an unreachable server is told as such."""
    url = engine.url
    if url.get_backend_name() == "sqlite":
        with explained(url, timeout), engine.connect():
            return
    try:
        with engine.connect():
            return
    except SQLAlchemyError as error:
        reason = " ".join(str(error.orig if isinstance(error, DBAPIError) else error).split())
        raise DatabaseError(
            f"the database server cannot be reached ({reason}); check that it runs, the address, user and password",
            shown(url),
        ) from None


def newest_schema() -> str:
    """Return the version of the tables that this program writes."""
    from alembic.script import ScriptDirectory

    return ScriptDirectory.from_config(_config()).get_current_head() or ""


def schema(engine: Engine) -> Schema:
    """Return which version the tables have.

    Raises
    ------
    DatabaseError
        When the database belongs to a newer version of this program, or to another program.
    """
    from alembic.runtime.migration import MigrationContext
    from alembic.script import ScriptDirectory

    scripts = ScriptDirectory.from_config(_config())
    newest = scripts.get_current_head() or ""
    with explained(engine.url), engine.connect() as connection:
        current = MigrationContext.configure(connection).get_current_revision()
        names = set(inspect(connection).get_table_names())
    where = shown(engine.url)
    if current is None and names - {"alembic_version"}:
        raise DatabaseError(
            f"the database belongs to another program (it has tables such as {min(names)}); choose another with --db",
            where,
        )
    if current is not None and current not in {script.revision for script in scripts.walk_revisions()}:
        raise DatabaseError(
            f"the database has schema {current}, made by a newer version of Rilievo; this one knows schemas up to "
            f"{newest}. Install the newer version, or name another database with --db",
            where,
        )
    return Schema(current, newest)


def upgrade(engine: Engine) -> Schema:
    """Bring the tables to this program's version; return what they were before. All of it happens, or nothing."""
    from alembic import command

    before = schema(engine)
    if before.current != before.newest:
        config = _config()
        with (
            explained(engine.url),
            engine.connect() as connection,
            _tables_may_be_copied(connection),
            connection.begin(),
        ):
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
    return before


@contextlib.contextmanager
def _tables_may_be_copied(connection: Connection) -> Iterator[None]:
    """Let SQLite put a changed copy in the place of a table that others refer to; the references must hold again."""
    if connection.dialect.name != "sqlite":
        yield
        return
    raw = connection.connection.driver_connection
    assert isinstance(raw, sqlite3.Connection)  # noqa: S101  the dialect says so
    raw.execute("PRAGMA foreign_keys=OFF")  # has no effect within a transaction
    try:
        yield
    finally:
        raw.execute("PRAGMA foreign_keys=ON")


def _config() -> Config:
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config


def backup(engine: Engine, path: Path) -> Path:
    """Copy an SQLite database, whole and consistent, while it is in use.

    Raises
    ------
    DatabaseError
        When the target exists, cannot be written, or the database is a server's.
    """
    if engine.dialect.name != "sqlite":
        raise DatabaseError(
            "a PostgreSQL database is backed up by its own tool: pg_dump --format=custom", shown(engine.url)
        )
    if path.exists():
        raise DatabaseError("the file exists already; a backup does not overwrite, choose another name", str(path))
    part = path.with_name(f".{path.name}.part")
    try:
        part.unlink(missing_ok=True)
        with contextlib.closing(sqlite3.connect(part)) as target, explained(engine.url), engine.connect() as source:
            raw = source.connection.driver_connection
            assert isinstance(raw, sqlite3.Connection)  # noqa: S101  the dialect says so
            raw.backup(target)
            target.execute("PRAGMA journal_mode=DELETE")
        part.rename(path)
    except (OSError, sqlite3.Error) as error:
        part.unlink(missing_ok=True)
        raise DatabaseError(f"the backup cannot be written: {error}", str(path)) from None
    return path
