"""The log: runs, journal, setpoints, readings, frames, heights and events, in a database.

Every method is durable when it returns. The journal is a write-ahead log: :meth:`Log.intent` before an action touches
the instrument, :meth:`Log.outcome` after. Figures are stored in one canonical unit for each dimension, times in UTC.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import re
import threading
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol, Self

from sqlalchemy import Engine, delete, func, insert, select, text, update
from sqlalchemy.orm import Session

from acquisition import database, tables
from acquisition.records import Records
from acquisition.store import StoredFrame
from drivers.errors import InputError, RunError
from drivers.frame import Frame, Reading
from drivers.units import Q, quantity, unit_text, ureg

_ENDS = ("finished", "stopped", "failed", "safe")
_OUTCOMES = ("done", "skipped", "failed", "stopped")
_CANONICAL = ("", "K", "Pa", "mol/s", "m", "s", "J", "A", "C/m**2", "V", "K/s", "W", "N", "Hz", "m**2", "m**3", "C")
# An angle has no dimension, and still it is not a share.
_ANGLES = (ureg.Unit("rad"), ureg.Unit("mrad"), ureg.Unit("deg"))
_EVENTS_LOCK = 0x52494C  # any number that other programs on the same server are unlikely to lock


class FigureLike(Protocol):
    """A figure with its standard uncertainty; ``unit`` as :func:`drivers.units.quantity` reads it."""

    @property
    def value(self) -> float:
        """The figure."""

    @property
    def sigma(self) -> float | None:
        """Its standard uncertainty, where it is known."""

    @property
    def unit(self) -> str:
        """Its unit; empty where it has none."""


@lru_cache(maxsize=4096)
def _conversion(unit: Any) -> tuple[float, float, str]:
    """Return factor and offset from a unit to the canonical one of its dimension, and that one's text."""
    wanted = ureg.get_dimensionality(unit)
    target = next((name for name in _CANONICAL if ureg.get_dimensionality(ureg.Unit(name)) == wanted), None)
    if unit in _ANGLES:
        target = "rad"
    if str(unit).startswith("delta_"):
        return float(ureg.Quantity(1.0, unit).to("delta_degC").magnitude), 0.0, "K"
    if target is None:
        target = unit_text(ureg.Quantity(1.0, unit).to_base_units().units)
    offset, end = (float(ureg.Quantity(value, unit).to(target).magnitude) for value in (0.0, 1.0))
    return end - offset, offset, target


def canonical(value: Q) -> tuple[float, str]:
    """Return magnitude and unit as the database holds them.

    >>> canonical(quantity(400.0, "degC"))
    (673.15, 'K')
    """
    factor, offset, unit = _conversion(value.units)
    return float(value.magnitude) * factor + offset, unit


class Log(Records):
    """The database of all runs. Open it with :meth:`open`; may be used from several threads."""

    def __init__(self, engine: Engine, timeout: float = database.BUSY_TIMEOUT) -> None:
        self.engine = engine
        self.note: str | None = None
        self._timeout = timeout
        self._read_engine = engine.execution_options(writes=False)
        # SQLite has one writer at a time; waiting here is fair and quick, waiting in SQLite is neither.
        self._writer = threading.Lock()
        self._channels: dict[tuple[str, str], tuple[int, str]] = {}

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
            self._writer,
            database.explained(self.engine.url, self._timeout),
            Session(self.engine) as session,
            session.begin(),
        ):
            yield session

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
            )
            session.add(run)
            session.flush()
            rows = [_planned(run_id, index, action) for index, action in enumerate(actions)]
            if rows:
                session.execute(insert(tables.Action), rows)
        return run_id

    def set_state(self, run_id: str, state: str, time: datetime, reason: str = "") -> None:
        """Say what state a run is in, and why."""
        if state not in tables.RUN_STATES:
            raise InputError(f"expected one of {', '.join(tables.RUN_STATES)}; got {state!r}")
        ended = time if state in _ENDS else None
        row = tables.Run
        change = update(row).where(row.id == run_id).values(state=state, reason=reason, changed=time, ended=ended)
        self._change_one(change, f"there is no run {run_id!r}")

    def intent(self, run_id: str, index: int, time: datetime) -> None:
        """Enter that an action is about to touch the instrument."""
        row = tables.Action
        change = (
            update(row)
            .where(row.run_id == run_id, row.index == index)
            .values(state="begun", attempts=row.attempts + 1, intent_time=time, outcome_time=None, message="")
        )
        self._change_one(change, f"run {run_id!r} has no action {index}")

    def outcome(
        self,
        run_id: str,
        index: int,
        time: datetime,
        outcome: str,
        message: str = "",
        result: Mapping[str, Any] | None = None,
    ) -> None:
        """Enter how an action ended: done, skipped, failed or stopped; and what it found."""
        if outcome not in _OUTCOMES:
            raise InputError(f"expected one of {', '.join(_OUTCOMES)}; got {outcome!r}")
        row = tables.Action
        change = (
            update(row)
            .where(row.run_id == run_id, row.index == index)
            .values(state=outcome, outcome_time=time, message=message, result=None if result is None else dict(result))
        )
        self._change_one(change, f"run {run_id!r} has no action {index}")

    def _change_one(self, change: Any, otherwise: str) -> None:
        with self._writing() as session:
            if session.execute(change.execution_options(synchronize_session=False)).rowcount != 1:  # type: ignore[attr-defined]
                raise RunError(otherwise)

    def setpoint(self, run_id: str, channel: str, value: Q, time: datetime, action_index: int | None = None) -> None:
        """Enter what a channel was asked for.

        Raises
        ------
        InputError
            For a value that is not a finite number.
        """
        number, unit = canonical(value)
        if not math.isfinite(number):
            raise InputError(f"expected a finite setpoint of {channel}; got {number}")
        row = {"run_id": run_id, "action_index": action_index, "channel": channel, "value": number, "unit": unit}
        with self._writing() as session:
            session.execute(insert(tables.Setpoint), [{**row, "time": time}])

    def readings(self, run_id: str, rows: Iterable[tuple[str, Reading]]) -> None:
        """Enter what channels said, many at once in one transaction; what is not a finite number is left out.

        Raises
        ------
        InputError
            For a channel whose dimension changes within a run.
        """
        told = ((channel, *canonical(reading.value), reading) for channel, reading in rows)
        converted = [row for row in told if math.isfinite(row[1])]
        if not converted:
            return
        with self._writing() as session:
            channels = self._channel_keys(session, run_id, {channel: unit for channel, _, unit, _ in converted})
            for channel, _, unit, _ in converted:
                if channels[channel][1] != unit:
                    raise InputError(f"readings of {channel} were in {channels[channel][1]} so far; got {unit}")
            values = [
                {"channel_id": channels[channel][0], "time": reading.time, "value": value, "fresh": reading.fresh}
                for channel, value, _, reading in converted
            ]
            session.execute(insert(tables.ReadingRow), values)
        self._channels.update({(run_id, channel): key for channel, key in channels.items()})

    def _channel_keys(self, session: Session, run_id: str, units: Mapping[str, str]) -> dict[str, tuple[int, str]]:
        """Return key and unit of each channel; those that are new get a row."""
        keys = {name: self._channels[run_id, name] for name in units if (run_id, name) in self._channels}
        row = tables.ReadingChannel
        if len(keys) < len(units):
            found = session.execute(select(row.name, row.id, row.unit).where(row.run_id == run_id))
            keys.update({name: (key, unit) for name, key, unit in found if name in units})
        for name, unit in units.items():
            if name not in keys:
                new = row(run_id=run_id, name=name, unit=unit)
                session.add(new)
                session.flush()
                keys[name] = (new.id, unit)
        return keys

    def frame(self, run_id: str, number: int, action_index: int | None, frame: Frame, stored: StoredFrame) -> int:
        """Acknowledge a frame that the store holds; return its key, for :meth:`reconstruction`."""
        rows, columns = frame.shape
        entry = tables.FrameRow(
            run_id=run_id,
            number=number,
            action_index=action_index,
            time=frame.time,
            path=stored.path.as_posix(),
            sha256=stored.sha256,
            bytes=stored.bytes,
            dark=frame.dark,
            segments=len(frame.channels),
            rows=rows,
            columns=columns,
            pixel_size_m=frame.beam.pixel_size,
            working_distance_m=frame.geometry.working_distance,
            beam_energy_j=frame.beam.beam_energy,
            probe_current_a=frame.beam.probe_current,
            dwell_time_s=frame.beam.dwell_time,
        )
        with self._writing() as session:
            session.add(entry)
            session.flush()
            return entry.id

    def reconstruction(
        self,
        frame_id: int,
        state: str,
        *,
        path: Path | str | None = None,
        figures: Mapping[str, FigureLike] | None = None,
        seconds: float | None = None,
        error: str | None = None,
    ) -> None:
        """Enter what became of a frame: done, failed or left out; the latest word replaces what stood there.

        Parameters
        ----------
        frame_id : int
        state : str
        path : Path or str, optional
            Of the heights, relative to the store's root.
        figures : mapping of str to figure, optional
            Each with value, sigma and unit; what is not a finite number is left out.
        seconds : float, s
            Of computing time.
        error : str, optional
            Why it failed.
        """
        if state not in tables.RECONSTRUCTION_STATES:
            raise InputError(f"expected one of {', '.join(tables.RECONSTRUCTION_STATES)}; got {state!r}")
        with self._writing() as session:
            row = session.scalar(select(tables.Reconstruction).where(tables.Reconstruction.frame_id == frame_id))
            if row is None:
                row = tables.Reconstruction(frame_id=frame_id)
                session.add(row)
            row.state, row.error = state, error
            row.seconds = seconds if seconds is not None and math.isfinite(seconds) else None
            row.path = None if path is None else Path(path).as_posix()
            session.flush()
            figure = tables.FigureRow
            session.execute(delete(figure).where(figure.reconstruction_id == row.id))
            told = (_figure(row.id, name, given) for name, given in (figures or {}).items())
            rows = [given for given in told if math.isfinite(given["value"])]
            if rows:
                session.execute(insert(figure), rows)

    def correction(
        self, run_id: str, action_index: int | None, time: datetime, kind: str, data: Mapping[str, Any]
    ) -> None:
        """Enter what the run corrected by itself, with the evidence."""
        row = {"run_id": run_id, "action_index": action_index, "time": time, "kind": kind, "data": dict(data)}
        with self._writing() as session:
            session.execute(insert(tables.CorrectionRow), [row])

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
        entry = tables.EventRow(
            run_id=run_id,
            time=time,
            level=level,
            kind=kind,
            message=message,
            data=None if data is None else dict(data),
        )
        with self._writing() as session:
            if self.engine.dialect.name == "postgresql":
                # Numbers become visible in their order, so that a reader of what came after n misses none.
                session.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _EVENTS_LOCK})
            session.add(entry)
            session.flush()
            return entry.number

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


def _figure(reconstruction_id: int, name: str, figure: FigureLike) -> dict[str, Any]:
    value, unit = canonical(quantity(figure.value, figure.unit))
    sigma = figure.sigma
    if sigma is not None:
        factor = _conversion(quantity(1.0, figure.unit).units)[0]
        sigma = sigma * factor if math.isfinite(sigma) else None
    return {"reconstruction_id": reconstruction_id, "name": name, "value": value, "sigma": sigma, "unit": unit}


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
