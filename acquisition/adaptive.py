"""What hangs on the live reconstruction: the last figures and their rates, decisions, and the pace of a series.

A figure counts while its frame is young enough. Where none does, the recipe's own fallback is taken: nothing waits for
a reconstruction without a bound. Every decision carries its evidence.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

import numpy as np

from acquisition.actions import BeginSeries, Branch, Decide
from acquisition.conditions import RATE, Condition, Pace
from acquisition.hands import Hands, Latest, Result
from acquisition.records import FigureEntry
from acquisition.timeline import condition_text
from drivers.errors import DecisionError
from drivers.units import format_quantity, quantity, quantity_json, si, unit_text

FITTED = 6
"""Frames over which a rate is taken."""
FEWEST = 3
"""Frames below which there is none."""
GAP = 3.0
"""Times between frames, over the usual one, beyond which what came before no longer tells of the rate."""
CHANGED = 0.1
"""Share by which the time between frames must change to be told again."""
LOOK_AGAIN = 1.0
"""Seconds between two looks while a decision waits for a figure."""

Told = tuple[float, float | None, str]
"""Value, standard uncertainty and unit."""


class FigureHistory:
    """The figures of a run's last frames."""

    def __init__(self) -> None:
        self._known: dict[str, deque[tuple[int, datetime, Told]]] = {}

    @classmethod
    def of(cls, entries: Iterable[FigureEntry]) -> FigureHistory:
        """Return the history that a log holds, for a run that is resumed."""
        history = cls()
        for entry in sorted(entries, key=lambda entry: entry.frame_number):
            history.add(entry.frame_number, entry.time, {entry.name: (entry.value, entry.sigma, entry.unit)})
        return history

    def add(self, frame: int, time: datetime, figures: Mapping[str, Told]) -> None:
        """Note the figures of a frame that was begun at ``time``; one that came late finds its place."""
        for name, told in figures.items():
            known = self._known.setdefault(name, deque(maxlen=FITTED))
            newer = []
            while known and known[-1][0] > frame:
                newer.append(known.pop())
            if len(known) + len(newer) < FITTED or known:
                known.append((frame, time, told))
            known.extend(reversed(newer))

    def latest(self, figure: str, now: datetime) -> Latest | None:
        """Return a figure of the last frame that has it, or its rate over the last frames."""
        name = figure.removesuffix(RATE)
        known = self._known.get(name)
        if not known:
            return None
        frame, time, (value, sigma, unit) = known[-1]
        age = (now - time).total_seconds()
        if figure == name:
            return Latest(value, sigma, unit, frame, age)
        found = _rate([(time.timestamp(), told[0]) for _, time, told in known])
        return None if found is None else Latest(*found, f"{unit}/s" if unit else "1/s", frame, age)


def _rate(points: list[tuple[float, float]]) -> tuple[float, float] | None:
    """Return slope and its standard uncertainty, from the scatter about a straight line; None for too few points."""
    times = np.array([time for time, _ in points])
    steps = np.diff(times)
    if len(steps):
        breaks = np.flatnonzero(steps > GAP * np.median(steps))
        points = points[int(breaks[-1]) + 1 :] if len(breaks) else points
    if len(points) < FEWEST:
        return None
    t, y = (np.array(column, dtype=np.float64) for column in zip(*points, strict=True))
    t = t - t.mean()
    spread = float((t**2).sum())
    if spread <= 0:
        return None
    slope = float((t * y).sum() / spread)
    left = y - y.mean() - slope * t
    return slope, float(np.sqrt((left**2).sum() / (len(t) - 2) / spread))


def evidence(condition: Condition, latest: Latest | None) -> dict[str, Any]:
    """Return what a decision rests on, as JSON data; without the figure where there is none."""
    said: dict[str, Any] = {
        "figure": condition.figure,
        "comparison": condition.comparison,
        "threshold": quantity_json(condition.threshold),
        "within": None if condition.within is None else quantity_json(condition.within),
    }
    if latest is not None:
        known = {"value": latest.value, "sigma": latest.sigma, "unit": latest.unit}
        said |= {**known, "frame": latest.frame, "age": {"value": latest.age, "unit": "s"}}
    return said


def judge(condition: Condition, latest: Latest | None) -> bool | None:
    """Return whether a condition is met; None where no figure is young enough to tell."""
    if latest is None or not condition.fresh(latest.age):
        return None
    return condition.met(quantity(latest.value, latest.unit), latest.sigma)


def decide(hands: Hands, action: Decide) -> Result:
    """Choose a branch; returns it with the evidence.

    Raises
    ------
    DecisionError
        Where there is no figure that counts, and the recipe says ``fail``, or ``wait`` has waited in vain.
    """
    condition = action.condition
    began = hands.clock.monotonic()
    latest = hands.latest(condition.figure)
    met = judge(condition, latest)
    if met is None and action.otherwise == "wait":
        bound = si(action.at_most) if action.at_most is not None else si(action.within)
        while met is None and hands.clock.monotonic() - began < bound - 1e-9:
            hands.wait(min(LOOK_AGAIN, bound - (hands.clock.monotonic() - began)))
            latest = hands.latest(condition.figure)
            met = judge(condition, latest)
    data = evidence(condition, latest) | {"met": met, "waited": hands.clock.monotonic() - began}
    branch: Branch | None = None
    if met is not None:
        branch = "then" if met else "else"
    elif action.otherwise in ("then", "else"):
        branch = "then" if action.otherwise == "then" else "else"
    data |= {"branch": branch, "fallback": met is None}
    seen = _seen(condition, latest)
    if branch is None:
        message = f"{action.address}: {seen}, and the recipe says {action.otherwise}"
        hands.tell("error", "decision", message, data)
        raise DecisionError(
            f"expected {condition.figure} of a frame not older than {format_quantity(action.within)}; {seen}; "
            "see why the reconstruction is late, allow more time, or name a branch under otherwise",
            action.address,
        )
    how = f"{seen}, so as the recipe says otherwise" if met is None else seen
    hands.tell("info" if met is not None else "warning", "decision", f"{action.address}: {branch}, as {how}", data)
    return data


def _seen(condition: Condition, latest: Latest | None) -> str:
    """Return what is known of a figure, in words."""
    if latest is None:
        return f"there is no {condition.figure.replace('_', ' ')} yet"
    # In the unit of the threshold, so that a reader can compare.
    unit = condition.threshold.units
    value, one = quantity(latest.value, latest.unit).to(unit), quantity(1.0, latest.unit).to(unit)
    spread = "" if latest.sigma is None else f" ± {latest.sigma * float(one.magnitude):.2g}"
    told = f"{condition.figure.replace('_', ' ')} is {float(value.magnitude):.3g}{spread} {unit_text(unit)}".rstrip()
    return f"{told}, {latest.age:.0f} s old, asked for: {condition_text(condition)}"


def interval(pace: Pace, at_most: float, latest: Latest | None) -> float:
    """Return the time from the last frame to the next, s.

    Parameters
    ----------
    pace : Pace
    at_most : float, s
    latest : Latest or None
        The pace's figure.
    """
    at_least = si(pace.at_least)
    met = judge(pace.faster_when, latest)
    if met is None:
        return at_most if pace.otherwise == "at_most" else at_least
    if not met:
        return at_most
    assert latest is not None  # noqa: S101  it was judged
    threshold = si(pace.faster_when.threshold)
    if not pace.faster_when.figure.endswith(RATE) or threshold == 0:
        return at_least
    # By the same change from frame to frame as the threshold's in the longest time.
    times = si(quantity(latest.value, latest.unit)) / threshold
    return max(at_least, min(at_most, at_most / times))


class Pacing:
    """When the next frame of a series with a pace is due.

    Parameters
    ----------
    action : BeginSeries
        With a pace.

    Attributes
    ----------
    last : float or None, s
        When the last frame began, from the time zero of the series; a resume sets it.
    """

    def __init__(self, action: BeginSeries) -> None:
        assert action.pace is not None  # noqa: S101  whoever calls has one
        self.action, self.pace = action, action.pace
        self.last: float | None = None
        self._told: float | None = None

    def due(self, hands: Hands) -> float:
        """Return when the next frame is due, from the time zero of the series, as far as is known by now; s."""
        if self.last is None:
            return 0.0
        return self.last + interval(self.pace, si(self.action.every), hands.latest(self.pace.faster_when.figure))

    def over(self, due: float) -> bool:
        """Return whether a frame that is due then lies behind the series' end."""
        return self.action.duration is not None and due > si(self.action.duration) + 1e-6

    def began(self, hands: Hands, offset: float) -> None:
        """Note that a frame begins; an interval that is another one than before goes to the log, with its reason."""
        latest = hands.latest(self.pace.faster_when.figure)
        seconds = interval(self.pace, si(self.action.every), latest)
        if self.last is not None and (self._told is None or abs(seconds / self._told - 1.0) > CHANGED):
            self._told = seconds
            condition = self.pace.faster_when
            met = judge(condition, latest)
            data = evidence(condition, latest) | {"met": met, "fallback": met is None}
            data["interval"] = {"value": seconds, "unit": "s"}
            hands.tell(
                "info",
                "decision",
                f"{self.action.address}: a frame every {seconds:.3g} s, as {_seen(condition, latest)}",
                data,
            )
        self.last = offset
