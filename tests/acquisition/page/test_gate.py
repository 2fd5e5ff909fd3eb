from __future__ import annotations

import asyncio
from urllib.parse import urlencode

import pytest

from acquisition.page.gate import LASTS, SESSION, Gate
from drivers.errors import InputError

HOST = "127.0.0.1:8642"
HERE = {"host": HOST, "origin": f"http://{HOST}"}


class Clock:
    now = 100.0

    def monotonic(self) -> float:
        return self.now


class Channel:
    def __init__(self) -> None:
        self.tried: list[str] = []

    async def login(self, token: str, name: str):
        self.tried.append(token)
        if token != "right":
            raise InputError("nobody has <this> token")
        return {"name": name or "Ada", "role": "operator"}


class House:
    """The page behind the gate: says who came in."""

    def __init__(self) -> None:
        self.scopes: list[dict] = []

    async def __call__(self, scope, receive, send):
        self.scopes.append(scope)
        if scope["type"] == "http":
            await send({"type": "http.response.start", "status": 200, "headers": [(b"x-here", b"yes")]})
            await send({"type": "http.response.body", "body": b"in"})
        else:
            await send({"type": "websocket.accept"})


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def house():
    return House()


@pytest.fixture
def gate(house, clock):
    return Gate(house, Channel(), clock, frozenset({HOST}))


def ask(gate, path="/", method="GET", body=b"", kind="http", **headers):
    """Ask the gate; return status, headers and body."""
    sent: list[dict] = []
    messages = iter([{"type": "http.request" if kind == "http" else "websocket.connect", "body": body}])
    scope = {
        "type": kind,
        "path": path,
        "method": method,
        "headers": [(name.replace("_", "-").encode(), value.encode()) for name, value in {**HERE, **headers}.items()],
    }

    async def receive():
        return next(messages)

    async def send(message):
        sent.append(message)

    asyncio.run(gate(scope, receive, send))
    if kind == "websocket":
        return sent[0]["type"], {}, b""
    told = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return sent[0]["status"], told, b"".join(message.get("body", b"") for message in sent)


def login(gate, token="right", name="", **headers):
    return ask(gate, "/login", "POST", urlencode({"token": token, "name": name}).encode(), **headers)


def cookie(answer) -> str:
    return answer[1]["set-cookie"].split(";")[0]


def test_without_a_session_everything_leads_to_the_way_in(gate, house):
    for path in ("/", "/archive", "/static/page.js", "/curves.json", "/_nicegui/x.js"):
        status, headers, _ = ask(gate, path)
        assert (status, headers["location"]) == (303, "/login")
    assert ask(gate, kind="websocket") == ("websocket.close", {}, b"")
    assert house.scopes == []


def test_the_right_token_opens_a_session_whose_cookie_is_kept_from_scripts_and_other_sites(gate, house):
    answer = login(gate)
    assert (answer[0], answer[1]["location"]) == (303, "/")
    flags = answer[1]["set-cookie"]
    assert all(flag in flags for flag in ("HttpOnly", "SameSite=Strict", "Path=/"))
    assert "right" not in flags
    status, headers, body = ask(gate, cookie=cookie(answer))
    assert (status, body, headers["x-here"]) == (200, b"in", "yes")
    assert "connect-src 'self'" in headers["content-security-policy"]
    assert ask(gate, kind="websocket", cookie=cookie(answer))[0] == "websocket.accept"
    assert house.scopes[-1][SESSION].person == "Ada"
    ask(gate, cookie=cookie(login(gate, name="  Grace \n H. " + "x" * 60)))
    assert house.scopes[-1][SESSION].person == ("Grace H. " + "x" * 60)[:40]


def test_tls_makes_the_cookie_secure(house, clock):
    gate = Gate(house, Channel(), clock, frozenset(), secure=True)
    assert "; Secure" in login(gate, origin=f"https://{HOST}")[1]["set-cookie"]
    assert login(gate)[0] == 403


def test_a_wrong_token_is_told_and_after_eight_everybody_waits(gate, clock):
    status, _, body = login(gate, "wrong")
    assert status == 403
    assert b"nobody has &lt;this&gt; token" in body
    for _ in range(7):
        login(gate, "wrong")
    assert login(gate)[0] == 429
    clock.now += 61
    assert login(gate)[0] == 303


@pytest.mark.parametrize(
    ("headers", "kind", "method"),
    [
        ({"host": "evil.example:8642", "origin": "http://evil.example:8642"}, "http", "GET"),
        ({"origin": "http://evil.example"}, "http", "POST"),
        ({"origin": "null"}, "http", "POST"),
        ({"origin": "http://evil.example"}, "websocket", "GET"),
        ({"origin": f"https://{HOST}"}, "websocket", "GET"),
    ],
)
def test_what_another_site_makes_a_browser_send_is_refused(gate, house, headers, kind, method):
    kept = cookie(login(gate))
    answer = ask(gate, method=method, kind=kind, cookie=kept, **headers)
    assert answer[0] in (403, "websocket.close")
    assert house.scopes == []


def test_a_session_ends_when_it_is_left_and_when_nobody_used_it(gate, clock):
    kept = cookie(login(gate))
    clock.now += LASTS - 1
    assert ask(gate, cookie=kept)[0] == 200
    clock.now += LASTS + 1
    assert ask(gate, cookie=kept)[0] == 303
    kept = cookie(login(gate))
    assert ask(gate, "/logout", "POST", cookie=kept)[0] == 303
    assert ask(gate, cookie=kept)[0] == 303


def test_sessions_are_bounded_and_a_guessed_cookie_opens_nothing(gate):
    first = cookie(login(gate))
    for _ in range(128):
        login(gate)
    assert ask(gate, cookie=first)[0] == 303
    for guess in ("rilievo=", "rilievo=x", 'rilievo="', "=;;=", "other=1"):
        assert ask(gate, cookie=guess)[0] == 303


def test_a_body_without_an_end_is_not_collected(gate):
    assert ask(gate, "/login", "POST", b"token=" + b"x" * 10_000)[0] == 403
