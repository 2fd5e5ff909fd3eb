"""Which quality a command asks for, and what it tells of it."""

import json
import subprocess
import sys
from datetime import UTC, datetime

import numpy as np
import pytest
import tifffile

from acquisition import app, cli, feed, play
from drivers.errors import InputError
from drivers.frame import BeamSettings, Channel, Frame
from drivers.geometry import annular
from drivers.units import KEV

DETECTOR = "working_distance: 8 mm\nthreshold: 1 keV\nsegments:\n" + "".join(
    f"  - {{name: {name}, inner_radius: 2 mm, outer_radius: 8 mm, azimuth: {azimuth} deg, span: 90 deg}}\n"
    for name, azimuth in zip("ABCD", (0, 90, 180, 270), strict=True)
)


@pytest.fixture
def command(monkeypatch, capsys, tmp_path):
    """Run the command in this process; returns the exit code, what it wrote and the errors."""
    monkeypatch.setenv("RILIEVO_DATA", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["rilievo", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        captured = capsys.readouterr()
        return ended.value.code or 0, captured.out, captured.err

    return run


@pytest.fixture
def images(tmp_path):
    generator = np.random.default_rng(5)
    for name in "ABCD":
        tifffile.imwrite(tmp_path / f"{name}.tif", generator.poisson(2000, (32, 32)).astype(np.uint16))
    (tmp_path / "detector.yaml").write_text(DETECTOR)
    return [f"{name}.tif" for name in "ABCD"] + ["--detector", "detector.yaml", "--pixel-size", "20 nm", "--json"]


BEAM = ("--beam-energy", "5 keV")


def test_the_default_is_full_where_all_is_known_and_tells_the_nuisances(command, images, tmp_path):
    code, out, err = command("reconstruct", *images, *BEAM, "--material", "cu2o ON cu")
    assert code == 0, err
    said = json.loads(out)
    assert said["quality"] == "full"
    assert {"bound", "resolution", "misfit"} <= set(said["figures"])
    told = said["nuisances"]
    assert [gain["name"] for gain in told["gains"]] == list("ABCD")
    assert told["detector_shift"]["x"]["unit"] == "mm"
    assert told["rotation"]["unit"] == "deg"
    for each in (*told["gains"], told["rotation"], *told["detector_shift"].values(), *told["combination"].values()):
        low, high = each["interval"]
        assert low < each["value"] < high
        assert each["sigma"] == pytest.approx((high - low) / 3.92)
    with tifffile.TiffFile(tmp_path / "heights.tif") as tiff:
        assert json.loads(tiff.pages.first.description)["pages"] == ["height", "standard deviation", "share of oxide"]
    assert (tmp_path / "heights.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (BEAM, "needs the sample's material"),
        ((*BEAM, "--material", "Fe"), "not on Fe"),
        (("--beam-energy", "30 keV", "--material", "Cu"), "THE BEAM ENERGY OF 30 keV LIES OUTSIDE"),
    ],
)
def test_the_preview_says_why_it_was_taken(command, images, options, reason):
    code, out, err = command("reconstruct", *images, *options)
    assert code == 0, err
    said = json.loads(out)
    assert said["quality"] == "preview"
    assert said["nuisances"] is None
    assert any("the preview was taken" in each and reason in each for each in said["assumptions"])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--quality", "full", "--material", "Fe"), "trained on Cu and Cu2O, not on Fe: use --quality preview"),
        (("--quality", "full"), "no material is told; name it with --material"),
        (("--quality", "best", "--material", "Cu"), "expected preview, fast or full; got 'best'"),
        (("--beam-energy", "800 eV", "--material", "Cu"), "no backscattered electron gives a signal"),
    ],
)
def test_what_cannot_be_had_is_refused(command, images, options, words, tmp_path):
    code, _, err = command("reconstruct", *images, *options)
    assert code == 2
    assert words in json.loads(err.strip().splitlines()[-1])["error"]["message"]
    assert not (tmp_path / "heights.tif").exists()


def test_a_full_reconstruction_outside_the_card_is_made_and_said(command, images):
    code, out, err = command(
        "reconstruct", *images, "--beam-energy", "2.5 keV", "--quality", "fast", "--material", "Cu"
    )
    assert code == 0, err
    assert any("THE BEAM ENERGY OF 2.5 keV LIES OUTSIDE" in each for each in json.loads(out)["assumptions"])


def test_qualities_of_live_heights():
    assert play._live_level(None) == "preview"
    assert [play._live_level(name) for name in ("preview", "fast", "auto")] == ["preview", "fast", "auto"]
    with pytest.raises(InputError, match=r"auto, preview or fast; got 'full'.*after the run"):
        play._live_level("full")


def test_a_run_refuses_a_live_quality_that_it_does_not_know(command, tmp_path):
    (tmp_path / "recipe.yaml").write_text("name: none")
    for arguments in (("--live-quality", "full"), ("--live-quality", "fast", "--no-heights")):
        code, _, err = command("run", tmp_path / "recipe.yaml", *arguments, "--json")
        assert code == 2
        assert "--live-quality" in json.loads(err.strip().splitlines()[-1])["error"]["where"]


class Recorder:
    """Stands where the live process would."""

    def __init__(self):
        self.patience = None
        self.waiting = []

    def offer(self, frame_id, frame, output):
        self.waiting.append(frame_id)
        return True

    def collect(self, wait=0.0):
        self.patience = wait
        found, self.waiting = [feed.Lost(each, "none") for each in self.waiting], []
        return found

    def close(self):
        pass


def test_a_slower_quality_is_waited_for_longer(tmp_path):
    live = Recorder()
    results = list(feed.catch_up(live, [(1, tmp_path / "1.tif")], lambda frame_id: None, 3600.0))
    assert [each.frame_id for each in results] == [1]
    assert live.patience == 3600.0


@pytest.mark.parametrize(("quality", "loaded"), [("preview", False), ("fast", True)])
def test_torch_is_loaded_only_where_a_quality_needs_it(tmp_path, quality, loaded):
    code = f"""
import sys
from pathlib import Path
import numpy as np
from datetime import UTC, datetime
from drivers.frame import BeamSettings, Channel, Frame
from drivers.geometry import annular
from drivers.units import KEV
import acquisition.cli, acquisition.app
from reconstruction.live import Worker
geometry = annular(4, 2e-3, 8e-3, 8e-3)
counts = np.random.default_rng(0).poisson(2000, (4, 32, 32)).astype(np.uint16)
channels = tuple(Channel(name, offset=0.0) for name in geometry.names)
frame = Frame(counts, geometry, BeamSettings(5 * KEV, 20e-9), channels, datetime(2024, 5, 1, tzinfo=UTC))
result = Worker(quality={quality!r}).reconstruct(0, frame, Path({str(tmp_path / "z.tif")!r}))
assert result.error is None, result.error
print(result.quality, 'torch' in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [quality, str(loaded)]


def test_the_wiring_passes_quality_and_material_on(tmp_path):
    geometry = annular(4, 2e-3, 8e-3, 8e-3)
    counts = np.random.default_rng(0).poisson(2000, (4, 32, 32)).astype(np.uint16)
    channels = tuple(Channel(name, offset=0.0) for name in geometry.names)
    frame = Frame(counts, geometry, BeamSettings(5 * KEV, 20e-9), channels, datetime(2024, 5, 1, tzinfo=UTC))
    live = app.start_live(quality="fast", material="Cu2O")
    try:
        assert live.offer(1, frame, tmp_path / "z.tif")
        result = live.collect(120.0)[0]
    finally:
        live.close()
    assert (result.error, result.quality) == (None, "fast")
    with tifffile.TiffFile(tmp_path / "z.tif") as tiff:
        said = json.loads(tiff.pages.first.description)
    assert said["quality"] == "fast"
    assert any("model of Cu2O at 5 keV" in each for each in said["assumptions"])
