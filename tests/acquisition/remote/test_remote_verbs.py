"""``rilievo remote``, and what ``rilievo serve`` does about certificates."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from acquisition.cli import app
from acquisition.gate import Gate
from drivers.errors import InputError, RunError
from tests.acquisition.remote.conftest import RECIPE, House


def ask(house: House, *words: str) -> Any:
    """Return the JSON that a verb answers with; what it raises is raised."""
    found = CliRunner().invoke(app, ["remote", *words, "--data", str(house.folder), "--json"])
    if found.exception is not None and not isinstance(found.exception, SystemExit):
        raise found.exception
    return json.loads(found.stdout) if found.stdout.strip() else None


def test_a_night_is_steered_from_the_command(house: House, gate: Gate, tmp_path: Path) -> None:
    recipe = tmp_path / "evening.yaml"
    recipe.write_text(RECIPE)
    assert ask(house, "status")["playing"] == []
    assert ask(house, "check", str(recipe))["frames"] == 3
    assert ask(house, "start", str(recipe))["recipe"] == "evening.yaml"
    house.until(lambda: house.server.playing)
    run = house.runs[0].run_id
    assert ask(house, "pause") == {"asked": "pause", "run": run}
    assert ask(house, "resume", run)["run"] == run
    assert ask(house, "readbacks")["heater.temperature"]["value"] == 873.15
    assert ask(house, "stop", "--reason", "enough")["run"] == run
    assert house.runs[0].asked[-1].endswith("enough")
    house.until(lambda: not house.server.playing)
    assert [entry["id"] for entry in ask(house, "runs")] == [run]
    assert ask(house, "show", "last")["state"] == "stopped"
    with pytest.raises(RunError, match="no run is being played"):
        ask(house, "abort")


def test_what_is_booked(house: House, gate: Gate, tmp_path: Path) -> None:
    recipe = tmp_path / "evening.yaml"
    recipe.write_text(RECIPE)
    number = ask(house, "schedule", str(recipe), "--at", "2099-01-01T22:00+00:00")["id"]
    assert [entry["id"] for entry in ask(house, "schedule")] == [number]
    assert ask(house, "schedule", "--remove", str(number))["state"] == "removed"
    with pytest.raises(InputError, match="expected one of --at, --cron and --after"):
        ask(house, "schedule", str(recipe))


def test_files_are_fetched(house: House, gate: Gate, tmp_path: Path) -> None:
    import numpy as np

    from acquisition.store import read_frame

    run = house.enter()
    house.add_frame(run, 0)
    path = tmp_path / "frame.ome.tif"
    ask(house, "frame", run, "-o", str(path))
    assert np.array_equal(read_frame(path).counts, house.seat().frame(run).counts)
    picture = tmp_path / "frame.png"
    assert set(ask(house, "frame", run, "--preview", "-o", str(picture))["pictures"]) == set("ABCD")
    assert picture.read_bytes().startswith(b"\x89PNG")
    report = tmp_path / "report.html"
    assert ask(house, "report", run, "-o", str(report))["id"] == run
    assert report.read_bytes().startswith(b"<!doctype html>")


def test_certificates_from_the_command(tmp_path: Path) -> None:
    def serve(*words: str) -> Any:
        found = CliRunner().invoke(app, ["serve", *words, "--data", str(tmp_path), "--json"])
        if found.exception is not None:
            raise found.exception
        return json.loads(found.stdout)

    with pytest.raises(InputError, match="rilievo serve --init-tls makes them"):
        serve("--issue", "maria")
    assert serve("--init-tls", "--host", "192.0.2.7")["hosts"] == ["192.0.2.7"]
    made = serve("--issue", "maria", "--role", "operator")
    assert Path(made["certificate"]).stat().st_mode & 0o077 == 0
    assert made["role"] == "operator"
    assert serve("--renew", "maria")["name"] == "maria"
    assert serve("--revoke", "maria") == {"revoked": 1}
    with pytest.raises(InputError, match="expected one of --init-tls, --issue, --renew and --revoke"):
        serve("--issue", "maria", "--revoke", "paul")
    with pytest.raises(InputError, match="expected one of observer, operator, administrator; got 'god'"):
        serve("--issue", "maria", "--role", "god")


def test_an_open_address_without_certificates_is_refused(tmp_path: Path) -> None:
    found = CliRunner().invoke(app, ["serve", "--host", "0.0.0.0", "--data", str(tmp_path)])
    assert isinstance(found.exception, InputError)
    assert "--init-tls" in found.exception.message


def test_a_second_server_says_who_runs(house: House, make_gate: Callable[..., Gate]) -> None:
    found = CliRunner().invoke(app, ["serve", "--data", str(house.folder)])
    assert found.exception is not None
    assert "the calendar is owned by" in str(found.exception)
