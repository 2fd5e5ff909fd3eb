"""The connection through which a log writes: one transaction at a time, each as durable as was asked.

The statements are made from the tables once and go to the database's driver directly: an entry in the journal costs
tens of microseconds, where the object-relational layer takes hundreds.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

from sqlalchemy import (
    BindParameter,
    Dialect,
    Engine,
    bindparam,
    delete,
    func,
    insert,
    literal_column,
    null,
    select,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite

from acquisition import database, spans, tables
from acquisition.entry import Entry, Row
from drivers.errors import DatabaseError, InputError, RunError

_EVENTS_LOCK = 0x52494C  # any number that other programs on the same server are unlikely to lock
_COPIED = 200
"""Readings from which on PostgreSQL takes them as a stream rather than row by row."""


@dataclass(frozen=True, slots=True)
class Mark:
    """Up to which of its entries a ledger's are in the database; written with them in one transaction."""

    session: str
    sequence: int
    time: datetime


class Writer:
    """Enters what it is given. May be used from several threads, which take turns.

    Parameters
    ----------
    engine : Engine
    timeout : float, s
        For the explanation of a lock that was waited for.
    """

    def __init__(self, engine: Engine, timeout: float) -> None:
        # SQLite has one writer at a time; waiting here is fair and quick, waiting in SQLite is neither.
        self.turn = threading.RLock()
        self._engine = engine
        self._timeout = timeout
        self._sqlite = engine.dialect.name == "sqlite"
        self._raw: Any = None
        self._durable = True  # as database.connect has it
        self._path = str(engine.url.database)
        self._file = _identity(self._path) if self._sqlite else None
        self._channels: dict[tuple[str | None, str], tuple[int, str]] = {}
        self._found: dict[tuple[str | None, str], tuple[int, str]] = {}
        self._verbs: dict[str, Callable[[Any, Row], int | None]] = {
            "set_state": self._set_state,
            "intent": self._intent,
            "outcome": self._outcome,
            "mark": self._marked,
            "setpoint": self._insert("setpoint"),
            "readings": self._readings,
            "frame": self._insert("frame", keyed=True),
            "reconstruction": self._reconstruction,
            "event": self._event,
            "correction": self._insert("correction"),
        }

    def write(self, entries: Sequence[Entry], *, durable: bool, mark: Mark | None = None) -> int | None:
        """Enter in one transaction; return the key of the last entry where it has one."""
        key = None
        with self.transaction(durable=durable) as cursor:
            for entry in entries:
                key = self._verbs[entry.verb](cursor, entry.values)
            if mark is not None:
                self._mark(cursor, mark)
        return key

    def replay(self, session: str, batches: Sequence[tuple[int, Sequence[Entry]]], time: datetime) -> int:
        """Enter, in one durable transaction, the batches that are not in the database yet; return how many entries."""
        count = 0
        with self.transaction(durable=True) as cursor:
            cursor.execute(self._sql["marked"], {"key": session})
            row = cursor.fetchone()
            before = -1 if row is None else int(row[0])
            for _, entries in (batch for batch in batches if batch[0] > before):
                for entry in entries:
                    self._verbs[entry.verb](cursor, entry.values)
                    count += 1
            self._mark(cursor, Mark(session, max(before, *(number for number, _ in batches)), time))
        return count

    @contextmanager
    def transaction(self, *, durable: bool) -> Iterator[Any]:
        """Return the driver's cursor for one transaction."""
        with self.turn, database.explained(self._engine.url, self._timeout):
            cursor = self._begin(durable)
            try:
                yield cursor
                cursor.execute("COMMIT")
            except BaseException:
                self._abandon(cursor)
                raise
            finally:
                self._found.clear()
            self._channels.update(self._found)

    def close(self) -> None:
        """Let go of the connection."""
        with self.turn:
            self._drop()

    # -- the connection

    def _begin(self, durable: bool) -> Any:
        if self._sqlite:
            return self._begin_sqlite(durable)
        if self._raw is None:
            self._connect()
        else:
            try:
                return self._raw.execute("BEGIN")
            except self._driver_error:  # the server was started anew since; nothing was entered yet
                self._drop()
                self._connect()
        return self._raw.execute("BEGIN")

    def _begin_sqlite(self, durable: bool) -> Any:
        # Whoever has the file open goes on writing to it when its name is gone, and nobody will find what was written.
        file = _identity(self._path)
        if file is None or file != self._file:
            self._drop()
            self._file = file or self._file  # another one in its place is told once, and then it is the database
            raise DatabaseError("the file is not where it was; bring it back", database.shown(self._engine.url))
        if self._raw is None:
            self._connect()
        if durable is not self._durable:
            self._raw.execute(f"PRAGMA synchronous={'FULL' if durable else 'NORMAL'}")
            self._durable = durable
        return self._raw.execute("BEGIN IMMEDIATE")

    def _connect(self) -> None:
        connection = self._engine.raw_connection()
        self._raw = connection.driver_connection
        connection.detach()  # it is this object's alone
        self._durable = True
        if not self._sqlite:
            self._raw.autocommit = True  # transactions are begun here

    def _abandon(self, cursor: Any) -> None:
        """Undo what was begun; a connection that cannot even do that is given up."""
        try:
            if not self._sqlite or self._raw.in_transaction:
                cursor.execute("ROLLBACK")
        except self._driver_error:
            self._drop()

    def _drop(self) -> None:
        raw, self._raw = self._raw, None
        self._channels.clear()
        if raw is not None:
            with suppress(self._driver_error):
                raw.close()
        self._engine.dispose()  # those that are kept for reading have lost what this one has

    @property
    def _driver_error(self) -> type[Exception]:
        error: type[Exception] = self._engine.dialect.loaded_dbapi.Error
        return error

    # -- statements

    @cached_property
    def _sql(self) -> Mapping[str, str]:
        # Names rather than places: a parameter that stands twice is given once.
        return _statements(sqlite.dialect(paramstyle="named") if self._sqlite else self._engine.dialect)

    def _bound(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return values as the driver takes them."""
        return {name: self._value(value) for name, value in values.items()}

    def _value(self, value: Any) -> Any:
        if isinstance(value, str):
            return value if value.isascii() and "\x00" not in value else tables.clean(value)
        if isinstance(value, datetime):
            return self._time(value)
        return value

    def _time(self, time: datetime) -> Any:
        if time.tzinfo is not UTC:
            time = tables.utc(time)
        return time.replace(tzinfo=None).isoformat(" ", "microseconds") if self._sqlite else time

    def _execute(self, cursor: Any, statement: str, values: Mapping[str, Any]) -> None:
        cursor.execute(self._sql[statement], self._bound(values))

    def _change(self, cursor: Any, statement: str, values: Mapping[str, Any], otherwise: str) -> None:
        self._execute(cursor, statement, values)
        if cursor.rowcount != 1:
            raise RunError(otherwise)

    def _insert(self, statement: str, *, keyed: bool = False) -> Callable[[Any, Row], int | None]:
        def apply(cursor: Any, values: Row) -> int | None:
            self._execute(cursor, statement, values)
            return _key(cursor) if keyed else None

        return apply

    # -- verbs

    def _set_state(self, cursor: Any, values: Row) -> None:
        self._change(cursor, "set_state", values, f"there is no run {values['run_id']!r}")

    def _intent(self, cursor: Any, values: Row) -> None:
        self._change(cursor, "intent", values, f"run {values['run_id']!r} has no action {values['index']}")

    def _outcome(self, cursor: Any, values: Row) -> None:
        self._change(cursor, "outcome", values, f"run {values['run_id']!r} has no action {values['index']}")

    def _marked(self, cursor: Any, values: Row) -> None:
        self._change(cursor, "result", values, f"run {values['run_id']!r} has no action {values['index']}")

    def _event(self, cursor: Any, values: Row) -> int:
        if not self._sqlite:
            # Numbers become visible in their order, so that a reader of what came after n misses none.
            cursor.execute(f"SELECT pg_advisory_xact_lock({_EVENTS_LOCK})")
        self._execute(cursor, "event", values)
        return _key(cursor)

    def _reconstruction(self, cursor: Any, values: Row) -> None:
        self._execute(cursor, "reconstruction", {name: given for name, given in values.items() if name != "figures"})
        key = _key(cursor)
        cursor.execute(self._sql["no figures"], {"reconstruction_id": key})
        for figure in values["figures"]:
            self._execute(cursor, "figure", {"reconstruction_id": key, **figure})

    def _readings(self, cursor: Any, values: Row) -> None:
        run_id, rows = values["run_id"], values["rows"]
        keys: dict[str, int] = {}
        for name, unit, *_ in rows:
            if name not in keys:
                keys[name] = self._channel(cursor, run_id, name, unit)
        units = {name: self._known(run_id, name)[1] for name in keys}
        for name, unit, *_ in rows:
            if units[name] != unit:
                raise InputError(f"readings of {name} were in {units[name]} so far; got {unit}")
        self._insert_readings(cursor, [(keys[name], time, value, fresh) for name, _, time, value, fresh in rows])
        for span in spans.summed((keys[name], time, value, fresh) for name, _, time, value, fresh in rows):
            self._execute(cursor, "span", span)

    def _insert_readings(self, cursor: Any, rows: Sequence[tuple[int, datetime, float, bool]]) -> None:
        columns = "(channel_id, time, value, fresh)"
        if self._sqlite:
            told = [(key, self._time(time), value, fresh) for key, time, value, fresh in rows]
            cursor.executemany(f"INSERT INTO readings {columns} VALUES (?, ?, ?, ?)", told)  # noqa: S608  a constant
        elif len(rows) < _COPIED:
            cursor.executemany(f"INSERT INTO readings {columns} VALUES (%s, %s, %s, %s)", rows)  # noqa: S608  as above
        else:
            with cursor.copy(f"COPY readings {columns} FROM STDIN (FORMAT BINARY)") as copy:
                copy.set_types(("int4", "timestamptz", "float8", "bool"))
                for row in rows:
                    copy.write_row(row)

    def _known(self, run_id: str | None, name: str) -> tuple[int, str]:
        return self._channels.get((run_id, name)) or self._found[run_id, name]

    def _channel(self, cursor: Any, run_id: str | None, name: str, unit: str) -> int:
        """Return the key of a channel; one that is new gets a row, which counts once the transaction has ended well."""
        known = self._channels.get((run_id, name)) or self._found.get((run_id, name))
        if known is not None:
            return known[0]
        wanted = {"run_id": run_id, "name": name}
        self._execute(cursor, "channel", wanted)
        row = cursor.fetchone()
        if row is None:
            self._execute(cursor, "new channel", {**wanted, "unit": unit})
            row = (_key(cursor), unit)
        self._found[run_id, name] = (int(row[0]), str(row[1]))
        return int(row[0])

    def _mark(self, cursor: Any, mark: Mark) -> None:
        values = {"key": mark.session, "sequence": mark.sequence, "time": self._time(mark.time)}
        cursor.execute(self._sql["mark"], values)


def _key(cursor: Any) -> int:
    return int(cursor.fetchall()[0][0])


def _identity(path: str) -> tuple[int, int] | None:
    """Return which file has a name, None where none has."""
    try:
        status = os.stat(path)  # noqa: PTH116  for every transaction, and a Path takes longer than the call
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _statements(dialect: Dialect) -> dict[str, str]:
    """Return the text of every statement, with named parameters."""
    run, action, channel, replayed = tables.Run, tables.Action, tables.ReadingChannel, tables.Replayed
    reconstruction = tables.Reconstruction
    upsert = sqlite.insert if dialect.name == "sqlite" else postgresql.insert
    this_action = (action.run_id == bindparam("run_id"), action.index == bindparam("index"))
    time: BindParameter[Any] = bindparam("time")
    marked = upsert(replayed).values(_named(replayed))
    word = upsert(reconstruction).values(_named(reconstruction, but="id"))
    made = {
        "set_state": update(run)
        .where(run.id == bindparam("run_id"))
        .values(state=bindparam("state"), reason=bindparam("reason"), changed=time, ended=bindparam("ended")),
        "intent": update(action)
        .where(*this_action)
        .values(
            state=literal_column("'begun'"),
            attempts=action.attempts + literal_column("1"),
            intent_time=time,
            outcome_time=null(),
            message=literal_column("''"),
        ),
        "outcome": update(action)
        .where(*this_action)
        .values(
            state=bindparam("outcome"),
            outcome_time=time,
            message=bindparam("message"),
            result=func.coalesce(bindparam("result", type_=action.result.type), action.result),
        ),
        "result": update(action).where(*this_action).values(result=bindparam("result", type_=action.result.type)),
        "setpoint": insert(tables.Setpoint).values(_named(tables.Setpoint, but="id")),
        "correction": insert(tables.CorrectionRow).values(_named(tables.CorrectionRow, but="id")),
        "frame": insert(tables.FrameRow).values(_named(tables.FrameRow, but="id")).returning(tables.FrameRow.id),
        "event": insert(tables.EventRow)
        .values(_named(tables.EventRow, but="number"))
        .returning(tables.EventRow.number),
        "reconstruction": word.on_conflict_do_update(
            index_elements=["frame_id"],
            set_={name: word.excluded[name] for name in ("state", "path", "seconds", "error")},
        ).returning(reconstruction.id),
        "no figures": delete(tables.FigureRow).where(
            tables.FigureRow.reconstruction_id == bindparam("reconstruction_id")
        ),
        "figure": insert(tables.FigureRow).values(_named(tables.FigureRow, but="id")),
        "channel": select(channel.id, channel.unit).where(
            channel.run_id.is_not_distinct_from(bindparam("run_id")), channel.name == bindparam("name")
        ),
        "new channel": insert(channel).values(_named(channel, but="id")).returning(channel.id),
        "marked": select(replayed.sequence).where(replayed.key == bindparam("key")),
        "mark": marked.on_conflict_do_update(
            index_elements=["key"], set_={"sequence": marked.excluded.sequence, "time": marked.excluded.time}
        ),
        "span": spans.merged(upsert(tables.SpanRow).values(_named(tables.SpanRow, but="id"))),
    }
    return {name: str(statement.compile(dialect=dialect)) for name, statement in made.items()}


def _named(table: type[tables.Base], but: str = "") -> dict[str, Any]:
    """Return a parameter of its own name for every column."""
    return {
        column.name: bindparam(column.name, type_=column.type)
        for column in table.__table__.columns
        if column.name != but
    }
