"""A whole night on the virtual clock: ``nice python tests/benchmarks/night.py [--hours H] [FOLDER]``.

``rilievo run`` plays 12 hours of the simulated instrument, a frame of 256² every 10 s with preview heights, in a
process of its own and with the processes that it starts. From outside, the frames on the disk are counted and the
memory of every process is looked at: from the 500th frame on it must not grow.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

from acquisition.log import Log

EVERY = 10.0  # s
SETTLED = 500  # frames
GOAL_SECONDS = 600.0
GOAL_GROWTH = 50.0  # MB
GOAL_FRAMES = 4000

RECIPE = """\
name: benchmark night
imaging: {{beam_energy: 5 keV, probe_current: 100 pA, field_of_view: 10 um, pixels: 256, dwell_time: 2 us}}
limits: {{heater: 900 degC, pressure: 100 Pa, dose: 500 kC/m**2}}
steps:
  - dark: 2
  - gas: {{H2: 10 sccm}}
    ramp: {{heater: 700 degC, rate: 60 K/min}}
  - purge: {{N2: 20 sccm, for: 2 min}}
  - name: oxidation
    gas: {{O2: 1 sccm}}
    series: {{every: {every} s, for: {minutes} min}}
"""


def family(pid: int) -> dict[int, str]:
    """Return a process and those that it started, each with what it is."""
    parents: dict[int, list[int]] = defaultdict(list)
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int((entry / "stat").read_text().rpartition(")")[2].split()[1])].append(int(entry.name))
            except OSError:
                continue
    found, waiting = {pid: "engine"}, [pid]
    while waiting:
        for child in parents[waiting.pop()]:
            waiting.append(child)
            found[child] = what(child)
    return found


def what(pid: int) -> str:
    """Return what a process of the program does."""
    try:
        told = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return "gone"
    if "guard" in told:
        return "guard"
    if "resource_tracker" in told:
        return "tracker"
    return "reconstruction"


def resident(pid: int) -> float:
    """Return the memory that a process holds, MB; 0 for one that has ended."""
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) / 1024
    except OSError:
        pass
    return 0.0


def watch(process: subprocess.Popen[bytes], frames: Path) -> tuple[dict[str, float], dict[str, float]]:
    """Return the memory of each process at the 500th frame, and the most that it held after it."""
    settled: dict[str, float] = {}
    most: dict[str, float] = {}
    shown = 0
    while process.poll() is None:
        time.sleep(1.0)
        folders = list(frames.glob("*/frames"))
        count = sum(1 for _ in folders[0].iterdir()) if folders else 0
        memory: dict[str, float] = defaultdict(float)
        for pid, name in family(process.pid).items():
            memory[name] += resident(pid)
        if count >= shown + 500:
            shown = count
            told = ", ".join(f"{name} {held:.0f} MB" for name, held in sorted(memory.items()))
            print(f"  frame {count}: {told}", flush=True)
        if count >= SETTLED:
            for name, held in memory.items():
                settled.setdefault(name, held)
                most[name] = max(most.get(name, 0.0), held)
    return settled, most


def main() -> int:
    """Play the night, print the table, and return 0 where the goals are reached."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", help="where the data go; the system's own place unless given")
    parser.add_argument("--hours", type=float, default=12.0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="rilievo-night-", dir=given.folder) as folder:
        data = Path(folder)
        recipe = data / "night.yaml"
        recipe.write_text(RECIPE.format(every=f"{EVERY:g}", minutes=f"{60 * given.hours:g}"))
        command = [sys.executable, "-m", "acquisition", "run", str(recipe), "--data", str(data)]
        begin = time.monotonic()
        with (data / "told").open("wb") as told:
            process = subprocess.Popen(command, stdout=told, stderr=subprocess.STDOUT)
            try:
                settled, most = watch(process, data / "runs")
            finally:
                process.kill()
        seconds = time.monotonic() - begin
        if process.returncode != 0:
            raise SystemExit((data / "told").read_text()[-2000:])
        with Log.open(data / "rilievo.db", create=False) as log:
            run = log.runs()[0]
            frames = len(log.frames(run.id))
            heights = sum(entry.state == "done" for entry in log.reconstructions(run.id))
            assert run.ended is not None
            hours = (run.ended - run.started).total_seconds() / 3600
    growth = {name: most[name] - settled[name] for name in settled}
    print(f"{'figure':<52}{'goal':>10}{'reached':>12}")
    print(f"{f'a night of {hours:.1f} h, real seconds':<52}{f'<= {GOAL_SECONDS:g}':>10}{seconds:>12.0f}")
    print(f"{'frames of 256² acknowledged':<52}{f'>= {GOAL_FRAMES}':>10}{frames:>12}")
    print(f"{'of which have preview heights':<52}{'':>10}{heights:>12}")
    for name, grown in sorted(growth.items()):
        print(f"{f'memory of the {name} at frame {SETTLED}, MB':<52}{'':>10}{settled[name]:>12.0f}")
        print(f"{'its growth from there on, MB':<52}{f'<= {GOAL_GROWTH:g}':>10}{grown:>12.1f}")
    enough = seconds <= GOAL_SECONDS and frames >= GOAL_FRAMES
    return 0 if enough and all(grown <= GOAL_GROWTH for grown in growth.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
