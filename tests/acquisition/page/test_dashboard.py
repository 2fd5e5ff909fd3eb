from __future__ import annotations

import os
import signal
import socket
import urllib.error
import urllib.parse
import urllib.request
from types import SimpleNamespace

import pytest

from acquisition.dashboard import Dashboard, PageSettings
from drivers.errors import InputError, RunError


def made(tmp_path, **settings) -> Dashboard:
    return Dashboard(tmp_path, "sqlite://", SimpleNamespace(), lambda *_: None, PageSettings(**settings), print)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"host": "0.0.0.0"}, "without TLS the page is for this computer alone"),
        ({"host": "192.168.1.4"}, "--init-tls sets TLS up"),
    ],
)
def test_without_tls_only_loopback_is_served(tmp_path, settings, sentence):
    with pytest.raises(InputError, match=sentence):
        made(tmp_path, **settings).start()


def test_a_certificate_needs_its_key_and_both_their_files(tmp_path):
    with pytest.raises(InputError, match="belong together"):
        made(tmp_path, certificate=tmp_path / "a.pem").start()
    with pytest.raises(InputError, match="no such file"):
        made(tmp_path, certificate=tmp_path / "a.pem", key=tmp_path / "b.pem").start()


def test_a_port_in_use_is_told_before_anything_starts(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(RunError, match=f"the page cannot use port {port} .*--dashboard-port"):
            made(tmp_path, port=port).start()


class Browser:
    """A client without a screen, which keeps its cookie."""

    def __init__(self, site, token=None):
        self.site = site
        self.opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(), NoRedirect())
        if token is not None:
            assert self.ask("login", {"token": token})[0] == 303

    def ask(self, path, form=None):
        origin = self.site.page.url.rstrip("/")
        body = None if form is None else urllib.parse.urlencode(form).encode()
        request = urllib.request.Request(f"{origin}/{path}", body, {"Origin": origin})
        try:
            with self.opener.open(request, timeout=20) as answer:
                return answer.status, answer.headers, answer.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.headers, error.read()


class NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *given):
        return None


def test_what_the_browser_fetches(site):
    browser = Browser(site, "of-bob")
    status, headers, body = browser.ask(f"frame/{site.finished}/1/segment/A.png")
    assert (status, headers["content-type"], body[:4]) == (200, "image/png", b"\x89PNG")
    assert browser.ask(f"frame/{site.finished}/1/heights.png")[2][:4] == b"\x89PNG"
    assert b'"sides":[10000.0,10000.0]' in browser.ask(f"frame/{site.finished}/1/surface.json")[2]
    assert b"a finished night" in browser.ask(f"report/{site.finished}")[2]
    assert browser.ask("static/plotly.min.js")[0] == 200


@pytest.mark.parametrize(
    ("path", "sentence"),
    [
        ("frame/nobody/1/heights.png", b"frame 1 of run nobody has no heights"),
        ("frame/{run}/77/segment/A.png", b"has no frame 77"),
        ("frame/{run}/1/segment/Z.png", b"frame 1 has no 'Z'; it has: A, B, C, D"),
        ("report/..%2F..%2Fetc%2Fpasswd", b""),
        ("report/nobody", b"there is no run 'nobody'"),
        ("frame/{run}/x/heights.png", b""),
    ],
)
def test_what_there_is_not_is_told(site, path, sentence):
    status, _, body = Browser(site, "of-bob").ask(path.format(run=site.finished))
    assert 400 <= status < 500
    assert sentence in body


def test_nobody_gets_anything_without_a_token(site):
    for path in ("", "curves.json", "static/page.js", f"report/{site.finished}", "frame/x/1/heights.png"):
        assert Browser(site).ask(path)[0] == 303


def asked(site, **message):
    return site.page._done({"person": "", **message})


def test_an_observer_and_a_stranger_are_refused_by_the_desk_whatever_the_page_asks(site):
    command = {"verb": "command", "session": "s", "arguments": {"run": site.finished}}
    for name in ("pause", "stop"):
        with pytest.raises(Exception, match="needs the role operator; Bob is an observer"):
            asked(site, token="of-bob", name=name, **command)
    with pytest.raises(InputError, match="nobody has this token"):
        asked(site, token="guess", name="pause", **command)
    for name in ("seat", "__class__", "take_control", "server", "set"):
        with pytest.raises(InputError, match="the page may ask for abort, pause"):
            asked(site, token="of-ada", name=name, **command)
    with pytest.raises(InputError, match="there is not"):
        asked(site, verb="eval", token="of-ada")


def test_control_is_taken_for_one_command_and_let_go(site):
    before = len(site.desk.asked)
    with pytest.raises(RunError, match="is not being played"):
        asked(site, verb="command", token="of-ada", session="s", name="pause", arguments={"run": site.finished})
    assert [name for _, name, _ in site.desk.asked[before:]] == ["take_control", "pause", "release_control"]


def test_a_page_that_dies_is_started_again_on_the_same_port(site, clock):
    pid, url = site.page.pid, site.page.url
    os.kill(pid, signal.SIGKILL)
    end = clock.monotonic() + 60
    while site.page.pid == pid or not site.page.wait(0.05):
        assert clock.monotonic() < end
    assert site.page.url == url
    assert Browser(site).ask("")[0] == 303
    assert site.told == [("warning", "the page died (exit code -9) and is started again; runs and calendar go on")]
