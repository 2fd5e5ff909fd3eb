"""``rilievo reconstruct`` through the command: bad images end in one sentence, real ones in a pit."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import tifffile

DETECTOR = "working_distance: 8 mm\nthreshold: 1 keV\nsegments:\n" + "".join(
    f"  - {{name: {name}, inner_radius: 2 mm, outer_radius: 8 mm, azimuth: {azimuth} deg, span: 90 deg}}\n"
    for name, azimuth in zip("ABCD", (0, 90, 180, 270), strict=True)
)


@pytest.fixture
def images(tmp_path):
    """Four segments of a plain field with noise, as plain TIFF."""
    generator = np.random.default_rng(5)
    paths = []
    for name in "ABCD":
        path = tmp_path / f"{name}.tif"
        tifffile.imwrite(path, generator.poisson(2000, (64, 64)).astype(np.uint16))
        paths.append(path)
    return paths


@pytest.fixture
def detector(tmp_path):
    path = tmp_path / "detector.yaml"
    path.write_text(DETECTOR)
    return path


def test_heights_of_plain_images(rilievo, images, detector, tmp_path):
    answer = rilievo(
        "reconstruct", *images, "--detector", detector, "--pixel-size", "20 nm", "--beam-energy", "5 keV",
        "--material", "Cu", "-o", tmp_path / "out.tif", "--json",
    )  # fmt: skip
    assert answer.code == 0, answer.err
    assert answer.json["pixel_size"] == {"value": pytest.approx(20.0), "unit": "nm"}
    heights, sigma = tifffile.imread(tmp_path / "out.tif")
    assert heights.shape == (64, 64)
    assert abs(heights).max() < 10 * sigma.max()
    assert json.loads((tmp_path / "out.json").read_text())["assumptions"]
    assert (tmp_path / "out.png").stat().st_size > 10_000


def spoil_size(images):
    tifffile.imwrite(images[1], np.full((32, 64), 2000, np.uint16))


def spoil_black(images):
    for path in images:
        tifffile.imwrite(path, np.zeros((64, 64), np.uint16))


def spoil_saturated(images):
    for path in images:
        tifffile.imwrite(path, np.full((64, 64), 65535, np.uint16))


def spoil_truncated(images):
    images[2].write_bytes(images[2].read_bytes()[:3000])


def spoil_text(images):
    images[0].write_text("not an image")


def spoil_missing(images):
    images[3].unlink()


SPOILT = [spoil_size, spoil_black, spoil_saturated, spoil_truncated, spoil_text, spoil_missing]


@pytest.mark.parametrize("spoil", SPOILT, ids=lambda spoil: spoil.__name__.removeprefix("spoil_"))
def test_bad_images_end_in_a_sentence(rilievo, images, detector, tmp_path, spoil):
    spoil(images)
    output = tmp_path / "out.tif"
    answer = rilievo("reconstruct", *images, "--detector", detector, "--pixel-size", "20 nm", "-o", output, "--json")
    assert answer.code == 2
    assert answer.error["code"] in ("image", "input")
    assert not output.exists()


def test_one_segment_missing(rilievo, images, detector):
    answer = rilievo("reconstruct", *images[:3], "--detector", detector, "--pixel-size", "20 nm", "--json")
    assert answer.code == 2
    assert "4 segments" in answer.error["message"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "one image per segment"),
        (["--pixel-size", "20"], "no unit"),
        (["--pixel-size", "20 keV"], "an energy; expected a length"),
        (["--pixel-size", "-3 nm"], "above 0"),
    ],
)
def test_bad_options_end_in_a_sentence(rilievo, images, arguments, words):
    answer = rilievo("reconstruct", *(images if arguments else []), *arguments, "--json")
    assert answer.code == 2
    assert words in answer.error["message"]


def test_an_input_is_never_overwritten(rilievo, images, detector):
    before = images[0].read_bytes()
    answer = rilievo("reconstruct", *images, "--detector", detector, "--pixel-size", "20 nm", "-o", images[0])
    assert answer.code == 2
    assert images[0].read_bytes() == before


def test_a_frame_of_a_run_and_the_whole_run_again(rilievo, recipe, data, tmp_path):
    run = rilievo("run", recipe, "--no-heights", "--json").json["id"]
    answer = rilievo("reconstruct", "--run", run, "--json")
    assert answer.code == 0, answer.err
    assert answer.json["frames"]["heights"] == 21
    frame = data / "runs" / run / "frames" / "000010.ome.tif"
    assert rilievo("reconstruct", frame, "-o", tmp_path / "one.tif", "--json").code == 0
    dark = data / "runs" / run / "frames" / "000000.ome.tif"
    refused = rilievo("reconstruct", dark, "-o", tmp_path / "dark.tif", "--json")
    assert refused.code == 2
    assert "dark frame" in refused.error["message"]


def test_the_indent_is_a_pit(rilievo, tmp_path):
    samples = os.environ.get("RILIEVO_SAMPLES")
    if not samples:
        pytest.skip("RILIEVO_SAMPLES names no folder with real images")
    files = [Path(samples) / f"vickers_bse_{name}.tif" for name in "ABC"]
    answer = rilievo("reconstruct", *files, "-o", tmp_path / "vickers.tif", "--json")
    assert answer.code == 0, answer.err
    assert answer.json["pixel_size"]["value"] == pytest.approx(65.1, abs=0.2)
    assert any("ESTIMATED" in sentence for sentence in answer.json["assumptions"])
    heights = tifffile.imread(tmp_path / "vickers.tif")[0]
    middle = heights[heights.shape[0] // 2 - 60 : heights.shape[0] // 2 + 60, 700:860]
    assert np.percentile(middle, 2) < np.median(heights) - 1000
