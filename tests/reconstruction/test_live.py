"""The process beside the acquisition: never waited for, never silent."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import tifffile

from drivers.errors import InputError
from reconstruction.heights_file import read_heights
from reconstruction.live import LiveReconstruction, Worker
from reconstruction.pace import Pace

PATIENCE = 60.0


@pytest.fixture(scope="module")
def frame(expose):
    x = np.mgrid[0:64, 0:64][1]
    slope = np.where((x // 16) % 2, 0.2, -0.2)
    return expose(slope, np.zeros_like(slope))


@pytest.fixture
def live():
    with LiveReconstruction(capacity=3) as process:
        yield process


def collect(live, count):
    results = []
    while len(results) < count:
        batch = live.collect(PATIENCE)
        assert batch, "nothing came"
        results += batch
    return results


def test_frames_become_files_and_figures(live, frame, tmp_path):
    paths = [tmp_path / "heights" / f"{index}.tif" for index in range(2)]
    begin = time.monotonic()
    assert all(live.offer(index, frame, path) for index, path in enumerate(paths))
    assert time.monotonic() - begin < 5
    first, second = collect(live, 2)
    assert (first.frame_id, first.path, first.error) == (0, paths[0], None)
    assert {"coverage", "roughness", "height_range", "mean_sigma"} <= set(first.figures)
    assert first.figures["roughness"].unit == "nm"
    # The same frame gives the same heights, in this process as in the other.
    assert first.figures == second.figures
    Worker().reconstruct(7, frame, tmp_path / "here.tif")
    np.testing.assert_array_equal(read_heights(paths[0])[0].z, read_heights(tmp_path / "here.tif")[0].z)
    assert not list(tmp_path.rglob("*.part"))


def test_a_full_queue_leaves_out_and_counts(live, frame, tmp_path):
    taken = [live.offer(index, frame, tmp_path / f"{index}.tif") for index in range(5)]
    assert taken == [True, True, True, False, False]
    assert live.left_out == 2
    assert len(collect(live, 3)) == 3
    assert live.offer(5, frame, tmp_path / "5.tif")
    assert collect(live, 1)[0].frame_id == 5


def test_a_bad_frame_gives_an_error_and_the_next_one_heights(live, frame, tmp_path):
    black = dataclasses.replace(frame, counts=np.zeros_like(frame.counts))
    live.offer(1, black, tmp_path / "1.tif")
    live.offer(2, frame, tmp_path / "2.tif")
    bad, good = collect(live, 2)
    assert "every segment is black" in bad.error
    assert bad.path is None
    assert good.error is None
    assert good.path.exists()


def test_nothing_on_its_way_is_not_waited_for(live):
    begin = time.monotonic()
    assert live.collect(PATIENCE) == []
    assert time.monotonic() - begin < PATIENCE / 2


def test_a_crash_is_told_and_the_process_started_again_once(live, frame, tmp_path):
    live.offer(0, frame, tmp_path / "0.tif")
    collect(live, 1)
    for index in (1, 2):
        os.kill(live._process.pid, signal.SIGKILL)
        live._process.join()
        live.offer(index, frame, tmp_path / f"{index}.tif")
        result = collect(live, 1)[0]
        assert result.frame_id == index
        assert "ended unexpectedly" in result.error
    assert live.restarts == 1
    assert live.broken is not None
    assert not live.offer(3, frame, tmp_path / "3.tif")


def test_frames_behind_the_one_it_died_of_are_done(live, frame, tmp_path):
    os.kill(live._process.pid, signal.SIGSTOP)
    for index in range(3):
        live.offer(index, frame, tmp_path / f"{index}.tif")
    os.kill(live._process.pid, signal.SIGKILL)
    live._process.join()
    results = collect(live, 3)
    assert [result.frame_id for result in results] == [0, 1, 2]
    assert [result.error is None for result in results] == [False, True, True]


def test_ctrl_c_does_not_end_it_and_close_does(live, frame, tmp_path):
    live.offer(0, frame, tmp_path / "0.tif")
    collect(live, 1)
    os.kill(live._process.pid, signal.SIGINT)
    live.offer(1, frame, tmp_path / "1.tif")
    assert collect(live, 1)[0].error is None
    process = live._process
    live.close()
    live.close()
    with pytest.raises(ValueError, match="closed"):
        process.is_alive()
    assert not live.offer(2, frame, tmp_path / "2.tif")


def test_neither_torch_nor_pictures_nor_numba_are_imported():
    code = "import sys, reconstruction.live; print([m for m in ('torch', 'matplotlib', 'numba') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_an_owner_that_forgot_to_close_still_ends(tmp_path):
    script = tmp_path / "owner.py"
    script.write_text(
        "from reconstruction.live import LiveReconstruction\n"
        "if __name__ == '__main__':\n"
        "    live = LiveReconstruction()\n"
        "    print('started')\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0
    assert done.stdout.strip() == "started"


def test_the_first_frame_is_the_clean_one_and_exposure_is_allowed_for(expose, tmp_path):
    flat = np.zeros((128, 128))
    oxide = np.mgrid[0:128, 0:128][1] % 40 < 10
    worker = Worker()
    first = worker.reconstruct(0, expose(flat, flat), tmp_path / "0.tif").figures["coverage"]
    assert first.value < 0.02
    covered = expose(flat, flat, factor=np.where(oxide, 0.92, 1.0))
    second = worker.reconstruct(1, covered, tmp_path / "1.tif").figures["coverage"]
    assert second.value == pytest.approx(oxide.mean(), abs=0.05)
    whole = worker.reconstruct(2, expose(flat, flat, factor=0.92), tmp_path / "2.tif").figures["coverage"]
    assert whole.value > 0.97
    longer = expose(flat, flat, electrons=22_000)
    longer = dataclasses.replace(longer, beam=dataclasses.replace(longer.beam, dwell_time=1.1e-5))
    assert worker.reconstruct(3, longer, tmp_path / "3.tif").figures["coverage"].value < 0.03


def test_a_segment_that_dies_does_not_look_like_oxide(expose, tmp_path):
    flat = np.zeros((128, 128))
    worker = Worker()
    clean = expose(flat, flat)
    assert worker.reconstruct(0, clean, tmp_path / "0.tif").figures["coverage"].value < 0.02
    counts = clean.counts.copy()
    counts[2] = 500
    worker.reconstruct(1, dataclasses.replace(clean, counts=counts), tmp_path / "1.tif")
    without = worker.reconstruct(2, dataclasses.replace(clean, counts=counts), tmp_path / "2.tif")
    assert without.error is None
    assert without.figures["coverage"].value < 0.02


def paced(interval, costs, count=40, pixels=100):
    """Qualities that a pace chooses for frames every ``interval`` seconds, where each costs ``costs`` (s)."""
    pace, free, chosen = Pace(), 0.0, []
    for index in range(count):
        handed = index * interval
        begun = max(handed, free)
        level = pace.choose(handed, begun, pixels)
        free = begun + costs[level]
        pace.took(level, costs[level], pixels)
        chosen.append(level)
    return chosen


def test_the_pace_is_fast_only_while_that_keeps_up():
    assert set(paced(0.2, {"preview": 0.03, "fast": 0.5})) == {"preview"}
    easy = paced(30.0, {"preview": 0.03, "fast": 0.5})
    assert easy[0] == "preview"
    assert set(easy[3:]) == {"fast"}
    # Slower than the preview promised: given up, tried again, ever more seldom.
    hard = paced(2.0, {"preview": 0.03, "fast": 3.0}, count=100)
    assert 2 <= hard.count("fast") < 12
    assert hard[-1] == "preview"
    # Within the two limits nothing changes.
    assert set(paced(2.0, {"preview": 0.03, "fast": 1.4})[3:]) == {"fast"}


def test_a_pace_that_gave_up_stays_with_the_preview():
    pace = Pace()
    for index in range(20):
        pace.took("preview", 0.01, 100)
        if pace.choose(10.0 * index, 10.0 * index, 100) == "fast":
            pace.give_up()
            break
    assert [pace.choose(1000.0 + 10 * index, 1000.0 + 10 * index, 100) for index in range(5)] == ["preview"] * 5


def test_another_quality_keeps_the_level_of_clean_copper(expose, tmp_path):
    flat = np.zeros((64, 64))
    oxide = np.mgrid[0:64, 0:64][1] % 40 < 10
    worker = Worker(quality="auto")
    covered = expose(flat, flat, factor=np.where(oxide, 0.92, 1.0))
    results = [worker.reconstruct(0, expose(flat, flat), tmp_path / "0.tif", handed=0.0)]
    results += [
        worker.reconstruct(index, covered, tmp_path / f"{index}.tif", handed=time.monotonic() + 100 * index)
        for index in range(1, 5)
    ]
    assert [result.error for result in results] == [None] * 5
    assert [result.quality for result in results][:2] == ["preview"] * 2
    assert results[-1].quality == "fast"
    for result in results[1:]:
        assert result.figures["coverage"].value == pytest.approx(oxide.mean(), abs=0.08)


def test_auto_takes_the_preview_where_the_model_does_not_know_the_material(expose, tmp_path):
    worker = Worker("Fe", quality="auto")
    flat = np.zeros((32, 32))
    for index in range(5):
        result = worker.reconstruct(
            index, expose(flat, flat), tmp_path / "z.tif", handed=time.monotonic() + 100 * index
        )
        assert (result.error, result.quality) == (None, "preview")
        with tifffile.TiffFile(tmp_path / "z.tif") as tiff:
            said = json.loads(tiff.pages.first.description)
        assert said["quality"] == "preview"
        failed = [each for each in said["assumptions"] if "not on Fe" in each]
        assert len(failed) == (index == 2)
    assert Worker("Fe", quality="fast").reconstruct(0, expose(flat, flat), tmp_path / "y.tif").error is not None
    with pytest.raises(InputError, match="auto, preview, fast or full"):
        LiveReconstruction(quality="best")
