"""Recipes that are being written: checked as ``rilievo check`` does, in a thread of their own, the last wish first."""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from acquisition.facts import rounded
from acquisition.markup import Markup, join, tag
from acquisition.plan import check_text
from acquisition.timeline import Entry
from acquisition.wording import bytes_text, duration_text, unbroken
from drivers.contract import Instrument
from drivers.errors import DocumentError, Problem, RilievoError

NAME = "recipe.yaml"
"""What problems call a recipe that lies in no file yet."""
LONGEST = 200_000
"""Characters of a recipe that is checked while it is written."""
_ROWS = 120
_STEP = re.compile(r"^(.*steps\[\d+\])")
_KIND = re.compile(r"\]\.(\w+)")

Opened = Callable[[], AbstractContextManager[Instrument]]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a check found: a plan as :meth:`acquisition.plan.Plan.to_json` gives it, or problems."""

    plan: Mapping[str, Any] | None
    problems: tuple[Problem, ...] = ()


class Checking:
    """Checks recipes against the limits of one instrument, which is opened once and looked at on paper from then on.

    Parameters
    ----------
    opened : callable
        Opens the instrument.
    """

    def __init__(self, opened: Opened) -> None:
        self._opened = opened
        self._instrument: Instrument | None = None
        self._lock = threading.Lock()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="page check")
        self._waiting = 0

    def close(self) -> None:
        """End."""
        self._thread.shutdown(wait=True, cancel_futures=True)

    async def check(self, text: str) -> Verdict | None:
        """Return what a recipe would do, or what is wrong with it; None where too many others wait."""
        if self._waiting >= 8:
            return None
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, self._check, text)
        finally:
            self._waiting -= 1

    def _check(self, text: str) -> Verdict:
        if len(text) > LONGEST:
            told = f"the recipe has {len(text)} characters; expected {LONGEST} at most: check it with rilievo check"
            return Verdict(None, (Problem(told, file=NAME),))
        try:
            return Verdict(check_text(text, NAME, self._on_paper())[1].to_json())
        except DocumentError as error:
            return Verdict(None, error.problems)
        except RilievoError as error:
            return Verdict(None, (Problem(error.message, file=error.where or NAME),))

    def _on_paper(self) -> Instrument:
        with self._lock:
            if self._instrument is None:
                with self._opened() as found:
                    self._instrument = found
            return self._instrument


def verdict_html(verdict: Verdict) -> Markup:
    """Return a plan as a timeline with its duration and dose, or problems with line and column."""
    if verdict.plan is None:
        return _problems(verdict.problems)
    return _plan(verdict.plan)


def _problems(problems: tuple[Problem, ...]) -> Markup:
    count = len(problems)
    head = tag("p", f"✕ {count} problem{'s' if count > 1 else ''}", class_="verdict bad")
    rows = [
        tag(
            "li",
            tag(
                "button",
                f"{problem.line}:{problem.column}",
                type="button",
                data_line=problem.line,
                data_column=problem.column,
                aria_label=f"go to line {problem.line}, column {problem.column}",
            )
            if problem.line
            else None,
            f"{problem.address}: {problem.message}" if problem.address else problem.message,
        )
        for problem in problems
    ]
    return join(head, tag("ol", rows, class_="problems"))


def _plan(plan: Mapping[str, Any]) -> Markup:
    duration = float(plan["duration"]["value"])
    facts = [
        ("lasts", unbroken(duration_text(duration))),
        ("frames", f"{plan['frames']}, and {plan['dark_frames']} dark"),
        ("dose", f"{plan['dose']['value'] / 1e3:.3g} kC/m²"),
        ("electrons per nm²", rounded(plan["electrons_per_area"]["value"])),
        ("disk", unbroken(bytes_text(plan["disk"]["value"]))),
        ("hottest", f"{plan['maximum_temperature']['value'] - 273.15:.0f} °C"),
    ]
    if plan["maximum_pressure"] is not None:
        facts.append(("pressure, at most", f"{plan['maximum_pressure']['value']:.3g} Pa"))
    listed = tag("dl", [tag("div", tag("dt", name), tag("dd", value)) for name, value in facts])
    notes = tag("ul", [tag("li", note) for note in plan["notes"]], class_="notes") if plan["notes"] else None
    entries = [
        Entry(float(one["start"]["value"]), float(one["duration"]["value"]), str(one["address"]), str(one["label"]))
        for one in plan["timeline"]
    ]
    rows = _grouped(entries)
    more = tag("p", f"and {len(rows) - _ROWS} more steps", class_="key") if len(rows) > _ROWS else None
    drawn = tag("ol", [_row(row, duration) for row in rows[:_ROWS]], class_="timeline", aria_label="the planned night")
    return join(tag("p", "✓ can be played", class_="verdict good"), listed, notes, drawn, more)


def _grouped(entries: Sequence[Entry]) -> list[tuple[Entry, str]]:
    """Return the plan's stretches with their kinds; equal ones of one step that follow on one another are one."""
    rows: list[tuple[Entry, str, int]] = []
    for entry in entries:
        kind = _kind(entry.address)
        step = _step_of(entry)
        if rows and kind == rows[-1][1] == "frames" and step == _step_of(rows[-1][0]):
            first, _, count = rows[-1]
            name = first.label.rsplit(":", 1)[0] if ":" in first.label else ""
            label = f"{name}: {count + 1} frames" if name else f"{count + 1} frames"
            joined = Entry(first.start, entry.start + entry.duration - first.start, first.address, label)
            rows[-1] = (joined, kind, count + 1)
        else:
            rows.append((entry, kind, 1))
    return [(entry, kind) for entry, kind, _ in rows]


def _step_of(entry: Entry) -> str:
    found = _STEP.match(entry.address)
    return found.group(1) if found else entry.address


def _kind(address: str) -> str:
    found = _KIND.findall(address)
    return found[0] if found else address.split("[", maxsplit=1)[0]


def _clock(seconds: float) -> str:
    """Return a moment of the night, counted from its start."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


def _row(row: tuple[Entry, str], total: float) -> Markup:
    entry, kind = row
    left = 100 * entry.start / total if total > 0 else 0.0
    width = 100 * entry.duration / total if total > 0 else 0.0
    bar = tag("i", style=f"left:{min(left, 99.5):.2f}%;width:{width:.2f}%")
    return tag(
        "li",
        tag("span", _clock(entry.start), class_="at"),
        tag("span", entry.label),
        tag("span", unbroken(duration_text(entry.duration)) if entry.duration else "", class_="for"),
        tag("span", bar, class_=f"track kind-{kind}", aria_hidden="true"),
        class_="step",
    )
