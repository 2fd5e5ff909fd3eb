"""What the log gives back: small frozen records, and the queries that make them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Select, func, select
from sqlalchemy.orm import Session

from acquisition import tables
from acquisition.series import Series, Window, thinned
from acquisition.store import StoredFrame
from drivers.errors import RunError

__all__ = [
    "Action",
    "Channel",
    "Event",
    "FigureEntry",
    "FrameEntry",
    "Instrument",
    "ReconstructionEntry",
    "Records",
    "Run",
    "Series",
    "Setpoint",
    "thinned",
]


@dataclass(frozen=True, slots=True)
class Run:
    """A night.

    Attributes
    ----------
    number : int
        In the order of creation within the database.
    state : str
        One of ``tables.RUN_STATES``; ``reason`` says why, where somebody said so.
    started, changed : datetime
        UTC; ``changed`` when the state last changed.
    ended : datetime or None
        UTC, of the last change to finished, stopped, failed or safe.
    plan : mapping or None
        What the dry run foretold.
    options : mapping or None
        How it was started.
    resumed : int
        How often it went on after an interruption.
    """

    number: int
    id: str
    name: str
    recipe_name: str
    recipe_text: str
    state: str
    reason: str
    started: datetime
    changed: datetime
    ended: datetime | None
    version: str
    plan: Mapping[str, Any] | None
    options: Mapping[str, Any] | None = None
    resumed: int = 0


@dataclass(frozen=True, slots=True)
class Instrument:
    """A microscope as its file described it, and the limits that held."""

    name: str
    description: Mapping[str, Any]
    limits: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Action:
    """An entry of the journal.

    Attributes
    ----------
    arguments : mapping
        The action as the recipe's compiler wrote it.
    state : str
        planned, begun (an intent without an outcome), done, skipped, failed or stopped.
    attempts : int
        How often it was begun.
    result : mapping or None
        How far it has come, and what it found.
    """

    index: int
    address: str
    kind: str
    arguments: Mapping[str, Any]
    state: str
    attempts: int
    intent_time: datetime | None
    outcome_time: datetime | None
    message: str
    result: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Setpoint:
    """What a channel was asked for, in a canonical unit."""

    channel: str
    value: float
    unit: str
    time: datetime
    action_index: int | None


@dataclass(frozen=True, slots=True)
class Channel:
    """A channel that was read, and the canonical unit of its readings."""

    name: str
    unit: str


@dataclass(frozen=True, slots=True)
class FrameEntry:
    """An acknowledged frame; lengths in m, energy in J, current in A, time in s; ``stored`` says where it lies."""

    id: int
    number: int
    action_index: int | None
    time: datetime
    stored: StoredFrame
    dark: bool
    segments: int
    rows: int
    columns: int
    pixel_size: float
    working_distance: float
    beam_energy: float
    probe_current: float | None
    dwell_time: float | None


@dataclass(frozen=True, slots=True)
class FigureEntry:
    """A figure with its standard uncertainty, and the frame that it describes."""

    frame_number: int
    time: datetime
    name: str
    value: float
    sigma: float | None
    unit: str


@dataclass(frozen=True, slots=True)
class ReconstructionEntry:
    """What became of a frame: done, failed or left out; ``path`` is relative to the store's root."""

    frame_id: int
    frame_number: int
    time: datetime
    state: str
    path: Path | None
    seconds: float | None
    error: str | None
    figures: Mapping[str, FigureEntry] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened; numbers only grow."""

    number: int
    run_id: str | None
    time: datetime
    level: str
    kind: str
    message: str
    data: Mapping[str, Any] | None


@dataclass(frozen=True, slots=True)
class Correction:
    """What a run corrected by itself, and on what evidence."""

    action_index: int | None
    time: datetime
    kind: str
    data: Mapping[str, Any]


class Records:
    """The questions that the log answers. Every ``run_id`` may be the beginning of an id, where only one begins so."""

    def _reading(self) -> AbstractContextManager[Session]:
        """Return a session that only reads; the log supplies it."""
        raise NotImplementedError

    def runs(self) -> list[Run]:
        """Return all runs, the newest first."""
        with self._reading() as session:
            return [_run(row) for row in session.scalars(select(tables.Run).order_by(tables.Run.number.desc()))]

    def run(self, run_id: str) -> Run:
        """Return a run by its id, or by the beginning of it.

        Raises
        ------
        RunError
            When there is none or more than one; with the runs there are.
        """
        with self._reading() as session:
            row = session.scalar(select(tables.Run).where(tables.Run.id == run_id))
            if row is not None:
                return _run(row)
            every = list(session.scalars(select(tables.Run.id).order_by(tables.Run.number.desc())))
            matching = [name for name in every if run_id and name.startswith(run_id)]
            if len(matching) != 1:
                raise RunError(_which(run_id, matching, every))
            return _run(session.scalars(select(tables.Run).where(tables.Run.id == matching[0])).one())

    def newest(self) -> Run | None:
        """Return the newest run; None where there are none."""
        with self._reading() as session:
            row = session.scalar(select(tables.Run).order_by(tables.Run.number.desc()).limit(1))
            return None if row is None else _run(row)

    def instrument(self, run_id: str) -> Instrument:
        """Return the instrument that a run was played on."""
        name = self.run(run_id).id
        with self._reading() as session:
            row = session.scalars(select(tables.Instrument).join(tables.Run).where(tables.Run.id == name)).one()
            return Instrument(row.name, row.description, row.limits)

    def actions(self, run_id: str) -> list[Action]:
        """Return the journal of a run, in the order of the recipe."""
        query = select(tables.Action).where(tables.Action.run_id == self.run(run_id).id).order_by(tables.Action.index)
        with self._reading() as session:
            return [
                Action(
                    row.index,
                    row.address,
                    row.kind,
                    row.arguments,
                    row.state,
                    row.attempts,
                    row.intent_time,
                    row.outcome_time,
                    row.message,
                    row.result,
                )
                for row in session.scalars(query)
            ]

    def setpoints(self, run_id: str) -> list[Setpoint]:
        """Return what was asked of the instrument, in the order of time."""
        row = tables.Setpoint
        query = (
            select(row.channel, row.value, row.unit, row.time, row.action_index)
            .where(row.run_id == self.run(run_id).id)
            .order_by(row.time, row.id)
        )
        with self._reading() as session:
            return [Setpoint(*columns) for columns in session.execute(query)]

    def channels(self, run_id: str | None) -> list[Channel]:
        """Return which channels were read (None: while no run was played), in the order in which they first were."""
        row = tables.ReadingChannel
        name = None if run_id is None else self.run(run_id).id
        query = select(row.name, row.unit).where(row.run_id.is_not_distinct_from(name)).order_by(row.id)
        with self._reading() as session:
            return [Channel(name, unit) for name, unit in session.execute(query)]

    def series(
        self,
        run_id: str | None,
        channel: str,
        max_points: int | None = None,
        *,
        since: datetime | None = None,
        until: datetime | None = None,
    ) -> Series:
        """Return what a channel said.

        Parameters
        ----------
        run_id : str or None
            None for what was read while no run was played.
        channel : str
        max_points : int, optional
            Thin the series to about so many points, each a reading that was taken: the first and the last, and of each
            stretch the lowest and the highest, so that no peak is lost.
        since, until : datetime, optional
            UTC; both included.

        Raises
        ------
        RunError
            For a channel that was not read; with the channels there are.
        """
        name = None if run_id is None else self.run(run_id).id
        row = tables.ReadingChannel
        with self._reading() as session:
            found = session.scalar(select(row).where(row.run_id.is_not_distinct_from(name), row.name == channel))
            if found is not None:
                return Window(session, found, since, until).series(max_points)
        known = ", ".join(known.name for known in self.channels(name)) or "none"
        whose = "the idle instrument" if name is None else f"run {name}"
        raise RunError(f"{whose} has no readings of {channel!r}; the channels are: {known}")

    def frames(self, run_id: str) -> list[FrameEntry]:
        """Return the acknowledged frames of a run, dark ones included, in the order of their numbers."""
        query = select(tables.FrameRow).where(tables.FrameRow.run_id == self.run(run_id).id)
        with self._reading() as session:
            return [frame_entry(row) for row in session.scalars(query.order_by(tables.FrameRow.number))]

    def one_frame(self, run_id: str, number: int | None = None) -> FrameEntry:
        """Return one acknowledged frame of a run: that of a number, or the newest that is not dark.

        Raises
        ------
        RunError
            Where there is none.
        """
        name, row = self.run(run_id).id, tables.FrameRow
        query = select(row).where(row.run_id == name)
        query = query.where(~row.dark) if number is None else query.where(row.number == number)
        with self._reading() as session:
            found = session.scalar(query.order_by(row.number.desc()).limit(1))
            if found is not None:
                return frame_entry(found)
            last = session.scalar(select(func.max(row.number)).where(row.run_id == name))
        told = "it has none yet" if last is None else f"its frames are 0 to {last}"
        raise RunError(f"run {name} has no frame {'' if number is None else number}".rstrip() + f"; {told}")

    def one_reconstruction(self, run_id: str, number: int | None = None) -> tuple[int, ReconstructionEntry]:
        """Return the heights of a frame of a run, or the newest that were made; with the frame's number.

        Raises
        ------
        RunError
            Where there are none; with the reason where it is known.
        """
        name, row, frame = self.run(run_id).id, tables.Reconstruction, tables.FrameRow
        query = select(row, frame.number, frame.time).join(frame).where(frame.run_id == name)
        query = query.where(row.state == "done") if number is None else query.where(frame.number == number)
        with self._reading() as session:
            found = session.execute(query.order_by(frame.number.desc()).limit(1)).first()
            if found is None:
                told = "" if number is None else f" of frame {number}"
                raise RunError(f"run {name} has no heights{told}; rilievo reconstruct --run {name} makes them")
            made, of, time = found
            figures = {entry.name: entry for entry in self._figures(session, _of_run(name).where(frame.number == of))}
            path = None if made.path is None else Path(made.path)
            entry = ReconstructionEntry(made.frame_id, of, time, made.state, path, made.seconds, made.error, figures)
        if entry.path is None:
            raise RunError(f"run {name} has no heights of frame {of}: {entry.error or entry.state}")
        return of, entry

    def reconstructions(self, run_id: str) -> list[ReconstructionEntry]:
        """Return what became of the frames of a run, in the order of their numbers."""
        name = self.run(run_id).id
        figures: dict[int, dict[str, FigureEntry]] = {}
        with self._reading() as session:
            for entry in self._figures(session, _of_run(name)):
                figures.setdefault(entry.frame_number, {})[entry.name] = entry
            query = (
                select(tables.Reconstruction, tables.FrameRow.number, tables.FrameRow.time)
                .join(tables.FrameRow)
                .where(tables.FrameRow.run_id == name)
                .order_by(tables.FrameRow.number)
            )
            return [
                ReconstructionEntry(
                    row.frame_id,
                    number,
                    time,
                    row.state,
                    None if row.path is None else Path(row.path),
                    row.seconds,
                    row.error,
                    figures.get(number, {}),
                )
                for row, number, time in session.execute(query)
            ]

    def figures(self, run_id: str, name: str) -> list[FigureEntry]:
        """Return one figure of every frame that has it, in the order of their numbers."""
        query = _of_run(self.run(run_id).id).where(tables.FigureRow.name == name)
        with self._reading() as session:
            return list(self._figures(session, query))

    def _figures(self, session: Session, query: Select[*tuple[Any, ...]]) -> Iterator[FigureEntry]:
        for columns in session.execute(query):
            yield FigureEntry(*columns)

    def corrections(self, run_id: str, kind: str | None = None) -> list[Correction]:
        """Return what a run corrected by itself, of one kind or all, in the order of time."""
        row = tables.CorrectionRow
        query = (
            select(row.action_index, row.time, row.kind, row.data)
            .where(row.run_id == self.run(run_id).id)
            .order_by(row.time, row.id)
        )
        if kind is not None:
            query = query.where(row.kind == kind)
        with self._reading() as session:
            return [Correction(*columns) for columns in session.execute(query)]

    def events(self, run_id: str | None, after: int = 0) -> list[Event]:
        """Return what happened in a run (everywhere, for None) after the event of a number, oldest first."""
        row = tables.EventRow
        query = select(row).where(row.number > after).order_by(row.number)
        if run_id is not None:
            query = query.where(row.run_id == self.run(run_id).id)
        with self._reading() as session:
            return [
                Event(found.number, found.run_id, found.time, found.level, found.kind, found.message, found.data)
                for found in session.scalars(query)
            ]


def _of_run(name: str) -> Select[*tuple[Any, ...]]:
    figure = tables.FigureRow
    return (
        select(tables.FrameRow.number, tables.FrameRow.time, figure.name, figure.value, figure.sigma, figure.unit)
        .join(tables.Reconstruction, tables.Reconstruction.id == figure.reconstruction_id)
        .join(tables.FrameRow, tables.FrameRow.id == tables.Reconstruction.frame_id)
        .where(tables.FrameRow.run_id == name)
        .order_by(tables.FrameRow.number, figure.name)
    )


def _which(run_id: str, matching: list[str], every: list[str]) -> str:
    if matching:
        return f"{run_id!r} is the beginning of several runs: {', '.join(matching)}; write more of it"
    if not every:
        return f"there is no run {run_id!r}; the database holds none yet"
    listed = ", ".join(every[:10]) + (f" and {len(every) - 10} older ones" if len(every) > 10 else "")
    return f"there is no run {run_id!r}; the runs are: {listed}"


def _run(row: tables.Run) -> Run:
    return Run(
        row.number,
        row.id,
        row.name,
        row.recipe_name,
        row.recipe_text,
        row.state,
        row.reason,
        row.started,
        row.changed,
        row.ended,
        row.version,
        row.plan,
        row.options,
        row.resumed,
    )


def frame_entry(row: tables.FrameRow) -> FrameEntry:
    """Return a row of the frames as what is handed out of it."""
    return FrameEntry(
        row.id,
        row.number,
        row.action_index,
        row.time,
        StoredFrame(Path(row.path), row.sha256, row.bytes),
        row.dark,
        row.segments,
        row.rows,
        row.columns,
        row.pixel_size_m,
        row.working_distance_m,
        row.beam_energy_j,
        row.probe_current_a,
        row.dwell_time_s,
    )
