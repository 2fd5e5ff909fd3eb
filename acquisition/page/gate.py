"""The gate before the page: who has no session sees the way in, and nothing else.

It stands before every request and every web socket. It refuses what another site makes a browser send (by Origin, and
by Host against names that were bent to this machine), and tells the browser to ask nobody else for anything.
"""

from __future__ import annotations

import secrets
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass, field
from http.cookies import CookieError, SimpleCookie
from importlib.resources import files
from typing import Any
from urllib.parse import parse_qs

from acquisition.markup import Content, Markup, tag
from acquisition.page.channel import Channel
from drivers.clock import Clock
from drivers.errors import RilievoError

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

COOKIE = "rilievo"
SESSION = "rilievo.session"
"""Where a request's session stands in its scope."""
LASTS = 12 * 3600.0
"""Seconds without a request after which a session ends."""
_MOST_SESSIONS, _MOST_BODY = 128, 4096
_TRIES, _WINDOW = 8, 60.0
"""Wrong tokens that are taken within so many seconds, from everybody together."""
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'; object-src 'none'; base-uri 'none'; "
    "form-action 'self'; frame-ancestors 'none'"
)


@dataclass
class Session:
    """Somebody who came in.

    Attributes
    ----------
    person, role : str
        observer, operator or administrator.
    token : str
        What the server is shown again with each command: it decides, not the page.
    key : str
        A name for this session that is no secret; control of the microscope is held by it.
    seen : float
        When it was used last, on the monotonic clock.
    put_aside : set of int
        Events whose alarms this person has put aside.
    """

    person: str
    role: str
    token: str
    key: str
    seen: float
    put_aside: set[int] = field(default_factory=set)

    @property
    def who(self) -> dict[str, str]:
        """What the server is shown with each command."""
        return {"token": self.token, "person": self.person, "session": self.key}

    @property
    def operates(self) -> bool:
        """Whether the role may do more than watch."""
        return self.role in ("operator", "administrator")


class Gate:
    """An ASGI application before another.

    Parameters
    ----------
    app : ASGI application
    channel : Channel
    clock : Clock
    hosts : frozenset of str
        ``name:port`` that the page answers to; empty for any, where TLS proves the name.
    secure : bool
        Whether TLS carries the page.
    """

    def __init__(
        self, app: App, channel: Channel, clock: Clock, hosts: frozenset[str], *, secure: bool = False
    ) -> None:
        self.app = app
        self._channel, self._clock = channel, clock
        self._hosts, self._secure = hosts, secure
        self._sessions: OrderedDict[str, Session] = OrderedDict()
        self._failures: deque[float] = deque(maxlen=_TRIES)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let in, send to the way in, or refuse."""
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        refused = self._refused(scope, headers)
        session = None if refused else self.session(headers.get("cookie", ""))
        if scope["type"] == "websocket":
            if refused or session is None:
                await receive()
                await send({"type": "websocket.close", "code": 1008})
                return
            scope[SESSION] = session
            await self.app(scope, receive, send)
            return
        if refused:
            await _answer(send, 403, refused.encode(), "text/plain; charset=utf-8")
        elif scope["path"] == "/login":
            await self._login(scope, receive, send, headers)
        elif scope["path"] == "/logout" and scope["method"] == "POST":
            self._forget(headers.get("cookie", ""))
            await _answer(send, 303, b"", "text/plain", [("location", "/login"), ("set-cookie", self._cookie("", 0))])
        elif session is None:
            await _answer(send, 303, b"", "text/plain", [("location", "/login")])
        else:
            scope[SESSION] = session
            await self.app(scope, receive, _guarded(send))

    def session(self, cookie: str) -> Session | None:
        """Return the session of a cookie header; None without one, and for one that has ended."""
        key = _key(cookie)
        found = self._sessions.get(key)
        now = self._clock.monotonic()
        if found is None:
            return None
        if now - found.seen > LASTS:
            del self._sessions[key]
            return None
        found.seen = now
        self._sessions.move_to_end(key)
        return found

    def _forget(self, cookie: str) -> None:
        self._sessions.pop(_key(cookie), None)

    def _refused(self, scope: Scope, headers: dict[str, str]) -> str | None:
        """Return why a request is refused whoever sends it."""
        host = headers.get("host", "")
        if self._hosts and host not in self._hosts:
            return f"this page answers to {', '.join(sorted(self._hosts))}; the request was for {host[:200]!r}"
        changes = scope["type"] == "websocket" or scope.get("method") not in ("GET", "HEAD")
        origin = headers.get("origin")
        if changes and origin != f"{'https' if self._secure else 'http'}://{host}":
            return f"requests that act must come from this page itself; this one came from {(origin or '')[:200]!r}"
        return None

    async def _login(self, scope: Scope, receive: Receive, send: Send, headers: dict[str, str]) -> None:
        if scope["method"] != "POST":
            await _answer(send, 200, login_page().encode(), "text/html; charset=utf-8")
            return
        now = self._clock.monotonic()
        if len(self._failures) == _TRIES and now - self._failures[0] < _WINDOW:
            wait = _WINDOW - (now - self._failures[0])
            page = login_page(f"Too many wrong tokens; try again in {wait:.0f} s.")
            await _answer(send, 429, page.encode(), "text/html; charset=utf-8", [("retry-after", f"{wait:.0f}")])
            return
        form = parse_qs((await _body(receive)).decode("utf-8", "replace"))
        token = form.get("token", [""])[0].strip()
        name = " ".join(form.get("name", [""])[0].split())[:40]
        try:
            person = await self._channel.login(token, name)
        except RilievoError as error:
            self._failures.append(now)
            await _answer(send, 403, login_page(error.message).encode(), "text/html; charset=utf-8")
            return
        self._forget(headers.get("cookie", ""))
        key = secrets.token_urlsafe(32)
        self._sessions[key] = Session(str(person["name"]), str(person["role"]), token, secrets.token_hex(8), now)
        while len(self._sessions) > _MOST_SESSIONS:
            self._sessions.popitem(last=False)
        leads = [("location", "/"), ("set-cookie", self._cookie(key, int(LASTS)))]
        await _answer(send, 303, b"", "text/plain", leads)

    def _cookie(self, key: str, lasts: int) -> str:
        secure = "; Secure" if self._secure else ""
        return f"{COOKIE}={key}; Path=/; HttpOnly; SameSite=Strict; Max-Age={lasts}{secure}"


def _key(cookie: str) -> str:
    try:
        morsel = SimpleCookie(cookie).get(COOKIE)
    except CookieError:
        return ""
    return "" if morsel is None else morsel.value


async def _body(receive: Receive) -> bytes:
    body = b""
    while len(body) <= _MOST_BODY:
        message = await receive()
        body += bytes(message.get("body", b""))
        if message["type"] != "http.request" or not message.get("more_body"):
            return body[:_MOST_BODY]
    return b""


def _headers() -> list[tuple[bytes, bytes]]:
    return [
        (b"content-security-policy", POLICY.encode()),
        (b"x-frame-options", b"DENY"),
        (b"x-content-type-options", b"nosniff"),
        (b"referrer-policy", b"same-origin"),
    ]


async def _answer(send: Send, status: int, body: bytes, kind: str, more: list[tuple[str, str]] | None = None) -> None:
    told = [("content-type", kind), ("content-length", str(len(body))), ("cache-control", "no-store"), *(more or [])]
    headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in told] + _headers()
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _guarded(send: Send) -> Send:
    """Return a ``send`` that adds the headers which protect the page, where an answer has none of its own."""

    async def sent(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            headers = list(message.get("headers", ()))
            given = {name.lower() for name, _ in headers}
            message["headers"] = headers + [pair for pair in _headers() if pair[0] not in given]
        await send(message)

    return sent


def login_page(trouble: str = "") -> str:
    """Return the way in."""
    folder = files("acquisition") / "templates"
    style = "".join((folder / name).read_text(encoding="utf-8") for name in ("report.css", "page.css"))
    wrong: Content = tag("p", f"✕ {trouble}", class_="problem", role="alert") if trouble else None
    form = tag(
        "form",
        tag("p", "Rilievo", class_="over"),
        tag("h1", "Watch the night"),
        wrong,
        tag("label", "Your name, for the log", for_="name"),
        tag("input", type="text", id="name", name="name", autocomplete="username", maxlength=40),
        tag("label", "Your token", for_="token"),
        tag(
            "input",
            type="password",
            id="token",
            name="token",
            required=True,
            autofocus=True,
            autocomplete="current-password",
        ),
        tag("button", "Come in", type="submit", class_="main"),
        tag("p", "Your token stands in the file that rilievo serve names when it starts.", class_="key"),
        method="post",
        action="/login",
        class_="login",
    )
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("title", "Rilievo: come in"),
        tag("link", rel="icon", href="data:,"),
        tag("style", Markup(style)),
    )
    return f"<!doctype html>\n{tag('html', head, tag('body', tag('main', form)), lang='en', data_theme='dark')}\n"
