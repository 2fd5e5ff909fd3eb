"""The pages: night, calendar, recipe, archive; the look-out sees what they show, the server does what they ask."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import Request
from nicegui import ui

from acquisition.markup import Markup, join, tag
from acquisition.page import words
from acquisition.page.editor import editor_page
from acquisition.page.night import night_page
from acquisition.page.sight import Sight
from acquisition.page.view import House, Shown, View, confirmed


def register(house: House) -> None:
    """Make the pages known to NiceGUI."""

    @ui.page("/", title="The night · Rilievo", dark=None)
    def night(request: Request) -> None:
        night_page(View(house, request, "/"))

    @ui.page("/recipe", title="Recipe · Rilievo", dark=None)
    async def recipe(request: Request, run: str = "", ready: str = "") -> None:
        await editor_page(View(house, request, "/recipe"), run, ready)

    @ui.page("/calendar", title="Calendar · Rilievo", dark=None)
    def calendar(request: Request) -> None:
        calendar_page(View(house, request, "/calendar"))

    @ui.page("/archive", title="Archive · Rilievo", dark=None)
    async def archive(request: Request, page: int = 0) -> None:
        view = View(house, request, "/archive")
        listed = await asyncio.to_thread(house.archive.html, max(0, page))
        with view.main:
            ui.html(join(tag("h1", "Archive"), tag("section", listed)), sanitize=False)


def calendar_page(view: View) -> None:
    """Fill the page of what is booked."""
    removes = view.session.operates

    def listed(sight: Sight) -> Markup:
        return words.bookings_html(sight.bookings, removes=removes)

    async def remove(event: Any) -> None:
        number = int(event.args)
        sure = await confirmed(f"Remove booking {number}?", "It is taken out of the calendar.", "Remove it")
        if sure:
            await view.ask("remove", f"booking {number} is removed", booking=number)

    with view.main:
        ui.html(
            join(tag("h1", "Calendar"), tag("p", "What is booked; the next start first.", class_="under")),
            sanitize=False,
        )
        view.answers()
        with ui.element("section"):
            shown = Shown(listed(view.house.watch.sight), id="bookings")
            shown.element.on(
                "click", remove, js_handler="(e) => { const n = e.target.dataset?.remove; if (n) emit(Number(n)); }"
            )
        ui.html(
            tag("p", "To book a recipe, ", tag("a", "write one", href="/recipe"), ".", class_="under"), sanitize=False
        )
    view.follows(lambda sight: shown.show(listed(sight)))
