"""What is entered in a run's log, as plain data: it can wait beside the frames as well as stand in a table.

:class:`Entries` has the verbs. The log enters what they make in the database at once; the ledger does too, and keeps
it in a side-car journal while the database refuses.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

from acquisition import tables
from acquisition.canonical import canonical, conversion
from acquisition.database import to_json
from acquisition.store import StoredFrame
from drivers.errors import InputError
from drivers.frame import Frame, Reading
from drivers.units import Q, quantity

ENDS = ("finished", "stopped", "failed", "safe")
OUTCOMES = ("done", "skipped", "failed", "stopped")

Row = dict[str, Any]


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


@dataclass(frozen=True, slots=True)
class Entry:
    """One thing to enter.

    Attributes
    ----------
    verb : str
        What is done with it: the name of the method of :class:`Entries` that made it.
    values : dict
        Text, numbers and lists of them; times are UTC; figures in canonical units; JSON columns as text.
    """

    verb: str
    values: Row

    def to_json(self) -> Row:
        """Return what JSON can hold."""
        return {"verb": self.verb, **{name: _plain(value) for name, value in self.values.items()}}

    @classmethod
    def from_json(cls, data: Row) -> Entry:
        """Return the entry of what :meth:`to_json` gave."""
        values = dict(data)
        verb = values.pop("verb")
        for name in ("time", "ended"):
            if values.get(name) is not None:
                values[name] = datetime.fromisoformat(values[name])
        if verb == "readings":
            values["rows"] = [(name, unit, datetime.fromisoformat(t), v, f) for name, unit, t, v, f in values["rows"]]
        return cls(verb, values)


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    return value


class Entries:
    """The verbs of a run. Every method is durable when it returns; see :meth:`together` for many at once.

    How durable: an entry with ``durable=True`` survives a power cut, any other the death of the program
    (``synchronous`` FULL and NORMAL of SQLite's write-ahead log; a server decides by its own configuration). A durable
    entry takes all those before it along. By default intents, frames and states are durable, the rest is not: nothing
    irreversible hangs on it, and the next intent takes it to the disk.
    """

    def __init__(self) -> None:
        self._collected = threading.local()

    def _enter(self, entries: Sequence[Entry], *, durable: bool) -> int | None:
        """Enter in one transaction; return the key of the last where it has one and is in the database."""
        raise NotImplementedError

    @contextmanager
    def together(self, *, durable: bool = False) -> Iterator[None]:
        """Enter what this thread's verbs say within the block in one transaction, when the block ends well.

        Nothing is acknowledged before that. What returns a number (frame, event) is entered at once, with all that
        came before it. The transaction is durable where ``durable`` says so, or one of its entries.
        """
        if getattr(self._collected, "entries", None) is not None:
            yield  # the outer block enters it
            return
        self._collected.entries, self._collected.durable = [], durable
        try:
            yield
            entries, durable = self._collected.entries, self._collected.durable
        finally:
            self._collected.entries = None
        if entries:
            self._enter(entries, durable=durable)

    def _say(self, verb: str, values: Row, *, durable: bool, keyed: bool = False) -> int | None:
        collected = getattr(self._collected, "entries", None)
        if collected is None:
            return self._enter([Entry(verb, values)], durable=durable)
        collected.append(Entry(verb, values))
        self._collected.durable |= durable
        if not keyed:
            return None
        entries, self._collected.entries = collected, []
        return self._enter(entries, durable=self._collected.durable)

    def set_state(self, run_id: str, state: str, time: datetime, reason: str = "") -> None:
        """Say what state a run is in, and why."""
        if state not in tables.RUN_STATES:
            raise InputError(f"expected one of {', '.join(tables.RUN_STATES)}; got {state!r}")
        ended = time if state in ENDS else None
        values = {"run_id": run_id, "state": state, "reason": reason, "time": time, "ended": ended}
        self._say("set_state", values, durable=True)

    def intent(self, run_id: str, index: int, time: datetime, *, durable: bool = True) -> None:
        """Enter that an action is about to touch the instrument.

        ``durable=False`` is for what may be done again without harm: then the entry survives the program's death, and
        may be lost in a power cut.
        """
        self._say("intent", {"run_id": run_id, "index": index, "time": time}, durable=durable)

    def outcome(
        self,
        run_id: str,
        index: int,
        time: datetime,
        outcome: str,
        message: str = "",
        *,
        result: Mapping[str, Any] | None = None,
        durable: bool = False,
    ) -> None:
        """Enter how an action ended: done, skipped, failed or stopped; ``result`` is what it found."""
        if outcome not in OUTCOMES:
            raise InputError(f"expected one of {', '.join(OUTCOMES)}; got {outcome!r}")
        values = {"run_id": run_id, "index": index, "time": time, "outcome": outcome, "message": message}
        self._say("outcome", {**values, "result": _json(result)}, durable=durable)

    def mark(self, run_id: str, index: int, result: Mapping[str, Any]) -> None:
        """Enter how far an action has come, or what it found; the latest word replaces what stood there."""
        self._say("mark", {"run_id": run_id, "index": index, "result": _json(result)}, durable=False)

    def advance(
        self,
        run_id: str,
        index: int,
        time: datetime,
        outcome: str = "done",
        message: str = "",
        *,
        result: Mapping[str, Any] | None = None,
        durable: bool = True,
    ) -> None:
        """Enter how action ``index`` ended and that the next is about to begin, in one transaction.

        ``durable`` is the next one's: see :meth:`intent`.
        """
        with self.together():
            self.outcome(run_id, index, time, outcome, message, result=result)
            self.intent(run_id, index + 1, time, durable=durable)

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
        values = {"run_id": run_id, "action_index": action_index, "channel": channel, "value": number, "unit": unit}
        self._say("setpoint", {**values, "time": time}, durable=False)

    def readings(self, run_id: str | None, rows: Iterable[tuple[str, Reading]]) -> None:
        """Enter what channels said, many at once in one transaction; what is not a finite number is left out.

        Parameters
        ----------
        run_id : str or None
            None for an instrument that is idle.
        rows : iterable of (channel, Reading)

        Raises
        ------
        InputError
            For a channel whose dimension changes within a run.
        """
        told = ((channel, *canonical(reading.value), reading) for channel, reading in rows)
        converted = [
            (channel, unit, tables.utc(reading.time), value, reading.fresh)
            for channel, value, unit, reading in told
            if math.isfinite(value)
        ]
        if converted:
            self._say("readings", {"run_id": run_id, "rows": converted}, durable=False)

    def frame(
        self, run_id: str, number: int, action_index: int | None, frame: Frame, stored: StoredFrame
    ) -> int | None:
        """Acknowledge a frame that the store holds; return its key, for :meth:`reconstruction`."""
        rows, columns = frame.shape
        values = {
            "run_id": run_id,
            "number": number,
            "action_index": action_index,
            "time": frame.time,
            "path": stored.path.as_posix(),
            "sha256": stored.sha256,
            "bytes": stored.bytes,
            "dark": frame.dark,
            "segments": len(frame.channels),
            "rows": rows,
            "columns": columns,
            "pixel_size_m": frame.beam.pixel_size,
            "working_distance_m": frame.geometry.working_distance,
            "beam_energy_j": frame.beam.beam_energy,
            "probe_current_a": frame.beam.probe_current,
            "dwell_time_s": frame.beam.dwell_time,
        }
        return self._say("frame", values, durable=True, keyed=True)

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
        told = (_figure(name, given) for name, given in (figures or {}).items())
        values = {
            "frame_id": frame_id,
            "state": state,
            "path": None if path is None else Path(path).as_posix(),
            "seconds": seconds if seconds is not None and math.isfinite(seconds) else None,
            "error": error,
            "figures": [figure for figure in told if math.isfinite(figure["value"])],
        }
        self._say("reconstruction", values, durable=False)

    def event(
        self,
        run_id: str | None,
        time: datetime,
        level: str,
        kind: str,
        message: str,
        data: Mapping[str, Any] | None = None,
    ) -> int | None:
        """Enter that something happened; return its number, which is above those of all events before."""
        values = {"run_id": run_id, "time": time, "level": level, "kind": kind, "message": message}
        return self._say("event", {**values, "data": _json(data)}, durable=False, keyed=True)

    def correction(
        self, run_id: str, time: datetime, kind: str, data: Mapping[str, Any], action_index: int | None = None
    ) -> None:
        """Enter what the run corrected by itself (focus, stigmators, drift, …), with the evidence."""
        values = {"run_id": run_id, "action_index": action_index, "time": time, "kind": kind, "data": _json(data)}
        self._say("correction", values, durable=False)


def _json(data: Mapping[str, Any] | None) -> str | None:
    return None if data is None else to_json(dict(data))


def _figure(name: str, figure: FigureLike) -> Row:
    value, unit = canonical(quantity(figure.value, figure.unit))
    sigma = figure.sigma
    if sigma is not None:
        factor = conversion(quantity(1.0, figure.unit).units)[0]
        sigma = sigma * factor if math.isfinite(sigma) else None
    return {"name": name, "value": value, "sigma": sigma, "unit": unit}
