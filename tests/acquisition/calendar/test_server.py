"""The server with real APScheduler and a real database: what is booked is played once, in order, and told."""

import logging
import threading
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import text

from acquisition import database, tables
from acquisition.alert_settings import AlertSettings
from acquisition.alerts import Alerts
from acquisition.bookings import Bookings
from acquisition.calendar import Calendar
from acquisition.idle import IdleWatch
from acquisition.log import Log
from acquisition.ownership import Owned, holder
from acquisition.queue import Queue
from acquisition.serve import Server, ServerSettings
from acquisition.triggers import After, At, Cron
from drivers.errors import DatabaseError, DeviceUnavailable, RunError

HOUR = 3600.0


def test_a_booking_is_played_when_its_time_has_come(theatre):
    booking, tomorrow = theatre.book(0.1), theatre.book(24 * HOUR)
    server = theatre.server()
    assert [found.id for found in server.bookings()] == [booking.id, tomorrow.id]
    theatre.until(server, lambda: theatre.runs)
    (run,) = theatre.runs
    theatre.until(server, lambda: theatre.bookings.get(booking.id).run_id == run.run_id)
    assert theatre.state(booking) == "running"
    assert server.state["playing"] == [{"instrument": "paper", "run": run.run_id, "booking": booking.id}]
    run.end()
    theatre.until(server, lambda: theatre.state(booking) == "done")
    assert theatre.settled == [run.run_id]
    assert [(found.id, found.state) for found in server.bookings()] == [(tomorrow.id, "waiting")]
    assert not theatre.told("missed")


def test_what_is_booked_and_removed_while_it_serves(theatre):
    server = theatre.server()
    with Log.open(theatre.folder / "rilievo.db") as other:  # as from another process
        booking = theatre.book(0.05)
        gone = theatre.book(0.05)
        Bookings(other).remove(gone.id)
    theatre.until(server, lambda: theatre.runs)
    theatre.runs[0].end()
    theatre.until(server, lambda: theatre.state(booking) == "done")
    assert theatre.played == [booking.id]
    assert theatre.state(gone) == "removed"


@pytest.mark.parametrize("ends", ["failed", "stopped", "safe"])
def test_a_run_that_does_not_finish(theatre, ends):
    booking = theatre.book()
    server = theatre.server()
    theatre.until(server, lambda: theatre.runs)
    theatre.runs[0].end(ends, "too hot")
    theatre.until(server, lambda: theatre.state(booking) == "failed")
    assert theatre.bookings.get(booking.id).reason == f"run {theatre.runs[0].run_id} ended {ends}: too hot"


def test_a_recipe_that_cannot_be_played_any_more(theatre, too_hot):
    booking = theatre.book()
    theatre.refuse[booking.id] = too_hot
    server = theatre.server()
    theatre.until(server, lambda: theatre.state(booking) == "failed")
    (event,) = [event for event in theatre.log.events(None) if event.level == "error"]
    assert event.message == f"booking {booking.id} (paper.yaml): 1500 K is above the heater's limit of 1273 K"
    later = theatre.book()
    theatre.until(server, lambda: theatre.runs)
    theatre.runs[0].end()
    theatre.until(server, lambda: theatre.state(later) == "done")


def test_an_instrument_that_another_process_has_is_waited_for(theatre):
    booking = theatre.book()
    theatre.refuse[booking.id] = Owned("the instrument paper is owned by process 7")
    server = theatre.server()
    theatre.until(server, lambda: theatre.runs)
    assert theatre.played == [booking.id, booking.id]
    theatre.runs[0].end()
    theatre.until(server, lambda: theatre.state(booking) == "done")


def test_one_run_at_a_time_by_priority_and_then_by_time(theatre):
    first = theatre.book(-3)
    late, early, urgent = theatre.book(-1), theatre.book(-2), theatre.book(-1, priority=5)
    elsewhere = theatre.book(instrument="another")
    server = theatre.server()
    urgent_is_first = [urgent, first, early, late]
    theatre.until(server, lambda: len(theatre.runs) == 2)  # one on each instrument
    assert [found.id for found in server.queue()] == [booking.id for booking in urgent_is_first[1:]]
    for count in (3, 4, 5, 5):
        for run in theatre.runs:
            if run._outcome is None:
                run.end()
        theatre.until(server, lambda count=count: len(theatre.runs) == count)
    theatre.until(server, lambda: not server.state["playing"])
    order = [number for number in theatre.played if number != elsewhere.id]
    assert order == [booking.id for booking in urgent_is_first]


# -- starts that were missed


@pytest.mark.parametrize(
    ("missed", "late", "state"),
    [
        ("run", 30 * HOUR, "played"),
        ("within 2 h", 1.5 * HOUR, "played"),
        ("within 2 h", 2.5 * HOUR, "missed"),
        ("skip", 120.0, "missed"),
        ("skip", 30.0, "in time"),
    ],
)
def test_a_start_that_nobody_was_there_for(theatre, missed, late, state):
    booking = theatre.book(-late, missed=missed)
    server = theatre.server()
    if state == "missed":
        theatre.until(server, lambda: theatre.state(booking) == "missed")
        (told,) = theatre.told("missed")
        assert "was not started: the start at" in told
        assert "was missed by" in told
        assert missed in told
        assert not theatre.runs
        return
    theatre.until(server, lambda: theatre.runs)
    theatre.runs[0].end()
    theatre.until(server, lambda: theatre.state(booking) == "done")
    assert len(theatre.told("missed")) == (state == "played")
    assert all("was missed and is made now" in told for told in theatre.told("missed"))


def test_a_missed_start_reaches_somebody(theatre):
    got = []

    class Way:
        def deliver(self, message, timeout):
            got.append(message.title)

    settings = AlertSettings(ways={"w": {"command": ["x"], "tell": ["missed"]}})
    alerts = Alerts(settings, theatre.folder, theatre.log, theatre.clock, poll=0.01)
    alerts._couriers["w"]._way = Way()
    theatre.book(-HOUR, missed="skip")
    server = theatre.server(alerts=alerts)
    theatre.until(server, lambda: got)
    assert got[0].startswith("A start was missed or put off: booking 1 (paper.yaml) was not started")


def cron_every(minutes=1):
    return Cron(f"*/{minutes} * * * *", "UTC")


def test_a_cron_booking_comes_again(theatre):
    now = theatre.clock.now()
    booking = theatre.book(trigger=cron_every(), now=now - timedelta(seconds=61))  # the last start is due now
    server = theatre.server()
    theatre.until(server, lambda: theatre.runs)
    theatre.runs[0].end("failed", "x")
    theatre.until(server, lambda: theatre.state(booking) == "waiting")
    again = theatre.bookings.get(booking.id)
    assert again.due > theatre.clock.now()
    assert again.run_id == theatre.runs[0].run_id
    assert "ended failed: x" in again.reason


def test_an_outage_of_days_is_made_up_for_once_and_told(theatre):
    booking = theatre.book(
        trigger=Cron("0 * * * *", "UTC"), now=theatre.clock.now() - timedelta(hours=49), missed="run"
    )
    server = theatre.server()
    theatre.until(server, lambda: theatre.runs)
    theatre.runs[0].end()
    theatre.until(server, lambda: theatre.state(booking) == "waiting")
    (told,) = theatre.told("missed")
    assert "48 before it were missed" in told
    assert len(theatre.runs) == 1


def test_a_start_while_the_one_before_still_runs_is_told(theatre):
    calendar = Calendar(theatre.log, theatre.clock, lambda level, kind, message: told.append((level, kind, message)))
    told = []
    booking = theatre.book(trigger=cron_every())
    theatre.bookings.change(booking.id, ["waiting"], state="running", run_id=None)
    calendar._due(booking.id, booking.due + timedelta(minutes=1))
    ((level, kind, message),) = told
    assert (level, kind) == ("warning", "missed")
    assert "was left out: the one before is being played" in message
    calendar._due(booking.id, booking.due)  # the same start again: a kill came before the job was moved on
    assert len(told) == 1


def test_a_start_that_fired_while_the_database_was_gone_comes_once(theatre, monkeypatch):
    booking = theatre.book(0.05)
    server = theatre.server()
    theatre.instant = True

    def gone(*_, **__):
        raise DatabaseError("the database does not answer")

    with monkeypatch.context() as patch:
        patch.setattr(Bookings, "change", gone)
        end = theatre.clock.monotonic() + 0.2
        while theatre.clock.monotonic() < end:
            server.look()
            theatre.clock.sleep(0.01)
        assert "does not answer" in server.wrong()
        assert not theatre.runs
    server.look()
    theatre.until(server, lambda: theatre.state(booking) == "done")
    assert theatre.played == [booking.id]
    assert [event.message.partition(":")[0] for event in theatre.log.events(None) if event.kind == "server"][1:] == [
        "the calendar cannot be looked after",
        "the calendar is looked after again",
    ]


@pytest.mark.parametrize("moved", [False, True])
def test_killed_between_firing_and_queueing_it_starts_once(theatre, moved):
    """The scheduler may or may not have moved its job on when the process died; the booking knows."""
    booking = theatre.book()
    calendar = Calendar(theatre.log, theatre.clock, lambda *_: None)
    calendar.start()
    calendar._agree()
    if moved:
        calendar._scheduler.look()
        assert calendar._announcer.due
        assert not calendar._scheduler.get_jobs("default")
    calendar.stop()
    theatre.instant = True
    server = theatre.server()
    theatre.until(server, lambda: theatre.state(booking) == "done")
    assert theatre.played == [booking.id]


# -- after another run


@pytest.mark.parametrize(
    ("ends", "any_end", "state"),
    [("finished", False, "done"), ("failed", False, "missed"), ("stopped", True, "done"), ("safe", False, "missed")],
)
def test_after_a_run(theatre, ends, any_end, state):
    first = theatre.book()
    server = theatre.server()
    theatre.until(server, lambda: theatre.runs)
    run = theatre.runs[0]
    booking = theatre.book(trigger=After(run_id=run.run_id, any_end=any_end))
    chained = theatre.book(trigger=After(booking=first.id, any_end=any_end))
    for _ in range(5):
        server.look()
    assert theatre.state(booking) == "waiting"
    theatre.instant = True
    run.end(ends)
    theatre.until(server, lambda: theatre.state(booking) == theatre.state(chained) == state)
    if state == "missed":
        assert f"ended {ends}, and it was to start after one that finished" in theatre.bookings.get(booking.id).reason
        assert len(theatre.told("missed")) == 2


# -- its life


def test_a_second_server_says_who_is_the_first(theatre):
    theatre.server()
    with Log.open(theatre.folder / "rilievo.db") as log:
        with pytest.raises(Owned, match=r"the calendar is owned by process \d+ on .* since"):
            Server(theatre.folder, log, theatre.play).start()
        assert holder(theatre.folder, "calendar") is not None


def test_it_waits_for_what_is_being_played(theatre):
    booking, later = theatre.book(), theatre.book(instrument="paper")
    server = theatre.server()
    theatre.until(server, lambda: theatre.runs)
    asked = threading.Event()
    thread = threading.Thread(target=server.run, args=(lambda: "asked to end" if asked.is_set() else None,))
    thread.start()
    asked.set()
    thread.join(0.1)
    assert thread.is_alive()
    theatre.runs[0].end()
    thread.join(5)
    assert not thread.is_alive()
    server.close()
    assert theatre.state(booking) == "done"
    assert theatre.state(later) == "queued"  # nothing more is started
    assert holder(theatre.folder, "calendar") is None


def test_it_ends_what_is_being_played_where_it_is_told_to(theatre):
    booking = theatre.book()
    server = theatre.server()
    theatre.until(server, lambda: theatre.runs)
    server.run(lambda: "power goes at eight", stop_runs=True)
    server.close()
    assert theatre.runs[0].asked == ["abort power goes at eight"]
    assert theatre.state(booking) == "failed"
    assert theatre.settled


def test_a_run_that_begins_while_it_closes_is_ended(theatre):
    entered, go_on = threading.Event(), threading.Event()
    play = theatre.play

    @contextmanager
    def slow(booking):
        entered.set()
        go_on.wait(5)
        with play(booking) as run:
            yield run

    theatre.play = slow
    booking = theatre.book()
    server = theatre.server()
    theatre.until(server, entered.is_set)
    closing = threading.Thread(target=server.close)
    closing.start()
    theatre.clock.sleep(0.02)
    go_on.set()
    closing.join(5)
    assert theatre.runs[0].asked == ["abort the server ends"]
    assert theatre.state(booking) == "failed"


def test_what_people_ask_of_a_run(theatre):
    theatre.book()
    server = theatre.server()
    with pytest.raises(RunError, match="run x is not being played; what is: nothing"):
        server.pause("x")
    theatre.until(server, lambda: server.state["playing"] and server.state["playing"][0]["run"])
    run = theatre.runs[0]
    server.pause(run.run_id)
    server.resume(run.run_id)
    server.stop(run.run_id, "enough")
    assert run.asked == ["pause", "resume", "stop enough"]
    assert [found.id for found in server.runs()] == [run.run_id]


class Interrupted:
    def __init__(self, theatre, run_id, instrument="paper"):
        self.theatre, self.run_id, self.instrument = theatre, run_id, instrument

    def play(self):
        return self.theatre.resumed(self.run_id)


def was_running(theatre, **changes):
    booking = theatre.book(-HOUR)
    theatre.bookings.change(booking.id, ["waiting"], state="running", **changes)
    return booking


def test_what_was_interrupted_is_resumed_before_anything_is_played(theatre):
    run_id, alone = theatre.enter(), theatre.enter()
    for one in (run_id, alone):
        theatre.log.set_state(one, "running", theatre.clock.now())
    booking, waiting = was_running(theatre, run_id=run_id), theatre.book()
    server = theatre.server(resume=lambda: [Interrupted(theatre, run_id), Interrupted(theatre, alone)])
    theatre.until(server, lambda: len(theatre.runs) == 1)
    assert theatre.runs[0].run_id == run_id
    assert server.state["playing"][0]["booking"] == booking.id
    theatre.runs[0].end()
    theatre.until(server, lambda: theatre.state(booking) == "done")
    theatre.until(server, lambda: len(theatre.runs) == 2)
    assert theatre.runs[1].run_id == alone  # the second of this instrument came after the first
    assert theatre.state(waiting) == "queued"
    theatre.runs[1].end()
    theatre.until(server, lambda: len(theatre.runs) == 3)
    theatre.runs[2].end()
    theatre.until(server, lambda: theatre.state(waiting) == "done")


def test_what_became_of_bookings_while_no_server_ran(theatre):
    finished, lost = theatre.enter(), theatre.enter()
    theatre.log.set_state(finished, "running", theatre.clock.now())
    for state in ("stopping", "finished"):
        theatre.log.set_state(finished, state, theatre.clock.now())
    theatre.log.set_state(lost, "running", theatre.clock.now())
    ended, gone = was_running(theatre, run_id=finished), was_running(theatre, run_id=lost)
    theatre.server()
    assert theatre.state(ended) == "done"
    assert theatre.state(gone) == "failed"
    assert theatre.bookings.get(gone.id).reason == f"run {lost} ended interrupted while running"


def test_a_booking_whose_run_had_not_begun_is_queued_again(theatre):
    booking = was_running(theatre)
    theatre.instant = True
    server = theatre.server()
    theatre.until(server, lambda: theatre.state(booking) == "done")
    assert theatre.played == [booking.id]


def test_a_run_that_was_not_noted_before_the_kill_is_found(theatre):
    other, run_id = theatre.enter(recipe="another"), theatre.enter(recipe="this one")
    for one in (other, run_id):
        theatre.log.set_state(one, "running", theatre.clock.now())
    booking = theatre.book(recipe_text="this one")
    theatre.bookings.change(booking.id, ["waiting"], state="running")
    server = theatre.server(resume=lambda: [Interrupted(theatre, other), Interrupted(theatre, run_id, "second")])
    theatre.until(server, lambda: len(theatre.runs) == 2)
    for run in theatre.runs:
        run.end()
    theatre.until(server, lambda: theatre.state(booking) == "done")
    assert theatre.bookings.get(booking.id).run_id == run_id
    assert theatre.played == []


def test_the_heart_stops_when_the_server_stands_still(theatre, monkeypatch):
    server = theatre.server()
    server.look()
    assert server.wrong() is None
    monkeypatch.setattr("acquisition.serve.SLOW", -1.0)
    assert server.wrong() == "the server stands still"


def test_a_server_s_calendar_on_postgresql(tmp_path, postgresql, theatre):
    with Log.open(postgresql) as log, Log.open(postgresql) as other:
        theatre.log = log
        theatre.instant = True
        booking = theatre.book(-60)
        server = theatre.server()
        theatre.until(server, lambda: theatre.state(booking) == "done")
        assert any("pg_dump" in told for told in theatre.told("backup"))
        (tmp_path / "elsewhere").mkdir()
        with pytest.raises(Owned, match="calendar of this database is owned by a process on"):
            Server(tmp_path / "elsewhere", other, theatre.play).start()
        with log.engine.connect() as connection:  # the session is lost, with its lock; it is taken again
            connection.execute(text(f"SELECT pg_terminate_backend({server._ownership._session})"))
        assert not server._ownership.held
        server.look()
        assert server.wrong() is None
        assert server._ownership.held
        server.close()


def test_the_scheduler_s_table_harms_nobody(theatre):
    from alembic.autogenerate import compare_metadata
    from alembic.runtime.migration import MigrationContext

    theatre.book(HOUR)
    theatre.server().look()
    with theatre.log.engine.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM apscheduler_jobs")).scalar() == 1
        context = MigrationContext.configure(connection)
        changes = compare_metadata(context, tables.Base.metadata)
    assert {change[1].name if change[0] == "remove_table" else change[1].table.name for change in changes} == {
        "apscheduler_jobs"
    }
    assert database.schema(theatre.log.engine).current == database.newest_schema()
    with Log.open(theatre.folder / "rilievo.db") as again:
        assert again.note is None


def test_apscheduler_would_not_drop_a_late_job(theatre):
    calendar = Calendar(theatre.log, theatre.clock, lambda *_: None)
    calendar.start()
    theatre.book(HOUR)
    calendar.tick()
    (job,) = calendar._scheduler.get_jobs("default")
    assert job.misfire_grace_time is None
    assert job.coalesce
    assert logging.getLogger("apscheduler").handlers
    calendar.stop()


# -- chores


def test_the_database_is_copied_and_old_copies_go(theatre):
    settings = ServerSettings(tick=0.005, backup_every=HOUR, keep_backups=2, reserve=1.0)
    folder = theatre.folder / "backups"
    folder.mkdir()
    for name in ("rilievo-20250101-000000.db", "rilievo-20250102-000000.db"):
        (folder / name).write_bytes(b"")
    server = theatre.server(settings=settings)
    theatre.until(server, lambda: theatre.told("backup"))
    names = sorted(path.name for path in folder.iterdir())
    assert len(names) == 2
    assert names[0] == "rilievo-20250102-000000.db"
    with Log.open(folder / names[1]) as copy:
        assert copy.events(None)[0].kind == "server"
    (told,) = theatre.told("backup")
    assert told.startswith(f"the database was copied to {names[1]}")


def test_a_copy_that_is_new_enough_is_not_made_again(theatre):
    from acquisition.chores import Backups

    told = []
    backups = Backups(theatre.log, theatre.folder, theatre.clock, lambda *event: told.append(event), every=HOUR, keep=3)
    backups.make()
    backups.make()
    assert len(backups.copies()) == 1
    assert len(told) == 1


def test_a_damaged_copy_replaces_none(theatre, monkeypatch):
    from acquisition.chores import Backups

    told = []
    backups = Backups(theatre.log, theatre.folder, theatre.clock, lambda *event: told.append(event), every=HOUR, keep=1)
    (theatre.folder / "backups").mkdir()
    (theatre.folder / "backups" / "rilievo-20250101-000000.db").write_bytes(b"")
    monkeypatch.setattr(Log, "backup", lambda self, path: path.write_bytes(b"SQLite format 3\x00" + bytes(5000)))
    backups.make()
    assert [path.name for path in backups.copies()] == ["rilievo-20250101-000000.db"]
    ((level, kind, message),) = told
    assert (level, kind) == ("error", "backup")
    assert "the copy is damaged" in message


def test_the_disk_is_looked_at_ahead(theatre, monkeypatch):
    from acquisition.chores import DiskForecast

    told = []
    forecast = DiskForecast(theatre.log, theatre.folder, theatre.clock, lambda *event: told.append(event), reserve=2e9)
    free = [30e9]
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": free[0]}))
    theatre.book(HOUR, options={"disk": 10e9})
    theatre.book(60 * HOUR, options={"disk": 100e9})  # too far ahead
    theatre.book(trigger=After(booking=1), options={"disk": 1e9})
    assert forecast.needed() == (11e9, 2)
    forecast.look()
    assert told == []
    daily = theatre.book(trigger=Cron("30 * * * *", "UTC"), options={"disk": 1e9})
    assert forecast.needed() == (59e9, 50)
    forecast.look()
    forecast.look()
    assert told == [
        (
            "warning",
            "disk",
            "30 GB are free; 50 booked runs within two days will take 59 GB, and 2 GB are to stay free: make room",
        )
    ]
    theatre.bookings.remove(daily.id)
    forecast.look()
    assert told[1:] == [("info", "disk", "there is room again: 30 GB are free")]


def test_an_idle_instrument_is_watched_and_let_go_of_for_a_run(theatre, make_paper_instrument):
    holds = []

    @contextmanager
    def opened():
        holds.append("open")
        yield make_paper_instrument()
        holds.append("let go")

    idle = IdleWatch("paper", opened, theatre.log, theatre.folder / "runs", theatre.clock, period=0.01)
    server = theatre.server(idle=idle)
    theatre.until(server, lambda: holds)
    theatre.book()
    theatre.until(server, lambda: theatre.runs)
    assert holds == ["open", "let go"]
    assert server.state["idle"] is None
    with theatre.log.engine.connect() as connection:
        names = connection.execute(text("SELECT DISTINCT name FROM channels WHERE run_id IS NULL")).scalars().all()
        assert "heater.temperature" in names
        count = "SELECT count(*) FROM readings r JOIN channels c ON c.id = r.channel_id WHERE c.run_id IS NULL"
        assert connection.execute(text(count)).scalar() > 0
    theatre.runs[0].end()
    theatre.until(server, lambda: len(holds) == 3)
    server.close()
    assert holds == ["open", "let go", "open", "let go"]


def test_an_idle_instrument_that_does_not_answer_is_told_once(theatre, make_paper_instrument, monkeypatch):
    monkeypatch.setattr("acquisition.idle.AGAIN", 0.005)
    silent = [True]

    @contextmanager
    def opened():
        if silent[0]:
            raise DeviceUnavailable("the heater does not answer")
        yield make_paper_instrument()

    idle = IdleWatch("paper", opened, theatre.log, theatre.folder / "runs", theatre.clock, period=0.01)
    idle.start()
    theatre.clock.sleep(0.05)
    silent.clear()
    silent.append(False)
    end = theatre.clock.monotonic() + 5
    while len(theatre.told("readback")) < 2 and theatre.clock.monotonic() < end:
        theatre.clock.sleep(0.01)
    assert idle.stop()
    assert theatre.told("readback") == [
        "paper cannot be watched while idle: the heater does not answer",
        "paper is watched again",
    ]


def test_what_an_idle_instrument_tells_waits_for_a_database_that_is_away(theatre, make_paper_instrument, monkeypatch):
    monkeypatch.setattr("acquisition.idle.LOOK", 0.01)
    idle = IdleWatch("paper", lambda: nullcontext(make_paper_instrument()), theatre.log, theatre.folder / "runs",
                     theatre.clock, period=60.0)  # fmt: skip
    idle.start()
    end = theatre.clock.monotonic() + 5
    while idle.held is None and theatre.clock.monotonic() < end:
        theatre.clock.sleep(0.01)

    def away(*_, **__):
        raise DatabaseError("the server does not answer")

    with monkeypatch.context() as gone:
        for verb in ("write", "replay"):
            gone.setattr(theatre.log, verb, away)
        idle.held.set("column.focus", "8 mm")
        assert theatre.told("setpoint") == []
        assert (theatre.folder / "runs" / "sidecar.jsonl").exists()
    while not theatre.told("setpoint") and theatre.clock.monotonic() < end:
        theatre.clock.sleep(0.01)
    assert idle.stop()
    assert theatre.told("setpoint") == ["column.focus was set to 8 mm between runs"]
    assert not (theatre.folder / "runs" / "sidecar.jsonl").exists()


# -- the table


def test_what_can_be_removed(theatre):
    waiting, running = theatre.book(HOUR), theatre.book(HOUR)
    repeating = theatre.book(trigger=cron_every())
    for booking in (running, repeating):
        theatre.bookings.change(booking.id, ["waiting"], state="running", run_id=None)
    assert theatre.bookings.remove(waiting.id).state == "removed"
    with pytest.raises(RunError, match="is removed already"):
        theatre.bookings.remove(waiting.id)
    with pytest.raises(RunError, match="is being played"):
        theatre.bookings.remove(running.id)
    assert theatre.bookings.remove(repeating.id).state == "removed"
    Queue(theatre.log, theatre.clock).ended(repeating, well=True)
    assert theatre.state(repeating) == "removed"
    with pytest.raises(RunError, match=r"there is no booking 77; the open ones are: 2$"):
        theatre.bookings.get(77)


def test_a_booking_as_json(theatre):
    booking = theatre.book(trigger=At(datetime(2030, 1, 1, 21, tzinfo=UTC), "Europe/Rome"), options={"disk": 5e9})
    body = booking.to_json()
    assert body["due"] == "2030-01-01T21:00:00+00:00"
    assert body["start"] == "at Tue 2030-01-01 22:00 CET"
    assert body["disk"] == {"value": 5e9, "unit": "B"}
