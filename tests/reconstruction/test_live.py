"""The process beside the acquisition: never waited for, never silent."""

import dataclasses
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from reconstruction.heights_file import read_heights
from reconstruction.live import LiveReconstruction, Worker

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
