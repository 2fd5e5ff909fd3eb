"""One message on one way, against real servers and a real program."""

import json
import os
import ssl
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from acquisition.alert_settings import AlertSettings
from acquisition.message import Message
from acquisition.ways import Undeliverable, fetch, way_of

TIME = datetime(2026, 1, 1, 18, tzinfo=UTC)
MESSAGE = Message(
    "k7", "failure", "error", "A run failed: the heater\nis silent", "800 °C were asked for", TIME, "run-1"
)
CERTIFICATE = Path(__file__).with_name("localhost.pem")


def way(folder, **text):
    return way_of(AlertSettings(ways={"w": text}).ways["w"], folder)


def mail(folder, port, **more):
    given = {"host": "127.0.0.1", "port": port, "security": "none", "from": "sem@example.org", "to": ["n@example.org"]}
    return way(folder, mail={**given, **more})


def test_a_mail(tmp_path, mail_server):
    assert mail(tmp_path, mail_server.port).deliver(MESSAGE, 2.0) is None
    (got,) = mail_server.post.mails
    assert got["Subject"] == "[rilievo] A run failed: the heater is silent"
    assert got["Message-ID"] == "<k7.rilievo@example.org>"
    assert got["Auto-Submitted"] == "auto-generated"
    assert got.get_payload(decode=True).decode().splitlines() == ["800 °C were asked for", "", "run run-1"]


def test_a_mail_to_several_of_whom_one_is_refused(tmp_path, mail_server):
    mail_server.post.refused = {"gone@example.org"}
    note = mail(tmp_path, mail_server.port, to=["n@example.org", "gone@example.org"]).deliver(MESSAGE, 2.0)
    assert note == "the mail server refused gone@example.org (550 nobody of that name)"
    assert len(mail_server.post.mails) == 1


@pytest.mark.parametrize("security", ["starttls", "ssl"])
# The server of these tests does not see that TLS lies below its connection already.
@pytest.mark.filterwarnings("ignore:Requiring AUTH while not requiring TLS")
def test_a_mail_with_a_password_goes_encrypted(tmp_path, monkeypatch, make_mail_server, security):
    seen = []

    def login(server, session, envelope, mechanism, data):
        from aiosmtpd.smtp import AuthResult

        seen.append((data.login, data.password))
        return AuthResult(success=data.password == b"xyzzy", handled=False)

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATE)
    options = {"tls_context": context} if security == "starttls" else {"ssl_context": context}
    server = make_mail_server(
        authenticator=login, auth_required=True, auth_require_tls=security == "starttls", **options
    )
    monkeypatch.setenv("MAIL_PASSWORD", "xyzzy")
    text = {"security": security, "user": "sem", "password_env": "MAIL_PASSWORD"}
    with pytest.raises(Undeliverable, match="certificate verify failed"):
        mail(tmp_path, server.port, **text).deliver(MESSAGE, 2.0)
    monkeypatch.setenv("SSL_CERT_FILE", str(CERTIFICATE))
    mail(tmp_path, server.port, **text).deliver(MESSAGE, 2.0)
    monkeypatch.setenv("MAIL_PASSWORD", "wrong")
    with pytest.raises(Undeliverable, match="535"):
        mail(tmp_path, server.port, **text).deliver(MESSAGE, 2.0)
    assert len(server.post.mails) == 1
    assert seen == [(b"sem", b"xyzzy"), (b"sem", b"wrong"), *seen[2:]]


def test_a_mail_that_is_refused_cut_off_or_has_no_server(tmp_path, mail_server):
    sender = mail(tmp_path, mail_server.port)
    mail_server.post.behaviour = "refuse"
    with pytest.raises(Undeliverable, match=r"refused everybody: n@example.org \(550 nobody of that name\)"):
        sender.deliver(MESSAGE, 2.0)
    mail_server.post.behaviour = "drop"
    with pytest.raises(Undeliverable, match="cannot be used"):
        sender.deliver(MESSAGE, 2.0)
    mail_server.stop()
    with pytest.raises(Undeliverable, match="Connection refused"):
        sender.deliver(MESSAGE, 2.0)


def test_a_webhook(tmp_path, web_server):
    token = tmp_path / "token"
    token.write_text("s3cret")
    token.chmod(0o600)
    text = {"url": f"{web_server.url}/7", "headers": {"X-Room": "night"}, "token_file": "token"}
    assert way(tmp_path, webhook=text).deliver(MESSAGE, 2.0) is None
    ((path, headers, body),) = web_server.requests
    assert path == "/7"
    assert headers["Authorization"] == "Bearer s3cret"
    assert (headers["X-Room"], headers["Idempotency-Key"], body["key"]) == ("night", "k7", "k7")
    assert body["text"].endswith("800 °C were asked for")
    assert (body["kind"], body["run"], body["count"]) == ("failure", "run-1", 1)


@pytest.mark.parametrize(("status", "reason"), [(500, "500"), (404, "404"), (302, "302"), (None, "timed out")])
def test_a_webhook_that_does_not_take_it(tmp_path, web_server, status, reason):
    web_server.status = status
    with pytest.raises(Undeliverable, match=reason) as caught:
        way(tmp_path, webhook={"url": f"{web_server.url}/secret-path"}).deliver(MESSAGE, 0.1)
    assert "secret-path" not in str(caught.value)
    assert len(web_server.requests) == 1  # nobody was sent elsewhere


def test_a_webhook_without_a_server(tmp_path):
    with pytest.raises(Undeliverable, match="Connection refused"):
        fetch("http://127.0.0.1:9/", 1.0)


def script(folder, text):
    path = folder / "program.py"
    path.write_text(text)
    return way(folder, command=[sys.executable, "-S", str(path), "$HOME; echo"])


def test_a_command_gets_json_and_no_shell(tmp_path):
    text = "import sys, json; json.dump([sys.argv[1], json.load(sys.stdin)], open('got', 'w'))"
    assert script(tmp_path, text).deliver(MESSAGE, 5.0) is None
    argument, body = json.loads((tmp_path / "got").read_text())
    assert argument == "$HOME; echo"
    assert body["title"] == MESSAGE.title


def test_a_command_that_fails_says_why(tmp_path):
    with pytest.raises(Undeliverable, match="ended with code 3: no siren here"):
        script(tmp_path, "import sys; sys.stderr.write('no siren\\nhere'); sys.exit(3)").deliver(MESSAGE, 5.0)
    with pytest.raises(Undeliverable, match="cannot be started: No such file"):
        way(tmp_path, command=["/no/such/program"]).deliver(MESSAGE, 5.0)


def test_a_command_that_hangs_is_killed_with_what_it_started(tmp_path):
    text = (
        "import subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-S', '-c', 'import time; time.sleep(60)'])\n"
        "open('child', 'w').write(str(child.pid)); open('ready', 'w').close()\n"
        "time.sleep(60)\n"
    )
    with pytest.raises(Undeliverable, match=r"had not ended after 0\.3 s and was killed"):
        script(tmp_path, text).deliver(MESSAGE, 0.3)
    if (tmp_path / "ready").exists():  # on a slow machine it is killed before it has a child
        child = int((tmp_path / "child").read_text())
        end = time.monotonic() + 5
        while time.monotonic() < end and _alive(child):
            time.sleep(0.01)
        assert not _alive(child)


def _alive(pid):
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False
