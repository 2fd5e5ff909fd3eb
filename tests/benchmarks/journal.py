"""The engine with its journal against a run engine without one. Run: ``python tests/benchmarks/journal.py [FOLDER]``.

Side by side, on the same computer and one after the other, several times:

- *Rilievo*: a night of N ``set`` actions on an instrument whose devices obey at once, played by the engine with store,
  telemetry and interlocks, its log in an SQLite file on the disk. For each action the parameter is set and read back,
  and the database holds, committed before the next action touches the instrument: the intent with its time, the
  setpoint with value, unit and time, the outcome with its time.
- *Bluesky*: ``RunEngine({})(count([det], num=N))`` with ``ophyd.sim.det``, no callback, no document kept anywhere: each
  event is triggered, read and emitted as a document.

An event is one action here, one event document there. Rilievo's entries survive SIGKILL (checked here by one, in
mid-run: whatever was acknowledged is in the database); beside it stands the rate at which every single entry also
survives a power cut, which irreversible actions get. Bluesky and ophyd are installed in an environment of their own,
kept in the user's cache (``RILIEVO_BLUESKY`` names the interpreter of another, with both in it).
"""

from __future__ import annotations

import mmap
import os
import signal
import struct
import subprocess
import sys
import tempfile
import time
import venv
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from statistics import median
from typing import Any

from acquisition.actions import Set
from acquisition.log import Log
from acquisition.store import Store
from drivers.clock import RealClock
from drivers.units import quantity

EVENTS = 500
ROUNDS = 3
GOAL = 3.0

COUNT = """
import time
from bluesky import RunEngine
from bluesky.plans import count
from ophyd.sim import det

RE = RunEngine({})
RE(count([det], num=50))
begin = time.perf_counter()
RE(count([det], num=%d))
print(%d / (time.perf_counter() - begin))
"""


def bluesky_environment() -> Path:
    """Return the interpreter of an environment with bluesky and ophyd, made where there is none."""
    if os.environ.get("RILIEVO_BLUESKY"):
        return Path(os.environ["RILIEVO_BLUESKY"])
    from platformdirs import user_cache_path

    folder = user_cache_path("rilievo") / "bluesky"
    python = folder / "bin" / "python"
    if not python.exists():
        venv.create(folder, with_pip=True)
    if subprocess.run([python, "-c", "import bluesky, ophyd"], capture_output=True).returncode != 0:
        subprocess.run([python, "-m", "pip", "install", "--quiet", "bluesky", "ophyd"], check=True)
    return python


def bluesky_rate(python: Path) -> float:
    """Return Bluesky's events per second."""
    told = subprocess.run([python, "-c", COUNT % (EVENTS, EVENTS)], check=True, capture_output=True, text=True)
    return float(told.stdout.split()[-1])


def bench(log: Log, store: Store) -> Any:
    """Return the instrument of the engine's own tests, whose devices obey at once, on the real clock."""
    path = Path(__file__).resolve().parents[1] / "acquisition" / "engine" / "conftest.py"
    spec = spec_from_file_location("bench", path)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.Bench(log, store, RealClock())


def actions(count: int) -> list[Set]:
    """Return simple actions that harm nothing."""
    return [
        Set(address=f"steps[{index}].set", parameter="column.focus", value=quantity(8.0 + index % 7 / 100, "mm"))
        for index in range(count)
    ]


def rilievo_rate(folder: Path, *, power_cut: bool = False) -> float:
    """Return the engine's actions per second."""
    with Log.open(folder / "rilievo.db") as log, Store(folder / "runs") as store:
        if power_cut:
            make_durable(log)
        night = bench(log, store).night(actions(EVENTS))
        begin = time.perf_counter()
        night.start()
        while not night.wait(0.05):
            pass
        seconds = time.perf_counter() - begin
        outcome = night.finish()
        entries = [entry for entry in log.actions(night.run_id) if entry.state == "done"]
        assert str(outcome.state) == "finished", outcome
        assert len(entries) == len([each for each in log.setpoints(night.run_id) if each.channel == "column.focus"])
        assert len(entries) == EVENTS
        # From the first intent to the last outcome: the cleanup is no event.
        seconds = min(seconds, (entries[-1].outcome_time - entries[0].intent_time).total_seconds())
        return EVENTS / seconds


def make_durable(log: Log) -> None:
    """Have every entry forced to the disk."""
    write = log.write

    def durably(entries, *, durable, mark=None):
        return write(entries, durable=True, mark=mark)

    log.write = durably  # type: ignore[method-assign]


def victim(folder: Path) -> None:
    """Play until somebody kills this process; count in a shared file what was acknowledged."""
    with (
        (folder / "count").open("r+b") as file,
        Log.open(folder / "rilievo.db") as log,
        Store(folder / "runs") as store,
    ):
        shared = mmap.mmap(file.fileno(), 8)
        write, count = log.write, 0

        def counted(entries, **options):
            nonlocal count
            key = write(entries, **options)
            count += sum(entry.verb == "setpoint" for entry in entries)
            shared[:] = struct.pack("q", count)
            return key

        log.write = counted  # type: ignore[method-assign]
        night = bench(log, store).night(actions(200_000))
        (folder / "ready").touch()
        night.start()
        night.wait(600)


def killed(folder: Path) -> tuple[int, int]:
    """Kill a run in the middle; return how many setpoints were acknowledged and how many the database holds."""
    (folder / "count").write_bytes(bytes(8))
    process = subprocess.Popen([sys.executable, __file__, "--victim", str(folder)])
    deadline = time.monotonic() + 120
    while struct.unpack("q", (folder / "count").read_bytes())[0] < EVENTS:
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            raise SystemExit("the run that was to be killed did not get far enough")
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    acknowledged = struct.unpack("q", (folder / "count").read_bytes())[0]
    with Log.open(folder / "rilievo.db") as log:
        run = log.runs()[0].id
        found = log.setpoints(run)
        begun = [action for action in log.actions(run) if action.state == "begun"]
        assert len(begun) == 1, "the journal tells where it stopped"
        return acknowledged, len(found)


def main() -> int:
    """Print the table; return 0 where the goal is reached."""
    if sys.argv[1:2] == ["--victim"]:
        victim(Path(sys.argv[2]))
        return 0
    parent = sys.argv[1] if len(sys.argv) > 1 else None
    python = bluesky_environment()
    theirs, ours, forced = [], [], []
    with tempfile.TemporaryDirectory(prefix="rilievo-journal-", dir=parent) as folder:
        for turn in range(ROUNDS):  # in turn, so that a busy computer is unfair to neither
            theirs.append(bluesky_rate(python))
            for figures, power_cut in ((ours, False), (forced, True)):
                place = Path(folder) / f"{turn}-{power_cut}"
                place.mkdir()
                figures.append(rilievo_rate(place, power_cut=power_cut))
        place = Path(folder) / "killed"
        place.mkdir()
        acknowledged, found = killed(place)
    ratios = [mine / other for mine, other in zip(ours, theirs, strict=True)]
    print(f"{'figure':<62}{'goal':>8}{'reached':>10}")
    print(f"{'Bluesky: count without a journal, events/s, median':<62}{'':>8}{median(theirs):>10.0f}")
    print(f"{'engine, journal in SQLite on disk, survives SIGKILL, events/s':<62}{'':>8}{median(ours):>10.0f}")
    print(f"{'times as fast, median of ' + str(ROUNDS) + ' rounds':<62}{f'>= {GOAL:g}':>8}{median(ratios):>10.2f}")
    print(f"{'the same, lowest and highest round':<62}{'':>8}{f'{min(ratios):.2f}-{max(ratios):.2f}':>10}")
    print(f"{'engine, every entry survives a power cut (fsync), events/s':<62}{'':>8}{median(forced):>10.0f}")
    lost = max(0, acknowledged - found)
    print(f"{f'acknowledged entries lost by SIGKILL, of {acknowledged}':<62}{'0':>8}{lost:>10}")
    return 0 if median(ratios) >= GOAL and lost == 0 else 1


if __name__ == "__main__":
    sys.exit(main())
