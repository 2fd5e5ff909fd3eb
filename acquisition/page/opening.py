"""Opening the page of a desk: its tokens, its certificate where TLS is set up, the instruments that can be booked."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from acquisition.access import Person, Role
from acquisition.authority import Authority
from acquisition.dashboard import LOOPBACK, PORT, Dashboard, PageSettings
from acquisition.page.tokens import PageTokens
from drivers.errors import RilievoError

if TYPE_CHECKING:
    from acquisition.desk import Desk


def open_dashboard(desk: Desk, host: str = "127.0.0.1", port: int | None = None) -> Dashboard:
    """Return the page of a desk, ready to start; any address but loopback carries it by TLS.

    Parameters
    ----------
    desk : Desk
        Already started.
    host : str
    port : int, optional
        0 for any that is free.

    Raises
    ------
    InputError, StoreError
        As :class:`acquisition.page.tokens.PageTokens`.
    """
    folder = desk.laboratory.folder
    tokens = PageTokens(folder)
    certificate = None
    authority = Authority(folder)
    if host not in LOOPBACK and authority.exists:
        certificate = authority.folder / "server.pem"
    names = desk.instruments.names
    settings = PageSettings(
        host=host,
        port=PORT if port is None else port,
        certificate=certificate,
        key=certificate,  # one file holds both
        instruments=tuple(names),
        simulated=tuple(name for name in names if desk.instruments.text(name) is None),
    )

    def admit(token: str, called: str, session: str) -> Person:
        role = tokens.role_of(token)
        person = Person(called or role, Role.named(role), "page", "token", f"page {session}")
        if not session:
            desk.note(person, "came in")
        return person

    def tell(level: str, message: str) -> None:
        with contextlib.suppress(RilievoError):
            desk.log.event(None, desk.clock.now(), level, "page", message)

    database = desk.log.engine.url.render_as_string(hide_password=False)
    return Dashboard(folder, database, desk, admit, settings, tell)
