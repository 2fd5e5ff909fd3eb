"""The page of the night: what runs, its gauges, the latest frame and heights, the curves, the events."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from nicegui import ui

from acquisition.markup import Markup, join, tag
from acquisition.page import words
from acquisition.page.sight import ENDED, Sight
from acquisition.page.view import Shown, View, button, confirmed, script

_CHARTS_EVERY = 10
"""Looks between two drawings of the charts."""


def night_page(view: View) -> None:
    """Fill the page."""
    sight = view.house.watch.sight
    with view.main:
        with ui.element("section").classes("run").props("aria-label='the run'"):
            run = Shown(words.run_html(sight), id="run")
            controls = _controls(view)
            tiles = Shown(words.tiles_html(sight), id="tiles")
        ui.html(_latest(), sanitize=False, tag="section")
        ui.html(_charts(), sanitize=False, tag="section")
        ui.html(_events(), sanitize=False, tag="section")
        with ui.element("section"):
            ui.html(tag("h2", "What comes next"), sanitize=False)
            bookings = Shown(words.bookings_html(sight.bookings, most=5), id="next")

    def words_of(sight: Sight) -> None:
        run.show(words.run_html(sight))
        tiles.show(words.tiles_html(sight))
        bookings.show(words.bookings_html(sight.bookings, most=5))
        controls(sight)

    view.follows(words_of)
    view.follows(_Pictures(view).show)
    view.follows(_Curves().show, always=True)
    view.follows(_Events().show)
    view.begin()


def _controls(view: View) -> Callable[[Sight], None]:
    """Put the buttons; return what enables those that can do something."""
    if not view.session.operates:
        ui.html(tag("p", "You watch. Operators can pause, resume and stop.", class_="key"), sanitize=False)
        return _nothing

    def asks(name: str, told: str) -> Callable[[], Awaitable[None]]:
        async def ask() -> None:
            await view.ask(name, told, run=_run(view))

        return ask

    def asks_once(name: str, told: str, title: str, text: str, yes: str) -> Callable[[], Awaitable[None]]:
        async def ask() -> None:
            run = _run(view)
            if await confirmed(title, text, yes):
                await view.ask(name, told, **({} if name == "safe" else {"run": run}))

        return ask

    with ui.element("div").classes("controls run-controls"):
        made = {
            "pause": button("❚❚ Pause", asks("pause", "the run is asked to pause"), name="pause"),
            "resume": button("▶ Go on", asks("resume", "the run is asked to go on"), name="resume"),
            "stop": button(
                "■ Stop",
                asks_once(
                    "stop",
                    "the run is asked to stop",
                    "Stop the run?",
                    "It ends after the frame that is being taken, through its cleanup: beam blanked, heater down, gas "
                    "closed. It cannot be continued.",
                    "Stop the run",
                ),
                name="stop",
            ),
            "abort": button(
                "✕ Abort",
                asks_once(
                    "abort",
                    "the run is asked to end at once",
                    "End the run at once?",
                    "The frame that is being taken is lost; the cleanup follows: beam blanked, heater down, gas "
                    "closed.",
                    "End it at once",
                ),
                name="abort",
            ),
            "safe": button(
                "⚠ Safe state",
                asks_once(
                    "safe",
                    "the instrument is being brought to its safe state; the events tell how it goes",
                    "Bring the instrument to its safe state?",
                    "The run ends now: beam blanked, heater ramped down, reactive gas closed, purge.",
                    "Yes, make it safe",
                ),
                kind="danger",
                name="safe",
            ),
        }
    view.answers()

    def enable(sight: Sight) -> None:
        state = sight.run.state if sight.run is not None else ""
        live = bool(state) and state not in ENDED and sight.played
        wanted = {
            "pause": live and state in ("running", "suspended"),
            "resume": live and state == "paused",
            "stop": live and state != "stopping",
            "abort": live,
            "safe": True,
        }
        for name, useful in wanted.items():
            if ("disabled" in made[name].props) == useful:
                if useful:
                    made[name].props(remove="disabled")
                else:
                    made[name].props("disabled")

    enable(view.house.watch.sight)
    return enable


def _nothing(sight: Sight) -> None:
    """Do nothing."""


def _run(view: View) -> str | None:
    run = view.house.watch.sight.run
    return None if run is None else run.id


class _Pictures:
    """Tells the browser which frame and which heights are the latest."""

    def __init__(self, view: View) -> None:
        self._view = view
        self._frame: tuple[str, int] | None = None
        self._shape: tuple[str, int, str] | None = None

    def show(self, sight: Sight) -> None:
        run = sight.run
        if run is None:
            return
        if sight.segments and sight.frame is not None and (run.id, sight.frame.number) != self._frame:
            self._frame = (run.id, sight.frame.number)
            names = list(sight.segments)
            script("frame", run.id, sight.frame.number, names, words.frame_words(sight))
        if sight.shape is not None:
            shape = (run.id, sight.shape.frame_number, words.shape_words(sight))
            if shape != self._shape:
                self._shape = shape
                script("shape", *shape)


class _Curves:
    """Tells the browser that there is more to draw, not too often."""

    def __init__(self) -> None:
        self._shown: tuple[str, int] | None = None
        self._looks = 0

    def show(self, sight: Sight) -> None:
        self._looks += 1
        now = None if sight.run is None else (sight.run.id, sight.curves)
        due = self._shown is None or self._looks >= _CHARTS_EVERY
        if now is not None and now != self._shown and due:
            self._shown, self._looks = now, 0
            script("charts", f"{now[0]}-{now[1]}")


class _Events:
    """Sends the browser the events that it has not got."""

    def __init__(self) -> None:
        self._last = 0

    def show(self, sight: Sight) -> None:
        new = [event for event in sight.events if event.number > self._last]
        if new:
            self._last = new[-1].number
            script("events", words.event_rows(new))


def _latest() -> Markup:
    segments = tag(
        "figure",
        tag("div", tag("div", "no frame yet", class_="none"), class_="segments", id="segments", data_names=""),
        tag("figcaption", "", id="frame-caption"),
    )
    heights = tag(
        "figure",
        tag("div", "no heights yet", class_="none", id="no-heights"),
        tag("img", id="heights", class_="hidden", alt="the latest height map"),
        tag("figcaption", "", id="heights-caption"),
    )
    keys = [
        tag("button", sign, type="button", onclick=f"rilievo.nudge({turn})", aria_label=words_)
        for sign, turn, words_ in (
            ("⟲", "-0.2,0,0", "turn left"),
            ("⟳", "0.2,0,0", "turn right"),
            ("−", "0,0,-8", "flatter"),
            ("+", "0,0,8", "taller"),
        )
    ]
    canvas = tag(
        "canvas",
        id="surface",
        width=560,
        height=560,
        tabindex=0,
        role="img",
        aria_label="the surface; arrow keys turn it, plus and minus stretch its heights",
    )
    surface = tag(
        "figure",
        tag("div", canvas, tag("div", "no heights yet", class_="none", id="no-surface"), class_="stage"),
        tag("figcaption", tag("span", "", id="surface-note"), tag("span", *keys, class_="turn")),
    )
    return join(tag("h2", "The latest frame"), tag("div", segments, heights, surface, class_="latest"))


def _charts() -> Markup:
    waiting = tag("p", "no readings yet", class_="none")
    return join(
        tag("h2", "The night so far"),
        tag(
            "div",
            waiting,
            class_="plot",
            id="chart-night",
            role="img",
            aria_label="temperature, pressure and gas flows over time, with what was asked",
        ),
        tag("h2", "What the surface does", style="margin-top:26px"),
        tag(
            "div",
            tag("p", "no heights yet", class_="none"),
            class_="plot",
            id="chart-figures",
            role="img",
            aria_label="coverage and roughness over time, with their uncertainty",
        ),
    )


def _events() -> Markup:
    heads = ("", "UTC", "level", "kind", "message")
    head = tag("thead", tag("tr", [tag("th", name) for name in heads]))
    table = tag("table", head, tag("tbody"), class_="events", id="events")
    return join(
        tag("h2", "Events"),
        tag(
            "div",
            table,
            class_="log scroll",
            id="event-box",
            tabindex=0,
            role="log",
            aria_label="events, the newest first",
        ),
    )
