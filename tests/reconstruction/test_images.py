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
        (np.full((64, 64), 65535, np.uint16), "100% .* saturated"),
        (np.full((64, 64), 700, np.uint16), "one grey value"),
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


@pytest.mark.parametrize(("dtype", "full"), [(np.uint8, 255), (np.uint16, 65535)])
def test_zero_as_white_is_turned_round(save, dtype, full):
    pixels = (noise() // 257).astype(dtype)
    plain = read_image(save("plain.tif", pixels, photometric="minisblack"))
    turned = read_image(save("turned.tif", (full - pixels).astype(dtype), photometric="miniswhite"))
    np.testing.assert_array_equal(turned.counts, plain.counts)
    assert any("white" in note for note in turned.notes)
    with pytest.raises(ImageError, match="zero as white in float32"):
        read_image(save("float.tif", pixels.astype(np.float32), photometric="miniswhite"))


def test_a_palette_is_refused_unless_it_is_grey(save):
    pixels = (noise() // 257).astype(np.uint8)
    ramp = np.repeat((np.arange(256) * 257).astype(np.uint16)[None], 3, axis=0)
    grey = read_image(save("grey.tif", pixels, photometric="palette", colormap=ramp))
    np.testing.assert_array_equal(grey.counts, pixels.astype(np.uint16) * 257)
    for colours in (ramp[:, ::-1], ramp * np.array([[1], [0], [1]], np.uint16)):
        with pytest.raises(ImageError, match="palette"):
            read_image(save("coloured.tif", pixels, photometric="palette", colormap=colours))


def test_floats_keep_one_scale_over_all_segments(save):
    rng = np.random.default_rng(3)
    signals = [rng.gamma(4, level, (64, 64)).astype(np.float32) for level in (1.0, 2.0, 3.5)]
    signals[0][:40] = 0
    images = read_images([save(f"{index}.tif", each) for index, each in enumerate(signals)])
    factor = 65000 / max(each.max() for each in signals)
    for image, signal in zip(images, signals, strict=True):
        np.testing.assert_allclose(image.counts, signal * factor, atol=0.51)
        assert image.counts.max() < image.saturation
        assert any("the same for all segments" in note for note in image.notes)
    with pytest.raises(ImageError, match="share one scale"):
        read_images([save("float.tif", signals[0]), save("whole.tif", noise((64, 64))), save("b.tif", signals[1])])


@pytest.mark.parametrize("bad", [np.zeros((64, 80), np.uint16), np.full((64, 80), 65535, np.uint16)])
def test_one_bad_image_of_four_is_kept_and_said(save, bad):
    paths = [save(f"{index}.tif", noise(seed=index)) for index in range(3)] + [save("bad.tif", bad)]
    images = read_images(paths)
    assert [image.defect is None for image in images] == [True, True, True, False]
    with pytest.raises(ImageError, match="three good images are needed, 2 are") as caught:
        read_images(paths[1:])
    assert caught.value.where == str(paths[-1])


def test_a_data_bar_is_cut_alike_and_quiet_images_keep_their_rows(save):
    barred = []
    for index in range(3):
        pixels = noise((200, 80), seed=index)
        pixels[-12:] = 900
        barred.append(pixels)
    barred[2][-3:, ::2] = np.arange(40) * 91  # text that hides the bar in one image
    images = read_images([save(f"{index}.tif", pixels) for index, pixels in enumerate(barred)])
    assert {image.counts.shape for image in images} == {(188, 80)}
    quiet = np.rint(np.random.default_rng(0).normal(90, 6, (200, 80))).astype(np.uint8)
    quiet[170:] = np.rint(np.random.default_rng(1).normal(90, 0.7, (30, 80)))
    assert bar_height(quiet.astype(np.uint16) * 257) == 0


@pytest.mark.parametrize("unit", ["\\u00B5m", "\\u00b5m", "microns"])
def test_micrometres_of_fiji(save, unit):
    text = f"ImageJ=1.54f\nunit={unit}\n"
    said = read_image(save("fiji.tif", noise(), resolution=(50, 50), description=text, metadata=None)).metadata
    assert said.source == "ImageJ"
    assert said.pixel_size == pytest.approx(20e-9)


def test_pixels_that_are_not_square_are_refused(save):
    tags = save("tags.tif", noise(), resolution=(500_000, 400_000), resolutionunit="CENTIMETER")
    ome = save("a.ome.tif", noise(), metadata={"PhysicalSizeX": 0.02, "PhysicalSizeY": 0.025})
    for path in (tags, ome):
        with pytest.raises(ImageError, match="20 nm × 25 nm"):
            read_image(path)
    nearly = save("nearly.tif", noise(), resolution=(500_000, 497_000), resolutionunit="CENTIMETER")
    assert read_image(nearly).metadata.pixel_size == pytest.approx(20e-9)


def test_fei_rotation_tilt_and_correction_are_said(save):
    header = "[EBeam]\r\nHV=5000\r\nScanRotation=1.5708\r\nTiltCorrectionIsOn=yes\r\n[Scan]\r\nPixelWidth=2e-8\r\n"
    header += "PixelHeight=2e-8\r\n[Stage]\r\nStageT=0.35\r\n"
    notes = " ".join(read_image(save("fei.tif", noise(), extratags=[(34682, 2, 0, header, True)])).notes)
    for said in ("ROTATED BY 90°", "TILTED BY 20.1°", "TILT CORRECTION WAS ON"):
        assert said in notes
    still = header.replace("1.5708", "0").replace("yes", "no").replace("0.35", "3.9e-6")
    assert read_image(save("still.tif", noise(), extratags=[(34682, 2, 0, still, True)])).notes == ()


def test_zeiss_rotation_and_tilt_are_said(save):
    lines = ["AP_STAGE_AT_T\r\nStage at T = 12.0 °", "AP_SCANROTATION\r\nScan Rotation = 30.0 °"]
    lines += ["DP_SCAN_ROT\r\nScan Rot = On", "DP_TILT_CORRECTION\r\nTilt Corrn. = On"]

    def notes(text):
        header = ("0\r\n" * 3 + text + "\r\n").encode("cp1252")
        return " ".join(read_image(save("zeiss.tif", noise(), extratags=[(34118, 2, 0, header, True)])).notes)

    said = notes("\r\n".join(lines))
    for part in ("ROTATED BY 30°", "TILTED BY 12°", "TILT CORRECTION WAS ON"):
        assert part in said
    assert notes("\r\n".join(lines).replace("On", "Off").replace("12.0", "0.0")) == ""


def test_a_compression_that_cannot_be_read_is_named(save):
    path = save("lzw.tif", noise(), compression="zlib")
    with tifffile.TiffFile(path, mode="r+b") as tiff:
        tiff.pages[0].tags["Compression"].overwrite(5)
    with pytest.raises(
        ImageError, match="compressed with LZW; save it without compression, or pip install imagecodecs"
    ):
        read_image(path)


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
