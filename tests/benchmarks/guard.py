"""How soon the guard has the twin safe when its run is killed or hangs. Run: ``python tests/benchmarks/guard.py``.

A process plays a run on the twin: the heater on its way up, hydrogen flowing, the beam on the sample. It is killed with
SIGKILL, or its interpreter is blocked for a minute by a call that does not let go of it, and nobody resumes the run.
Measured is the time from that moment until the guard has seen every part of the safe state to be done, and whether the
log says so. The stated time is the guard's patience and what a program needs to start and to build the twin.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from acquisition.guard_files import read_state
from acquisition.log import Log
from drivers.clock import VirtualClock

ENGINE = Path(__file__).parents[1] / "acquisition" / "guard" / "engine_process.py"
PATIENCE = 5.0
"""s."""
START = 10.0
"""s that a program may take to start and to build the twin, on a busy computer."""
TRIALS = 5


def trial(folder: Path, how: str) -> tuple[float, str]:
    """Return how long it took, s, and the state in which the log has the run."""
    database = folder / "rilievo.db"
    with Log.open(database) as log:
        run_id = log.create_run(
            name="night",
            recipe_text="name: night",
            recipe_name="night.yaml",
            actions=[],
            instrument_name="twin",
            instrument_description={},
            limits={},
            started=VirtualClock().now(),
            version="0",
        )
        log.set_state(run_id, "running", VirtualClock().now())
    process = subprocess.Popen(
        [sys.executable, str(ENGINE), str(folder), str(database), run_id, str(PATIENCE), how],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert process.stdout is not None
    process.stdout.readline()
    began = time.monotonic()
    if how == "wait":
        process.kill()
    while read_state(folder).get("state") != "safe" and time.monotonic() - began < 120:
        time.sleep(0.01)
    took = time.monotonic() - began
    process.wait()
    process.stdout.close()
    state = ""
    while state != "safe" and time.monotonic() - began < 120:
        time.sleep(0.1)
        with Log.open(database) as log:
            state = log.run(run_id).state
    return took, state


def main() -> None:
    """Measure and print."""
    sound = True
    for name, how in (("killed", "wait"), ("interpreter blocked for a minute", "hold the interpreter")):
        times, logged = [], 0
        for _ in range(TRIALS):
            with tempfile.TemporaryDirectory() as folder:
                took, state = trial(Path(folder), how)
                times.append(took)
                logged += state == "safe"
        sound &= max(times) <= PATIENCE + START and logged == TRIALS
        print(
            f"{name}: safe, seen to be done, after {median(times):.1f} s, {max(times):.1f} s at the most of {TRIALS} "
            f"(patience {PATIENCE:g} s; goal: within {PATIENCE + START:g} s); logged {logged} of {TRIALS} times"
        )
    sys.exit(0 if sound else 1)


if __name__ == "__main__":
    main()
