"""The log: runs, journal, setpoints, readings, frames, heights and events, in a database.

Every method is durable when it returns; :class:`acquisition.entry.Entries` says how durable. The journal is a
write-ahead log: :meth:`Log.intent` before an action touches the instrument, :meth:`Log.outcome` after. Figures are
stored in one canonical unit for each dimension, times in UTC.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Self

from sqlalchemy import Engine, func, insert, select, update
from sqlalchemy.orm import Session

from acquisition import database, tables
from acquisition.canonical import canonical
from acquisition.entry import Entries, Entry, FigureLike
from acquisition.records import Records
from acquisition.store import StoredFrame
from acquisition.writer import Mark, Writer
from drivers.frame import Frame

__all__ = ["FigureLike", "Log", "canonical"]


class Log(Records, Entries):
    """The database of all runs. Open it with :meth:`open`; may be used from several threads."""

    def __init__(self, engine: Engine, timeout: float = database.BUSY_TIMEOUT) -> None:
        super().__init__()
        self.engine = engine
        self.note: str | None = None
        self._timeout = timeout
        self._read_engine = engine.execution_options(writes=False)
        self._writer = Writer(engine, timeout)

    @classmethod
    def open(cls, target: str | Path, *, create: bool = True, timeout: float = database.BUSY_TIMEOUT) -> Self:
        """Open the database of a file or URL, and bring an older one to this program's tables.

        Parameters
        ----------
        target : str or Path
            An SQLite file, or a URL such as ``postgresql://user@host/rilievo``.
        create : bool
            Whether to make what is not there.
        timeout : float, s
            How long to wait for another program's lock, or for a server to answer.

        Raises
        ------
        DatabaseError
            For a database that is not there, locked, damaged, newer than the program, of another program, or a
            server that does not answer; with the remedy.
        """
        url = database.locate(target)
        database.check_file(url, create=create)
        engine = database.connect(url, timeout=timeout)
        try:
            database.reach(engine, timeout)
            before = database.upgrade(engine)
        except BaseException:
            engine.dispose()
            raise
        log = cls(engine, timeout)
        if before.current not in (None, before.newest):
            log.note = f"the database was upgraded from schema {before.current} to {before.newest}"
        return log

    def close(self) -> None:
        """Let go of the database."""
        self._writer.close()
        self.engine.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @contextlib.contextmanager
    def _reading(self) -> Iterator[Session]:
        with database.explained(self.engine.url, self._timeout), Session(self._read_engine) as session:
            yield session

    @contextlib.contextmanager
    def _writing(self) -> Iterator[Session]:
        with (
            self._writer.turn,
            database.explained(self.engine.url, self._timeout),
            Session(self.engine) as session,
            session.begin(),
        ):
            yield session

    def query(self) -> contextlib.AbstractContextManager[Session]:
        """Return a session that reads, for who keeps a table of its own (alerts, bookings)."""
        return self._reading()

    def transaction(self) -> contextlib.AbstractContextManager[Session]:
        """Return a session that writes, durably and as a whole, for who keeps a table of its own."""
        return self._writing()

    def create_run(
        self,
        *,
        name: str,
        recipe_text: str,
        recipe_name: str,
        actions: Sequence[Mapping[str, Any]],
        instrument_name: str,
        instrument_description: Mapping[str, Any],
        limits: Mapping[str, Any],
        started: datetime,
        version: str,
        plan: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> str:
        """Enter a run and its whole journal; return its id, such as ``20260101-180000-copper-redox``.

        Parameters
        ----------
        name : str
        recipe_text, recipe_name : str
            The recipe as it was written, and the name of its file.
        actions : sequence of mappings
            Compiled actions as JSON, each with ``address`` and ``kind``.
        instrument_name, instrument_description, limits
            What the run is played on; goes to the log once for each different description.
        started : datetime
            UTC.
        version : str
            Of the program.
        plan : mapping, optional
            What the dry run foretold.
        options : mapping, optional
            How the run was started: enough to resume it.
        """
        with self._writing() as session:
            run_id = _free_id(session, name, started)
            run = tables.Run(
                id=run_id,
                name=name,
                recipe_name=recipe_name,
                recipe_text=recipe_text,
                instrument_id=_instrument(session, instrument_name, dict(instrument_description), dict(limits)),
                state="idle",
                reason="",
                started=started,
                changed=started,
                ended=None,
                version=version,
                plan=None if plan is None else dict(plan),
                options=None if options is None else dict(options),
                resumed=0,
            )
            session.add(run)
            session.flush()
            rows = [_planned(run_id, index, action) for index, action in enumerate(actions)]
            if rows:
                session.execute(insert(tables.Action), rows)
        return run_id

    def resumed(self, run_id: str, done: Mapping[int, datetime], again: Sequence[int]) -> None:
        """Enter that a run goes on after an interruption, all or nothing.

        Parameters
        ----------
        run_id : str
        done : mapping of int to datetime
            Actions without an outcome whose frames are there, and when.
        again : sequence of int
            Actions that are planned anew.
        """
        row, run = tables.Action, tables.Run
        options = {"synchronize_session": False}
        with self._writing() as session:
            for index, time in done.items():
                values = {
                    "state": "done",
                    "outcome_time": time,
                    "message": "its frames were there after an interruption",
                }
                change = update(row).where(row.run_id == run_id, row.index == index).values(**values)
                session.execute(change, execution_options=options)
            change = update(row).where(row.run_id == run_id, row.index.in_(again)).values(state="planned", result=None)
            session.execute(change, execution_options=options)
            change = update(run).where(run.id == run_id).values(resumed=run.resumed + 1)
            session.execute(change, execution_options=options)

    def write(self, entries: Sequence[Entry], *, durable: bool, mark: Mark | None = None) -> int | None:
        """Enter in one transaction, with the mark of the ledger they come from; return the last one's key, if any.

        Raises
        ------
        Refusal
            For what the tables do not hold: another frame of the same number, an event of an unknown run.
        DatabaseError
            When the database cannot be used; it may have taken the entries all the same where the connection was lost.
        RunError, InputError
            For an action or a run that is not there, for a channel that changed its dimension.
        """
        return self._writer.write(entries, durable=durable, mark=mark)

    def replay(self, session: str, batches: Sequence[tuple[int, Sequence[Entry]]], time: datetime) -> int:
        """Enter, in one durable transaction, those numbered batches of a ledger that are not in the database yet.

        Returns how many entries that were; errors as :meth:`write`.
        """
        return self._writer.replay(session, batches, time)

    def _enter(self, entries: Sequence[Entry], *, durable: bool) -> int | None:
        return self.write(entries, durable=durable)

    def frame(self, run_id: str, number: int, action_index: int | None, frame: Frame, stored: StoredFrame) -> int:
        """Acknowledge a frame that the store holds; return its key, for :meth:`reconstruction`."""
        return _there(super().frame(run_id, number, action_index, frame, stored))

    def event(
        self,
        run_id: str | None,
        time: datetime,
        level: str,
        kind: str,
        message: str,
        data: Mapping[str, Any] | None = None,
    ) -> int:
        """Enter that something happened; return its number, which is above those of all events before."""
        return _there(super().event(run_id, time, level, kind, message, data))

    def backup(self, path: Path) -> Path:
        """Copy the database, whole, while it is in use; errors as :func:`acquisition.database.backup`."""
        return database.backup(self._read_engine, path)


def _planned(run_id: str, index: int, action: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "run_id": run_id,
        "index": index,
        "address": str(action.get("address", "")),
        "kind": str(action.get("kind", "")),
        "arguments": dict(action),
        "state": "planned",
        "attempts": 0,
        "message": "",
    }


def _there(key: int | None) -> int:
    assert key is not None  # noqa: S101  the database gives one to every row
    return key


def _instrument(session: Session, name: str, description: dict[str, Any], limits: dict[str, Any]) -> int:
    """Return the key of an instrument; one that was described the same before keeps its row."""
    fingerprint = hashlib.sha256(database.to_json([name, description, limits]).encode()).hexdigest()
    row = tables.Instrument
    key = session.scalar(select(row.id).where(row.fingerprint == fingerprint))
    if key is None:
        new = row(name=name, description=description, limits=limits, fingerprint=fingerprint)
        session.add(new)
        session.flush()
        key = new.id
    return key


def _free_id(session: Session, name: str, started: datetime) -> str:
    """Return an id that sorts by time and reads as the run's name; numbered where two would be the same."""
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    slug = re.sub(r"[^a-z0-9]+", "-", plain).strip("-")[:40].strip("-") or "run"
    stem = f"{tables.utc(started):%Y%m%d-%H%M%S}-{slug}"
    taken = set(session.scalars(select(tables.Run.id).where(func.substr(tables.Run.id, 1, len(stem)) == stem)))
    if stem not in taken:
        return stem
    return next(f"{stem}-{count}" for count in range(2, len(taken) + 3) if f"{stem}-{count}" not in taken)
