"""From a height map through the Monte Carlo to images, and from these to heights again."""

import json
import math

import numpy as np
import pytest
import tifffile
import yaml

from drivers.registry import load_detector

PIXEL = 100e-9
DEPTH = 250.0  # nm
RADIUS = 11  # pixels


@pytest.fixture
def relief(tmp_path):
    """A bump on the left and a pit on the right, in nm."""
    y, x = np.mgrid[:32, :64]

    def mound(column):
        r = np.minimum(np.hypot(x - column, y - 15.5) / RADIUS, 1)
        return DEPTH * np.cos(np.pi / 2 * r) ** 2

    z = (mound(15.5) - mound(47.5)).astype("float32")
    path = tmp_path / "relief.tif"
    per_centimetre = 0.01 / PIXEL
    tifffile.imwrite(path, z, resolution=(per_centimetre, per_centimetre), resolutionunit="CENTIMETER")
    return path


def small(tmp_path, name="small.tif", shape=(8, 8), **options):
    path = tmp_path / name
    tifffile.imwrite(path, np.add.outer(np.zeros(shape[0]), np.arange(shape[1])).astype("float32"), **options)
    return path


def test_what_was_simulated_is_reconstructed(rilievo, relief, tmp_path):
    frame = tmp_path / "f.tif"
    answer = rilievo(
        "simulate", "frame", relief, "-o", frame, "--split", "--energy", "5 keV", "--material", "Cu",
        "--electrons", "400", "--json",
    )  # fmt: skip
    assert answer.code == 0, answer.err
    detector = tmp_path / "f_detector.yaml"
    images = [tmp_path / f"f_{name}.tif" for name in "ABCD"]
    assert answer.json["files"] == [str(path) for path in (frame, *images, detector)]
    assert load_detector(detector).names == ("A", "B", "C", "D")
    # Counts are the signals times the gain that is told.
    signal = tifffile.imread(frame)
    gain = answer.json["counts"]["gain"]["value"]
    assert answer.json["counts"]["offset"]["value"] == 0
    for page, path in zip(signal, images, strict=True):
        counts = tifffile.imread(path)
        assert counts.dtype == np.uint16
        assert np.abs(counts - page * gain).max() < 0.51

    heights = tmp_path / "heights.tif"
    answer = rilievo(
        "reconstruct", *images, "--detector", detector, "--material", "Cu", "--beam-energy", "5 keV",
        "-o", heights, "--json",
    )  # fmt: skip
    assert answer.code == 0, answer.err
    assert answer.json["pixel_size"] == {"value": pytest.approx(100.0), "unit": "nm"}
    found, truth = tifffile.imread(heights)[0].astype(float), tifffile.imread(relief).astype(float)
    level = found[:, :3].mean()
    assert found[13:19, 13:19].mean() - level > 0.5 * DEPTH
    assert found[13:19, 45:51].mean() - level < -0.5 * DEPTH
    found -= found.mean()
    truth -= truth.mean()
    # The vertical scale, which nobody knows better than to a tenth: the emission law is not the Monte Carlo's.
    assert (found * truth).sum() / (truth * truth).sum() == pytest.approx(1.0, abs=0.2)
    # A signal of 400 electrons a pixel is good to a quarter.
    assert np.corrcoef(found.ravel(), truth.ravel())[0, 1] > 0.9


def test_an_uncommon_detector_survives_its_file(rilievo, tmp_path):
    source = {
        "working_distance": "6.5 mm",
        "threshold": "1.5 keV",
        "rotation": "12 deg",
        "centre_offset": ["0.1 mm", "-0.2 mm"],
        "segments": [
            {"name": name, "inner_radius": "1 mm", "outer_radius": "7 mm", "azimuth": f"{at} deg", "span": "100 deg"}
            for name, at in (("in/out", 0), ("in out", 120), ("in:out", 240))
        ],
    }
    path = tmp_path / "three.yaml"
    path.write_text(yaml.safe_dump(source), encoding="utf-8")
    height = small(tmp_path)
    answer = rilievo(
        "simulate", "frame", height, "--pixel-size", "50 nm", "--electrons", "5", "--split", "--detector", path,
        "-o", tmp_path / "f.tif", "--json",
    )  # fmt: skip
    assert answer.code == 0, answer.err
    told, given = load_detector(tmp_path / "f_detector.yaml"), load_detector(path)
    assert told.names == given.names
    np.testing.assert_allclose(told.table(), given.table(), rtol=1e-9, atol=1e-12)
    assert told.working_distance == pytest.approx(given.working_distance)
    assert told.centre_offset == pytest.approx(given.centre_offset)
    assert told.threshold == pytest.approx(given.threshold)
    assert len(list(tmp_path.glob("f_[123]_in_out.tif"))) == 3


def test_the_frame_says_what_was_simulated(rilievo, tmp_path):
    height, oxide = small(tmp_path), tmp_path / "oxide.tif"
    tifffile.imwrite(oxide, np.pad(np.full((8, 4), 40, "float32"), ((0, 0), (4, 0))))
    target = tmp_path / "f.tif"
    answer = rilievo(
        "simulate", "frame", height, "-o", target, "--pixel-size", "20 nm", "--electrons", "20", "--energy", "3 keV",
        "--tilt", "30 deg", "--probe-diameter", "4 nm", "--seed", "7", "--border", "periodic", "--height-scale", "-2",
        "--layer", "Cu2O", "--thickness", oxide, "--json",
    )  # fmt: skip
    assert answer.code == 0, answer.err
    said = json.loads((tmp_path / "f.json").read_text(encoding="utf-8"))["simulated"]
    assert said["beam_energy"] == {"value": pytest.approx(3.0), "unit": "keV"}
    assert said["materials"] == ["Cu", "Cu2O"]
    assert said["tilt"]["value"] == pytest.approx(math.radians(30))
    assert said["probe_diameter"]["value"] == pytest.approx(4e-9)
    assert (said["seed"], said["law"], said["border"], said["electrons"]) == (7, "browning", "periodic", 20)
    assert said["physics"]
    assert said["height_scale"]["value"] == -2
    assert said["thickness_file"] == str(oxide)
    assert said["detector"]["working_distance"] == {"value": pytest.approx(8.0), "unit": "mm"}
    with tifffile.TiffFile(target) as file:
        assert '"beam_energy"' in file.pages[0].description.replace("&quot;", '"')
    assert not list(tmp_path.glob(".*.part"))


def test_a_layer_darkens_what_it_covers(rilievo, tmp_path):
    height, oxide = tmp_path / "flat.tif", tmp_path / "oxide.tif"
    tifffile.imwrite(height, np.zeros((16, 32), "float32"))
    tifffile.imwrite(oxide, np.pad(np.full((16, 16), 400, "float32"), ((0, 0), (16, 0))))
    options = ("--pixel-size", "500 nm", "--electrons", "400", "--energy", "5 keV", "-o", tmp_path / "f.tif")
    answer = rilievo("simulate", "frame", height, *options, "--layer", "Cu2O", "--thickness", oxide)
    assert answer.code == 0, answer.err
    total = tifffile.imread(tmp_path / "f.tif").sum(axis=0)
    # Cu2O gives 0.92 of copper's signal; a standard error of either half is 0.6 %.
    assert total[:, 17:].mean() / total[:, :15].mean() == pytest.approx(0.92, abs=0.04)


def test_nothing_that_is_read_is_overwritten(rilievo, tmp_path):
    height = small(tmp_path, "t.tif")
    before = height.read_bytes()
    size = ("--pixel-size", "20 nm", "--electrons", "2")
    (tmp_path / "link.tif").symlink_to(height)
    for target in (height, tmp_path / "link.tif", tmp_path / "." / "t.tif"):
        answer = rilievo("simulate", "frame", height, *size, "-o", target)
        assert answer.code == 2
        assert "-o" in answer.err
        assert "overwrite" in answer.err
    part = small(tmp_path, "x_A.tif")
    answer = rilievo("simulate", "frame", part, *size, "--split", "-o", tmp_path / "x.tif")
    assert (answer.code, "overwrite" in answer.err) == (2, True)
    for target, words in (("q.json", ".tif"), ("q", ".tif"), ("none/q.tif", "no folder")):
        answer = rilievo("simulate", "frame", height, *size, "-o", tmp_path / target)
        assert (answer.code, "-o" in answer.err, words in answer.err) == (2, True, True)
    answer = rilievo("simulate", "frame", height, *size, "-o", tmp_path / "q.tif", "--exits", tmp_path / "q.json")
    assert (answer.code, "twice" in answer.err) == (2, True)
    assert height.read_bytes() == before
    assert sorted(path.name for path in tmp_path.glob("q*")) == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("dataset", "set", "--samples", "1", "--seed", "-1"), "seed from 0"),
        (("dataset", "set", "--samples", "1", "--seed", str(2**62)), "seed from 0"),
        (("dataset", "set", "--electrons", "nan"), "finite number"),
        (("dataset", "set", "--electrons", "inf"), "finite number"),
        (("dataset", "set", "--samples", "1", "--pixels", "1000000"), "up to 4096 pixels"),
        (("dataset", "set", "--samples", "1", "--material", "cu"), "did you mean Cu?"),
        (("backscatter", "--element", "cu"), "did you mean Cu?"),
        (("backscatter", "--element", "cu2O"), "did you mean Cu2O?"),
        (("backscatter", "--element", "Fe2O3"), "--density '5.2 g/cm**3'"),
        (("backscatter", "--seed", "-1"), "seed from 0"),
        (("frame", "small.tif", "--pixel-size", "20 nm", "--height-scale", "nan"), "--height-scale"),
        (("frame", "small.tif", "--pixel-size", "20 nm", "--layer", "Cu2O"), "--thickness"),
        (("frame", "small.tif", "--pixel-size", "20 nm", "--seed", "-1"), "seed from 0"),
        (("frame", "small.tif", "--pixel-size", "20 nm", "--electrons", "0"), "one electron"),
        (("frame", "small.tif", "--pixel-size", "20 nm", "--electrons", str(10**20)), "at most"),
        (
            ("frame", "small.tif", "--pixel-size", "20 nm", "--layer", "Fe2O3", "--thickness", "small.tif"),
            "--layer-density '5.2 g/cm**3'",
        ),
        (("frame", "broken.tif"), "OME metadata cannot be read"),
    ],
)
def test_bad_input_is_a_sentence(rilievo, tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    small(tmp_path)
    small(tmp_path, "broken.tif", description="<OME><Image></OME>", metadata=None)
    answer = rilievo("simulate", *arguments)
    assert answer.code == 2
    assert words in answer.err
    assert "itself" not in answer.err
    assert not (tmp_path / "set").exists()


def test_a_coefficient_of_nothing_has_an_error(rilievo):
    answer = rilievo("simulate", "backscatter", "--element", "C", "--electrons", "1", "--json")
    assert answer.json["standard_error"]["value"] == pytest.approx(0.236, abs=0.01)  # of the beta distribution 1, 2
    many = rilievo("simulate", "backscatter", "--electrons", "20000", "--json").json
    eta = many["backscatter_coefficient"]["value"]
    assert many["standard_error"]["value"] == pytest.approx(math.sqrt(eta * (1 - eta) / 20000), rel=1e-3)
