"""The whole program through its command, in this process or in one of its own."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass

import pytest

RECIPE = """\
name: a short look
imaging: {beam_energy: 5 keV, probe_current: 1 nA, field_of_view: 10 um, pixels: 48, dwell_time: 10 us}
limits: {heater: 900 degC, pressure: 100 Pa, dose: 50 kC/m**2}
steps:
  - dark: 2
  - gas: {H2: 10 sccm}
    ramp: {heater: 800 degC, rate: 60 K/min}
  - purge: {N2: 20 sccm, for: 2 min}
  - dark: 2
  - name: oxidation
    gas: {O2: 5 sccm}
    series: {every: 60 s, for: 20 min}
"""


@dataclass
class Answer:
    code: int
    out: str
    err: str

    @property
    def json(self):
        return json.loads(self.out)

    @property
    def error(self):
        return json.loads(self.err.strip().splitlines()[-1])["error"]


@pytest.fixture
def data(tmp_path):
    return tmp_path / "data"


@pytest.fixture
def rilievo(monkeypatch, capsys, data):
    """Run the command in this process, with its data in a folder of the test's own."""
    from acquisition.cli import main

    monkeypatch.setenv("RILIEVO_DATA", str(data))

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["rilievo", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        assert "Traceback" not in captured.out + captured.err
        return Answer(ended.value.code or 0, captured.out, captured.err)

    return run


@pytest.fixture
def start(data):
    """Start the command in a process of its own; what still runs in the end is killed."""
    started = []

    def run(*arguments, **environment):
        process = subprocess.Popen(
            [sys.executable, "-m", "acquisition", *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "RILIEVO_DATA": str(data), **environment},
        )
        started.append(process)
        return process

    yield run
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE)
    return path


@pytest.fixture
def recipe_text():
    return RECIPE
