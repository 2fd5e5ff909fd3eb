from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from drivers.errors import InputError
from drivers.geometry import annular
from drivers.sample import HeightMap
from drivers.units import KEV
from simulators.materials import material
from simulators.scanning import tally_frame
from simulators.scattering import PHYSICS_VERSION
from simulators.scene import Beam, Stage, Surface
from simulators.truth import Exposure, TruthCache, default_folder, read_tally, standard_error


@pytest.fixture
def exposure() -> Exposure:
    z = np.random.default_rng(0).normal(size=(6, 6)) * 30e-9
    detector = annular(4, 2e-3, 8e-3, 8e-3, threshold=KEV)
    return Exposure(Surface(HeightMap(z, 50e-9), material("Cu")), Beam(5 * KEV), detector, 40, 1)


def test_an_interrupted_frame_goes_on_to_the_same_end(exposure: Exposure, tmp_path: Path) -> None:
    cache = TruthCache(tmp_path, portion=360)

    def interrupt(share: float) -> None:
        if share > 0.6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cache.frame(exposure, interrupt)
    assert [path.suffixes for path in tmp_path.iterdir()] == [[".part", ".npz"]]
    told: list[float] = []
    found = cache.frame(exposure, told.append)
    assert told[0] > 0.4  # it did not begin anew
    expected = tally_frame(exposure.surface, exposure.beam, exposure.detector, 40, 1)
    for name in ("counts", "signals", "squares", "backscattered", "absorbed", "energy"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
    again = cache.frame(exposure)
    np.testing.assert_array_equal(again.signals, expected.signals)
    assert again.electrons == 40
    assert [path.name for path in tmp_path.iterdir()] == [cache.path(exposure).name]
    assert 0 < standard_error(again) < 1


def test_the_key_holds_all_that_matters(exposure: Exposure) -> None:
    z = exposure.surface.height.z.copy()
    z[0, 0] += 1e-12
    others = [
        replace(exposure, seed=2),
        replace(exposure, electrons=41),
        replace(exposure, beam=Beam(6 * KEV)),
        replace(exposure, stage=Stage(0.1)),
        replace(exposure, law="rutherford"),
        replace(exposure, detector=exposure.detector.at(9e-3)),
        replace(exposure, surface=Surface(HeightMap(z, 50e-9), material("Cu"))),
        replace(exposure, surface=Surface(exposure.surface.height, material("Cu2O"))),
        replace(exposure, surface=Surface(exposure.surface.height, material("Cu"), border="periodic")),
    ]
    keys = {each.key() for each in [exposure, *others]}
    assert len(keys) == 10
    assert replace(exposure).key() == exposure.key()


def test_files_of_another_version_are_refused(
    exposure: Exposure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = TruthCache(tmp_path)
    cache.frame(exposure)
    path = cache.path(exposure)
    monkeypatch.setattr("simulators.truth.PHYSICS_VERSION", "2")
    with pytest.raises(InputError, match="physics version 1; this program has format 1 and physics version 2"):
        read_tally(path)
    path.write_bytes(b"damaged")
    with pytest.raises(InputError, match="remove it"):
        read_tally(path)


def test_damaged_files_name_themselves_and_the_remedy(exposure: Exposure, tmp_path: Path) -> None:
    cache = TruthCache(tmp_path)
    cache.frame(exposure)
    path = cache.path(exposure)
    whole = path.read_bytes()
    damaged = [whole[: len(whole) * part // 8] for part in range(8)]
    for place in range(10, len(whole), 97):
        changed = bytearray(whole)
        changed[place] ^= 0x55
        damaged.append(bytes(changed))
    refused = 0
    for content in damaged:
        path.write_bytes(content)
        try:
            read_tally(path)  # a byte that means nothing may have changed
        except InputError as error:
            refused += 1
            assert str(path) in str(error)
            assert "remove" in str(error)
    assert refused > 0.8 * len(damaged)


def test_an_unfinished_frame_that_does_not_fit_names_itself(exposure: Exposure, tmp_path: Path) -> None:
    cache = TruthCache(tmp_path)
    part = cache.path(exposure).with_suffix(".part.npz")
    for content in (b"", b"damaged", b"PK\x03\x04" + bytes(100)):
        part.write_bytes(content)
        with pytest.raises(InputError, match="remove") as error:
            cache.frame(exposure)
        assert str(part) in str(error.value)
    np.savez(part, format=np.array(1), physics=np.array(PHYSICS_VERSION), states=np.zeros(3))
    with pytest.raises(InputError, match="remove") as error:
        cache.frame(exposure)
    assert str(part) in str(error.value)


def test_the_cache_lies_where_the_environment_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RILIEVO_TRUTH", str(tmp_path))
    assert default_folder() == tmp_path
    monkeypatch.delenv("RILIEVO_TRUTH")
    assert default_folder().name == "truth"
