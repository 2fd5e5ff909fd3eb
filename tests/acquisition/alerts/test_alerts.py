"""Events become alerts, alerts are delivered, and what cannot be delivered is not lost."""

import os
import signal
import subprocess
import sys
import threading
import uuid
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from acquisition.alerts import Alerts, kind_of, telling
from acquisition.outbox import Outbox
from acquisition.ownership import Ownership, holder
from acquisition.records import Event
from drivers.errors import DatabaseError

NOW = datetime(2026, 1, 1, 18, tzinfo=UTC)
QUICK = "retry: {first: 40 ms, longest: 80 ms}\ndeadline: 400 ms\n"


def mail(server, more=""):
    return f"night: {{mail: {{host: 127.0.0.1, port: {server.port}, security: none, from: sem@b, to: n@b}}{more}}}"


def hook(server, more=""):
    return f"chat: {{webhook: {{url: '{server.url}/7'}}{more}}}"


def settings(*ways, more=""):
    return QUICK + more + "ways:\n" + "".join(f"  {way}\n" for way in ways)


def titles(desk, state):
    return [alert.title for alert in Outbox(desk.log).alerts([state])]


def about_alerts(desk):
    return [event.message for event in desk.log.events(None) if event.kind == "alert"]


def sent(desk, count):
    desk.until(lambda: len(titles(desk, "sent")) == count)


@pytest.mark.parametrize(
    ("level", "kind", "message", "alert"),
    [
        ("error", "state", "failed: the heater is silent", "failure"),
        ("error", "state", "safe: too hot", "safe"),
        ("info", "state", "suspended: pressure outside 10..30 Pa", "suspension"),
        ("info", "state", "finished", "finished"),
        ("info", "state", "running", None),
        ("warning", "stall", "the ramp stands still", "stall"),
        ("warning", "disk", "3 GB left", "disk"),
        ("info", "disk", "there is room again", None),
        ("warning", "missed", "a start was missed", "missed"),
        ("info", "resume", "a hold goes on with what was left of it", "resumed"),
        ("warning", "readback", "the gauge does not answer", None),
        ("error", "cleanup", "could not close O2", "error"),
        ("error", "alert", "chat: given up", None),
    ],
)
def test_what_is_worth_an_alert(level, kind, message, alert):
    assert kind_of(Event(1, None, NOW, level, kind, message, None)) == alert


def test_an_event_is_told_on_every_way_once(desk, mail_server, web_server):
    desk.open(settings(mail(mail_server), hook(web_server, ", tell: [failure]")))
    desk.event("finished", "info")
    desk.event("failed: the heater is silent")
    sent(desk, 3)
    assert [mail["Subject"] for mail in mail_server.post.mails] == [
        "[rilievo] A run finished: finished",
        "[rilievo] A run failed: failed: the heater is silent",
    ]
    assert [body["kind"] for _, _, body in web_server.requests] == ["failure"]


def test_nothing_from_before_the_first_start_is_told_and_everything_after_it(desk, web_server):
    text = settings(hook(web_server))
    desk.event("failed: long ago")
    desk.open(text)
    desk.until(lambda: holder(desk.folder, "alerts") is not None)
    desk.until(lambda: [event.kind for event in desk.log.events(None)] == ["state", "alerts"])
    desk.close()
    desk.event("failed: while nobody looked")
    desk.open(text)
    sent(desk, 1)
    assert [body["title"] for _, _, body in web_server.requests] == ["A run failed: failed: while nobody looked"]


def test_a_test_reaches_every_way_and_says_which_it_does_not(desk, mail_server, web_server):
    web_server.status = 503
    alerts = desk.open(settings(mail(mail_server, ", level: error"), hook(web_server)))
    by_way = {alert.way: alert for alert in alerts.test(5.0)}
    assert by_way["night"].state == "sent"
    assert by_way["chat"].state == "failed"
    assert "503" in by_way["chat"].error
    assert mail_server.post.mails[0]["Subject"] == "[rilievo] Test of the alerts"


def test_a_test_at_the_start(desk, web_server):
    desk.open(settings(hook(web_server), more="test_at_start: true\n"))
    sent(desk, 1)
    assert web_server.requests[0][2]["kind"] == "test"


def test_a_server_that_comes_back_gets_it_with_the_same_key(desk, mail_server):
    mail_server.post.behaviour = "drop"  # it takes the mail, and the sender cannot know
    desk.open(settings(mail(mail_server)))
    desk.event("failed: x")
    desk.until(lambda: len(mail_server.post.mails) >= 2)
    mail_server.stop()
    desk.until(lambda: "refused" in (Outbox(desk.log).alerts()[0].error or ""))
    mail_server.post.behaviour = "well"
    mail_server.start()
    sent(desk, 1)
    assert len({mail["Message-ID"] for mail in mail_server.post.mails}) == 1
    desk.until(lambda: len(about_alerts(desk)) > 1)
    told = about_alerts(desk)
    assert "not delivered" in told[0]
    assert "delivered with attempt" in told[-1]
    assert len(told) == 2  # not one for each attempt


def test_a_way_that_hangs_holds_up_nobody_else(desk, web_server, mail_server):
    web_server.status = None
    desk.open(settings(hook(web_server), mail(mail_server), more="limit: 100\n").replace("400 ms", "150 ms"))
    desk.event("failed: one")
    desk.until(lambda: len(mail_server.post.mails) == 1, seconds=1.0)
    desk.until(
        lambda: any("150" in (a.error or "") or "timed out" in (a.error or "") for a in Outbox(desk.log).alerts())
    )
    desk.event("failed: two")
    desk.until(lambda: len(mail_server.post.mails) >= 2)


class Frozen:
    """A way that neither delivers nor times out, whatever it was told."""

    def __init__(self):
        self.release = threading.Event()
        self.calls = 0

    def deliver(self, message, timeout):
        self.calls += 1
        self.release.wait(10)


def test_a_frozen_delivery_is_given_up_and_only_a_few_of_them(desk, monkeypatch):
    from acquisition import alerts as module

    frozen = Frozen()
    monkeypatch.setattr(module, "ways_of", lambda *_: {"chat": frozen})
    desk.open("retry: {first: 1 ms, longest: 1 ms}\ndeadline: 20 ms\nways: {chat: {command: [x]}}")
    desk.event("failed: x")
    desk.until(lambda: frozen.calls == 3)
    desk.clock.sleep(0.1)
    assert frozen.calls == 3
    (alert,) = Outbox(desk.log).alerts()
    assert (alert.state, alert.error) == ("waiting", "not delivered within 0.02 s")
    frozen.release.set()
    sent(desk, 1)


def test_what_one_way_cannot_deliver_goes_on_the_others(desk, web_server, mail_server):
    web_server.status = 500
    desk.open(settings(hook(web_server), mail(mail_server, ", tell: [disk]")))
    desk.event("finished", "info")  # not grave
    desk.event("failed: x")
    desk.until(lambda: mail_server.post.mails)
    text = mail_server.post.mails[0].get_payload(decode=True).decode()
    assert "chat does not deliver: 127.0.0.1" in text
    assert mail_server.post.mails[0]["Subject"].endswith("failed: x")
    desk.clock.sleep(0.1)
    assert len(mail_server.post.mails) == 1


def test_it_is_given_up_in_the_end_and_that_is_told(desk, web_server):
    web_server.status = 500
    desk.open(settings(hook(web_server)).replace("longest: 80 ms", "longest: 80 ms, give_up: 100 ms"))
    desk.event("failed: x")
    desk.until(lambda: titles(desk, "failed"))
    desk.until(lambda: len(about_alerts(desk)) == 2)
    (last,) = [event for event in desk.log.events(None) if "given up" in event.message]
    assert last.level == "error"
    assert "after 2 attempts" in last.message
    assert "500" in last.message


def test_more_than_the_limit_is_summed_up_and_not_lost(desk, web_server):
    desk.open(settings(hook(web_server), more="limit: 2\n"))
    for number in range(2):
        desk.event(f"failed: {number}")
        sent(desk, number + 1)
    for number in range(2, 7):
        desk.event(f"failed: {number}")
    desk.event("finished", "info")  # another kind has its own limit
    sent(desk, 3)
    desk.until(lambda: all("held back: 2" in (alert.error or "") for alert in Outbox(desk.log).alerts(["waiting"])))
    assert len(titles(desk, "waiting")) == 5
    box, hour = Outbox(desk.log), timedelta(hours=1, seconds=5)
    (*group,) = box.due("chat", desk.clock.now() + hour, 2)
    assert [alert.title[-1] for alert in group] == ["2", "3", "4", "5", "6"]
    from acquisition.outbox import summed_up

    message = summed_up(group)
    assert message.count == 5
    assert message.title.startswith("5 alerts: A run failed")
    assert all(f"failed: {number}" in message.text for number in range(2, 7))


@hypothesis_settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["put", "send", "fail", "later"]), st.sampled_from(["a", "b"])), max_size=40))
def test_the_outbox_never_loses_one_and_never_passes_the_limit(memory_outbox, steps):
    """Whatever happens: every alert is waiting or was in a message, messages of a kind stay within the limit."""
    way = uuid.uuid4().hex
    box, now, asked, told = memory_outbox, NOW, 0, []
    times = {"a": [], "b": []}
    for step, kind in steps:
        now += timedelta(seconds=1)
        if step == "put":
            asked += len(box.put([way], now, kind=kind, level="info", title="t", text="x"))
        elif step == "later":
            now += timedelta(minutes=25)
        else:
            group = box.due(way, now, 2)
            if not group:
                continue
            box.trying(group, now + timedelta(seconds=30))
            ids = [alert.id for alert in group]
            if step == "send":
                box.sent(ids, now)
                told += ids
                times[group[0].kind].append(now) if not group[0].attempts else None
            else:
                box.not_sent(ids, "no", now + timedelta(seconds=30))
    waiting = [alert.id for alert in box.alerts(["waiting"]) if alert.way == way]
    assert len(told) == len(set(told))
    assert len(waiting) + len(told) == asked
    for sent_at in times.values():
        assert all(
            later - early > timedelta(hours=1) - timedelta(seconds=1)
            for early, later in zip(sent_at, sent_at[2:], strict=False)
        )


@pytest.fixture(scope="module")
def memory_outbox(tmp_path_factory):
    from sqlalchemy import event

    from acquisition.log import Log

    with Log.open(tmp_path_factory.mktemp("outbox") / "rilievo.db") as log:
        # Nobody cuts the power of this one: the disk need not be waited for.
        event.listen(log.engine, "connect", lambda connection, _: connection.execute("PRAGMA synchronous=OFF"))
        log.engine.dispose()
        yield Outbox(log)


PROGRAM = """
import os, signal, sys
from pathlib import Path
from acquisition.alerts import Alerts
from acquisition.log import Log
from acquisition.outbox import Outbox

folder, how = Path(sys.argv[1]), sys.argv[2]
die = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
if how == "before sending":
    Outbox.trying = die
else:
    Outbox.sent = die  # it was delivered, and nobody could note it
with Log.open(folder / "rilievo.db") as log:
    alerts = Alerts.of(folder, log)
    alerts._poll = 0.01
    alerts.start()
    alerts._thread.join(20)
"""


@pytest.mark.parametrize(("how", "times"), [("before sending", 1), ("after sending", 2)])
def test_killed_between_asking_and_sending(desk, web_server, how, times):
    desk.write(settings(hook(web_server)))
    desk.log.event(None, NOW, "info", "alerts", "alerts go to chat")
    desk.event("failed: x")
    process = subprocess.run([sys.executable, "-c", PROGRAM, str(desk.folder), how], timeout=30, env=dict(os.environ))
    assert process.returncode == -signal.SIGKILL
    assert len(web_server.requests) == times - 1
    assert [alert.state for alert in Outbox(desk.log).alerts()] == ["waiting"]
    desk.open()
    sent(desk, 1)
    assert len(web_server.requests) == times
    assert len({headers["Idempotency-Key"] for _, headers, _ in web_server.requests}) == 1


def test_what_is_waiting_at_the_end_is_told_within_the_time_given(desk, web_server):
    alerts = desk.open(settings(hook(web_server)))
    desk.until(lambda: holder(desk.folder, "alerts") is not None)
    alerts._poll = 100.0
    desk.event("finished", "info")
    alerts.close(5.0)
    assert titles(desk, "sent") == ["A run finished: finished"]
    assert holder(desk.folder, "alerts") is None


def test_a_close_does_not_wait_for_a_way_that_hangs(desk, web_server):
    web_server.status = None
    alerts = desk.open(settings(hook(web_server)).replace("400 ms", "30 s"))
    desk.event("failed: x")
    desk.until(lambda: web_server.requests)
    began = desk.clock.monotonic()
    alerts.close(0.1)
    assert desk.clock.monotonic() - began < 1.0
    assert titles(desk, "waiting")


def test_one_process_delivers_and_another_takes_over(desk, web_server, monkeypatch):
    monkeypatch.setattr("acquisition.alerts.TAKE_OVER", 0.02)
    with Ownership.take(desk.folder, "alerts"):
        desk.open(settings(hook(web_server)))
        desk.log.event(None, NOW, "info", "alerts", "the other one has begun")
        desk.event("failed: x")
        desk.clock.sleep(0.1)
        assert not web_server.requests
    sent(desk, 1)


def test_a_database_that_is_gone_is_told_past_the_outbox(desk, web_server, monkeypatch):
    monkeypatch.setattr("acquisition.alerts.DATABASE_PATIENCE", 0.05)
    alerts = desk.open(settings(hook(web_server), more="heartbeat: {file: beat, every: 10 ms}\n"))
    desk.until((desk.folder / "beat").exists)

    def gone(*_):
        raise DatabaseError("the connection to the database server was lost")

    with monkeypatch.context() as patch:
        patch.setattr(Outbox, "news", gone)
        desk.until(lambda: web_server.requests)
        (desk.folder / "beat").unlink()
        desk.clock.sleep(0.1)
        assert not (desk.folder / "beat").exists()
        assert "was lost" in alerts.wrong
        assert len(web_server.requests) == 1
    assert "the connection to the database server was lost" in web_server.requests[0][2]["text"]
    desk.until((desk.folder / "beat").exists)
    assert alerts.wrong is None


def test_the_heart_beats_while_all_is_well(desk, web_server):
    wrong = []
    beat = f"heartbeat: {{file: beat, url: '{web_server.url}/alive', every: 10 ms}}\n"
    desk.open(beat + QUICK, well=lambda: wrong[0] if wrong else None)
    desk.until(lambda: (desk.folder / "beat").exists() and len(web_server.requests) > 2)
    assert {path for path, _, _ in web_server.requests} == {"/alive"}
    wrong.append("the engine stands still")
    desk.clock.sleep(0.05)
    (desk.folder / "beat").unlink()
    heard = len(web_server.requests)
    desk.clock.sleep(0.1)
    assert not (desk.folder / "beat").exists()
    assert len(web_server.requests) <= heard + 1
    wrong.clear()
    desk.until(lambda: (desk.folder / "beat").exists() and len(web_server.requests) > heard + 2)


def test_a_heartbeat_that_nobody_hears_is_told_once(desk, web_server):
    web_server.status = 500
    desk.open(f"heartbeat: {{url: '{web_server.url}/alive', every: 10 ms}}\n" + QUICK)
    desk.until(lambda: len(web_server.requests) > 4)
    web_server.status = 200
    desk.until(lambda: len(about_alerts(desk)) == 2)
    first, second = about_alerts(desk)
    assert "the heartbeat is not heard" in first
    assert second == "the heartbeat is heard again"


def test_none_without_settings(desk):
    assert Alerts.of(desk.folder, desk.log) is None
    with telling(desk.folder, desk.log) as alerts:
        assert alerts is None


def test_told_to_the_end_of_a_run(desk, web_server):
    desk.write(settings(hook(web_server)))
    with telling(desk.folder, desk.log):
        desk.event("finished", "info")
    assert titles(desk, "sent") == ["A run finished: finished"]


def test_on_postgresql(desk, postgresql, web_server):
    from acquisition.log import Log

    with Log.open(postgresql) as log:
        desk.log = log
        desk.open(settings(hook(web_server), more="limit: 1\n"))
        desk.event("failed: one")
        sent(desk, 1)
        desk.event("failed: two")
        desk.until(lambda: any("held back" in (alert.error or "") for alert in Outbox(log).alerts(["waiting"])))
        desk.close()
    assert [body["title"] for _, _, body in web_server.requests] == ["A run failed: failed: one"]
