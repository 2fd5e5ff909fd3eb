from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import tifffile

from drivers.errors import InputError
from simulators.heightfile import read_height, read_thickness

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


@pytest.mark.parametrize("unit", ["um", "\\u00B5m", "micron", "microns"])
def test_imagej_tells_the_unit(tmp_path: Path, unit: str) -> None:
    path = tmp_path / "height.tif"
    tifffile.imwrite(path, Z, imagej=True, resolution=(20.0, 20.0), metadata={"unit": unit})
    assert read_height(path).pixel_size == pytest.approx(50e-9)
    tifffile.imwrite(path, Z, imagej=True, resolution=(20.0, 20.0), metadata={"unit": "pixel"})
    with pytest.raises(InputError, match="give a pixel size"):
        read_height(path)


@pytest.mark.parametrize("letter", [b"\xb5", "µ".encode(), "\u03bc".encode()])
def test_imagej_may_write_micro_as_it_is(tmp_path: Path, letter: bytes) -> None:
    path = tmp_path / "height.tif"
    told = b"ImageJ=1.54f\nunit=" + letter + b"m\n"
    tifffile.imwrite(path, Z, description=told, metadata=None, resolution=(20.0, 20.0), resolutionunit="NONE")
    assert read_height(path).pixel_size == pytest.approx(50e-9)


def test_pixels_that_are_not_square_are_refused_unless_a_size_is_given(tmp_path: Path) -> None:
    size = {"PhysicalSizeX": 25.0, "PhysicalSizeXUnit": "nm", "PhysicalSizeY": 0.05, "PhysicalSizeYUnit": "µm"}
    tifffile.imwrite(tmp_path / "ome.ome.tif", Z, metadata={"axes": "YX", **size})
    tifffile.imwrite(tmp_path / "tags.tif", Z, resolution=(4e5, 2e5), resolutionunit="CENTIMETER")
    tifffile.imwrite(tmp_path / "imagej.tif", Z, imagej=True, resolution=(40.0, 20.0), metadata={"unit": "um"})
    for name in ("ome.ome.tif", "tags.tif", "imagej.tif"):
        with pytest.raises(InputError, match="square pixels; got 25 nm by 50 nm"):
            read_height(tmp_path / name)
        assert read_height(tmp_path / name, 30e-9).pixel_size == 30e-9


def test_broken_metadata_are_refused_unless_a_size_is_given(tmp_path: Path) -> None:
    path = tmp_path / "broken.tif"
    tifffile.imwrite(path, Z, description="<OME><Image></OME>", metadata=None)
    with pytest.raises(InputError, match="OME metadata cannot be read"):
        read_height(path)
    assert read_height(path, 30e-9).pixel_size == 30e-9
    bad = '<OME><Image><Pixels PhysicalSizeX="3" PhysicalSizeXUnit="pixel"/></Image></OME>'
    tifffile.imwrite(path, Z, description=bad, metadata=None)
    with pytest.raises(InputError, match="does not say its pixel size"):
        read_height(path)


def test_the_thickness_of_a_layer(tmp_path: Path) -> None:
    height, path = tmp_path / "height.tif", tmp_path / "oxide.tif"
    tifffile.imwrite(height, Z)
    tifffile.imwrite(path, np.abs(Z))
    np.testing.assert_allclose(read_thickness(path, height), np.abs(Z.astype(float)) * 1e-9)
    np.testing.assert_allclose(read_thickness(path, height, 4), np.abs(Z[2:6, 1:5].astype(float)) * 1e-9)
    tifffile.imwrite(path, Z)
    with pytest.raises(InputError, match="0 nm or more"):
        read_thickness(path, height)
    tifffile.imwrite(path, np.abs(Z[1:]))
    with pytest.raises(InputError, match=r"expected 7 × 9 pixels.*got 7 × 8 pixels"):
        read_thickness(path, height)
    for name, words in (("none.tif", "no map of thickness"), ("oxide.csv", "as TIFF")):
        (tmp_path / "oxide.csv").write_text("1")
        with pytest.raises(InputError, match=words):
            read_thickness(tmp_path / name, height)


def test_a_real_afm_map() -> None:
    folder = os.environ.get("RILIEVO_SAMPLES")
    if not folder:
        pytest.skip("RILIEVO_SAMPLES does not name the folder of sample data")
    height = read_height(Path(folder) / "afm_500nm.di")
    assert height.shape == (512, 512)
    assert height.pixel_size == pytest.approx(500e-9 / 512)
    assert height.z.std() == pytest.approx(9.946e-9, rel=1e-3)
