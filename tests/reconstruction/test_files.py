"""From files to files, on real images where there are any and on closed-form ones."""

import dataclasses
import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
import tifffile

from drivers.errors import ImageError, InputError, StoreError
from drivers.geometry import annular
from drivers.sample import HeightMap
from drivers.units import KEV
from reconstruction.azimuths import estimate_azimuths
from reconstruction.emission import threshold_note
from reconstruction.files import reconstruct_files, refuse_target, write_results
from reconstruction.heights_file import read_heights, write_heights

SEGMENTS = annular(3, 2e-3, 8e-3, 5e-3, first_azimuth=np.radians(25))


@pytest.fixture(scope="module")
def samples():
    folder = os.environ.get("RILIEVO_SAMPLES")
    if folder is None:
        pytest.skip("RILIEVO_SAMPLES names no folder with real images")
    return [Path(folder) / f"vickers_bse_{letter}.tif" for letter in "ABC"]


@pytest.fixture(scope="module")
def indent(samples):
    return reconstruct_files(samples)


@pytest.fixture(scope="module")
def bumps(expose):
    """Pyramids turned by 30°, with the flat field that the place of the pixels makes."""
    rows, columns = np.mgrid[0:240, 0:320].astype(float)
    x, y = columns - 160, 120 - rows
    east, north = x * np.cos(0.5) + y * np.sin(0.5), y * np.cos(0.5) - x * np.sin(0.5)
    a, b = (east + 40) % 80 - 40, (north + 40) % 80 - 40
    steep = np.where(np.maximum(abs(a), abs(b)) < 20, 0.3, 0.0)
    on_a = abs(a) >= abs(b)
    along, up = -np.sign(a) * steep * on_a, -np.sign(b) * steep * ~on_a
    p, q = along * np.cos(0.5) - up * np.sin(0.5), along * np.sin(0.5) + up * np.cos(0.5)
    frame = expose(p, q, geometry=SEGMENTS, electrons=30_000)
    counts = frame.counts.astype(float)
    for index, azimuth in enumerate(SEGMENTS.azimuths):
        counts[index] *= 1 + 3e-4 * (x * np.cos(azimuth) + y * np.sin(azimuth))
    return counts.astype(np.uint16)


@pytest.fixture
def paths(bumps, tmp_path):
    made = []
    for name, counts in zip("abc", bumps, strict=True):
        made.append(tmp_path / f"{name}.tif")
        tifffile.imwrite(made[-1], counts)
    return made


def test_the_indent_is_a_pit_of_about_the_right_depth(indent):
    z = np.asarray(indent.z)
    assert z.shape == (1024, 1536)
    row, column = np.unravel_index(z.argmin(), z.shape)
    assert abs(row - 513) < 15
    assert abs(column - 770) < 15
    # 18.6 µm of diagonal over seven, without any fitted scale.
    assert -z.min() == pytest.approx(2.6e-6, rel=0.25)


def test_the_segments_of_the_indent_are_found(indent):
    azimuths = np.degrees(indent.frame.geometry.azimuths)
    np.testing.assert_allclose(azimuths, [210, 90, 330], atol=3)
    assert any("ESTIMATED" in sentence for sentence in indent.assumptions)
    assert any("SCALE IS NOT WELL KNOWN" in sentence for sentence in indent.assumptions)


def test_results_of_the_indent_are_written_together(indent, tmp_path):
    written = write_results(tmp_path / "indent.tif", indent)
    assert [path.suffix for path in written] == [".tif", ".json", ".png"]
    said = json.loads(written[1].read_text(encoding="utf-8"))
    assert said["provenance"]["read"]["beam_energy"] == "7 keV (FEI)"
    assert said["figures"]["roughness"]["unit"] == "nm"
    assert written[2].read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
def test_azimuths_are_found_in_any_order(bumps, order):
    found = np.degrees(estimate_azimuths(bumps[list(order)]).azimuths)
    wanted = np.degrees(SEGMENTS.azimuths)[list(order)]
    np.testing.assert_allclose((found - wanted + 180) % 360 - 180, 0, atol=2)


def test_flat_images_tell_no_azimuths():
    counts = np.random.default_rng(0).normal(20_000, 300, (3, 128, 128)).astype(np.uint16)
    with pytest.raises(ImageError, match="--detector"):
        estimate_azimuths(counts)


def test_a_given_detector_is_taken_as_it_is(paths):
    result = reconstruct_files(paths, detector=SEGMENTS, pixel_size=20e-9, material="Cu", quality="preview")
    assert result.frame.geometry is SEGMENTS
    assert not any("ESTIMATED from" in sentence for sentence in result.assumptions)
    assert result.provenance.given["pixel_size"] == "20 nm"
    assert result.provenance.assumed["beam_energy"] == "10 keV"


def test_a_high_threshold_of_the_diode_is_said(paths):
    high = dataclasses.replace(SEGMENTS, threshold=3 * KEV)
    for energy, said in ((5 * KEV, "60% OF THE BEAM ENERGY.* about 0.84 of"), (20 * KEV, None)):
        result = reconstruct_files(
            paths, detector=high, pixel_size=20e-9, beam_energy=energy, material="Cu", quality="preview"
        )
        found = [sentence for sentence in result.assumptions if "THRESHOLD" in sentence]
        assert len(found) == (said is not None)
        assert said is None or re.search(said, found[0])
    assert "less than 0.68" in threshold_note(0.9, 1.0)
    assert "no backscattered electron" in threshold_note(1.0, 1.0)


def test_estimated_and_given_azimuths_agree(paths):
    one = reconstruct_files(paths, detector=SEGMENTS, pixel_size=20e-9, material="Cu", quality="preview")
    other = reconstruct_files(paths, pixel_size=20e-9, material="Cu", quality="preview")
    assert np.corrcoef(np.ravel(one.p), np.ravel(other.p))[0, 1] > 0.9


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"paths": slice(0, 2)}, "three to six; got 2"),
        ({"pixel_size": None}, "--pixel-size"),
        ({"detector": annular(4, 2e-3, 8e-3, 8e-3)}, "4 segments .* got 3"),
        ({"twice": True}, "given twice"),
    ],
)
def test_what_is_missing_is_said(paths, change, reason):
    chosen = paths[change.get("paths", slice(None))]
    if change.get("twice"):
        chosen = [paths[0], paths[0], paths[1]]
    with pytest.raises(ImageError, match=reason):
        reconstruct_files(chosen, pixel_size=change.get("pixel_size", 20e-9), detector=change.get("detector"))


def middle_of(expose, depth, save):
    """Height of the middle of a pyramid over its ground, by files that ``save`` makes of the signals."""
    rows, columns = np.mgrid[0:96, 0:96] - 47.5
    steep = np.where(np.maximum(abs(rows), abs(columns)) < 24, 0.4 * depth, 0.0)
    east = abs(columns) >= abs(rows)
    frame = expose(-np.sign(columns) * steep * east, np.sign(rows) * steep * ~east, offset=0.0)
    result = reconstruct_files(
        save(frame.counts), detector=frame.geometry, pixel_size=20e-9, material="Cu", quality="preview"
    )
    return float(result.z[48, 48] - result.z[4, 4]), result


@pytest.mark.parametrize("depth", [1.0, -1.0])
def test_floats_and_zero_as_white_give_pits_as_pits(expose, tmp_path, depth):
    def write(change, **options):
        def save(counts):
            made = [tmp_path / f"{index}.tif" for index in range(len(counts))]
            for path, each in zip(made, counts, strict=True):
                tifffile.imwrite(path, change(each), **options)
            return made

        return save

    for save, said in (
        (write(lambda counts: counts.astype(np.float32) * 0.013), "all images: float32 scaled to counts"),
        (write(lambda counts: 65535 - counts, photometric="miniswhite"), "all images: zero is stored as white"),
    ):
        middle, result = middle_of(expose, depth, save)
        assert middle * depth > 0
        assert any(sentence.startswith(said) for sentence in result.assumptions)


def test_a_dead_file_of_four_is_left_out(expose, tmp_path):
    for bad in (0, 65535):

        def save(counts, bad=bad):
            made = [tmp_path / f"{index}.tif" for index in range(4)]
            for path, each in zip(made, [*counts[:3], np.full_like(counts[3], bad)], strict=True):
                tifffile.imwrite(path, each)
            return made

        middle, result = middle_of(expose, 1.0, save)
        assert middle > 0
        assert result.segments[3].state == ("saturated" if bad else "dead")
        with pytest.raises(ImageError, match="only with all segments"):
            reconstruct_files([tmp_path / f"{index}.tif" for index in range(4)], pixel_size=20e-9)


def test_small_fields_tell_no_azimuths():
    counts = np.random.default_rng(0).normal(20_000, 300, (3, 47, 128)).astype(np.uint16)
    with pytest.raises(ImageError, match=r"48 × 48 pixels are needed .* 128 × 47.*--detector"):
        estimate_azimuths(counts)
    with pytest.raises(ImageError, match="cannot be told"):
        estimate_azimuths(np.random.default_rng(0).normal(20_000, 300, (3, 48, 48)).astype(np.uint16))


@pytest.mark.parametrize("name", ["z.png", "z.json", "z", "z.tif.gz"])
def test_heights_are_tiff_files(tmp_path, name):
    with pytest.raises(InputError, match="tif or") as caught:
        refuse_target(tmp_path / name, [])
    assert caught.value.where == "-o"


def test_nothing_read_is_overwritten(paths, tmp_path):
    result = reconstruct_files(paths, detector=SEGMENTS, pixel_size=20e-9)
    before = paths[1].read_bytes()
    (tmp_path / "link.tif").hardlink_to(paths[1])
    (tmp_path / "folder").mkdir()
    for target in (paths[1], tmp_path / "folder" / ".." / "b.tif", tmp_path / "link.tif"):
        with pytest.raises(InputError, match="would be overwritten"):
            write_results(target, result)
    for name in ("z.json", "z.png"):
        with pytest.raises(InputError, match=name):
            refuse_target(tmp_path / "z.TIFF", [tmp_path / name])
    assert paths[1].read_bytes() == before
    refuse_target(tmp_path / "z.tif", paths)


def test_heights_keep_their_size_and_unit(tmp_path):
    z = np.random.default_rng(0).normal(0, 40e-9, (48, 60))
    write_heights(tmp_path / "z.tif", HeightMap(z, 20e-9), np.full(z.shape, 2e-9), {"assumptions": ["none"]})
    with tifffile.TiffFile(tmp_path / "z.tif") as tiff:
        assert len(tiff.pages) == 2
        page = tiff.pages.first
        np.testing.assert_allclose(page.asarray(), z * 1e9, rtol=1e-6)
        assert page.dtype == np.float32
        # Pixels per centimetre, which ImageJ and Gwyddion read.
        numerator, denominator = page.tags["XResolution"].value
        assert numerator / denominator == pytest.approx(500_000)
        assert page.tags["ResolutionUnit"].value == 3
        assert json.loads(page.description)["unit"] == "nm"
    heights, sigma = read_heights(tmp_path / "z.tif")
    np.testing.assert_allclose(heights.z, z, atol=1e-14)
    assert heights.pixel_size == pytest.approx(20e-9)
    np.testing.assert_allclose(sigma, 2e-9, rtol=1e-6)


def test_a_file_that_cannot_be_written_leaves_nothing_behind(tmp_path):
    heights = HeightMap(np.zeros((16, 16)), 1e-9)
    with pytest.raises(StoreError, match="cannot be written"):
        write_heights(tmp_path / "nowhere" / "z.tif", heights, np.zeros((16, 16)))
    assert not list(tmp_path.iterdir())


def test_other_tiffs_are_no_heights(paths, tmp_path):
    (tmp_path / "text.tif").write_text("no")
    for path in (paths[0], tmp_path / "text.tif", tmp_path / "missing.tif"):
        with pytest.raises(ImageError):
            read_heights(path)
