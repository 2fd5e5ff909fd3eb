"""Whole nights on the twin, through the command."""

import contextlib
import signal
import sqlite3
import time

import numpy as np
import pytest
import tifffile

from acquisition.log import Log
from acquisition.store import Store
from drivers.errors import DatabaseError


def opened(data):
    return Log.open(data / "rilievo.db", create=False), Store(data / "runs")


@pytest.fixture
def night(rilievo, recipe):
    answer = rilievo("run", recipe, "--json")
    assert answer.code == 0, answer.err
    return answer.json


def test_a_night_leaves_frames_heights_figures_and_a_report(night, data):
    assert night["state"] == "finished"
    assert night["frames"] == {
        "acquired": 25,
        "dark": 4,
        "heights": 21,
        "failed": 0,
        "left_out": 0,
        "bytes": night["frames"]["bytes"],
    }
    log, store = opened(data)
    with log, store:
        for frame in log.frames(night["id"]):
            store.verify(frame.stored)
            assert tifffile.imread(store.absolute(frame.stored.path)).shape == (4, 48, 48)
        for entry in log.reconstructions(night["id"]):
            heights = tifffile.imread(store.absolute(entry.path))
            assert heights.shape == (2, 48, 48)
            assert np.isfinite(heights[0]).all()
            assert (heights[1] > 0).all()
            assert {"coverage", "roughness"} <= set(entry.figures)
    html = (data / "runs" / night["id"] / "report.html").read_text()
    assert "a short look" in html
    assert "<script src=" not in html
    assert 'href="http' not in html


def test_the_oxide_is_seen_to_grow_as_the_truth_says(night, data):
    log, store = opened(data)
    with log, store:
        truth = log.series(night["id"], "truth.coverage")
        figures = log.figures(night["id"], "coverage")
    assert truth.values[0] == 0.0
    assert truth.values[-1] > 0.5
    times = np.array([figure.time.replace(tzinfo=None) for figure in figures], dtype="datetime64[us]").astype(float)
    expected = np.interp(times, truth.times.astype(float), truth.values)
    estimated = np.array([figure.value for figure in figures])
    assert np.all([figure.sigma is not None and figure.sigma > 0 for figure in figures])
    assert np.corrcoef(estimated, expected)[0, 1] > 0.9


def test_two_nights_are_the_same_to_the_bit(rilievo, recipe, tmp_path):
    stories = []
    for name in ("one", "two"):
        answer = rilievo("run", recipe, "--json", "--data", tmp_path / name)
        assert answer.code == 0, answer.err
        log, store = opened(tmp_path / name)
        with log, store:
            run = answer.json["id"]
            stories.append(
                (
                    run,
                    [(f.time, f.stored.sha256) for f in log.frames(run)],
                    [(c.name, c.unit, log.series(run, c.name).values.tolist()) for c in log.channels(run)],
                    [(f.frame_number, f.value, f.sigma) for f in log.figures(run, "coverage")],
                    [(e.time, e.level, e.message) for e in log.events(run)],
                )
            )  # fmt: skip
    assert stories[0] == stories[1]


def test_a_night_in_postgresql(rilievo, recipe, postgresql):
    import psycopg
    from sqlalchemy import make_url

    with psycopg.connect(postgresql, autocommit=True) as connection:
        connection.execute("CREATE DATABASE night")
    url = make_url(postgresql).set(database="night").render_as_string(hide_password=False)
    answer = rilievo("run", recipe, "--db", url, "--json")
    assert answer.code == 0, answer.err
    assert answer.json["frames"]["heights"] == 21
    listed = rilievo("runs", "--db", url, "--json").json
    assert [(run["id"], run["state"]) for run in listed] == [(answer.json["id"], "finished")]


def test_runs_show_and_report(night, rilievo, tmp_path):
    listed = rilievo("runs", "--json").json
    assert [(run["id"], run["state"]) for run in listed] == [(night["id"], "finished")]
    assert night["id"] in rilievo("runs").out
    shown = rilievo("show", night["id"][:12], "--json").json
    assert shown["frames"] == night["frames"]
    assert rilievo("show", "last").code == 0
    target = tmp_path / "again.html"
    assert rilievo("report", "last", "-o", target).code == 0
    assert target.stat().st_size > 10_000


def test_the_units_in_the_database_are_canonical(night, data):
    with sqlite3.connect(data / "rilievo.db") as connection:
        hottest = connection.execute(
            "SELECT max(value), unit FROM setpoints WHERE channel = 'heater.temperature'"
        ).fetchone()
    connection.close()
    assert hottest == (pytest.approx(1073.15), "K")


def end_by(process, number):
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert "Traceback" not in out + err
    return process.returncode, err


def assert_left_safe(data, reason):
    log, store = opened(data)
    with log, store:
        (run,) = log.runs()
        assert (run.state, run.reason) == ("stopped", reason)
        for frame in log.frames(run.id):
            store.verify(frame.stored)
        last = {setpoint.channel: setpoint.value for setpoint in log.setpoints(run.id)}
        assert last["heater.temperature"] == pytest.approx(298.15)
        assert all(value == 0 for channel, value in last.items() if channel.endswith(".flow"))
        return log.frames(run.id)


@pytest.mark.parametrize("seconds", [0.15, 0.5, 1.0, 1.6, 2.2, 3.0])
def test_ctrl_c_at_any_moment_of_the_start(start, recipe, data, seconds):
    process = start("run", recipe, "--speed", "60")
    time.sleep(seconds)
    code, err = end_by(process, signal.SIGINT)
    # On a slow machine the signal may come before the interpreter listens; a shell says 130 of that death, too.
    assert code in (130, -signal.SIGINT), err
    with contextlib.suppress(DatabaseError), Log.open(data / "rilievo.db", create=False) as log:
        assert [run.state for run in log.runs()] in ([], ["stopped"])


@pytest.mark.parametrize(
    ("moment", "speed", "number", "reason"),
    [
        ("ramp", 60, signal.SIGINT, "stopped by Ctrl-C"),
        ("ramp", 60, signal.SIGHUP, "stopped because the terminal was closed"),
        ("frame", 2000, signal.SIGINT, "stopped by Ctrl-C"),
        ("frame", 2000, signal.SIGTERM, "stopped by a request to end the process"),
    ],
)
def test_signals_end_the_run_safe_and_marked_stopped(start, recipe, data, moment, speed, number, reason):
    process = start("run", recipe, "--speed", str(speed))
    until = time.monotonic() + 60
    while time.monotonic() < until and process.poll() is None and not _reached(data, moment):
        time.sleep(0.02)
    code, err = end_by(process, number)
    assert code == 130, err
    frames = assert_left_safe(data, reason)
    assert moment == "ramp" or len(frames) > 4


def test_a_display_without_a_reader_does_not_end_the_run(start, recipe, data):
    process = start("run", recipe, "--no-heights")
    process.stderr.close()
    process.stdout.close()
    assert process.wait(timeout=60) in (0, 1)  # whoever reads the end has gone too
    process.stdout = process.stderr = None
    with Log.open(data / "rilievo.db") as log:
        assert [run.state for run in log.runs()] == ["finished"]


def _reached(data, kind):
    """Whether an action of a kind has begun (three of them, for frames)."""
    database = data / "rilievo.db"
    if not database.exists():
        return False
    connection = sqlite3.connect(f"file:{database}?mode=ro", uri=True)
    try:
        row = connection.execute(
            "SELECT count(*) FROM actions WHERE kind = ? AND state != 'planned'", (kind,)
        ).fetchone()
    except sqlite3.OperationalError:  # the tables are being made
        return False
    finally:
        connection.close()
    return row[0] >= (3 if kind == "frame" else 1)
