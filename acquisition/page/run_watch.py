"""What is known of one run, followed by number: each look reads only what came since the last one."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Select, func, select
from sqlalchemy.orm import Session

from acquisition import tables
from acquisition.log import Log
from acquisition.page.curves import Estimate, Estimates, GrowingCurve
from acquisition.page.sight import Counts, Gauge, Step
from acquisition.records import FigureEntry, FrameEntry, ReconstructionEntry, Run, frame_entry

DRAWN = ("K", "Pa", "mol/s")
"""Canonical units of the channels that are drawn; what only a simulator knows is left to the report."""
FIGURES = ("coverage", "roughness")
_AT_ONCE = 20_000
"""Readings that one look takes at most; the next look takes the rest."""


class RunWatch:
    """Follows one run.

    Parameters
    ----------
    log : Log
    run : Run
    """

    def __init__(self, log: Log, run: Run) -> None:
        self._log = log
        self.run = run
        self.instrument = log.instrument(run.id).name
        self.curves: dict[str, GrowingCurve] = {}
        self.asked: dict[str, list[tuple[float, float]]] = {}
        self.units: dict[str, str] = {}
        self.estimates = {name: Estimates() for name in FIGURES}
        self.figure_units: dict[str, str] = {}
        self.counts = Counts()
        self.frame: FrameEntry | None = None
        self.shape: ReconstructionEntry | None = None
        self.step: Step | None = None
        self.elapsed = 0.0
        self.left: float | None = None
        self.version = 0
        self._latest: dict[str, tuple[float, datetime, bool]] = {}
        self._channels: dict[int, str] = {}
        self._last = dict.fromkeys(("reading", "setpoint", "figure", "frame", "made"), 0)
        self._plan = _timeline(run.plan)
        self._duration = _seconds(run.plan, "duration")
        self._moment = run.started

    def look(self, session: Session, run: Run) -> None:
        """Take what came since the last look."""
        self.run = run
        changed = [
            self._readings(session),
            self._setpoints(session),
            self._figures(session),
        ]
        self._frames(session)
        self._journal(session)
        self.version += any(changed)

    @property
    def gauges(self) -> tuple[Gauge, ...]:
        """What was read last, in the order in which the channels first were."""
        return tuple(
            Gauge(
                name, self.units[name], *self._latest[name], self.asked[name][-1][1] if self.asked.get(name) else None
            )
            for name in self._channels.values()
            if name in self._latest
        )

    def seconds(self, time: datetime) -> float:
        """Return seconds since the run started."""
        return (time - self.run.started).total_seconds()

    def _readings(self, session: Session) -> bool:
        newest = session.scalar(select(func.max(tables.ReadingRow.id))) or 0
        before = self._last["reading"]
        if newest <= before:
            return False
        row = tables.ReadingChannel
        for key, name, unit in session.execute(
            select(row.id, row.name, row.unit).where(row.run_id == self.run.id).order_by(row.id)
        ):
            if key not in self._channels and unit in DRAWN and not name.startswith("truth."):
                self._channels[key], self.units[name], self.curves[name] = name, unit, GrowingCurve()
        if not self._channels:
            return False
        if before == 0:
            self._catch_up(session)
            self._last["reading"] = newest
            return True
        reading = tables.ReadingRow
        query = select(reading.id, reading.channel_id, reading.time, reading.value, reading.fresh)
        rows = session.execute(query.where(reading.id > before).order_by(reading.id).limit(_AT_ONCE)).all()
        for _, key, time, value, fresh in rows:
            if key in self._channels:
                name = self._channels[key]
                self.curves[name].add([(self.seconds(time), value)])
                self._note(name, value, time, fresh=fresh)
        self._last["reading"] = rows[-1][0] if rows else newest
        return bool(rows)

    def _catch_up(self, session: Session) -> None:
        """Take what there was before the page looked, from the stretches that sum the night up."""
        span, reading = tables.SpanRow, tables.ReadingRow
        for key, name in self._channels.items():
            query = select(span.low_time, span.low, span.high_time, span.high).where(span.channel_id == key)
            rows = session.execute(query.order_by(span.start)).all()
            points = [(row[0], row[1]) for row in rows] + [(row[2], row[3]) for row in rows]
            self.curves[name].add((self.seconds(time), value) for time, value in points)
            last = session.execute(
                select(reading.value, reading.time, reading.fresh)
                .where(reading.channel_id == key)
                .order_by(reading.time.desc())
                .limit(1)
            ).first()
            if last is not None:
                self._note(name, last[0], last[1], fresh=last[2])
            if not rows:  # the run is older than the stretches
                series = self._log.series(self.run.id, name, 600)
                began = self.run.started.replace(tzinfo=None)
                times = [(moment - began).total_seconds() for moment in series.times.tolist()]
                self.curves[name].add(zip(times, series.values.tolist(), strict=True))

    def _note(self, name: str, value: float, time: datetime, *, fresh: bool) -> None:
        self._latest[name] = (value, time, fresh)
        self._moment = max(self._moment, time)

    def _setpoints(self, session: Session) -> bool:
        row = tables.Setpoint
        query = select(row.id, row.channel, row.value, row.time)
        query = query.where(row.run_id == self.run.id, row.id > self._last["setpoint"]).order_by(row.id)
        found = session.execute(query).all()
        for key, channel, value, time in found:
            self.asked.setdefault(channel, []).append((self.seconds(time), value))
            self._last["setpoint"] = key
        return bool(found)

    def _figures(self, session: Session) -> bool:
        figure, made, frame = tables.FigureRow, tables.Reconstruction, tables.FrameRow
        query = (
            select(figure.id, figure.name, figure.value, figure.sigma, figure.unit, frame.number, frame.time)
            .join(made, made.id == figure.reconstruction_id)
            .join(frame, frame.id == made.frame_id)
            .where(figure.id > self._last["figure"], frame.run_id == self.run.id, figure.name.in_(FIGURES))
            .order_by(figure.id)
            .limit(_AT_ONCE)
        )
        found = session.execute(query).all()
        for key, name, value, sigma, unit, number, time in found:
            self.estimates[name].add(Estimate(self.seconds(time), value, sigma, number))
            self.figure_units[name] = unit
            self._last["figure"] = key
        return bool(found)

    def _frames(self, session: Session) -> None:
        frame, made = tables.FrameRow, tables.Reconstruction
        newest = session.scalar(select(func.max(frame.id)).where(frame.run_id == self.run.id)) or 0
        latest_made = session.scalar(select(func.max(made.id))) or 0
        if newest == self._last["frame"] and latest_made == self._last["made"]:
            return
        self._last |= {"frame": newest, "made": latest_made}
        of_run = frame.run_id == self.run.id
        lit = session.scalars(
            select(frame).where(of_run, frame.dark.is_(False)).order_by(frame.number.desc()).limit(1)
        ).first()
        self.frame = None if lit is None else frame_entry(lit)
        if lit is not None:
            self._moment = max(self._moment, lit.time)
        dark = _counted(session, select(frame.dark, func.count()).where(of_run).group_by(frame.dark))
        states = select(made.state, func.count()).join(frame, frame.id == made.frame_id).where(of_run)
        became = _counted(session, states.group_by(made.state))
        self.counts = Counts(
            dark.get(False, 0),
            dark.get(True, 0),
            became.get("done", 0),
            became.get("failed", 0),
            became.get("left out", 0),
        )
        self._shape(session)

    def _shape(self, session: Session) -> None:
        """Note the latest heights and their figures."""
        frame, made, figure = tables.FrameRow, tables.Reconstruction, tables.FigureRow
        row = session.execute(
            select(made, frame.number, frame.time)
            .join(frame, frame.id == made.frame_id)
            .where(frame.run_id == self.run.id, made.state == "done", made.path.is_not(None))
            .order_by(frame.number.desc())
            .limit(1)
        ).first()
        if row is None:
            return
        entry, number, time = row
        path = None if entry.path is None else Path(entry.path)
        told = session.execute(
            select(figure.name, figure.value, figure.sigma, figure.unit).where(figure.reconstruction_id == entry.id)
        )
        figures = {name: FigureEntry(number, time, name, value, sigma, unit) for name, value, sigma, unit in told}
        self.shape = ReconstructionEntry(
            entry.frame_id, number, time, entry.state, path, entry.seconds, entry.error, figures
        )

    def _journal(self, session: Session) -> None:
        """Note which stretch of the plan is being played, and what is left of it."""
        row = tables.Action
        of_run = row.run_id == self.run.id
        query = select(row.address, row.kind, row.intent_time).where(of_run, row.intent_time.is_not(None))
        current = session.execute(query.order_by(row.index.desc()).limit(1)).first()
        if current is None:
            return
        address, kind, intent = current
        since = self._moment if intent is None else intent
        self._moment = max(self._moment, since)
        self.elapsed = self.seconds(self._moment)
        for number, (start, duration, place, label) in enumerate(self._plan, 1):
            if address == place or address.startswith(f"{place}["):
                within = (row.address == place) | row.address.startswith(f"{place}[", autoescape=True)
                begin = session.scalar(select(func.min(row.intent_time)).where(of_run, within))
                into = self.elapsed - self.seconds(begin or since)
                self.left = max(0.0, self._duration - start - min(max(0.0, into), duration))
                self.step = Step(number, len(self._plan), label)
                return
        self.left = max(0.0, self._duration - self.elapsed) if self._plan else None
        self.step = Step(0, len(self._plan), kind)


def _counted(session: Session, query: Select[*tuple[Any, ...]]) -> dict[Any, int]:
    return {row[0]: int(row[1]) for row in session.execute(query)}


def _timeline(plan: Mapping[str, Any] | None) -> list[tuple[float, float, str, str]]:
    entries = (plan or {}).get("timeline") or []
    return [
        (float(entry["start"]["value"]), float(entry["duration"]["value"]), str(entry["address"]), str(entry["label"]))
        for entry in entries
    ]


def _seconds(plan: Mapping[str, Any] | None, key: str) -> float:
    found = (plan or {}).get(key)
    return float(found["value"]) if found else 0.0
