from __future__ import annotations

import json
import math
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest

from drivers.errors import InputError
from drivers.sample import HeightMap
from drivers.units import KEV
from reconstruction.basis import emission_basis
from reconstruction.exit_file import read_exits
from simulators.exits import ExitFile, directions, write_exits
from simulators.materials import electron_range, material
from simulators.scene import Beam, Stage, Surface

BASIS = emission_basis()
ELECTRONS = 40
STAGE = Stage(math.radians(20), math.radians(30))


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    """Exits of a rough, layered, tilted surface of 6 × 9 pixels."""
    z = np.random.default_rng(0).normal(size=(6, 9)) * 40e-9
    layer = (z > 0).astype(np.uint8)
    surface = Surface(HeightMap(z, 50e-9), material("Cu"), (material("Cu2O"),), layer, layer * 30e-9)
    path = tmp_path_factory.mktemp("exits") / "surface.exits"
    write_exits(path, surface, Beam(5 * KEV), ELECTRONS, 3, STAGE)
    return path


@pytest.fixture
def copy(written, tmp_path) -> Path:
    return Path(shutil.copy(written, tmp_path / "copy.exits"))


def test_the_header_and_the_surface_are_read(written):
    exits = read_exits(written)
    assert exits.height.shape == exits.thickness.shape == (6, 9)
    assert exits.pixel_size == pytest.approx(50e-9)
    assert exits.electron_range == pytest.approx(electron_range(material("Cu"), 5 * KEV))
    assert exits.energy == pytest.approx(5.0)
    assert (exits.tilt, exits.azimuth) == pytest.approx((STAGE.tilt, STAGE.azimuth))
    assert exits.electrons == ELECTRONS
    assert exits.materials == ("Cu", "Cu2O")
    np.testing.assert_allclose(exits.thickness, np.where(exits.height > 0, 30e-9, 0), rtol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(exits.directions, axis=1), 1, atol=1e-9)
    assert (np.diff(exits.pixels) >= 0).all()
    assert 0 < exits.energies.min() < exits.energies.max() <= 1


def test_coefficients_are_the_sums_over_electrons(written):
    thresholds = (0.0, 0.3)
    found, variances = read_exits(written).coefficients(BASIS, thresholds)
    samples = np.zeros((2, len(BASIS), 54, ELECTRONS))  # of each beam electron; those that stay add nothing
    with ExitFile(written) as file:
        for chunk in file.chunks():
            place = np.zeros(54, dtype=int)
            energies = (chunk.records["energy"] + 0.5) / 256
            for pixel, direction, energy in zip(chunk.pixels(), directions(chunk.records), energies, strict=True):
                if direction[2] >= BASIS.lowest:
                    functions = np.array(BASIS(*direction))
                    for index, threshold in enumerate(thresholds):
                        samples[index, :, pixel, place[pixel]] = max(energy - threshold, 0) * functions
                    place[pixel] += 1
    assert found.shape == (2, len(BASIS), 6, 9)
    np.testing.assert_allclose(found.reshape(2, len(BASIS), 54), samples.mean(axis=3), atol=1e-6)
    # The variance of a mean of so many, from the scatter of the electrons themselves.
    np.testing.assert_allclose(variances, samples.var(axis=3, ddof=1).mean(axis=2) / ELECTRONS, rtol=1e-6)


def test_repeated_frames_scatter_as_the_variance_says(tmp_path):
    flat = Surface(HeightMap(np.zeros((60, 60)), 50e-9), material("Cu"))
    write_exits(tmp_path / "flat.exits", flat, Beam(5 * KEV), 10, 5)
    found, variances = read_exits(tmp_path / "flat.exits").coefficients(BASIS, (0.2,))
    scatter = found[0].reshape(len(BASIS), -1).astype(float).var(axis=1, ddof=1)
    # Of one coefficient the ratio is uncertain by √(2/3600) and more for the tails: 3 %; of the mean by 0.6 %.
    np.testing.assert_allclose(scatter / variances[0], 1, atol=0.15)
    assert np.mean(scatter / variances[0]) == pytest.approx(1, abs=0.02)


def refusal(path) -> str:
    with pytest.raises(InputError) as error:
        read_exits(path)
    assert str(path) in str(error.value)
    return str(error.value)


def rewritten(path: Path, change) -> Path:
    """The same archive with members changed: ``change(name, content)`` returns new content, or None to leave it out."""
    with zipfile.ZipFile(path) as archive:
        members = {name: change(name, archive.read(name)) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            if content is not None:
                archive.writestr(name, content)
    return path


def test_what_is_no_exit_file_is_refused(copy, tmp_path):
    assert "no exit file" in refusal(tmp_path / "none.exits")
    (tmp_path / "text.exits").write_text("electrons")
    assert "not an exit file" in refusal(tmp_path / "text.exits")
    assert "not an exit file" in refusal(tmp_path)  # a folder
    copy.write_bytes(copy.read_bytes()[:3000])
    assert "not an exit file, or is damaged" in refusal(copy)


@pytest.mark.parametrize("words", ['{"format": "rilievo exits", "version": 2}', '{"format": "other", "version": 1}'])
def test_other_versions_are_refused(copy, words):
    path = rewritten(copy, lambda name, content: words.encode() if name == "header.json" else content)
    told = refusal(path)
    assert "version 1; got" in told
    assert str(json.loads(words)["version"]) in told


@pytest.mark.parametrize("missing", ["header.json", "height.npy", "exits/00000000.npy", "counts/00000000.npy"])
def test_a_missing_member_is_refused(copy, missing):
    assert "damaged" in refusal(rewritten(copy, lambda name, content: None if name == missing else content))


@pytest.mark.parametrize("words", [b'{"format": "rilievo exits", "version": 1}', b"[1, 2]", b"3", b"not JSON"])
def test_a_header_that_says_nothing_is_refused(copy, words):
    assert "damaged" in refusal(rewritten(copy, lambda name, content: words if name == "header.json" else content))


def test_members_that_do_not_fit_are_refused(copy):
    from io import BytesIO

    def npy(array) -> bytes:
        buffer = BytesIO()
        np.save(buffer, array)
        return buffer.getvalue()

    few, plain = npy(np.full(54, 1, np.uint16)), npy(np.zeros(54))
    for name, content in (("counts/00000000.npy", few), ("exits/00000000.npy", plain), ("height.npy", plain[:-900])):
        path = shutil.copy(copy, copy.with_name("other.exits"))
        assert "damaged" in refusal(rewritten(path, lambda each, old, n=name, c=content: c if each == n else old))


def test_damage_within_is_refused(copy):
    with zipfile.ZipFile(copy) as archive:
        start = archive.getinfo("exits/00000000.npy").header_offset + 60
    content = bytearray(copy.read_bytes())
    content[start : start + 40] = bytes(40)
    copy.write_bytes(bytes(content))
    assert "damaged" in refusal(copy)
