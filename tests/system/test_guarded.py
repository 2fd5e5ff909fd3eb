"""A run of the command that is killed and never resumed: its guard brings the twin to its safe state, and says so."""

import os
import subprocess
import sys
import time
from pathlib import Path

from acquisition.app import instrument_document
from acquisition.guard_files import read_state

RECIPE = """\
name: to be killed
steps:
  - gas: {H2: 10 sccm}
    ramp: {heater: 800 degC, rate: 60 K/min}
  - hold: 20 h
"""


def test_killed_and_never_resumed(rilievo, data, tmp_path):
    recipe, instrument = tmp_path / "recipe.yaml", tmp_path / "instrument.yaml"
    recipe.write_text(RECIPE)
    text = instrument_document(None).text.replace("patience: 60 s", "patience: 500 ms").replace("5 min", "1 min")
    instrument.write_text(text)
    command = [sys.executable, "-m", "acquisition", "run", recipe, "--instrument", instrument, "--speed", "400"]
    process = subprocess.Popen(
        [*command, "--no-heights"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )  # fmt: skip

    def until(true, seconds=60.0):
        began = time.monotonic()
        while not true():
            assert time.monotonic() - began < seconds
            time.sleep(0.02)

    try:
        until(lambda: any(read_state(folder).get("state") == "watching" for folder in data.glob("runs/*")))
        (folder,) = data.glob("runs/*")
        until(lambda: b'"put": "heater.temperature"' in (folder / "twin.jsonl").read_bytes())
    finally:
        process.kill()
        process.wait()
    until(lambda: read_state(folder)["state"] == "safe")
    until((folder / "guard.entered.jsonl").exists)
    (run,) = rilievo("runs", "--json").json
    assert run["state"] == "safe"
    assert "the guard took over, because the process that played the run" in run["reason"]
    refused = rilievo("resume", run["id"], "--json")
    assert refused.code == 2
    assert "safe" in refused.error["message"]
