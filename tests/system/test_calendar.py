"""The calendar, the server and the alerts through the command."""

import json
import signal
import time

import pytest

from acquisition.log import Log
from acquisition.outbox import Outbox

TINY = """\
name: a glance
imaging: {beam_energy: 5 keV, probe_current: 1 nA, field_of_view: 10 um, pixels: 32, dwell_time: 10 us}
steps:
  - dark: 1
  - series: {every: 60 s, for: 3 min}
"""


@pytest.fixture
def glance(tmp_path):
    path = tmp_path / "glance.yaml"
    path.write_text(TINY)
    return path


def until(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def states(data):
    with Log.open(data / "rilievo.db", create=False) as log:
        return [run.state for run in log.runs()]


def kept(data):
    with Log.open(data / "rilievo.db", create=False) as log:
        (run,) = log.runs()
        return [frame.number for frame in log.frames(run.id)]


def ended(process):
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert "Traceback" not in out + err
    assert process.returncode == 0, err
    return [json.loads(line) for line in out.splitlines()]


def test_what_is_booked_is_played_while_nobody_watches(rilievo, start, glance, data):
    booked = rilievo("schedule", "add", glance, "--at", "now", "--no-heights", "--missed", "run", "--json")
    assert booked.code == 0, booked.err
    (data / "alerts.yaml").write_text(
        "heartbeat: {file: beat, every: 100 ms}\n"
        "ways: {note: {command: [sh, -c, 'cat >> told'], tell: [finished], limit: 100}}\n"
    )
    process = start("serve", "--json", "--keep-backups", "2")
    until((data / "told").exists)
    second = start("serve", "--json")
    err = second.communicate(timeout=60)[1]
    assert second.returncode == 2
    assert f"the calendar is owned by process {process.pid}" in json.loads(err)["error"]["message"]
    events = ended(process)
    assert [event["message"] for event in events if event["kind"] == "state"][-1] == "finished"
    assert events[-1]["message"] == "the server has ended"
    assert json.loads((data / "told").read_text())["kind"] == "finished"
    assert (data / "beat").exists()
    assert len(list((data / "backups").iterdir())) == 1
    assert rilievo("schedule", "list", "--json").json == []
    (entry,) = rilievo("schedule", "list", "--all", "--json").json
    (run,) = rilievo("runs", "--json").json
    assert (entry["id"], entry["state"], entry["run"]) == (booked.json["id"], "done", run["id"])
    assert (data / "runs" / run["id"] / "report.html").exists()
    assert [alert["state"] for alert in rilievo("show", "last", "--json").json["alerts"]] == ["sent"]


def test_a_killed_server_goes_on_by_itself(rilievo, start, glance, data):
    glance.write_text(TINY.replace("for: 3 min", "for: 8 min"))
    booked = rilievo("schedule", "add", glance, "--at", "now", "--no-heights", "--missed", "run", "--speed", "100")
    assert booked.code == 0, booked.err
    first = start("serve", "--json")
    until(lambda: states(data) == ["running"] and len(kept(data)) > 2)
    first.send_signal(signal.SIGKILL)
    (data / "alerts.yaml").write_text("ways: {note: {comand: [sh]}}\n")  # somebody mistypes: no reason to leave it hot
    first.communicate()
    second = start("serve", "--json")
    until(lambda: states(data) == ["finished"])
    ended(second)
    assert kept(data) == list(range(10))
    (entry,) = rilievo("schedule", "list", "--all", "--json").json
    assert entry["state"] == "done"
    with Log.open(data / "rilievo.db", create=False) as log:
        assert any("nobody is told of anything" in event.message for event in log.events(None))
    refused = rilievo("serve", "--json")
    assert refused.code == 2  # with nothing to take up again, the mistake is for whoever starts it


@pytest.mark.parametrize("stop_run", [False, True])
def test_asked_to_end_while_it_plays(rilievo, start, glance, data, stop_run):
    rilievo("schedule", "add", glance, "--at", "now", "--no-heights", "--missed", "run", "--speed", "2")
    process = start("serve", "--json", *(["--stop-run"] if stop_run else []))
    until(lambda: states(data) == ["running"])
    process.send_signal(signal.SIGTERM)
    if not stop_run:
        process.send_signal(signal.SIGTERM)  # the same request, as a supervisor makes it of a process and its group
        time.sleep(0.6)
        assert process.poll() is None
        assert states(data) == ["running"]
        process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 0
    assert states(data) == ["stopped"]
    (entry,) = rilievo("schedule", "list", "--all", "--json").json
    assert entry["state"] == "failed"
    assert "ended stopped" in entry["reason"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "expected one of --at, --cron and --after"),
        (["--at", "22:00", "--cron", "0 22 * * *"], "expected one of --at, --cron and --after"),
        (["--at", "noon"], "expected now, a time such as 22:00"),
        (["--at", "22:00", "--missed", "maybe"], "expected run, skip, or within and a time"),
        (["--at", "22:00", "--any-end"], "--any-end goes with --after"),
        (["--after", "last"], "there are no runs yet"),
        (["--after", "booking:9"], "there is no booking 9"),
        (["--after", "booking:x"], "expected a booking's number"),
        (["--at", "22:00", "--live-quality", "full"], "expected preview, fast or auto"),
    ],
)
def test_bookings_that_are_refused(rilievo, glance, data, arguments, message):
    answer = rilievo("schedule", "add", glance, *arguments, "--json")
    assert answer.code == 2
    assert message in answer.error["message"]
    if (data / "rilievo.db").exists():
        assert rilievo("schedule", "list", "--all", "--json").json == []


def test_a_recipe_with_problems_is_not_booked_and_all_are_told(rilievo, glance, data):
    glance.write_text(TINY.replace("5 keV", "5 Pa") + "  - ramp: {heater: 3000 degC, rate: 20 K/min}\n")
    answer = rilievo("schedule", "add", glance, "--at", "22:00", "--json")
    assert answer.code == 2
    assert len(answer.error["problems"]) == 2
    assert not (data / "rilievo.db").exists()


def test_the_calendar_as_people_see_it(rilievo, glance, monkeypatch):
    for module in ("triggers", "board"):
        monkeypatch.setattr(f"acquisition.{module}.local_zone", lambda: "Europe/Rome")
    monkeypatch.setenv("COLUMNS", "120")
    told = rilievo("schedule", "add", glance, "--cron", "0 22 * * mon-fri", "--priority", "3")
    assert "booked  1  glance.yaml" in told.out
    assert "cron 0 22 * * mon-fri (Europe/Rome), first at " in told.out
    assert "no server runs here" in told.out
    assert "booking 1" in rilievo("schedule", "add", glance, "--after", "booking:1").err
    rilievo("schedule", "add", glance, "--at", "2099-07-01T22:00")
    rilievo("schedule", "add", glance, "--after", "booking:2")
    listed = rilievo("schedule", "list").out
    assert "Wed 2099-07-01 22:00 CEST" in listed
    assert "after booking 2" in listed
    assert "priority" in listed
    assert "removed  2" in rilievo("schedule", "remove", "2").out
    assert [entry["id"] for entry in rilievo("schedule", "list", "--json").json] == [1, 3]


def test_alerts_as_people_see_them(rilievo, glance, data):
    assert rilievo("alerts").code == 2  # no database yet
    rilievo("schedule", "add", glance, "--at", "22:00")
    assert "there is no" in rilievo("alerts").out
    assert rilievo("alerts", "test").code == 2
    (data / "alerts.yaml").write_text("ways: {broken: {command: [/no/such/siren]}, works: {command: ['true']}}\n")
    told = rilievo("alerts", "test")
    assert told.code == 1
    assert "delivered" in told.out
    assert "cannot be started" in told.out
    (failed,) = rilievo("alerts", "--json").json
    assert (failed["way"], failed["state"], failed["attempts"]) == ("broken", "failed", 1)
    assert len(rilievo("alerts", "--all", "--json").json) == 2
    assert "broken" in rilievo("alerts").out
    (data / "alerts.yaml").write_text("ways: {w: {mail: {host: h, from: a@b, to: c@d, password: x}}}\n")
    refused = rilievo("alerts", "test", "--json")
    assert refused.code == 2
    assert "a password does not belong into this file" in refused.error["message"]
    with Log.open(data / "rilievo.db") as log:
        assert len(Outbox(log).alerts(["sent"])) == 1


def test_a_run_without_a_server_is_told_too(rilievo, glance, data):
    data.mkdir()
    (data / "alerts.yaml").write_text("ways: {note: {command: [sh, -c, 'cat >> told; echo >> told'], limit: 100}}\n")
    answer = rilievo("run", glance, "--no-heights", "--json")
    assert answer.code == 0, answer.err
    (told,) = [json.loads(line) for line in (data / "told").read_text().splitlines()]
    assert (told["kind"], told["run"]) == ("finished", answer.json["id"])
    (data / "alerts.yaml").write_text("ways: {note: {comand: [sh]}}\n")
    refused = rilievo("run", glance, "--no-heights", "--json")
    assert refused.code == 2
    assert "did you mean 'command'" in refused.error["message"]
    assert len(rilievo("runs", "--json").json) == 1
