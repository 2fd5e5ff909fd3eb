"""What a person sees in the terminal: progress of a run, tables, errors."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, TextIO

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn
from rich.table import Table
from rich.text import Text

from acquisition.wording import bytes_text, duration_text
from drivers.errors import DocumentError, RilievoError
from drivers.units import ELEMENTARY_CHARGE

if TYPE_CHECKING:
    from acquisition.night import Night
    from acquisition.plan import Plan
    from acquisition.progress import Progress as RunProgress
    from acquisition.records import Run

LONGEST_TIMELINE = 60
"""Lines of a plan that a person still reads."""
BROKEN_PIPE = (OSError, SystemExit)
"""What printing raises where nobody reads: rich turns a broken pipe into SystemExit."""
STATE_STYLES = {
    "running": "cyan",
    "paused": "yellow",
    "suspended": "yellow",
    "stopping": "yellow",
    "finished": "green",
    "stopped": "yellow",
    "failed": "red",
    "safe": "magenta",
}


def console(stream: TextIO | None = None) -> Console:
    """Return a console for results, or for everything else where ``stream`` is standard error."""
    # Names, paths and reasons are data: what looks like markup in them is printed as it stands.
    return Console(file=stream or sys.stdout, highlight=False, markup=False)


def emit_json(value: Any) -> None:
    """Print a value as JSON on standard output."""
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def emit_error(error: RilievoError, *, as_json: bool) -> None:
    """Tell an error on standard error, as a sentence or as ``{"error": {"code", "message", "where"}}``."""
    if as_json:
        problems = (
            {"problems": [{"where": p.where, "address": p.address, "message": p.message} for p in error.problems]}
            if isinstance(error, DocumentError)
            else {}
        )
        body = {"code": error.code, "message": error.message, "where": error.where, **problems}
        sys.stderr.write(json.dumps({"error": body}, ensure_ascii=False) + "\n")
        return
    out = console(sys.stderr)
    if isinstance(error, DocumentError):
        for problem in error.problems:
            told = Text.assemble(("error ", "bold red"), (f"{problem.where}: ", "bold"), _addressed(problem))
            out.print(told, soft_wrap=True)
        return
    where = (f"{error.where}: ", "bold") if error.where else ""
    out.print(Text.assemble(("error ", "bold red"), where, error.message), soft_wrap=True)


def _addressed(problem: Any) -> str:
    return f"{problem.address}: {problem.message}" if problem.address else str(problem.message)


def time_text(moment: datetime | None) -> str:
    """Return a UTC time as people read it."""
    return "" if moment is None else f"{moment:%Y-%m-%d %H:%M:%S}"


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, right: Sequence[str] = ()) -> Table:
    """Return a plain table."""
    made = Table(box=None, header_style="bold", pad_edge=False)
    for name in columns:
        made.add_column(name, justify="right" if name in right else "left", overflow="fold")
    for row in rows:
        made.add_row(*(cell if isinstance(cell, Text) else str(cell) for cell in row))
    return made


def state_text(state: str) -> Text:
    """Return a run's state in its colour."""
    return Text(state, style=STATE_STYLES.get(state, ""))


def _readback(night: Night) -> str:
    """Return temperature, pressure, frames and heights of a run in a line."""
    latest, progress = night.telemetry.latest, night.engine.progress
    parts = [
        _reading(latest, "heater.temperature", "degC", ".0f"),
        _reading(latest, "gauge.pressure", "Pa", ".3g"),
        f"{progress.frames} frames",
        f"{progress.heights} heights",
    ]
    coverage = progress.figures.get("coverage")
    if coverage is not None:
        parts.append(f"coverage {coverage[0]:.0%}")
    if progress.left_out:
        parts.append(f"{progress.left_out} left out")
    return "  ".join(part for part in parts if part)


def _reading(latest: Any, name: str, unit: str, form: str) -> str:
    reading = latest.get(name)
    if reading is None:
        return ""
    value = float(reading.value.to(unit).magnitude)
    return f"{value:{form}} {'°C' if unit == 'degC' else unit}"


def follow(night: Night, plan: Plan, stop_asked: Callable[[], str | None]) -> None:
    """Show a run until it ends; ask it to stop when ``stop_asked`` says why.

    A terminal that goes away (closed, or a pipe without a reader) ends the display, not the run.

    Parameters
    ----------
    night : Night
        Already started.
    plan : Plan
        What was planned, for the bar's length and the names of the steps.
    stop_asked : callable
        Returns a reason once somebody wants the run to end, else None.
    """
    out = console(sys.stderr)
    labels = {entry.address: entry.label for entry in plan.timeline}
    try:
        if out.is_terminal:
            _follow_on_a_bar(night, plan, labels, out, stop_asked)
        else:
            _follow_plainly(night, labels, out, stop_asked)
    except BROKEN_PIPE:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115, PTH123  nobody reads it any more
    while not night.wait(0.1):
        _pass_on(stop_asked, night)


def _follow_on_a_bar(
    night: Night, plan: Plan, labels: Mapping[str, str], out: Console, stop_asked: Callable[[], str | None]
) -> None:
    """Redraw two lines: the step with the night's bar and what is left, and below it what the sample sees."""
    columns = (SpinnerColumn(), BarColumn(bar_width=20), TextColumn("{task.fields[left]}"))
    bar = Progress(*columns, console=out)
    remaining = _Remaining(plan)
    task = bar.add_task("night", total=max(plan.duration, 1.0), left="")

    def shown() -> Group:
        progress = night.engine.progress
        left = remaining.seconds(progress.address, night.elapsed)
        # What was saved by an early stop is not left any more: the bar ends full.
        bar.update(
            task, total=max(night.elapsed + left, 1.0), completed=night.elapsed, left=f"{duration_text(left)} left"
        )
        step = Text(
            f"{progress.action + 1}/{progress.actions} {_label(progress, labels)}", no_wrap=True, overflow="ellipsis"
        )
        return Group(step, bar, Text(_readback(night), style="cyan", no_wrap=True, overflow="ellipsis"))

    with Live(shown(), console=out, transient=True, refresh_per_second=8) as live:
        while not night.wait(0.1):
            live.update(shown())
            _pass_on(stop_asked, night)


class _Remaining:
    """Seconds that a plan still holds: the rest of the step that is being played, and the steps after it."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._address = ""
        self._entered = 0.0

    def seconds(self, address: str, elapsed: float) -> float:
        """Return them for the action at ``address``, ``elapsed`` seconds after the run began."""
        for entry in self._plan.timeline:
            if address == entry.address or address.startswith(f"{entry.address}["):
                if entry.address != self._address:
                    self._address, self._entered = entry.address, elapsed
                return self._plan.duration - entry.start - min(elapsed - self._entered, entry.duration)
        return max(self._plan.duration - elapsed, 0.0)


def _label(progress: RunProgress, labels: Mapping[str, str]) -> str:
    """Return what the plan calls an action; a frame goes by the name of its series."""
    address = progress.address
    return labels.get(address) or labels.get(address.rsplit("[", 1)[0]) or progress.name or address


def _follow_plainly(
    night: Night, labels: Mapping[str, str], out: Console, stop_asked: Callable[[], str | None]
) -> None:
    """Print a line for each step, where no terminal can redraw one."""
    shown = ""
    while True:
        ended = night.wait(0.05)
        progress = night.engine.progress
        if progress.address != shown and "series[" not in progress.address:
            shown = progress.address
            out.print(f"{time_text(progress.since)}  {_label(progress, labels)}".rstrip(), soft_wrap=True)
        if ended:
            return
        _pass_on(stop_asked, night)


def _pass_on(stop_asked: Callable[[], str | None], night: Night) -> None:
    reason = stop_asked()
    if reason is not None:
        night.engine.abort(reason)


def track(what: str, total: int, steps: Iterable[object]) -> int:
    """Show how a loop comes on; return how many steps it had."""
    out = console(sys.stderr)
    count = 0
    with Progress(
        SpinnerColumn(),
        TextColumn(what),
        BarColumn(bar_width=24),
        TextColumn("{task.completed}/{task.total}"),
        console=out,
        transient=True,
        disable=not out.is_terminal,
    ) as bar:
        task = bar.add_task(what, total=total)
        for _ in steps:
            count += 1
            bar.advance(task)
    return count


def show_outcome(state: str, reason: str) -> None:
    """Print how a run ended."""
    console().print(Text.assemble(state_text(state), f"  {reason}".rstrip()), soft_wrap=True)


def show_end(body: Mapping[str, Any]) -> None:
    """Print what a run leaves behind."""
    out = console()
    if "frames" in body:
        frames = body["frames"]
        without = f", {frames['failed']} without" if frames["failed"] else ""
        counts = (
            f"{frames['acquired']} frames, {frames['dark']} of them dark, {frames['heights']} with heights{without}"
        )
        out.print(counts)
        out.print(f"report  {body['report']}", soft_wrap=True)
    if "warning" in body:
        out.print(Text.assemble(("warning ", "bold yellow"), body["warning"]), soft_wrap=True)


def show_plan(instrument: str, plan: Plan) -> None:
    """Print what a recipe would do."""
    out = console()
    out.print(Text.assemble((plan.name, "bold"), f"  on {instrument}: ", ("can be played", "green")))
    facts = [
        ("lasts", duration_text(plan.duration)),
        ("frames", f"{plan.frames}, and {plan.darks} dark"),
        ("dose", f"{plan.dose / 1e3:.3g} kC/m² ({plan.dose / ELEMENTARY_CHARGE * 1e-18:.3g} electrons/nm²)"),
        ("disk", bytes_text(plan.disk_bytes)),
        ("hottest", f"{plan.maximum_temperature - 273.15:.0f} °C"),
    ]
    if plan.maximum_pressure is not None:
        facts.append(("pressure", f"up to {plan.maximum_pressure:.3g} Pa"))
    out.print(table(("", ""), [(Text(name, style="dim"), value) for name, value in facts]))
    shown = plan.timeline[:LONGEST_TIMELINE]
    rows = [(duration_text(entry.start), duration_text(entry.duration), entry.label) for entry in shown]
    out.print(table(("at", "for", "step"), rows, right=("at", "for")))
    if len(plan.timeline) > len(shown):
        out.print(f"and {len(plan.timeline) - len(shown)} more; --json tells all")
    for note in plan.notes:
        out.print(Text(f"note: {note}", style="yellow"))


def show_runs(runs: Sequence[Run]) -> None:
    """Print runs as a table; ids are never broken, so that they can be copied."""
    out = console()
    reasons = any(run.reason for run in runs)
    columns = ["run", "state", "began (UTC)", "lasted", *(["reason"] if reasons else [])]
    rows = [
        (
            Text(run.id, no_wrap=True),
            state_text(run.state),
            f"{run.started:%Y-%m-%d %H:%M}",
            span_text(run.started, run.ended),
            *([run.reason] if reasons else []),
        )
        for run in runs
    ]
    made = table(columns, rows, right=("lasted",))
    made.columns[0].no_wrap = True
    out.print(made, soft_wrap=not out.is_terminal)


def show_summary(body: Mapping[str, Any]) -> None:
    """Print what a run did."""
    out = console()
    out.print(Text.assemble((body["name"], "bold"), "  ", state_text(body["state"]), f"  {body['reason']}".rstrip()))
    frames = body["frames"]
    facts = [
        ("run", body["id"]),
        ("instrument", body["instrument"]),
        ("started", _moment(body["started"])),
        ("ended", _moment(body["ended"]) if body["ended"] else "not yet"),
        ("frames", f"{frames['acquired']}, of them {frames['dark']} dark, {bytes_text(frames['bytes'])}"),
        ("heights", f"{frames['heights']} made, {frames['failed']} failed, {frames['left_out']} left out"),
        ("actions", ", ".join(f"{count} {state}" for state, count in body["actions"].items())),
    ]
    facts += [("alerts", text) for text in _undelivered(body["alerts"])]
    facts += [(name, _figure_text(figure)) for name, figure in body["figures"].items()]
    out.print(table(("", ""), [(Text(str(name), style="dim"), value) for name, value in facts]))
    levels = {"warning": "yellow", "error": "red"}
    rows = [
        (_moment(event["time"]), Text(event["level"], style=levels.get(event["level"], "dim")), event["message"])
        for event in body["events"]
    ]
    out.print(table(("time (UTC)", "", "event"), rows))


def _undelivered(alerts: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return which ways were not told, a line each; and how often the others were."""
    sent = sum(alert["state"] == "sent" for alert in alerts)
    missing = [alert for alert in alerts if alert["state"] != "sent"]
    told = [f"{alert['way']} was not told yet: {alert['title']} ({alert['error'] or 'waits'})" for alert in missing]
    return [*([f"{sent} delivered"] if sent else []), *told]


def _moment(text: str) -> str:
    return time_text(datetime.fromisoformat(text))


def _figure_text(figure: Mapping[str, Any]) -> str:
    value, sigma, unit = figure["value"], figure["sigma"], figure["unit"]
    if value is None:
        return "–"
    if unit == "m":  # relief is spoken of in nanometres
        value, sigma, unit = value * 1e9, None if sigma is None else sigma * 1e9, "nm"
    within = f" ± {sigma:.2g}" if sigma is not None else ""
    return f"{value:.4g}{within} {unit}  (frame {figure['frame']})"


def show_devices(body: Mapping[str, Any]) -> None:
    """Print an instrument's channels and the drivers there are."""
    out = console()
    out.print(Text(body["instrument"], style="bold"))
    rows = []
    for channel in body["channels"]:
        limits = channel["limits"] or {}
        readback = _json_text(channel["readback"]) if channel["error"] is None else Text(channel["error"], style="red")
        low, high = _json_text(limits.get("low")), _json_text(limits.get("high"))
        rows.append((channel["channel"], readback, low, high))
    out.print(table(("channel", "readback", "lowest", "highest"), rows, right=("readback", "lowest", "highest")))
    out.print(f"drivers: {', '.join(body['drivers']) or 'none'}")
    for failure in body["failures"]:
        out.print(Text(f"the driver {failure['driver']} did not load: {failure['reason']}", style="red"))


def _json_text(value: Mapping[str, Any] | None) -> str:
    return "" if value is None else f"{value['value']:.5g} {value['unit']}".rstrip()


def span_text(began: datetime | None, ended: datetime | None) -> str:
    """Return how long something took."""
    return "" if began is None or ended is None else duration_text((ended - began) / timedelta(seconds=1))
