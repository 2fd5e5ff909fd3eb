"""The guard, with real processes: what it notices, what it does, and who may send it home."""

import os
import signal
import time
from contextlib import suppress
from pathlib import Path

import pytest

from acquisition.guard import Guard, enter_journal, patience_of, relieve
from acquisition.guard_files import Life, Lock, read_journal, read_state
from drivers.errors import RunError

HERE = Path(__file__).parent
SECONDS = 8.0
"""What it may take beyond its patience: a program starts, and the twin is built."""


def assert_safe_and_logged(stage):
    blanked, target, flow = stage.twin()
    assert blanked
    assert target == pytest.approx(298.15)
    assert flow == 0.0
    with stage.open_log() as log:
        run = log.run(stage.run_id)
        events = [event for event in log.events(stage.run_id) if event.kind == "guard"]
    assert run.state == "safe"
    assert "the guard took over, because the process that played the run" in run.reason
    assert "every part seen to be done" in run.reason
    assert events[-1].message == run.reason
    assert events[-1].data["report"]["verified"] is True
    assert run.ended is not None
    assert 60 <= (run.ended - run.started).total_seconds() < 3600  # on the twin's clock, which went on
    return [event.message for event in events]


def test_killed_and_nobody_goes_on(stage, wait_until):
    process, guard = stage.play(patience=1.0)
    assert stage.state == "watching"
    process.kill()
    assert wait_until(lambda: not guard.alive) < 1.0 + SECONDS
    assert stage.state == "safe"
    told = assert_safe_and_logged(stage)
    assert "has ended without leaving it in order" in told[0]
    assert not read_journal(stage.folder)


def test_an_interpreter_that_hangs_is_ended_first(stage, wait_until):
    process, guard = stage.play("hold the interpreter", patience=1.0)
    assert wait_until(lambda: not guard.alive) < 1.0 + SECONDS
    assert process.wait(5) == -signal.SIGKILL
    told = assert_safe_and_logged(stage)
    assert "lives, and does not answer" in told[0]
    assert any("two hands never hold the instrument" in message for message in told)


def test_a_stopped_process_is_ended_first(stage):
    engine = stage.sleeper()
    engine.send_signal(signal.SIGSTOP)
    guard = stage.post(Life.of(engine.pid), patience=0.3)
    assert guard.wait(15) == 0
    assert engine.wait(5) == -signal.SIGKILL
    assert stage.state == "safe"


def test_an_end_in_order_leaves_no_guard_and_touches_nothing(stage):
    process, guard = stage.play("end in order", patience=1.0)
    assert process.wait(10) == 0
    assert not guard.alive
    assert stage.state == "dismissed"
    assert stage.journal() == []
    assert stage.twin()[1] == pytest.approx(800.0)
    with stage.open_log() as log:
        assert log.run(stage.run_id).state == "running"
        assert not [event for event in log.events(stage.run_id) if event.kind == "guard"]


def test_a_guard_that_is_killed_is_replaced_and_that_is_told(tmp_path, wait_until):
    told = []
    owner = Guard.start(tmp_path, run_id="a", patience=60.0, tell=lambda level, message: told.append((level, message)))
    first = owner.pid
    try:
        os.kill(first, signal.SIGKILL)
        wait_until(lambda: told)
        assert told == [("warning", "the guard's process ended (-9); another one watches now")]
        second = Life.read(read_state(tmp_path)["guard"])
        assert second is not None
        assert second.pid == owner.pid != first
        assert second.alive
    finally:
        owner.dismiss()
    assert not second.alive
    assert read_state(tmp_path)["state"] == "dismissed"


def test_a_resumed_run_relieves_a_waiting_guard(stage, wait_until):
    process, guard = stage.play(patience=30.0)
    with pytest.raises(RunError, match=f"the process {process.pid} still plays this run"):
        relieve(stage.folder)
    process.kill()
    process.wait()
    wait_until(lambda: stage.state == "waiting")
    assert relieve(stage.folder) == "relieved"
    assert not guard.alive
    assert stage.state == "relieved"
    assert stage.twin()[1:] == (pytest.approx(800.0), pytest.approx(7.436e-6, rel=1e-3))  # nothing was touched
    again = Guard.start(stage.folder, run_id=stage.run_id, patience=60.0)
    assert stage.state == "watching"
    again.dismiss()
    assert stage.state == "dismissed"
    assert relieve(stage.folder) == "none"


def test_a_stopped_guard_is_ended_by_whoever_relieves_it(stage, monkeypatch):
    engine = stage.sleeper()
    guard = stage.post(Life.of(engine.pid), patience=30.0)
    engine.kill()
    engine.wait()
    guard.send_signal(signal.SIGSTOP)
    waits = iter([0.1, 10.0])
    wait = Lock.wait
    monkeypatch.setattr(Lock, "wait", lambda self, seconds: wait(self, next(waits)))
    assert relieve(stage.folder) == "relieved"
    assert guard.wait(5) == -signal.SIGKILL


def test_where_nobody_guarded_there_is_nobody_to_relieve(tmp_path):
    assert relieve(tmp_path) == "none"


def test_between_taking_over_and_relief_a_lock_decides(stage):
    """Whoever relieves at any moment gets one of two answers, and the instrument was touched in one of them only."""
    answers = set()
    for number in range(5):
        folder = stage.folder / str(number)
        folder.mkdir()
        here = type(stage)(folder, processes=stage.processes)
        engine = here.sleeper()
        guard = here.post(Life.of(engine.pid), patience=0.3)
        engine.kill()
        engine.wait()
        time.sleep(0.28 + 0.02 * number)
        answer = relieve(folder, timeout=20)
        assert guard.wait(5) == 0
        touched = (folder / "asked").exists()
        assert answer == ("already safe" if touched else "relieved")
        assert here.state == ("safe" if touched else "relieved")
        answers.add(answer)
    assert answers <= {"relieved", "already safe"}


def test_tried_again_until_it_is_safe(stage, wait_until):
    engine = stage.sleeper()
    guard = stage.post(Life.of(engine.pid), patience=0.2, fails=1)
    engine.kill()
    engine.wait()
    assert guard.wait(15) == 0
    assert (stage.folder / "asked").read_text() == "asked\nasked\n"
    levels = [line["level"] for line in stage.journal()]
    assert levels == ["warning", "error", "warning"]
    assert "finds nobody there" in stage.journal()[1]["message"]
    assert stage.journal()[2]["state"] == "safe"
    assert relieve(stage.folder) == "already safe"


def test_an_attempt_that_hangs_is_begun_anew_and_nobody_comes_between(stage, wait_until):
    engine = stage.sleeper()
    guard = stage.post(Life.of(engine.pid), patience=0.2, opener="hangs_at_first", attempt=4.0)
    engine.kill()
    engine.wait()
    wait_until(lambda: any("hangs, and is begun anew" in line["message"] for line in stage.journal()))
    assert relieve(stage.folder, timeout=60) == "already safe"
    assert guard.wait(5) == 0
    assert (stage.folder / "asked").read_text() == "asked\nasked\n"
    assert stage.state == "safe"


def test_an_owner_that_lets_go_lives_on_and_its_run_ends_safe(stage, monkeypatch, wait_until):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(HERE.parents[2]), str(HERE)]))
    guard = Guard.start(
        stage.folder, run_id=stage.run_id, patience=60.0, memory=stage.folder / "asked", opener="openers:blanker_alone"
    )
    stage.processes.append(Life.of(guard.pid))
    with suppress(RuntimeError), guard:
        raise RuntimeError("the instrument does not answer")
    wait_until(stage.journal)
    assert stage.state == "waiting"
    assert "has let go of it without leaving it in order" in stage.journal()[0]["message"]
    os.kill(guard.pid, signal.SIGTERM)  # nobody will go on: do not wait any longer
    wait_until(lambda: stage.state == "safe")
    assert (stage.folder / "asked").read_text() == "asked\n"


def test_two_guards_never_watch_one_run(tmp_path):
    owner = Guard.start(tmp_path, run_id="a", patience=30.0)
    try:
        with pytest.raises(RunError, match="another guard watches this run"):
            Guard.start(tmp_path, run_id="a")
    finally:
        owner.dismiss()


def test_a_database_that_is_gone_gets_the_journal_later(stage):
    engine = stage.sleeper()
    nowhere = "postgresql://nobody@127.0.0.1:9/nowhere"
    guard = stage.post(Life.of(engine.pid), patience=0.2, database=nowhere, memory=False)
    engine.kill()
    engine.wait()
    assert guard.wait(30) == 0
    assert stage.state == "safe"
    lines = read_journal(stage.folder)
    assert lines[-1]["state"] == "safe"
    with stage.open_log() as log:
        assert log.run(stage.run_id).state == "running"
        assert enter_journal(stage.folder, log, stage.run_id) == len(lines)
        assert log.run(stage.run_id).state == "safe"
        (stage.folder / "guard.jsonl").write_text((stage.folder / "guard.entered.jsonl").read_text())
        assert enter_journal(stage.folder, log, stage.run_id) == 0  # killed between the database and the file
        assert len([event for event in log.events(stage.run_id) if event.kind == "guard"]) == len(lines)


def test_it_waits_in_a_session_of_its_own_and_in_little_memory(stage):
    engine = stage.sleeper()
    guard = stage.post(Life.of(engine.pid), patience=30.0)
    assert os.getsid(guard.pid) == guard.pid
    status = Path(f"/proc/{guard.pid}/status").read_text()
    resident = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS"))
    assert resident < 40_000  # kB
    guard.send_signal(signal.SIGINT)
    guard.send_signal(signal.SIGTERM)
    time.sleep(0.3)
    assert guard.poll() is None
    guard.stdin.write(b"end\n")
    guard.stdin.flush()
    assert guard.wait(5) == 0


def test_a_computer_that_goes_down_does_not_wait_for_the_dead(stage, wait_until):
    engine = stage.sleeper()
    guard = stage.post(Life.of(engine.pid), patience=30.0)
    engine.kill()
    engine.wait()
    wait_until(lambda: stage.state == "waiting")
    guard.send_signal(signal.SIGTERM)
    assert guard.wait(10) == 0
    assert stage.state == "safe"


def test_beats_that_stop_for_a_while_are_no_death(stage, wait_until):
    engine = stage.sleeper()
    guard = stage.post(Life.of(engine.pid), patience=0.6)
    guard.stdin.write(b".\n")
    guard.stdin.flush()
    wait_until(lambda: stage.state == "waiting")
    for _ in range(10):
        guard.stdin.write(b".\n")
        guard.stdin.flush()
        time.sleep(0.05)
    assert stage.state == "watching"
    assert "answers again" in stage.journal()[-1]["message"]
    guard.stdin.write(b"end\n")
    guard.stdin.flush()
    assert guard.wait(5) == 0
    assert engine.poll() is None


def test_a_number_that_was_given_to_another_process_is_not_killed(stage):
    engine = stage.sleeper()
    now = Life.of(engine.pid)
    before = Life(engine.pid, str(int(now.started) - 1))
    assert now.alive
    assert not before.alive
    before.kill()
    assert now.alive
    assert Life.read(now.to_json()) == now
    assert Life.read({"pid": "x"}) is None


def test_devices_that_can_are_armed_while_the_guard_stands(tmp_path, bench_with_loss):
    instrument, armed, told = bench_with_loss
    guard = Guard.start(
        tmp_path, run_id="a", patience=patience_of(instrument.description), instrument=instrument,
        tell=lambda level, message: told.append((level, message)),
    )  # fmt: skip
    assert armed == [70.0]
    guard.dismiss()
    assert armed == [70.0, 0.0]
