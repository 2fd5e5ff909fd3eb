"""A run as a report tells it: what the log holds, in the units that people read and in seconds since the start."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from acquisition.log import Log
from acquisition.records import Action, Event, FigureEntry, FrameEntry, Instrument, ReconstructionEntry, Run, Setpoint
from drivers.units import quantity

Floats = NDArray[np.float64]

SHOWN = {"K": "degC", "mol/s": "sccm", "m": "nm"}
"""What people read instead of canonical units, on the night's charts."""

_STEP = re.compile(r"^(.*steps\[\d+\])")
_TURN = re.compile(r"repeat\[(\d+)\]")
_POINTS = 1200
_DRAWN = ("K", "Pa", "mol/s")
_TRUTHS = ("truth.coverage", "truth.roughness", "truth.sample_temperature")


@dataclass(frozen=True, slots=True, eq=False)
class Curve:
    """A figure over time.

    Attributes
    ----------
    times : (N,) array, s since the start of the run
    values : (N,) array, in ``unit``
    sigma : (N,) array or None
    """

    name: str
    unit: str
    times: Floats
    values: Floats
    sigma: Floats | None = None


@dataclass(frozen=True, slots=True)
class Stretch:
    """A step of the recipe as it was played; s since the start of the run."""

    name: str
    begin: float
    end: float
    state: str
    what: str


def shown(values: Floats, unit: str) -> tuple[Floats, str]:
    """Return canonical values in the unit that people read."""
    if unit not in SHOWN:
        return values, unit
    zero, one = (float(quantity(value, unit).to(SHOWN[unit]).magnitude) for value in (0.0, 1.0))
    return values * (one - zero) + zero, SHOWN[unit]


class Chronicle:
    """Everything that a report needs to know of a run.

    Parameters
    ----------
    log : Log
    run_id : str
    """

    def __init__(self, log: Log, run_id: str) -> None:
        self._log = log
        self.run: Run = log.run(run_id)
        self.instrument: Instrument = log.instrument(self.run.id)
        self.actions: list[Action] = log.actions(self.run.id)
        self.frames: list[FrameEntry] = log.frames(self.run.id)
        self.reconstructions: list[ReconstructionEntry] = log.reconstructions(self.run.id)
        self.events: list[Event] = log.events(self.run.id)
        self.setpoints: list[Setpoint] = log.setpoints(self.run.id)
        self._units = {channel.name: channel.unit for channel in log.channels(self.run.id)}

    def seconds(self, time: datetime) -> float:
        """Return seconds since the run started."""
        return (time - self.run.started).total_seconds()

    @cached_property
    def end(self) -> float:
        """The last moment that anything is known of, s."""
        times = [self.run.changed, self.run.ended or self.run.started]
        times += [frame.time for frame in self.frames] + [event.time for event in self.events]
        times += [time for action in self.actions for time in (action.intent_time, action.outcome_time) if time]
        ends = [float(curve.times[-1]) for curve in self._every_curve if len(curve.times)]
        return max([self.seconds(time) for time in times] + ends + [1.0])

    @cached_property
    def _every_curve(self) -> list[Curve]:
        """The curves that the report draws; a night has many more channels."""
        drawn = (
            name
            for name, unit in self._units.items()
            if (unit in _DRAWN and not name.startswith("truth.")) or name in _TRUTHS
        )
        return [self._curve(name) for name in drawn]

    def _curve(self, channel: str) -> Curve:
        series = self._log.series(self.run.id, channel, _POINTS)
        start = np.datetime64(self.run.started.astimezone(UTC).replace(tzinfo=None), "us")
        times = (series.times - start) / np.timedelta64(1, "s")
        values, unit = shown(series.values, series.unit)
        return Curve(channel, unit, times.astype(np.float64), values)

    def readbacks(self, unit: str) -> list[Curve]:
        """Return the channels of a canonical unit that measured something, truth and idle ones aside."""
        wanted = {name for name, own in self._units.items() if own == unit and not name.startswith("truth.")}
        return [curve for curve in self._every_curve if curve.name in wanted and len(curve.values)]

    def truth(self, name: str) -> Curve | None:
        """Return what only the simulator knew."""
        return next((curve for curve in self._every_curve if curve.name == f"truth.{name}"), None)

    def asked(self, channel: str) -> Curve | None:
        """Return the setpoints of a channel as steps that last until the next, or until the end."""
        points = [setpoint for setpoint in self.setpoints if setpoint.channel == channel]
        if not points:
            return None
        times = np.array([self.seconds(point.time) for point in points] + [self.end])
        values, unit = shown(np.array([point.value for point in points] + [points[-1].value]), points[0].unit)
        return Curve(channel, unit, np.repeat(times, 2)[1:], np.repeat(values, 2)[:-1])

    @cached_property
    def drift(self) -> list[Curve]:
        """How far the sample had drifted at each correction, corrected or not: x and y; empty where none was made."""
        made = self._log.corrections(self.run.id, "drift")
        if len(made) < 2:
            return []
        times = np.array([self.seconds(each.time) for each in made])
        totals = np.array([each.data["standing"]["total"] for each in made], dtype=np.float64)
        return [Curve(f"drift in {axis}", "nm", times, totals[:, index] * 1e9) for index, axis in enumerate("xy")]

    def figure(self, name: str) -> Curve | None:
        """Return a figure of all heights, with its σ (nan where it is not known)."""
        entries: list[FigureEntry] = [
            entry.figures[name] for entry in self.reconstructions if entry.state == "done" and name in entry.figures
        ]
        if not entries:
            return None
        times = np.array([self.seconds(entry.time) for entry in entries])
        values, unit = shown(np.array([entry.value for entry in entries]), entries[0].unit)
        spread = np.array([np.nan if entry.sigma is None else entry.sigma for entry in entries])
        factor = shown(np.array([0.0, 1.0]), entries[0].unit)[0]
        return Curve(name, unit, times, values, spread * (factor[1] - factor[0]))

    def busy(self, curves: Sequence[Curve]) -> tuple[float, float]:
        """Return the stretch of time that holds nearly all points: a few frames long before or after are left out."""
        times = np.sort(np.concatenate([curve.times for curve in curves]))
        first, last = 0, len(times) - 1
        whole, few = times[-1] - times[0], max(2, len(times) // 10)
        for index in range(min(few, len(times) - 1)):
            if times[index + 1] - times[index] > 0.2 * whole:
                first = index + 1
            if times[-1 - index] - times[-2 - index] > 0.2 * whole:
                last = len(times) - 2 - index
        begin, end = float(times[first]), float(times[max(first, last)])
        air = max(60.0, 0.03 * (end - begin))
        return max(0.0, begin - air), min(self.end, end + air)

    @cached_property
    def done(self) -> list[ReconstructionEntry]:
        """The frames that have heights."""
        return [entry for entry in self.reconstructions if entry.state == "done" and entry.path is not None]

    @cached_property
    def stretches(self) -> list[Stretch]:
        """The recipe's steps as they were played."""
        groups: dict[str, list[Action]] = {}
        for action in self.actions:
            match = _STEP.match(action.address)
            if match:
                groups.setdefault(match.group(1), []).append(action)
        turns = _turns(groups)
        made = (self._stretch(actions, _cycle(step, turns)) for step, actions in groups.items())
        return [stretch for stretch in made if stretch is not None]

    def _stretch(self, actions: Sequence[Action], cycle: str) -> Stretch | None:
        begins = [action.intent_time for action in actions if action.intent_time]
        if not begins:
            return None
        ends = [action.outcome_time for action in actions if action.outcome_time]
        name = next((str(action.arguments["name"]) for action in actions if action.arguments.get("name")), "")
        kinds = list(dict.fromkeys(action.kind for action in actions))
        open_end = any(action.state == "begun" for action in actions)
        end = self.end if open_end or not ends else self.seconds(max(ends))
        return Stretch((name or kinds[0]) + cycle, self.seconds(min(begins)), end, _worst(actions), _counted(actions))

    def chosen(self, count: int = 6) -> list[ReconstructionEntry]:
        """Return frames that show the night: the first, the last, and those between where the surface changed most."""
        done = self.done
        if len(done) <= count:
            return done
        path = self._changes(done)
        wanted = np.linspace(0, path[-1], count)
        indices = {int(np.argmin(np.abs(path - place))) for place in wanted}
        return [done[index] for index in sorted(indices)]

    @staticmethod
    def _changes(done: Sequence[ReconstructionEntry]) -> Floats:
        """Return how far the surface had gone at each frame: half by its figures' changes, half by time."""
        path = np.linspace(0, 1, len(done))
        for name in ("coverage", "roughness"):
            values = np.array([entry.figures[name].value if name in entry.figures else np.nan for entry in done])
            if np.isfinite(values).sum() < 3:
                continue
            smooth = np.convolve(np.nan_to_num(values, nan=np.nanmean(values)), np.ones(3) / 3, "same")
            smooth[[0, -1]] = smooth[[1, -2]]
            steps = np.concatenate([[0.0], np.abs(np.diff(smooth))])
            if steps.sum() > 0:
                path = path + np.cumsum(steps) / steps.sum()
        return path


def _turns(steps: Iterable[str]) -> dict[str, int]:
    """Return how often each repeat was to be played, by its step's address."""
    counts: dict[str, int] = {}
    for step in steps:
        for match in _TURN.finditer(step):
            repeat = step[: match.start()]
            counts[repeat] = max(counts.get(repeat, 0), int(match.group(1)) + 1)
    return counts


def _cycle(step: str, turns: Mapping[str, int]) -> str:
    """Return which turn of its repeats a step belongs to: ``, 2 of 3``; nothing outside a repeat."""
    places = ((int(match.group(1)) + 1, turns[step[: match.start()]]) for match in _TURN.finditer(step))
    return "".join(f", {turn} of {count}" for turn, count in places)


def _worst(actions: Sequence[Action]) -> str:
    states = {action.state for action in actions}
    return next((state for state in ("failed", "stopped", "begun", "done", "skipped") if state in states), "planned")


def _counted(actions: Sequence[Action]) -> str:
    """Return what a step consisted of: ``gas, series, 53 of 71 frames``."""
    kinds = dict.fromkeys(action.kind for action in actions)
    return ", ".join(_of_kind(kind, [action for action in actions if action.kind == kind]) for kind in kinds)


def _of_kind(kind: str, actions: Sequence[Action]) -> str:
    played = sum(action.state not in ("planned", "skipped") for action in actions)
    if len(actions) == 1:
        return kind
    return f"{len(actions)} {kind}s" if played == len(actions) else f"{played} of {len(actions)} {kind}s"
