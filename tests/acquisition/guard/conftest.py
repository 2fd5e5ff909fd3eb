"""Real processes: one that plays a run on the twin, its guard, and a log."""

import json
import os
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from acquisition import guarding
from acquisition.app import open_instrument
from acquisition.guard_files import Life, read_state
from acquisition.log import Log
from drivers.clock import VirtualClock

HERE = Path(__file__).parent
ROOT = HERE.parents[2]


def environment(**more):
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(HERE)]), **more}


def until(true, seconds=20.0):
    """Wait until something is true; return how long that took, s."""
    began = time.monotonic()
    while not true():
        assert time.monotonic() - began < seconds, "it does not happen"
        time.sleep(0.01)
    return time.monotonic() - began


@dataclass
class Stage:
    """The folder of a run, its log, and the processes that belong to it."""

    folder: Path
    run_id: str = ""
    processes: list = field(default_factory=list)

    @property
    def database(self):
        return str(self.folder / "rilievo.db")

    def open_log(self):
        return Log.open(self.database)

    def enter_run(self):
        with self.open_log() as log:
            self.run_id = log.create_run(
                name="night", recipe_text="name: night", recipe_name="night.yaml", actions=[], instrument_name="twin",
                instrument_description={}, limits={}, started=VirtualClock().now(), version="0",
            )  # fmt: skip
            log.set_state(self.run_id, "running", VirtualClock().now())

    def play(self, how="wait", patience=1.0, database=None):
        """Start the process that plays; return it and its guard once both stand."""
        arguments = [self.folder, self.database if database is None else database, self.run_id, patience, how]
        process = subprocess.Popen(
            [sys.executable, str(HERE / "engine_process.py"), *(str(argument) for argument in arguments)],
            stdout=subprocess.PIPE, text=True, env=environment(),
        )  # fmt: skip
        self.processes.append(process)
        word, number = process.stdout.readline().split()
        assert word == "up"
        guard = Life.of(int(number))
        self.processes.append(guard)
        return process, guard

    def post(self, engine, *, patience, fails=0, database="", memory=True, opener="blanker_alone", attempt=60.0):
        """Start a guard alone, with an instrument that is quick to open; return its process once it stands."""
        charge = guarding.Charge(
            self.folder, self.run_id, database, "", fails, str(self.folder / "asked") if memory else "", patience,
            engine, f"openers:{opener}", attempt,
        )  # fmt: skip
        guard = subprocess.Popen(
            [sys.executable, "-m", "acquisition.guard"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            env=environment(RILIEVO_GUARD=charge.to_text()), start_new_session=True,
        )  # fmt: skip
        self.processes.append(guard)
        assert guard.stdout.readline() == b"ready\n"
        return guard

    def sleeper(self):
        """Start a process that only lives."""
        process = subprocess.Popen(["sleep", "60"])
        self.processes.append(process)
        return process

    @property
    def state(self):
        return read_state(self.folder).get("state")

    def journal(self):
        path = self.folder / "guard.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def twin(self):
        """Return where the twin stands: beam blanked, heater's target (K), flow of hydrogen (mol/s)."""
        from simulators.instruments import world_of

        with open_instrument(None, None, self.folder / "twin.jsonl", 0.0) as instrument:
            world = world_of(instrument)
            return instrument.column.blanked, world.furnace.target, world.lines["H2"].setpoint


@pytest.fixture
def stage(tmp_path):
    made = Stage(tmp_path)
    made.enter_run()
    yield made
    for process in made.processes:
        with suppress(ProcessLookupError):
            process.kill()
        for name in ("stdin", "stdout"):
            stream = getattr(process, name, None)
            if stream is not None:
                with suppress(OSError):
                    stream.close()
        if isinstance(process, subprocess.Popen):
            process.wait()


@pytest.fixture
def wait_until():
    return until


@pytest.fixture
def bench_with_loss():
    """What a guard looks at of an instrument whose devices answer a lost connection by themselves."""
    from types import SimpleNamespace

    armed, told = [], []

    def arm(seconds):
        armed.append(seconds)
        return "heater to 25 degC"

    return SimpleNamespace(description={"guard": {"patience": "70 s"}}, arm_loss=arm), armed, told
