from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from typer.testing import CliRunner

from acquisition.simulate import simulate_app
from drivers.errors import RilievoError


def run(*arguments: str) -> dict[str, Any]:
    result = CliRunner().invoke(simulate_app, [*arguments, "--json"], catch_exceptions=False)
    assert result.exit_code == 0
    return json.loads(result.stdout)


def refuse(*arguments: str) -> RilievoError:
    with pytest.raises(RilievoError) as error:
        CliRunner().invoke(simulate_app, list(arguments), catch_exceptions=False)
    return error.value


def test_backscatter_tells_the_coefficient() -> None:
    found = run("backscatter", "--element", "Cu", "--energy", "20 keV", "--electrons", "20000")
    assert found["backscatter_coefficient"]["unit"] == ""
    assert found["backscatter_coefficient"]["value"] == pytest.approx(0.309, abs=0.02)
    assert found["mean_energy"]["unit"] == "keV"
    assert found["backscattered"] + found["absorbed"] == found["electrons"] == 20_000
    assert sum(found["exit_angles"]["from_normal"]["counts"]) == found["backscattered"]
    tilted = run("backscatter", "--energy", "20 keV", "--tilt", "60 deg", "--electrons", "20000")
    assert tilted["backscatter_coefficient"]["value"] == pytest.approx(0.508, abs=0.02)


def test_backscatter_for_people() -> None:
    result = CliRunner().invoke(simulate_app, ["backscatter", "--electrons", "2000"], catch_exceptions=False)
    assert "η = 0.3" in result.stdout
    assert "█" in result.stdout


def test_a_frame_of_a_height_file(tmp_path: Path) -> None:
    z = np.add.outer(np.zeros(8), np.abs(np.arange(12) - 5.5)).astype("float32") * -40  # a ridge along the columns
    tifffile.imwrite(tmp_path / "ridge.tif", z)
    target = tmp_path / "frame.tif"
    found = run(
        "frame", str(tmp_path / "ridge.tif"), "-o", str(target), "--pixel-size", "50 nm", "--energy", "5 keV",
        "--electrons", "200", "--split", "--exits", str(tmp_path / "kept.exits"),
    )  # fmt: skip
    assert len(found["files"]) == 7
    pages = tifffile.imread(target)
    assert pages.shape == (4, 8, 12)
    assert pages[0, :, 8:].mean() > pages[0, :, :4].mean()  # the eastern face is bright in the eastern segment
    gain = found["counts"]["gain"]["value"]
    np.testing.assert_allclose(tifffile.imread(tmp_path / "frame_C.tif"), pages[2] * gain, atol=0.51)
    assert json.loads(target.with_suffix(".json").read_text(encoding="utf-8")) == found


def test_a_data_set_goes_on(tmp_path: Path) -> None:
    options = ("dataset", str(tmp_path / "set"), "--pixels", "8", "--electrons-per-pixel", "10", "--energy", "5 keV")
    assert run(*options, "--samples", "2")["new"] == 2
    more = run(*options, "--electrons", "1920")
    assert (more["samples"], more["new"]) == (3, 1)
    assert more["bytes"]["unit"] == "byte"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("backscatter", "--energy", "50 keV"), "0.5 to 30 keV"),
        (("backscatter", "--energy", "5 nm"), "is a length"),
        (("backscatter", "--energy", "20"), "has no unit"),
        (("backscatter", "--tilt", "95 deg"), "0 to 85 deg"),
        (("backscatter", "--element", "Xx"), "not an element"),
        (("backscatter", "--electrons", "0"), "one electron"),
        (("backscatter", "--law", "mott"), "browning or rutherford"),
        (("frame", "none.tif"), "no height map"),
        (("dataset", "set"), "budget"),
    ],
)
def test_bad_input_is_a_sentence_and_exit_code_2(arguments: tuple[str, ...], words: str) -> None:
    error = refuse(*arguments)
    assert error.exit_code == 2
    assert words in str(error)


def test_nan_heights_are_refused(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "nan.tif", np.full((4, 4), np.nan, np.float32))
    assert "NaN" in str(refuse("frame", str(tmp_path / "nan.tif"), "--pixel-size", "10 nm"))
