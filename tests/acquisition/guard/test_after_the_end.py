"""Who looks after an instrument when its run has ended: nobody where it was seen to be in order, else the guard."""

import json
import os
from datetime import UTC, datetime
from types import SimpleNamespace

import pytest

from acquisition import tenure
from acquisition.guard_files import STATE, Life
from acquisition.log import Log
from acquisition.states import IN_ORDER
from acquisition.store import Store
from drivers.errors import DatabaseError, RunError

TIME = datetime(2026, 1, 1, 18, tzinfo=UTC)


class Guard:
    def __init__(self):
        self.told = ""

    def dismiss(self):
        self.told = "dismissed"

    def leave(self):
        self.told = "left"


@pytest.fixture
def laboratory(tmp_path):
    with Log.open(tmp_path / "rilievo.db") as log, Store(tmp_path / "runs") as store:
        yield SimpleNamespace(log=log, store=store, folder=tmp_path)


def enter_run(log, instrument="SEM"):
    return log.create_run(
        name="night", recipe_text="name: night", recipe_name="night.yaml", actions=[], instrument_name=instrument,
        instrument_description={}, limits={}, started=TIME, version="0",
    )  # fmt: skip


def let_go(log, run_id, **more):
    guard = Guard()
    tenure.let_go(guard, log, run_id, **more)
    return guard.told


def test_a_run_that_never_began_needs_no_guard(laboratory):
    assert let_go(laboratory.log, enter_run(laboratory.log)) == "dismissed"


@pytest.mark.parametrize(("in_order", "told"), [(True, "dismissed"), (False, "left")])
def test_after_the_end_the_guard_stays_where_the_instrument_was_not_seen_to_be_safe(laboratory, in_order, told):
    log = laboratory.log
    run_id = enter_run(log)
    log.set_state(run_id, "running", TIME)
    assert let_go(log, run_id) == "left"
    log.set_state(run_id, "failed", TIME, "the gas valve did not answer")
    log.event(run_id, TIME, "error", "state", "failed", {IN_ORDER: in_order})
    assert let_go(log, run_id) == told
    assert let_go(log, run_id, simulated=True) == "dismissed"


def test_without_a_database_nobody_knows_and_the_guard_stays(laboratory, monkeypatch):
    def gone(_):
        raise DatabaseError("the database does not answer")

    run_id = enter_run(laboratory.log)
    monkeypatch.setattr(laboratory.log, "run", gone)
    assert let_go(laboratory.log, run_id) == "left"


@pytest.fixture
def guarded(laboratory):
    """A run whose guard, this process, has not seen its instrument safe."""
    run_id = enter_run(laboratory.log)
    folder = laboratory.store.folder(run_id)
    folder.mkdir(parents=True)

    def say(state, guard=None):
        life = guard or Life.of(os.getpid())
        (folder / STATE).write_text(json.dumps({"state": state, "guard": life.to_json(), "run": run_id}))

    say("taking")
    return SimpleNamespace(run_id=run_id, say=say)


def test_hardware_that_a_guard_will_act_on_is_refused_to_other_runs(laboratory, guarded):
    """A refusal keeps no lock, and the run itself may go on."""
    with pytest.raises(RunError, match=rf"{guarded.run_id}, process {os.getpid()}, has not yet seen SEM"):
        tenure.take_hardware(laboratory, "SEM")
    tenure.take_hardware(laboratory, "SEM", guarded.run_id).release()
    tenure.take_hardware(laboratory, "another").release()


@pytest.mark.parametrize("state", ["safe", "relieved", "dismissed"])
def test_a_guard_that_is_done_holds_nobody_up(laboratory, guarded, state):
    guarded.say(state)
    tenure.take_hardware(laboratory, "SEM").release()


def test_a_guard_that_has_died_holds_nobody_up(laboratory, guarded):
    guarded.say("waiting", Life(os.getpid(), "of another time"))
    tenure.take_hardware(laboratory, "SEM").release()
