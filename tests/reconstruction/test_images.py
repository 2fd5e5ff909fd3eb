"""Segment images from files of every kind, good and bad."""

import os
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from drivers.errors import ImageError
from drivers.units import KEV
from reconstruction.images import bar_height, read_image, read_images


def noise(shape=(64, 80), seed=0, level=20_000):
    return np.random.default_rng(seed).normal(level, 600, shape).astype(np.uint16)


@pytest.fixture
def save(tmp_path):
    def write(name, pixels, **options):
        path = tmp_path / name
        tifffile.imwrite(path, pixels, **options)
        return path

    return write


def samples():
    folder = os.environ.get("RILIEVO_SAMPLES")
    if folder is None:
        pytest.skip("RILIEVO_SAMPLES names no folder with real images")
    return [Path(folder) / f"vickers_bse_{letter}.tif" for letter in "ABC"]


def test_fei_files_tell_everything():
    images = read_images(samples())
    said = images[0].metadata
    assert said.source == "FEI"
    assert images[0].counts.shape == (1024, 1536)
    assert said.pixel_size == pytest.approx(65.1042e-9)
    assert said.beam_energy == pytest.approx(7 * KEV)
    assert said.working_distance == pytest.approx(5.01145e-3)
    assert said.probe_current == pytest.approx(0.5248e-9)
    assert said.dwell_time == pytest.approx(20e-6)
    assert [image.metadata.segment for image in images] == ["A", "B", "C"]


def test_a_data_bar_is_found_without_metadata():
    assert bar_height(tifffile.imread(samples()[0])) == 79


def test_an_even_scene_is_no_data_bar():
    pixels = noise((100, 80))
    assert bar_height(pixels) == 0
    pixels[70:] = 0
    assert bar_height(pixels) == 0
    pixels = noise((200, 80))
    pixels[-12:] = 900
    assert bar_height(pixels) == 12


def test_pixel_sizes_of_imagej_ome_and_tags(save):
    pixels = noise()
    imagej = save("imagej.tif", pixels, imagej=True, resolution=(50, 50), metadata={"unit": "um"})
    ome = save("a.ome.tif", pixels, metadata={"PhysicalSizeX": 20, "PhysicalSizeXUnit": "nm"})
    tags = save("tags.tif", pixels, resolution=(500_000, 500_000), resolutionunit="CENTIMETER")
    for path in (imagej, ome, tags):
        assert read_image(path).metadata.pixel_size == pytest.approx(20e-9), path.name


def test_dots_per_inch_of_a_drawing_program_are_no_pixel_size(save):
    path = save("drawn.tif", noise(), resolution=(300, 300), resolutionunit="INCH")
    assert read_image(path).metadata.pixel_size is None


def test_zeiss_files_tell_their_settings(save):
    header = "\r\n".join(
        [
            "0\r\n" * 3 + "AP_IMAGE_PIXEL_SIZE\r\nImage Pixel Size = 25.00 nm",
            "AP_ACTUALKV\r\nEHT = 5.00 kV",
            "AP_WD\r\nWD = 7.5 mm",
            "AP_IPROBE\r\nI Probe = 250 pA",
            "",
        ]
    )
    path = save("zeiss.tif", noise(), extratags=[(34118, 2, 0, header, True)])
    said = read_image(path).metadata
    assert said.source == "Zeiss"
    assert said.pixel_size == pytest.approx(25e-9)
    assert said.beam_energy == pytest.approx(5 * KEV)
    assert said.working_distance == pytest.approx(7.5e-3)
    assert said.probe_current == pytest.approx(250e-12)


def test_eight_bits_are_spread(save):
    pixels = (noise() // 257).astype(np.uint8)
    image = read_image(save("eight.tif", pixels))
    np.testing.assert_array_equal(image.counts, pixels.astype(np.uint16) * 257)
    assert image.saturation == 65535


def test_grey_rgb_is_taken_and_colour_refused(save):
    grey = np.repeat((noise() // 257).astype(np.uint8)[..., None], 3, axis=2)
    assert read_image(save("grey.tif", grey, photometric="rgb")).counts.shape == (64, 80)
    grey[5, 5, 0] += 9
    with pytest.raises(ImageError, match="coloured"):
        read_image(save("colour.tif", grey, photometric="rgb"))


@pytest.mark.parametrize(
    ("pixels", "reason"),
    [
        (np.zeros((64, 64), np.uint16), "all black"),
        (np.full((64, 64), 65535, np.uint16), "one grey value"),
        (np.where(np.arange(4096).reshape(64, 64) % 2, 65535, noise((64, 64))).astype(np.uint16), "50% .* saturated"),
        (np.where(np.arange(4096).reshape(64, 64) % 2, 0, noise((64, 64))).astype(np.uint16), "50% .* at zero"),
        (np.full((64, 64), np.nan, np.float32), "finite"),
        (np.random.default_rng(0).normal(size=(64, 64)), "8 or 16 bits"),
        (noise((4, 4)), "16 × 16"),
        (noise((5, 64, 64)), "16 × 16"),
    ],
)
def test_images_that_cannot_be_used_say_why_and_which(save, pixels, reason):
    path = save("bad.tif", pixels, photometric="minisblack")
    if pixels.ndim == 3:
        # Several pages: the first is read, and is no single image once it is stored as a volume.
        path = save("bad.tif", pixels, photometric="minisblack", planarconfig="separate")
    with pytest.raises(ImageError, match=reason) as caught:
        read_image(path)
    assert caught.value.where == str(path)


def test_what_is_not_a_tiff_is_refused_without_noise(tmp_path, caplog, capfd):
    paths = {name: tmp_path / name for name in ("missing.tif", "text.tif", "empty.tif", "folder.tif")}
    paths["text.tif"].write_text("steps:\n  - hold: 5 min\n")
    paths["empty.tif"].touch()
    paths["folder.tif"].mkdir()
    for path in paths.values():
        with pytest.raises(ImageError) as caught:
            read_image(path)
        assert caught.value.where == str(path)
    assert not caplog.records
    assert capfd.readouterr().err == ""


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(share=st.floats(0.0, 0.99), compressed=st.booleans())
def test_truncated_files_are_refused_or_read_whole(tmp_path, share, compressed):
    path = tmp_path / "whole.tif"
    tifffile.imwrite(path, noise(), compression="zlib" if compressed else None)
    content = path.read_bytes()
    cut = tmp_path / "cut.tif"
    cut.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(ImageError) as caught:
        read_image(cut)
    assert caught.value.where == str(cut)


def test_images_of_one_exposure_belong_together(save):
    first = save("a.tif", noise(), resolution=(500_000, 500_000), resolutionunit="CENTIMETER")
    smaller = save("b.tif", noise((64, 70)))
    nearer = save("c.tif", noise(), resolution=(250_000, 250_000), resolutionunit="CENTIMETER")
    with pytest.raises(ImageError, match=r"80 × 64 pixels as in a\.tif; got 70 × 64") as caught:
        read_images([first, smaller])
    assert caught.value.where == str(smaller)
    with pytest.raises(ImageError, match="20 nm; got 40 nm"):
        read_images([first, nearer])
