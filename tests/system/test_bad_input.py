"""Bad input: one clear message, the right exit code, nothing lost, no traceback."""

import errno
import json
import os
import shutil
import sqlite3
from pathlib import Path
from types import SimpleNamespace

import pytest

BAD_RECIPES = {
    "wrong key": ("imaging: {", "imagin: {", "'imagin' is not a key here; did you mean 'imaging'?"),
    "wrong unit": ("for: 2 min", "for: 2 mins_", "not known"),
    "no unit": ("800 degC", "800", "has no unit; expected a temperature"),
    "wrong dimension": ("800 degC", "800 Pa", "a pressure; expected a temperature"),
    "decimal comma": ("5 keV", "'5,0 keV'", "comma"),
    "two numbers": ("for: 2 min", "for: 1 min 30 s", "more than one number"),
    "duplicate key": ("  - dark: 2\n", "  - dark: 2\n    dark: 3\n", "stands twice"),
    "above the instrument's limit": ("heater: 800 degC", "heater: 1500 degC", "above"),
    "above the recipe's limit": ("heater: 900 degC", "heater: 700 degC", "700 degC"),
    "unknown gas": ("{H2: 10 sccm}", "{CH4: 10 sccm}", "CH4"),
    "not YAML": ("steps:", "steps: [", "not valid YAML"),
    "ambiguous": ("name: a short look", "name: NO", "in quotes"),
}


@pytest.mark.parametrize(("old", "new", "words"), BAD_RECIPES.values(), ids=BAD_RECIPES.keys())
def test_bad_recipes(rilievo, recipe, recipe_text, old, new, words):
    assert old in recipe_text
    recipe.write_text(recipe_text.replace(old, new))
    for verb in ("check", "run"):
        answer = rilievo(verb, recipe)
        assert answer.code == 2
        assert words in " ".join(answer.err.split())
    problem = rilievo("check", recipe, "--json").error["problems"][0]
    name, line, column = problem["where"].rsplit(":", 2)
    assert name == str(recipe)
    assert int(line) > 0
    assert int(column) > 0


def test_all_problems_are_told_at_once(rilievo, recipe, recipe_text):
    text = recipe_text.replace("800 degC", "800 Pa").replace("for: 2 min", "for: 2").replace("dark: 2", "drak: 2")
    recipe.write_text(text)
    error = rilievo("check", recipe, "--json").error
    assert error["code"] == "document"
    assert len(error["problems"]) >= 3


def test_recipes_that_are_no_text(rilievo, tmp_path):
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(bytes(range(256)))
    for path, words in ((tmp_path / "none.yaml", "no such file"), (tmp_path, "folder"), (binary, "not text")):
        answer = rilievo("check", path)
        assert answer.code == 2
        assert words in answer.err


@pytest.mark.parametrize("arguments", [("demo", "--nonsense"), ("fly",), ("show",), ("run",)])
def test_wrong_words_on_the_command_line(rilievo, arguments):
    answer = rilievo(*arguments)
    assert answer.code == 2
    assert answer.err.startswith("error")


def test_a_run_that_is_not_there(rilievo):
    assert rilievo("db", "upgrade").code == 0
    answer = rilievo("show", "nothing", "--json")
    assert answer.code == 2
    assert "there is no run 'nothing'" in answer.error["message"]


def test_a_device_that_is_not_there(rilievo, recipe, tmp_path):
    instrument = tmp_path / "instrument.yaml"
    instrument.write_text(
        "name: bench\ncolumn: {driver: nowhere}\ndetector: {driver: twin}\nstage: {driver: twin}\n"
        "heater: {driver: twin}\ngauge: {driver: twin}\ngases: {}\n"
    )
    answer = rilievo("run", recipe, "--instrument", instrument)
    assert answer.code == 2
    assert "instrument.yaml:2:9: column: there is no driver 'nowhere'" in answer.err.replace("\n", "")


def test_real_hardware_has_no_speed(rilievo, recipe, tmp_path):
    instrument = tmp_path / "instrument.yaml"
    instrument.write_text("name: bench\ncolumn: {driver: other}\n")
    answer = rilievo("run", recipe, "--instrument", instrument, "--speed", "10")
    assert answer.code == 2
    assert "--speed" in answer.err


# -- the database


def test_a_file_that_is_no_database(rilievo, data):
    data.mkdir()
    (data / "rilievo.db").write_text("this is a letter, and a long one at that " * 20)
    answer = rilievo("runs", "--json")
    assert answer.code == 2
    assert answer.error["code"] == "database"
    assert (data / "rilievo.db").read_text().startswith("this is a letter")


def test_a_database_newer_than_the_program(rilievo, data):
    assert rilievo("db", "upgrade").code == 0
    with sqlite3.connect(data / "rilievo.db") as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.close()
    answer = rilievo("runs", "--json")
    assert answer.code == 2
    assert "newer" in answer.error["message"]


def test_a_locked_database(rilievo, data, recipe, monkeypatch):
    from acquisition.log import Log

    assert rilievo("db", "upgrade").code == 0
    opened = Log.open.__func__
    monkeypatch.setattr(Log, "open", classmethod(lambda cls, target, create: opened(cls, target, timeout=0.3)))
    lock = sqlite3.connect(data / "rilievo.db", isolation_level=None)
    lock.execute("BEGIN EXCLUSIVE")
    try:
        answer = rilievo("run", recipe, "--no-heights", "--json")
    finally:
        lock.close()
    assert answer.code == 2
    assert answer.error["code"] == "database"
    assert "lock" in answer.error["message"]


def test_a_database_server_that_does_not_answer(rilievo):
    answer = rilievo("runs", "--db", "postgresql://nobody@127.0.0.1:1/none", "--json")
    assert answer.code == 2
    assert answer.error["code"] == "database"


# -- the disk


def test_a_disk_without_room_is_refused_before_anything_is_heated(rilievo, recipe, data, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(total=10**6, used=10**6, free=1000))
    answer = rilievo("run", recipe, "--no-heights", "--json")
    assert answer.code == 2
    assert answer.error["code"] == "disk-full"
    monkeypatch.undo()


def test_a_disk_that_fills_up_ends_the_run_safe_and_keeps_the_frames(rilievo, recipe, data, monkeypatch):
    from acquisition.log import Log
    from acquisition.store import Store

    fsync, frames = os.fsync, []

    def full(descriptor):
        name = str(Path(f"/proc/self/fd/{descriptor}").readlink())
        if ".ome.tif" in name:
            frames.append(name)
            if len(frames) > 6:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    answer = rilievo("run", recipe, "--no-heights", "--json")
    assert answer.code == 1
    body = json.loads(answer.out)
    assert body["state"] == "safe"
    assert "does not fit" in body["reason"]
    assert "that has lasted for 1800 s" in body["reason"]
    assert body["frames"]["acquired"] == 6
    with Log.open(data / "rilievo.db") as log, Store(data / "runs") as store:
        for frame in log.frames(body["id"]):
            store.verify(frame.stored)
        assert not list((data / "runs").rglob("*.part"))


def test_a_database_lost_in_mid_run_ends_safe_and_gets_back_what_it_missed(rilievo, recipe, monkeypatch):
    from acquisition.log import Log
    from drivers.errors import DatabaseError

    written, frames = Log.write, []

    def lost(self, entries, **options):
        frames.extend(entry for entry in entries if entry.verb == "frame")
        if len(frames) > 5:
            raise DatabaseError("the connection was lost")
        return written(self, entries, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Log, "write", lost)
        patch.setattr(Log, "replay", lambda *_: (_ for _ in ()).throw(DatabaseError("the connection was lost")))
        answer = rilievo("run", recipe, "--no-heights", "--json")
    assert answer.code == 1
    assert "the connection was lost" in answer.out + answer.err
    shown = rilievo("show", "last", "--json").json
    assert shown["state"] == "safe"
    assert "the connection was lost; that has lasted for 1800 s" in shown["reason"]
    assert shown["frames"]["acquired"] == 6  # the one that was being kept, too


def test_a_report_that_cannot_be_written_does_not_change_the_outcome(rilievo, recipe, monkeypatch):
    monkeypatch.setattr(
        "acquisition.report.write_report", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left"))
    )
    answer = rilievo("run", recipe, "--no-heights")
    assert answer.code == 0
    assert answer.out.startswith("finished")
    assert "no room left on the disk" in answer.out


def test_no_database_is_made_by_who_only_looks(rilievo, tmp_path):
    answer = rilievo("runs", "--data", tmp_path / "typo")
    assert answer.code == 2
    assert not (tmp_path / "typo").exists()


def test_markup_in_names_is_only_text(rilievo, recipe, recipe_text):
    recipe.write_text(recipe_text.replace("name: a short look", "name: 'redox [copper foil] [/red]'"))
    assert "redox [copper foil] [/red]" in rilievo("check", recipe).out


def test_a_folder_that_cannot_be_made(rilievo, tmp_path):
    (tmp_path / "file").write_text("in the way")
    answer = rilievo("db", "upgrade", "--data", tmp_path / "file" / "inside", "--json")
    assert answer.code == 2
    assert "--data" in answer.error["message"]


def test_a_backup_never_overwrites(rilievo, tmp_path):
    target = tmp_path / "backup.db"
    target.write_text("precious")
    assert rilievo("db", "backup", target).code == 2
    assert target.read_text() == "precious"
    target.unlink()
    assert rilievo("db", "upgrade").code == 0
    assert rilievo("db", "backup", target).code == 0
    assert rilievo("db", "upgrade", "--json").json["schema"]
