"""``alerts.yaml``: what is understood, and what is refused with its line."""

import pytest

from acquisition.alert_settings import load_settings
from acquisition.alerts import telling
from acquisition.log import Log
from drivers.errors import DocumentError
from drivers.units import si

GOOD = """\
heartbeat: {file: beat, every: 2 min}
limit: 3
ways:
  night shift:
    mail: {host: smtp.example.org, from: sem@example.org, to: night@example.org}
    tell: [failure, safe]
  chat:
    webhook: {url: "https://chat.example.org/7", headers: {X-Room: night}}
    level: warning
    limit: 9
  siren:
    command: [/bin/siren, --loud]
"""


def load(folder, text):
    (folder / "alerts.yaml").write_text(text)
    return load_settings(folder)


def test_no_file_no_alerts(tmp_path):
    assert load_settings(tmp_path) is None


def test_what_goes_where(tmp_path):
    settings = load(tmp_path, GOOD)
    mail, chat = settings.ways["night shift"], settings.ways["chat"]
    assert (settings.limit_of("night shift"), settings.limit_of("chat")) == (3, 9)
    assert si(settings.heartbeat.every) == 120
    assert mail.mail.to == ("night@example.org",)
    assert mail.takes("failure", "error")
    assert not mail.takes("finished", "info")
    assert mail.takes("test", "info")
    assert chat.takes("disk", "warning")
    assert not chat.takes("finished", "info")


MAIL = "ways: {w: {mail: {host: h, from: a@b, to: [c@d]%s}}}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("limits: 3", "'limits' is not a key here; did you mean 'limit'"),
        ("limit: 0", "greater than or equal to 1"),
        ("deadline: 20", "'20' has no unit; expected a time, such as 30 s"),
        ("deadline: 0 s", "expected a time above 0 s"),
        ("retry: {first: 3 K}", "3 K is a temperature; expected a time"),
        ("ways: {w: {}}", "a way is one of mail, webhook and command"),
        ("ways: {w: {command: [x], webhook: {url: 'http://h'}}}", "a way is one of mail, webhook and command"),
        ("ways: {w: {command: []}}", "at least 1 item"),
        ("ways: {w: {command: [x], tell: [everything]}}", "'failure', 'safe'"),
        ("ways: {w: {webhook: {url: 'file:///etc/passwd'}}}", "begins with https:// or http://"),
        (
            "ways: {w: {webhook: {url: 'http://h', token: x}}}",
            "a token does not belong into this file; write token_file",
        ),
        (MAIL % ", password: x", "a password does not belong into this file; write password_file or password_env"),
        (MAIL % ", user: me", "user goes with one of password_file and password_env"),
        (MAIL % ", user: me, password_env: P, security: none", "a password would travel in the clear"),
        (MAIL.replace("c@d", "cd") % "", "expected an address such as night@example.org; got 'cd'"),
        ("heartbeat: {every: 1 min}", "a heartbeat needs a file to touch"),
        (MAIL % ", user: me, password_env: RILIEVO_NOT_SET", "the environment has no variable RILIEVO_NOT_SET"),
        (MAIL % ", user: me, password_file: secret", "the file with the password cannot be read"),
    ],
)
def test_what_is_refused(tmp_path, text, message):
    with pytest.raises(DocumentError) as caught:
        load(tmp_path, text)
    (problem,) = caught.value.problems
    assert message in problem.message
    assert problem.line == 1
    assert problem.column >= 1


def test_every_problem_is_told_at_once(tmp_path):
    with pytest.raises(DocumentError) as caught:
        load(tmp_path, "limit: none\nways:\n  a: {command: []}\n  b: {webhook: {url: ftp://h}}\n")
    assert [problem.line for problem in caught.value.problems] == [1, 3, 4]


@pytest.mark.parametrize(("mode", "reason"), [(0o644, "others may read this password"), (0o600, None)])
def test_a_password_is_its_owners_alone(tmp_path, mode, reason):
    secret = tmp_path / "secret"
    secret.write_text("xyzzy\n")
    secret.chmod(mode)
    text = MAIL % ", user: me, password_file: secret"
    if reason is None:
        assert load(tmp_path, text).ways["w"].mail.user == "me"
        return
    with pytest.raises(DocumentError, match=rf"alerts.yaml:1:18: ways.w.mail: .*{reason}.*chmod 600"):
        load(tmp_path, text)


def test_what_was_interrupted_goes_on_without_settings_that_cannot_be_understood(tmp_path):
    (tmp_path / "alerts.yaml").write_text("ways: {note: {comand: [sh]}}\n")
    with Log.open(tmp_path / "rilievo.db") as log:
        with pytest.raises(DocumentError), telling(tmp_path, log):
            pass
        with telling(tmp_path, log, forgiving=True) as alerts:
            assert alerts is None
        (event,) = log.events(None)
    assert event.level == "error"
    assert "did you mean 'command'" in event.message
