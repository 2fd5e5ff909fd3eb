"""One browser's page: the bar, the alarms, and the ways to show things and to ask for them.

Text and markup travel over NiceGUI's web socket, and only where they changed; pictures, surfaces and curves are
fetched by the browser, made once for everybody, when it has something to show them on.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from fastapi import Request
from nicegui import ui

from acquisition.log import Log
from acquisition.markup import Markup, join, tag
from acquisition.page import words
from acquisition.page.archive import Archive
from acquisition.page.channel import Channel
from acquisition.page.checking import Checking
from acquisition.page.gate import SESSION, Gate, Session
from acquisition.page.sight import Alarm, Sight
from acquisition.page.watch import Watch
from acquisition.store import Store
from drivers.errors import RilievoError

BEHIND = 5.0
"""Seconds without a look at the database after which that is an alarm."""
TICK = 0.2
"""Seconds between two looks of a browser's page at what was seen."""
_MENU = (("/", "The night"), ("/calendar", "Calendar"), ("/recipe", "Recipe"), ("/archive", "Archive"))


@dataclass(frozen=True)
class House:
    """What the pages share."""

    log: Log
    store: Store
    watch: Watch
    channel: Channel
    checking: Checking
    archive: Archive
    gate: Gate
    version: str
    simulated: tuple[str, ...]
    instruments: tuple[str, ...]


class Shown:
    """A piece of markup on a browser's page that is sent again only where it changed."""

    def __init__(self, content: Markup, **attributes: str) -> None:
        self.content = content
        self.element = ui.html(content, sanitize=False)
        for name, value in attributes.items():
            self.element.props[name.rstrip("_").replace("_", "-")] = value

    def show(self, content: Markup) -> bool:
        """Show content; return whether it is new."""
        if content == self.content:
            return False
        self.content = content
        self.element.set_content(content)
        return True


def head(house: House) -> Markup:
    """Return what stands in every page's head: styles and script, and the theme before the first paint."""
    theme = (
        "try{document.documentElement.dataset.theme=localStorage.getItem('rilievo-theme')||'dark'}"
        "catch{document.documentElement.dataset.theme='dark'}"
    )
    return join(
        tag("script", Markup(theme)),
        tag("link", rel="stylesheet", href=f"/static/page.css?v={house.version}"),
        tag("script", src=f"/static/page.js?v={house.version}"),
    )


class View:
    """One browser's page: the bar, the alarms, and what a page puts below them.

    Parameters
    ----------
    house : House
    request : Request
    here : str
        Path of the page.
    """

    def __init__(self, house: House, request: Request, here: str) -> None:
        self.house = house
        self.session: Session = request.scope[SESSION]
        self._cookie = request.headers.get("cookie", "")
        self._parts: list[Callable[[Sight], object]] = []
        self._always: list[Callable[[Sight], object]] = []
        self._shown: Sight | None = None
        ui.add_head_html(head(house))
        ui.html(tag("a", "Skip to the content", href="#content", class_="skip"), sanitize=False)
        ui.html(self._bar(here), sanitize=False)
        self._alarms = Shown(self._alarms_of(house.watch.sight), role="alert", id="alarms")
        self._alarms.element.classes("alarms").on(
            "click", self._put_aside, js_handler="(e) => { const n = e.target.dataset?.aside; if (n) emit(Number(n)); }"
        )
        self.main = ui.element("div").classes("page").props("id=content tabindex=-1")
        self.answer: Shown | None = None
        ui.timer(TICK, self._tick)

    def _bar(self, here: str) -> Markup:
        links = [tag("a", name, href=path, aria_current="page" if path == here else None) for path, name in _MENU]
        person = tag("span", f"{self.session.person} · {self.session.role}")
        light = tag(
            "button", "◐", type="button", onclick="rilievo.theme()", aria_label="light or dark", title="light or dark"
        )
        out = tag("form", tag("button", "Leave", type="submit"), method="post", action="/logout")
        return tag(
            "header",
            tag("p", "Rilievo", class_="over"),
            tag("nav", links, aria_label="pages"),
            tag("div", person, light, out, class_="who"),
            class_="bar-top",
        )

    def follows(self, part: Callable[[Sight], object], *, always: bool = False) -> None:
        """Call ``part`` with what was seen when that has changed; ``always``: with every tick."""
        (self._always if always else self._parts).append(part)

    def begin(self) -> None:
        """Wake the page's script once everything stands."""
        ui.context.client.run_javascript("rilievo.begin()")

    def _tick(self) -> None:
        if not self.valid:
            ui.navigate.to("/login")
            return
        sight = self.house.watch.sight
        self._alarms.show(self._alarms_of(sight))
        for part in self._always:
            part(sight)
        if sight is not self._shown:
            self._shown = sight
            for part in self._parts:
                part(sight)

    @property
    def valid(self) -> bool:
        """Whether the session of this page still holds."""
        return self.house.gate.session(self._cookie) is self.session

    def _alarms_of(self, sight: Sight) -> Markup:
        put_aside = self.session.put_aside
        alarms = [alarm for alarm in sight.alarms if alarm.event not in put_aside]
        behind = self.house.watch.behind
        if behind > BEHIND and sight.trouble is None:
            told = f"what stands here is {behind:.0f} s old: the database answers slowly"
            alarms.insert(0, Alarm("error", "This page is behind", told))
        return words.alarms_html(alarms)

    def _put_aside(self, event: Any) -> None:
        self.session.put_aside.add(int(event.args))
        self._alarms.show(self._alarms_of(self.house.watch.sight))

    async def ask(self, name: str, told: str, **arguments: Any) -> Any:
        """Ask the server in this person's name, and say what came of it below the buttons."""
        if not self.valid:
            ui.navigate.to("/login")
            return None
        try:
            found = await self.house.channel.command(self.session.who, name, **arguments)
        except RilievoError as error:
            self._say("bad", f"✕ {error}")
            return None
        self._say("good", f"✓ {told}")
        return found

    def _say(self, kind: str, text: str) -> None:
        if self.answer is not None:
            self.answer.show(tag("span", text, class_=kind))

    def answers(self) -> None:
        """Put here where answers to commands are shown."""
        self.answer = Shown(Markup(""), role="status", id="answer")
        self.answer.element.classes("answer")


def button(text: str, act: Callable[[], Awaitable[Any] | None], *, kind: str = "", name: str = "") -> ui.element:
    """Return a button; ``name`` is its id."""
    made = ui.element("button").props("type=button").classes(kind)
    if name:
        made.props["id"] = name
    with made:
        ui.html(tag("span", text), sanitize=False, tag="span")
    made.on("click", act)
    return made


async def confirmed(title: str, text: str, yes: str) -> bool:
    """Ask once; Escape and the first button say no."""
    with ui.dialog() as dialog, ui.card().classes("ask").props("role=alertdialog aria-labelledby=ask-title"):
        ui.html(join(tag("h2", title, id="ask-title"), tag("p", text)), sanitize=False)
        with ui.element("div").classes("controls"):
            button("No, leave it", lambda: dialog.submit(False), name="ask-no").props("autofocus")
            button(yes, lambda: dialog.submit(True), kind="danger", name="ask-yes")
    try:
        return bool(await dialog)
    finally:
        dialog.delete()


def script(name: str, *arguments: Any) -> None:
    """Call one of the page's script functions in this browser."""
    given = ", ".join(json.dumps(argument) for argument in arguments)
    ui.context.client.run_javascript(f"rilievo.{name}({given})")
