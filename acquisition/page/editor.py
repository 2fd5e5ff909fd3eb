"""The page on which a recipe is written: checked while one types, its night drawn, and booked."""

from __future__ import annotations

import asyncio
from typing import Any

from nicegui import ui

from acquisition.markup import Markup, join, tag
from acquisition.page.checking import NAME, Verdict, verdict_html
from acquisition.page.view import Shown, View, button, script
from acquisition.recipe import ready_made
from drivers.errors import Problem, RilievoError

_FIRST = "copper-redox"
_TYPED = """(e) => {
  clearTimeout(window.rilievoTyped);
  window.rilievoTyped = setTimeout(() => emit(e.target.value), 250);
}"""


async def editor_page(view: View, run: str, ready: str) -> None:
    """Fill the page; ``run`` names one whose recipe is the beginning, ``ready`` one that comes with the program."""
    text, trouble = await asyncio.to_thread(_beginning, view, run, ready)
    editor = _Editor(view, text)
    with view.main:
        ui.html(join(tag("h1", "Recipe"), tag("p", trouble, class_="problem") if trouble else None), sanitize=False)
        editor.build(ready or ("" if run else _FIRST))
    view.begin()
    await editor.check(text)


def _beginning(view: View, run: str, ready: str) -> tuple[str, str]:
    known = ready_made()
    try:
        if run:
            return view.house.archive.recipe(run), ""
    except RilievoError as error:
        return known[_FIRST].read_text(encoding="utf-8"), str(error)
    return known[ready if ready in known else _FIRST].read_text(encoding="utf-8"), ""


def _sheet(text: str) -> Markup:
    """Return the text with the numbers of its lines; the browser owns what is typed into it."""
    area = tag(
        "textarea",
        text,
        id="recipe",
        spellcheck="false",
        autocapitalize="off",
        autocomplete="off",
        wrap="off",
        aria_label="the recipe, YAML",
        aria_describedby="verdict",
    )
    return tag("div", tag("div", class_="lines", id="recipe-lines", aria_hidden="true"), area, class_="sheet")


class _Editor:
    """The text, its verdict, and the form that books it."""

    def __init__(self, view: View, text: str) -> None:
        self._view, self._text = view, text
        self._good = False
        self._instrument = (view.house.instruments or ("",))[0]
        self._checks = 0
        self._fields: dict[str, str] = {"when": "now", "at": "", "cron": "", "after": "", "priority": "0"}

    def build(self, ready: str) -> None:
        """Put everything on the page."""
        with ui.element("div").classes("desk"):
            with ui.element("section"):
                self._choices(ready)
                ui.html(_sheet(self._text), sanitize=False).on("input", self._typed, js_handler=_TYPED)
            with ui.element("section"):
                self._verdict = Shown(tag("p", "… checking", class_="verdict"), id="verdict", aria_live="polite")
                self._verdict.element.on(
                    "click",
                    js_handler="(e) => { const d = e.target.dataset; if (d?.line) rilievo.jump(+d.line, +d.column); }",
                )
                self._booking()

    def _choices(self, ready: str) -> None:
        options = [tag("option", name, value=name, selected=name == ready) for name in ready_made()]
        if not ready:
            options.insert(0, tag("option", "a run's recipe", value="", selected=True))
        begin = tag(
            "select",
            options,
            id="ready",
            onchange="if (this.value) location.href = '/recipe?ready=' + encodeURIComponent(this.value)",
        )
        parts = [tag("div", tag("label", "Begin with", for_="ready"), begin)]
        with ui.element("div").classes("fields"):
            ui.html(join(parts), sanitize=False)
            if len(self._view.house.instruments) > 1:
                listed = [tag("option", name, value=name) for name in self._view.house.instruments]
                choice = join(tag("label", "Instrument", for_="instrument"), tag("select", listed, id="instrument"))
                ui.html(choice, sanitize=False).on("change", self._chose, js_handler="(e) => emit(e.target.value)")

    def _booking(self) -> None:
        if not self._view.session.operates:
            ui.html(tag("p", "Operators can book a recipe that can be played.", class_="key"), sanitize=False)
            return
        kinds = (
            ("now", "as soon as the instrument is free"),
            ("at", "at a time"),
            ("cron", "again and again"),
            ("after", "after a run"),
        )
        fields = [
            tag(
                "div",
                tag("label", "Start", for_="when"),
                tag("select", [tag("option", words, value=kind) for kind, words in kinds], id="when"),
            ),
            tag(
                "div",
                tag("label", "Time, such as 22:00", for_="at"),
                tag("input", type="text", id="at", placeholder="22:00"),
                class_="hidden",
                data_for="at",
            ),
            tag(
                "div",
                tag("label", "Cron, such as 0 22 * * mon-fri", for_="cron"),
                tag("input", type="text", id="cron", placeholder="0 22 * * mon-fri"),
                class_="hidden",
                data_for="cron",
            ),
            tag(
                "div",
                tag("label", "Run, last, or booking:7", for_="after"),
                tag("input", type="text", id="after", placeholder="last"),
                class_="hidden",
                data_for="after",
            ),
            tag(
                "div",
                tag("label", "Priority", for_="priority"),
                tag("input", type="number", id="priority", value="0", step="1"),
            ),
        ]
        with ui.element("section"):
            ui.html(tag("h2", "Book it"), sanitize=False)
            form = ui.html(tag("div", fields, class_="fields"), sanitize=False)
            form.on("input", self._filled, js_handler=_FILLED)
            self._book = button("Book it", self.book, kind="main", name="book")
            self._book.props("disabled")
            self._view.answers()

    def _filled(self, event: Any) -> None:
        self._fields |= {str(name): str(value)[:200] for name, value in dict(event.args).items()}

    async def _typed(self, event: Any) -> None:
        self._text = str(event.args)
        await self.check(self._text)

    async def _chose(self, event: Any) -> None:
        if event.args in self._view.house.instruments:
            self._instrument = str(event.args)
            await self.check(self._text)

    async def check(self, text: str) -> None:
        """Check the text and show what came of it, unless something newer was typed meanwhile."""
        self._checks += 1
        mine = self._checks
        verdict = await self._judged(text)
        if mine != self._checks or verdict is None:
            return
        self._good = verdict.plan is not None
        self._verdict.show(verdict_html(verdict))
        script("gutter", sorted({problem.line for problem in verdict.problems if problem.line}))
        if self._view.session.operates:
            if self._good:
                self._book.props(remove="disabled")
            else:
                self._book.props("disabled")

    async def _judged(self, text: str) -> Verdict | None:
        house = self._view.house
        if not self._instrument or self._instrument in house.simulated:
            return await house.checking.check(text)
        try:  # only the server may speak to hardware; it looks at its limits on paper
            who = self._view.session.who
            found = await house.channel.ask("check", text=text, name=NAME, instrument=self._instrument, **who)
        except RilievoError as error:
            return Verdict(None, (Problem(error.message, file=error.where or NAME),))
        return Verdict(found.get("plan"), tuple(Problem(**problem) for problem in found.get("problems", ())))

    async def book(self) -> None:
        """Book what is written, as the form says."""
        if not self._good:
            return
        when = self._fields["when"]
        try:
            priority = int(self._fields["priority"] or 0)
        except ValueError:
            priority = 0
        given: dict[str, Any] = {"recipe": self._text, "priority": priority}
        if self._instrument:
            given["instrument"] = self._instrument
        if when == "now":
            await self._view.ask("start", "booked: it is played as soon as the instrument is free", **given)
            return
        found = await self._view.ask("schedule", "booked: see the calendar", **given, **{when: self._fields[when]})
        if found is not None:
            self._good = True


_FILLED = """(e) => {
  const form = e.currentTarget, kind = form.querySelector("#when").value;
  form.querySelectorAll("[data-for]").forEach((one) => one.classList.toggle("hidden", one.dataset.for !== kind));
  emit(Object.fromEntries([...form.querySelectorAll("select, input")].map((one) => [one.id, one.value])));
}"""
