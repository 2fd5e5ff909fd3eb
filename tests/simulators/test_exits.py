from __future__ import annotations

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivers.errors import InputError
from drivers.geometry import annular
from drivers.sample import HeightMap
from drivers.units import KEV
from simulators.exits import RECORD, ExitFile, directions, energies, quantise, write_exits
from simulators.materials import material
from simulators.scanning import tally_frame
from simulators.scene import Beam, Surface

BEAM = Beam(5 * KEV)


@pytest.fixture
def surface() -> Surface:
    z = np.random.default_rng(0).normal(size=(12, 10)) * 40e-9
    layer = (z > 0).astype(np.uint8)
    return Surface(HeightMap(z, 50e-9), material("Cu"), (material("Cu2O"),), layer, layer * 30e-9)


@given(st.integers(0, 2**32 - 1))
def test_directions_and_energies_survive_five_bytes(seed: int) -> None:
    rng = np.random.default_rng(seed)
    flight = rng.normal(size=(100, 3))
    flight[:10, 2] = np.abs(flight[:10, 2]) * 1e-3  # grazing
    flight /= np.linalg.norm(flight, axis=1)[:, None]
    flight[np.abs(flight[:, 2] + 1) < 1e-6] = (0.0, 0.0, 1.0)
    kev = rng.uniform(0.05, 20, 100)
    records = quantise(np.column_stack([flight, kev]).astype(np.float32), 20.0)
    assert records.dtype == RECORD
    assert records.itemsize == 5
    back = directions(records)
    assert np.abs(np.linalg.norm(back, axis=1) - 1).max() < 1e-9
    upward = flight[:, 2] > -0.5
    assert np.abs(back - flight)[upward].max() < 2e-4
    assert np.abs(energies(records, 20.0) - kev).max() <= 20 / 512 + 1e-5


def test_any_detector_can_be_projected_from_a_file(surface: Surface, tmp_path: Path) -> None:
    path = tmp_path / "frame.exits"
    told: list[float] = []
    total = write_exits(path, surface, BEAM, 60, 3, progress=told.append)
    assert told[-1] == 1.0
    three = annular(3, 1e-3, 9e-3, 6e-3, threshold=1.5 * KEV)
    truth = tally_frame(surface, BEAM, three, 60, 3)
    signals, found = np.zeros((3, 120)), np.zeros(120, dtype=int)
    with ExitFile(path) as file:
        assert file.header["materials"] == ["Cu", "Cu2O"]
        np.testing.assert_allclose(file.array("height"), surface.height.z, atol=1e-14)
        np.testing.assert_array_equal(file.array("layer"), surface.layer)
        for chunk in file.chunks():
            pixels = chunk.pixels()
            np.add.at(found, pixels, 1)
            segment = three.segment_of(np.zeros((len(pixels), 2)), directions(chunk.records))
            response = np.maximum(energies(chunk.records, file.energy) - 1.5, 0)
            for index in range(3):
                np.add.at(signals[index], pixels[segment == index], response[segment == index])
    assert found.sum() == total
    np.testing.assert_array_equal(found, truth.backscattered.ravel())
    np.testing.assert_allclose(signals.sum(axis=1), truth.signals.sum(axis=(1, 2)), rtol=3e-3)
    assert path.stat().st_size / 120 < 0.2 * 1024


def test_the_same_electrons_give_the_same_file(surface: Surface, tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_exits(tmp_path / name, surface, BEAM, 20, 4)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_plain_reader_needs_numpy_alone(surface: Surface, tmp_path: Path) -> None:
    write_exits(tmp_path / "f.exits", surface, BEAM, 20, 4)
    with zipfile.ZipFile(tmp_path / "f.exits") as archive:
        header = json.loads(archive.read("header.json"))
        assert header["beam_energy"] == {"value": pytest.approx(5.0), "unit": "keV"}
        with archive.open("exits/00000000.npy") as stream:
            records = np.lib.format.read_array(stream, allow_pickle=False)
    assert records.dtype == RECORD


def test_what_is_no_exit_file_is_refused(surface: Surface, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no exit file"):
        ExitFile(tmp_path / "none")
    (tmp_path / "text").write_text("electrons")
    with pytest.raises(InputError, match="not an exit file"):
        ExitFile(tmp_path / "text")
    with zipfile.ZipFile(tmp_path / "old", "w") as archive:
        archive.writestr("header.json", json.dumps({"format": "rilievo exits", "version": 0}))
    with pytest.raises(InputError, match="version 0; expected"):
        ExitFile(tmp_path / "old")
    for index, content in enumerate(("[1, 2]", "3", '"text"', '{"format": "rilievo exits", "version": 1}')):
        with zipfile.ZipFile(tmp_path / f"header{index}", "w") as archive:
            archive.writestr("header.json", content)
        with pytest.raises(InputError, match="its header"):
            ExitFile(tmp_path / f"header{index}")
    write_exits(tmp_path / "cut", surface, BEAM, 20, 4)
    (tmp_path / "cut").write_bytes((tmp_path / "cut").read_bytes()[:2000])
    with pytest.raises(InputError, match="not an exit file"):
        ExitFile(tmp_path / "cut")


def test_damage_within_is_told(surface: Surface, tmp_path: Path) -> None:
    path = tmp_path / "f.exits"
    write_exits(path, surface, BEAM, 20, 4)
    with zipfile.ZipFile(path) as archive:
        member = archive.getinfo("exits/00000000.npy")
    content = bytearray(path.read_bytes())
    start = member.header_offset + 60
    content[start : start + 40] = bytes(40)
    path.write_bytes(bytes(content))
    with ExitFile(path) as file, pytest.raises(InputError, match="cannot be read"):
        list(file.chunks())
