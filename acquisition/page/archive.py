"""The archive: every run there was, with its report."""

from __future__ import annotations

import threading
from datetime import datetime
from pathlib import Path

from sqlalchemy import func, select

from acquisition import tables
from acquisition.chronicle import Chronicle
from acquisition.log import Log
from acquisition.markup import Content, Markup, join, tag
from acquisition.page.words import badge
from acquisition.store import Store
from acquisition.wording import discreet, duration_text, unbroken
from drivers.errors import RunError

PAGE = 30
"""Runs on one page."""


class Archive:
    """Lists runs and fetches their reports.

    Parameters
    ----------
    log : Log
    store : Store
    """

    def __init__(self, log: Log, store: Store) -> None:
        self._log, self._store = log, store
        self._turn = threading.Lock()

    def html(self, page: int) -> Markup:
        """Return a page of runs, the newest first."""
        row = tables.Run
        with self._log.query() as session:
            total = session.scalar(select(func.count()).select_from(row)) or 0
            query = select(row.id, row.name, row.state, row.reason, row.started, row.ended)
            found = session.execute(query.order_by(row.number.desc()).offset(page * PAGE).limit(PAGE)).all()
            frame = tables.FrameRow
            of_these = frame.run_id.in_([run[0] for run in found])
            per_run = select(frame.run_id, func.count()).where(of_these).group_by(frame.run_id)
            counts = {row[0]: int(row[1]) for row in session.execute(per_run)}
        if not found:
            return tag("p", "No runs yet: the first one that is played appears here.", class_="none")
        rows = [_row(*run, counts.get(run[0], 0)) for run in found]
        heads = ("run", "state", "began (UTC)", "lasted", "frames", "report", "reason")
        head = tag("thead", tag("tr", [tag("th", name) for name in heads]))
        table = tag("div", tag("table", head, tag("tbody", rows)), class_="scroll")
        return join(table, _pages(page, total))

    def report(self, run_id: str) -> bytes:
        """Return a run's report: the one that was written at its end, or, for a run that goes on, one made now.

        Raises
        ------
        RilievoError
            For a run that there is not, or a report that cannot be read.
        """
        run = self._log.run(run_id)
        written = self._written(run.id)
        if run.ended is not None and written is not None:
            return written.read_bytes()
        with self._turn:  # one at a time: a report takes seconds and memory
            from acquisition.report import render

            return render(Chronicle(self._log, run.id), self._store).encode()

    def _written(self, run_id: str) -> Path | None:
        path = self._store.folder(run_id) / "report.html"
        return path if path.exists() else None

    def recipe(self, run_id: str) -> str:
        """Return the recipe of a run, as it was written."""
        text = self._log.run(run_id).recipe_text
        if not text:
            raise RunError(f"run {run_id} has no recipe")
        return text


def _row(
    run_id: str, name: str, state: str, reason: str, started: datetime, ended: datetime | None, frames: int
) -> Markup:
    lasted = "" if ended is None else unbroken(duration_text(round((ended - started).total_seconds())))
    again = tag("a", "Recipe", href=f"/recipe?run={run_id}", aria_label=f"Recipe of {run_id}")
    report = tag(
        "a", "Report", href=f"/report/{run_id}", target="_blank", rel="noopener", aria_label=f"Report of {run_id}"
    )
    cells: list[Content] = [
        join(tag("b", name), tag("br"), tag("code", run_id)),
        badge(state),
        f"{started:%Y-%m-%d %H:%M}",
        lasted,
        str(frames),
        join(report, " · ", again),
        discreet(reason),
    ]
    return tag("tr", [tag("td", cell) for cell in cells])


def _pages(page: int, total: int) -> Markup | None:
    last = max(0, (total - 1) // PAGE)
    if last == 0:
        return tag("p", f"{total} run{'s' if total > 1 else ''}", class_="key")
    links: list[Content] = [f"{page * PAGE + 1} to {min(total, (page + 1) * PAGE)} of {total} runs  "]
    if page > 0:
        links.append(tag("a", "newer", href=f"/archive?page={page - 1}"))
    if page < last:
        links += ["  ", tag("a", "older", href=f"/archive?page={page + 1}")]
    return tag("p", links, class_="key pages")
