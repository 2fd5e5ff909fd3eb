from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import tifffile

from drivers.errors import InputError
from simulators.heightfile import read_height

Z = np.random.default_rng(0).normal(size=(9, 7)).astype("float32") * 30


def test_a_tiff_in_nanometres(tmp_path: Path) -> None:
    path = tmp_path / "height.tif"
    tifffile.imwrite(path, Z, resolution=(1e6, 1e6), resolutionunit="CENTIMETER")
    height = read_height(path)
    assert height.pixel_size == pytest.approx(10e-9)
    np.testing.assert_allclose(height.z, (Z - Z.mean(dtype=float)) * 1e-9, atol=1e-14)
    scaled = read_height(path, pixel_size=20e-9, height_scale=-2, height_unit=1e-6, most=4)
    assert scaled.shape == (4, 4)
    assert scaled.pixel_size == 20e-9
    part = Z[2:6, 1:5].astype(float)
    np.testing.assert_allclose(scaled.z, (part - part.mean()) * -2e-6, atol=1e-12)


def test_ome_metadata_tell_the_pixel_size(tmp_path: Path) -> None:
    path = tmp_path / "height.ome.tif"
    size = {"PhysicalSizeX": 25.0, "PhysicalSizeXUnit": "nm", "PhysicalSizeY": 25.0, "PhysicalSizeYUnit": "nm"}
    tifffile.imwrite(path, Z, metadata={"axes": "YX", **size})
    assert read_height(path).pixel_size == pytest.approx(25e-9)


def test_what_cannot_be_used_is_refused_in_a_sentence(tmp_path: Path) -> None:
    cases: dict[str, np.ndarray] = {
        "colour.tif": np.zeros((4, 4, 3), np.uint8),
        "nan.tif": np.full((4, 4), np.nan, np.float32),
        "hole.tif": np.where(np.eye(4) > 0, np.nan, 1).astype(np.float32),
        "plain.tif": Z,
    }
    for name, array in cases.items():
        tifffile.imwrite(tmp_path / name, array)
    (tmp_path / "empty.tif").write_bytes(b"")
    (tmp_path / "text.tif").write_text("heights")
    (tmp_path / "binary.dat").write_bytes(b"\x89nothing" * 100)
    expected = {
        "colour.tif": "one height per pixel",
        "nan.tif": "no heights",
        "hole.tif": "4 of 16 heights are NaN",
        "plain.tif": "give a pixel size",
        "empty.tif": "cannot be read as TIFF",
        "text.tif": "cannot be read as TIFF",
        "binary.dat": "height map",
        "missing.tif": "no height map at",
    }
    for name, words in expected.items():
        size = None if name == "plain.tif" else 1e-8
        with pytest.raises(InputError, match=words) as error:
            read_height(tmp_path / name, size)
        assert error.value.exit_code == 2


def test_a_real_afm_map() -> None:
    folder = os.environ.get("RILIEVO_SAMPLES")
    if not folder:
        pytest.skip("RILIEVO_SAMPLES does not name the folder of sample data")
    height = read_height(Path(folder) / "afm_500nm.di")
    assert height.shape == (512, 512)
    assert height.pixel_size == pytest.approx(500e-9 / 512)
    assert height.z.std() == pytest.approx(9.946e-9, rel=1e-3)
